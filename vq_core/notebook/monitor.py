"""The live view of a training: one picture in the cell that trains, redrawn in place."""

import time
from textwrap import fill
from typing import Any

import lightning as L
import numpy as np
from IPython.display import DisplayHandle, display
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure

from vq_core.notebook.plots import BLUE, GREEN, ORANGE, RED, draw_usage, figure, png_of
from vq_core.training.callbacks import Pictures
from vq_core.training.diagnosis import diagnose
from vq_core.training.runs import History, Run


class _Picture:
    """A figure as PNG, with a line of text for where pictures cannot be shown."""

    def __init__(self, fig: Figure, status: str) -> None:
        self.png, self.status = png_of(fig), status

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"image/png": self.png, "text/plain": self.status}


class LiveView(Callback):
    """Loss, validation, codebook and reconstructions while a phase trains; the last picture stays in the notebook.

    Redrawn every `seconds`, which a drawing of a fifth of a second makes 1–2 % of the time.
    """

    def __init__(self, run: Run, history: History, pictures: Pictures | None, seconds: float = 15.0) -> None:
        self.run, self.history, self.pictures, self.seconds = run, history, pictures, seconds
        self.handle: DisplayHandle | None = None
        self.drawn = self.began = 0.0
        self.first_step = 0

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.began, self.first_step = time.monotonic(), module.steps_done
        self._draw(module)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if time.monotonic() - self.drawn > self.seconds:
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
            parts.append(f"{steps / seconds:.2g} steps/s, {_minutes(seconds / steps * (total - done))} left")
        if done >= total:
            parts.append(f"done in {_minutes(module.seconds)}")
        return " · ".join(parts)

    def _draw(self, module: Any) -> None:
        status = self.status(module)
        picture = _Picture(self._figure(module, status), status)
        self.drawn = time.monotonic()
        if self.handle is None:
            self.handle = display(picture, display_id=True)  # still None outside a notebook
        else:
            self.handle.update(picture)

    def _figure(self, module: Any, status: str) -> Figure:
        latest = self.pictures.latest if self.pictures else None
        fig, axes = figure(2 if latest is not None else 1, 3, 10, 4.6 if latest is not None else 2.5)
        self._panel(axes[0][0], ("train/total", "train/bits"), ("val/total", "val/bits"), "loss")
        self._panel(
            axes[0][1], ("train/grad_norm",), ("val/psnr",), "PSNR [dB]" if latest is not None else "gradient norm"
        )
        if latest is not None and module.quantize:
            if self.history.latest_usage is not None:
                step, counts = self.history.latest_usage
                draw_usage(axes[0][2], counts.astype(float), f"step {step}")
                axes[0][2].title.set_fontsize(8.5)
        else:
            self._panel(axes[0][2], ("train/lr",), (), "learning rate")
        if latest is not None:
            grid = axes[1][0].get_gridspec()
            for ax in axes[1]:
                ax.remove()
            wide = fig.add_subplot(grid[1, :])
            half = len(latest) // 2
            rows = [
                np.concatenate(list(part.permute(0, 2, 3, 1).numpy()), axis=1)
                for part in (latest[:half], latest[half:])
            ]
            wide.imshow(np.concatenate(rows, axis=0))
            wide.axis("off")
            wide.set_title("validation images above, reconstructions below", fontsize=9, fontweight="normal")
        fig.suptitle(status, fontsize=9.5)
        findings = diagnose(self.run.kind, self.history.rows, module.config)
        if findings:
            fig.supxlabel("\n".join(fill(str(finding), 130) for finding in findings), fontsize=8.5, color=RED)
        return fig

    def _panel(self, ax: Any, train: tuple[str, ...], val: tuple[str, ...], title: str) -> None:
        series = [(n, BLUE, "train") for n in train] + [(n, ORANGE, "validation") for n in val]
        if title.startswith("PSNR"):
            series = [(n, GREEN, "validation") for n in val]
        for name, colour, label in series:
            rows = [(row["step"], row[name]) for row in self.history.rows if name in row]
            if rows:
                ax.plot(*zip(*rows, strict=True), color=colour, label=label, marker="o" if len(rows) < 12 else "", ms=3)
        ax.set(title=title, xlabel="step")
        if len(ax.get_lines()) > 1:
            ax.legend()


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
