"""Widgets redraw their figures when a control moves, driven from code as a browser would drive them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vq_core.notebook import plots, widgets
from vq_core.notebook.widgets import UsageExplorer
from vq_core.runs.folders import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    rows = [{"step": s, "split": "train", "counts": [s, 5, 0, 20 - s]} for s in (5, 10, 15)]
    rows += [{"step": 15, "split": "val", "counts": [1, 1, 1, 0]}]
    (tmp_path / "usage.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run(tmp_path)


def test_explorer_redraws_when_a_control_moves(run: Run) -> None:
    explorer = UsageExplorer({"a": run})
    assert explorer.step.value == 15
    seen = {bytes(explorer.histogram.picture)}
    for control, value in (("step", 5), ("order", False), ("scale", True), ("split", "val")):
        getattr(explorer, control).value = value
        assert bytes(explorer.histogram.picture) not in seen, f"{control} changes nothing"
        seen.add(bytes(explorer.histogram.picture))


def test_explorer_chooses_the_code_that_was_clicked(run: Run) -> None:
    cards: list[int] = []

    def card(code: int) -> Figure:
        cards.append(code)
        return plots.figure()[0]

    explorer = UsageExplorer({"a": run}, card)
    explorer.step.value = 5  # counts 5, 5, 0, 15
    assert explorer.histogram.columns == 4 and explorer.histogram.selected == [1]  # code 0 is the second most used
    explorer.histogram.selected = [0]
    assert explorer.code.value == 3 and cards[-1] == 3
    explorer.order.value = False
    assert explorer.histogram.selected == [3]  # the same code, at its new place
    explorer.code.value = 2
    assert explorer.histogram.selected == [2] and cards[-1] == 2


def test_the_clickable_part_is_where_the_bars_are(run: Run) -> None:
    """Of the picture's columns of pixels, those within a bar's cell are of the bar's colour."""
    explorer = UsageExplorer({"a": run})
    explorer.order.value = False
    explorer.step.value = 5  # counts 5, 5, 0, 15: the third code is dead, red
    with Image.open(io.BytesIO(explorer.histogram.picture)) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    left, top, right, bottom = explorer.histogram.box
    width, height = pixels.shape[1], pixels.shape[0]
    for cell in range(4):
        x = round((left + (right - left) * (cell + 0.5) / 4) * width)
        y = round((top + (bottom - top) * 0.985) * height)  # just above the axis
        red, _, blue = pixels[y, x]
        assert (red > blue) == (cell == 2), cell


def run_with(folder: Path, *entries: tuple[int, str, list[int]]) -> Run:
    """A run whose usage was logged so: step, split, counts."""
    folder.mkdir()
    rows = [json.dumps({"step": step, "split": split, "counts": counts}) for step, split, counts in entries]
    (folder / "usage.jsonl").write_text("\n".join(rows))
    return Run(folder)


def test_explorer_compares_two_runs_each_at_its_own_step(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[dict, tuple]] = []
    draw = plots.usage_histogram

    def seen(usages: dict, *args: Any, other: Any, **how: Any) -> Figure:
        drawn.append((usages, other))
        return draw(usages, *args, other=other, **how)

    monkeypatch.setattr(plots, "usage_histogram", seen)
    shorter = run_with(tmp_path / "b", (4, "train", [1] * 6), (8, "train", [2] * 6), (8, "val", [3] * 6))
    explorer = UsageExplorer({"a": run, "b": shorter})
    assert list(explorer.step.options) == [4, 5, 8, 10, 15] and explorer.play.max == 4
    for step, own, its in ((15, 15, 8), (5, 5, 4), (4, 5, 4)):  # the last before it, else the first
        explorer.step.value = step
        (usages, (label, counts)) = drawn[-1]
        assert list(usages) == [f"a, step {own}, training images"] and label == f"b, step {its}"
        assert counts.tolist() == [its // 4] * 6 and usages[f"a, step {own}, training images"][0] == own
    explorer.split.value = "val"
    (usages, (label, _)) = drawn[-1]
    assert list(usages) == ["a, step 15, validation images"] and label == "b, step 8"
    assert (
        explorer.histogram.columns == 6
    )  # room for the larger codebook; a click beyond the first one's changes nothing
    explorer.code.value = 2
    explorer.histogram.selected = [5]
    assert explorer.code.value == 2 and explorer.histogram.selected == [2]  # counts 1, 1, 1, 0: in order of the codes


def test_explorer_plays_from_the_start_when_at_the_end(run: Run) -> None:
    explorer = UsageExplorer({"a": run})
    assert explorer.play.value == explorer.play.max == 2
    explorer.play.playing = True
    assert explorer.play.value == 0 and explorer.step.value == 5


def test_explorer_refuses_three_runs_and_one_without_usage(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one or two"):
        UsageExplorer({"a": run, "b": run, "c": run})
    empty = run_with(tmp_path / "empty")
    for runs in ({"a": run, "none": empty}, {"none": empty, "a": run}, {"none": empty}):
        with pytest.raises(ValueError, match=r"none: no code usage has been logged in .*empty"):
            UsageExplorer(runs)


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


def test_a_figure_is_saved_as_it_is_shown_and_says_why_it_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, path = plots.figure()[0], tmp_path / "samples.png"
    save, said = widgets.with_saving(shown, path, "python -m vq_core sample").children
    assert capsys.readouterr().out.splitlines()[-1] == "python -m vq_core sample"
    save.click()
    assert path.read_bytes() == plots.png_of(shown) and said.value.startswith(f"saved {path}, ")
    path.unlink()
    path.mkdir()
    save.click()
    assert said.value.startswith("IsADirectoryError: ")
