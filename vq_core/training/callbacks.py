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
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid
from tqdm.auto import tqdm

from vq_core.data.augment import to_uint8
from vq_core.runs.checkpoints import save_checkpoint
from vq_core.runs.folders import History, Run
from vq_core.training.diagnosis import diagnose
from vq_core.training.ranks import barrier, total, world_size
from vq_core.training.steps import StepModule, StoppedEarly

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class HistoryLogger(Logger):
    """Lightning's way of logging into a run's `History`."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self.history = history

    name = version = ""  # Lightning asks for them; a run has its folder

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the settings are in `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row."""
        self.history.add(metrics, step or 0)


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
        if module.position.between_steps and not module.position.validation_due:
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
            module.stop_now = True

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
        step, position = module.steps_done, module.position
        due = step % module.config.train.image_every == 0 or step == position.total_steps
        if not (due and position.between_steps and trainer.is_global_zero):
            return
        grid = make_grid(self.reconstruct(module), nrow=len(self.images), padding=2, pad_value=255)
        folder = self.run.folder / "pictures"
        folder.mkdir(exist_ok=True)
        to_pil_image(grid).save(folder / f"step={step:06d}.png")
        usage = module.finished_usage.cpu() if module.vqvae.quantize else None
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("reconstructions", grid, step)
                if usage is not None:
                    logger.experiment.add_histogram("codes", _as_samples(usage), step)
            elif isinstance(logger, WandbLogger):
                logger.log_image("reconstructions", [grid.float() / 255], step=step)
                if usage is not None:
                    import wandb

                    logger.log_metrics({"codes": wandb.Histogram(_as_samples(usage).numpy())}, step)
        if usage is not None:
            self.history.add_usage(usage.numpy(), step)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if module.vqvae.quantize and trainer.is_global_zero:
            self.history.add_usage(module.val_usage.cpu().numpy(), module.steps_done, "val")

    @torch.no_grad()
    def reconstruct(self, module: StepModule) -> Tensor:
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


class View:
    """What shows a training while it runs, or a finished one that is loaded; this one shows nothing.

    `started`, `stepped` (after each batch) and `validated` are called in the course of a training, `ended` at its end
    ("done", "stopped early", "interrupted" or the name of an error), `show_finished` where nothing is to be trained.
    """

    def __init__(self, run: Run, history: History) -> None:
        self.run, self.history = run, history

    def started(self, training: StepModule) -> None: ...
    def stepped(self, training: StepModule) -> None: ...
    def validated(self, training: StepModule) -> None: ...
    def ended(self, training: StepModule, how: str) -> None: ...
    def show_finished(self) -> None: ...


class Showing(Callback):
    """Tells a view what happens."""

    def __init__(self, view: View) -> None:
        self.view = view

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.view.started(module)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.view.stepped(module)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        self.view.validated(module)

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        all_steps = module.steps_done >= module.position.total_steps
        self.view.ended(module, "done" if all_steps else "stopped early")

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        stopped = isinstance(exception, StoppedEarly | KeyboardInterrupt)
        self.view.ended(module, "interrupted" if stopped else type(exception).__name__)


class Bar(View):
    """A progress bar that counts steps, and says what it sees going wrong, each thing once."""

    advises = True

    def __init__(self, run: Run, history: History) -> None:
        super().__init__(run, history)
        self.bar: tqdm | None = None
        self.said: set[str] = set()

    def started(self, training: StepModule) -> None:
        total, done = training.position.total_steps, training.steps_done
        self.bar = tqdm(total=total, initial=done, desc=self.run.phase, unit="step", dynamic_ncols=True)

    def stepped(self, training: StepModule) -> None:
        assert self.bar is not None
        self.bar.update(training.steps_done - self.bar.n)

    def validated(self, training: StepModule) -> None:
        if self.bar is not None and training.monitor != "latest":
            self.bar.set_postfix_str(f"val {training.monitor} {training.best:.4f}", refresh=False)
        for finding in diagnose(training.phase, self.history.rows, training.config) if self.advises else ():
            if finding.row not in self.said:
                self.said.add(finding.row)
                tqdm.write(f"step {training.steps_done}: {finding}", file=sys.stderr)

    def ended(self, training: StepModule, how: str) -> None:
        if self.bar is not None:
            self.bar.close()


class SilentBar(Bar):
    """The same for runs that are too short to be advised on."""

    advises = False
