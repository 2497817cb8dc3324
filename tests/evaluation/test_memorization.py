"""Is it new? On pictures made by hand."""

from pathlib import Path

import numpy as np
import pytest

from vq_core.data.packed import PackedImages
from vq_core.evaluation.memorization import code_novelty, nearest_training, novelty


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


@pytest.fixture(scope="module")
def grids() -> np.ndarray:
    """Codes of 200 training images, 100 held-out ones and 20 new ones, all independent."""
    return np.random.default_rng(1).integers(0, 8, (320, 6, 6)).astype(np.uint16)


def test_copies_are_found_by_their_codes_mirrored_or_not(grids: np.ndarray) -> None:
    train, held_out, new = np.stack([grids[:200], grids[:200, :, ::-1]]), grids[200:300], grids[300:].astype(np.int64)
    samples = new.copy()
    samples[0], samples[1] = grids[7], grids[9, :, ::-1]
    samples[2, :4] = grids[11, :4]  # in large part
    found, original = code_novelty({"copied": samples, "new": new}, train, held_out).values()
    assert original.copies <= 0.1
    assert found.samples[:2].tolist() == [0, 0] and found.samples[2] <= 2 / 6
    assert found.rows[:3].tolist() == [7, 9, 11]
    assert 0.15 <= found.copies <= 0.25 and found.held_out_copies <= 0.01
    unmirrored = code_novelty({"copied": samples}, train[:1], held_out)["copied"]
    assert unmirrored.samples[0] == 0 < unmirrored.samples[1]


def test_shares_of_unequal_codes_by_brute_force(grids: np.ndarray) -> None:
    train, held_out = np.stack([grids[:200], grids[:200, :, ::-1]]), grids[200:300]
    found = code_novelty({"new": grids[300:]}, train, held_out)["new"]
    for shares, asked in ((found.samples, grids[300:]), (found.held_out, held_out)):
        for share, grid in zip(shares, asked, strict=True):
            unequal = [
                sum(a != b for a, b in zip(grid.flat, known.flat, strict=True)) for view in train for known in view
            ]
            assert share == pytest.approx(min(unequal) / 36)
    limit = sorted(found.held_out)[:2]  # the 1st percentile of 100 lies between the two smallest
    assert found.held_out_copies == (found.held_out < limit[1]).mean()
    assert found.copies == (found.samples < limit[1] - 0.01 * (limit[1] - limit[0])).mean()
