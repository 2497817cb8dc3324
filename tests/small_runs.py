"""Trainings so small that they take a second: their settings and folders, for many tests."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from vq_core.config import Config, load_config
from vq_core.runs.folders import History, Run
from vq_core.training.callbacks import View

# 10 steps of 8 images cross two ends of an epoch (about 38 images) and two validations before the last;
# the GAN starts within Phase 2; codes are reset; the prior has dropout.
SETTINGS = (
    "train.device=cpu",
    "data.avatars=48",
    "data.image_size=32",
    "data.min_side=16",
    "model.channels=[8, 16]",
    "model.decoder_channels=[16, 8]",
    "model.latent_channels=8",
    "model.code_dim=8",
    "model.num_codes=16",
    "quantizer.decay=0.9",
    "quantizer.reset_every=3",
    "quantizer.reset_below=0.2",
    "kmeans.steps=4",
    "phase1.steps=10",
    "phase2.steps=10",
    "loss.gan_start=13",
    "loss.gan_ramp=4",
    "discriminator.channels=4",
    "discriminator.layers=1",
    "train.val_every=4",
    "train.save_every=3",
    "train.image_every=5",
    "train.log_every=2",
    "train.checkpoint_every=6",
    "prior.dim=16",
    "prior.layers=1",
    "prior.heads=2",
    "prior.dropout=0.2",
    "prior.steps=10",
    "prior.val_every=4",
)
NO_AUGMENTATION = ("data.flip=0", "data.brightness=0", "data.contrast=0", "data.saturation=0")
FROM_SCRATCH = ("quantizer.init=kaiming", "phase2.start_from=scratch")
VECTORS_PER_STEP = 8 * 8 * 8  # images × grid


def settings(*more: str) -> Config:
    return load_config("smoke", [*SETTINGS, *more])


def fresh_copy(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, without: str = "") -> Path:
    """A copy of a data folder, without the runs of one phase, which is the data folder from now on."""
    ignore = shutil.ignore_patterns(f"{without}-*", "avatars") if without else shutil.ignore_patterns("avatars")
    shutil.copytree(source, folder, ignore=ignore)
    monkeypatch.setenv("VQ_DATA", str(folder))
    return folder


def the_run(data: Path, phase: str) -> Run:
    (folder,) = (data / "runs").glob(f"{phase}-*")
    return Run(folder)


def view(callback: Callback) -> Callable[[Run, History], View]:
    """What the trainings take as their view: here one that adds a callback which meddles or looks on."""

    class Meddling(View):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            trainer.callbacks.append(callback)

    return Meddling
