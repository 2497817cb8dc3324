"""A training that is interrupted anywhere ends as if it had not been, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from disturbances import (
    Crash,
    CrashAfterStep,
    CrashBetweenBatches,
    CrashDuringValidation,
    SignalBetweenBatches,
    SignalDuringStep,
    SignalDuringValidation,
    Watch,
    assert_same_end,
)
from lightning.pytorch.callbacks import Callback
from small_runs import FROM_SCRATCH, SETTINGS, fresh_copy, settings, the_run, view

from vq_core.runs.checkpoints import load_checkpoint
from vq_core.training.phases import train

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def signals_stay_as_they_were() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


CUTS = [
    SignalDuringStep(1),
    SignalDuringStep(4),  # validation belongs to this step
    SignalDuringStep(5),  # just after a validation
    SignalDuringStep(6),  # where a checkpoint is written anyhow
    SignalDuringStep(7, signal.SIGTERM),
    SignalDuringStep(8, signal.SIGTERM),
    SignalDuringStep(10),
    SignalDuringValidation(4),
    CrashAfterStep(2),  # before anything was saved
    CrashAfterStep(7),  # one step after the last save
    CrashAfterStep(10),
    CrashDuringValidation(4),
]


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: f"{type(cut).__name__}{cut.step}")
@pytest.mark.parametrize("phase", ["phase1", "phase2", "prior", "masked"])
def test_resume_equals_the_uninterrupted_run(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, cut: Any
) -> None:
    data = fresh_copy(story, tmp_path / "data", monkeypatch, without=phase)
    with pytest.raises(Crash if "Crash" in type(cut).__name__ else KeyboardInterrupt):
        train(phase, settings(), view(cut))
    run = the_run(data, phase)
    assert not run.done
    assert train(phase, settings()) == run
    assert_same_end(run, the_run(story, phase))


@pytest.mark.parametrize("cut", [CrashAfterStep(7), SignalDuringStep(5)])
def test_resume_with_muon_equals_the_uninterrupted_run(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: Any
) -> None:
    config = settings("quantizer.init=kaiming", "phase1.muon_lr=0.02")
    fresh_copy(prepared, tmp_path / "whole", monkeypatch)
    whole = train("phase1", config)
    assert max(whole.curve("train/lr_muon")[1]) > 0.01
    fresh_copy(prepared, tmp_path / "cut", monkeypatch)
    with pytest.raises(Crash if isinstance(cut, CrashAfterStep) else KeyboardInterrupt):
        train("phase1", config, view(cut))
    assert_same_end(train("phase1", config), whole)


def test_a_run_resumed_where_auto_means_another_precision_says_so(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh_copy(story, tmp_path / "data", monkeypatch, without="prior")
    config = settings("train.precision=auto", *FROM_SCRATCH, "loss.gan_start=3")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    with pytest.raises(KeyboardInterrupt):
        train("phase2", config, view(SignalDuringStep(6)))
    assert "goes on in" not in capsys.readouterr().err
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    run = train("phase2", config)
    assert f"{run.name} was begun in bf16-mixed and goes on in 32-true" in capsys.readouterr().out
    assert run.result()["precision"] == "32-true"


HALVES = (
    *FROM_SCRATCH,
    "train.accumulate=2",
    "loss.gan_start=3",
    "discriminator.lecam=0.1",
    "discriminator.augment=true",
)


HALF_CUTS = [
    *(SignalBetweenBatches(step) for step in (1, 4, 5, 10)),
    *(CrashBetweenBatches(step) for step in (2, 4, 7)),
]


@pytest.fixture(scope="module")
def halves(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with uninterrupted runs whose steps are of two batches each. Not to be changed."""
    folder = tmp_path_factory.mktemp("halves") / "data"
    with pytest.MonkeyPatch.context() as patch:
        fresh_copy(prepared, folder, patch)
        for phase in ("phase1", "phase2"):
            train(phase, settings(*HALVES))
    return folder


@pytest.mark.parametrize("cut", HALF_CUTS, ids=lambda cut: f"{type(cut).__name__}{cut.step}")
@pytest.mark.parametrize("phase", ["phase1", "phase2"])
def test_resume_from_within_a_step(halves: Path, place: Path, phase: str, cut: Any) -> None:
    with pytest.raises(Crash if "Crash" in type(cut).__name__ else KeyboardInterrupt):
        train(phase, settings(*HALVES), view(cut))
    run = train(phase, settings(*HALVES))
    assert run == the_run(place, phase)
    assert_same_end(run, the_run(halves, phase))


def checkpoint_times(data: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in data.glob("runs/phase2-*/checkpoints/last.ckpt")]


def test_killed_at_any_moment(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL at moments that nobody chose, most of them while a checkpoint is being written; forty with everything."""
    everything = bool(os.environ.get("VQ_TEST_EVERYTHING"))
    moments = [random.Random(n).random() for n in range(40)] if everything else [0.13, 0.71, 0.37]
    steps = 2000 if everything else 200
    busy = (*FROM_SCRATCH, f"phase2.steps={steps}", "train.save_every=1", "train.val_every=50", "train.log_every=10")
    data = fresh_copy(prepared, tmp_path / "killed", monkeypatch)
    command = [sys.executable, "-m", "vq_core", "train", "phase2", "--profile", "smoke", *SETTINGS, *busy]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    reached = [0]
    for moment in moments:
        before = checkpoint_times(data)
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        # Not the log: it may hold a row of a step whose checkpoint the process killed before did not live to write.
        while process.poll() is None and checkpoint_times(data) == before and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(moment)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        reached.append(load_checkpoint(the_run(data, "phase2").last, ("phase2",))["steps_done"])
    assert reached == sorted(set(reached)) and reached[-1] < steps
    run = train("phase2", settings(*busy))
    fresh_copy(prepared, tmp_path / "whole", monkeypatch)
    assert_same_end(run, train("phase2", settings(*busy)), steps=steps)


def test_many_interruptions(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = fresh_copy(story, tmp_path / "data", monkeypatch, without="phase2")
    for step in (1, 2, 3, 6, 7, 9):
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step {step} of 10; run it again to resume"):
            train("phase2", settings(), view(SignalDuringStep(step)))
    train("phase2", settings())
    assert_same_end(the_run(data, "phase2"), the_run(story, "phase2"))


def test_schedules_go_on_where_they_were(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_copy(story, tmp_path / "data", monkeypatch, without="phase2")
    first, second = (Watch(lambda module: (module.steps_done, module.gan_weight)) for _ in range(2))
    stop = SignalDuringStep(6)

    class Both(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            first.on_train_batch_start(*args)
            stop.on_train_batch_start(*args)

    with pytest.raises(KeyboardInterrupt):
        train("phase2", settings(), view(Both()))
    train("phase2", settings(), view(second))
    start = 13 - load_checkpoint(the_run(story, "phase1").best, ("phase1",))["steps_done"]
    weights = [0.0 if step < start else 0.1 * min(1.0, (step - start + 1) / 4) for step in range(10)]
    assert [step for step, _ in first.seen + second.seen] == list(range(10))
    assert [weight for _, weight in first.seen + second.seen] == pytest.approx(weights)


def test_resume_with_plateau_schedule(place: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings("optim.schedule=plateau", "optim.plateau_patience=1", "quantizer.init=kaiming", "phase1.lr=0.05")
    reference = train("phase1", config)
    fresh_copy(prepared, place.parent / "again", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train("phase1", config, view(SignalDuringStep(9)))
    assert_same_end(train("phase1", config), reference)
