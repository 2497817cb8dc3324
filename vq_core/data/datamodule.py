"""Batches for Lightning: row numbers are loaded; the data behind them is looked up and augmented on the device."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_convert

from vq_core.config import Config
from vq_core.data.augment import augment, to_float
from vq_core.data.batches import BatchOrder, Position, Purpose, index_loader
from vq_core.data.packed import PackedImages
from vq_core.errors import DataError


class RowsDataModule(L.LightningDataModule):
    """Batches of row numbers [b], shuffled for training; a subclass looks up the data behind them.

    Batch order and augmentation depend on the position alone, which is read again for every stretch and every batch.
    Each of Lightning's "epochs" is a stretch: the steps up to the next validation. Raises `DataError`, which names the
    batch-size setting `key`, if the split does not fill a training batch or leaves a process nothing to validate.
    """

    trainer: L.Trainer

    def __init__(
        self, config: Config, position: Position, key: str, batch_size: int, train_rows: Tensor, val_rows: Tensor
    ) -> None:
        super().__init__()
        self.config, self.position, self.batch_size = config, position, batch_size
        self.train_rows, self.val_rows = train_rows, val_rows
        self.reading: dict[str, Any] = {}  # what `index_loader` reads, and how, in place of its defaults
        train, val, processes = len(train_rows), len(val_rows), config.train.processes
        if train < batch_size:
            raise DataError(f"{train} training images are fewer than {key}={batch_size}; lower it or add images")
        if val < processes:
            few = f"{val} validation images are too few for {processes} processes (train.devices · train.num_nodes)"
            raise DataError(f"{few}; raise data.val_share or add images")

    def train_dataloader(self) -> DataLoader[int]:
        """Batches from the position up to the next validation or the end."""
        size = self.batch_size // self.position.accumulate
        order = BatchOrder(self.train_rows, size, self.position.seed, *self.position.stretch, *self.shard)
        return index_loader(order, **self.reading)

    def val_dataloader(self) -> DataLoader[int]:
        """Batches in order; with several processes, each takes its part."""
        rank, world = self.shard
        batches = [part.tolist() for part in self.val_rows[rank::world].split(self.batch_size)]
        return index_loader(batches, **self.reading)

    @property
    def shard(self) -> tuple[int, int]:
        """(Rank of this process, number of processes that share each batch)."""
        return self.trainer.global_rank, self.trainer.world_size


class AnimeDataModule(RowsDataModule):
    """Training and validation batches of images [b, 3, h, w] in [−1, 1].

    All pixels are kept on the GPU as bytes (10,000 of 256×256: 2 GB), so no worker processes are needed; on the CPU
    they are read from the memory-mapped file, through the page cache. If they need a quarter of the GPU's memory or
    more, two workers read them from the file, ahead of the training and into pinned memory.
    """

    def __init__(self, config: Config, packed: PackedImages, position: Position) -> None:
        train, val = torch.from_numpy(packed.train_rows), torch.from_numpy(packed.val_rows[: config.train.val_images])
        super().__init__(config, position, "train.batch_size", config.train.batch_size, train, val)
        self.packed = packed
        self._pixels: Tensor | None = None

    def setup(self, stage: str) -> None:
        device, images = self.trainer.strategy.root_device, self.packed.images
        if device.type == "cuda" and images.nbytes >= 0.25 * torch.cuda.mem_get_info(device)[1]:
            self.stream()
        elif device.type == "cuda":
            self._pixels = torch.from_numpy(np.array(images)).to(device)

    def teardown(self, stage: str) -> None:
        self._pixels = None

    def stream(self) -> None:
        """Have worker processes read the pixels."""
        self.reading = {"data": _Pixels(self.packed.folder / "images.npy"), "collate_fn": default_convert}
        self.reading |= {"num_workers": 2, "prefetch_factor": 4, "pin_memory": torch.cuda.is_available()}

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Float[Tensor, "b 3 h w"]:
        if self._pixels is not None:
            batch = self._pixels[batch]
        elif batch.dtype != torch.uint8:
            batch = torch.from_numpy(self.packed.images[batch.cpu().numpy()]).to(batch.device)
        x = to_float(batch)
        if not self.trainer.training:
            return x
        return augment(x, self.config.data, self.position.generator(Purpose.AUGMENT), self.shard)


class _Pixels(Dataset[Tensor]):
    """Pictures read from the packed file by a worker process, a batch at a time."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __getitems__(self, rows: list[int]) -> Tensor:
        return torch.from_numpy(np.load(self.file, mmap_mode="r")[rows])


class CodesDataModule(RowsDataModule):
    """Training and validation batches of code sequences [b, n], from codes extracted once.

    Codes are those of `prior.views` versions of every image, [views, N, h, w]. Training takes the second of two, the
    mirror image, with probability `data.flip`, and any of more with equal probability; validation takes the first.
    """

    def __init__(
        self, config: Config, codes: Int[Tensor, "views count h w"], packed: PackedImages, position: Position
    ) -> None:
        train, val = torch.from_numpy(packed.train_rows), torch.from_numpy(packed.val_rows)
        super().__init__(config, position, "prior.batch_size", config.prior.batch_size, train, val)
        self.codes = codes.flatten(2)

    def setup(self, stage: str) -> None:
        device = self.trainer.strategy.root_device
        if device.type == "cuda" and self.codes.nbytes < 0.25 * torch.cuda.mem_get_info(device)[1]:
            self.codes = self.codes.to(device)

    def on_after_batch_transfer(self, batch: Int64[Tensor, "b"], dataloader_idx: int) -> Int64[Tensor, "b n"]:
        view, views = torch.zeros(len(batch), dtype=torch.long), len(self.codes)
        if self.trainer.training:
            rank, world = self.shard
            draw = torch.rand(len(batch) * world, generator=self.position.generator(Purpose.AUGMENT))[rank::world]
            view = (draw < self.config.data.flip).long() if views == 2 else (draw * views).long()
        there = self.codes.device
        return self.codes[view.to(there, non_blocking=True), batch.to(there)].long().to(batch.device)
