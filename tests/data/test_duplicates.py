"""Equal and nearly equal pictures."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingested import fill, jpeg, portrait, run
from PIL import Image, ImageDraw, ImageEnhance

from vq_core.data import duplicates
from vq_core.data.duplicates import hash_pairs
from vq_core.data.packed import PackedImages
from vq_core.settings import DataConfig


def test_keeps_the_first_of_equal_pictures(raw: Path, config: DataConfig) -> None:
    fill(raw, range(4))
    shutil.copy(raw / "001.png", raw / "a copy.png")
    portrait(1).save(raw / "other encoding.bmp")
    packed = run(raw, config)
    found = {entry.file: (entry.reason, entry.detail) for entry in packed.entries if entry.reason}
    assert found == {name: ("duplicate", "001.png") for name in ("a copy.png", "other encoding.bmp")}
    assert len(packed.images) == 4


@pytest.mark.parametrize(
    "change",
    [
        jpeg,
        lambda image: ImageEnhance.Brightness(image).enhance(1.08),
        lambda image: image.resize((86, 86)).resize((96, 96)),
        lambda image: image.crop((1, 1, 95, 95)),
    ],
    ids=["jpeg", "brighter", "resized", "cropped"],
)
def test_finds_near_duplicates(raw: Path, config: DataConfig, change: Callable[[Image.Image], Image.Image]) -> None:
    fill(raw, range(12))
    for seed in range(12):
        change(portrait(seed)).save(raw / f"{seed:03d}b.png")
    packed = run(raw, config)
    found = {entry.file: entry.detail for entry in packed.entries if entry.reason == "near-duplicate"}
    assert found == {f"{seed:03d}b.png": f"{seed:03d}.png" for seed in range(12)}


def test_a_chain_of_near_duplicates_is_one_group(raw: Path, config: DataConfig) -> None:
    fill(raw, range(4))
    for step, name in enumerate("zyx"):  # each is close to the next only
        ImageEnhance.Brightness(portrait(0)).enhance(0.91 ** (step + 1)).save(raw / f"{name}.png")
    packed = run(raw, config)
    assert {entry.file: entry.detail for entry in packed.entries if entry.reason} == {
        n + ".png": "000.png" for n in "xyz"
    }


def test_a_small_feature_makes_another_picture(raw: Path, config: DataConfig) -> None:
    for name in ("smile", "frown"):
        image = Image.new("RGB", (96, 96), "white")
        draw = ImageDraw.Draw(image)
        draw.ellipse((20, 10, 76, 86), fill="bisque", outline="black", width=3)
        draw.ellipse((34, 34, 42, 44), fill="black")
        draw.ellipse((54, 34, 62, 44), fill="black")
        draw.arc((36, 56, 60, 72), *((20, 160) if name == "smile" else (200, 340)), fill="black", width=4)
        image.save(raw / f"{name}.png")
    assert run(raw, config.model_copy(update={"near_duplicate_bits": 16})).counts() == {}


@pytest.mark.parametrize("bits", [0, 2, 6, 16])
@pytest.mark.parametrize("spread", [8, 64])  # few hashes that are often equal, and many that hardly are
def test_hash_pairs_equal_the_plain_search(monkeypatch: pytest.MonkeyPatch, bits: int, spread: int) -> None:
    monkeypatch.setattr("vq_core.data.duplicates.BLOCK", 500)
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**spread, 80, dtype=np.uint64, endpoint=False) if spread < 64 else rng.bytes(8 * 80)
    hashes = np.frombuffer(hashes, np.uint64).copy() if isinstance(hashes, bytes) else hashes
    for n in range(20):  # copies with a few bits changed, in any quarter
        hashes[60 + n] = hashes[n] ^ np.uint64(sum(1 << int(bit) for bit in rng.choice(64, n, replace=False)))
    plain = [(i, j) for i in range(80) for j in range(i + 1, 80) if bin(int(hashes[i] ^ hashes[j])).count("1") <= bits]
    assert hash_pairs(hashes, bits).tolist() == [list(pair) for pair in plain] and plain


def test_pictures_that_were_there_before_need_not_be_compared_again(packed: PackedImages) -> None:
    brighter = [np.asarray(ImageEnhance.Brightness(Image.fromarray(image)).enhance(1.07)) for image in packed.images]
    images = np.concatenate([packed.images, np.stack(brighter)[::2]])
    hashes = np.array([duplicates.perceptual_hash(image) for image in images])
    early = np.arange(len(images)) < len(packed.images)
    found = duplicates.first_of_group(hashes, images, 16, early)
    assert (found != np.arange(len(images))).sum() > 10
    assert np.array_equal(found, duplicates.first_of_group(hashes, images, 16, early, apart=True))


@pytest.mark.parametrize("side", [16, 62, 96])  # 62 is no whole number of the blocks that are looked at first
def test_groups_are_those_of_comparing_all_pixels_of_all_pairs(side: int) -> None:
    whole = [portrait(seed).resize((side, side)) for seed in range(30)]
    changed = [ImageEnhance.Brightness(image).enhance(1 + 0.02 * seed) for seed, image in enumerate(whole)]
    for seed, image in enumerate(changed[:24]):  # as many pixels of another colour as are exempt, and a few more
        for place in range(seed):
            image.putpixel((place % 4, place // 4), (255, 0, 255))  # which fill blocks
    assert _agrees_with_all_pixels(np.stack([np.asarray(image) for image in whole + changed])) > 2


def test_pictures_near_the_limit_are_told_apart_by_their_pixels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "perceptual_hash", lambda _: np.uint64(0))
    tolerance, exempt = int(duplicates.TOLERANCE), 64 * 64 - 1 - int(0.995 * (64 * 64 - 1))
    grey = np.full((64, 64, 3), 100, dtype=np.uint8)

    def alike(*changed: tuple[Any, int]) -> bool:
        """Whether a grey picture is like itself with other values at these places."""
        other = grey.copy()
        for place, value in changed:
            other[place] = value
        one, two = (_agrees_with_all_pixels(np.stack(pair)) == 1 for pair in ([grey, other], [other, grey]))
        assert one == two
        return one

    assert alike((np.s_[:], 100 + tolerance)) and not alike((np.s_[:], 101 + tolerance))
    assert alike((np.s_[0, :exempt], 255)) and not alike((np.s_[0, : exempt + 1], 255))
    assert alike((np.s_[8:12, 8:12], 255)) and not alike((np.s_[8:12, 8:16], 255))  # one block of pixels, and two
    scattered = [(np.s_[4 * (n // 16), 4 * (n % 16)], 0) for n in range(exempt + 1)]  # one in each block
    assert alike(*scattered[:-1]) and not alike(*scattered)
    # A block beyond tolerance by less than a grey level, made of more pixels than are exempt: rounding must not count.
    assert not alike((np.s_[:32, ::2], 100 + tolerance), (np.s_[:32, 1::2], 101 + tolerance))
    assert not alike((np.s_[:, ::2], 60), (np.s_[:, 1::2], 140))  # grey lies in its range, but not the other way round


def _agrees_with_all_pixels(images: np.ndarray) -> int:
    """Groups as a plain loop over all pairs and pixels finds them; returns how many pictures are set aside."""
    hashes = np.array([duplicates.perceptual_hash(image) for image in images])
    small = min(images.shape[1], duplicates.THUMBNAIL)
    thumbnails = [Image.fromarray(image).resize((small, small), Image.Resampling.BOX) for image in images]
    pixels = [np.asarray(image, dtype=int) for image in thumbnails]
    around = [np.pad(p, ((1, 1), (1, 1), (0, 0)), mode="edge") for p in pixels]
    shifts = [[a[y : y + small, x : x + small] for y in range(3) for x in range(3)] for a in around]
    high, low = ([part(each, axis=0) for each in shifts] for part in (np.max, np.min))
    group = np.arange(len(images))
    for i in range(len(images)):
        for j in range(i + 1, len(images)):
            if bin(int(hashes[i] ^ hashes[j])).count("1") <= 16:
                excess = [pixels[i] - high[j], low[j] - pixels[i], pixels[j] - high[i], low[i] - pixels[j]]
                beyond = np.maximum(np.max(excess, axis=0), 0).mean(-1)
                if np.quantile(beyond, 0.995, method="lower") <= duplicates.TOLERANCE:
                    group[group == max(group[i], group[j])] = min(group[i], group[j])
    found = duplicates.first_of_group(hashes, images, 16, np.zeros(len(images), dtype=bool))
    assert np.array_equal(found, group)
    return int((group != np.arange(len(images))).sum())


def test_few_of_the_pictures_with_near_hashes_are_compared_by_their_pixels(
    packed: PackedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = {True: 0, False: 0}  # pairs: by blocks, and by pixels
    alike = duplicates._alike

    def counting(ranges: Any, pairs: np.ndarray, side: int, rounding: int = 0) -> Any:
        compared[rounding > 0] += len(pairs)
        return alike(ranges, pairs, side, rounding)

    monkeypatch.setattr(duplicates, "_alike", counting)
    count = len(packed.images)
    duplicates.first_of_group(np.zeros(count, dtype=np.uint64), packed.images, 6, np.zeros(count, dtype=bool))
    assert compared[True] == count * (count - 1) // 2 and compared[False] < 0.1 * compared[True]
