"""Checkpoints: all that a run needs to resume exactly where it stopped, in one file; older formats are upgraded."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vq_core.errors import CheckpointError
from vq_core.files import written_whole
from vq_core.runs.folders import Phase

FORMAT = 2


def _to_format_2(state: dict[str, Any]) -> dict[str, Any]:
    """From 6d1eaf3: the autoencoder becomes a model of its own within the module; one plateau per optimiser."""
    parts = ("encoder.", "decoder.", "to_codes.", "from_codes.", "quantizer.")
    model: dict[str, Tensor] = {"vqvae." * name.startswith(parts) + name: w for name, w in state["model"].items()}
    if "steps_before" in model:
        model["gan_from"] = model["steps_before"].clone()
    plateaus = [plateau] * len(state["optimizers"]) if (plateau := state.get("plateau")) else []
    return state | {"phase": state["kind"], "model": model, "plateaus": plateaus}


_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _to_format_2}  # to the next format


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. Raises `CheckpointError` if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch's writer follows a failed write with a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        reason = getattr(cause, "strerror", None) or str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be written ({reason}); the previous checkpoint is kept") from None


def load_checkpoint(path: Path, phases: tuple[Phase, ...]) -> dict[str, Any]:
    """Read tensors and plain values, no pickled code. Raises `CheckpointError`: absent, damaged, newer, wrong phase."""
    try:
        state = _read(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint{_intact(path)}") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: is not a readable checkpoint ({reason[:120]}){_intact(path)}") from None
    known: dict[str, Any] = state if isinstance(state, dict) else {"phase": type(state).__name__}
    written, found = known.get("format", 1), known.get("phase", known.get("kind"))  # 6d1eaf3 wrote "kind", no format
    if written > FORMAT:
        raise CheckpointError(f"{path}: has format {written}, newer than {FORMAT}; update the workbook")
    if found not in phases:
        raise CheckpointError(f"{path}: holds '{found}', but {' or '.join(phases)} is needed")
    with fitting(path):
        for number in range(written, FORMAT):
            state = _UPGRADES[number](state)
        return state | {"format": FORMAT}


def _read(path: Path) -> Any:
    with zipfile.ZipFile(path) as file:  # torch's own reader does not check the checksums that its writer adds
        if damaged := file.testzip():
            raise ValueError(f"wrong checksum of {damaged}")
    return torch.load(path, map_location="cpu", weights_only=True)


def _intact(path: Path) -> str:
    """Part of an error message: the newest intact checkpoint next to a damaged one."""
    for other in sorted({*path.parent.glob("*.ckpt")} - {path}, key=lambda p: p.stat().st_mtime, reverse=True):
        with suppress(Exception):
            steps = _read(other)["steps_done"]
            return f"; {other.name} next to it is intact (step {steps}): copy it over {path.name} to use it instead"
    return "; there is no intact one next to it"


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Turns errors while a checkpoint's contents are used into `CheckpointError`: they do not fit this version."""
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: does not fit this version of the workbook ({why})") from None


def load_weights(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights of the same names and shapes. Raises `CheckpointError`, listing what does not fit."""
    theirs, ours = ({name: tuple(w.shape) for name, w in some.items()} for some in (weights, module.state_dict()))
    if different := settings_that_differ(theirs, ours):
        raise CheckpointError(f"{path}: its weights do not fit: {first_few(different)}")
    module.load_state_dict(weights)


def first_few(different: list[str]) -> str:
    """The first four differences, and how many more there are."""
    return ", ".join(different[:4]) + (f" and {len(different) - 4} more" if len(different) > 4 else "")


def settings_that_differ(theirs: dict[str, Any], ours: dict[str, Any], where: str = "") -> list[str]:
    """Keys of nested settings whose values differ, such as "model.num_codes (512 there, 1024 here)"."""
    found = []
    for key in dict.fromkeys([*theirs, *ours]):
        a, b = theirs.get(key, "absent"), ours.get(key, "absent")
        if isinstance(a, dict) and isinstance(b, dict):
            found += settings_that_differ(a, b, f"{where}{key}.")
        elif a != b:
            found.append(f"{where}{key} ({a} there, {b} here)")
    return found
