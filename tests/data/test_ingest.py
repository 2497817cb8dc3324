"""Ingest: cleaning, duplicates, the split, and runs that are repeated, interrupted or added to."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from vq_core.config import DataConfig, load_config
from vq_core.data import ingest as ingest_module
from vq_core.data.datamodule import image_source
from vq_core.data.decode import Picture
from vq_core.data.duplicates import hash_pairs
from vq_core.data.ingest import DataError, PackedImages, ingest, load_packed

SIZE = 64


@pytest.fixture
def config() -> DataConfig:
    changes = {"image_size": SIZE, "min_side": 8, "near_duplicate_bits": 6, "val_share": 0.3, "max_pixels": 1_000_000}
    return load_config("smoke").data.model_copy(update=changes)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def portrait(seed: int, size: int = 96) -> Image.Image:
    """A picture of some large shapes: unlike noise it survives compression and resizing."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = rng.integers(-size // 4, size, 2).tolist()
        width, height = rng.integers(size // 8, size // 2, 2).tolist()
        draw.ellipse((left, top, left + width, top + height), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def fill(folder: Path, seeds: range) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        portrait(seed).save(folder / f"{seed:03d}.png")


def run(raw: Path, config: DataConfig, out: str = "out", seed: int = 0) -> PackedImages:
    return ingest(raw, raw.parent / out, config, seed, progress=False)


def same(a: PackedImages, b: PackedImages) -> bool:
    return a.entries == b.entries and np.array_equal(a.images, b.images) and a.fingerprint == b.fingerprint


def reasons(packed: PackedImages) -> dict[str, str]:
    return {entry.file: entry.reason for entry in packed.entries}


def splits(packed: PackedImages) -> dict[str, str]:
    return {entry.file: entry.split for entry in packed.kept}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded."""
    names: list[str] = []
    original = ingest_module.load_picture

    def spy(path: Path, config: DataConfig) -> Picture:
        names.append(path.name)
        return original(path, config)

    monkeypatch.setattr(ingest_module, "load_picture", spy)
    return names


def test_counts_what_was_converted(raw: Path, config: DataConfig) -> None:
    fill(raw, range(3))
    for seed in (3, 4):
        portrait(seed).convert("L").save(raw / f"grey{seed}.png")
    clear = portrait(5).convert("LA")
    clear.putalpha(128)
    clear.save(raw / "clear.png")
    packed = run(raw, config)
    assert packed.conversions() == {"grey to RGB": 3, "alpha over white": 1}
    fill(raw, range(7))
    assert run(raw, config).conversions() == packed.conversions()


def test_packs_all_pictures_in_an_order_of_their_content(raw: Path, config: DataConfig) -> None:
    fill(raw, range(5, 10))
    fill(raw / "deeper" / "down", range(5))
    packed = run(raw, config)
    assert packed.images.shape == (10, SIZE, SIZE, 3) and packed.images.dtype == np.uint8
    assert isinstance(packed.images, np.memmap) and packed.counts() == {}
    names = [entry.file for entry in packed.entries]
    assert names == sorted(names) and names[-1] == "deeper/down/004.png"
    assert [entry.row for entry in packed.kept] == list(range(10))
    assert [entry.sha256 for entry in packed.kept] == sorted(entry.sha256 for entry in packed.entries)
    rows = np.concatenate([packed.train_rows, packed.val_rows])
    assert sorted(rows) == list(range(10)) and rows.dtype == np.int64
    for entry in packed.kept:
        with Image.open(raw / entry.file) as image:
            expected = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS, reducing_gap=3.0)
        assert np.array_equal(packed.images[entry.row], np.asarray(expected))
        assert (entry.width, entry.height) == (96, 96)


def test_a_folder_that_cannot_be_read_is_set_aside(
    raw: Path, config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(raw, range(4))
    fill(raw / "closed", range(4, 6))
    original = os.scandir

    def scandir(folder: object) -> object:
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return original(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    packed = run(raw, config)
    assert len(packed.kept) == 4 and packed.counts() == {"unreadable": 1} and reasons(packed)["closed"] == "unreadable"


def test_sets_bad_files_aside_and_goes_on(raw: Path, config: DataConfig) -> None:
    fill(raw, range(4))
    whole = (raw / "000.png").read_bytes()
    (raw / "cut.png").write_bytes(whole[: len(whole) // 2])
    (raw / "empty.jpg").touch()
    (raw / "text.png").write_text("no image\n")
    (raw / "drawing.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n")
    Image.new("RGB", (7, 400)).save(raw / "small.png")
    Image.new("1", (1200, 1200)).save(raw / "large.png")
    (raw / "loop").symlink_to(raw, target_is_directory=True)
    (raw / "nowhere.png").symlink_to(raw / "missing.png")
    (raw / "attributes.csv").write_text("not an image, but not meant to be one")
    (raw / ".hidden").mkdir()
    (raw / ".hidden" / "x.png").write_text("hidden")
    packed = run(raw, config)
    expected = {
        "cut.png": "truncated",
        "empty.jpg": "empty file",
        "text.png": "not an image",
        "drawing.png": "unsupported format",
        "small.png": "too small",
        "large.png": "too large",
        "loop": "unreadable",
        "nowhere.png": "unreadable",
    }
    assert reasons(packed) == {f"{i:03d}.png": "" for i in range(4)} | expected
    assert packed.counts() == {"unreadable": 2} | {reason: 1 for reason in expected.values() if reason != "unreadable"}
    assert all(entry.detail and entry.row == -1 and not entry.split for entry in packed.entries if entry.reason)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_becomes_readable(raw: Path, config: DataConfig) -> None:
    fill(raw, range(4))
    (raw / "000.png").chmod(0)
    assert run(raw, config).counts() == {"unreadable": 1}
    (raw / "000.png").chmod(0o600)
    assert run(raw, config).counts() == {}


def test_keeps_the_first_of_equal_pictures(raw: Path, config: DataConfig) -> None:
    fill(raw, range(4))
    shutil.copy(raw / "001.png", raw / "a copy.png")
    portrait(1).save(raw / "other encoding.bmp")
    packed = run(raw, config)
    found = {entry.file: (entry.reason, entry.detail) for entry in packed.entries if entry.reason}
    assert found == {name: ("duplicate", "001.png") for name in ("a copy.png", "other encoding.bmp")}
    assert len(packed.images) == 4


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    return Image.open(buffer)


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


def test_hash_pairs_equal_the_plain_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vq_core.data.duplicates._BLOCK", 500)
    hashes = np.random.default_rng(0).integers(0, 256, 60).astype(np.uint64)
    plain = [(i, j) for i in range(60) for j in range(i + 1, 60) if bin(int(hashes[i] ^ hashes[j])).count("1") <= 2]
    assert np.concatenate(list(hash_pairs(hashes, 2))).tolist() == [list(pair) for pair in plain]


def test_strange_names(raw: Path, config: DataConfig) -> None:
    names = ["two words.png", "アニメ.png", "line\nbreak.png", 'quo"te, comma.png', "back\\slash\r.png"]
    names.append(os.fsdecode(b"latin-\xe9.png"))
    for seed, name in enumerate(names):
        portrait(seed).save(raw / "x.png")
        (raw / "x.png").rename(raw / name)
    packed = run(raw, config)
    assert {entry.file for entry in packed.kept} == set(names)
    assert same(load_packed(packed.folder), packed)
    shutil.copy(raw / names[2], raw / "z.png")
    assert [entry.detail for entry in run(raw, config).entries if entry.file == "z.png"] == [names[2]]


def test_a_second_run_decodes_nothing_and_is_identical(raw: Path, config: DataConfig, decoded: list[str]) -> None:
    fill(raw, range(6))
    (raw / "bad.png").write_text("bad")
    first = run(raw, config)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in first.folder.iterdir()}
    decoded.clear()
    assert same(run(raw, config), first) and not decoded
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in first.folder.iterdir()} == before


def test_only_the_new_is_decoded_and_the_result_is_that_from_scratch(
    raw: Path, config: DataConfig, decoded: list[str]
) -> None:
    fill(raw, range(10, 30))
    run(raw, config)
    fill(raw, range(5))
    (raw / "011.png").unlink()
    portrait(99).save(raw / "012.png")  # changed
    os.utime(raw / "012.png", (1, 1))
    jpeg(portrait(20)).save(raw / "0201.jpg", quality=95)
    decoded.clear()
    again = run(raw, config)
    assert sorted(decoded) == [*(f"{i:03d}.png" for i in range(5)), "012.png", "0201.jpg"]
    assert reasons(again)["0201.jpg"] == "near-duplicate"
    assert same(again, run(raw, config, "scratch"))


@pytest.mark.parametrize(
    ("change", "reads"),
    [({"val_share": 0.5}, 0), ({"near_duplicate_bits": 0}, 0), ({"image_size": 32}, 6), ({"square": "pad"}, 6)],
)
def test_other_settings_are_applied(
    raw: Path, config: DataConfig, decoded: list[str], change: dict[str, object], reads: int
) -> None:
    fill(raw, range(6))
    run(raw, config)
    decoded.clear()
    other = config.model_copy(update={"square": "crop"} | change)
    again = run(raw, other)
    assert len(decoded) == reads
    assert same(again, run(raw, other, "scratch"))


def test_adding_files_moves_nothing_to_the_other_side(raw: Path, config: DataConfig) -> None:
    fill(raw, range(100, 130))
    before = splits(run(raw, config))
    fill(raw, range(60))
    after = splits(run(raw, config))
    assert len(after) == 90 and before.items() <= after.items()
    assert 10 < sum(split == "val" for split in after.values()) < 45
    assert splits(run(raw, config, seed=1)) != after


def test_copies_of_earlier_names_move_nothing_to_the_other_side(raw: Path, config: DataConfig) -> None:
    fill(raw, range(100, 130))
    before = splits(run(raw, config))
    for seed in range(100, 130):
        portrait(seed).save(raw / f"{seed - 100:03d}.jpg", quality=95)
    again = run(raw, config)
    assert splits(again) == before and again.counts() == {"near-duplicate": 30}
    assert all(entry.detail == f"1{entry.file[1:3]}.png" for entry in again.entries if entry.reason)


def test_array_and_fingerprint_follow_content_and_split_not_names(raw: Path, config: DataConfig) -> None:
    fill(raw, range(8))
    first = run(raw, config)
    images, held_out = first.images.copy(), first.val_rows
    assert len(first.fingerprint) == 16
    (raw / "000.png").rename(raw / "zzz.png")
    renamed = run(raw, config)
    assert renamed.fingerprint == first.fingerprint
    assert np.array_equal(renamed.images, images) and np.array_equal(renamed.val_rows, held_out)
    assert run(raw, config, seed=1).fingerprint != first.fingerprint
    fill(raw, range(9))
    assert run(raw, config).fingerprint != first.fingerprint


def test_what_nobody_meant_as_a_picture_is_no_source_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQ_DATA", str(tmp_path))
    auto = load_config("smoke", ["data.source=auto"])
    assert image_source(auto) == "avatars"  # no folder at all
    (tmp_path / "raw" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "raw" / ".ipynb_checkpoints" / "a.png").touch()
    (tmp_path / "raw" / "labels.csv").touch()
    assert image_source(auto) == "avatars"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "raw" / "mine").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert image_source(auto) == "raw"  # for ingest to say that it does not follow links


@pytest.mark.parametrize("val_share", [1e-9, 1 - 1e-9])
def test_no_side_of_the_split_is_empty(raw: Path, config: DataConfig, val_share: float) -> None:
    fill(raw, range(3))
    packed = run(raw, config.model_copy(update={"val_share": val_share}))
    assert sorted([len(packed.train_rows), len(packed.val_rows)]) == [1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_and_run_again(
    raw: Path, config: DataConfig, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    fill(raw, range(10))

    def fails(path: Path, config: DataConfig) -> Picture:
        if path.name == "005.png":
            raise error
        return original(path, config)

    original = ingest_module.load_picture
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(ingest_module, "load_picture", fails)
        run(raw, config)
    assert list((raw.parent / "out").iterdir()) == []
    with pytest.raises(DataError, match="00_data_prep"):
        load_packed(raw.parent / "out")
    assert same(run(raw, config), run(raw, config, "scratch"))


def test_an_interrupted_update_leaves_the_old_result(
    raw: Path, config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(raw, range(6))
    first = run(raw, config)
    fill(raw, range(8))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingest_module, "first_of_group", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(raw, config)
    assert same(load_packed(first.folder), first)


def test_rubbish_of_a_killed_run_does_no_harm(raw: Path, config: DataConfig) -> None:
    fill(raw, range(4))
    partial = raw.parent / "out" / ".partial"
    partial.mkdir(parents=True)
    (partial / "staged").write_bytes(b"rubbish")
    assert len(run(raw, config).images) == 4 and not partial.exists()


@pytest.mark.parametrize("name", ["images.npy", "manifest.csv", "meta.json"])
def test_a_damaged_result_is_refused_and_made_anew(raw: Path, config: DataConfig, name: str) -> None:
    fill(raw, range(4))
    path = run(raw, config).folder / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="00_data_prep") as caught:
        load_packed(path.parent)
    assert "\n" not in str(caught.value)
    assert same(run(raw, config), run(raw, config, "scratch"))


def test_what_another_version_has_packed_is_packed_again(raw: Path, config: DataConfig) -> None:
    fill(raw, range(4))
    packed = run(raw, config)
    meta = packed.folder / "meta.json"
    meta.write_text(meta.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(DataError, match="prepared by another version; run the notebook 00_data_prep again"):
        load_packed(packed.folder)
    assert same(run(raw, config), packed)


def test_nothing_usable_is_an_error_of_one_line(raw: Path, config: DataConfig) -> None:
    with pytest.raises(DataError, match="no such folder"):
        run(raw / "missing", config)
    with pytest.raises(DataError, match="holds no image files"):
        run(raw, config)
    (raw / "bad.png").write_text("bad")
    with pytest.raises(DataError, match=f"{raw}: none of 1 files is a usable image \\(1 not an image\\)"):
        run(raw, config)
    fill(raw, range(1))
    with pytest.raises(DataError, match=f"{raw}: only one image is left"):
        run(raw, config)


def test_raw_files_are_left_alone(raw: Path, config: DataConfig) -> None:
    fill(raw, range(4))
    (raw / "bad.png").write_text("bad")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in raw.iterdir()}
    run(raw, config)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in raw.iterdir()} == before
