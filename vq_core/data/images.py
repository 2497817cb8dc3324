"""The images that the settings mean: the user's own or the built-in ones, raw and packed."""

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
    """ "raw" for one's own images, "avatars" for the built-in ones: what `data.source` comes to on this disk."""
    if config.data.source != "auto":
        return config.data.source
    return "raw" if any(raw_files(data_dir() / "raw")) else "avatars"


def raw_dir(config: Config) -> Path:
    """The folder of original images: `data/raw`, or that of the built-in avatars."""
    if image_source(config) == "raw":
        return data_dir() / "raw"
    return data_dir() / "avatars" / f"{config.data.avatars}-seed{config.seed}"


def processed_dir(config: Config) -> Path:
    """The folder of the packed images at this configuration's size."""
    source = "raw" if image_source(config) == "raw" else raw_dir(config).name
    settings = sorted(packing_settings(config.data, config.seed).items())
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:6]
    return data_dir() / "processed" / f"{source}-{config.data.image_size}-{config.data.square}-{digest}"


def prepare_images(config: Config, progress: bool = True) -> PackedImages:
    """Draw the built-in avatars where there are no images of one's own, then clean, split and pack. Idempotent."""
    if image_source(config) == "avatars":
        write_avatars(raw_dir(config), config.data.avatars, config.seed, plant_faults=True, progress=progress)
    return ingest(raw_dir(config), processed_dir(config), config.data, config.seed, progress=progress)


def packed_images(config: Config) -> PackedImages:
    """The packed images of these settings. Raises `DataError`, naming the notebook to run, where there are none."""
    return load_packed(processed_dir(config))


def packed_with(fingerprint: str) -> PackedImages | None:
    """The packed images with a fingerprint, whatever settings they were made with; None where they are gone."""
    for meta in sorted((data_dir() / "processed").glob("*/meta.json")):
        with suppress(DataError):
            packed = load_packed(meta.parent)
            if packed.fingerprint == fingerprint:
                return packed
    return None


def images_of(packed: PackedImages, rows: Int[np.ndarray, "b"] | list[int]) -> Float[Tensor, "b 3 h w"]:
    """Packed images of some rows as floats in [−1, 1]."""
    return to_float(torch.from_numpy(packed.images[np.asarray(rows)]))
