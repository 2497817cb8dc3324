"""A picture with clickable cells: the project's only custom widget, and its only JavaScript.

Built on anywidget: a plain script next to this file, with no build step and no extension to install. ipympl would send
every mouse movement to the kernel and draw there; ipyevents reports where a picture was clicked but cannot draw on it.
"""

from pathlib import Path

import anywidget
import traitlets


class CellPicture(anywidget.AnyWidget):
    """A PNG with a grid of cells over part of it; `selected` holds the row-major numbers of the chosen cells."""

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
