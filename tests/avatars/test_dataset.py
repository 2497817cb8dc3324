"""Folders of built-in avatars: repairable, growing, with planted faults."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from vq_core.avatars import dataset as avatars
from vq_core.avatars.dataset import FAULTS, write_avatars
from vq_core.avatars.portrait import ATTRIBUTES, draw_avatar


def load(path: Path, mode: str | None = None) -> Image.Image:
    """The image with its file closed."""
    with Image.open(path) as image:
        return image.convert(mode) if mode else image.copy()


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
