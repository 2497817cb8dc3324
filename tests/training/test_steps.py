"""One step: accumulation, clipping, learning rates, early stopping; what happens to values that are not finite."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from disturbances import Crash, CrashAfterStep, SignalDuringStep, differences
from lightning.pytorch.callbacks import Callback
from small_runs import FROM_SCRATCH, NO_AUGMENTATION, fresh_copy, settings, the_run, view

from vq_core.config import Config
from vq_core.runs.checkpoints import load_checkpoint
from vq_core.training.autoencoder import AutoencoderTraining
from vq_core.training.phases import train

pytestmark = pytest.mark.slow


def test_means_are_over_the_steps_that_had_a_term(place: Path) -> None:
    """The GAN starts in the middle of what is logged together: the mean is over its steps alone."""
    config = (*FROM_SCRATCH, "loss.gan_start=3", "phase2.steps=4", "train.val_every=4")
    each = train("phase2", settings(*config, "train.log_every=1"))
    four = train("phase2", settings(*config, "train.log_every=4", "optim.betas=[0.9, 0.9900001]"))
    for name in ("train/disc", "train/gan", "train/rec"):
        assert four.curve(name)[1] == pytest.approx([each.curve(name)[1].mean()], rel=1e-4)


def test_the_rate_is_halved_at_a_plateau(place: Path) -> None:
    """Gradients are clipped to nothing, so that every second validation without a better one halves the rate."""
    frozen = ("phase1.lr=1e-3", "optim.clip=1e-12", "optim.weight_decay=0", "optim.warmup_steps=4")
    long = settings(
        *frozen, "optim.schedule=plateau", "optim.plateau_patience=1", "kmeans.steps=28", "train.log_every=4"
    )
    rates = train("kmeans", long).curve("train/lr")[1][1:]
    assert rates[0] == pytest.approx(1e-3) and rates[-1] < 0.3e-3
    assert set(np.round(rates[1:] / rates[:-1], 6)) == {1.0, 0.5}


def test_all_rates_fall_together_at_a_plateau(place: Path) -> None:
    """To the same fraction of where they started: the floor of the discriminator's rate is not the main one's."""
    frozen = ("optim.clip=1e-12", "optim.weight_decay=0", "quantizer.learning=gradient", "quantizer.reset_every=0")
    rates = ("phase2.lr=1e-3", "discriminator.lr=6e-4", "optim.lr_end=4e-4", "optim.warmup_steps=2")
    config = settings(
        *(*FROM_SCRATCH, *frozen, *rates, "optim.schedule=plateau", "optim.plateau_patience=1"),
        *("phase2.steps=32", "loss.gan_start=0", "train.log_every=4"),
    )
    run = train("phase2", config)
    main, other = run.curve("train/lr")[1][1:], run.curve("train/lr_discriminator")[1][1:]
    assert main[0] == pytest.approx(1e-3) and main[-1] == pytest.approx(4e-4)
    np.testing.assert_allclose(other, 0.6 * main)


def test_the_stop_waits_for_the_whole_effective_batch(place: Path) -> None:
    config = settings("train.accumulate=2", "quantizer.init=kaiming")
    with pytest.raises(KeyboardInterrupt):
        train("phase1", config, view(SignalDuringStep(3)))
    state = load_checkpoint(the_run(place, "phase1").last, ("phase1",))
    assert state["steps_done"] == 3
    assert {int(s["step"]) for s in state["optimizers"][0]["state"].values()} == {3}


def weights_after(config: Config, folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    fresh_copy(source, folder, monkeypatch)
    return load_checkpoint(train("phase2", config).last, ("phase2",))["model"]


def test_accumulation_equals_the_whole_batch(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = (
        *FROM_SCRATCH,
        *NO_AUGMENTATION,
        "loss.gan_start=0",
        "loss.gan=0.1",
        "quantizer.reset_every=0",
        "phase2.steps=4",
    )
    whole, halves, smaller = (
        weights_after(settings(*common, *more), tmp_path / str(i), prepared, monkeypatch)
        for i, more in enumerate(((), ("train.accumulate=2",), ("train.batch_size=4",)))
    )
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    moved = [name for name in whole if not torch.allclose(smaller[name], whole[name], atol=1e-4, rtol=1e-3)]
    parts = ("vqvae.encoder", "vqvae.decoder", "adversary", "vqvae.quantizer.codebook")
    assert all(any(name.startswith(part) for name in moved) for part in parts)  # the comparison can tell


class GradientNorms(Callback):
    """The gradient norms with which the optimisers make their updates."""

    def __init__(self) -> None:
        self.norms: dict[int, list[float]] = {}

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad.flatten() for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        self.norms.setdefault(trainer.optimizers.index(optimizer), []).append(float(torch.cat(gradients).norm()))


def test_clipping_bounds_both_optimisers(place: Path) -> None:
    norms = GradientNorms()
    config = settings(*FROM_SCRATCH, "loss.gan_start=0", "optim.clip=0.01", "phase2.steps=4")
    run = train("phase2", config, view(norms))
    assert [len(norms.norms[number]) for number in (0, 1)] == [4, 4]
    assert max(norms.norms[0] + norms.norms[1]) <= 0.01 * (1 + 1e-4)
    assert run.curve("train/grad_norm")[1].min() > 0.01  # the recorded norm is that before clipping


def test_early_stopping(place: Path) -> None:
    frozen = ("phase1.lr=1e-30", "optim.lr_start=1e-30", "optim.lr_end=1e-30", "optim.weight_decay=0")
    run = train("kmeans", settings(*frozen, "kmeans.steps=40", "train.patience=2"))
    assert run.result()["steps"] == 12 and run.result()["best_step"] == 4


# --- what is not finite -----------------------------------------------------------------------------------------------

GAN = (*FROM_SCRATCH, "loss.gan_start=0", "discriminator.lecam=0.1", "train.log_every=1")


class Spoil(Callback):
    """Does something to the module or the batch just before given steps; keeps the model's state around each."""

    def __init__(self, steps: tuple[int, ...], spoil: Callable[[Any, torch.Tensor], None]) -> None:
        self.steps, self.spoil = steps, spoil
        self.before: dict[int, Any] = {}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        step = module.steps_done + 1
        self.before[step] = {
            "model": {
                name: value.clone()
                for name, value in module.state_dict().items()
                if not name.endswith(("usage", "batches_tracked"))
            },
            "moments": [
                {number: [value.clone() for value in moments.values()] for number, moments in o.state.items()}
                for o in trainer.optimizers
            ],
        }
        if step in self.steps:
            self.spoil(module, batch)


def spoil_batch(value: float) -> Callable[[Any, torch.Tensor], None]:
    return lambda module, batch: batch[0, 0, 0, 0].fill_(value)


def spoil_gradient(module: Any, batch: torch.Tensor) -> None:
    """One entry of one gradient, while the loss is sound."""
    weight = module.vqvae.decoder.last.weight
    handle: Any = weight.register_hook(lambda g: (handle.remove(), torch.full_like(g, math.inf))[1])


def spoil_gradient_of_the_discriminator(module: Any, batch: torch.Tensor) -> None:
    weight = module.adversary.discriminator.body[0].weight
    handle: Any = weight.register_hook(lambda g: (handle.remove(), torch.full_like(g, math.nan))[1])


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused optimisers, which skip a step by themselves, and steps that do not wait for the device."""
    monkeypatch.setattr(AutoencoderTraining, "waits", False)
    maker = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *p, **options: maker(*p, **options | {"fused": True}))


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize(
    "spoil", [spoil_batch(math.nan), spoil_batch(math.inf), spoil_gradient, spoil_gradient_of_the_discriminator]
)
def test_a_step_that_is_not_finite_is_skipped_and_counted(
    monkeypatch: pytest.MonkeyPatch, spoil: Any, norm: str, waits: bool
) -> None:
    if not waits:
        as_on_a_gpu(monkeypatch)
    callback = Spoil((3, 4, 7), spoil)
    run = train("phase2", settings(*GAN, f"model.norm={norm}", f"train.log_every={1 if waits else 5}"), view(callback))
    state = load_checkpoint(run.last, ("phase2",))
    assert state["steps_done"] == 10 and state["skipped"] == 3 and state["bad_in_a_row"] == 0
    for step in (3, 4, 7):  # weights, codebook, LeCam's averages, Adam's moments and counts: nothing moved
        assert differences(callback.before[step], callback.before[step + 1]) == []
    assert differences(callback.before[5], callback.before[6]) != []
    assert [list(values) for values in run.curve("train/skipped")] == [[3, 4, 7], [1, 2, 3]]
    assert all(math.isfinite(v) for row in run.history() for v in row.values())
    moved = [{int(s["step"]) for s in o["state"].values()} for o in state["optimizers"]]
    assert moved == [{7}, {7}]


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("waits", [True, False])
def test_too_many_in_a_row_stop_the_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waits: bool) -> None:
    if not waits:
        as_on_a_gpu(monkeypatch)
    config = settings(*GAN, "train.bad_steps=3", f"train.log_every={1 if waits else 5}")
    with pytest.raises(FloatingPointError, match=r"not finite at step 8, 3 times in a row; last\.ckpt holds"):
        train("phase2", config, view(Spoil((3, 6, 7, 8), spoil_batch(math.nan))))
    run = the_run(tmp_path / "data", "phase2")
    state = load_checkpoint(run.last, ("phase2",))
    assert state["steps_done"] == 6 and state["bad_in_a_row"] == 1
    assert all(bool(value.isfinite().all()) for value in state["model"].values())
    assert train("phase2", config) == run and run.result()["steps"] == 10  # it goes on where it was sound


@pytest.mark.usefixtures("place")
def test_what_was_begun_on_a_cpu_goes_on_with_fused_optimisers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(Crash):
        train("phase2", settings(*GAN), view(CrashAfterStep(6)))
    as_on_a_gpu(monkeypatch)
    run = train("phase2", settings(*GAN), view(Spoil((8,), spoil_batch(math.nan))))
    state = load_checkpoint(run.last, ("phase2",))
    assert state["steps_done"] == 10 and state["skipped"] == 1
    assert all(group["fused"] for each in state["optimizers"] for group in each["param_groups"])


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("bad_steps", [2, 99])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, bad_steps: int) -> None:
    def spoil(module: Any, batch: torch.Tensor) -> None:
        with torch.no_grad():
            module.vqvae.encoder.layers[0].weight[0] = math.nan

    with pytest.raises(FloatingPointError, match=r"not finite.*last\.ckpt holds the last finite state"):
        train("phase2", settings(*GAN, f"train.bad_steps={bad_steps}"), view(Spoil((5,), spoil)))
    state = load_checkpoint(the_run(tmp_path / "data", "phase2").last, ("phase2",))
    assert state["steps_done"] == 4 and all(bool(value.isfinite().all()) for value in state["model"].values())


@pytest.mark.usefixtures("place")
def test_fp16_overflows_count_only_when_the_scale_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.zeros(()))  # what the precision plugin does with every loss; here it only makes it begin
    monkeypatch.setattr(AutoencoderTraining, "scaler", scaler)
    run = train("phase2", settings(*GAN), view(Spoil((2, 3, 4, 5), spoil_gradient)))
    # The first brings the scale from 4 to 2, which is what a scaler is for; the others bring it to 1 and below.
    assert run.curve("train/skipped")[0].tolist() == [3, 4, 5] and run.curve("train/skipped")[1].tolist() == [1, 2, 3]
    assert scaler.get_scale() == 0.25
