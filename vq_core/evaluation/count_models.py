"""Count models of code sequences: the baselines that a prior has to beat."""

from collections import Counter

import numpy as np
from jaxtyping import Integer

Sequences = Integer[np.ndarray, "_ n"]
Grids = Integer[np.ndarray, "_ h w"]
PRIOR_COUNTS = 4.0


def unigram_bits(train: Sequences, held_out: Sequences, num_codes: int) -> float:
    """Bits per token of held-out codes under the frequencies of the training codes (plus half a count each)."""
    return float(-np.log2(_frequencies(train, num_codes)[held_out]).mean())


def neighbours_bits(train: Grids, held_out: Grids, num_codes: int) -> float:
    """Bits per token of held-out codes given the codes on the left and above.

    Frequencies given both, drawn towards those given the one above, these towards those given the one on the left, and
    these towards the unigram's, with the weight of `PRIOR_COUNTS` each (a hierarchy of Dirichlet distributions). A
    special code stands left of the first column and above the first row.
    """
    codes, asked = train.ravel().tolist(), held_out.ravel().tolist()
    p = _frequencies(train, num_codes)[held_out.ravel()]
    for keys, ours in zip(_contexts(train, num_codes), _contexts(held_out, num_codes), strict=True):
        contexts, pairs = Counter(keys), Counter(zip(keys, codes, strict=True))
        seen = np.array([contexts[key] for key in ours])
        both = np.array([pairs[pair] for pair in zip(ours, asked, strict=True)])
        p = (both + PRIOR_COUNTS * p) / (seen + PRIOR_COUNTS)
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
