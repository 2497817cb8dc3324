"""The position of a training run, and what follows from it alone: the order of batches and their random numbers.

All of it is a pure function of the seed and the position, so a run can be resumed anywhere.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler


class Purpose(IntEnum):
    """What a batch's random numbers are used for; each purpose has its own stream.

    Every result depends on these values, so they never change. With codes, `MASKS` replaces the discriminator's.
    """

    AUGMENT = 0  # flips and colours of images; for codes, whether they are those of the mirror image
    DISCRIMINATOR_REAL = 1  # the discriminator's view of real images, and of reconstructions in the generator's turn
    DISCRIMINATOR_FAKE = 2  # its view of reconstructions in its own turn
    MASKS = 1  # the orders in which the masked prior has to fill in codes


@dataclass
class Position:
    """How far a training run has come; updated during training and read by the DataModule.

    A *step* is one update of the model, a *batch* one of the `accumulate` parts of its effective batch.
    """

    seed: int
    total_steps: int
    val_every: int  # steps between validations
    accumulate: int = 1
    steps_done: int = 0
    batches: int = 0  # finished in the current step

    def next_batch(self) -> bool:
        """Count a finished batch; returns whether the effective batch, and so a step's gradient, is complete."""
        self.batches = (self.batches + 1) % self.accumulate
        return self.batches == 0

    @property
    def between_steps(self) -> bool:
        """Whether no step is half done; the state can be saved only then."""
        return self.batches == 0

    @property
    def validation_due(self) -> bool:
        """Whether a validation follows the last step; the state can be saved only after that validation."""
        return self.steps_done % self.val_every == 0 or self.steps_done >= self.total_steps

    @property
    def stretch(self) -> tuple[int, int]:
        """Batch numbers [first, stop) from here up to the next validation."""
        stop = min(self.total_steps, (self.steps_done // self.val_every + 1) * self.val_every)
        return self.steps_done * self.accumulate, stop * self.accumulate

    def generator(self, purpose: Purpose) -> torch.Generator:
        """The current batch's random numbers for a purpose; from the CPU, so that a GPU gets the same batches."""
        batches_done = self.steps_done * self.accumulate + self.batches
        return torch.Generator().manual_seed((self.seed * 1_000_003 + batches_done) * 64 + purpose)


class BatchOrder(Sampler[list[int]]):
    """Batches number `first` … `last` − 1 of an endless shuffled stream of `rows`.

    The stream is a sequence of random permutations, one per epoch (from seed and epoch), cut into batches of equal size
    regardless of where epochs end. With several processes, each takes an equal part of every batch.
    """

    def __init__(
        self, rows: torch.Tensor, batch_size: int, seed: int, first: int, last: int, rank: int = 0, world: int = 1
    ) -> None:
        self.rows, self.batch_size, self.seed, self.first, self.last = rows, batch_size, seed, first, last
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        order, count = lru_cache(1)(self._order), len(self.rows)  # one is enough: epochs come one after the other
        for number in range(self.first, self.last):
            where = range(number * self.batch_size, (number + 1) * self.batch_size)[self.rank :: self.world]
            yield [int(order(place // count)[place % count]) for place in where]

    def _order(self, epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return self.rows[torch.randperm(len(self.rows), generator=generator)]


def index_loader(batches: Sampler[list[int]] | list[list[int]], data: Any = range(sys.maxsize), **how: Any) -> Any:
    """A loader of what `data` holds at the indices; by default of themselves: the data is looked up on the device."""
    # Without its own generator the loader's iterator would draw from the global one and change dropout.
    return DataLoader(data, batch_sampler=batches, generator=torch.Generator(), **how)
