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

    A mixture w₀·p(c) + w₁·p(c | l) + w₂·p(c | a) + w₃·p(c | l, a) of relative frequencies. Its weights (one set for
    contexts (l, a) seen in training, one for others) maximise the likelihood of half of the held-out grids, and the
    result is measured on the other half. A special code stands left of the first column and above the first row.
    """
    unigram = _frequencies(train, num_codes)
    codes = train.ravel().tolist()
    learned = [(Counter(keys), Counter(zip(keys, codes, strict=True))) for keys in _contexts(train, num_codes)]

    def parts(grids: Grids) -> tuple[np.ndarray, np.ndarray]:
        """Each model's probability of each code [4, N], and whether the pair of neighbours was seen [N]."""
        rows, seen, codes = [unigram[grids.ravel()]], np.zeros(0), grids.ravel().tolist()
        for keys, (contexts, pairs) in zip(_contexts(grids, num_codes), learned, strict=True):
            seen = np.array([contexts[key] for key in keys], dtype=float)
            both = np.array([pairs[pair] for pair in zip(keys, codes, strict=True)])
            rows.append(both / np.maximum(seen, 1))
        return np.stack(rows), seen > 0

    p, seen = parts(held_out[::2])
    weights = {kind: _mixture(p[:, seen == kind]) for kind in (True, False)}
    p, seen = parts(held_out[1::2]) if len(held_out) > 1 else (p, seen)
    mixed = np.where(seen, weights[True] @ p, weights[False] @ p)
    return float(-np.log2(mixed).mean())


def _contexts(grids: Grids, border: int) -> list[list[int]]:
    """A number for each code's context, in each of three kinds: the code on the left, the one above, both."""
    codes = grids.astype(np.int64)
    left = np.pad(codes, ((0, 0), (0, 0), (1, 0)), constant_values=border)[:, :, :-1].ravel()
    above = np.pad(codes, ((0, 0), (1, 0), (0, 0)), constant_values=border)[:, :-1].ravel()
    return [left.tolist(), above.tolist(), (left * (border + 1) + above).tolist()]


def _mixture(p: np.ndarray) -> np.ndarray:
    """Maximum-likelihood weights [m] of a mixture of m models, by EM, from each model's probabilities [m, N]."""
    weights = np.full(len(p), 1 / len(p))
    for _ in range(100 if p.size else 0):
        joint = weights[:, None] * p
        weights = (joint / joint.sum(axis=0)).mean(axis=1)
    weights[0] = max(weights[0], 1e-6)  # only the unigram gives every code a probability above 0
    return weights / weights.sum()


def _frequencies(train: Integer[np.ndarray, "..."], num_codes: int) -> np.ndarray:
    counts = np.bincount(train.ravel(), minlength=num_codes) + 0.5
    return counts / counts.sum()
