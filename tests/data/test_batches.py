"""The order of training batches as a function of seed and position."""

from itertools import chain
from typing import Any

import pytest
import torch

from vq_core.data.batches import BatchOrder, Position, Purpose, index_loader

ROWS = torch.arange(100, 137)  # 37 rows, which no batch size below divides


def stream(first: int, last: int, **options: Any) -> list[list[int]]:
    order = BatchOrder(**({"rows": ROWS, "batch_size": 8, "seed": 0, "first": first, "last": last} | options))
    batches = list(order)
    assert len(batches) == len(order) == last - first
    return batches


@pytest.mark.parametrize("batch_size", [1, 8, 36, 37, 50, 100])
def test_every_epoch_is_a_permutation(batch_size: int) -> None:
    flat = list(chain.from_iterable(stream(0, 3 * 37, batch_size=batch_size)))[: 3 * 37]
    epochs = [flat[start : start + 37] for start in (0, 37, 74)]
    assert all(sorted(epoch) == ROWS.tolist() for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != ROWS.tolist()


@pytest.mark.parametrize("start", [1, 4, 5, 9, 10, 19])
def test_going_on_anywhere_gives_the_same_batches(start: int) -> None:
    whole = stream(0, 20)
    assert stream(0, start) + stream(start, 20) == whole
    assert stream(start, start) == []


def test_two_processes_together_are_one() -> None:
    whole, halves = stream(3, 15), [stream(3, 15, rank=rank, world=2) for rank in (0, 1)]
    for batch, one, other in zip(whole, *halves, strict=True):
        assert len(one) == len(other) == 4 and sorted(one + other) == sorted(batch)


def test_half_batches_are_the_whole_ones_cut_in_two() -> None:
    halves = stream(0, 20, batch_size=4)
    assert [a + b for a, b in zip(halves[::2], halves[1::2], strict=True)] == stream(0, 10)


def test_the_seed_decides() -> None:
    assert stream(0, 5, seed=1) == stream(0, 5, seed=1) != stream(0, 5, seed=2)


def test_the_order_neither_needs_nor_moves_the_global_generator() -> None:
    torch.manual_seed(1)
    state, one = torch.get_rng_state(), stream(0, 9)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert stream(0, 9) == one


def test_a_loader_hands_on_the_rows() -> None:
    batches = [batch.tolist() for batch in index_loader(BatchOrder(ROWS, 8, 0, 2, 6))]
    assert batches == stream(2, 6)


def test_random_numbers_follow_the_batches_and_never_change() -> None:
    """The numbers of 6d1eaf3: with others every result would be another."""
    position = Position(seed=3, total_steps=10, val_every=4, accumulate=2, steps_done=5)
    seeds = {purpose.name: position.generator(purpose).initial_seed() for purpose in Purpose}
    first = (3 * 1_000_003 + 10) * 64
    assert seeds == {"AUGMENT": first, "DISCRIMINATOR_REAL": first + 1, "DISCRIMINATOR_FAKE": first + 2}
    assert position.generator(Purpose.MASKS).initial_seed() == first + 1
    assert not position.next_batch() and not position.between_steps
    assert position.generator(Purpose.AUGMENT).initial_seed() == first + 64
    assert position.next_batch() and position.between_steps


def test_stretches_end_at_validations_and_at_the_end() -> None:
    position, ends = Position(seed=0, total_steps=10, val_every=4, accumulate=2), []
    while position.steps_done < 10:
        first, stop = position.stretch
        assert first == 2 * position.steps_done
        position.steps_done = stop // 2
        ends.append((stop // 2, position.validation_due))
    assert ends == [(4, True), (8, True), (10, True)]
