"""Count models of code sequences: what a prior has to beat."""

import numpy as np
from jaxtyping import Integer

Sequences = Integer[np.ndarray, "_ n"]


def unigram_bits(train: Sequences, held_out: Sequences, num_codes: int) -> float:
    """Bits per token of held-out codes under the frequencies of the training codes (with half a count added)."""
    return float(-np.log2(_frequencies(train, num_codes)[held_out]).mean())


def bigram_bits(train: Sequences, held_out: Sequences, num_codes: int) -> float:
    """Bits per token of held-out codes given the code before, in raster order.

    p(b | a) = (n(a, b) + α·p(b)) / (n(a) + α): pairs backed off to the unigram; α is the best on half of the held-out
    sequences, and the figure is the other half's. The first code of a grid is the unigram's.
    """
    unigram = _frequencies(train, num_codes)
    pairs = np.zeros((num_codes, num_codes))
    np.add.at(pairs, (train[:, :-1].ravel(), train[:, 1:].ravel()), 1)
    seen = pairs.sum(axis=1)

    def bits(sequences: Sequences, alpha: float) -> float:
        before, code = sequences[:, :-1], sequences[:, 1:]
        p = (pairs[before, code] + alpha * unigram[code]) / (seen[before] + alpha)
        return float(-(np.log2(p).sum() + np.log2(unigram[sequences[:, 0]]).sum()) / sequences.size)

    tuning, rest = held_out[::2], held_out[1::2]
    best = min((3.0**n for n in range(10)), key=lambda alpha: bits(tuning, alpha))
    return bits(rest if len(rest) else tuning, best)


def _frequencies(train: Sequences, num_codes: int) -> np.ndarray:
    counts = np.bincount(train.ravel(), minlength=num_codes) + 0.5
    return counts / counts.sum()
