"""Checkpoints: everything that a run needs to go on exactly where it stopped, in one file of plain values."""

import io
import os
import random
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from vq_core.config import ConfigError


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged or of another kind; the message names the file."""


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes its place at the end: `path` holds the old or the whole new one, never half."""
    draft = path.with_name(path.name + ".part")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a `.npy` file, whole or not at all. Raises `OSError` where it cannot be written."""
    whole = io.BytesIO()  # to a file NumPy writes by a stream of its own, and does not tell when its end finds no room
    np.save(whole, array)
    with written_whole(path) as file:
        file.write(whole.getbuffer())


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


def checkpoint_file(run_or_checkpoint: str | Path) -> Path:
    """A checkpoint's path: that of a run's folder is its best one."""
    path = Path(run_or_checkpoint)
    return path / "checkpoints" / "best.ckpt" if path.is_dir() else path


def load_checkpoint(path: Path, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Read a checkpoint, refusing anything but tensors and plain values (no pickled code).

    Raises:
        CheckpointError: no such file, damaged (by the checksums in it), or of a kind that is not among `kinds`.
    """
    try:
        state = _read(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: is not a readable checkpoint ({reason[:120]}){_another(path)}") from None
    if not isinstance(state, dict) or state.get("kind") not in kinds:
        found = state.get("kind") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path}: holds '{found}', but {' or '.join(kinds)} is needed")
    return state


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


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Inside, what a checkpoint holds is put into a model; what does not fit is a `CheckpointError` of one line."""
    try:
        yield
    except (ConfigError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CheckpointError(f"{path}: does not fit this version of the workbook ({' '.join(lines)[:200]})") from None


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
