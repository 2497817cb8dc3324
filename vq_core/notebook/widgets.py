"""Thin widgets over the figures: when a control moves, a figure is redrawn. Figures are sent as PNG bytes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as w
import numpy as np
import traitlets
from IPython.display import display
from matplotlib.figure import Figure

from vq_core.data.packed import PackedImages
from vq_core.errors import ArgumentError
from vq_core.evaluation.analysis import code_patches, decoded_codes
from vq_core.models import VQVAE
from vq_core.notebook import plots
from vq_core.runs.folders import Run

_AS_IT_IS = w.Layout(align_self="flex-start", max_width="100%")  # otherwise a box stretches a picture to its own width


class CellPicture(anywidget.AnyWidget):
    """A PNG with a grid of cells over part of it; `selected` holds the row-major numbers of the chosen cells.

    The project's only JavaScript: a plain script next to this file, with no build step and no extension to install.
    ipympl would send every mouse movement to the kernel and draw there; ipyevents cannot draw on the picture.
    """

    _esm = Path(__file__).with_name("cell_picture.js")
    picture = traitlets.Bytes(b"").tag(sync=True)
    rows = traitlets.Int(1).tag(sync=True)
    columns = traitlets.Int(1).tag(sync=True)
    box = traitlets.List([0.0, 0.0, 1.0, 1.0]).tag(sync=True)  # left, top, right, bottom, as fractions of the picture
    selected = traitlets.List(traitlets.Int()).tag(sync=True)
    many = traitlets.Bool(True).tag(sync=True)  # choose several cells, also by dragging; otherwise only the last one
    lines = traitlets.Bool(True).tag(sync=True)
    pixelated = traitlets.Bool(True).tag(sync=True)  # enlarged without smoothing
    width = traitlets.Int(384).tag(sync=True)  # CSS pixels
    title = traitlets.Unicode("").tag(sync=True)


def over_controls(controls: dict[str, Any], draw: Callable[..., Figure]) -> w.VBox:
    """Controls, below them the `Image` of the figure that `draw(**values)` returns, then the error message, if any."""
    image, wrong = w.Image(format="png", layout=_AS_IT_IS), w.HTML()

    def redraw(change: object = None) -> None:
        image.value = plots.png_of(draw(**{name: control.value for name, control in controls.items()}))
        wrong.value = ""

    for control in controls.values():
        control.observe(telling(lambda text: setattr(wrong, "value", text), redraw), names="value")
    redraw()
    return w.VBox([*controls.values(), image, wrong])


def telling(say: Callable[[str], object], do: Callable[[Any], object]) -> Callable[[Any], None]:
    """`do` as a widget callback that also reports errors through `say`; JupyterLab alone would only log them."""

    def tell(change: Any) -> None:
        try:
            do(change)
        except Exception as error:
            say(f"{type(error).__name__}: {error}")
            raise

    return tell


def with_saving(fig: Figure, path: Path, command: str) -> w.HBox:
    """Shows a figure and the command line that draws the same pictures; returns a button that saves it to `path`."""
    save, said = w.Button(description="save", icon="save"), w.HTML()
    say = partial(said.set_trait, "value")
    save.on_click(telling(say, lambda _: say(f"saved {path}, {path.write_bytes(plots.png_of(fig)):,} bytes")))
    display(fig)
    print(command)
    return w.HBox([save, said])


class UsageExplorer(w.VBox):
    """Codebook usage during training: a slider (with a play button) over what one or two runs logged.

    Sorted by usage or by code, linear or logarithmic, on training or validation images. A code of the first run, chosen
    by its number or by clicking its bar, is shown below by `card(code)`, if that is given. Raises `ArgumentError` for
    more than two runs, or one without any logged usage.
    """

    def __init__(self, runs: dict[str, Run], card: Callable[[int], Figure] | None = None) -> None:
        if not 1 <= len(runs) <= 2:
            raise ArgumentError(f"runs must be one or two, got {len(runs)}")
        self._usages = {split: {n: run.usage(split) for n, run in runs.items()} for split in ("train", "val")}
        for label, (logged, _) in self._usages["train"].items():
            if not len(logged):
                raise ArgumentError(f"{label}: no code usage has been logged in {runs[label].folder}")
        entries = [usage for usages in self._usages.values() for usage in usages.values() if len(usage[0])]
        steps = np.unique(np.concatenate([logged for logged, _ in entries])).tolist()
        codes = entries[0][1].shape[1]
        self.step = w.SelectionSlider(options=steps, index=len(steps) - 1, description="step", continuous_update=False)
        self.step.layout.width = "60%"
        self.play = w.Play(min=0, max=len(steps) - 1, value=len(steps) - 1, interval=500)
        w.jslink((self.play, "value"), (self.step, "index"))
        self.play.observe(self._from_the_start, names="playing")
        validated = all(len(logged) for logged, _ in self._usages["val"].values())  # not before the first validation
        options = {"training": "train"} | ({"validation": "val"} if validated else {})
        self.split = w.ToggleButtons(options=options, description="images")
        self.order = w.ToggleButtons(options={"by usage": True, "by code": False}, description="sort")
        self.scale = w.ToggleButtons(options={"linear": False, "log": True}, description="scale")
        for buttons in (self.split, self.order, self.scale):
            buttons.style.button_width, buttons.style.description_width = "90px", "60px"
        self.histogram = CellPicture(lines=False, many=False, pixelated=False, width=860, title="usage of the codes")
        self.histogram.columns = max(counts.shape[1] for _, counts in entries)
        self.code = w.BoundedIntText(0, 0, codes - 1, description="code", style={"description_width": "90px"})
        self.card, self._draw_card = w.Image(format="png", layout=_AS_IT_IS), card
        for control in (self.step, self.split, self.order, self.scale):
            control.observe(self._redraw, names="value")
        self.histogram.observe(self._on_click, names="selected")
        self.code.observe(self._on_code, names="value")
        self._redraw()
        self._on_code()
        rows = [w.HBox([self.play, self.step]), w.HBox([self.split, self.order, self.scale]), self.histogram, self.code]
        super().__init__([*rows, *([self.card] if card is not None else [])])

    def _from_the_start(self, change: object) -> None:
        if self.play.playing and self.play.value >= self.play.max:
            self.play.value = self.step.index = 0

    def _redraw(self, change: object = None) -> None:
        shown = []
        for name, (steps, logged) in self._usages[self.split.value].items():
            entry = max(0, int(np.searchsorted(steps, self.step.value, "right")) - 1)  # the first if all come later
            shown.append((f"{name}, step {steps[entry]}", logged[entry]))
        (label, counts), other = shown[0], shown[1] if len(shown) > 1 else None
        self._codes = np.argsort(-counts, kind="stable") if self.order.value else np.arange(len(counts))  # of the bars
        usages = {f"{label}, {self.split.label} images": counts}
        fig = plots.usage_histogram(usages, self.order.value, 10.7, log=self.scale.value, other=other)
        with self.histogram.hold_sync():
            self.histogram.picture, inside = plots.png_of(fig), fig.axes[0].get_position()
            self.histogram.box = [inside.x0, 1 - inside.y1, inside.x1, 1 - inside.y0]
            self._mark()

    def _mark(self) -> None:
        self.histogram.selected = [int(np.flatnonzero(self._codes == self.code.value)[0])]

    def _on_click(self, change: object) -> None:
        bar = self.histogram.selected[0] if self.histogram.selected else 0
        if bar < len(self._codes):
            self.code.value = int(self._codes[bar])
        self._mark()

    def _on_code(self, change: object = None) -> None:
        self._mark()
        if self._draw_card is not None:
            self.card.value = plots.png_of(self._draw_card(self.code.value))


def card_of(model: VQVAE, packed: PackedImages, codes: np.ndarray) -> Callable[[int], Figure]:
    """For `UsageExplorer`: draws what a code decodes to, where it occurs, and image patches that use it.

    It uses the given model, the best one of a run; the histogram may show another moment of that run.
    """
    decoded = decoded_codes(model, codes)

    def draw(code: int) -> Figure:
        where = codes == code
        share = f"{where.mean():.2%} of all codes, in {where.any(axis=(1, 2)).mean():.0%} of all images"
        title = f"code {code}, in the best checkpoint: {share}"
        return plots.code_card(title, decoded[code], where.mean(axis=0), code_patches(packed, codes, code, 16))

    return draw
