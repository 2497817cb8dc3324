"""Prepared images on disk: one packed array, a manifest with a line per file, and what they were made with."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt8

from vq_core.errors import DataError

_VERSION = 2  # 2: rows in the order of content


@dataclass(frozen=True)
class Entry:
    """What became of one file of the raw folder.

    `detail` names the file that a duplicate equals, or says what is wrong. `sha256` is that of the prepared pixels.
    `row` is the picture's place in the packed array, −1 where it was set aside. `width` and `height` are those of the
    original. `size` and `mtime_ns` tell a later run whether the file is still the same; −1 where it cannot be read.
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


@dataclass(frozen=True, eq=False)
class PackedImages:
    """The result of `ingest`: `images` is memory-mapped; `fingerprint` changes when a picture or the split does."""

    folder: Path
    images: UInt8[np.ndarray, "n size size 3"]
    entries: tuple[Entry, ...]
    fingerprint: str

    @property
    def kept(self) -> tuple[Entry, ...]:
        """The entries of the pictures, in the order of the array's rows."""
        return tuple(sorted((entry for entry in self.entries if entry.row >= 0), key=lambda entry: entry.row))

    @property
    def train_rows(self) -> Int64[np.ndarray, " train"]:
        """Rows of the training split."""
        return self._rows("train")

    @property
    def val_rows(self) -> Int64[np.ndarray, " val"]:
        """Rows of the validation split."""
        return self._rows("val")

    def counts(self) -> dict[str, int]:
        """How many files were set aside for each reason, the most frequent first."""
        return dict(Counter(entry.reason for entry in self.entries if entry.row < 0).most_common())

    def conversions(self) -> dict[str, int]:
        """How many of the kept pictures had to be converted, and how, the most frequent first."""
        notes = Counter(note for entry in self.kept for note in entry.notes.split("; ") if note)
        return dict(notes.most_common())

    def _rows(self, split: str) -> np.ndarray:
        return np.array([entry.row for entry in self.kept if entry.split == split], dtype=np.int64)


def load_packed(out: Path) -> PackedImages:
    """Open what `ingest` has written to `out`.

    Raises:
        DataError: nothing complete is there; names the notebook to run first.
    """
    return read_packed(Path(out))[0]


def read_packed(out: Path) -> tuple[PackedImages, dict[str, Any]]:
    """The images and the settings that they were made with. Raises `DataError` as `load_packed` does."""
    try:
        meta = json.loads((out / "meta.json").read_text(encoding="utf-8"))
        if meta["version"] != _VERSION:
            raise DataError(f"{out}: prepared by another version; run the notebook 00_data_prep again")
        images = np.load(out / "images.npy", mmap_mode="r")
        packed = PackedImages(out, images, _read_manifest(out / "manifest.csv"), meta["fingerprint"])
        if len(packed.kept) != len(images):
            raise ValueError("array and manifest differ")
        return packed, meta["settings"]
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{out}: no prepared images; run the notebook 00_data_prep first") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(
            f"{out}: damaged ({' '.join(str(error).split())}); delete it and run the notebook 00_data_prep"
        ) from None


def write_packed(
    partial: Path, out: Path, images: Iterable[np.ndarray], entries: list[Entry], settings: dict[str, Any]
) -> None:
    """Write array, manifest and settings to the folder `partial`, then move them to `out`.

    Args:
        partial: on the same disk as `out`.
        images: pictures of the kept entries, uint8, in the order of their rows.
        entries: of all files.
        settings: what a later run compares its own with.
    """
    _write_array(
        partial / "images.npy", images, [sum(entry.row >= 0 for entry in entries), *[settings["image_size"]] * 2, 3]
    )
    _write_manifest(partial / "manifest.csv", entries)
    meta = {"version": _VERSION, "fingerprint": _fingerprint(entries, settings), "settings": settings}
    (partial / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
    (out / "meta.json").unlink(missing_ok=True)  # killed from here on: incomplete, never a mixture of old and new
    for name in ("images.npy", "manifest.csv", "meta.json"):
        (partial / name).replace(out / name)


def _write_array(path: Path, images: Iterable[np.ndarray], shape: list[int]) -> None:
    # Plain writes: through a memory map a full disk would be a crash instead of an error.
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)})
        for pixels in images:
            file.write(pixels.data)


def _write_manifest(path: Path, entries: list[Entry]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Entry)])
        writer.writeheader()
        writer.writerows(asdict(entry) for entry in entries)


def _read_manifest(path: Path) -> tuple[Entry, ...]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return tuple(_entry(line) for line in csv.DictReader(file))


def _entry(line: dict[str, Any]) -> Entry:
    numbers = {field.name: int(line[field.name]) for field in fields(Entry) if field.type is int}
    return Entry(**(line | numbers))


def _fingerprint(entries: list[Entry], settings: dict[str, Any]) -> str:
    content = sorted(f"{entry.sha256} {entry.split}" for entry in entries if entry.status == "kept")
    matters = [f"{key}={settings[key]}" for key in ("image_size", "square", "val_share", "seed")]
    return hashlib.sha256("\n".join(matters + content).encode()).hexdigest()[:16]
