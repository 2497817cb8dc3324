"""Count models on sources whose entropy is known."""

import numpy as np
import pytest

from vq_core.evaluation.count_models import neighbours_bits, unigram_bits


def test_count_models_on_a_known_source() -> None:
    """A Markov chain of known entropy: neighbours tell it, the unigram model only finds the marginal entropy."""
    rng = np.random.default_rng(0)
    stay = 0.9
    codes = np.zeros((600, 200), dtype=np.int64)
    codes[:, 0] = rng.integers(0, 4, 600)
    for t in range(1, 200):
        moved = rng.integers(0, 4, 600)
        codes[:, t] = np.where(rng.random(600) < stay, codes[:, t - 1], moved)
    p = np.array([stay + (1 - stay) / 4] + [(1 - stay) / 4] * 3)
    rate = -(p * np.log2(p)).sum()
    assert unigram_bits(codes[:500], codes[500:], 4) == pytest.approx(2.0, abs=0.01)
    found = neighbours_bits(codes[:500, None], codes[500:, None], 4)  # grids of one row, whose first code is chance
    assert found == pytest.approx(rate + (2 - rate) / 200, abs=0.02)


def test_neighbours_find_what_two_neighbours_decide_together() -> None:
    """c = left XOR above, one time in ten chance: neither neighbour alone tells anything."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, (400, 12, 12))
    for row in range(1, 12):
        for column in range(1, 12):
            both = codes[:, row, column - 1] ^ codes[:, row - 1, column]
            codes[:, row, column] = np.where(rng.random(400) < 0.9, both, codes[:, row, column])
    p = 0.95
    inside = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    expected = (121 * inside + 23) / 144  # the first row and column are chance
    assert neighbours_bits(codes[:300], codes[300:], 2) == pytest.approx(expected, abs=0.02)


def test_count_models_survive_codes_never_seen() -> None:
    train, held_out = np.zeros((3, 10), dtype=np.int64), np.full((2, 10), 7)
    assert np.isfinite(unigram_bits(train, held_out, 8)) and np.isfinite(
        neighbours_bits(train.reshape(3, 2, 5), held_out.reshape(2, 2, 5), 8)
    )
