"""The order of training batches: a pure function of seed and position, so that a run can go on anywhere."""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler


class BatchOrder(Sampler[list[int]]):
    """Index batches number `first` … `last` − 1 of an endless shuffled stream over `rows`.

    The stream is one random permutation of the rows after another (each by seed and epoch), cut into batches of one
    size wherever an epoch may end. Of several processes, number `rank` takes its equal share of every batch.
    """

    def __init__(
        self, rows: torch.Tensor, batch_size: int, seed: int, first: int, last: int, rank: int = 0, world: int = 1
    ) -> None:
        self.rows, self.batch_size, self.seed, self.first, self.last = rows, batch_size, seed, first, last
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        orders: dict[int, torch.Tensor] = {}
        for number in range(self.first, self.last):
            where = torch.arange(number * self.batch_size, (number + 1) * self.batch_size)[self.rank :: self.world]
            epochs = where // len(self.rows)
            orders = {e: orders[e] if e in orders else self._order(e) for e in epochs.unique().tolist()}
            yield [int(orders[e][i]) for e, i in zip(epochs.tolist(), (where % len(self.rows)).tolist(), strict=True)]

    def _order(self, epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return self.rows[torch.randperm(len(self.rows), generator=generator)]


def index_loader(batches: Sampler[list[int]] | list[list[int]]) -> DataLoader[int]:
    """A loader of long index tensors; the data itself is looked up on the device."""
    itself: Any = range(sys.maxsize)  # as a data set: at each index stands the index
    # A generator of its own: a loader's iterator would else draw from the global one, which dropout needs undisturbed.
    return DataLoader(itself, batch_sampler=batches, generator=torch.Generator())
