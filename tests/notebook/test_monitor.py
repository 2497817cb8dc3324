"""The live view: what it costs, and what it says."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from vq_core.config import load_config
from vq_core.notebook import monitor, plots
from vq_core.runs.folders import History, Run


class Clock:
    """Time that passes when told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.slow
@pytest.mark.parametrize("drawing", [0.05, 0.4, 3.0])
def test_drawing_takes_no_more_than_its_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawing: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(monitor, "time", clock)
    drawn: list[Figure] = []

    def slow(figure: Figure) -> bytes:
        drawn.append(figure)
        clock.now += drawing
        return b""

    monkeypatch.setattr(monitor, "png_of", slow)
    run = Run(tmp_path / "phase1-smoke-x")
    view = monitor.LiveView(run, History(run))
    module = stand_in(0, 6000)
    began = clock.now
    view.on_train_start(None, module)
    for _ in range(6000):
        clock.now += 0.1
        module.steps_done += 1
        view.on_train_batch_end(None, module)
    assert len(drawn) >= 3
    assert view.spent == pytest.approx(len(drawn) * drawing) and view.spent / (clock.now - began) <= 0.016
    assert view.status(module).startswith("phase1 step 6000/6000")


def stand_in(done: int, total: int) -> Any:
    """What the view needs of a training module."""
    config = load_config("smoke", [])
    position = SimpleNamespace(total_steps=total)
    return SimpleNamespace(steps_done=done, position=position, seconds=90.0, validations_since_best=4, config=config)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are shown, the latest last."""
    figures: list[Figure] = []
    monkeypatch.setattr(monitor, "png_of", lambda figure: figures.append(figure) or plots.png_of(figure))
    return figures


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with two entries in its history, one of the codebook's use, and two pictures."""
    run = Run(tmp_path / "phase1-smoke-x")
    (run.folder / "pictures").mkdir(parents=True)
    history = History(run)
    for step in (10, 20):
        history.add({"train/total": 2 / step, "train/rec": 1 / step, "train/commit": 0.5 / step}, step)
    history.add({"val/total": 0.2, "val/psnr": 21.5, "val/perplexity": 3.0}, 20)
    history.add_usage(np.array([3, 0, 1, 4]), 20)
    for step, value in ((20, 50), (40, 200)):
        Image.fromarray(np.full((134, 530, 3), value, np.uint8)).save(run.folder / "pictures" / f"step={step:06d}.png")
    return run


def parts(figure: Figure) -> dict[str, Axes]:
    return {ax.get_title(): ax for ax in figure.axes}


@pytest.mark.slow
def test_it_says_how_a_training_goes_and_how_it_ended(
    run: Run, shown: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(monitor, "time", clock)
    view, module = monitor.LiveView(run, History(run)), stand_in(20, 120)
    view.on_train_start(None, module)
    assert shown[-1].get_suptitle() == "phase1 step 20/120 · loss 0.1 · validation PSNR 21.5"
    clock.now += 10
    module.steps_done, batch = 40, module.config.train.batch_size
    view.on_train_batch_end(None, module)
    assert shown[-1].get_suptitle().endswith(f"{2 * batch:.3g} images/s · 40 s left")
    view.ended(module, "interrupted")
    assert shown[-1].get_suptitle().endswith("images/s · interrupted: run the cell again to resume")
    view.ended(module, "RuntimeError")
    assert shown[-1].get_suptitle().endswith("images/s · RuntimeError")
    view.ended(module, "stopped early")
    assert shown[-1].get_suptitle().endswith("stopped early after 1.5 min: no improvement in 4 validations")
    module.steps_done = 120
    view.ended(module, "done")
    assert shown[-1].get_suptitle().endswith("images/s · done in 1.5 min")


def test_a_resumed_run_shows_its_losses_codes_and_pictures_at_once(run: Run, shown: list[Figure]) -> None:
    monitor.LiveView(run, History(run)).on_train_start(None, stand_in(20, 120))
    drawn = parts(shown[-1])
    lines = {line.get_label(): line.get_ydata() for line in drawn["terms of the loss"].get_lines()}
    assert lines.keys() == {"rec", "commit"} and lines["rec"] == pytest.approx([0.1, 0.05])
    assert any(title.startswith("codebook, step 20") for title in drawn)
    (title,) = (title for title in drawn if title.startswith("validation images above"))
    assert title.endswith("step 20")  # the picture of step 40 is from before the resume
    assert (drawn[title].get_images()[0].get_array() == 50).all()


def test_nothing_jumps_while_a_run_begins(tmp_path: Path, run: Run, shown: list[Figure]) -> None:
    fresh = Run(tmp_path / "phase1-smoke-fresh")
    for each in (fresh, run):
        monitor.LiveView(each, History(each)).on_train_start(None, stand_in(0, 120))
    empty, full = shown
    assert (empty.get_size_inches() == full.get_size_inches()).all()
    assert not empty.axes and len(full.axes) == 7


def test_a_finished_run_that_is_loaded_shows_what_it_came_to(run: Run, shown: list[Figure]) -> None:
    run.update_result({"steps": 40, "best_step": 20, "seconds": 61.0, "findings": ["T3: soft; try Phase 2"]})
    monitor.LiveView(run, History(run)).show_finished()
    (figure,) = shown
    assert figure.get_suptitle() == "phase1 step 40 · loss 0.1 · validation PSNR 21.5 · best at step 20 · took 1.0 min"
    assert figure.get_supxlabel() == "T3: soft; try Phase 2"
    assert any(title.endswith("reconstructions below, step 40") for title in parts(figure))
