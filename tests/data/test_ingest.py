"""Ingest: cleaning, the split, and runs that are repeated, interrupted or added to."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from ingested import SIZE, fill, jpeg, portrait, reasons, run, same, splits
from PIL import Image

from vq_core.data import ingest as ingest_module
from vq_core.data.decode import Picture
from vq_core.data.packed import load_packed
from vq_core.errors import DataError
from vq_core.settings import DataConfig


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


@pytest.mark.parametrize("val_share", [0.1, 0.9])
def test_a_share_that_leaves_a_side_empty_is_refused(raw: Path, config: DataConfig, val_share: float) -> None:
    fill(raw, range(3))
    with pytest.raises(DataError, match=r"data\.val_share=0\.[19] leaves .* must be in \[0\.17, 0\.83\] for 3 images"):
        run(raw, config.model_copy(update={"val_share": val_share}))


@pytest.mark.parametrize("val_share", [0.17, 0.83])
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


def test_nothing_usable_is_an_error_of_one_line(raw: Path, config: DataConfig) -> None:
    with pytest.raises(DataError, match="no such folder"):
        run(raw / "missing", config)
    with pytest.raises(DataError, match="contains no image files"):
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
