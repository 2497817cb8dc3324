"""What the autoencoder and the prior share in training: counting steps, learning rates, records, exact resume.

A *step* is one update of the model, whatever the accumulation and however many optimisers there are. Lightning counts
otherwise (its `global_step` counts every optimiser), so nothing here asks Lightning for a step, and its own
checkpoints are not used: a run goes on by a fresh `fit` over the batches that remain, from a state of ours.
"""

import math
import time
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from vq_core.config import Config
from vq_core.training.ranks import from_each, total, world_size
from vq_core.training.schedules import warmup_cosine
from vq_core.training.state import rng_state, set_rng_state


class StepModule(L.LightningModule):
    """Base of `VQVAEModel` and `PriorModel`.

    A sub-class sets `kind`, `total_steps`, `peak_lr`, `warmup_steps` and `monitor`, calls `finish_batch` at the end
    of every training batch, and says with `players` which optimisers move, where these are not all.
    """

    kind: str
    total_steps: int
    peak_lr: float
    warmup_steps: int
    monitor: str  # the validation figure that "best" and early stopping look at (lower is better), or "latest"
    patience: int
    accumulate: int
    val_every: int

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.optimizer_names: tuple[str, ...] = ("", "_discriminator")  # as they end in the logs
        self.steps_done = 0
        self.best = math.inf
        self.validations_since_best = 0
        self.improved = False
        self.seconds = 0.0  # spent in training and validation, before an interruption too
        self.skipped = self.bad_in_a_row = 0  # steps without an update, because something was not finite
        self._batches = 0
        self._step_sums: dict[str, Tensor] = {}  # of the batches of this step
        self._steps: dict[str, list[Tensor]] = {}  # of each step since the last log
        self._clock = (0, time.monotonic())
        self._plateau: ReduceLROnPlateau | None = None
        self._pending: dict[str, Any] | None = None

    # --- one step -------------------------------------------------------------------------------------------------

    def finish_batch(self, terms: dict[str, Tensor], images: int) -> None:
        """Take note of a batch's loss terms; when the effective batch is complete, make the update and count it."""
        for name, value in terms.items():
            self._step_sums[name] = self._step_sums.get(name, torch.zeros((), device=self.device)) + value.detach()
        self._batches += 1
        if self._batches % self.accumulate:
            return
        self._set_learning_rates()
        self._update()
        self.steps_done += 1
        if self.steps_done % self.config.train.log_every == 0 or self.steps_done == self.total_steps:
            self._log_train(images)

    def _update(self) -> None:
        """Clip and step every optimiser, or none of them: a loss or gradient that is not finite makes no update."""
        scaler, players = self._scaler, self.players()
        for optimizer, _ in players if scaler is not None else ():
            scaler.unscale_(optimizer.optimizer)
        for name, (_, parameters) in zip(self.optimizer_names, players, strict=False):
            norm = nn.utils.clip_grad_norm_(parameters, self.config.optim.clip)
            self._step_sums[f"grad_norm{name}"] = norm * self.accumulate  # the sums are of `accumulate` batches
        sums = torch.stack([value.float() for value in self._step_sums.values()])
        # Gradients are the same on every rank, losses are not: the ranks must decide alike.
        finite = float(total((~sums.isfinite()).float().sum())) == 0
        for optimizer, _ in players:
            if finite:
                optimizer.step() if scaler is None else scaler.step(optimizer.optimizer)
            optimizer.zero_grad(set_to_none=True)
        if scaler is not None:  # once per step, after every optimiser
            scaler.update()
        self.after_update(finite)
        if finite:
            for name, value in zip(self._step_sums, sums, strict=True):
                self._steps.setdefault(name, []).append(value / self.accumulate)
        self._count_bad_steps(finite)
        self._step_sums = {}

    def _count_bad_steps(self, finite: bool) -> None:
        if finite:
            self.bad_in_a_row = 0
            return
        if self._scaler is not None and self._scaler.get_scale() > 1:
            return  # in fp16 a gradient that overflows is nothing bad: the scaler comes down until it fits
        self.skipped += 1
        self.bad_in_a_row += 1
        self.record({"train/skipped": float(self.skipped)}, step=self.steps_done + 1)
        if self.bad_in_a_row >= self.config.train.bad_steps:
            bad = [name for name, value in self._step_sums.items() if not bool(value.isfinite())]
            raise FloatingPointError(
                f"{', '.join(bad) or 'a loss'} is not finite at step {self.steps_done + 1}, "
                f"{self.bad_in_a_row} times in a row; last.ckpt holds the last finite state; lower the learning rate"
            )

    def players(self) -> list[tuple[Any, list[nn.Parameter]]]:
        """The optimisers that move in this step, each with its parameters."""
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        return [(each, [p for group in each.param_groups for p in group["params"]]) for each in optimizers]

    def after_update(self, updated: bool) -> None:
        """Called after every step's update, or after it was skipped."""

    def batch_seed(self, purpose: int) -> int:
        """Seed of this batch's random numbers: a function of the seed, the batches before it and what they are for."""
        batches_done = self.steps_done * self.accumulate + self._batches % self.accumulate  # before a stop too
        return (self.config.seed * 1_000_003 + batches_done) * 64 + purpose

    @property
    def at_step_boundary(self) -> bool:
        """Whether no batch of an unfinished step is under way: only then can the state be saved."""
        return self._batches % self.accumulate == 0

    def learning_rate(self, step: int) -> float:
        """The rate of the main optimiser at a step, as the schedule has it (before any halving at a plateau)."""
        optim = self.config.optim
        # Before a plateau the rate stays at its peak: a cosine from there to there.
        end = self.peak_lr if optim.schedule == "plateau" else min(optim.lr_end, self.peak_lr)
        return warmup_cosine(
            step,
            total=self.total_steps,
            warmup=self.warmup_steps,
            start=optim.lr_start,
            peak=self.peak_lr,
            end=end,
        )

    def _set_learning_rates(self) -> None:
        if self._plateau is not None and self.steps_done > self.warmup_steps:
            return  # from here on the rate is the plateau scheduler's
        factor = self.learning_rate(self.steps_done) / self.peak_lr
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * group.setdefault("initial_lr", group["lr"])

    @property
    def _scaler(self) -> Any:
        """The gradient scaler of fp16; None at other precisions."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    @property
    def settled(self) -> bool:
        """Whether what is optimised is the same from here on: before, any newer state is the better one."""
        return True

    @property
    def validation_due(self) -> bool:
        """Whether validation follows the step just done, and belongs to it: only after it can the state be saved."""
        return self.steps_done % self.val_every == 0 or self.steps_done >= self.total_steps

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or validation has not improved for too long."""
        return self.steps_done >= self.total_steps or self.validations_since_best >= self.patience

    # --- records --------------------------------------------------------------------------------------------------

    def record(self, values: dict[str, float], step: int | None = None) -> None:
        """Hand figures of this step to every logger."""
        for logger in self.loggers:
            logger.log_metrics(values, step=self.steps_done if step is None else step)

    def _log_train(self, images: int) -> None:
        # Each over the steps that had it: those of the GAN may begin in between.
        mean = [torch.stack(values).mean() for values in self._steps.values()]
        shared = total(torch.stack(mean) if mean else torch.zeros(0, device=self.device)) / world_size()
        means = dict(zip(self._steps, shared.tolist(), strict=True))
        steps, since = self._clock
        now = time.monotonic()
        if self.steps_done > steps > 0:
            means["images_per_second"] = (
                (self.steps_done - steps) * self.accumulate * images * world_size() / (now - since)
            )
        self.seconds += now - since
        self._clock = (self.steps_done, now)
        for name, optimizer in zip(self.optimizer_names, self.trainer.optimizers, strict=False):
            means[f"lr{name}"] = optimizer.param_groups[0]["lr"]
        self._steps = {}
        self.record({f"train/{name}": value for name, value in means.items()})

    def finish_validation(self, values: dict[str, float]) -> None:
        """Record validation figures, remember whether they are the best, stop when they have not been for long."""
        self.record({f"val/{name}": value for name, value in values.items()})
        value = values[self.monitor] if self.monitor != "latest" else -float(self.steps_done)
        self.improved = value < self.best or not self.settled
        self.best = value if self.improved else self.best
        self.validations_since_best = 0 if self.improved else self.validations_since_best + 1
        if self._plateau is not None:
            self._plateau.step(values.get("rec", value))
            main, *others = self.trainer.optimizers
            share = main.param_groups[0]["lr"] / main.param_groups[0].get("initial_lr", self.peak_lr)
            for group in [group for optimizer in others for group in optimizer.param_groups]:
                group["lr"] = share * group.get("initial_lr", group["lr"])
        if self.finished:
            self.trainer.should_stop = True

    # --- resume ---------------------------------------------------------------------------------------------------

    def training_state(self) -> dict[str, Any]:
        """All that a later `fit` needs to go on from here, as tensors and plain values.

        Raises:
            FloatingPointError: a weight is not finite; such a state is not worth keeping.
        """
        model = self.state_dict()
        bad = [name for name, value in model.items() if not bool(value.isfinite().all())]
        if bad:
            raise FloatingPointError(
                f"{bad[0]} is not finite at step {self.steps_done}; last.ckpt holds the last finite state; "
                "lower the learning rate"
            )
        return {
            "kind": self.kind,
            "config": self.config.model_dump(mode="json"),
            "steps_done": self.steps_done,
            "best": self.best,
            "validations_since_best": self.validations_since_best,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "bad_in_a_row": self.bad_in_a_row,
            "model": model,
            "optimizers": [optimizer.state_dict() for optimizer in self.trainer.optimizers],
            "plateau": self._plateau.state_dict() if self._plateau is not None else None,
            "scaler": self.trainer.precision_plugin.state_dict(),
            "rng": from_each(rng_state()),
        }

    def resume_from(self, state: dict[str, Any]) -> None:
        """Take over a saved state; optimisers and random generators follow when `fit` starts."""
        self.load_state_dict(state["model"])
        self.steps_done, self.seconds = state["steps_done"], state["seconds"]
        self.best, self.validations_since_best = state["best"], state["validations_since_best"]
        self.skipped, self.bad_in_a_row = state["skipped"], state["bad_in_a_row"]
        self._pending = state

    def on_train_start(self) -> None:
        self._clock = (self.steps_done, time.monotonic())
        if self.config.optim.schedule == "plateau":
            self._plateau = ReduceLROnPlateau(
                self.trainer.optimizers[0],
                factor=0.5,
                patience=self.config.optim.plateau_patience,
                min_lr=self.config.optim.lr_end,
            )
        state, self._pending = self._pending, None
        if state is None:
            if self.global_rank:  # else dropout would draw the same on every rank
                torch.manual_seed(self.config.seed + self.global_rank)
            return
        for optimizer, saved in zip(self.trainer.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self._plateau is not None:
            self._plateau.load_state_dict(state["plateau"])
        if state["scaler"]:
            self.trainer.precision_plugin.load_state_dict(state["scaler"])
        set_rng_state(state["rng"][self.global_rank % len(state["rng"])])
