"""What happens beside training: checkpoints, pictures and histograms, an orderly stop, a progress bar."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid
from tqdm.auto import tqdm

from vq_core.data.augment import to_uint8
from vq_core.training.diagnosis import diagnose
from vq_core.training.ranks import barrier, total, world_size
from vq_core.training.runs import History, Run
from vq_core.training.state import save_checkpoint
from vq_core.training.step_module import StepModule
from vq_core.training.vqvae_module import VQVAEModel

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedEarly(Exception):
    """Raised inside `fit` after Ctrl-C or SIGTERM; not a KeyboardInterrupt, at which Lightning exits."""


class Stopped(KeyboardInterrupt):
    """Training was stopped in good order, by all its processes together; what was reached is saved."""


class Checkpoints(Callback):
    """Saves `last.ckpt` every so often, `best.ckpt` when validation improves, and `step=….ckpt` to keep.

    Ctrl-C and SIGTERM are answered at the end of the step under way, or of the validation that belongs to it: the state
    is saved and training stops. Asked twice, it stops at once, and goes on later from the last checkpoint.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._asked = False  # this process, by a signal
        self.stopped_together = False  # all processes agreed to; not after a second signal, which stops one at once

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self.stopped_together = False
            raise StoppedEarly
        self._asked = True

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if module.at_step_boundary and not module.validation_due:
            self._agree(module)
            self._after_step(trainer, module, module.steps_done % module.config.train.save_every == 0)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        self._agree(module)
        if module.improved:
            self._save(trainer, module, "best.ckpt")
        self._after_step(trainer, module, True)

    def _after_step(self, trainer: L.Trainer, module: StepModule, save: bool) -> None:
        if save or self.stopped_together:
            self._save(trainer, module, "last.ckpt")
        if module.steps_done % module.config.train.checkpoint_every == 0:
            self._save(trainer, module, f"step={module.steps_done}.ckpt")
        if self.stopped_together:
            barrier()  # no process ends before the state is on the disk
            raise StoppedEarly

    def _agree(self, module: StepModule) -> None:
        """All processes stop at the same step, whichever of them was asked."""
        stop = self._asked
        if world_size() > 1:
            stop = float(total(torch.tensor(float(self._asked), device=module.device))) > 0
        self.stopped_together = stop

    def _save(self, trainer: L.Trainer, module: StepModule, name: str) -> None:
        state = module.training_state()
        if trainer.is_global_zero:
            save_checkpoint(self.run.folder / "checkpoints" / name, state)


@contextmanager
def signals_given_back() -> Iterator[None]:
    """Whoever answered Ctrl-C and SIGTERM before answers them again afterwards (Lightning changes both)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Pictures(Callback):
    """Every few hundred steps: a grid of validation images above their reconstructions, and the usage histogram.

    That of the validation images is taken at every validation.
    """

    def __init__(self, run: Run, history: History, images: Tensor) -> None:
        self.run, self.history, self.images = run, history, images

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        due = module.steps_done % module.config.train.image_every == 0 or module.steps_done == module.total_steps
        if not (due and module.at_step_boundary):
            return
        if not trainer.is_global_zero:
            module.usage.zero_()
            return
        grid = make_grid(self.reconstruct(module), nrow=len(self.images), padding=2, pad_value=255)
        folder = self.run.folder / "pictures"
        folder.mkdir(exist_ok=True)
        to_pil_image(grid).save(folder / f"step={module.steps_done:06d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("reconstructions", grid, module.steps_done)
                if module.quantize:
                    logger.experiment.add_histogram("codes", _as_samples(module.usage.cpu()), module.steps_done)
            elif isinstance(logger, WandbLogger):
                logger.log_image("reconstructions", [grid.float() / 255], step=module.steps_done)
                if module.quantize:
                    import wandb

                    codes = wandb.Histogram(_as_samples(module.usage.cpu()).numpy())
                    logger.log_metrics({"codes": codes}, module.steps_done)
        if module.quantize:
            self.history.log_usage(module.usage.cpu().numpy(), module.steps_done)
            module.usage.zero_()

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if module.quantize:
            self.history.log_usage(module.val_usage.cpu().numpy(), module.steps_done, "val")

    @torch.no_grad()
    def reconstruct(self, module: VQVAEModel) -> Tensor:
        """Inputs, then reconstructions: uint8 [2n, 3, h, w]."""
        module.eval()
        x = self.images.to(module.device)
        pair = torch.cat([x, module(x).float()])
        module.train()
        return to_uint8(pair).permute(0, 3, 1, 2).cpu()


def _as_samples(usage: Tensor) -> Tensor:
    """Code numbers, repeated as often as used (at most about 10,000 in all): what TensorBoard draws a histogram of."""
    scale = max(1.0, float(usage.sum()) / 10_000)
    return torch.repeat_interleave(torch.arange(len(usage)), (usage / scale).round().long())


class RunView(Callback):
    """What a notebook shows of a training while it runs, and of a finished one that is loaded."""

    def __init__(self, run: Run, history: History) -> None:
        self.run, self.history = run, history

    def show_finished(self) -> None:
        """Called instead of a training where there is nothing left to train, or to wait for."""


class Bar(RunView):
    """A progress bar that counts steps, from where an interrupted run goes on."""

    def __init__(self, run: Run, history: History) -> None:
        super().__init__(run, history)
        self.bar: tqdm | None = None

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.bar = tqdm(
            total=module.total_steps, initial=module.steps_done, desc=self.run.kind, unit="step", dynamic_ncols=True
        )

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert self.bar is not None
        self.bar.update(module.steps_done - self.bar.n)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if self.bar is not None and module.monitor != "latest":
            self.bar.set_postfix_str(f"val {module.monitor} {module.best:.4f}", refresh=False)

    def teardown(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        if self.bar is not None:
            self.bar.close()


class AdvisingBar(Bar):
    """A progress bar that also says what it sees going wrong, each thing once."""

    def __init__(self, run: Run, history: History) -> None:
        super().__init__(run, history)
        self.said: set[str] = set()

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        super().on_validation_end(trainer, module)
        for finding in diagnose(module.kind, self.history.rows, module.config):
            if finding.row not in self.said:
                self.said.add(finding.row)
                tqdm.write(f"step {module.steps_done}: {finding}", file=sys.stderr)
