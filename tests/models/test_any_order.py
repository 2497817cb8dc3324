"""The prior for edits: in any order nothing looks ahead, the cache changes nothing, and it begins as the causal one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vq_core.models import AnyOrderTransformer, CodeTransformer
from vq_core.models.transformer import _causal_attention, around, halton_order

K, GRID = 11, 4
LENGTH = GRID * GRID
SIZE = {"num_codes": K, "grid": GRID, "dim": 16, "layers": 2, "heads": 2, "dropout": 0.0, "code_dim": 4}


def spread(net: nn.Module) -> None:
    """Larger weights than a fresh model's, so that every dependence shows."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)


def model(neighbours: int = 5) -> AnyOrderTransformer:
    torch.manual_seed(0)
    made = AnyOrderTransformer(**SIZE, neighbours=neighbours).eval()
    spread(made)
    return made


def grids(batch: int = 3) -> tuple[Tensor, Tensor]:
    """Codes, and an order for each."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(K, (batch, LENGTH), generator=generator), torch.rand(
        batch, LENGTH, generator=generator
    ).argsort(1)


@pytest.mark.parametrize("step", range(LENGTH))
@torch.no_grad()
def test_a_code_changes_only_what_comes_after_it_in_the_order(step: int) -> None:
    net, (before, order) = model(), grids()
    after = before.scatter(1, order[:, step : step + 1], (before.gather(1, order[:, step : step + 1]) + 1) % K)
    changed = (net(before, order) - net(after, order)).abs().amax((0, 2)) > 1e-6
    assert not changed[: step + 1].any() and changed[step + 1 :].all()


@pytest.mark.parametrize("sizes", [[1] * LENGTH, [LENGTH], [5, 1, 1, 6, 3], [1, LENGTH - 1]], ids=str)
@torch.no_grad()
def test_the_cache_changes_no_logit(sizes: list[int]) -> None:
    net, (codes, order) = model(13), grids()
    cache, parts, start = net.cache(len(codes)), [], 0
    for size in sizes:
        parts.append(net(codes, order, cache, start, start + size))
        start += size
    torch.testing.assert_close(torch.cat(parts, dim=1), net(codes, order), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_with_a_causal_priors_weights_it_begins_as_that_in_raster_order() -> None:
    torch.manual_seed(0)
    causal = CodeTransformer(**SIZE).eval()
    spread(causal)
    causal.from_looks[0].weight[:, :4] = 0  # of the code before: at the start of a row, only the causal one sees it
    net, (codes, _) = AnyOrderTransformer(**SIZE, neighbours=13).eval(), grids()
    unlike = {name for name in net.state_dict() if name not in causal.state_dict()}
    net.load_state_dict(net.weights_from(causal.state_dict()))
    raster = torch.arange(LENGTH).expand(len(codes), -1)
    torch.testing.assert_close(net(codes, raster), causal(codes), atol=1e-4, rtol=1e-4)
    assert {name.split(".")[0] for name in unlike} == {"last_look", "last_rows", "last_columns"}


@torch.no_grad()
def test_hidden_codes_are_given_all_others() -> None:
    net, (codes, _) = model(), grids(1)
    hidden = torch.zeros(1, LENGTH, dtype=torch.bool)
    hidden[0, [2, 9]] = True
    order = hidden.int().argsort(dim=1, stable=True)  # the hidden codes last, of which 2 is the first
    logits, seen = net(codes, order)[0, -2], set()
    for position in range(LENGTH):
        after = codes.clone()
        after[0, position] = (after[0, position] + 1) % K
        if not torch.equal(net(after, order)[0, -2], logits):
            seen.add(position)
    assert seen == set(range(LENGTH)) - {2, 9}


@pytest.mark.slow
def test_it_learns_to_fill_in_what_stripes_imply() -> None:
    torch.manual_seed(0)
    net = AnyOrderTransformer(num_codes=K, grid=GRID, dim=32, layers=2, heads=2, dropout=0.0, code_dim=16)
    optimizer = torch.optim.Adam(net.parameters(), 0.003)
    for _ in range(600):
        codes = torch.randint(K, (64, GRID, 1)).expand(-1, -1, GRID).reshape(64, -1)  # each row of one code
        order = torch.rand(64, LENGTH).argsort(1)
        loss = F.cross_entropy(net(codes, order).flatten(0, 1), codes.gather(1, order).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    grid = torch.arange(GRID).view(GRID, 1).repeat(1, GRID).view(1, -1)
    known = torch.arange(LENGTH) % GRID == 3  # the last of each row
    order = (~known).int().argsort(stable=True)[None]
    with torch.no_grad():
        assert torch.equal(net(grid, order)[:, GRID:].argmax(-1), grid[:, order[0, GRID:]])


def radical_inverse(number: int, base: int) -> float:
    """The digits of a number mirrored at the point."""
    value, place = 0.0, 1 / base
    while number:
        number, digit = divmod(number, base)
        value, place = value + digit * place, place / base
    return value


@pytest.mark.parametrize("grid", [1, 2, 5, 16])
def test_haltons_order_against_a_plain_version(grid: int) -> None:
    expected: list[int] = []
    number = 0
    while len(expected) < grid * grid:
        row, column = (int(radical_inverse(number, base) * grid + 1e-9) for base in (2, 3))
        if row * grid + column not in expected:
            expected.append(row * grid + column)
        number += 1
    assert halton_order(grid).tolist() == expected


def test_neighbours_are_the_nearest_cells() -> None:
    assert around(1) == [(0, 0)]
    assert around(5) == [(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)]  # in the order that stored weights expect
    assert set(around(13)) == {(d, r) for d in range(-2, 3) for r in range(-2, 3) if abs(d) + abs(r) <= 2}
    with pytest.raises(ValueError, match="neighbours must be 1, 5, 13, 25"):
        around(6)


@pytest.mark.parametrize("length", [2, 5, 37, 64])
def test_written_out_attention_equals_torchs(length: int) -> None:
    q, k, v = (x.requires_grad_() for x in torch.randn(3, 2, 3, length, 8, generator=torch.Generator().manual_seed(0)))
    grads = []
    for attention in (_causal_attention, lambda *qkv: F.scaled_dot_product_attention(*qkv, is_causal=True)):
        mixed = attention(q, k, v)
        grads.append([mixed.detach().flatten(), *torch.autograd.grad(mixed.square().sum(), (q, k, v))])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours.view(theirs.shape), theirs, atol=1e-5, rtol=1e-5)
