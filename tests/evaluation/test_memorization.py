"""Is it new? On pictures made by hand."""

from pathlib import Path

import numpy as np
import pytest

from vq_core.data.packed import PackedImages
from vq_core.evaluation.memorization import nearest_training, novelty


class Made(PackedImages):
    """80 training and 40 held-out pictures."""

    @property
    def train_rows(self) -> np.ndarray:
        return np.arange(80)

    @property
    def val_rows(self) -> np.ndarray:
        return np.arange(80, 120)


@pytest.fixture(scope="module")
def packed() -> PackedImages:
    colours = np.random.default_rng(0).integers(0, 256, (120, 8, 8, 3)).astype(np.uint8)
    return Made(Path(), colours.repeat(8, axis=1).repeat(8, axis=2), (), "")


def test_the_copy_is_found_mirrored_or_lighter(packed: PackedImages) -> None:
    row = packed.train_rows[[5]]
    for picture in (packed.images[row], packed.images[row][:, :, ::-1]):
        distance, rows = nearest_training(picture, packed)
        assert rows[0] == 5 and distance[0] == pytest.approx(0, abs=1e-3)
    darker = (packed.images[row] * 0.9).astype(np.uint8)
    expected = np.sqrt(np.square(packed.images[row].astype(float) - darker).mean())
    assert nearest_training(darker, packed)[0][0] == pytest.approx(expected, rel=1e-3)


def test_the_nearest_by_brute_force(packed: PackedImages) -> None:
    asked = packed.images[100:110]
    distance, rows = nearest_training(asked, packed)
    small = packed.images.reshape(120, 32, 2, 32, 2, 3).mean((2, 4))
    for n in range(10):
        each = [
            min(np.sqrt(np.square(small[100 + n] - view).mean()) for view in (small[r], small[r][:, ::-1]))
            for r in packed.train_rows
        ]
        assert rows[n] == np.argmin(each)
        np.testing.assert_allclose(distance[n], np.min(each), rtol=1e-3)


def test_copies_are_told_from_new_pictures(packed: PackedImages) -> None:
    held_out = packed.images[packed.val_rows]
    copies = novelty(packed.images[:20], packed, held_out)
    assert copies.nearer == 1.0 and copies.copies == 1.0 and copies.rows.tolist() == list(range(20))
    unseen = novelty(held_out, packed, held_out)
    assert unseen.nearer == 0.5 and unseen.copies <= 0.05
