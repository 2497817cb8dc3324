"""The trainings of the autoencoder: what is optimised, and which patches revive codes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from disturbances import Watch
from small_runs import FROM_SCRATCH, fresh_copy, settings, the_run, view

from vq_core.models import Reconstruction
from vq_core.runs.checkpoints import load_checkpoint
from vq_core.runs.loading import load_vqvae
from vq_core.training.autoencoder import AutoencoderTraining
from vq_core.training.muon import Muon
from vq_core.training.phases import train


def test_each_optimiser_has_its_own_settings() -> None:
    own = ("phase2.lr=0.003", "optim.betas=[0.8, 0.9]", "optim.weight_decay=0.05")
    theirs = ("discriminator.lr=0.0007", "discriminator.betas=[0.4, 0.95]")
    module = AutoencoderTraining(settings(*own, *theirs, "optim.name=adamw"), "phase2")
    main, other = module.configure_optimizers()
    assert isinstance(main, torch.optim.AdamW)
    for optimizer, expected in ((main, (0.003, (0.8, 0.9), 0.05)), (other, (0.0007, (0.4, 0.95), 0.0))):
        (group,) = optimizer.param_groups
        assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == expected
    ids = [{id(p) for group in o.param_groups for p in group["params"]} for o in (main, other)]
    assert module.adversary is not None and ids[1] == {id(p) for p in module.adversary.parameters()}
    assert not ids[0] & ids[1] and ids[0] >= {id(p) for p in module.vqvae.encoder.parameters()}
    assert (
        type(AutoencoderTraining(settings("optim.name=adam"), "phase1").configure_optimizers()[0]) is torch.optim.Adam
    )


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_before_phase_2_muon_moves_the_convolutions_inside(learning: str) -> None:
    """All but those that see or make pixels; every weight has one optimiser; without the setting nothing changes."""
    config = settings("phase1.muon_lr=0.02", f"quantizer.learning={learning}", "model.attention_at=[8]")
    module = AutoencoderTraining(config, "phase1")
    main, muon = module.configure_optimizers()
    assert module.optimizer_names == ("", "_muon") and isinstance(muon, Muon) and muon.param_groups[0]["lr"] == 0.02
    moved = {id(p) for p in muon.param_groups[0]["params"]}
    rest = {id(p) for group in main.param_groups for p in group["params"]}
    assert not moved & rest and moved | rest == {id(p) for p in module.vqvae.parameters()}
    convolutions = [layer for layer in module.vqvae.modules() if isinstance(layer, torch.nn.Conv2d)]
    inside = {id(c.weight) for c in convolutions if 3 not in (c.in_channels, c.out_channels)}
    assert moved == inside and len(convolutions) - len(inside) == 2
    assert AutoencoderTraining(config, "kmeans").make_optimizers().keys() == {"", "_muon"}
    assert AutoencoderTraining(config, "phase2").make_optimizers().keys() == {"", "_discriminator"}
    assert AutoencoderTraining(settings(), "phase1").make_optimizers().keys() == {""}


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_the_total_is_the_weighted_sum_of_the_terms(learning: str) -> None:
    weights = {"rec": 1.5, "l2": 0.3, "perceptual": 0.7, "vq": 0.9, "commit": 0.2}
    config = settings(f"quantizer.learning={learning}", *(f"loss.{n}={w}" for n, w in weights.items()))
    module = AutoencoderTraining(config, "phase1")
    terms = {name: torch.tensor(2.0 + number) for number, name in enumerate(weights)}
    expected = sum(weights[name] * term for name, term in terms.items() if learning == "gradient" or name != "vq")
    assert float(module.weighted(terms)) == pytest.approx(float(expected))


def test_dead_codes_move_to_the_patches_that_were_reconstructed_worst() -> None:
    """16 codes, 14 of them dead; of 2 × 64 patches the 56 worst (four for each dead code) are known."""
    config = settings("quantizer.reset_every=1", "quantizer.init=normal")
    torch.manual_seed(0)
    module = AutoencoderTraining(config, "phase1")
    alive = torch.tensor([3, 8])
    module.vqvae.quantizer.ema_counts.fill_(0.0)
    module.vqvae.quantizer.ema_counts[alive] = 100.0
    before = module.vqvae.quantizer.codebook.clone()
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    z_e = torch.randn(2, 8, 8, 8)
    error = torch.zeros(128)
    worst = torch.randperm(128)[:56]
    error[worst] = 0.5 + torch.rand(56)
    shift = torch.nn.functional.interpolate(error.view(2, 1, 8, 8), scale_factor=4)
    module._remember_worst(x, Reconstruction(x + shift, z_e, None))
    module._reset_dead_codes()
    vectors = z_e.permute(0, 2, 3, 1).reshape(-1, 8)
    after = module.vqvae.quantizer.codebook
    assert torch.equal(after[alive], before[alive])
    dead = [code for code in range(16) if code not in alive]
    chosen = [int((vectors - after[code]).square().sum(1).argmin()) for code in dead]
    torch.testing.assert_close(after[dead], vectors[chosen])
    assert set(chosen) <= set(worst.tolist()) and len(set(chosen)) == 14


@pytest.mark.slow
def test_dead_codes_come_back_to_life(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = fresh_copy(story, tmp_path / "data", monkeypatch, without="phase1")
    path = the_run(data, "kmeans").folder / "codebook.npy"
    codebook = np.load(path)
    codebook[4:] = 1000 + np.arange(12)[:, None]  # so far away that no vector ever chooses them
    np.save(path, codebook)
    run = train("phase1", settings())
    steps, reset = run.curve("train/codes_reset")
    assert steps.tolist() == [3, 6, 9]  # quantizer.reset_every
    codes = load_checkpoint(run.last, ("phase1",))["model"]["vqvae.quantizer.codebook"]
    assert reset.sum() > 0 and codes.abs().max() < 100
    assert run.curve("val/codes_used")[1][-1] > 4 / 16


@pytest.mark.slow
def test_bf16_mixed_trains_on_the_cpu(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)  # slow, but equal
    config = settings(*FROM_SCRATCH, "train.precision=bf16-mixed", "loss.gan_start=0", "phase2.steps=4")
    run = train("phase2", config)
    assert run.result()["precision"] == "bf16-mixed"
    model = load_checkpoint(run.last, ("phase2",))["model"]
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in model.values() if value.ndim)


@pytest.mark.slow
def test_options_train(place: Path) -> None:
    """Gradient-learned codebook, perceptual and L2 terms, attention, BatchNorm, projections, non-saturating GAN."""
    config = settings(
        *FROM_SCRATCH,
        "quantizer.init=normal",
        "quantizer.learning=gradient",
        "quantizer.reset_every=0",
        "loss.perceptual=0.5",
        "loss.l2=0.1",
        "loss.gan_loss=non_saturating",
        "loss.gan_start=0",
        "model.norm=batch",
        "model.activation=relu",
        "model.upsample=bilinear",
        "model.attention_at=[8]",
        "model.latent_channels=12",
        "discriminator.spectral_norm=true",
        "optim.name=adam",
        "train.monitor=val_perceptual",
        "phase2.steps=4",
    )
    start: list[torch.Tensor] = []
    run = train(
        "phase2", config, view(Watch(lambda module: start.append(module.vqvae.quantizer.codebook.detach().clone())))
    )
    end = load_checkpoint(run.last, ("phase2",))["model"]["vqvae.quantizer.codebook"]
    assert not torch.equal(start[0], end) and torch.isfinite(end).all()
    names = {name for row in run.history() for name in row}
    assert {f"train/{n}" for n in ("rec", "l2", "perceptual", "vq", "commit", "gan", "disc")} <= names
    assert run.result()["best_perceptual"] == pytest.approx(run.curve("val/perceptual")[1].min(), abs=1e-6)
    x = torch.zeros(2, 3, 32, 32)
    model = load_vqvae(run)
    assert torch.allclose(model.decode(model.encode(x)), model(x), atol=1e-5)


def test_the_seed_of_resets_is_what_it_always_was() -> None:
    """Python's hash of two integers, which is the same in every process, and since 3.8 in every version."""
    assert hash((0, 49)) % 2**63 == 1951557437444761060
