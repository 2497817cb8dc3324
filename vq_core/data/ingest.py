"""Packing a folder of image files into one array, with a manifest that says what became of each file.

The raw folder is never changed. Written are `images.npy` (all kept pictures), `manifest.csv` (one line per file) and
finally `meta.json`, without which the other two do not count. When repeated, only files that are new, changed or set
aside before are read; the result is as from scratch, except that among near-duplicates the one kept before stays.
"""

import hashlib
import os
import shutil
import stat
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vq_core.data.decode import load_picture
from vq_core.data.duplicates import first_of_group, perceptual_hash
from vq_core.data.packed import BLOCK, Entry, PackedImages, load_packed, remapped, write_packed
from vq_core.errors import DataError, UnusableImage
from vq_core.settings import DataConfig

SIDE_FILES = (".csv", ".json", ".txt", ".md", "thumbs.db", "desktop.ini")  # labels and notes kept beside images
_PIXEL_SETTINGS = ("image_size", "square", "min_side", "max_pixels")
_stamp = attrgetter("file", "size", "mtime_ns")  # equal for a file that has not changed


def ingest(raw: Path, out: Path, config: DataConfig, seed: int, progress: bool = True) -> PackedImages:
    """Clean, split and pack the images of a folder and its subfolders.

    Files are taken in order of name. Hidden files and `SIDE_FILES` are ignored, and links to folders are not followed.
    Of equal or nearly equal pictures, one that was kept before takes precedence; otherwise the first is kept. The split
    is a hash of `seed` and content. So adding files never moves a picture, or one that looks like it, to the other side
    (unless a side would otherwise be empty), and renaming files changes no row of the packed array. Raises `DataError`
    if the folder is missing, or has fewer than two usable images.
    """
    listing = _list_files(raw)
    settings = packing_settings(config, seed)
    old: PackedImages | None = None
    with suppress(DataError):
        old = load_packed(out)
    same = old is not None and [*map(_stamp, old.entries)] == [*map(_stamp, listing)]
    if old and old.settings == settings and same and not old.damaged():
        return old
    reusable = old if old and all(old.settings.get(key) == settings[key] for key in _PIXEL_SETTINGS) else None
    partial = out / ".partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
    partial.mkdir(parents=True)
    try:
        entries = _stage(raw, listing, reusable, config, partial / "staged", progress)
        if not any(entry.status == "kept" for entry in entries):
            raise DataError(f"{raw}: none of {len(entries)} files is a usable image ({_summary(entries)})")
        staged = np.memmap(partial / "staged", np.uint8, "r").reshape(-1, config.image_size, config.image_size, 3)
        before = {entry.sha256 for entry in reusable.kept} if reusable else set()
        apart = old is not None and old.settings.get("near_duplicate_bits") == config.near_duplicate_bits
        entries, kept = _set_near_duplicates_aside(entries, staged, config.near_duplicate_bits, before, apart)
        entries = _split(raw, entries, config.val_share, seed)
        order = np.argsort([entry.row for entry in entries if entry.row >= 0])
        parts = np.array_split(kept[order], 1 + len(kept) // BLOCK)
        write_packed(partial, out, (row for part in parts for row in remapped(staged)[part]), entries, settings)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load_packed(out)


def raw_files(raw: Path) -> Iterator[Path]:
    """All paths that may be meant as pictures (not hidden, no `SIDE_FILES`), and folders that are links or closed."""
    closed: list[OSError] = []
    for folder, folders, files in os.walk(raw, onerror=closed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(f"{folder}/{name}")]  # noqa: PTH114 - Path's may raise
        meant = (name for name in files + links if not (name.startswith(".") or name.lower().endswith(SIDE_FILES)))
        yield from (Path(folder) / name for name in meant)
    yield from (Path(error.filename) for error in closed if not isinstance(error, FileNotFoundError))


def _list_files(raw: Path) -> list[Entry]:
    """An entry for each file, as yet without what becomes of it."""
    if not raw.is_dir():
        raise DataError(f"{raw}: no such folder")
    found = []
    for path in raw_files(raw):
        size = mtime_ns = -1
        with suppress(OSError):  # a link to nowhere or to itself
            status = path.stat()
            if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
                size, mtime_ns = status.st_size, status.st_mtime_ns
        found.append(Entry(path.relative_to(raw).as_posix(), "set aside", size=size, mtime_ns=mtime_ns))
    if not found:
        raise DataError(f"{raw}: contains no image files")
    return sorted(found, key=_stamp)


def packing_settings(config: DataConfig, seed: int) -> dict[str, Any]:
    """The settings that determine a packed set."""
    return config.model_dump(include={*_PIXEL_SETTINGS, "near_duplicate_bits", "val_share"}) | {"seed": seed}


def _stage(
    raw: Path, listing: list[Entry], old: PackedImages | None, config: DataConfig, staged: Path, progress: bool
) -> list[Entry]:
    """Write the pixels of all distinct pictures one after the other; returns all files' entries."""
    there = old.images if old else None
    known = {_stamp(entry): entry for entry in old.kept} if old else {}

    def look(item: Entry) -> tuple[Entry, np.ndarray | None]:
        """A file's entry, and unless that is set aside its pixels."""
        before = known.get(_stamp(item))
        if there is not None and before is not None:
            pixels = np.array(there[before.row])
            if hashlib.sha256(pixels.data).hexdigest() == before.sha256:
                looks = before.phash or f"{perceptual_hash(pixels):016x}"
                return replace(before, split="", row=-1, phash=looks), pixels
        try:
            picture = load_picture(raw / item.file, config)
        except UnusableImage as error:
            return replace(item, reason=error.reason, detail=error.detail), None
        pixels = np.ascontiguousarray(picture.pixels)
        kept = replace(item, status="kept", width=picture.width, height=picture.height, notes="; ".join(picture.notes))
        digest, looks = hashlib.sha256(pixels.data).hexdigest(), f"{perceptual_hash(pixels):016x}"
        return replace(kept, sha256=digest, phash=looks), pixels

    bar = tqdm(total=len(listing), desc="reading images", unit="image", disable=not progress)
    workers = ThreadPoolExecutor(min(8, max(2, os.cpu_count() or 2)))
    first, entries = dict[str, str](), list[Entry]()
    with warnings.catch_warnings(), bar, staged.open("wb") as file, workers:
        warnings.filterwarnings("ignore", module="PIL")  # about files that are then refused or converted by rule
        for start in range(0, len(listing), BLOCK):  # later pictures must not pile up in memory behind one slow file
            there = remapped(there) if there is not None else None
            for entry, pixels in workers.map(look, listing[start : start + BLOCK]):
                equal = first.setdefault(entry.sha256, entry.file) if entry.sha256 else entry.file
                if equal != entry.file:
                    entry = replace(entry, status="set aside", reason="duplicate", detail=equal)
                elif pixels is not None:
                    file.write(pixels.data)
                entries.append(entry)
                bar.update()
    return entries


def _set_near_duplicates_aside(
    entries: list[Entry], staged: np.ndarray, bits: int, before: set[str], apart: bool
) -> tuple[list[Entry], np.ndarray]:
    """The updated entries, and which staged pictures are kept; those kept `before` take precedence."""
    usable = [i for i, entry in enumerate(entries) if entry.status == "kept"]
    hashes = np.array([int(entries[i].phash, 16) for i in usable], dtype=np.uint64)
    early = np.array([entries[i].sha256 in before for i in usable])
    firsts = first_of_group(hashes, staged, bits, early, apart)
    judged = list(entries)
    for i, first in zip(usable, np.array(usable)[firsts].tolist(), strict=True):
        if first != i:
            judged[i] = replace(entries[i], status="set aside", reason="near-duplicate", detail=entries[first].file)
    return judged, np.flatnonzero(firsts == np.arange(len(firsts)))


def _split(raw: Path, entries: list[Entry], val_share: float, seed: int) -> list[Entry]:
    """Give the kept entries rows and a split that depend only on content (and the seed), not on names."""
    kept = [i for i, entry in enumerate(entries) if entry.status == "kept"]
    if len(kept) < 2:
        raise DataError(f"{raw}: only one image is left; two are needed ({_summary(entries) or 'no other files'})")
    if not 0.5 <= len(kept) * val_share <= len(kept) - 0.5:
        least = f"must be in [{0.5 / len(kept):.2g}, {1 - 0.5 / len(kept):.2g}] for {len(kept)} images"
        raise DataError(f"data.val_share={val_share} leaves nothing to train on or nothing held out: it {least}")
    digests = [hashlib.sha256(f"{seed} {entries[i].sha256}".encode()).digest() for i in kept]
    draw = np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])
    val = draw < val_share
    val[draw.argmin()], val[draw.argmax()] = True, False  # changes something only if a side would be empty
    done, held_out = list(entries), dict(zip(kept, val, strict=True))
    for row, i in enumerate(sorted(kept, key=lambda i: entries[i].sha256)):
        done[i] = replace(entries[i], row=row, split="val" if held_out[i] else "train")
    return done


def _summary(entries: list[Entry]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in Counter(e.reason for e in entries if e.reason).most_common())
