"""One training step, after the losses are known: backward, clip, update, count. And what goes with it: learning rates,
records, exact resume.

A *step* is one update of the model, whatever the accumulation and however many optimisers there are. Lightning counts
differently (its `global_step` counts every optimiser), so nothing here asks Lightning for a step, and its checkpoints
are not used: a run goes on by a fresh `fit` over the batches that remain, from a state of ours.
"""

import math
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from vq_core.config import Config
from vq_core.data.batches import Position
from vq_core.errors import NotFiniteError
from vq_core.runs.checkpoints import FORMAT, rng_state, set_rng_state
from vq_core.runs.folders import Phase
from vq_core.training.ranks import from_each, total, world_size
from vq_core.training.schedules import learning_rate


class StoppedEarly(Exception):
    """Raised inside `fit` after Ctrl-C or SIGTERM; not a KeyboardInterrupt, at which Lightning exits."""


class StepModule(L.LightningModule):
    """Base of the trainings.

    A sub-class computes losses in its `training_step`, calls `add_gradient` for each and, at the end of the batch,
    `finish_batch`. `make_optimizers` names the optimisers, `active_optimizers` those that move in the step under way.

    Args:
        position: where the training stands; shared with the DataModule, moved on here alone.
        peak_lr, warmup_steps: of the learning rate.
        monitor: validation metric that "best" and early stopping look at (lower is better), or "latest".
        patience: validations without progress before training stops.
    """

    def __init__(
        self,
        config: Config,
        phase: Phase,
        position: Position,
        peak_lr: float,
        warmup_steps: int,
        monitor: str,
        patience: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config, self.phase, self.position = config, phase, position
        self.peak_lr, self.warmup_steps = peak_lr, min(warmup_steps, position.total_steps // 2)
        self.monitor, self.patience = monitor, patience
        self.best = math.inf
        self.validations_since_best = 0
        self.improved = False
        self.stop_now = False  # the state is saved, and training ends when all callbacks have had their turn
        self.seconds = 0.0  # spent in training and validation, before an interruption too
        self.skipped = self.bad_in_a_row = 0  # steps without an update, because something was not finite
        self.optimizer_names: tuple[str, ...] = ()
        self._step_sums: dict[str, Tensor] = {}  # over the batches of this step
        self._steps: dict[str, list[Tensor]] = {}  # of each step since the last log
        self._clock = (0, time.monotonic())
        self._plateaus: list[ReduceLROnPlateau] = []
        self._pending: dict[str, Any] | None = None

    # --- one step -------------------------------------------------------------------------------------------------

    def add_gradient(self, loss: Tensor) -> None:
        """Backward: the batch's part of the gradient of the effective batch."""
        self.manual_backward(loss / self.position.accumulate)

    def finish_batch(self, terms: dict[str, Tensor], images: int) -> None:
        """Take note of a batch's loss terms; when the effective batch is complete, make the update and count it."""
        for name, value in terms.items():
            self._step_sums[name] = self._step_sums.get(name, torch.zeros((), device=self.device)) + value.detach()
        if not self.position.next_batch():
            return
        self._set_learning_rates()
        updated, means = self._update()
        self.after_update(updated, means)
        self._count_bad_steps(updated)
        self._step_sums = {}
        self.position.steps_done += 1
        if self.steps_done % self.config.train.log_every == 0 or self.steps_done == self.position.total_steps:
            self._log_train(images)

    def _update(self) -> tuple[bool, dict[str, Tensor]]:
        """Clip and step every optimiser, or none of them: a loss or gradient that is not finite makes no update.

        Returns:
            Whether there was an update, and the step's loss terms, as means over its batches.
        """
        scaler, optimizers, accumulate = self.scaler, self.active_optimizers(), self.position.accumulate
        for optimizer in optimizers.values() if scaler is not None else ():
            scaler.unscale_(optimizer.optimizer)
        for name, optimizer in optimizers.items():
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            norm = nn.utils.clip_grad_norm_(parameters, self.config.optim.clip)
            self._step_sums[f"grad_norm{name}"] = norm * accumulate  # the sums are of `accumulate` batches
        sums = torch.stack([value.float() for value in self._step_sums.values()])
        # Gradients are the same on every rank, losses are not: the ranks must decide alike.
        finite = float(total((~sums.isfinite()).float().sum())) == 0
        for optimizer in optimizers.values():
            if finite:
                optimizer.step() if scaler is None else scaler.step(optimizer.optimizer)
            optimizer.zero_grad(set_to_none=True)
        if scaler is not None:  # once per step, after every optimiser
            scaler.update()
        means = {name: value / accumulate for name, value in zip(self._step_sums, sums, strict=True)}
        for name, value in means.items() if finite else ():
            self._steps.setdefault(name, []).append(value)
        return finite, means

    def active_optimizers(self) -> dict[str, LightningOptimizer]:
        """The optimisers that move in this step, by name."""
        optimizers = self.optimizers()
        return dict(
            zip(self.optimizer_names, optimizers if isinstance(optimizers, list) else [optimizers], strict=True)
        )

    def after_update(self, updated: bool, means: dict[str, Tensor]) -> None:
        """Called after every step's update, or after it was skipped, with the step's mean loss terms."""

    def _count_bad_steps(self, updated: bool) -> None:
        if updated:
            self.bad_in_a_row = 0
            return
        if self.scaler is not None and self.scaler.get_scale() > 1:
            return  # in fp16 a gradient that overflows is nothing bad: the scaler comes down until it fits
        self.skipped += 1
        self.bad_in_a_row += 1
        self.record({"train/skipped": float(self.skipped)}, step=self.steps_done + 1)
        if self.bad_in_a_row >= self.config.train.bad_steps:
            bad = [name for name, value in self._step_sums.items() if not bool(value.isfinite())]
            raise NotFiniteError(
                f"{', '.join(bad) or 'a loss'} is not finite at step {self.steps_done + 1}, "
                f"{self.bad_in_a_row} times in a row; last.ckpt holds the last finite state; lower the learning rate"
            )

    @property
    def steps_done(self) -> int:
        """Updates so far, those that were skipped among them."""
        return self.position.steps_done

    @property
    def shard(self) -> tuple[int, int]:
        """Rank of this process, and the number of processes that share each batch."""
        return self.global_rank, self.trainer.world_size

    @property
    def scaler(self) -> Any:
        """The gradient scaler of fp16; None at other precisions."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    @property
    def settled(self) -> bool:
        """Whether what is optimised is the same from here on: before, any newer state is the better one."""
        return True

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or validation has not improved for too long."""
        return self.steps_done >= self.position.total_steps or self.validations_since_best >= self.patience

    # --- optimisers and their learning rates ----------------------------------------------------------------------

    def make_optimizers(self) -> dict[str, Optimizer]:
        """The optimisers, by the ending that their learning rates and gradient norms have in the logs."""
        raise NotImplementedError

    def configure_optimizers(self) -> list[Optimizer]:
        optimizers = self.make_optimizers()
        self.optimizer_names = tuple(optimizers)
        return list(optimizers.values())

    def _set_learning_rates(self) -> None:
        if self._plateaus and self.steps_done > self.warmup_steps:
            return  # from here on the rates are the plateau schedulers'
        steps = {"total": self.position.total_steps, "warmup": self.warmup_steps}
        factor = learning_rate(self.config.optim, self.steps_done, peak=self.peak_lr, **steps) / self.peak_lr
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * group.setdefault("initial_lr", group["lr"])

    # --- records --------------------------------------------------------------------------------------------------

    def record(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Hand metrics of this step to every logger."""
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.steps_done if step is None else step)

    def _log_train(self, images: int) -> None:
        # Each over the steps that had it: those of the GAN may begin in between.
        mean = [torch.stack(values).mean() for values in self._steps.values()]
        shared = total(torch.stack(mean) if mean else torch.zeros(0, device=self.device)) / world_size()
        means = dict(zip(self._steps, shared.tolist(), strict=True))
        steps, since = self._clock
        now = time.monotonic()
        if self.steps_done > steps > 0:
            done = (self.steps_done - steps) * self.position.accumulate * images * world_size()
            means["images_per_second"] = done / (now - since)
        self.seconds += now - since
        self._clock = (self.steps_done, now)
        for name, optimizer in zip(self.optimizer_names, self.trainer.optimizers, strict=True):
            means[f"lr{name}"] = optimizer.param_groups[0]["lr"]
        self._steps = {}
        self.record({f"train/{name}": value for name, value in means.items()})

    def finish_validation(self, metrics: dict[str, float]) -> None:
        """Record validation metrics, remember whether they are the best, stop when they have not been for long."""
        self.record({f"val/{name}": value for name, value in metrics.items()})
        value = metrics[self.monitor] if self.monitor != "latest" else -float(self.steps_done)
        self.improved = value < self.best or not self.settled
        self.best = value if self.improved else self.best
        self.validations_since_best = 0 if self.improved else self.validations_since_best + 1
        for plateau in self._plateaus:
            plateau.step(metrics.get("rec", value))
        if self.finished:
            self.trainer.should_stop = True

    # --- resume ---------------------------------------------------------------------------------------------------

    def training_state(self) -> dict[str, Any]:
        """All that a later `fit` needs to go on from here, as tensors and plain values.

        Raises:
            NotFiniteError: a weight is not finite; such a state is not worth keeping.
        """
        model = self.state_dict()
        bad = [name for name, value in model.items() if not bool(value.isfinite().all())]
        if bad:
            raise NotFiniteError(
                f"{bad[0]} is not finite at step {self.steps_done}; last.ckpt holds the last finite state; "
                "lower the learning rate"
            )
        return {
            "format": FORMAT,
            "phase": self.phase,
            "config": self.config.model_dump(mode="json"),
            "steps_done": self.steps_done,
            "best": self.best,
            "validations_since_best": self.validations_since_best,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "bad_in_a_row": self.bad_in_a_row,
            "model": model,
            "optimizers": [optimizer.state_dict() for optimizer in self.trainer.optimizers],
            "plateaus": [plateau.state_dict() for plateau in self._plateaus],
            "scaler": self.trainer.precision_plugin.state_dict(),
            "rng": from_each(rng_state()),
        }

    def resume_from(self, state: dict[str, Any]) -> None:
        """Take over a saved state; optimisers and random generators follow when `fit` starts."""
        self.load_state_dict(state["model"])
        self.position.steps_done, self.seconds = state["steps_done"], state["seconds"]
        self.best, self.validations_since_best = state["best"], state["validations_since_best"]
        self.skipped, self.bad_in_a_row = state["skipped"], state["bad_in_a_row"]
        self._pending = state

    def on_train_batch_end(self, *_: Any) -> None:
        self._stop_if_asked()

    def on_validation_end(self) -> None:
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.stop_now:
            raise StoppedEarly

    def on_train_start(self) -> None:
        self._clock = (self.steps_done, time.monotonic())
        optim = self.config.optim
        if optim.schedule == "plateau":
            self._plateaus = [
                ReduceLROnPlateau(optimizer, factor=0.5, patience=optim.plateau_patience, min_lr=optim.lr_end)
                for optimizer in self.trainer.optimizers
            ]
        state, self._pending = self._pending, None
        if state is None:
            if self.global_rank:  # else dropout would draw the same on every rank
                torch.manual_seed(self.config.seed + self.global_rank)
            return
        for optimizer, saved in zip(self.trainer.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for plateau, saved in zip(self._plateaus, state["plateaus"], strict=True):
            plateau.load_state_dict(saved)
        if state["scaler"]:
            self.trainer.precision_plugin.load_state_dict(state["scaler"])
        set_rng_state(state["rng"][self.global_rank % len(state["rng"])])
