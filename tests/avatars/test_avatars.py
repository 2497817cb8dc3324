"""The built-in avatars: the same picture for the same seed, independent attributes, repairable folders."""

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from vq_core.avatars import dataset as avatars
from vq_core.avatars import portrait
from vq_core.avatars.dataset import FAULTS, write_avatars
from vq_core.avatars.portrait import ATTRIBUTES, draw_attributes, draw_avatar


def attributes_of(seed: int, index: int) -> dict[str, str]:
    return draw_attributes(np.random.default_rng([seed, index]))


def load(path: Path, mode: str | None = None) -> Image.Image:
    """The image with its file closed."""
    with Image.open(path) as image:
        return image.convert(mode) if mode else image.copy()


def cramers_v(left: list[str], right: list[str]) -> float:
    """Association of two attributes with the bias of small samples removed: 0 none, 1 complete."""
    rows, columns = sorted(set(left)), sorted(set(right))
    table = np.zeros((len(rows), len(columns)))
    for (a, b), count in Counter(zip(left, right, strict=True)).items():
        table[rows.index(a), columns.index(b)] = count
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    phi2 = ((table - expected) ** 2 / expected).sum() / table.sum()
    free = (len(rows) - 1) * (len(columns) - 1) / (table.sum() - 1)
    return float(np.sqrt(max(0.0, phi2 - free) / max(1, min(table.shape) - 1)))


def test_same_seed_and_index_give_the_same_avatar() -> None:
    first, again = draw_avatar(3, 17), draw_avatar(3, 17)
    assert first.image.shape == (256, 256, 3)
    assert first.image.dtype == np.uint8
    np.testing.assert_array_equal(first.image, again.image)
    assert first.attributes == again.attributes
    assert first.attributes == attributes_of(3, 17)


def test_seed_matters() -> None:
    assert (draw_avatar(0, 5, 64).image != draw_avatar(1, 5, 64).image).mean() > 0.2


@pytest.mark.parametrize("size", [16, 64, 300])
def test_size(size: int) -> None:
    assert draw_avatar(0, 0, size).image.shape == (size, size, 3)


@pytest.mark.parametrize("size", [15, 0, -4])
def test_size_too_small(size: int) -> None:
    with pytest.raises(ValueError, match="at least 16"):
        draw_avatar(0, 0, size)


@pytest.mark.parametrize(
    "attribute", ["background", "jaw", "ears", "hair_tips", "fringe", "back_hair", "ahoge", "brows"]
)
def test_every_value_can_be_drawn_and_shows(attribute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_values(attribute, monkeypatch)


@pytest.mark.parametrize(
    "attribute", ["eye_shape", "eye_size", "mouth", "blush", "clothes", "glasses", "headwear", "extra"]
)
def test_every_feature_shows(attribute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_values(attribute, monkeypatch)


def check_values(attribute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw one person with each value of the attribute; all pictures must differ."""
    usual = {name: values[0] for name, values in ATTRIBUTES.items()} | {"hair_colour": "blonde"}
    seen = set()
    for value in ATTRIBUTES[attribute]:
        chosen = usual | {attribute: value}
        monkeypatch.setattr(portrait, "draw_attributes", lambda rng, chosen=chosen: chosen)
        seen.add(draw_avatar(0, 0, 64).image.tobytes())
    assert len(seen) == len(ATTRIBUTES[attribute])


def test_attributes_vary() -> None:
    drawn = [attributes_of(0, index) for index in range(300)]
    assert len(ATTRIBUTES) >= 12
    for name, values in ATTRIBUTES.items():
        seen = {attributes[name] for attributes in drawn}
        assert len(seen) >= 2
        assert seen <= set(values)


def test_attributes_are_pairwise_independent() -> None:
    drawn = [attributes_of(0, index) for index in range(2000)]
    columns = {name: [attributes[name] for attributes in drawn] for name in ATTRIBUTES}
    for left, right in combinations(ATTRIBUTES, 2):
        assert cramers_v(columns[left], columns[right]) < 0.1, (left, right)


def test_images_differ_pairwise() -> None:
    images = [draw_avatar(0, index, 32).image.astype(float) for index in range(40)]
    for left, right in combinations(images, 2):
        assert np.abs(left - right).mean() > 5


def test_folder_is_independent_of_count_and_repaired(tmp_path: Path) -> None:
    small = write_avatars(tmp_path / "small", 3, seed=4, progress=False)
    large = write_avatars(tmp_path / "large", 5, seed=4, progress=False)
    for index in range(3):
        name = f"{index:05d}.png"
        assert (small / name).read_bytes() == (large / name).read_bytes()
    np.testing.assert_array_equal(np.asarray(load(large / "00004.png")), draw_avatar(4, 4).image)

    before = {path.name: path.stat().st_mtime_ns for path in large.iterdir()}
    write_avatars(large, 5, seed=4, progress=False)
    assert {path.name: path.stat().st_mtime_ns for path in large.iterdir()} == before

    content = (large / "00002.png").read_bytes()
    (large / "00002.png").unlink()
    write_avatars(large, 5, seed=4, progress=False)
    assert (large / "00002.png").read_bytes() == content
    assert {path.name for path in large.iterdir()} == {f"{k:05d}.png" for k in range(5)} | {"attributes.csv"}


def test_table_lists_the_attributes(tmp_path: Path) -> None:
    lines = (write_avatars(tmp_path, 2, seed=9, progress=False) / "attributes.csv").read_text().splitlines()
    assert lines[0].split(",") == ["file", *ATTRIBUTES]
    assert lines[2].split(",") == ["00001.png", *draw_avatar(9, 1, 16).attributes.values()]
    assert len(lines) == 3


def test_many_images_are_drawn_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avatars, "MIN_PER_WORKER", 2)
    write_avatars(tmp_path, 4, seed=0, progress=False)
    np.testing.assert_array_equal(np.asarray(load(tmp_path / "00003.png")), draw_avatar(0, 3).image)


def test_folder_of_another_seed_is_refused(tmp_path: Path) -> None:
    write_avatars(tmp_path, 1, seed=0, progress=False)
    with pytest.raises(ValueError, match="another seed"):
        write_avatars(tmp_path, 1, seed=1, progress=False)


def test_folder_grows(tmp_path: Path) -> None:
    (tmp_path / ".00000.png.1.tmp").write_bytes(b"half an image")
    write_avatars(tmp_path, 1, seed=0, progress=False)
    write_avatars(tmp_path, 3, seed=0, progress=False)
    write_avatars(tmp_path, 2, seed=0, progress=False)
    assert len((tmp_path / "attributes.csv").read_text().splitlines()) == 4
    assert {path.name for path in tmp_path.iterdir()} == {f"{k:05d}.png" for k in range(3)} | {"attributes.csv"}


def test_count_too_small(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        write_avatars(tmp_path, 0, seed=0)


def test_faults(tmp_path: Path) -> None:
    write_avatars(tmp_path, 8, seed=0, plant_faults=True, progress=False)
    faulty = tmp_path / "faulty"
    assert {path.name for path in faulty.iterdir()} == set(FAULTS)
    good = {path.read_bytes() for path in tmp_path.glob("*.png")}
    assert (faulty / "copy_a.png").read_bytes() in good
    assert (faulty / "copy_b.png").read_bytes() in good
    assert not (faulty / "empty.png").read_bytes()
    assert load(faulty / "tiny.png").size == (40, 40)
    assert load(faulty / "cmyk.jpg").mode == "CMYK"
    palette = load(faulty / "palette.png")
    assert palette.mode == "P"
    assert load(faulty / "palette.png", "RGBA").getchannel("A").getextrema() == (0, 255)
    with pytest.raises(UnidentifiedImageError):
        load(faulty / "text.png")
    with pytest.raises(OSError, match="truncated"):
        load(faulty / "truncated.png")


def test_near_duplicates_are_near_but_not_equal(tmp_path: Path) -> None:
    write_avatars(tmp_path, 8, seed=0, plant_faults=True, progress=False)
    for name, index in (("near_jpeg.jpg", 2), ("near_bright.png", 3), ("near_resized.png", 4)):
        near = np.asarray(load(tmp_path / "faulty" / name), dtype=float)
        source = np.asarray(load(tmp_path / f"{index:05d}.png"), dtype=float)
        assert 0 < np.abs(near - source).mean() < 12
