"""Figures show the numbers that they are given; widgets redraw them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from vq_core.notebook import plots
from vq_core.notebook.widgets import UsageExplorer, usage_comparison
from vq_core.runs.folders import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    rows = [{"step": s, "split": "train", "counts": [s, 5, 0, 20 - s]} for s in (5, 10, 15)]
    rows += [{"step": 15, "split": "val", "counts": [1, 1, 1, 0]}]
    (tmp_path / "usage.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    history = [{"step": s, "val/psnr": 20 + s / 10} for s in (5, 10, 15)]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    return Run(tmp_path)


def test_curves_draw_the_logged_values(run: Run) -> None:
    (line,) = plots.curves({"a": run}, {"val/psnr": "PSNR"}).axes[0].get_lines()
    assert line.get_xdata().tolist() == [5, 10, 15] and line.get_ydata().tolist() == [20.5, 21.0, 21.5]


def test_usage_histogram_sorts_colours_and_counts() -> None:
    ax = plots.usage_histogram({"codes": np.array([0, 30, 10, 0])}).axes[0]
    heights, colours = bars(ax)
    assert heights[:2] == [3.0, 1.0] and "2 of 4 codes used" in ax.get_title() and legend(ax) == ["2 dead"]
    assert colours[2] == colours[3] != colours[0] == colours[1]
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert f"perplexity {expected:.0f}" in ax.get_title()
    by_code = plots.usage_histogram({"codes": np.array([0, 30, 10, 0])}, by_usage=False).axes[0]
    assert bars(by_code)[0][1] == 3.0


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def bars(ax: Axes) -> tuple[list[float], list[tuple[float, ...]]]:
    """Heights and colours of the bars of a usage histogram, from left to right."""
    drawn = ax.collections[0]
    heights = [float(path.vertices[:, 1].max()) for path in drawn.get_paths()]
    return heights, [tuple(colour) for colour in drawn.get_facecolors()]


def test_usage_histogram_tells_dead_rare_and_dominant_codes_apart() -> None:
    counts = np.full(100, 10)
    counts[:4] = [0, 0, 1, 400]
    ax = plots.usage_histogram({"codes": counts}, by_usage=False, log=True).axes[0]
    colours = bars(ax)[1]
    assert legend(ax) == ["2 dead", "1 rare", "1 dominant"] and ax.get_yscale() == "log"
    assert colours[0] == colours[1] and len({colours[n] for n in (0, 2, 3, 4)}) == 4 and len(set(colours[4:])) == 1


def test_usage_histogram_compares_with_another() -> None:
    other = np.array([1, 3])
    ax = plots.usage_histogram({"a": np.array([1, 1])}, other=("b", other)).axes[0]
    (line,) = ax.patches
    assert line.get_data().values.tolist() == [1.5, 0.5] and "b (line): 2 of 2 codes used" in ax.get_title()
    larger = plots.usage_histogram({"a": np.array([1, 1])}, other=("b", np.arange(1, 9))).axes[0]
    assert larger.get_xlim() == (-0.5, 7.5)


def test_the_card_of_a_code_that_no_image_has() -> None:
    decoded, nowhere = np.full((6, 6, 3), 200, np.uint8), np.zeros((4, 4))
    _, where, patches, bar = plots.code_card("code 3", decoded, nowhere, []).axes
    assert where.get_images()[0].norm(0.0) == 0.0 and bar.get_ylim()[0] == 0.0  # black, and no negative shares
    assert patches.get_title() == "no image uses it"


def test_image_grid_shows_every_picture() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    shown = [ax.get_images()[0].get_array() for ax in plots.image_grid(pictures, columns=3).axes if ax.get_images()]
    assert len(shown) == 5 and all(np.array_equal(a, b) for a, b in zip(shown, pictures, strict=True))


def test_zoom_cuts_the_same_square() -> None:
    picture = np.arange(64 * 64 * 3).reshape(64, 64, 3)
    np.testing.assert_array_equal(plots.zoom([picture], 0.25, 0.5, 0.25)[0], picture[16:32, 32:48])


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
    assert explorer.code.value == 2 and explorer.histogram.selected == [list(explorer._codes).index(2)]


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


def test_pictures_are_drawn_with_all_their_pixels_where_there_is_room() -> None:
    large, small = np.zeros((4, 256, 256, 3), np.uint8), np.zeros((4, 16, 16, 3), np.uint8)
    assert plots.image_grid(large, columns=4).get_size_inches()[0] * 80 == pytest.approx(4 * 256)
    assert plots.image_grid(small, columns=4).get_size_inches()[0] == pytest.approx(4 * 1.1)
    assert plots.rows_of_images({"a": large}).get_size_inches()[0] * 80 == pytest.approx(4 * 256 + 72)
    assert plots.image_grid(np.tile(large, (4, 1, 1, 1)), columns=16).get_size_inches()[0] < 18


def test_comparison_switches_codebooks() -> None:
    box = usage_comparison({"one": np.array([1, 2]), "two": np.array([5, 0])})
    before = box.children[3].value
    box.children[0].value = "two"
    assert box.children[3].value != before
    with Image.open(io.BytesIO(before)) as picture:
        assert picture.width > 300
    assert isinstance(plots.figure()[0], Figure) and plots.png_of(plots.figure()[0])[:4] == b"\x89PNG"
