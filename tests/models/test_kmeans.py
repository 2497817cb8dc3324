"""k-means against scikit-learn, and with data that is hard on it."""

import math

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from vq_core.models.kmeans import inertia, kmeans


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int = 2000, centres: int = 32, dim: int = 8) -> Tensor:
    where = 10 * torch.randn(centres, dim, generator=seeded(0))
    which = torch.randint(centres, (n,), generator=seeded(1))
    return where[which] + 0.5 * torch.randn(n, dim, generator=seeded(2))


def gaussian(n: int = 3000, dim: int = 8) -> Tensor:
    return torch.randn(n, dim, generator=seeded(3))


def distinct(rows: Tensor) -> int:
    return len(rows.unique(dim=0))


@pytest.mark.parametrize(("vectors", "k"), [(blobs(centres=6), 32), (gaussian(), 48)])
def test_as_good_as_scikit_learn(vectors: Tensor, k: int) -> None:
    ours = inertia(vectors, kmeans(vectors, k, 30, 0))
    theirs = [
        KMeans(k, init="k-means++", n_init=1, max_iter=30, random_state=seed).fit(vectors.numpy()).inertia_
        for seed in range(3)
    ]
    assert ours * len(vectors) <= 1.05 * sorted(theirs)[1]


def test_inertia_is_scikit_learns() -> None:
    vectors = gaussian()
    fitted = KMeans(10, n_init=1, random_state=0).fit(vectors.numpy())
    ours = inertia(vectors, torch.from_numpy(fitted.cluster_centers_))
    assert ours == pytest.approx(fitted.inertia_ / len(vectors), rel=1e-5)


def test_iterations_never_make_it_worse() -> None:
    values = [inertia(gaussian(), kmeans(gaussian(), 32, iterations, 0)) for iterations in (1, 2, 5, 20)]
    assert values == sorted(values, reverse=True) and values[-1] < values[0]


def test_centres_are_the_means_of_their_vectors() -> None:
    vectors = blobs(400, 4)
    centres = kmeans(vectors, 4, 50, 0)
    nearest = torch.cdist(vectors, centres).argmin(1)
    for number, centre in enumerate(centres):
        torch.testing.assert_close(vectors[nearest == number].mean(0), centre, atol=1e-4, rtol=1e-4)


def test_the_seed_decides() -> None:
    a, b, c = (kmeans(gaussian(), 16, 2, seed) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_global_generator_and_the_input_are_left_alone() -> None:
    vectors = gaussian()
    before, state = vectors.clone(), torch.get_rng_state()
    kmeans(vectors, 16, 3, 0)
    assert torch.equal(vectors, before) and torch.equal(torch.get_rng_state(), state)


def test_fewer_distinct_vectors_than_centres() -> None:
    points = 5 * torch.randn(3, 4, generator=seeded(0))
    vectors = points.repeat(40, 1)
    centres = kmeans(vectors, 10, 10, 0)
    assert centres.shape == (10, 4) and centres.isfinite().all() and distinct(centres) >= 3
    assert torch.cdist(points, centres).amin(1).max() < 1e-2 and torch.cdist(centres, points).amin(1).max() < 1e-2


def test_fewer_vectors_than_centres() -> None:
    vectors = torch.randn(5, 4, generator=seeded(0))
    centres = kmeans(vectors, 16, 5, 0)
    assert centres.shape == (16, 4) and centres.isfinite().all() and inertia(vectors, centres) < 1e-4


@pytest.mark.parametrize("value", [0.0, 7.0, -1e4])
def test_all_vectors_equal(value: float) -> None:
    centres = kmeans(torch.full((100, 4), value), 8, 10, 0)
    assert centres.shape == (8, 4) and centres.isfinite().all()
    assert (centres - value).abs().max() <= 1e-2 * max(1.0, abs(value))


def test_one_vector_and_one_centre() -> None:
    assert kmeans(torch.tensor([[1.0, 2.0]]), 1, 3, 0).tolist() == [[1.0, 2.0]]
    torch.testing.assert_close(kmeans(gaussian(), 1, 3, 0)[0], gaussian().mean(0), atol=1e-5, rtol=0)


def test_an_empty_cluster_moves_to_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = blobs(900, 3, 2)
    bad_seeds = torch.cat([vectors[:1], vectors[:1] + 1e6, vectors[:1] + 2e6])  # two that no vector chooses
    monkeypatch.setattr("vq_core.models.kmeans._spread_seeds", lambda *_: bad_seeds.clone())
    centres = kmeans(vectors, 3, 20, 0)
    assert torch.bincount(torch.cdist(vectors, centres).argmin(1), minlength=3).min() > 0
    assert inertia(vectors, centres) < 0.5 * inertia(vectors, vectors.mean(0, keepdim=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    vectors = gaussian(20)
    vectors[7, 3] = bad
    with pytest.raises(ValueError, match="finite"):
        kmeans(vectors, 4, 3, 0)


def test_no_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        kmeans(torch.zeros(0, 4), 4, 3, 0)
