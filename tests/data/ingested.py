"""Pictures to be ingested, and what tells how it went."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vq_core.data.ingest import ingest
from vq_core.data.packed import PackedImages
from vq_core.settings import DataConfig

SIZE = 64


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


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    return Image.open(buffer)
