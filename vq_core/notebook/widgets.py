"""Thin widgets over the figures: a control moves, a figure is drawn anew. Figures travel as PNG bytes."""

from collections.abc import Callable

import ipywidgets as w
import numpy as np
from matplotlib.figure import Figure

from vq_core.notebook.plots import png_of, usage_histogram
from vq_core.training.runs import Run


def over_controls(controls: dict[str, w.Widget], draw: Callable[..., Figure]) -> w.VBox:
    """A picture under some controls; `draw(**values)` gives the figure for their values.

    The box has the controls first and the `Image` last.
    """
    image = w.Image(format="png")

    def redraw(change: object = None) -> None:
        image.value = png_of(draw(**{name: control.value for name, control in controls.items()}))

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return w.VBox([*controls.values(), image])


def usage_explorer(run: Run) -> w.VBox:
    """The usage histogram with a slider (and play button) through training, sorted by usage or by code."""
    steps, counts = run.usage()
    slider = w.IntSlider(min=0, max=len(steps) - 1, value=len(steps) - 1, description="entry", continuous_update=False)
    play = w.Play(min=0, max=len(steps) - 1, interval=400, description="play")
    w.jslink((play, "value"), (slider, "value"))
    order = w.ToggleButtons(options={"by usage": True, "by code": False}, description="sort")

    def draw(entry: int, by_usage: bool) -> Figure:
        return usage_histogram({f"step {steps[entry]}": counts[entry]}, by_usage, width=8)

    box = over_controls({"entry": slider, "by_usage": order}, draw)
    box.children = (play, *box.children)
    return box


def usage_comparison(usages: dict[str, np.ndarray]) -> w.VBox:
    """Usage histograms of several codebooks, one at a time by choice: label → counts [K]."""
    choice = w.ToggleButtons(options=list(usages), description="codebook")
    order = w.ToggleButtons(options={"by usage": True, "by code": False}, description="sort")
    return over_controls(
        {"which": choice, "by_usage": order},
        lambda which, by_usage: usage_histogram({which: usages[which]}, by_usage, width=8),
    )
