"""One training step once its losses are known: backward, clip, update, count. Also learning rates, logging, resuming.

A *step* is one update of the model, whatever the accumulation and the number of optimisers. Lightning's count differs
(its `global_step` counts every optimiser), so nothing here asks Lightning for a step, and its checkpoints are not used:
a run resumes from our own state, with a new `fit` over the batches that remain.
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
from tqdm.auto import tqdm

from vq_core.config import Config
from vq_core.data.batches import Position
from vq_core.errors import NotFiniteError
from vq_core.machine import compiles
from vq_core.runs.checkpoints import FORMAT
from vq_core.runs.folders import Phase
from vq_core.training.ranks import total, world_size
from vq_core.training.schedules import learning_rate

_ADVICE = "last.ckpt holds the last finite state; lower the learning rate"
_PROGRESS = ("best", "validations_since_best", "seconds", "skipped", "bad_in_a_row")  # as named in checkpoints


class StoppedEarly(Exception):
    """Raised inside `fit` after Ctrl-C or SIGTERM; no KeyboardInterrupt, because Lightning exits on those."""


class StepModule(L.LightningModule):
    """Base class of the modules that train a phase.

    A subclass computes losses in its `training_step`, calls `add_gradient` for each of them and, at the end of the
    batch, `finish_batch`. `make_optimizers` names all optimisers, `active_optimizers` those that the step updates.

    `position`, shared with the DataModule, is advanced only here. `monitor` is the validation metric that decides on
    `best.ckpt` (lower is better), or "latest"; after `patience` validations without improvement, training stops.
    """

    def __init__(
        self, config: Config, phase: Phase, position: Position, lr: float, warmup: int, monitor: str, patience: int
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config, self.phase, self.position = config, phase, position
        self.peak_lr, self.warmup_steps = lr, min(warmup, position.total_steps // 2)
        self.monitor, self.patience = monitor, patience
        self.best, self.validations_since_best, self.improved = math.inf, 0, False
        self.stop_now = False  # set once the state is saved: training ends after all callbacks have run
        self.seconds = 0.0  # of training and validation, including those before an interruption
        self.skipped = self.bad_in_a_row = 0  # steps without an update because something was not finite
        self._step_sums: dict[str, Tensor] = {}  # of each loss term over the batches of this step
        self._steps: dict[str, list[Tensor]] = {}  # mean of each term in every step since the last log
        self._unsettled: list[tuple[int, Tensor, dict[str, Tensor]]] = []  # step, whether it was made, means of terms
        self._clock = (0, time.monotonic())
        self._plateaus: list[ReduceLROnPlateau] = []
        self._pending: dict[str, Any] | None = None
        self.expected = dict[Phase, float]()  # seconds that this phase and those after it take, if that was told
        self.compile_how: dict[str, Any] = {}  # further arguments of torch.compile

    def compiled_parts(self) -> list[nn.Module]:
        """The networks to compile, if `train.compile` asks for it."""
        raise NotImplementedError

    def add_gradient(self, loss: Tensor) -> None:
        """Backward: add this batch's part of the effective batch's gradient."""
        self.manual_backward(loss / self.position.accumulate)

    def finish_batch(self, terms: dict[str, Tensor], images: int) -> None:
        """Sum up the batch's loss terms; once the effective batch is complete, make the update and count the step."""
        for name, value in terms.items():
            self._step_sums[name] = self._step_sums.get(name, torch.zeros((), device=self.device)) + value.detach()
        if not self.position.next_batch():
            return
        self._set_learning_rates()
        updated, means = self._update()
        self.after_update(updated, means)
        self._unsettled.append((self.steps_done + 1, updated, means))
        if self.waits:
            self.settle()
        self._step_sums = {}
        self.position.steps_done += 1
        if self.steps_done % self.config.train.log_every == 0 or self.steps_done == self.position.total_steps:
            self._log_train(images)

    @property
    def waits(self) -> bool:
        """Whether the device is waited for in every step, as where an optimiser, such as Muon, cannot skip one."""
        return self.device.type == "cpu" or self.scaler is not None or "_muon" in self.optimizer_names

    def _update(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Clip and step all active optimisers if all is finite; returns whether it is, and the means of the terms."""
        scaler, optimizers, accumulate = self.scaler, self.active_optimizers(), self.position.accumulate
        for optimizer in optimizers.values() if scaler is not None else ():
            scaler.unscale_(optimizer.optimizer)
        for name, optimizer in optimizers.items():
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            norm = nn.utils.clip_grad_norm_(parameters, self.config.optim.clip)
            self._step_sums[f"grad_norm{name}"] = norm * accumulate  # the sums are of `accumulate` batches
        sums = torch.stack([value.float() for value in self._step_sums.values()])
        # Gradients are the same on every rank but losses are not, and all ranks must make the same decision.
        bad = total((~sums.isfinite()).float().sum())
        bad = bad.cpu() if self.waits else bad  # here, once, and not again with each question that follows
        for optimizer in optimizers.values():
            if not self.waits:  # by this a fused optimiser skips the step
                optimizer.optimizer.found_inf = bad.clamp(max=1)  # type: ignore[attr-defined]
                optimizer.step()
            elif not bool(bad):
                optimizer.step() if scaler is None else scaler.step(optimizer.optimizer)
            optimizer.zero_grad(set_to_none=True)
        if scaler is not None:  # once per step, after every optimiser
            scaler.update()
        return bad == 0, {name: value / accumulate for name, value in zip(self._step_sums, sums, strict=True)}

    def active_optimizers(self) -> dict[str, LightningOptimizer]:
        """The optimisers that this step updates, by name."""
        optimizers = self.optimizers()
        listed = optimizers if isinstance(optimizers, list) else [optimizers]
        return dict(zip(self.optimizer_names, listed, strict=True))

    def after_update(self, updated: Tensor, means: dict[str, Tensor]) -> None:
        """Called after every update, made or (`updated` is false) skipped, with the step's mean loss terms."""

    def settle(self) -> None:
        """Count the steps that were skipped since the last call. Raises `NotFiniteError` after too many in a row."""
        unsettled, self._unsettled = self._unsettled, []
        made = torch.stack([updated for _, updated, _ in unsettled]).tolist() if unsettled else []
        for (step, _, means), updated in zip(unsettled, made, strict=True):
            if updated:
                self.bad_in_a_row = 0
                for name, value in means.items():
                    self._steps.setdefault(name, []).append(value)
            elif self.scaler is None or self.scaler.get_scale() <= 1:
                # In fp16 an overflowing gradient is normal: the scaler lowers its scale until the gradient fits.
                self.skipped += 1
                self.bad_in_a_row += 1
                self.record({"train/skipped": float(self.skipped)}, step=step)
                if self.bad_in_a_row >= self.config.train.bad_steps:
                    bad = ", ".join(name for name, value in means.items() if not bool(value.isfinite())) or "a loss"
                    when = f"at step {step}, {self.bad_in_a_row} times in a row"
                    raise NotFiniteError(f"{bad} is not finite {when}; {_ADVICE}")

    @property
    def steps_done(self) -> int:
        """Number of steps so far, including those whose update was skipped."""
        return self.position.steps_done

    @property
    def shard(self) -> tuple[int, int]:
        """Rank of this process, and number of processes that share each batch."""
        return self.global_rank, self.trainer.world_size

    @property
    def scaler(self) -> Any:
        """The gradient scaler of fp16; None at other precisions."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    @property
    def checkpoint_bytes(self) -> int:
        """Of all checkpoints that this training has yet to write, and will keep."""
        every, total, one = self.config.train.checkpoint_every, self.position.total_steps, self.state_dict().values()
        kept = 2 + total // every - self.steps_done // every
        return kept * 12 * sum(value.numel() for value in one)  # each with two moments, in fp32

    @property
    def settled(self) -> bool:
        """Whether the objective no longer changes; until then, every new state counts as an improvement."""
        return True

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or validation has not improved for `patience` validations."""
        return self.steps_done >= self.position.total_steps or self.validations_since_best >= self.patience

    def make_optimizers(self) -> dict[str, Optimizer]:
        """All optimisers, by the suffix of their learning rates and gradient norms in the logs."""
        raise NotImplementedError

    def configure_optimizers(self) -> list[Optimizer]:
        optimizers = self.make_optimizers()
        self.optimizer_names = tuple(optimizers)
        return list(optimizers.values())

    def _set_learning_rates(self) -> None:
        if self._plateaus and self.steps_done > self.warmup_steps:
            return  # from here on the plateau schedulers set the rates
        steps = {"total": self.position.total_steps, "warmup": self.warmup_steps}
        factor = learning_rate(self.config.optim, self.steps_done, peak=self.peak_lr, **steps) / self.peak_lr
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * group.setdefault("initial_lr", group["lr"])

    def record(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Pass metrics of the current step, or of `step`, to every logger."""
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.steps_done if step is None else step)

    def _log_train(self, images: int) -> None:
        self.settle()
        # Each term over the steps that had it: the GAN's may have started in between.
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
        """Record validation metrics, note whether they improved, and stop training if they have not for too long."""
        self.record({f"val/{name}": value for name, value in metrics.items()})
        value = metrics[self.monitor] if self.monitor != "latest" else -float(self.steps_done)
        self.improved = value < self.best or not self.settled
        self.best = value if self.improved else self.best
        self.validations_since_best = 0 if self.improved else self.validations_since_best + 1
        for plateau in self._plateaus:
            plateau.step(metrics.get("rec", value))
        if self.finished:
            self.trainer.should_stop = True

    def training_state(self) -> dict[str, Any]:
        """All that a later `fit` needs to continue from here. Raises `NotFiniteError` if a weight is not finite."""
        self.settle()
        model = self.state_dict()
        if bad := [name for name, value in model.items() if not bool(value.isfinite().all())]:
            raise NotFiniteError(f"{bad[0]} is not finite at step {self.steps_done}; {_ADVICE}")
        made: dict[str, Any] = {"format": FORMAT, "phase": self.phase, "config": self.config.model_dump(mode="json")}
        made |= {"precision": self.trainer.precision, "steps_done": self.steps_done}
        made |= {name: getattr(self, name) for name in _PROGRESS} | {"model": model}
        made["optimizers"] = [optimizer.state_dict() for optimizer in self.trainer.optimizers]
        made["plateaus"] = [plateau.state_dict() for plateau in self._plateaus]
        on_gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        rng = {"torch": torch.get_rng_state(), "cuda": on_gpu}  # a training draws from no other global generators
        rngs = [rng] * world_size()  # by rank
        if world_size() > 1:
            torch.distributed.all_gather_object(rngs, rng)
        return made | {"scaler": self.trainer.precision_plugin.state_dict(), "rng": rngs}

    def resume_from(self, state: dict[str, Any]) -> None:
        """Restore a saved state; optimisers and random generators are restored when `fit` starts."""
        self.load_state_dict(state["model"])
        self.position.steps_done = state["steps_done"]
        for name in _PROGRESS:
            setattr(self, name, state[name])
        self._pending = state

    def on_train_batch_end(self, *_: Any) -> None:
        if self.stop_now:
            raise StoppedEarly

    on_validation_end = on_train_batch_end

    def on_train_start(self) -> None:
        self._clock = (self.steps_done, time.monotonic())
        optim = self.config.optim
        for each in self.trainer.optimizers if optim.schedule == "plateau" else ():
            lowest = optim.lr_end / self.peak_lr * each.param_groups[0]["lr"]  # all fall to the same fraction
            self._plateaus.append(ReduceLROnPlateau(each, factor=0.5, patience=optim.plateau_patience, min_lr=lowest))
        if compiles(self.config, self.position.total_steps):
            tqdm.write("compiling the networks for this machine: the first step takes a minute or so")
            for part in self.compiled_parts():
                if self.device.type == "cuda":  # the layout of its convolutions; it gains nothing without compiling
                    part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                part.compile(dynamic=False, **self.compile_how)  # for training; other sizes of batches run as they are
        state, self._pending = self._pending, None
        if state is None:
            if self.global_rank:  # so that dropout differs between ranks
                torch.manual_seed(self.config.seed + self.global_rank)
            return
        for optimizer, saved in zip(self.trainer.optimizers, state["optimizers"], strict=True):
            for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True):
                group.update({key: value for key, value in own.items() if key == "fused"})  # as suits this machine
            optimizer.load_state_dict(saved)
            for weight, kept in optimizer.state.items():  # moments in its memory layout, which fused ones rely on
                kept.update({n: torch.empty_like(weight).copy_(v) for n, v in kept.items() if v.shape == weight.shape})
        for plateau, saved in zip(self._plateaus, state["plateaus"], strict=True):
            plateau.load_state_dict(saved | {"min_lrs": plateau.min_lrs})
        if state["scaler"]:
            self.trainer.precision_plugin.load_state_dict(state["scaler"])
        rng = state["rng"][self.global_rank % len(state["rng"])]
        torch.set_rng_state(rng["torch"])
        if rng["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(rng["cuda"])
