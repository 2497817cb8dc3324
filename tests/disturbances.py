"""Callbacks that disturb a training, and what tells whether two runs ended alike."""

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from vq_core.runs.checkpoints import load_checkpoint
from vq_core.runs.folders import Run


class Crash(Exception):
    pass


class SignalDuringStep(Callback):
    """Sends this process a signal in the course of a step, as Ctrl-C does."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if module.steps_done + 1 == self.step and module.position.between_steps:
            os.kill(os.getpid(), self.number)


class SignalBetweenBatches(SignalDuringStep):
    """Sends the signal between two batches of a step."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if module.steps_done + 1 == self.step and not module.position.between_steps:
            os.kill(os.getpid(), self.number)


class CrashBetweenBatches(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if module.steps_done + 1 == self.step and not module.position.between_steps:
            raise Crash


class SignalDuringValidation(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        if module.steps_done == self.step:
            os.kill(os.getpid(), signal.SIGINT)


class CrashAfterStep(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if module.steps_done == self.step:
            raise Crash


class CrashDuringValidation(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_validation_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        if module.steps_done == self.step:
            raise Crash


class Watch(Callback):
    """Notes down what a function says of the module at the start of every step."""

    def __init__(self, look: Callable[[Any], Any]) -> None:
        self.look = look
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(self.look(module))


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Paths of nested values that are not equal to the last bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a for d in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}/{i}")]
    return [] if type(a) is type(b) and a == b else [where]


def assert_same_end(run: Run, reference: Run, steps: int = 10) -> None:
    """Both runs ended with the same weights, buffers, optimiser states and validation figures, bit for bit."""
    for name in ("last", "best"):
        states = []
        for path in (getattr(run, name), getattr(reference, name)):
            state = load_checkpoint(path, (run.phase,))
            states.append({key: value for key, value in state.items() if key not in ("seconds", "rng")})
        assert differences(*states) == []
    assert validations(run) == validations(reference)
    for ours, theirs in zip(run.usage(), reference.usage(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    pictures = [{p.name for p in r.folder.glob("pictures/*")} for r in (run, reference)]
    assert pictures[0] == pictures[1]
    assert run.result()["best_step"] == reference.result()["best_step"]
    logged = [row["step"] for row in run.history() if "train/total" in row or "train/bits" in row]
    assert logged == sorted(set(logged)) and logged[-1] == steps


def validations(run: Run) -> list[dict[str, float]]:
    return [row for row in run.history() if any(name.startswith("val/") for name in row)]
