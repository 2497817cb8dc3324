"""The images that the settings refer to: the user's own or the built-in ones, raw and packed."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vq_core.avatars.dataset import write_avatars
from vq_core.config import Config, data_dir
from vq_core.data.augment import to_float
from vq_core.data.ingest import ingest, packing_settings, raw_files
from vq_core.data.packed import PackedImages, load_packed
from vq_core.errors import DataError
from vq_core.files import owned

IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # only to recognise a misplaced one


def image_source(config: Config) -> str:
    """Which images `data.source` means, "raw" (one's own) or "avatars". Raises `DataError` if `raw` cannot be read."""
    raw, source = data_dir() / "raw", config.data.source
    if source == "avatars":
        return source
    if raw.is_symlink() and not raw.exists():
        raise DataError(f"{raw}: leads to {raw.readlink()}, which is not there; is its drive connected?")
    if raw.exists() and not (raw.is_dir() and os.access(raw, os.R_OK | os.X_OK)):
        raise DataError(f"{raw}: must be a folder of images that can be read")
    if source == "raw" or any(raw_files(raw)):
        return "raw"
    images = (path for path in data_dir().glob("*") if path.suffix.lower() in IMAGE_FILES)
    if not (data_dir() / "processed").exists() and any(images):
        raise DataError(f"{data_dir()}: has images of its own, but they belong into its folder raw")
    return "avatars"


def raw_dir(config: Config) -> Path:
    """The folder of original images: `data/raw`, or the one of the built-in avatars."""
    if image_source(config) == "raw":
        return data_dir() / "raw"
    return data_dir() / "avatars" / f"{config.data.avatars}-seed{config.seed}"


def processed_dir(config: Config) -> Path:
    """The folder of the packed images for these settings."""
    settings = sorted(packing_settings(config.data, config.seed).items())
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:6]
    return data_dir() / "processed" / f"{raw_dir(config).name}-{config.data.image_size}-{config.data.square}-{digest}"


def prepare_images(config: Config, progress: bool = True) -> PackedImages:
    """Draw avatars if there are no other images, then clean, split and pack, one process at a time. Idempotent."""
    source = image_source(config)
    with owned(data_dir() / ".locks" / "images", "preparing images", wait=True):
        if source == "avatars":
            write_avatars(raw_dir(config), config.data.avatars, config.seed, plant_faults=True, progress=progress)
        return ingest(raw_dir(config), processed_dir(config), config.data, config.seed, progress=progress)


def packed_images(config: Config) -> PackedImages:
    """The packed images for these settings. Raises `DataError`, naming the notebook to run, if there are none."""
    return load_packed(processed_dir(config))


def packed_with(fingerprint: str) -> PackedImages | None:
    """The packed images with this fingerprint, whatever settings they were made with; None if they are gone."""
    for meta in sorted((data_dir() / "processed").glob("*/meta.json")):
        with suppress(DataError):
            if (packed := load_packed(meta.parent)).fingerprint == fingerprint:
                return packed
    return None


def images_of(packed: PackedImages, rows: Int[np.ndarray, "b"] | list[int]) -> Float[Tensor, "b 3 h w"]:
    """The packed images at these rows, as floats in [−1, 1]."""
    return to_float(torch.from_numpy(packed.images[np.asarray(rows)]))
