"""The priors in training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import settings, the_run

from vq_core.data.packed import load_packed
from vq_core.errors import ConfigError
from vq_core.models.transformer import halton_order
from vq_core.runs.loading import load_prior, load_vqvae, weights_of
from vq_core.training.prior import PriorTraining, random_orders


def in_training(story: Path, phase: Any) -> PriorTraining:
    """A prior's training module with the weights of its best checkpoint."""
    training = PriorTraining(settings(), phase)
    training.transformer.load_state_dict(load_prior(the_run(story, phase)).state_dict())
    training.averaged = None  # these are the averaged ones
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
    rows = torch.from_numpy(load_packed(next((story / "processed").glob("*"))).val_rows)
    bits = in_training(story, "prior").bits_per_token(sequences, None)
    assert bits.shape == (len(images),)
    held_out = bits[rows]
    result = the_run(story, "prior").result()
    assert result["best_bits"] == pytest.approx(float(held_out.mean()), rel=1e-5)
    assert result["best_bits_se"] == pytest.approx(float(held_out.std()) / len(held_out) ** 0.5, rel=1e-3)
    training, generator = in_training(story, "masked"), torch.Generator().manual_seed(settings().seed)
    orders = random_orders(len(rows), training.transformer.grid, generator)
    held_out = training.bits_per_token(sequences[rows], orders)
    assert the_run(story, "masked").result()["best_bits"] == pytest.approx(float(held_out.mean()), rel=1e-5)
    assert the_run(story, "masked").result()["parent"] == the_run(story, "prior").name


def test_a_bidirectional_network_is_no_longer_trained() -> None:
    line = "masked.network=bidirectional: is no longer trained, only loaded; set masked.network=any_order"
    with pytest.raises(ConfigError) as caught:
        PriorTraining(settings("masked.network=bidirectional"), "masked")
    assert str(caught.value) == line
    PriorTraining(settings("masked.network=bidirectional"), "prior")  # which it does not concern


def test_orders_end_with_a_region_in_haltons_order() -> None:
    """The whole grid, a rectangle or scattered cells; what is outside comes before, in any order."""
    turn, generator = halton_order(8).argsort(), torch.Generator().manual_seed(0)
    orders = random_orders(4000, 8, generator)
    assert torch.equal(orders.sort(1).values, torch.arange(64).expand(4000, -1))
    whole = (turn[orders].diff(dim=1) > 0).all(1)
    assert abs(float(whole.float().mean()) - 0.5) < 0.04
    rising = turn[orders].diff(dim=1).flip(1) > 0  # from the end
    length = rising.int().cumprod(1).sum(1) + 1  # of the region, or of a few cells more
    assert bool((length[~whole] < 64).all()) and 0.1 < float(length[~whole].float().mean() / 64) < 0.6
    first = orders[~whole, 0]
    assert float(torch.bincount(first, minlength=64).float().std() / (len(first) / 64)) < 0.35  # any of them


def test_averaged_weights_validate_and_are_what_is_loaded() -> None:
    training = PriorTraining(settings("prior.ema=0.75"), "prior")
    expected: dict[str, torch.Tensor] = {}
    for step in range(3):
        for parameter in training.transformer.parameters():
            torch.nn.init.constant_(parameter, float(step))
        training.after_update(torch.tensor(step != 1), {})  # a skipped step counts for nothing
    expected = {name: torch.full_like(p, 0.5) for name, p in training.transformer.named_parameters()}  # (0·3 + 2) / 4
    loaded = weights_of({"model": training.state_dict()}, "transformer")
    codes = torch.zeros(2, 64, dtype=torch.long)
    for name, value in expected.items():
        torch.testing.assert_close(loaded[name], value)
    assert not torch.equal(training.eval()(codes), training.train()(codes))
    assert sum(p.numel() for p in training.parameters() if p.requires_grad) == sum(
        p.numel() for p in training.transformer.parameters()
    )
