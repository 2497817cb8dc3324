"""The prior's transformer: nothing looks ahead, the cache changes nothing, it learns."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vq_core.models import CodeTransformer

K, GRID = 11, 4
LENGTH = GRID * GRID


def model(
    seed: int = 0, layers: int = 2, grid: int = GRID, dropout: float = 0.0, spread: bool = True, causal: bool = True
) -> CodeTransformer:
    torch.manual_seed(seed)
    made = CodeTransformer(K, grid, 16, layers, 2, dropout, causal, code_dim=4).eval()
    if spread:  # larger weights than a fresh model's, so that every dependence shows
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.5)
    return made


def codes(batch: int = 3, grid: int = GRID) -> Tensor:
    return torch.randint(K, (batch, grid * grid), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("position", range(LENGTH))
@torch.no_grad()
def test_a_code_changes_only_what_comes_after_it(position: int) -> None:
    net, before = model(), codes()
    after = before.clone()
    after[:, position] = (after[:, position] + 1) % K
    changed = (net(before) - net(after)).abs().amax((0, 2)) > 1e-6
    assert not changed[: position + 1].any() and changed[position + 1 :].all()


@torch.no_grad()
def test_masked_every_known_code_counts_everywhere_and_an_unknown_one_nowhere() -> None:
    net, full = model(causal=False), codes()
    known = full.clone()
    known[:, 6] = net.unknown
    for position in range(LENGTH):
        after = known.clone()
        if position != 6:
            after[:, position] = (after[:, position] + 1) % K
        changed = (net(known) - net(after)).abs().amax((0, 2)) > 1e-6
        assert changed.all() if position != 6 else not changed.any()
    assert not torch.equal(net(known), net(full))


@pytest.mark.slow
def test_masked_it_learns_to_fill_in_what_stripes_imply() -> None:
    torch.manual_seed(0)
    net = CodeTransformer(K, GRID, 32, 2, 2, 0.0, causal=False, code_dim=16)
    optimizer = torch.optim.Adam(net.parameters(), 0.003)
    for _ in range(900):
        grids = torch.randint(K, (64, GRID, 1)).expand(-1, -1, GRID).reshape(64, -1)  # each row of one code
        hidden = torch.rand(64, LENGTH) < 0.75
        loss = F.cross_entropy(net(grids.masked_fill(hidden, net.unknown))[hidden], grids[hidden])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    grid = torch.arange(GRID).view(GRID, 1).repeat(1, GRID).view(1, -1)
    asked = grid.masked_fill(torch.arange(LENGTH) % GRID != 3, net.unknown)  # the last of each row is known
    hidden = asked == net.unknown
    with torch.no_grad():
        assert torch.equal(net(asked).argmax(-1)[hidden], grid[hidden])


@torch.no_grad()
def test_without_attention_a_position_sees_its_known_neighbours() -> None:
    net, before = model(layers=1), codes(1)
    net.blocks = nn.ModuleList()
    for row in range(GRID):
        for column in range(GRID):
            before_it = divmod(row * GRID + column - 1, GRID)  # at the start of a row: the end of the row above
            above = {(row - 1, column + step) for step in (-1, 0, 1)} | {(row - 2, column)}
            known = {before_it, *above, (row, column - 2)}
            seen = set()
            for position in range(LENGTH):
                after = before.clone()
                after[0, position] = (after[0, position] + 1) % K
                if not torch.equal(net(before)[0, row * GRID + column], net(after)[0, row * GRID + column]):
                    seen.add(divmod(position, GRID))
            assert seen == {(r, c) for r, c in known if 0 <= r < GRID and 0 <= c < GRID}


@torch.no_grad()
def test_one_more_code_than_known_is_never_looked_at() -> None:
    net, grid = model(), codes()
    for known in range(LENGTH):
        torch.testing.assert_close(net(grid[:, : known + 1])[:, known], net(grid)[:, known], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunks", [[1] * LENGTH, [LENGTH], [5, 1, 1, 6, 3], [1, LENGTH - 1]], ids=str)
@torch.no_grad()
def test_the_cache_changes_no_logit(chunks: list[int]) -> None:
    net, grid = model(), codes()
    cache, parts, start = net.cache(len(grid)), [], 0
    for size in chunks:
        parts.append(net(grid[:, : start + size], cache, start))
        start += size
    torch.testing.assert_close(torch.cat(parts, dim=1), net(grid), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_position_matters() -> None:
    logits = model()(torch.zeros(1, LENGTH, dtype=torch.long))[0]
    assert torch.pdist(logits).min() > 1e-3


def bits(net: CodeTransformer, grid: Tensor) -> Tensor:
    return F.cross_entropy(net(grid).flatten(0, 1), grid.flatten()) / math.log(2)


@torch.no_grad()
def test_a_fresh_model_guesses() -> None:
    assert float(bits(model(spread=False), codes(16))) == pytest.approx(math.log2(K), abs=0.05)


@pytest.mark.slow
def test_it_learns_a_few_grids_by_heart() -> None:
    net, grids = model(spread=False).train(), codes(4)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        bits(net, grids).backward()
        optimizer.step()
    # The first code of four grids cannot be known: at most 2 bits of one token in 16.
    assert float(bits(net, grids).detach()) < 2 / LENGTH + 0.1


@torch.no_grad()
def test_dropout_is_for_training_only() -> None:
    net, grid = model(dropout=0.5), codes()
    assert torch.equal(net(grid), net(grid))
    net.train()
    assert not torch.equal(net(grid), net(grid))


@torch.no_grad()
def test_a_grid_of_one_code() -> None:
    assert model(grid=1)(torch.zeros(2, 1, dtype=torch.long)).shape == (2, 1, K)
