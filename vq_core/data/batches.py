"""Where a training stands, and what follows from it alone: the order of its batches and their random numbers.

All of it is a pure function of the seed and the position, so that a run can go on anywhere.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler


class Purpose(IntEnum):
    """What a batch's random numbers are for; each purpose has a stream of its own.

    The numbers are part of every result: they never change. A training uses either those of images or `MASKS`.
    """

    AUGMENT = 0  # flips and colours of images; which codes are those of the mirror image
    DISCRIMINATOR_REAL = 1  # what the discriminator sees of real images; of reconstructions in the generator's turn
    DISCRIMINATOR_FAKE = 2  # what it sees of reconstructions in its own turn
    MASKS = 1  # which codes the masked prior has to fill in


@dataclass
class Position:
    """Where a training stands. The training moves it on; the DataModule reads it.

    A *step* is one update of the model, a *batch* one of the `accumulate` parts of its effective batch.
    """

    seed: int
    total_steps: int
    val_every: int  # steps between validations
    accumulate: int = 1
    steps_done: int = 0
    batches: int = 0  # done of the step under way

    def next_batch(self) -> bool:
        """One more batch is done; whether the effective batch, and with it the gradient of a step, is complete."""
        self.batches = (self.batches + 1) % self.accumulate
        return self.batches == 0

    @property
    def between_steps(self) -> bool:
        """Whether no batch of an unfinished step is under way: only then can the state be saved."""
        return self.batches == 0

    @property
    def validation_due(self) -> bool:
        """Whether validation follows the step just done, and belongs to it: only after it can the state be saved."""
        return self.steps_done % self.val_every == 0 or self.steps_done >= self.total_steps

    @property
    def stretch(self) -> tuple[int, int]:
        """Numbers of the batches from here up to, not including, that after the next validation."""
        stop = min(self.total_steps, (self.steps_done // self.val_every + 1) * self.val_every)
        return self.steps_done * self.accumulate, stop * self.accumulate

    def seed_for(self, purpose: Purpose) -> int:
        """Seed of the random numbers of the batch under way: of the run's seed, the batches before it, and purpose."""
        batches_done = self.steps_done * self.accumulate + self.batches
        return (self.seed * 1_000_003 + batches_done) * 64 + purpose

    def generator(self, purpose: Purpose) -> torch.Generator:
        """A generator of those random numbers, on the CPU, so that a GPU's batches are those of the CPU."""
        return torch.Generator().manual_seed(self.seed_for(purpose))


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
