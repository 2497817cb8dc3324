"""The module of Phases 1 and 2 by itself: how the codebook starts, what is optimised, which patches revive codes."""

import warnings

import pytest
import torch
from small_runs import settings

from vq_core.config import load_config
from vq_core.training.vqvae_module import Reconstruction, VQVAEModel


@pytest.mark.parametrize("start", ["normal", "kaiming"])
def test_the_codebook_starts_with_the_spread_that_is_said(start: str) -> None:
    """N(0, 0.1), or uniform in ±sqrt(6 / D) ("Kaiming")."""
    torch.manual_seed(0)
    size = ("model.num_codes=1024", "model.code_dim=64", "model.latent_channels=64")
    codebook = VQVAEModel(settings(f"quantizer.init={start}", *size)).quantizer.codebook
    bound = (6 / 64) ** 0.5
    assert codebook.mean().abs() < 3e-3
    if start == "normal":
        assert codebook.std() == pytest.approx(0.1, rel=0.02) and codebook.abs().max() > 0.3
    else:
        assert codebook.std() == pytest.approx(bound / 3**0.5, rel=0.02) and codebook.abs().max() <= bound


def test_each_optimiser_has_its_own_settings() -> None:
    own = ("phase2.lr=0.003", "optim.betas=[0.8, 0.9]", "optim.weight_decay=0.05")
    theirs = ("discriminator.lr=0.0007", "discriminator.betas=[0.4, 0.95]")
    module = VQVAEModel(settings(*own, *theirs, "optim.name=adamw"), "phase2")
    main, other = module.configure_optimizers()
    assert isinstance(main, torch.optim.AdamW)
    for optimizer, expected in ((main, (0.003, (0.8, 0.9), 0.05)), (other, (0.0007, (0.4, 0.95), 0.0))):
        (group,) = optimizer.param_groups
        assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == expected
    ids = [{id(p) for group in o.param_groups for p in group["params"]} for o in (main, other)]
    assert module.adversary is not None and ids[1] == {id(p) for p in module.adversary.parameters()}
    assert not ids[0] & ids[1] and ids[0] >= {id(p) for p in module.encoder.parameters()}
    assert type(VQVAEModel(settings("optim.name=adam")).configure_optimizers()[0]) is torch.optim.Adam


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_the_total_is_the_weighted_sum_of_the_terms(learning: str) -> None:
    weights = {"rec": 1.5, "l2": 0.3, "perceptual": 0.7, "vq": 0.9, "commit": 0.2}
    module = VQVAEModel(settings(f"quantizer.learning={learning}", *(f"loss.{n}={w}" for n, w in weights.items())))
    terms = {name: torch.tensor(2.0 + number) for number, name in enumerate(weights)}
    expected = sum(weights[name] * term for name, term in terms.items() if learning == "gradient" or name != "vq")
    assert float(module.weighted(terms)) == pytest.approx(float(expected))


def test_dead_codes_move_to_the_patches_that_were_reconstructed_worst() -> None:
    """16 codes, 14 of them dead; of 2 × 64 patches the 56 worst (four for each dead code) are known."""
    config = settings("quantizer.reset_every=1", "quantizer.init=normal")
    torch.manual_seed(0)
    module = VQVAEModel(config)
    alive = torch.tensor([3, 8])
    module.quantizer.ema_counts.fill_(0.0)
    module.quantizer.ema_counts[alive] = 100.0
    before = module.quantizer.codebook.clone()
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    z_e = torch.randn(2, 8, 8, 8)
    error = torch.zeros(128)
    worst = torch.randperm(128)[:56]
    error[worst] = 0.5 + torch.rand(56)
    shift = torch.nn.functional.interpolate(error.view(2, 1, 8, 8), scale_factor=4)
    module._remember_worst(x, Reconstruction(x + shift, z_e, None))
    module._reset_dead_codes()
    vectors = z_e.permute(0, 2, 3, 1).reshape(-1, 8)
    after = module.quantizer.codebook
    assert torch.equal(after[alive], before[alive])
    dead = [code for code in range(16) if code not in alive]
    chosen = [int((vectors - after[code]).square().sum(1).argmin()) for code in dead]
    torch.testing.assert_close(after[dead], vectors[chosen])
    assert set(chosen) <= set(worst.tolist()) and len(set(chosen)) == 14


def test_a_codebook_larger_than_the_images_can_fill_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"model\.num_codes=8192 is more than"):
        load_config("full", ["model.num_codes=8192"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_config("full", ["model.num_codes=4096"])
