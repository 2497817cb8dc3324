"""Pictures, histograms and signals."""

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
from disturbances import SignalDuringStep, assert_same_end
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from small_runs import FROM_SCRATCH, VECTORS_PER_STEP, fresh_copy, settings, the_run, view
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vq_core.runs.checkpoints import load_checkpoint, save_checkpoint
from vq_core.training.phases import train

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("phase", ["phase1", "phase2"])
def test_usage_counts_every_vector(story: Path, phase: str) -> None:
    run = the_run(story, phase)
    steps, counts = run.usage()
    assert steps.tolist() == [5, 10]
    assert counts.shape == (2, 16) and (counts.sum(1) == 5 * VECTORS_PER_STEP).all()
    assert [p.name for p in sorted((run.folder / "pictures").iterdir())] == ["step=000005.png", "step=000010.png"]


def test_tensorboard_has_curves_pictures_and_histograms(story: Path) -> None:
    events = EventAccumulator(str(the_run(story, "phase2").folder / "tensorboard"), {"images": 0, "histograms": 0})
    tags = events.Reload().Tags()
    assert {"train/rec", "train/gan", "train/disc", "train/lr", "train/lr_discriminator", "val/psnr"} <= {
        *tags["scalars"]
    }
    assert [event.step for event in events.Images("reconstructions")] == [5, 10]
    assert [event.step for event in events.Histograms("codes")] == [5, 10]
    for event, counts in zip(events.Histograms("codes"), the_run(story, "phase2").usage()[1], strict=True):
        assert event.histogram_value.num == counts.sum()


def test_wandb_gets_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is installed; here a logger in its place notes what it is given."""
    given: dict[str, list[Any]] = {}

    class Notes(WandbLogger):
        name, version, experiment = "notes", "", None

        def __init__(self, **settings: Any) -> None:
            given["settings"] = [settings]

        def log_hyperparams(self, *args: Any) -> None: ...
        def after_save_checkpoint(self, *args: Any) -> None: ...
        def finalize(self, status: str) -> None: ...

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            for name, value in metrics.items():
                given.setdefault(name, []).append((step, value))

        def log_image(self, key: str, images: list[Any], step: int | None = None, **more: Any) -> None:
            given.setdefault(key, []).append((step, images[0]))

    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", Notes)
    monkeypatch.setattr("vq_core.training.fit.find_spec", lambda name: name)
    ended: list[bool] = []
    wandb = SimpleNamespace(Histogram=lambda values: values, finish=lambda: ended.append(True))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run = train("phase1", settings(*FROM_SCRATCH, "train.wandb=true"))
    assert given["settings"][0]["name"] == given["settings"][0]["id"] == run.name and ended == [True]
    assert [step for step, _ in given["reconstructions"]] == [step for step, _ in given["codes"]] == [5, 10]
    _, counts = run.usage()
    for (_, values), expected in zip(given["codes"], counts, strict=True):
        assert np.bincount(values, minlength=16).tolist() == expected.tolist()
    assert [value for _, value in given["val/psnr"]] == pytest.approx(run.curve("val/psnr")[1].tolist())


def test_phase2_counts_its_own_codes_alone(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phase 1's best state may lie between two of its pictures, with codes counted since the first."""
    data = fresh_copy(story, tmp_path / "data", monkeypatch, without="phase2")
    best = the_run(data, "phase1").best
    state = load_checkpoint(best, ("phase1",))
    state["model"]["usage"] += 7
    save_checkpoint(best, state)
    assert train("phase2", settings()).usage()[1].sum(1).tolist() == [5 * VECTORS_PER_STEP] * 2


@pytest.mark.parametrize("number", [signal.SIGINT])
@pytest.mark.parametrize("interrupted", [True, False])
def test_signals_are_given_back(place: Path, number: int, interrupted: bool) -> None:
    received: list[int] = []
    before = signal.signal(number, lambda n, frame: received.append(n))
    try:
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                train("kmeans", settings(), view(SignalDuringStep(2, number)))
        else:
            train("kmeans", settings())
        assert received == []
        os.kill(os.getpid(), number)
        assert received == [number]
    finally:
        signal.signal(number, before)


def test_no_result_depends_on_the_order_of_callbacks(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turned round, with a stop on the way at a step where a picture is due too."""
    data = fresh_copy(story, tmp_path / "data", monkeypatch, without="phase2")
    original = L.Trainer

    def turned(*, callbacks: list[Callback], **how: Any) -> L.Trainer:
        return original(callbacks=callbacks[::-1], **how)

    monkeypatch.setattr(L, "Trainer", turned)
    with pytest.raises(KeyboardInterrupt):
        train("phase2", settings(), view(SignalDuringStep(5)))
    train("phase2", settings())
    assert_same_end(the_run(data, "phase2"), the_run(story, "phase2"))
