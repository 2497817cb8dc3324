"""Sampling from the prior: cached equals uncached, filters mean what they say, given codes stay."""

import pytest
import torch

from vq_core.errors import ArgumentError
from vq_core.generation.sampling import Sampling, fill_codes, filtered_probabilities, random_codes, sample_codes
from vq_core.models import AnyOrderTransformer, CodeTransformer
from vq_core.models.transformer import halton_order

K, GRID = 11, 4


def plain(seed: int = 0, temperature: float = 1.0, **more: int) -> Sampling:
    """From the network's probabilities as they are."""
    return Sampling(temperature=temperature, top_p=1.0, seed=seed, **more)


def transformer(causal: bool, any_order: bool = False) -> CodeTransformer:
    torch.manual_seed(0)
    size = {"dim": 16, "layers": 2, "heads": 2, "dropout": 0.3}
    model = (
        AnyOrderTransformer(num_codes=K, grid=GRID, **size)
        if any_order
        else CodeTransformer(K, GRID, **size, causal=causal)
    )
    for parameter in model.parameters():  # far from uniform, so that every choice matters
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.fixture
def prior() -> CodeTransformer:
    return transformer(causal=True)


@pytest.fixture(params=["any order", "bidirectional"])
def masked(request: pytest.FixtureRequest) -> CodeTransformer:
    return transformer(causal=False, any_order=request.param == "any order")


def plain_sampling(
    prior: CodeTransformer, count: int, seed: int, keep: torch.Tensor, start: torch.Tensor
) -> torch.Tensor:
    """The same without a cache: the whole prefix through the network for every code."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.zeros(count, GRID * GRID, dtype=torch.long) + start.flatten(1)
    for position in range(GRID * GRID):
        if not keep.flatten()[position]:
            with torch.no_grad():
                logits = prior.eval()(codes)[:, position]
            codes[:, position] = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return codes.view(count, GRID, GRID)


@pytest.mark.parametrize("kept_rows", [0, 1, 3])
def test_equals_sampling_without_cache(prior: CodeTransformer, kept_rows: int) -> None:
    start = random_codes(K, 1, GRID, seed=3)
    keep = torch.zeros(GRID, GRID, dtype=torch.bool)
    keep[:kept_rows] = True
    keep[-1, 1] = True  # also a given code in the middle of what is drawn
    drawn = sample_codes(prior, 5, plain(9), start=start, keep=keep, progress=False)
    assert torch.equal(drawn, plain_sampling(prior, 5, 9, keep, start))
    assert bool((drawn[:, keep] == start[:, keep]).all())


def test_same_seed_same_codes_and_dropout_is_off(prior: CodeTransformer) -> None:
    prior.train()
    one, two = (sample_codes(prior, 3, Sampling(seed=s), progress=False) for s in (1, 1))
    assert torch.equal(one, two) and prior.training
    assert not torch.equal(one, sample_codes(prior, 3, Sampling(seed=2), progress=False))


def test_top_k_of_one_is_the_likeliest(prior: CodeTransformer) -> None:
    drawn = sample_codes(prior, 2, Sampling(top_k=1), progress=False)
    with torch.no_grad():
        assert torch.equal(drawn.flatten(1), prior.eval()(drawn.flatten(1)).argmax(-1))


def test_filters_against_a_plain_version() -> None:
    logits = torch.randn(20, K, generator=torch.Generator().manual_seed(0))
    for row, kept_k, kept_p in zip(
        logits / 0.7,
        filtered_probabilities(logits, 0.7, 3, 1.0),
        filtered_probabilities(logits, 0.7, None, 0.6),
        strict=True,
    ):
        p = row.softmax(0)
        best = sorted(range(K), key=lambda c: -p[c])
        assert set(kept_k.nonzero().flatten().tolist()) == set(best[:3])
        total, nucleus = 0.0, set()
        for c in best:
            if total >= 0.6:
                break
            nucleus.add(c)
            total += float(p[c])
        assert set(kept_p.nonzero().flatten().tolist()) == nucleus
        assert kept_k.sum().item() == pytest.approx(1) and kept_p.sum().item() == pytest.approx(1)
        torch.testing.assert_close(kept_k[best[0]] / kept_k[best[1]], p[best[0]] / p[best[1]])


NO_NUMBERS = [float("nan"), float("inf")]
EVERYWHERE = torch.ones(GRID, GRID, dtype=torch.bool)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        *(({"temperature": value}, "temperature") for value in (0.0, -1.0, *NO_NUMBERS)),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"passes": 0}, "passes"),
    ],
)
def test_impossible_ways_of_drawing_are_named(arguments: dict, named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        Sampling(**arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"sampling": Sampling(top_k=K + 1)}, "top_k"),
        ({"keep": EVERYWHERE}, "start and keep"),
        ({"start": torch.full((1, GRID, GRID), K), "keep": EVERYWHERE}, "codes"),
        ({"start": torch.zeros(1, GRID, GRID, dtype=torch.long), "keep": torch.ones(2, 2, dtype=torch.bool)}, "keep"),
        ({"start": torch.zeros(2, GRID, GRID, dtype=torch.long), "keep": EVERYWHERE}, "start"),
    ],
)
def test_impossible_arguments_are_named(
    prior: CodeTransformer, masked: CodeTransformer, arguments: dict, named: str
) -> None:
    with pytest.raises(ArgumentError, match=named):
        sample_codes(prior, 1, progress=False, **arguments)
    with pytest.raises(ValueError, match=named):
        fill_codes(masked, 1, progress=False, **arguments)


def test_each_way_wants_its_own_prior(prior: CodeTransformer, masked: CodeTransformer) -> None:
    with pytest.raises(ValueError, match="prior must be the causal one"):
        sample_codes(masked, 1, progress=False)
    with pytest.raises(ValueError, match="prior must be the masked one"):
        fill_codes(prior, 1, progress=False)


@pytest.mark.parametrize("passes", [1, 3, 16, 40])
def test_filling_draws_all_that_is_unknown_and_nothing_else(masked: CodeTransformer, passes: int) -> None:
    start = random_codes(K, 6, GRID, seed=3)
    keep = torch.rand(6, GRID, GRID, generator=torch.Generator().manual_seed(0)) < 0.5
    drawn = fill_codes(masked, 6, Sampling(passes=passes, seed=1), start=start, keep=keep, progress=False)
    assert drawn.shape == (6, GRID, GRID) and drawn.min() >= 0 and drawn.max() < K
    assert torch.equal(drawn[keep], start[keep]) and not torch.equal(drawn, start)
    assert torch.equal(
        drawn, fill_codes(masked, 6, Sampling(passes=passes, seed=1), start=start, keep=keep, progress=False)
    )


def test_filling_nothing_changes_nothing(masked: CodeTransformer) -> None:
    start, keep = random_codes(K, 1, GRID), torch.ones(GRID, GRID, dtype=torch.bool)
    assert torch.equal(fill_codes(masked, 2, start=start, keep=keep, progress=False), start.expand(2, -1, -1))


def test_one_unknown_code_is_drawn_from_its_probabilities(masked: CodeTransformer) -> None:
    """4,000 draws of one code against softmax of the network's logits there."""
    start, keep = random_codes(K, 1, GRID, seed=2), torch.ones(GRID, GRID, dtype=torch.bool)
    keep[1, 2] = False
    drawn = fill_codes(masked, 4000, plain(temperature=2.0), start=start, keep=keep, progress=False)[:, 1, 2]
    with torch.no_grad():
        codes, hidden = start.flatten(1), ~keep.flatten()[None]
        if isinstance(masked.eval(), AnyOrderTransformer):
            logits = masked(codes, hidden.int().argsort(dim=1, stable=True))[0, -1]  # the hidden code last
        else:
            logits = masked(codes.masked_fill(hidden, K))[0, 6]
    expected = (logits / 2).softmax(0)
    assert (torch.bincount(drawn, minlength=K) / 4000 - expected).abs().max() < 0.03


def test_any_order_equals_drawing_without_cache() -> None:
    """The known codes, different ones in each grid, then the others in Halton's order, by a plain version."""
    prior, generator = transformer(causal=False, any_order=True).eval(), torch.Generator().manual_seed(9)
    start = random_codes(K, 5, GRID, seed=3)
    keep = torch.rand(5, GRID, GRID, generator=torch.Generator().manual_seed(0)).argsort(-1) < 2  # 2 in each row
    turn, known = halton_order(GRID).argsort(), keep.flatten(1)
    order = torch.stack([(turn + 100 * ~row).argsort() for row in known])
    codes = start.flatten(1).clone()
    for step in range(8, 16):
        with torch.no_grad():
            logits = prior(codes, order)[:, step]
        drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        codes = codes.scatter(1, order[:, step : step + 1], drawn)
    drawn = fill_codes(prior, 5, plain(9), start=start, keep=keep, progress=False)
    assert torch.equal(drawn.flatten(1), codes)


def test_a_bidirectional_prior_draws_in_haltons_order_as_many_as_the_cosine_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masked, seen = transformer(causal=False), []
    forward = masked.forward
    monkeypatch.setattr(masked, "forward", lambda codes: seen.append(codes) or forward(codes))
    keep = torch.zeros(GRID, GRID, dtype=torch.bool)
    keep[0] = True
    fill_codes(masked, 1, Sampling(passes=4), start=random_codes(K, 1, GRID), keep=keep, progress=False)
    order = [int(position) for position in halton_order(GRID) if position >= GRID]
    for codes, left in zip(seen, (12, 11, 8, 4), strict=True):  # 12 cos(0, 22.5, 45, 67.5 degrees), rounded down
        assert (codes == masked.unknown).nonzero()[:, 1].tolist() == sorted(order[12 - left :])


def test_count_must_be_positive(prior: CodeTransformer) -> None:
    with pytest.raises(ValueError, match="count"):
        sample_codes(prior, 0, progress=False)
