"""The code editor, driven from code as a browser would drive it."""

import io
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_prior import prior
from torch import Tensor

from vq_core.config import load_config
from vq_core.data.augment import to_float, to_pictures
from vq_core.generation.editing import decode_edited
from vq_core.models import VQVAE
from vq_core.notebook.editor import CodeEditor


@pytest.fixture
def editor(model: VQVAE, x: Tensor, tmp_path: Path) -> CodeEditor:
    return CodeEditor(
        model,
        {"causal": prior(model, causal=True), "masked": prior(model, causal=False)},
        x,
        swatches(model),
        tmp_path / "edits",
        load_config("smoke", []).data,
    )


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
    editor = CodeEditor(model, {}, x, swatches(model)[:7], tmp_path)
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


def uploaded(name: str, content: bytes) -> tuple[dict[str, object]]:
    """What the browser hands over when a file was chosen."""
    when = datetime.now(timezone.utc)
    return ({"name": name, "type": "", "size": len(content), "last_modified": when, "content": memoryview(content)},)


def test_a_file_of_ones_own_is_read_like_any_image_and_edited_like_any_avatar(editor: CodeEditor) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(picture).save(buffer := io.BytesIO(), format="png")
    editor.donor.value = 1
    editor.file.value = uploaded("me.png", buffer.getvalue())
    middle = to_float(torch.from_numpy(picture[None, :, 16:80].copy()))  # of what is not square
    assert torch.equal(editor.codes, editor.model.encode(middle))
    assert editor.avatar.label == "me.png" and editor.donor.value == 1 and editor.undo.disabled
    editor.canvas.selected = [0]
    editor.copy.click()
    assert editor.codes[0, 0, 0] == editor.given[1, 0, 0] and not editor.undo.disabled
    editor.avatar.value, editor.donor.value = 0, 3
    editor.canvas.selected = [255]
    editor.copy.click()
    assert "1 cell copied from me.png" in editor.status.value


def test_a_file_that_cannot_be_read_is_named_with_the_reason(editor: CodeEditor) -> None:
    before = editor.codes
    editor.file.value = uploaded("notes.png", b"no picture at all")
    assert editor.status.value.startswith("notes.png: not an image: ")
    assert torch.equal(editor.codes, before) and len(editor.avatar.options) == 3
