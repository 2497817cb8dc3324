"""Near-duplicates: re-encoded, resized, slightly brightened or cropped copies of a picture.

A perceptual hash proposes pairs; the pixels decide. The hash alone is not enough: flat portraits in the same pose share
it, though different people, often told apart only by a mouth or an eyebrow. Such a small feature hardly changes a mean,
so a high quantile is taken: two pictures are the same if all but one in two hundred pixels of a thumbnail lie within
the colour range of the 3×3 pixels around the same place in the other (which forgives the shift of a crop), give or take
`TOLERANCE` (which forgives compression and brightness).
"""

from collections.abc import Iterator

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


def perceptual_hash(pixels: UInt8[np.ndarray, "size size 3"]) -> np.uint64:
    """The 64-bit pHash of a picture."""
    return np.packbits(imagehash.phash(Image.fromarray(pixels)).hash).view(np.uint64)[0]


def first_of_group(
    hashes: UInt64[np.ndarray, " n"],
    images: UInt8[np.ndarray, "n size size 3"],
    max_bits: int,
    early: Bool[np.ndarray, " n"],
) -> Int[np.ndarray, " n"]:
    """For each image, the index of the first one in its group of near-duplicates (possibly its own).

    Resemblance is transitive: if b resembles a and c resembles b, all three form one group. Images marked `early` come
    before all others. Pairs whose `perceptual_hash` differs in at most `max_bits` bits are compared by their pixels;
    only these are read, so `images` may be a memory map.
    """
    first = np.arange(len(hashes))
    for pairs in hash_pairs(hashes, max_bits):
        for start in range(0, len(pairs), _PAIRS):
            some = pairs[start : start + _PAIRS]
            some = some[first[some[:, 0]] != first[some[:, 1]]]  # comparing all pairs of a film's frames takes hours
            for i, j in some[_same_pixels(images, some)].tolist():
                low, high = sorted((first[i], first[j]), key=lambda n: (not early[n], n))
                first[first == high] = low
    return first


def hash_pairs(hashes: UInt64[np.ndarray, " n"], max_bits: int) -> Iterator[Int[np.ndarray, "pairs 2"]]:
    """All pairs i < j whose hashes differ in at most `max_bits` bits, sorted, in chunks."""
    step = max(1, BLOCK // max(1, len(hashes)))
    for start in range(0, len(hashes), step):
        differ = np.bitwise_count(hashes[start : start + step, None] ^ hashes[None, start:])
        rows, columns = np.nonzero(differ <= max_bits)
        later = columns > rows
        yield np.stack([rows[later], columns[later]], axis=1) + start


def _same_pixels(images: np.ndarray, pairs: Int[np.ndarray, "pairs 2"]) -> Bool[np.ndarray, " pairs"]:
    """Whether the 99.5 % quantile of how far pixels lie outside the other picture's local range is within tolerance."""
    if not len(pairs):
        return np.zeros(0, dtype=bool)
    size = (min(THUMBNAIL, images.shape[1]),) * 2
    read = {n: Image.fromarray(images[n]).resize(size, Image.Resampling.BOX) for n in np.unique(pairs).tolist()}
    a, b = (np.stack([np.asarray(read[n]) for n in column]) for column in pairs.T.tolist())
    red, green, blue = np.moveaxis(np.maximum(_beyond(a, b), _beyond(b, a)), -1, 0)
    means = (red + green + blue).reshape(len(a), -1) / 3
    worst_but_few = int(_QUANTILE * (means.shape[1] - 1))
    return np.partition(means, worst_but_few, axis=1)[:, worst_but_few] <= TOLERANCE


def _beyond(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    around = {"size": (1, 3, 3, 1), "mode": "nearest"}
    above = a.astype(np.int16) - maximum_filter(b, **around)
    below = minimum_filter(b, **around).astype(np.int16) - a
    return np.maximum(np.maximum(above, below), 0)
