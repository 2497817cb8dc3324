"""Prepared images on disk: one packed array, a manifest with a line per file, and the settings used."""

import csv
import hashlib
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt8

from vq_core.errors import DataError

_VERSION = 2  # since 2 rows are ordered by content
BLOCK = 256  # pictures read at once: 50 MB of 256×256


@dataclass(frozen=True)
class Entry:
    """What became of one file of the raw folder.

    `detail` names the file that a duplicate equals, or says what is wrong. `sha256` and `phash` (hexadecimal) are of
    the prepared pixels, `width` and `height` the original's. `row` is the place in the packed array, −1 if set aside.
    `size` and `mtime_ns` later tell whether the file is unchanged; −1 if it cannot be read.
    """

    file: str
    status: Literal["kept", "set aside"]
    reason: str = ""
    detail: str = ""
    sha256: str = ""
    split: Literal["train", "val", ""] = ""
    row: int = -1
    width: int = 0
    height: int = 0
    notes: str = ""
    size: int = -1
    mtime_ns: int = -1
    phash: str = ""


@dataclass(frozen=True, eq=False)
class PackedImages:
    """The result of `ingest`; `images` is memory-mapped, `fingerprint` changes with the pictures and their split."""

    folder: Path
    images: UInt8[np.ndarray, "n size size 3"]
    entries: tuple[Entry, ...]
    fingerprint: str
    settings: dict[str, Any]  # with which they were made

    @property
    def kept(self) -> tuple[Entry, ...]:
        """The entries of the kept pictures, in the order of the array's rows."""
        return tuple(sorted((entry for entry in self.entries if entry.row >= 0), key=lambda entry: entry.row))

    @property
    def train_rows(self) -> Int64[np.ndarray, " train"]:
        """Rows of the training split."""
        return self._rows("train")

    @property
    def val_rows(self) -> Int64[np.ndarray, " val"]:
        """Rows of the validation split."""
        return self._rows("val")

    def damaged(self) -> list[str]:
        """Names of the kept pictures that are not what was packed, by their checksums; 2 GB take a second or two."""
        entries, names = self.kept, list[str]()
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as workers:
            for rows in np.array_split(np.arange(len(entries)), 1 + len(entries) // BLOCK):
                found = workers.map(lambda pixels: hashlib.sha256(pixels.data).hexdigest(), remapped(self.images)[rows])
                names += [entries[r].file for r, now in zip(rows, found, strict=True) if entries[r].sha256 != now]
        return names

    def verify(self) -> "PackedImages":
        """Itself, to be trained or judged on. Raises `DataError` if any picture is no longer what was packed."""
        if names := self.damaged():
            what = f"{len(names)} of {len(self.images)} pictures have changed since they were packed, {names[0]} first"
            raise DataError(f"{self.folder / 'images.npy'}: {what}; run notebook 00_data_prep (or ingest) to mend it")
        return self

    def counts(self) -> dict[str, int]:
        """How many files were set aside for each reason, the most frequent first."""
        return dict(Counter(entry.reason for entry in self.entries if entry.row < 0).most_common())

    def conversions(self) -> dict[str, int]:
        """How many kept pictures needed each kind of conversion, the most frequent first."""
        return dict(Counter(note for entry in self.kept for note in entry.notes.split("; ") if note).most_common())

    def _rows(self, split: str) -> np.ndarray:
        return np.array([entry.row for entry in self.kept if entry.split == split], dtype=np.int64)


def remapped(images: np.ndarray) -> np.ndarray:
    """A memory map once more: while the first lives, all that was read through it counts as this process's memory."""
    if not isinstance(images, np.memmap):
        return images
    return np.memmap(str(images.filename), images.dtype, "r", images.offset, images.shape)


def load_packed(out: Path) -> PackedImages:
    """Open what `ingest` wrote to `out`. Raises `DataError`, naming the notebook to run, if it is not complete."""
    try:
        meta = json.loads((out / "meta.json").read_text(encoding="utf-8"))
        if meta["version"] != _VERSION:
            raise DataError(f"{out}: prepared by another version; run notebook 00_data_prep again")
        listed = (out / "manifest.csv").read_bytes()
        if meta.get("manifest", listed_sum := zlib.crc32(listed)) != listed_sum:  # up to 0.2 there was no checksum
            raise ValueError("manifest.csv has changed")
        images = np.load(out / "images.npy", mmap_mode="r")
        whole = [field.name for field in fields(Entry) if field.type is int]
        text = io.StringIO(listed.decode("utf-8", "surrogateescape"), newline="")
        lines: list[dict[str, Any]] = list(csv.DictReader(text))
        entries = tuple(Entry(**(line | {name: int(line[name]) for name in whole})) for line in lines)
        packed = PackedImages(out, images, entries, meta["fingerprint"], meta["settings"])
        if [entry.row for entry in packed.kept] != list(range(len(images))):
            raise ValueError("array and manifest differ")
        if packed.fingerprint != _fingerprint(entries, packed.settings):
            raise ValueError("the fingerprint in meta.json is not theirs")
        return packed
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{out}: no prepared images; run notebook 00_data_prep first") from None
    except Exception as error:  # of many kinds, in files of other bytes
        what = " ".join(str(error).split())
        raise DataError(f"{out}: damaged ({what}); delete it and run notebook 00_data_prep") from None


def write_packed(
    partial: Path, out: Path, images: Iterable[np.ndarray], entries: list[Entry], settings: dict[str, Any]
) -> None:
    """Write the array (of `images`, by row), manifest and settings to `partial`, then move all to `out` beside it."""
    shape = (sum(entry.row >= 0 for entry in entries), settings["image_size"], settings["image_size"], 3)
    # Plain writes: with a memory map, a full disk would crash the process instead of raising an error.
    with (partial / "images.npy").open("wb") as array:
        np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": shape})
        array.writelines(pixels.data for pixels in images)
    with (partial / "manifest.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as manifest:
        writer = csv.DictWriter(manifest, [field.name for field in fields(Entry)])
        writer.writeheader()
        writer.writerows(asdict(entry) for entry in entries)
    listed = zlib.crc32((partial / "manifest.csv").read_bytes())
    fingerprint = _fingerprint(entries, settings)
    meta = {"version": _VERSION, "fingerprint": fingerprint, "settings": settings, "manifest": listed}
    (partial / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
    (out / "meta.json").unlink(missing_ok=True)  # if killed from here on: incomplete, never a mix of old and new
    for name in ("images.npy", "manifest.csv", "meta.json"):
        (partial / name).replace(out / name)


def _fingerprint(entries: Iterable[Entry], settings: dict[str, Any]) -> str:
    content = sorted(f"{entry.sha256} {entry.split}" for entry in entries if entry.status == "kept")
    matters = [f"{key}={settings[key]}" for key in ("image_size", "square", "val_share", "seed")]
    return hashlib.sha256("\n".join(matters + content).encode()).hexdigest()[:16]
