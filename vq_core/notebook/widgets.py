"""Thin widgets over the figures: when a control moves, a figure is redrawn. Figures are sent as PNG bytes."""

from collections.abc import Callable
from typing import Any

import ipywidgets as w
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from vq_core.data.augment import to_pictures
from vq_core.data.packed import PackedImages
from vq_core.errors import ArgumentError
from vq_core.evaluation.analysis import code_patches, decoded_codes
from vq_core.generation import TEMPERATURE, TOP_P
from vq_core.generation.editing import blend_latents, exchange_codes, exchange_likely
from vq_core.generation.sampling import Sampling, sample_codes
from vq_core.models import VQVAE, CodeTransformer
from vq_core.notebook import plots
from vq_core.notebook.cell_picture import CellPicture
from vq_core.runs.folders import Run

_LABELS = {"style": {"description_width": "90px"}}
_AS_IT_IS = w.Layout(align_self="flex-start", max_width="100%")  # otherwise a box stretches a picture to its own width
_WAIT = {**_LABELS, "continuous_update": False}  # redraw only when the slider is released


def over_controls(
    controls: dict[str, Any], draw: Callable[..., Figure], call: Callable[..., str] | None = None
) -> w.VBox:
    """A picture under some controls; `draw(**values)` returns the figure for their values.

    `call(**values)`, if given, returns code that produces the picture, shown below it to be copied into a script.
    The box holds the controls, then the `Image`, then that code, then the error message, if any.
    """
    image, wrong = w.Image(format="png", layout=_AS_IT_IS), w.HTML()
    shown = w.Textarea(layout=w.Layout(width="95%", height="64px"))

    def redraw(change: object = None) -> None:
        values = {name: control.value for name, control in controls.items()}
        image.value = plots.png_of(draw(**values))
        if call is not None:
            shown.value = call(**values)
        wrong.value = ""

    for control in controls.values():
        control.observe(telling(lambda text: setattr(wrong, "value", text), redraw), names="value")
    redraw()
    return w.VBox([*controls.values(), image, *([shown] if call is not None else []), wrong])


def telling(say: Callable[[str], object], do: Callable[[Any], object]) -> Callable[[Any], None]:
    """`do` as a widget callback that also reports errors through `say`; JupyterLab alone would only log them."""

    def tell(change: Any) -> None:
        try:
            do(change)
        except Exception as error:
            say(f"{type(error).__name__}: {error}")
            raise

    return tell


def _order_and_scale() -> tuple[w.ToggleButtons, w.ToggleButtons]:
    """How to draw a histogram: sorted by usage or by code, on a linear or a logarithmic scale."""
    order = w.ToggleButtons(options={"by usage": True, "by code": False}, description="sort")
    return order, w.ToggleButtons(options={"linear": False, "log": True}, description="scale")


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
        self.step = w.SelectionSlider(options=steps, index=len(steps) - 1, description="step", **_WAIT)
        self.step.layout.width = "60%"
        self.play = w.Play(min=0, max=len(steps) - 1, value=len(steps) - 1, interval=500)
        w.jslink((self.play, "value"), (self.step, "index"))
        self.play.observe(self._from_the_start, names="playing")
        validated = all(len(logged) for logged, _ in self._usages["val"].values())  # not before the first validation
        options = {"training": "train"} | ({"validation": "val"} if validated else {})
        self.split = w.ToggleButtons(options=options, description="images")
        self.order, self.scale = _order_and_scale()
        for buttons in (self.split, self.order, self.scale):
            buttons.style.button_width, buttons.style.description_width = "90px", "60px"
        self.histogram = CellPicture(lines=False, many=False, pixelated=False, width=860, title="usage of the codes")
        self.histogram.columns = max(counts.shape[1] for _, counts in entries)
        self.code = w.BoundedIntText(0, 0, codes - 1, description="code", **_LABELS)
        self.card, self._draw_card = w.Image(format="png", layout=_AS_IT_IS), card
        self._codes = np.arange(codes)  # the code of the first run that each bar stands for
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
        self._codes = np.argsort(-counts, kind="stable") if self.order.value else np.arange(len(counts))
        usages, how = {f"{label}, {self.split.label} images": counts}, {"width": 10.7, "log": self.scale.value}
        fig = plots.usage_histogram(usages, self.order.value, other=other, **how)
        picture = plots.png_of(fig)
        inside = fig.axes[0].get_position()
        with self.histogram.hold_sync():
            self.histogram.picture = picture
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


def usage_comparison(usages: dict[str, np.ndarray]) -> w.VBox:
    """Usage histograms of several codebooks, shown one at a time: label → counts [K]."""
    order, scale = _order_and_scale()
    return over_controls(
        {"which": w.ToggleButtons(options=list(usages), description="codebook"), "by_usage": order, "log": scale},
        lambda which, **how: plots.usage_histogram({which: usages[which]}, width=8, **how),
    )


def sampling_explorer(model: VQVAE, prior: CodeTransformer, count: int = 8) -> w.VBox:
    """New avatars from the causal prior, with controls for temperature, top-k, top-p and seed."""
    controls = {
        "temperature": w.FloatSlider(TEMPERATURE, min=0.1, max=2.0, step=0.05, description="temperature", **_WAIT),
        "top_k": w.IntSlider(prior.num_codes, min=1, max=prior.num_codes, description="top-k", **_WAIT),
        "top_p": w.FloatSlider(TOP_P, min=0.05, max=1.0, step=0.01, description="top-p", **_WAIT),
        "seed": w.BoundedIntText(0, min=0, max=2**31 - 1, description="seed", **_LABELS),
    }

    def draw(**drawing: Any) -> Figure:
        codes = sample_codes(prior, count, Sampling(**drawing), progress=False)
        return plots.image_grid(to_pictures(model.decode(codes)), columns=count)

    def call(**values: Any) -> str:
        given = ", ".join(f"{name}={round(v, 6) if isinstance(v, float) else repr(v)}" for name, v in values.items())
        imported = "from vq_core.generation.sampling import Sampling, sample_codes\n"
        return f"{imported}model.decode(sample_codes(prior, {count}, Sampling({given})))"

    return over_controls(controls, draw, call)


def interpolation_explorer(
    model: VQVAE, masked: CodeTransformer, a: Float[Tensor, "1 3 h w"], b: Float[Tensor, "1 3 h w"], steps: int = 17
) -> w.VBox:
    """From one image to another with a slider, in each of three ways; all frames are computed in advance."""
    one, two = model.encode(a), model.encode(b)
    frames = {
        "blend": blend_latents(model, a, b, steps),
        "exchange": model.decode(exchange_codes(one, two, steps)),
        "likely": model.decode(exchange_likely(masked, one, two, steps)),
    }
    calls = {
        "blend": f"editing.blend_latents(model, a, b, {steps})",
        "exchange": f"model.decode(editing.exchange_codes(model.encode(a), model.encode(b), {steps}))",
        "likely": f"model.decode(editing.exchange_likely(masked, model.encode(a), model.encode(b), {steps}))",
    }
    pictures, ends = {name: to_pictures(images) for name, images in frames.items()}, to_pictures(torch.cat([a, b]))
    controls = {
        "method": w.ToggleButtons(options=list(frames), description="method"),
        "frame": w.IntSlider(0, min=0, max=steps - 1, description="frame", **_LABELS),
    }

    def draw(method: str, frame: int) -> Figure:
        shown = [ends[0], pictures[method][frame], ends[1]]
        return plots.image_grid(shown, columns=3, titles=["from", f"{method}, {frame} of {steps - 1}", "to"], side=1.8)

    imported = "from vq_core.generation import editing\n"
    return over_controls(controls, draw, lambda method, frame: f"{imported}{calls[method]}[{frame}]")


def wipe(pictures: dict[str, UInt8[np.ndarray, "n h w 3"]]) -> w.VBox:
    """Two versions of the same pictures, wiped over each other with a slider; which is left and right can be chosen."""
    names, some = list(pictures), f"[:{len(next(iter(pictures.values())))}]"
    controls = {
        "left": w.Dropdown(options=names, value=names[-2], description="left", **_LABELS),
        "right": w.Dropdown(options=names, value=names[-1], description="right", **_LABELS),
        "position": w.FloatSlider(0.5, min=0, max=1, step=0.02, description="position", **_LABELS),
    }
    return over_controls(
        controls,
        lambda left, right, position: plots.wiped(pictures[left], pictures[right], position, (left, right)),
        lambda left, right, position: (
            "from vq_core.notebook import plots\n"
            f"plots.wiped(rows[{left!r}]{some}, rows[{right!r}]{some}, {position:g}, ({left!r}, {right!r}))"
        ),
    )
