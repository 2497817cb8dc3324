"""Near-duplicates: re-encoded, resized, slightly brightened or cropped copies of a picture.

A perceptual hash proposes pairs; the pixels decide. The hash alone is not enough: flat portraits in the same pose share
it, though different people, often told apart only by a mouth or an eyebrow. Such a small feature hardly changes a mean,
so a high quantile is taken: two pictures are the same if all but one in two hundred pixels of a thumbnail lie within
the colour range of the 3×3 pixels around the same place in the other (which forgives the shift of a crop), give or take
`TOLERANCE` (which forgives compression and brightness).
"""

from itertools import combinations
from typing import Any

import imagehash
import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt64
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

THUMBNAIL = 64
TOLERANCE = 25.0  # of 255
_QUANTILE = 0.995
BLOCK = 4_000_000  # pairs of hashes compared at once: 32 MB
_PAIRS = 128  # pairs of thumbnails compared at once
_AROUND: dict[str, Any] = {"size": (1, 3, 3, 1), "mode": "nearest"}


def perceptual_hash(pixels: UInt8[np.ndarray, "size size 3"]) -> np.uint64:
    """The 64-bit pHash of a picture."""
    return np.packbits(imagehash.phash(Image.fromarray(pixels)).hash).view(np.uint64)[0]


def first_of_group(
    hashes: UInt64[np.ndarray, " n"],
    images: UInt8[np.ndarray, "n size size 3"],
    max_bits: int,
    early: Bool[np.ndarray, " n"],
    apart: bool = False,
) -> Int[np.ndarray, " n"]:
    """For each image, the index of the first one in its group of near-duplicates (possibly its own).

    Resemblance is transitive. Images marked `early` come before all others; with `apart` they are known not to resemble
    each other, and not compared. Pairs whose `perceptual_hash` differs in at most `max_bits` bits are compared by their
    pixels; only these are read, so `images` may be a memory map.
    """
    first = np.arange(len(hashes))
    pairs = hash_pairs(hashes, max_bits)
    pairs = pairs[~(early[pairs].all(axis=1) & apart)]
    for start in range(0, len(pairs), _PAIRS):
        some = pairs[start : start + _PAIRS]
        some = some[first[some[:, 0]] != first[some[:, 1]]]  # comparing all pairs of a film's frames takes hours
        for i, j in some[_same_pixels(images, some)].tolist():
            low, high = sorted((first[i], first[j]), key=lambda n: (not early[n], n))
            first[first == high] = low
    return first


def hash_pairs(hashes: UInt64[np.ndarray, " n"], max_bits: int) -> Int[np.ndarray, "pairs 2"]:
    """All pairs i < j whose hashes differ in at most `max_bits` bits, sorted.

    Of the four quarters of 16 bits, one differs in at most a fourth of the bits: only hashes with such a quarter are
    compared (Norouzi et al., "Fast exact search in Hamming space with multi-index hashing", arXiv:1307.2982).
    """
    quarters = hashes[:, None] >> np.arange(0, 64, 16, dtype=np.uint64) & np.uint64(0xFFFF)
    flips = [sum(1 << bit for bit in bits) for n in range(max_bits // 4 + 1) for bits in combinations(range(16), n)]
    found = [np.zeros((0, 2), dtype=np.int64)]
    for quarter in quarters.T:
        order = quarter.argsort(kind="stable")
        ranked = quarter[order]
        for flip in flips:
            asked = quarter ^ np.uint64(flip)
            begin, end = (ranked.searchsorted(asked, side) for side in ("left", "right"))
            for some in np.array_split(np.arange(len(hashes)), 1 + int((end - begin).sum()) // BLOCK):
                many = (end - begin)[some]  # hashes whose quarter is the one asked for: ranks begin … end − 1
                i, before = some.repeat(many), many.cumsum() - many
                j = order[(begin[some] - before).repeat(many) + np.arange(len(i))]
                near = (i < j) & (np.bitwise_count(hashes[i] ^ hashes[j]) <= max_bits)
                found.append(np.stack([i[near], j[near]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _same_pixels(images: np.ndarray, pairs: Int[np.ndarray, "pairs 2"]) -> Bool[np.ndarray, " pairs"]:
    """Whether the 99.5 % quantile of how far pixels lie outside the other picture's local range is within tolerance."""
    if not len(pairs):
        return np.zeros(0, dtype=bool)
    size = (min(THUMBNAIL, images.shape[1]),) * 2
    rows, at = np.unique(pairs, return_inverse=True)
    small = np.stack([np.asarray(Image.fromarray(images[row]).resize(size, Image.Resampling.BOX)) for row in rows])
    a, b = np.moveaxis(small[at.reshape(-1, 2)], 1, 0)
    red, green, blue = np.moveaxis(np.maximum(_beyond(a, b), _beyond(b, a)), -1, 0)
    means = (red + green + blue).reshape(len(a), -1) / 3
    worst_but_few = int(_QUANTILE * (means.shape[1] - 1))
    return np.partition(means, worst_but_few, axis=1)[:, worst_but_few] <= TOLERANCE


def _beyond(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    above = a.astype(np.int16) - maximum_filter(b, **_AROUND)
    below = minimum_filter(b, **_AROUND).astype(np.int16) - a
    return np.maximum(np.maximum(above, below), 0)
