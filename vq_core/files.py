"""Files that are written whole or not at all, arrays with a checksum, and locks: one process at a time."""

import errno
import io
import os
import platform
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from vq_core.errors import RunError, tell_once


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which replaces `path` at the end: that always holds a complete file, the old or the new."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        with suppress(OSError):  # gone, if all went well
            draft.unlink()


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a `.npy` file, whole or not at all (`OSError`), with a checksum after its values, which NumPy ignores."""
    whole = io.BytesIO()  # NumPy writes to files through a stream of its own, which does not report a full disk
    np.save(whole, array)
    whole.write(zlib.crc32(whole.getbuffer()).to_bytes(4, "little"))
    with written_whole(path) as file:
        file.write(whole.getbuffer())


def load_array(path: Path) -> np.ndarray:
    """Read a `.npy` file, with its checksum if it has one. Raises `RunError`, which names it, if it is damaged."""
    stored = path.read_bytes()
    sound = zlib.crc32(stored[:-4]).to_bytes(4, "little") == stored[-4:]
    stream = io.BytesIO(stored)
    with suppress(Exception):  # of many kinds, on a header of other bytes
        array = np.load(stream)
        if sound or stream.tell() == len(stored):  # up to 0.2 there was no checksum
            return array
    raise RunError(f"{path}: is damaged")


@contextmanager
def owned(path: Path, doing: str, wait: bool) -> Iterator[None]:
    """Hold a lock, which ends with this process, so that no two do the same thing; `path` names its file.

    If another process holds it, wait, saying for whom, or raise `RunError`, which names it. Where locks do not work,
    that is said once; where nothing can be written, there is nothing to lock.
    """
    lock, holder = FileLock(path), path.with_name(f"{path.name}.txt")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            time.sleep(0.1)  # for its name, if it has only just begun
            who = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
            if not wait:
                raise RunError(f"{who}: wait until it is done, or stop it") from None
            tqdm.write(f"waiting: {who}")
            lock.acquire()
        mine = f"process {os.getpid()} on {platform.node()} is {doing}, since {time.strftime('%H:%M on %d %B')}"
        holder.write_text(mine, encoding="utf-8")
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) not in (errno.EACCES, errno.EPERM, errno.EROFS):
            tell_once(f"{path.parent}: no locks here ({error}): do not start the same thing twice")
    try:
        yield
    finally:
        lock.release()
