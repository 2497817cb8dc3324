"""The live view of a training: one picture in the training cell's output, redrawn in place."""

import time
from collections.abc import Sequence
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import DisplayHandle, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from vq_core.notebook.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, STYLE, draw_usage, png_of
from vq_core.runs.folders import PRIORS, History, Run
from vq_core.settings import LossConfig
from vq_core.training.callbacks import View
from vq_core.training.diagnosis import diagnose
from vq_core.training.plan import in_words
from vq_core.training.steps import StepModule

# Panels: the title, and the label of each logged metric.
_LOSS = ("loss", {"train/total": "train", "val/total": "validation"})
# Shown in place of the loss: the training total includes L_gan, the validation total does not.
_REC = ("L_rec", {"train/rec": "train", "val/rec": "validation"})
_BITS = ("bits per token", {"train/bits": "train", "val/bits": "validation"})
_NO_TERMS = ("vq", "gan", "gan_adaptive")  # not optimised with an EMA codebook; in a panel of its own; no weight
_WEIGHTS = [name for name, field in LossConfig.model_fields.items() if field.annotation is float]
_NAMES = dict.fromkeys(["rec", "commit", "perceptual", *_WEIGHTS])  # the first three in this order, then all others
_TERMS = ("terms of the loss", {f"train/{n}": {"l2": "L2"}.get(n, n) for n in _NAMES if n not in _NO_TERMS})
_GAN = ("GAN", {"train/disc": "discriminator", "train/gan": "L_gan"})
_PSNR = ("PSNR [dB]", {"val/psnr": ""})
_PERPLEXITY = ("perplexity", {"val/perplexity": ""})
_RATES = ("learning rate", {"train/lr": "AdamW", "train/lr_discriminator": "discriminator", "train/lr_muon": "Muon"})
_PANELS = {
    "kmeans": (_LOSS, _TERMS, _PSNR, _RATES),
    "phase1": (_LOSS, _TERMS, _PSNR, _PERPLEXITY, _RATES),
    "phase2": (_REC, _TERMS, _GAN, _PSNR, _PERPLEXITY, _RATES),
    **dict.fromkeys(PRIORS, (_BITS, _RATES)),
}
_IN_WORDS = {"train/total": "loss", "val/psnr": "validation PSNR"}
_IN_WORDS |= {"train/bits": "train bits", "val/bits": "validation bits"}  # of the priors


class LiveView(View):
    """A phase as it trains, redrawn every `seconds`, or less often, to spend at most a fraction `overhead` on it."""

    def __init__(self, run: Run, history: History, seconds: float = 10.0, overhead: float = 0.015) -> None:
        super().__init__(run, history)
        self.seconds, self.overhead = seconds, overhead
        self.handle: DisplayHandle | None = None
        self.began = self.due = self.spent = 0.0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.began, self.first_step = time.monotonic(), module.steps_done
        self._draw(module)

    def on_train_batch_end(self, trainer: Any, module: Any, *batch: Any) -> None:
        if time.monotonic() >= self.due:
            self._draw(module)

    def ended(self, training: StepModule, how: str) -> None:
        minutes, times = in_words(training.seconds), training.validations_since_best
        words = {
            "done": f"done in {minutes}",
            "stopped early": f"stopped early after {minutes}: no improvement in {times} validations",
            "interrupted": "interrupted: run the cell again to resume",
        }
        self._draw(training, words.get(how, how))

    def show_finished(self) -> None:
        result = self.run.result()
        ended = f"best at step {result['best_step']} · took {in_words(result['seconds'])}"
        status = " · ".join([f"{self.run.phase} step {result['steps']}", *self._metrics(), ended])
        self._show(status, result["steps"], result["findings"])

    def status(self, training: StepModule, ended: str = "") -> str:
        """One line: step, metrics, speed, and the time left or how it ended."""
        done, total = training.steps_done, training.position.total_steps
        parts = [f"{self.run.phase} step {done}/{total}", *self._metrics()]
        steps, seconds = done - self.first_step, time.monotonic() - self.began
        if steps:
            group = training.config.prior if self.run.phase in PRIORS else training.config.train
            parts.append(f"{steps * group.batch_size / seconds:.3g} images/s")
            ended = ended or f"{in_words(seconds / steps * (total - done))} left"
        return " · ".join([*parts, ended] if ended else parts)

    def _metrics(self) -> list[str]:
        last = {name: value for row in self.history.rows[-50:] for name, value in row.items()}
        return [f"{label} {last[name]:.4g}" for name, label in _IN_WORDS.items() if name in last]

    def _draw(self, training: StepModule, ended: str = "") -> None:
        started = time.monotonic()
        findings = diagnose(self.run.phase, self.history.rows, training.config)
        self._show(self.status(training, ended), training.steps_done, [str(finding) for finding in findings])
        now = time.monotonic()
        self.spent += now - started
        # Not before enough time has passed for this drawing and the next one to stay within `overhead`.
        self.due = max(now + self.seconds, self.began + (self.spent + now - started) / self.overhead)

    def _show(self, status: str, step: int, findings: Sequence[str]) -> None:
        """Draw the whole picture; always of the same size, so that the notebook does not jump."""
        with plt.rc_context(STYLE):
            fig = plt.figure(figsize=(12, 2.8 if self.run.phase in PRIORS else 5.6), layout="constrained")
            if self.history.rows:
                self._fill(fig, step)
            else:
                fig.text(0.5, 0.5, "plots will appear here", ha="center", va="center", color=GREY, fontsize=9)
        plt.close(fig)
        fig.suptitle(status, fontsize=9.5)
        if findings:
            fig.supxlabel("\n".join(fill(finding, 150) for finding in findings), fontsize=8.5, color=RED)
        picture = {"image/png": png_of(fig), "text/plain": status}  # the text for places that cannot show pictures
        if self.handle is None:
            self.handle = display(picture, raw=True, display_id=True)  # None outside a notebook
        else:
            self.handle.update(picture, raw=True)

    def _fill(self, fig: Figure, step: int) -> None:
        panels = _PANELS[self.run.phase]
        upper, lower = (fig, None) if self.run.phase in PRIORS else tuple(fig.subfigures(2, 1, squeeze=False).flat)
        for ax, panel in zip(upper.subplots(1, len(panels)), panels, strict=True):
            self._panel(ax, *panel)
        if lower is not None:
            widths = (3,) if self.run.phase == "kmeans" else (2, 3)  # no codebook yet
            *codes, pictures = lower.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
            for ax in codes:
                self._codes(ax)
            self._pictures(pictures, step)

    def _codes(self, ax: Axes) -> None:
        if self.history.latest_usage is None:
            return _placeholder(ax, "codebook usage")
        logged, counts = self.history.latest_usage
        draw_usage(ax, counts.astype(float), f"codebook, step {logged}")
        ax.title.set_fontsize(9)

    def _pictures(self, ax: Axes, step: int) -> None:
        drawn = {int(path.stem.removeprefix("step=")): path for path in (self.run.folder / "pictures").glob("step=*")}
        shown = max((number for number in drawn if number <= step), default=None)  # later ones are from before a resume
        if shown is None:
            return _placeholder(ax, "reconstructions")
        with Image.open(drawn[shown]) as sheet:
            tile = sheet.height // 2 - 1  # side of a picture plus its gap of 2 pixels; the sheet has one gap more
            columns = 8 if tile < 100 else 4  # eight large ones would each be a thumbnail
            ax.imshow(np.asarray(sheet)[:, : columns * tile + 2])
        ax.axis("off")
        ax.set_title(f"validation images above, reconstructions below, step {shown}", fontsize=9, fontweight="normal")

    def _panel(self, ax: Axes, title: str, labels: dict[str, str]) -> None:
        colours = (BLUE, ORANGE, GREEN, PURPLE, RED, GREY) if len(labels) > 1 else (GREEN,)
        for colour, (name, label) in zip(colours, labels.items(), strict=False):
            if rows := [(row["step"], row[name]) for row in self.history.rows if name in row]:
                ax.plot(*zip(*rows, strict=True), color=colour, label=label, marker="o" if len(rows) < 12 else "", ms=3)
        ax.set(title=title, xlabel="step")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8)


def _placeholder(ax: Axes, what: str) -> None:
    ax.axis("off")
    ax.text(0.5, 0.5, f"{what} will appear here", ha="center", va="center", color=GREY, fontsize=9)
