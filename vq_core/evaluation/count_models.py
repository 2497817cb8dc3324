"""Count models of code sequences: the baselines that a prior has to beat."""

from collections import Counter

import numpy as np
from jaxtyping import Integer

Sequences = Integer[np.ndarray, "_ n"]
Grids = Integer[np.ndarray, "_ h w"]


def unigram_bits(train: Sequences, held_out: Sequences, num_codes: int) -> float:
    """Bits per token of held-out codes under the frequencies of the training codes (plus half a count each)."""
    return float(-np.log2(_frequencies(train, num_codes)[held_out]).mean())


def neighbours_bits(train: Grids, held_out: Grids, num_codes: int) -> float:
    """Bits per token of held-out codes given the codes on the left and above.

    Frequencies given both, interpolated with those given the one above, then the one on the left, then the unigram's:
    absolute discounting (Ney, Essen & Kneser, 1994), by n₁ / (n₁ + 2n₂) from the numbers of pairs seen once and twice.
    A special code stands left of the first column and above the first row.
    """
    codes, asked = train.ravel().tolist(), held_out.ravel().tolist()
    p = _frequencies(train, num_codes)[held_out.ravel()]
    for keys, ours in zip(_contexts(train, num_codes), _contexts(held_out, num_codes), strict=True):
        pairs = Counter(zip(keys, codes, strict=True))
        contexts, kinds, times = Counter(keys), Counter(key for key, _ in pairs), Counter(pairs.values())
        discount = max(0.1, times[1] / max(1, times[1] + 2 * times[2]))  # never 0, which would leave codes impossible
        seen, new = (np.array([counter[key] for key in ours]) for counter in (contexts, kinds))
        both = np.array([pairs[pair] for pair in zip(ours, asked, strict=True)])
        given = (np.maximum(both - discount, 0) + discount * new * p) / np.maximum(seen, 1)
        p = np.where(seen > 0, given, p)
    return float(-np.log2(p).mean())


def _contexts(grids: Grids, border: int) -> list[list[int]]:
    """A number for each code's context, in each of three kinds: the code on the left, the one above, both."""
    codes = grids.astype(np.int64)
    left = np.pad(codes, ((0, 0), (0, 0), (1, 0)), constant_values=border)[:, :, :-1].ravel()
    above = np.pad(codes, ((0, 0), (1, 0), (0, 0)), constant_values=border)[:, :-1].ravel()
    return [left.tolist(), above.tolist(), (left * (border + 1) + above).tolist()]


def _frequencies(train: Integer[np.ndarray, "..."], num_codes: int) -> np.ndarray:
    counts = np.bincount(train.ravel(), minlength=num_codes) + 0.5
    return counts / counts.sum()
