"""The built-in dataset as a folder of images, so that every notebook runs without a download."""

import csv
import io
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from tqdm.auto import tqdm

from vq_core.avatars.portrait import ATTRIBUTES, draw_attributes, draw_avatar
from vq_core.errors import ArgumentError, DataError

MIN_PER_WORKER = 50  # the fewest images per process that make starting it worthwhile


def write_avatars(folder: Path, count: int, seed: int, plant_faults: bool = False, progress: bool = True) -> Path:
    """Write `count` avatars as 00000.png, 00001.png, … with their attributes in attributes.csv, and return the folder.

    Only missing files are drawn, so an interrupted call can be repeated, and a complete folder is left unchanged. With
    `plant_faults`, a subfolder `faulty` is filled with damaged, duplicate and oddly encoded files for the chapter on
    cleaning.

    Raises:
        ArgumentError: count is below 1.
        DataError: the folder contains the avatars of another seed.
    """
    if count < 1:
        raise ArgumentError(f"count must be at least 1, got {count}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()
    _write_table(folder / "attributes.csv", count, seed)
    missing = [index for index in range(count) if not (folder / _name(index)).is_file()]
    _draw_missing(folder, missing, seed, progress)
    if plant_faults:
        _plant_faults(folder, count, seed)
    return folder


def read_attributes(folder: Path, files: Iterable[str]) -> dict[str, list[str]]:
    """The recorded values of each attribute for these files of a folder of avatars; "" for an unlisted file.

    Raises:
        DataError: the images are not the built-in avatars.
    """
    table, files = folder / "attributes.csv", list(files)
    if not table.is_file():
        raise DataError(f"{table}: attributes are known only for the built-in avatars (data.source=avatars)")
    with table.open(newline="", encoding="utf-8") as file:
        known = {row["file"]: row for row in csv.DictReader(file)}
    return {name: [known.get(file, {}).get(name, "") for file in files] for name in ATTRIBUTES}


def _name(index: int) -> str:
    return f"{index:05d}.png"


def _draw_missing(folder: Path, missing: list[int], seed: int, progress: bool) -> None:
    """Draw the missing images, in several processes if there are enough of them to make that worthwhile."""
    workers = min(os.cpu_count() or 1, len(missing) // MIN_PER_WORKER)
    work = partial(_write_one, folder, seed)
    bar = tqdm(total=len(missing), desc="avatars", disable=not (progress and missing))
    with bar:
        if workers < 2:
            for index in missing:
                work(index)
                bar.update()
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            try:
                for _ in pool.map(work, missing, chunksize=16):
                    bar.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _write_one(folder: Path, seed: int, index: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(draw_avatar(seed, index).image).save(buffer, "PNG", compress_level=1)
    _write_bytes(folder / _name(index), buffer.getvalue())


def _write_bytes(path: Path, content: bytes) -> None:
    """Write under a temporary name first, so that a half-written file never has the final name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_table(path: Path, count: int, seed: int) -> None:
    """Write the attributes of every image, unless the table already has at least that many rows."""
    lines = path.read_text().splitlines() if path.is_file() else []
    if len(lines) > 1 and lines[:2] != _table(1, seed):
        raise DataError(f"{path.parent} contains the avatars of another seed or version; use another folder")
    if len(lines) <= count:
        _write_bytes(path, "".join(line + "\n" for line in _table(count, seed)).encode())


def _table(count: int, seed: int) -> list[str]:
    """Lines of the table: column names, then one line per image."""
    lines = [",".join(["file", *ATTRIBUTES])]
    for index in range(count):
        attributes = draw_attributes(np.random.default_rng([seed, index]))
        lines.append(",".join([_name(index), *attributes.values()]))
    return lines


def _plant_faults(folder: Path, count: int, seed: int) -> None:
    """Fill the subfolder `faulty`, leaving existing files unchanged."""
    (folder / "faulty").mkdir(exist_ok=True)
    for name, make in FAULTS.items():
        path = folder / "faulty" / name
        if not path.is_file():
            _write_bytes(path, make(folder, count, seed))


def _encoded(image: Image.Image, kind: str = "PNG", quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return buffer.getvalue()


def _source(folder: Path, count: int, number: int) -> bytes:
    """Bytes of one of eight good images spread over the folder."""
    return (folder / _name(number * count // 8 % count)).read_bytes()


def _copy(number: int) -> Callable[[Path, int, int], bytes]:
    return lambda folder, count, seed: _source(folder, count, number)


def _recoded(number: int, change: Callable[[Image.Image], Image.Image], kind: str) -> Callable[[Path, int, int], bytes]:
    """A near-duplicate: one of the good images, slightly changed."""

    def make(folder: Path, count: int, seed: int) -> bytes:
        with Image.open(io.BytesIO(_source(folder, count, number))) as image:
            return _encoded(change(image.convert("RGB")), kind, quality=70)

    return make


def _fresh(number: int, convert: Callable[[Image.Image], Image.Image], kind: str) -> Callable[[Path, int, int], bytes]:
    """A good image that occurs nowhere else, in an unusual encoding."""
    return lambda folder, count, seed: _encoded(
        convert(Image.fromarray(draw_avatar(seed, count + number).image)), kind, quality=95
    )


def _cut_out(image: Image.Image) -> Image.Image:
    """The image in a palette of 255 colours, with a transparent border."""
    palette = image.quantize(255)
    border = Image.new("P", palette.size, 255)
    border.putpalette([*(palette.getpalette() or [])[: 3 * 255], 0, 0, 0])
    border.paste(palette.crop((4, 4, palette.width - 4, palette.height - 4)), (4, 4))
    border.info["transparency"] = 255
    return border


FAULTS: dict[str, Callable[[Path, int, int], bytes]] = {
    "copy_a.png": _copy(1),
    "copy_b.png": _copy(5),
    "near_jpeg.jpg": _recoded(2, lambda image: image, "JPEG"),
    "near_bright.png": _recoded(3, lambda image: ImageEnhance.Brightness(image).enhance(1.06), "PNG"),
    "near_resized.png": _recoded(4, lambda image: image.resize((240, 240)).resize((256, 256)), "PNG"),
    "truncated.png": lambda folder, count, seed: _source(folder, count, 6)[:9000],
    "text.png": lambda folder, count, seed: b"This is a text, not an image.\n",
    "empty.png": lambda folder, count, seed: b"",
    "tiny.png": _fresh(0, lambda image: image.resize((40, 40)), "PNG"),
    "cmyk.jpg": _fresh(1, lambda image: image.convert("CMYK"), "JPEG"),
    "palette.png": _fresh(2, _cut_out, "PNG"),
}
