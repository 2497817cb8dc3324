"""Is it new? On codes made by hand."""

import numpy as np
import pytest

from vq_core.evaluation.analysis import novelty


@pytest.fixture(scope="module")
def grids() -> np.ndarray:
    """Codes of 200 training images, 100 held-out ones and 20 new ones, all independent."""
    return np.random.default_rng(1).integers(0, 8, (320, 6, 6)).astype(np.uint16)


def test_copies_are_found_by_their_codes_mirrored_or_not(grids: np.ndarray) -> None:
    train, held_out, new = np.stack([grids[:200], grids[:200, :, ::-1]]), grids[200:300], grids[300:].astype(np.int64)
    samples = new.copy()
    samples[0], samples[1] = grids[7], grids[9, :, ::-1]
    samples[2, :4] = grids[11, :4]  # in large part
    found, original = novelty({"copied": samples, "new": new}, train, held_out).values()
    assert original.copies <= 0.1
    assert found.samples[:2].tolist() == [0, 0] and found.samples[2] <= 2 / 6
    assert found.nearest[:3].tolist() == [7, 9, 11]
    assert 0.15 <= found.copies <= 0.25 and found.held_out_copies <= 0.01
    unmirrored = novelty({"copied": samples}, train[:1], held_out)["copied"]
    assert unmirrored.samples[0] == 0 < unmirrored.samples[1]


def test_shares_of_unequal_codes_by_brute_force(grids: np.ndarray) -> None:
    train, held_out = np.stack([grids[:200], grids[:200, :, ::-1]]), grids[200:300]
    found = novelty({"new": grids[300:]}, train, held_out)["new"]
    for shares, asked in ((found.samples, grids[300:]), (found.held_out, held_out)):
        for share, grid in zip(shares, asked, strict=True):
            unequal = [
                sum(a != b for a, b in zip(grid.flat, known.flat, strict=True)) for view in train for known in view
            ]
            assert share == pytest.approx(min(unequal) / 36)
    limit = sorted(found.held_out)[:2]  # the 1st percentile of 100 lies between the two smallest
    assert found.held_out_copies == (found.held_out < limit[1]).mean()
    assert found.copies == (found.samples < limit[1] - 0.01 * (limit[1] - limit[0])).mean()
