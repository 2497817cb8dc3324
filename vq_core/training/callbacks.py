"""What accompanies training: checkpoints, pictures and histograms, an orderly stop, a progress bar."""

import signal
import sys
import threading
from contextlib import ExitStack
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
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


class HistoryLogger(DummyLogger):
    """Lets Lightning log metrics into a run's `History`, and nothing else: the settings are in `config.yaml`."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self.history = history

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.history.add(metrics, step or 0)


class Checkpoints(L.Callback):
    """Saves `last.ckpt` at intervals, `best.ckpt` when validation improves, and `step=….ckpt` to keep.

    After Ctrl-C or SIGTERM, the current step and the validation that belongs to it are finished, the state is saved and
    training stops. A second signal stops it at once, and it will resume from the last checkpoint.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._asked = False  # to stop, by a signal to this process
        self.stopped_together = False  # by agreement of all processes; False after a second signal, which stops one

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        for number in STOP_SIGNALS if threading.current_thread() is threading.main_thread() else ():
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: Any) -> None:
        if self._asked:
            self.stopped_together = False
            raise StoppedEarly
        self._asked = True

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if module.position.between_steps and not module.position.validation_due:
            self._after_step(trainer, module, module.steps_done % module.config.train.save_every == 0)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if module.improved:
            self._save(trainer, module, "best.ckpt")
        self._after_step(trainer, module, True)

    def _after_step(self, trainer: L.Trainer, module: StepModule, save: bool) -> None:
        self.stopped_together = self._asked
        if world_size() > 1:  # all processes stop at the same step, whichever of them got the signal
            self.stopped_together = float(total(torch.tensor(float(self._asked), device=module.device))) > 0
        if save or self.stopped_together:
            self._save(trainer, module, "last.ckpt")
        if module.steps_done % module.config.train.checkpoint_every == 0:
            self._save(trainer, module, f"step={module.steps_done}.ckpt")
        if self.stopped_together:
            barrier()  # no process exits before the state is on disk
            module.stop_now = True

    def _save(self, trainer: L.Trainer, module: StepModule, name: str) -> None:
        state = module.training_state()
        if trainer.is_global_zero:
            save_checkpoint(self.run.folder / "checkpoints" / name, state)


def signals_given_back() -> ExitStack:
    """Restores the handlers of Ctrl-C and SIGTERM, as Lightning does not if Ctrl-C comes before its first step."""
    stack = ExitStack()
    # Only in the main thread: elsewhere they cannot be set.
    for number in STOP_SIGNALS if threading.current_thread() is threading.main_thread() else ():
        stack.callback(signal.signal, number, signal.getsignal(number) or signal.SIG_DFL)  # None: not from Python
    return stack


class Pictures(L.Callback):
    """At intervals, validation images above their reconstructions, and how codes are used; this at validations too."""

    def __init__(self, run: Run, history: History, images: Tensor) -> None:
        self.run, self.history, self.images = run, history, images

    @torch.compiler.set_stance("force_eager")
    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, position = module.steps_done, module.position
        due = step % module.config.train.image_every == 0 or step == position.total_steps
        if not (due and position.between_steps and trainer.is_global_zero):
            return
        module.eval()
        x = self.images.to(module.device)
        with torch.no_grad():
            pictures = to_uint8(torch.cat([x, module.vqvae(x).float()])).permute(0, 3, 1, 2).cpu()
        module.train()
        grid = make_grid(pictures, nrow=len(x), padding=2, pad_value=255)
        folder = self.run.folder / "pictures"
        folder.mkdir(exist_ok=True)
        to_pil_image(grid).save(folder / f"step={step:06d}.png")
        usage = module.finished_usage.cpu()
        # Each code's index, as often as it was used (scaled to at most about 10,000), for the loggers' histograms.
        samples = torch.repeat_interleave((usage / max(1.0, float(usage.sum()) / 10_000)).round().long())
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("reconstructions", grid, step)
                if len(samples):  # none where every step was skipped
                    logger.experiment.add_histogram("codes", samples, step)
            elif isinstance(logger, WandbLogger):
                logger.log_image("reconstructions", [grid.float() / 255], step=step)
                if module.vqvae.quantize:
                    import wandb

                    logger.log_metrics({"codes": wandb.Histogram(samples.numpy())}, step)
        if module.vqvae.quantize:
            self.history.add_usage(usage.numpy(), step)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if module.vqvae.quantize and trainer.is_global_zero:
            self.history.add_usage(module.val_usage.cpu().numpy(), module.steps_done, "val")


class View(L.Callback):
    """Displays a run while it trains, or when it is loaded finished; this base class displays nothing.

    `ended` is called with "done", "stopped early", "interrupted" or an error's name, `show_finished` on a finished run.
    """

    def __init__(self, run: Run, history: History) -> None:
        self.run, self.history = run, history

    def ended(self, training: StepModule, how: str) -> None: ...
    def show_finished(self) -> None: ...

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        self.ended(module, "done" if module.steps_done >= module.position.total_steps else "stopped early")

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        stopped = isinstance(exception, StoppedEarly | KeyboardInterrupt)
        self.ended(module, "interrupted" if stopped else type(exception).__name__)


class Bar(View):
    """A progress bar that counts steps, and reports each problem it recognises once."""

    advises = True

    def __init__(self, run: Run, history: History) -> None:
        super().__init__(run, history)
        self.bar = tqdm(disable=True)  # until training starts
        self.said: set[str] = set()

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        total, done = module.position.total_steps, module.steps_done
        self.bar = tqdm(total=total, initial=done, desc=self.run.phase, unit="step", dynamic_ncols=True)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *batch: Any) -> None:
        self.bar.update(module.steps_done - self.bar.n)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if module.monitor != "latest":
            self.bar.set_postfix_str(f"val {module.monitor} {module.best:.4f}", refresh=False)
        for finding in diagnose(module.phase, self.history.rows, module.config) if self.advises else ():
            if finding.row not in self.said:
                self.said.add(finding.row)
                tqdm.write(f"step {module.steps_done}: {finding}", file=sys.stderr)

    def ended(self, training: StepModule, how: str) -> None:
        self.bar.close()


class SilentBar(Bar):
    """The same without advice, for runs too short to judge."""

    advises = False
