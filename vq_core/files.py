"""Writing files whole or not at all."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which replaces `path` at the end: that always holds a complete file, the old or the new."""
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
    """Write a `.npy` file, whole or not at all. Raises `OSError` if it cannot be written."""
    whole = io.BytesIO()  # NumPy writes to files through a stream of its own, which does not report a full disk
    np.save(whole, array)
    with written_whole(path) as file:
        file.write(whole.getbuffer())
