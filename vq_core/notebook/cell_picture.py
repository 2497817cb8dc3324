"""A picture whose cells can be clicked: the one widget of our own, and the only JavaScript.

Built on anywidget: a plain script beside this file, no build step and no extension to install. ipympl would send every
mouse movement to the kernel and draw there; ipyevents tells where a picture was clicked, but draws nothing over it.
"""

from pathlib import Path

import anywidget
import traitlets


class CellPicture(anywidget.AnyWidget):
    """A PNG with a grid of cells over a part of it; `selected` holds the numbers of the chosen cells, row by row."""

    _esm = Path(__file__).with_name("cell_picture.js")
    picture = traitlets.Bytes(b"").tag(sync=True)
    rows = traitlets.Int(1).tag(sync=True)
    columns = traitlets.Int(1).tag(sync=True)
    box = traitlets.List([0.0, 0.0, 1.0, 1.0]).tag(sync=True)  # left, top, right, bottom: shares of the picture
    selected = traitlets.List(traitlets.Int()).tag(sync=True)
    many = traitlets.Bool(True).tag(sync=True)  # several cells at once, by dragging too; else the last one clicked
    lines = traitlets.Bool(True).tag(sync=True)
    pixelated = traitlets.Bool(True).tag(sync=True)  # enlarged without smoothing
    width = traitlets.Int(384).tag(sync=True)  # CSS pixels
    title = traitlets.Unicode("").tag(sync=True)
