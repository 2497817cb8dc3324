"""Figures show the numbers that they are given; widgets redraw them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vq_core.notebook import plots
from vq_core.notebook.widgets import usage_comparison, usage_explorer
from vq_core.training.runs import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    rows = [{"step": s, "counts": [s, 5, 0, 20 - s]} for s in (5, 10, 15)]
    (tmp_path / "usage.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    history = [{"step": s, "val/psnr": 20 + s / 10} for s in (5, 10, 15)]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    return Run(tmp_path)


def test_curves_draw_the_logged_values(run: Run) -> None:
    (line,) = plots.curves({"a": run}, {"val/psnr": "PSNR"}).axes[0].get_lines()
    assert line.get_xdata().tolist() == [5, 10, 15] and line.get_ydata().tolist() == [20.5, 21.0, 21.5]


def test_usage_histogram_sorts_colours_and_counts() -> None:
    ax = plots.usage_histogram({"codes": np.array([0, 30, 10, 0])}).axes[0]
    heights = [bar.get_height() for bar in ax.patches]
    assert heights[:2] == [3.0, 1.0] and "50% used" in ax.get_title()
    red = ax.patches[-1].get_facecolor()
    assert ax.patches[2].get_facecolor() == red != ax.patches[0].get_facecolor()
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert f"perplexity {expected:.0f} of 4" in ax.get_title()
    by_code = plots.usage_histogram({"codes": np.array([0, 30, 10, 0])}, by_usage=False).axes[0]
    assert by_code.patches[1].get_height() == 3.0


def test_image_grid_shows_every_picture() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    shown = [ax.get_images()[0].get_array() for ax in plots.image_grid(pictures, columns=3).axes if ax.get_images()]
    assert len(shown) == 5 and all(np.array_equal(a, b) for a, b in zip(shown, pictures, strict=True))


def test_zoom_cuts_the_same_square() -> None:
    picture = np.arange(64 * 64 * 3).reshape(64, 64, 3)
    np.testing.assert_array_equal(plots.zoom([picture], 0.25, 0.5, 0.25)[0], picture[16:32, 32:48])


def test_explorer_redraws_when_the_slider_moves(run: Run) -> None:
    _, slider, order, image = usage_explorer(run).children
    last = image.value
    slider.value = 0
    first = image.value
    assert first != last
    order.value = False
    assert image.value != first
    slider.value, order.value = 2, True
    assert image.value == last


def test_comparison_switches_codebooks() -> None:
    box = usage_comparison({"one": np.array([1, 2]), "two": np.array([5, 0])})
    before = box.children[-1].value
    box.children[0].value = "two"
    assert box.children[-1].value != before
    with Image.open(io.BytesIO(before)) as picture:
        assert picture.width > 300
    assert isinstance(plots.figure()[0], Figure) and plots.png_of(plots.figure()[0])[:4] == b"\x89PNG"
