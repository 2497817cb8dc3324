"""The priors in training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import settings, the_run

from vq_core.data.packed import load_packed
from vq_core.runs.loading import load_prior, load_vqvae
from vq_core.training.prior import PriorTraining, random_masks

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")


def in_training(story: Path, phase: Any) -> PriorTraining:
    """A prior's training module with the weights of its best checkpoint."""
    training = PriorTraining(settings(), phase)
    training.transformer.load_state_dict(load_prior(the_run(story, phase)).state_dict())
    return training.eval().requires_grad_(False)


@pytest.mark.slow
def test_the_prior_learns_the_codes_of_phase2(story: Path) -> None:
    run = the_run(story, "phase2")
    codes = np.load(run.folder / "codes.npy")
    images = np.load(next((story / "processed").glob("*/images.npy")))
    assert codes.dtype == np.uint16 and codes.shape == (len(images), 8, 8) and codes.max() < 16
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert np.array_equal(load_vqvae(run).encode(x).numpy(), codes)
    flipped = np.load(run.folder / "codes-flipped.npy")
    assert np.array_equal(load_vqvae(run).encode(x.flip(-1)).numpy(), flipped)
    sequences = torch.from_numpy(codes.astype(np.int64)).flatten(1)
    bits = in_training(story, "prior").bits(sequences)
    assert bits.shape == (len(images), 64)
    held_out = bits[torch.from_numpy(load_packed(next((story / "processed").glob("*"))).val_rows)].mean(1)
    result = the_run(story, "prior").result()
    assert result["best_bits"] == pytest.approx(float(held_out.mean()), rel=1e-5)
    assert result["best_bits_se"] == pytest.approx(float(held_out.std()) / len(held_out) ** 0.5, rel=1e-3)
    masks = random_masks(len(images), 64, torch.Generator().manual_seed(0))
    bits = in_training(story, "masked").bits(sequences, masks)
    assert bool(((bits > 0) == masks).all())


def test_masks_hide_from_one_to_all_in_equal_shares() -> None:
    masks = random_masks(64, 64, torch.Generator().manual_seed(0))
    assert sorted(masks.sum(1).tolist()) == list(range(1, 65))
    many = torch.cat([random_masks(5, 64, torch.Generator().manual_seed(seed)) for seed in range(400)])
    assert many.any(1).all() and abs(many.float().mean() - 65 / 128) < 0.01
    assert (many.float().mean(0) - 65 / 128).abs().max() < 0.05  # no position is favoured
