"""The images that the settings refer to: the user's own or the built-in ones, raw and packed."""

import hashlib
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


def image_source(config: Config) -> str:
    """Which images to use, "raw" (the user's own) or "avatars" (built-in): `data.source` with "auto" resolved."""
    if config.data.source != "auto":
        return config.data.source
    return "raw" if any(raw_files(data_dir() / "raw")) else "avatars"


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
    """Draw the built-in avatars if there are no other images, then clean, split and pack. Idempotent."""
    if image_source(config) == "avatars":
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
