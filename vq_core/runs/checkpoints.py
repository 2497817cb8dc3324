"""Checkpoints: everything that a run needs to go on exactly where it stopped, in one file of plain values.

A file carries the number of its format. One of an earlier format is translated when it is read (`_UPGRADES`), so that
nothing else has to know what weights and keys were once called.
"""

import random
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vq_core.errors import CheckpointError, ConfigError
from vq_core.files import written_whole
from vq_core.runs.folders import Phase

FORMAT = 2


def _to_format_2(state: dict[str, Any]) -> dict[str, Any]:
    """From 6d1eaf3: the autoencoder is a model of its own inside the training; one plateau for each optimiser."""
    model: dict[str, Tensor] = {}
    for name, value in state["model"].items():
        part = name.split(".")[0]
        model["vqvae." * (part in ("encoder", "decoder", "to_codes", "from_codes", "quantizer")) + name] = value
    if "steps_before" in model:
        model["gan_from"] = model["steps_before"].clone()
    plateau = state.get("plateau")
    return state | {
        "phase": state["kind"],
        "model": model,
        "plateaus": [plateau] * len(state["optimizers"]) if plateau else [],
    }


# From each format to the next.
_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _to_format_2}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. Raises `CheckpointError` where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch's writer ends a failed write with a RuntimeError of its own
        cause = error if isinstance(error, OSError) else error.__context__
        reason = getattr(cause, "strerror", None) or str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be written ({reason}); the checkpoint before it is kept") from None


def load_checkpoint(path: Path, phases: tuple[Phase, ...]) -> dict[str, Any]:
    """Read a checkpoint, refusing anything but tensors and plain values (no pickled code).

    Raises:
        CheckpointError: no such file, damaged (by the checksums in it), of a newer format, or of another phase.
    """
    try:
        state = _read(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: is not a readable checkpoint ({reason[:120]}){_another(path)}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds '{type(state).__name__}', but {' or '.join(phases)} is needed")
    written = state.get("format", 1)  # 6d1eaf3 wrote no number
    if written > FORMAT:
        raise CheckpointError(
            f"{path}: has format {written}, newer than {FORMAT}, the newest known: update the workbook"
        )
    found = state.get("phase", state.get("kind"))
    if found not in phases:
        raise CheckpointError(f"{path}: holds '{found}', but {' or '.join(phases)} is needed")
    with fitting(path):
        for number in range(written, FORMAT):
            state = _UPGRADES[number](state)
        return state | {"format": FORMAT}


def _read(path: Path) -> Any:
    with zipfile.ZipFile(path) as file:  # torch's own reader does not look at the checksums that its writer makes
        damaged = file.testzip()
    if damaged:
        raise ValueError(f"the checksum of {damaged} in it is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)


def _another(path: Path) -> str:
    """What a message says of the newest whole checkpoint beside a damaged one."""
    for other in sorted(path.parent.glob("*.ckpt"), key=lambda p: p.stat().st_mtime, reverse=True):
        if other != path:
            try:
                steps = _read(other)["steps_done"]
            except Exception:
                continue
            return f"; {other.name} beside it is whole (step {steps}): copy it over {path.name} to go on from there"
    return "; no whole one lies beside it"


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Inside, what a checkpoint holds is taken over; what does not fit this version is a `CheckpointError`."""
    try:
        yield
    except (ConfigError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CheckpointError(f"{path}: does not fit this version of the workbook ({' '.join(lines)[:200]})") from None


def load_weights(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights of the same names and shapes. Raises `CheckpointError`, listing what does not fit."""
    theirs, ours = (
        {name: tuple(value.shape) for name, value in tensors.items()} for tensors in (weights, module.state_dict())
    )
    different = settings_that_differ(theirs, ours)
    if different:
        more = f" and {len(different) - 4} more" if len(different) > 4 else ""
        raise CheckpointError(f"{path}: its weights do not fit: {', '.join(different[:4])}{more}")
    module.load_state_dict(weights)


def settings_that_differ(theirs: dict[str, Any], ours: dict[str, Any], where: str = "") -> list[str]:
    """Keys of nested settings with other values: "model.num_codes (512 there, 1024 here)"."""
    found = []
    for key in dict.fromkeys([*theirs, *ours]):
        a, b = theirs.get(key, "absent"), ours.get(key, "absent")
        if isinstance(a, dict) and isinstance(b, dict):
            found += settings_that_differ(a, b, f"{where}{key}.")
        elif a != b:
            found.append(f"{where}{key} ({a} there, {b} here)")
    return found


def refuse_other_settings(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raises `CheckpointError`, listing what differs, where a checkpoint was made with other settings."""
    different = settings_that_differ(theirs, ours)
    if different:
        raise CheckpointError(f"{path}: was made with other settings: {', '.join(different)}; move it away")


def rng_state() -> dict[str, Any]:
    """The state of all global random generators, as tensors and plain values."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the global one is what others use
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,  # of this process's device
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what `rng_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
