"""Files that are written whole or not at all."""

import resource
from pathlib import Path

import numpy as np
import pytest

from vq_core.files import save_array


def test_a_full_disk_leaves_the_array_before(tmp_path: Path) -> None:
    path = tmp_path / "codes.npy"
    save_array(path, np.arange(10))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, hard))
    try:
        for size in (5_900, 6_000, 7_000, 100_000):  # with its header the first is too large by a little
            with pytest.raises(OSError, match="too large"):
                save_array(path, np.zeros(size, dtype=np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert np.array_equal(np.load(path), np.arange(10)) and [p.name for p in tmp_path.iterdir()] == ["codes.npy"]
