"""The code editor: an avatar under its grid of codes; choose cells, change them, and see the result immediately."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ipywidgets as w
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor
from torchvision.utils import make_grid

from vq_core.data.augment import to_float, to_pictures
from vq_core.data.decode import load_picture
from vq_core.errors import UnusableImage
from vq_core.generation.editing import Codes, Edit, decode_edited
from vq_core.generation.sampling import Sampling, Way
from vq_core.models import VQVAE, CodeTransformer
from vq_core.notebook.widgets import CellPicture, telling
from vq_core.settings import DataConfig


def _png(picture: np.ndarray, width: int = 0) -> bytes:
    """A square picture as PNG, enlarged without smoothing to `width` pixels if it is narrower."""
    buffer, image = io.BytesIO(), Image.fromarray(picture)
    image.resize((max(width, image.width),) * 2, Image.Resampling.NEAREST).save(buffer, format="png")
    return buffer.getvalue()


class _Edits:
    """The editing history of one avatar, with undo and redo."""

    def __init__(self, given: Codes) -> None:
        self.given, self.at, self.steps = given, 0, [("as it was", given)]

    @property
    def codes(self) -> Codes:
        return self.steps[self.at][1]


class CodeEditor(w.VBox):
    """Edit avatars by their codes: choose cells by clicking or dragging, then change them.

    One of the images is edited at a time, and any of them can be copied from; with settings `data`, files can be opened
    too. Of both `priors` the one that does so better redraws chosen cells given the others; `decoded` is a picture of
    each code, from `decoded_codes`; "save" puts `edit-N.png` and `edit-N.npy` (the codes) into `folder`.

    Pixels beyond the decoder's reach from the changed cells stay exactly as they were (`decode_edited`). There,
    `model.decode` of the saved codes alone may differ by a few grey levels, because normalisation sees the whole image.
    """

    def __init__(
        self,
        model: VQVAE,
        priors: dict[Way, CodeTransformer],
        x: Float[Tensor, "n 3 height width"],
        decoded: UInt8[np.ndarray, "k s s 3"],
        folder: Path,
        data: DataConfig | None = None,
    ) -> None:
        self.model, self.priors, self.folder = model, priors, folder
        self.given = model.encode(x)  # [n, h, w]
        self._edits = [_Edits(codes[None]) for codes in self.given]  # one per avatar; opened files come after them
        grid, names = self.given.shape[1], [(f"avatar {n + 1}", n) for n in range(len(x))]
        width = x.shape[-1] * max(1, round(400 / x.shape[-1]))  # a whole number of screen pixels per pixel
        self.canvas = CellPicture(rows=grid, columns=grid, width=width, title="click or drag to choose cells")
        self.before, self.preview = w.Image(format="png", width=160), w.Image(format="png", width=96)
        self._decoded, self._seed = decoded, 0
        self.atlas, self._atlas_order = _atlas(decoded)
        self.avatar = w.Dropdown(options=names, description="edit", layout=w.Layout(width="180px"))
        self.donor = w.Dropdown(options=names, value=len(x) - 1, layout=w.Layout(width="110px"))
        self.code = w.BoundedIntText(0, 0, len(decoded) - 1, description="code", layout=w.Layout(width="160px"))
        self.status, self.file = w.HTML(), w.FileUpload(accept="image/*", description="open a file")

        self.set = self._button("set code", "pencil", lambda: self._apply(f"code {(c := self.code.value)}", code=c))
        self.copy = self._button("copy from", "copy", self._copy)
        self.anew = self._button("draw anew", "magic", lambda: self._apply("drawn anew", regenerate=True))
        self.clear = self._button("choose none", "square-o", lambda: setattr(self.canvas, "selected", []))
        self.undo = self._button("undo", "undo", lambda: self._go(-1))
        self.redo = self._button("redo", "repeat", lambda: self._go(+1))
        self.save = self._button("save", "save", self._save)
        if data:
            self.file.observe(self._telling(lambda: self._open(data)), names="value")
        self.avatar.observe(self._telling(self._turn_to), names="value")
        self.atlas.observe(self._telling(self._on_atlas), names="selected")
        self.code.observe(self._telling(self._show_code), names="value")
        self.canvas.observe(self._telling(self._say), names="selected")
        self._turn_to()
        self._show_code()
        pictures = [w.VBox([w.HTML("before"), self.before]), w.VBox([w.HTML("the code, in context"), self.preview])]
        rows = [[self.avatar, *([self.file] if data else [])], [self.set, self.code], [self.copy, self.donor]]
        rows += [[self.anew, self.clear], [self.undo, self.redo, self.save], pictures]
        tools = w.VBox([w.HBox(row) for row in rows], layout=w.Layout(margin="0 12px"))
        super().__init__([w.HBox([self.canvas, tools, self.atlas]), self.status])

    def _button(self, text: str, icon: str, do: Callable[[], object]) -> w.Button:
        button = w.Button(description=text, icon=icon, layout=w.Layout(width="120px"))
        button.on_click(self._telling(do))
        return button

    def _telling(self, do: Callable[[], object]) -> Callable[[Any], None]:
        return telling(self._say, lambda _: do())

    @property
    def _own(self) -> _Edits:
        return self._edits[self.avatar.value]

    @property
    def codes(self) -> Codes:
        """The codes of the avatar in the editor, as edited so far [1, h, w]."""
        return self._own.codes

    @property
    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """The avatar in the editor, as edited so far."""
        return to_pictures(decode_edited(self.model, self._own.given, self.codes))[0]

    def _open(self, data: DataConfig) -> None:
        for file in self.file.value:
            with TemporaryDirectory() as folder:
                (path := Path(folder, "given")).write_bytes(file["content"])
                try:
                    x = to_float(torch.tensor(load_picture(path, data).pixels[None]))
                except UnusableImage as error:
                    return self._say(f"{file['name']}: {error}")
            self._edits.append(_Edits(self.model.encode(x.to(self.model.device))))
            donor, names = self.donor.value, (*self.avatar.options, (file["name"], len(self._edits) - 1))
            self.avatar.options = self.donor.options = names  # which also chooses the first
            self.donor.value, self.avatar.value = donor, len(self._edits) - 1

    def _turn_to(self) -> None:
        self.before.value = _png(to_pictures(self.model.decode(self._own.given))[0], 160)
        self._go(0)

    def _copy(self) -> None:
        if self.donor.value == self.avatar.value:
            return self._say("choose another avatar to copy from")
        self._apply(f"copied from {self.donor.label}", copy_from=self._edits[self.donor.value].codes)

    def _apply(self, done: str, **change: Any) -> None:
        if not self.canvas.selected:
            return self._say("choose cells first: click or drag over the picture")
        self._seed += "regenerate" in change  # a new proposal each time
        cells = torch.zeros(self.codes.numel(), dtype=torch.bool)
        cells[list(self.canvas.selected)] = True
        edit = Edit(region=cells.view(self.codes.shape[1:]), **change)
        codes = edit.apply(self.codes, self.priors.get(edit.way), sampling=Sampling(seed=self._seed), progress=False)
        done += f" by the {edit.way} prior" if edit.regenerate else ""
        self._own.steps[self._own.at + 1 :] = [(f"{_cells(self.canvas.selected)} {done}", codes)]  # none to redo
        self._go(+1)

    def _go(self, by: int) -> None:
        own = self._own
        own.at = min(max(0, own.at + by), len(own.steps) - 1)
        self.canvas.picture = _png(self.picture)
        self.undo.disabled, self.redo.disabled = own.at == 0, own.at == len(own.steps) - 1
        self._say()

    def _say(self, text: str = "") -> None:
        step = f"step {self._own.at} of {len(self._own.steps) - 1}: {self._own.steps[self._own.at][0]}"
        self.status.value = f"{text or f'{_cells(self.canvas.selected)} chosen'} · {step}"

    def _on_atlas(self) -> None:
        chosen = self.atlas.selected[0] if self.atlas.selected else 0
        if chosen < len(self._atlas_order):
            self.code.value = int(self._atlas_order[chosen])
        self._show_code()

    def _show_code(self) -> None:
        self.preview.value = _png(self._decoded[self.code.value], 96)
        self.atlas.selected = [int(np.flatnonzero(self._atlas_order == self.code.value)[0])]

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        taken = [int(path.stem[5:]) for path in self.folder.glob("edit-*") if path.stem[5:].isdecimal()]
        path = self.folder / f"edit-{max(taken, default=0) + 1}.png"
        Image.fromarray(self.picture).save(path)
        np.save(path.with_suffix(".npy"), self.codes[0].cpu().numpy())
        self._say(f"saved {path}")


def _cells(some: list[int]) -> str:
    return f"{len(some)} {'cell' if len(some) == 1 else 'cells'}"


def _atlas(decoded: UInt8[np.ndarray, "k s s 3"]) -> tuple[CellPicture, np.ndarray]:
    """All codes as one clickable picture, each as the cell that it decodes to, and the codes in that order.

    Neighbours look alike: the order is that of the cells' first principal component.
    """
    side, columns = decoded.shape[1] // 3, math.ceil(len(decoded) ** 0.5)
    cells = decoded[:, side:-side, side:-side]  # the code's own cell in the middle
    order = PCA(1, random_state=0).fit_transform(cells.reshape(len(cells), -1).astype(np.float32))[:, 0].argsort()
    sheet = make_grid(torch.from_numpy(cells[order]).permute(0, 3, 1, 2), columns, padding=0, pad_value=255)
    picture, rows = _png(sheet.permute(1, 2, 0).numpy()), math.ceil(len(order) / columns)
    return CellPicture(picture=picture, rows=rows, columns=columns, many=False, width=400, title="all codes"), order
