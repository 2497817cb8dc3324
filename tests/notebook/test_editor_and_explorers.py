"""The code editor and the explorers, driven from code as a browser would drive them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vq_core.config import load_config
from vq_core.data.augment import to_pictures
from vq_core.generation.editing import decode_edited
from vq_core.models import VQVAE, CodeTransformer
from vq_core.notebook import widgets
from vq_core.notebook.editor import CodeEditor
from vq_core.runs.loading import make_vqvae


@pytest.fixture(scope="module")
def model() -> VQVAE:
    torch.manual_seed(0)
    return make_vqvae(load_config("smoke", [])).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def prior(model: VQVAE, causal: bool) -> CodeTransformer:
    torch.manual_seed(0)
    return CodeTransformer(model.num_codes, 16, dim=16, layers=1, heads=2, causal=causal).eval()


@pytest.fixture
def editor(model: VQVAE, x: Tensor, tmp_path: Path) -> CodeEditor:
    return CodeEditor(model, prior(model, causal=False), x, swatches(model), tmp_path / "edits")


def swatches(model: VQVAE) -> np.ndarray:
    count = model.num_codes
    return np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)


def shown(editor: CodeEditor) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(editor.canvas.picture)))


def test_the_editor_shows_what_the_codes_decode_to(editor: CodeEditor, model: VQVAE) -> None:
    before = editor.codes
    editor.canvas.selected = [0, 1, 16]
    editor.code.value = 7
    editor.set.click()
    expected = before.clone()
    expected[0, 0, 0] = expected[0, 0, 1] = expected[0, 1, 0] = 7
    assert torch.equal(editor.codes, expected)
    np.testing.assert_array_equal(shown(editor), to_pictures(decode_edited(model, before, expected))[0])


def test_copying_takes_the_other_avatars_codes(editor: CodeEditor) -> None:
    editor.donor.value = 1
    editor.canvas.selected = list(range(32))
    editor.copy.click()
    assert torch.equal(editor.codes[0, :2], editor.given[1, :2])
    assert torch.equal(editor.codes[0, 2:], editor.given[0, 2:])


def test_drawing_anew_changes_chosen_cells_only_and_differs_each_time(editor: CodeEditor) -> None:
    editor.canvas.selected = list(range(64, 128))
    seen = []
    for _ in range(2):
        editor.anew.click()
        seen.append(editor.codes)
        assert torch.equal(editor.codes[0, :4], editor.given[0, :4])
        assert torch.equal(editor.codes[0, 8:], editor.given[0, 8:])
    assert not torch.equal(*seen)


def test_undo_and_redo_walk_through_the_steps(editor: CodeEditor) -> None:
    states = [editor.codes]
    assert editor.undo.disabled and editor.redo.disabled
    for code in (3, 5):
        editor.canvas.selected = [code]
        editor.code.value = code
        editor.set.click()
        states.append(editor.codes)
    for expected in (states[1], states[0], states[0]):  # the third finds nothing to undo
        editor.undo.click()
        assert torch.equal(editor.codes, expected)
    editor.redo.click()
    assert torch.equal(editor.codes, states[1])
    editor.code.value = 9
    editor.set.click()  # what had been undone is gone
    assert editor.redo.disabled and not editor.undo.disabled


def test_without_chosen_cells_nothing_happens_and_it_says_so(editor: CodeEditor) -> None:
    editor.set.click()
    assert "choose cells first" in editor.status.value and editor.undo.disabled


def test_the_atlas_and_the_number_choose_the_same_code(editor: CodeEditor, model: VQVAE) -> None:
    editor.atlas.selected = [4]
    code = editor.code.value
    editor.code.value = (code + 1) % model.num_codes
    assert editor.atlas.selected != [4]
    editor.code.value = code
    assert editor.atlas.selected == [4]
    sheet = np.asarray(Image.open(io.BytesIO(editor.atlas.picture)))
    swatch = swatches(model)[code][2:4, 2:4]  # of three cells the one in the middle
    side, column = swatch.shape[0], 4 % editor.atlas.columns
    row = 4 // editor.atlas.columns
    np.testing.assert_array_equal(sheet[row * side : (row + 1) * side, column * side : (column + 1) * side], swatch)
    preview = np.asarray(Image.open(io.BytesIO(editor.preview.value)).resize((6, 6), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(preview, swatches(model)[code])


def test_a_click_beyond_the_last_code_of_the_atlas_changes_nothing(model: VQVAE, x: Tensor, tmp_path: Path) -> None:
    seven = CodeTransformer(7, 16, dim=16, layers=1, heads=2, causal=False).eval()
    editor = CodeEditor(model, seven, x, swatches(model)[:7], tmp_path)
    editor.code.value = 5
    marked = editor.atlas.selected
    editor.atlas.selected = [8]
    assert editor.code.value == 5 and editor.atlas.selected == marked


def test_saving_keeps_picture_and_codes_and_overwrites_nothing(editor: CodeEditor) -> None:
    editor.save.click()
    editor.canvas.selected = [0]
    editor.set.click()
    editor.save.click()
    assert sorted(path.name for path in editor.folder.iterdir()) == [
        f"edit-{n}.{e}" for n in (1, 2) for e in ("npy", "png")
    ]
    (editor.folder / "edit-1.png").unlink()
    editor.save.click()
    assert (editor.folder / "edit-3.png").is_file()
    np.testing.assert_array_equal(np.load(editor.folder / "edit-2.npy"), editor.codes[0])
    np.testing.assert_array_equal(np.asarray(Image.open(editor.folder / "edit-2.png")), shown(editor))


def test_copying_from_itself_is_no_step(editor: CodeEditor) -> None:
    editor.avatar.value = editor.donor.value
    editor.canvas.selected = [0]
    editor.copy.click()
    assert editor.undo.disabled and "choose another avatar" in editor.status.value


def test_the_editor_says_what_goes_wrong(editor: CodeEditor) -> None:
    editor.folder.write_text("not a folder")
    editor.save.click()  # ipywidgets logs what a button's callback raises
    assert editor.status.value.startswith("FileExistsError: ") and "edits" in editor.status.value


def test_each_avatar_keeps_its_own_edits(editor: CodeEditor) -> None:
    editor.canvas.selected = [0]
    editor.code.value = (int(editor.codes[0, 0, 0]) + 1) % 8
    editor.set.click()
    edited, picture = editor.codes, shown(editor)
    editor.avatar.value = 1
    assert torch.equal(editor.codes[0], editor.given[1]) and editor.undo.disabled
    editor.avatar.value = 0
    assert torch.equal(editor.codes, edited) and not editor.undo.disabled
    np.testing.assert_array_equal(shown(editor), picture)
    editor.avatar.value, editor.donor.value = 1, 0
    editor.canvas.selected = [0]
    editor.copy.click()
    assert editor.codes[0, 0, 0] == edited[0, 0, 0]  # as it stands there now
    editor.avatar.value = 0
    editor.undo.click()
    assert torch.equal(editor.codes[0], editor.given[0])


def result_of(code: str, names: dict[str, Any]) -> Any:
    """What a script gets from the code shown under a picture, given the objects of the notebook."""
    *imports, call = code.splitlines()
    exec("\n".join(imports), names)
    return eval(call, names)


@pytest.mark.slow
def test_the_sampling_call_gives_the_picture_shown(model: VQVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    causal, grids = prior(model, causal=True), []
    monkeypatch.setattr(
        widgets.plots, "image_grid", lambda pictures, **how: grids.append(pictures) or widgets.plots.figure()[0]
    )
    box = widgets.sampling_explorer(model, causal, count=2)
    box.children[0].value, box.children[3].value = 0.7, 5
    call = box.children[5].value
    again = result_of(call, {"model": model, "prior": causal})
    assert "temperature=0.7" in call and "seed=5" in call
    np.testing.assert_array_equal(grids[-1], to_pictures(again))


@pytest.mark.parametrize("method", ["blend", "exchange", "likely"])
def test_every_interpolation_call_gives_the_frame_shown(
    model: VQVAE, x: Tensor, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids: list[Any] = []
    monkeypatch.setattr(
        widgets.plots, "image_grid", lambda pictures, **how: grids.append(pictures) or widgets.plots.figure()[0]
    )
    masked = prior(model, causal=False)
    box = widgets.interpolation_explorer(model, masked, x[:1], x[1:2], steps=4)
    box.children[0].value, box.children[1].value = method, 2
    frame = result_of(box.children[3].value, {"model": model, "masked": masked, "a": x[:1], "b": x[1:2]})
    np.testing.assert_array_equal(grids[-1][1], to_pictures(frame[None])[0])


def test_the_wipe_shows_one_side_of_each() -> None:
    black, white = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 255, np.uint8)
    picture = widgets.plots.wiped(black, white, 0.25, ("a", "b")).axes[0].get_images()[0].get_array()
    assert (picture[:, :2] == 0).all() and (picture[:, 2:] == 255).all()
    box = widgets.wipe({"input": black, "a": black, "b": white})
    before = box.children[3].value
    box.children[2].value = 0.9
    assert box.children[3].value != before and "0.9" in box.children[4].value
    more = {"rows": {"a": np.concatenate([black, white]), "b": np.concatenate([white, black])}}
    assert widgets.plots.png_of(result_of(box.children[4].value, more)) == box.children[3].value


def test_what_goes_wrong_is_said_under_the_picture() -> None:
    def draw(size: int) -> Any:
        if size > 1:
            raise ValueError("size must be 1")
        return widgets.plots.figure()[0]

    size = widgets.w.IntText(1)
    box = widgets.over_controls({"size": size}, draw)
    with pytest.raises(ValueError, match="size must be 1"):
        size.value = 2
    assert box.children[-1].value == "ValueError: size must be 1"
    size.value = 0
    assert box.children[-1].value == ""
