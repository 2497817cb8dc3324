"""Near-duplicates: re-encoded, resized, slightly brightened or cropped copies of a picture.

A perceptual hash proposes pairs; the pixels decide. The hash alone is not enough: flat portraits in the same pose share
it, though different people, often told apart only by a mouth or an eyebrow. Such a small feature hardly changes a mean,
so a high quantile is taken: two pictures are the same if all but one in two hundred pixels of a thumbnail lie within
the colour range of the 3×3 pixels around the same place in the other (which forgives the shift of a crop), give or take
`TOLERANCE` (which forgives compression and brightness).
"""

from itertools import combinations

import imagehash
import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt64
from PIL import Image

from vq_core.data.packed import remapped

THUMBNAIL = 64
TOLERANCE = 25.0  # of 255
_QUANTILE = 0.995
BLOCK = 4_000_000  # pairs of hashes compared at once: 32 MB
_PAIRS = 512  # pairs of thumbnails compared at once: 230 MB
_BLOCK = 4  # pixels of a thumbnail, along a side, that are first compared as one


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
    pairs, side = hash_pairs(hashes, max_bits), images.shape[1]
    rows, pairs = np.unique(pairs[~(early[pairs].all(axis=1) & apart)], return_inverse=True)
    pairs, blocks, first = pairs.reshape(-1, 2), _blocks(images, rows), np.arange(len(hashes))
    for start in range(0, len(pairs), _PAIRS):
        some = pairs[start : start + _PAIRS]
        some = some[np.not_equal(*first[rows[some.T]])]  # comparing all pairs of a film's frames takes hours
        some = rows[some[_alike(blocks, some, side, rounding=1)]]
        here, where = np.unique(some, return_inverse=True)
        for i, j in some[_alike(_ranges(images, here), where.reshape(-1, 2), side)].tolist():
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


def _blocks(images: np.ndarray, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3 side side 3"]:
    """`_ranges` by blocks: where a mean lies beyond tolerance, so does a pixel. That rules out most pairs."""
    side = min(THUMBNAIL, images.shape[1]) // _BLOCK
    means = np.empty((len(rows), 3, side, side, 3), dtype=np.uint8)
    for start in range(0, len(rows), _PAIRS):
        whole = _ranges(images, rows[start : start + _PAIRS])[:, :, : side * _BLOCK, : side * _BLOCK]
        cells = whole.reshape(-1, 3, side, _BLOCK, side, _BLOCK, 3)
        means[start : start + _PAIRS] = cells.sum(3, dtype=np.uint16).sum(4) // _BLOCK**2
    return means


def _ranges(images: np.ndarray, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3 side side 3"]:
    """Thumbnails of pictures, and of each pixel's surroundings the brightest and the darkest values."""
    there, size = remapped(images), (min(THUMBNAIL, images.shape[1]),) * 2
    small = [Image.fromarray(there[row]).resize(size, Image.Resampling.BOX) for row in rows]
    ranges = [np.asarray(small, dtype=np.uint8).reshape(-1, *size, 3)]
    wide = np.pad(ranges[0], ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    for most in (np.maximum, np.minimum):  # several times as fast as SciPy's filters
        across = most(most(wide[:, :-2], wide[:, 1:-1]), wide[:, 2:])
        ranges.append(most(most(across[:, :, :-2], across[:, :, 1:-1]), across[:, :, 2:]))
    return np.stack(ranges, axis=1)


def _alike(
    ranges: UInt8[np.ndarray, "n 3 s s 3"], pairs: Int[np.ndarray, "pairs 2"], side: int, rounding: int = 0
) -> Bool[np.ndarray, " pairs"]:
    """Whether all but few pixels, or means of some (`rounding` forgiven), lie in or near the other picture's range."""
    a, b = np.moveaxis(ranges[pairs].astype(np.int16), 1, 0)
    beyond = np.maximum.reduce([a[:, 0] - b[:, 1], b[:, 2] - a[:, 0], b[:, 0] - a[:, 1], a[:, 2] - b[:, 0]]).clip(0)
    last = min(THUMBNAIL, side) ** 2 - 1
    return (beyond.mean(axis=-1) > TOLERANCE + rounding).sum(axis=(1, 2)) <= last - int(_QUANTILE * last)
