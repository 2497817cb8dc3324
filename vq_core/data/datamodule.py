"""Batches of avatars for Lightning: indices are loaded, pixels looked up, normalised and augmented on the device."""

import hashlib
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.utils.data import DataLoader

from vq_core.config import Config, data_dir
from vq_core.data.augment import augment, to_float
from vq_core.data.avatars import write_avatars
from vq_core.data.batches import BatchOrder, index_loader
from vq_core.data.ingest import DataError, PackedImages, ingest, load_packed, packing_settings, raw_files

Images = Float[Tensor, "b 3 h w"]


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


def load_images(config: Config) -> PackedImages:
    """The packed images. Raises `DataError`, naming the notebook to run, where there are none."""
    return load_packed(processed_dir(config))


def images_of(packed: PackedImages, rows: Int[np.ndarray, "b"] | list[int]) -> Float[Tensor, "b 3 h w"]:
    """Packed images of some rows as floats in [−1, 1]."""
    return to_float(torch.from_numpy(packed.images[np.asarray(rows)]))


class RowsDataModule(L.LightningDataModule):
    """Batches of row numbers [b], training ones in a random order, for a sub-class to look up what stands there.

    Batch order and augmentation are functions of seed and step alone. Each Lightning "epoch" is the stretch of steps up
    to the next validation.

    Args:
        key: of the setting `batch_size`, for the message.

    Raises:
        DataError: the split does not fill a training batch, or leaves a process nothing to validate.
    """

    def __init__(self, config: Config, key: str, batch_size: int, train_rows: Tensor, val_rows: Tensor) -> None:
        super().__init__()
        self.config, self.batch_size, self.train_rows, self.val_rows = config, batch_size, train_rows, val_rows
        train, val, devices = len(train_rows), len(val_rows), config.train.devices
        if train < batch_size:
            raise DataError(
                f"{train} training images are fewer than {key}={batch_size}; set a smaller one, or add images"
            )
        if val < devices:
            raise DataError(
                f"{val} validation images are too few for train.devices={devices}; "
                "set a larger data.val_share, or add images"
            )

    def train_dataloader(self) -> DataLoader[int]:
        """From where the module stands up to the next validation or the end."""
        trainer, module = self._fitting()
        stop = min(module.total_steps, (module.steps_done // module.val_every + 1) * module.val_every)
        batches = BatchOrder(
            self.train_rows,
            self.batch_size // module.accumulate,
            self.config.seed,
            module.steps_done * module.accumulate,
            stop * module.accumulate,
            trainer.global_rank,
            trainer.world_size,
        )
        return index_loader(batches)

    def val_dataloader(self) -> DataLoader[int]:
        """In order; of several processes each takes its share."""
        trainer, _ = self._fitting()
        rows = self.val_rows[trainer.global_rank :: trainer.world_size]
        return index_loader([part.tolist() for part in rows.split(self.batch_size)])

    def _fitting(self) -> tuple[Any, Any]:
        """Trainer and module."""
        assert self.trainer is not None
        return self.trainer, self.trainer.lightning_module


class AnimeDataModule(RowsDataModule):
    """Training and validation batches of images [b, 3, h, w] in [−1, 1].

    On a GPU all pixels lie in its memory as bytes (10,000 of 256×256: 2 GB), so there are no worker processes; on the
    CPU they are read from the memory-mapped file.
    """

    def __init__(self, config: Config, packed: PackedImages) -> None:
        train, val = torch.from_numpy(packed.train_rows), torch.from_numpy(packed.val_rows)
        super().__init__(config, "train.batch_size", config.train.batch_size, train, val[: config.train.val_images])
        self.packed = packed
        self._pixels: Tensor | np.ndarray = packed.images

    def setup(self, stage: str) -> None:
        device = self.trainer.strategy.root_device  # type: ignore[union-attr]
        if device.type == "cuda" and self.packed.images.nbytes < 0.25 * torch.cuda.mem_get_info(device)[1]:
            self._pixels = torch.from_numpy(np.array(self.packed.images)).to(device)

    def teardown(self, stage: str) -> None:
        self._pixels = self.packed.images

    def on_after_batch_transfer(self, batch: Int64[Tensor, "b"], dataloader_idx: int) -> Images:
        x = to_float(self._look_up(batch))
        trainer, module = self._fitting()
        if not trainer.training:
            return x
        generator = torch.Generator().manual_seed(module.batch_seed(0))
        return augment(x, self.config.data, generator, (trainer.global_rank, trainer.world_size))

    def _look_up(self, rows: Int64[Tensor, "b"]) -> Tensor:
        if isinstance(self._pixels, Tensor):
            return self._pixels[rows]
        return torch.from_numpy(self._pixels[rows.cpu().numpy()]).to(rows.device)
