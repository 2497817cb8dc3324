"""The live view of a training: one picture in the cell that trains, redrawn in place."""

import time
from textwrap import fill
from typing import Any

import lightning as L
import numpy as np
from IPython.display import DisplayHandle, display
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from torch import Tensor

from vq_core.notebook.plots import BLUE, GREEN, ORANGE, RED, draw_usage, figure, png_of
from vq_core.training.callbacks import Pictures
from vq_core.training.diagnosis import diagnose
from vq_core.training.runs import PRIORS, History, Run


class _Picture:
    """A figure as PNG, with a line of text for where pictures cannot be shown."""

    def __init__(self, fig: Figure, status: str) -> None:
        self.png, self.status = png_of(fig), status

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"image/png": self.png, "text/plain": self.status}


class LiveView(Callback):
    """Losses, validation, codebook, learning rates and reconstructions while a phase trains; the last picture stays.

    Redrawn every `seconds`, and so seldom that drawing takes no more than `share` of the time.
    """

    def __init__(
        self, run: Run, history: History, pictures: Pictures | None, seconds: float = 10.0, share: float = 0.015
    ) -> None:
        self.run, self.history, self.pictures = run, history, pictures
        self.seconds, self.share = seconds, share
        self.handle: DisplayHandle | None = None
        self.began = self.due = self.spent = 0.0
        self.first_step = 0

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.began, self.first_step = time.monotonic(), module.steps_done
        self._draw(module)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if time.monotonic() >= self.due:
            self._draw(module)

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        self._draw(module)

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        self._draw(module)

    def status(self, module: Any) -> str:
        """One line: step, loss, speed, time left."""
        done, total = module.steps_done, module.total_steps
        parts = [f"{self.run.kind} step {done}/{total}"]
        last: dict[str, float] = {}
        for row in self.history.rows[-50:]:
            last |= row
        parts += [
            f"{n.split('/')[1]} {last[n]:.4g}"
            for n in ("train/total", "train/bits", "val/psnr", "val/bits")
            if n in last
        ]
        steps, seconds = done - self.first_step, time.monotonic() - self.began
        if steps and done < total:
            config = module.config
            batch = config.prior.batch_size if self.run.kind in PRIORS else config.train.batch_size
            parts.append(f"{steps * batch / seconds:.3g} images/s, {_minutes(seconds / steps * (total - done))} left")
        if done >= total:
            parts.append(f"done in {_minutes(module.seconds)}")
        return " · ".join(parts)

    def _draw(self, module: Any) -> None:
        started, status = time.monotonic(), self.status(module)
        picture = _Picture(self._figure(module, status), status)
        if self.handle is None:
            self.handle = display(picture, display_id=True)  # still None outside a notebook
        else:
            self.handle.update(picture)
        now = time.monotonic()
        self.spent += now - started
        # Not before the time trained so far has paid for what is drawn by then.
        self.due = max(now + self.seconds, self.began + (self.spent + now - started) / self.share)

    def _figure(self, module: Any, status: str) -> Figure:
        if not self.history.rows:
            fig, axes = figure(1, 1, 12, 0.4)
            axes[0][0].axis("off")
            fig.suptitle(f"{status} · figures follow", fontsize=9.5)
            return fig
        latest = self.pictures.latest if self.pictures else None
        panels: list[tuple[str, list[tuple[str, str, str]]]] = [
            (
                "loss",
                [(n, BLUE, "train") for n in ("train/total", "train/bits")]
                + [(n, ORANGE, "validation") for n in ("val/total", "val/bits")],
            ),
            ("PSNR [dB]", [("val/psnr", GREEN, "validation")]),
            ("perplexity", [("val/perplexity", GREEN, "validation")]),
            ("gradient norm", [("train/grad_norm", BLUE, "")]),
            (
                "learning rate",
                [
                    (f"train/lr{n}", c, n[1:] or "AdamW")
                    for n, c in (("", BLUE), ("_discriminator", ORANGE), ("_muon", GREEN))
                ],
            ),
        ]
        logged = {name for row in self.history.rows for name in row}
        seen = [(title, series) for title, series in panels if any(name in logged for name, _, _ in series)]
        fig, axes = figure(2 if latest is not None else 1, max(3, len(seen)), 12, 5.2 if latest is not None else 2.6)
        for ax, (title, series) in zip(axes[0], seen, strict=False):
            self._panel(ax, title, series)
        for ax in axes[0][len(seen) :]:
            ax.axis("off")
        if latest is not None:
            self._codes_and_pictures(fig, axes[1], latest, module.quantize)
        fig.suptitle(status, fontsize=9.5)
        findings = diagnose(self.run.kind, self.history.rows, module.config)
        if findings:
            fig.supxlabel("\n".join(fill(str(finding), 150) for finding in findings), fontsize=8.5, color=RED)
        return fig

    def _codes_and_pictures(self, fig: Figure, axes: Any, latest: Tensor, quantize: bool) -> None:
        grid, first = axes[0].get_gridspec(), 0
        for ax in axes:
            ax.remove()
        if quantize and self.history.latest_usage is not None:
            first, (step, counts) = 2, self.history.latest_usage
            codes = fig.add_subplot(grid[1, :first])
            draw_usage(codes, counts.astype(float), f"codebook, step {step}")
            codes.title.set_fontsize(9)
        wide, half = fig.add_subplot(grid[1, first:]), len(latest) // 2
        rows = [
            np.concatenate(list(part.permute(0, 2, 3, 1).numpy()), axis=1) for part in (latest[:half], latest[half:])
        ]
        wide.imshow(np.concatenate(rows, axis=0))
        wide.axis("off")
        wide.set_title("validation images above, reconstructions below", fontsize=9, fontweight="normal")

    def _panel(self, ax: Any, title: str, series: list[tuple[str, str, str]]) -> None:
        for name, colour, label in series:
            rows = [(row["step"], row[name]) for row in self.history.rows if name in row]
            if rows:
                ax.plot(*zip(*rows, strict=True), color=colour, label=label, marker="o" if len(rows) < 12 else "", ms=3)
        ax.set(title=title, xlabel="step")
        if len(ax.get_lines()) > 1:
            ax.legend()


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
