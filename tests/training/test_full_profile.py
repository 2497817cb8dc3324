"""The full profile at its own size: 256×256, every channel, one step of Phase 2 on the CPU (with two images)."""

from pathlib import Path

import pytest
import torch

from vq_core.config import load_config
from vq_core.data.images import prepare_images
from vq_core.models import CodeTransformer
from vq_core.runs.loading import load_vqvae
from vq_core.training.phases import train

pytestmark = pytest.mark.slow


def test_one_step_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQ_DATA", str(tmp_path))
    smaller = ["data.source=avatars", "data.avatars=16", "train.batch_size=2", "train.val_images=2", "phase2.steps=1"]
    elsewhere = ["quantizer.init=normal", "phase2.start_from=scratch", "loss.perceptual_net=random"]
    now = ["loss.gan_start=0", "loss.gan_ramp=1", "train.device=cpu", "train.precision=32-true"]
    config = load_config("full", [*smaller, *elsewhere, *now])
    prepare_images(config, progress=False)
    run = train("phase2", config)
    (row,) = [row for row in run.history() if "train/disc" in row]
    assert row["step"] == 1 and row["train/gan_weight"] == pytest.approx(0.1)
    model = load_vqvae(run)
    x = torch.zeros(1, 3, 256, 256)
    assert model.encode(x).shape == (1, 16, 16) and model(x).shape == x.shape
    assert model.quantizer.codebook.shape == (1024, 256)


def test_prior_of_the_full_size() -> None:
    config = load_config("full")
    prior = config.prior
    model = CodeTransformer(config.model.num_codes, config.grid, prior.dim, prior.layers, prior.heads, prior.dropout)
    codes = torch.randint(1024, (2, 256))
    model(codes).logsumexp(-1).mean().backward()
    assert 5e6 < sum(p.numel() for p in model.parameters()) < 7e6
