"""Figures show the numbers that they are given."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from vq_core.notebook import plots
from vq_core.runs.folders import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
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


def test_pictures_are_drawn_with_all_their_pixels_where_there_is_room() -> None:
    large, small = np.zeros((4, 256, 256, 3), np.uint8), np.zeros((4, 16, 16, 3), np.uint8)
    assert plots.image_grid(large, columns=4).get_size_inches()[0] * 80 == pytest.approx(4 * 256)
    assert plots.image_grid(small, columns=4).get_size_inches()[0] == pytest.approx(4 * 1.1)
    assert plots.rows_of_images({"a": large}).get_size_inches()[0] * 80 == pytest.approx(4 * 256 + 72)
    assert plots.image_grid(np.tile(large, (4, 1, 1, 1)), columns=16).get_size_inches()[0] < 18
