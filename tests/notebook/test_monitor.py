"""The live view: what it costs, and what it says."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vq_core.notebook import monitor
from vq_core.training.runs import History, Run


class Clock:
    """Time that passes when told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("drawing", [0.05, 0.4, 3.0])
def test_drawing_takes_no_more_than_its_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawing: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(monitor, "time", clock)

    class Slow(monitor.LiveView):
        drawn = 0

        def _figure(self, module: Any, status: str) -> Any:
            self.drawn += 1
            clock.now += drawing
            return monitor.figure()[0]

    run = Run(tmp_path / "phase1-smoke-x")
    view = Slow(run, History(run), None)
    train = SimpleNamespace(batch_size=16)
    module: Any = SimpleNamespace(steps_done=0, total_steps=6000, seconds=600.0, config=SimpleNamespace(train=train))
    began = clock.now
    view.on_train_start(None, module)
    for _ in range(6000):
        clock.now += 0.1
        module.steps_done += 1
        view.on_train_batch_end(None, module, None, None, 0)
    assert view.drawn >= 3
    assert view.spent == pytest.approx(view.drawn * drawing) and view.spent / (clock.now - began) <= 0.016
    assert view.status(module).startswith("phase1 step 6000/6000")
