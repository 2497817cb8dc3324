"""The quantiser against brute force, plain-Python moving averages, and a peer."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from vq_core.models import VectorQuantizerEMA
from vq_core.models.quantizer_ema import nearest_codes, perplexity

K, D = 24, 6


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(seed: int = 0, batch: int = 4, size: int = 5, dim: int = D, mean: float = 0.0) -> Tensor:
    return mean + torch.randn(batch, dim, size, size, generator=seeded(seed))


def quantizer(seed: int = 0, k: int = K, dim: int = D, **options: Any) -> VectorQuantizerEMA:
    made = VectorQuantizerEMA(k, dim, **options)
    made.set_codebook(torch.randn(k, dim, generator=seeded(100 + seed)))
    return made


def as_vectors(z: Tensor) -> Tensor:
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


def brute_force(vectors: Tensor, codebook: Tensor) -> Tensor:
    return torch.cdist(vectors.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


# --- forward --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "size", "k", "dim"), [(4, 5, K, D), (1, 1, 2, 1), (3, 16, 512, 32), (2, 7, 3, 64)])
def test_indices_are_those_of_brute_force(batch: int, size: int, k: int, dim: int) -> None:
    z, q = latents(1, batch, size, dim), quantizer(k=k, dim=dim)
    indices = q(z).indices
    assert indices.shape == (batch, size, size) and indices.dtype == torch.int64
    assert torch.equal(indices.flatten(), brute_force(as_vectors(z), q.codebook))


def test_more_pairs_than_a_chunk_holds() -> None:
    vectors, codebook = torch.randn(1001, 4, generator=seeded(0)), torch.randn(5000, 4, generator=seeded(1))
    assert torch.equal(nearest_codes(vectors, codebook), brute_force(vectors, codebook))


def test_a_tie_goes_to_the_lowest_index() -> None:
    codebook = torch.tensor([[5.0, 5.0], [1.0, 0.0], [1.0, 0.0]])
    assert nearest_codes(torch.tensor([[1.0, 0.0], [0.9, 0.1]]), codebook).tolist() == [1, 1]


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_lookup_of_the_indices_is_z_q(learning: Any) -> None:
    z, q = latents(mean=3.0), quantizer(learning=learning)
    out = q(z)
    assert torch.equal(q.lookup(out.indices), out.z_q) and out.z_q.shape == z.shape
    assert torch.equal(out.z_q[1, :, 2, 3], q.codebook[out.indices[1, 2, 3]])
    assert torch.equal(q(out.z_q.detach()).indices, out.indices)  # quantising twice is quantising once


@pytest.mark.parametrize("index", [-1, K, K + 1000])
def test_lookup_of_an_unknown_code(index: int) -> None:
    with pytest.raises(IndexError, match=rf"\[0, {K}\)"):
        quantizer().lookup(torch.tensor([[[0, index]]]))


def test_lookup_of_nothing() -> None:
    assert quantizer().lookup(torch.zeros(0, 4, 4, dtype=torch.long)).shape == (0, D, 4, 4)


def test_the_gradient_goes_straight_through() -> None:
    z, q = latents().requires_grad_(), quantizer()
    upstream = latents(9)
    q(z).z_q.backward(upstream)
    assert z.grad is not None and torch.equal(z.grad, upstream)


def test_commitment_loss_and_its_gradient() -> None:
    z, q = latents().requires_grad_(), quantizer()
    out = q(z)
    distance = torch.cdist(as_vectors(z.detach()), q.codebook).amin(1).square().mean() / D
    assert float(out.commit_loss.detach()) == pytest.approx(float(distance), rel=1e-5)
    assert float(out.codebook_loss) == pytest.approx(float(distance), rel=1e-5)
    assert not out.codebook_loss.requires_grad
    out.commit_loss.backward()
    torch.testing.assert_close(z.grad, 2 * (z.detach() - out.z_q.detach()) / z.numel())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mean", [0.0, 20.0])
def test_autocast_changes_no_index(dtype: torch.dtype, mean: float) -> None:
    z = latents(2, 8, 16, 32, mean=mean)
    q = quantizer(k=256, dim=32)
    q.set_codebook(q.codebook + mean)
    plain = q(z)
    with torch.autocast("cpu", dtype=dtype):
        cast = q(z)
        control = (z.to(dtype).permute(0, 2, 3, 1).reshape(-1, 32) @ q.codebook.T).dtype
    assert control == dtype  # autocast is at work here
    assert torch.equal(cast.indices, plain.indices) and torch.equal(cast.z_q, plain.z_q)
    assert cast.z_q.dtype == cast.commit_loss.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_latents_are_compared_in_full_precision(dtype: torch.dtype) -> None:
    z, q = latents(2, 8, 16, 32).to(dtype), quantizer(k=256, dim=32)
    assert torch.equal(q(z).indices.flatten(), brute_force(as_vectors(z.float()), q.codebook))


# --- moving averages ------------------------------------------------------------------------------------------------


def plain_step(state: dict[str, Any], vectors: list[list[float]], decay: float, eps: float) -> list[int]:
    """The paper's appendix A.1, one number at a time."""
    counts, sums = [0] * K, [[0.0] * D for _ in range(K)]
    for vector in vectors:
        distances = [sum((a - b) ** 2 for a, b in zip(vector, code, strict=True)) for code in state["codebook"]]
        nearest = distances.index(min(distances))
        counts[nearest] += 1
        sums[nearest] = [a + b for a, b in zip(sums[nearest], vector, strict=True)]
    state["counts"] = [decay * n + (1 - decay) * new for n, new in zip(state["counts"], counts, strict=True)]
    state["sums"] = [
        [decay * m + (1 - decay) * new for m, new in zip(old, row, strict=True)]
        for old, row in zip(state["sums"], sums, strict=True)
    ]
    total = sum(state["counts"])
    smoothed = [(n + eps) / (total + K * eps) * total for n in state["counts"]]
    state["codebook"] = [[m / n for m in row] for row, n in zip(state["sums"], smoothed, strict=True)]
    return counts


@pytest.mark.parametrize(("decay", "eps"), [(0.99, 1e-5), (0.5, 0.1)])
def test_step_is_the_papers(decay: float, eps: float) -> None:
    q = quantizer(decay=decay, eps=eps)
    start = q.codebook.tolist()
    first = float(q.ema_counts[0])
    state: dict[str, Any] = {"codebook": start, "sums": (first * q.codebook).tolist(), "counts": [first] * K}
    for seed in range(5):
        z = latents(seed, 2)
        q(z)
        counts = plain_step(state, as_vectors(z).tolist(), decay, eps)
        assert q.step().tolist() == counts
        np.testing.assert_allclose(q.codebook, state["codebook"], atol=1e-5)
        np.testing.assert_allclose(q.ema_counts, state["counts"], rtol=1e-5)


def test_parity_with_a_peer() -> None:
    ours = quantizer(k=64, dim=16, decay=0.99)
    peer = VectorQuantize(
        dim=16,
        codebook_size=64,
        accept_image_fmap=True,
        decay=0.99,
        eps=1e-5,
        kmeans_init=False,
        threshold_ema_dead_code=0,
        commitment_weight=0.25,
        rotation_trick=False,
    )
    inner = peer._codebook
    inner.embed.copy_(ours.codebook[None])
    inner.embed_avg.copy_(ours.ema_sums[None])
    inner.cluster_size.copy_(ours.ema_counts[None])
    start = ours.codebook.clone()
    peer.train()
    for seed in range(100):
        z = latents(seed, 4, 8, 16) * 0.5 + 0.3
        out = ours(z)
        their_z_q, their_indices, their_loss = peer(z)
        assert torch.equal(out.indices, their_indices)
        torch.testing.assert_close(out.z_q, their_z_q, atol=1e-5, rtol=0)
        assert 0.25 * float(out.commit_loss.detach()) == pytest.approx(float(their_loss.detach().sum()), rel=1e-5)
        ours.step()
        torch.testing.assert_close(ours.codebook, inner.embed[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.ema_counts, inner.cluster_size[0], atol=1e-3, rtol=0)
    assert (ours.codebook - start).abs().max() > 0.1


def test_two_halves_and_one_step_are_the_whole() -> None:
    whole, halves, one_by_one = quantizer(), quantizer(), quantizer()
    for seed in range(20):
        z = latents(seed)
        whole(z)
        for part in z.chunk(2):
            halves(part)
        for part in z.split(1):
            one_by_one(part)
        counts = whole.step()
        assert torch.equal(halves.step(), counts) and torch.equal(one_by_one.step(), counts)
    torch.testing.assert_close(halves.codebook, whole.codebook, atol=1e-6, rtol=0)
    torch.testing.assert_close(one_by_one.codebook, whole.codebook, atol=1e-6, rtol=0)


def test_step_forgets_what_it_was_given() -> None:
    q = quantizer()
    q(latents())
    assert q.step().sum() == 100 and q.step().sum() == 0


def test_eval_gathers_nothing() -> None:
    q = quantizer().eval()
    q(latents())
    assert q.step().sum() == 0
    q.train()
    q(latents())
    assert q.step().sum() == 100


def test_forward_moves_nothing() -> None:
    q = quantizer()
    before = {name: value.clone() for name, value in q.state_dict().items()}
    q(latents())
    assert all(torch.equal(before[name], value) for name, value in q.state_dict().items())


def test_an_unused_code_stays_where_it_is() -> None:
    q = quantizer(eps=1e-9)
    q.codebook[3] = 1000.0
    q.ema_sums[3] = 1000.0 * q.ema_counts[3]
    for seed in range(50):
        q(latents(seed))
        q.step()
    torch.testing.assert_close(q.codebook[3], torch.full((D,), 1000.0), rtol=1e-4, atol=0)


def test_codes_find_the_clusters() -> None:
    centres = torch.eye(4) * 10
    q = VectorQuantizerEMA(4, 4, decay=0.9)
    q.set_codebook(centres + torch.randn(4, 4, generator=seeded(0)))
    for seed in range(100):
        which = torch.randint(4, (64,), generator=seeded(seed))
        points = centres[which] + 0.1 * torch.randn(64, 4, generator=seeded(seed))
        q(points.view(64, 4, 1, 1))
        q.step()
    torch.testing.assert_close(q.codebook, centres, atol=0.05, rtol=0)


# --- learning by gradient -------------------------------------------------------------------------------------------


def test_a_codebook_learned_by_gradient() -> None:
    q = quantizer(learning="gradient")
    assert [name for name, _ in q.named_parameters()] == ["codebook"]
    assert list(quantizer().parameters()) == []
    z = latents()
    optimizer = torch.optim.SGD(q.parameters(), lr=20.0)
    losses = []
    for _ in range(30):
        out = q(z)
        used = torch.zeros(K, dtype=torch.bool).scatter_(0, out.indices.flatten(), True)
        losses.append(float(out.codebook_loss.detach()))
        optimizer.zero_grad()
        out.codebook_loss.backward()
        assert q.codebook.grad is not None and torch.equal(q.codebook.grad.abs().sum(1) > 0, used)
        optimizer.step()
        before = q.codebook.detach().clone()
        assert q.step().sum() == 100 and torch.equal(q.codebook, before)  # counts only
    assert losses[-1] < 0.8 * losses[0]


# --- dead codes -----------------------------------------------------------------------------------------------------


def test_dead_codes_are_those_below_a_share_of_the_mean() -> None:
    q = quantizer(k=4)
    q.ema_counts.copy_(torch.tensor([10.0, 0.2, 0.0, 5.8]))  # mean 4
    assert q.dead_codes(0.05).tolist() == [False, False, True, False]
    assert q.dead_codes(0.06).tolist() == [False, True, True, False]
    assert q.dead_codes(0.0).tolist() == [False] * 4


def test_a_code_that_nothing_chooses_is_dead_within_fifty_steps() -> None:
    """16 images a step of 16×16 vectors, as in the small profile, on all but one of 512 codes."""
    q = VectorQuantizerEMA(512, 2)
    for _ in range(50):
        q.pending_counts[1:] = 16 * 256 / 511
        q.step()
    assert q.dead_codes(0.05).nonzero().tolist() == [[0]]


def test_replaced_codes_start_with_mean_counts_and_fitting_sums() -> None:
    q = quantizer()
    for seed in range(3):
        q(latents(seed))
        q.step()
    before = {name: value.clone() for name, value in q.state_dict().items()}
    which, vectors = torch.tensor([2, 7]), torch.full((2, D), 5.0)
    q.replace(which, vectors)
    mean = before["ema_counts"].mean()
    assert torch.equal(q.codebook[which], vectors)
    assert torch.equal(q.ema_counts[which], mean.expand(2)) and not q.dead_codes(0.9)[which].any()
    others = torch.ones(K, dtype=torch.bool).index_fill(0, which, False)
    assert all(torch.equal(value[others], before[name][others]) for name, value in q.state_dict().items())
    q.step()  # without new vectors a step must leave the new codes where they were put
    torch.testing.assert_close(q.codebook[which], vectors, rtol=1e-4, atol=0)


def test_replacing_none_changes_nothing() -> None:
    q = quantizer()
    before = q.codebook.clone()
    q.replace(torch.zeros(0, dtype=torch.long), torch.zeros(0, D))
    assert torch.equal(q.codebook, before)


# --- perplexity and state -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[1, 2, 3, 4], [5, 0, 0, 0], [7, 7, 7, 7], [1, 0, 1000, 3]])
def test_perplexity_is_exp_of_scipys_entropy(counts: list[int]) -> None:
    assert float(perplexity(torch.tensor(counts).float())) == pytest.approx(np.exp(entropy(counts)), rel=1e-5)


def test_perplexity_of_no_use_is_zero() -> None:
    assert float(perplexity(torch.zeros(4))) == 0


def test_state_round_trip_goes_on_alike() -> None:
    one, other = quantizer(0), quantizer(1)
    for seed in range(3):
        one(latents(seed))
        one.step()
    other.load_state_dict(one.state_dict())
    assert set(one.state_dict()) == {"codebook", "ema_counts", "ema_sums"}
    for q in (one, other):
        q(latents(7))
        q.step()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_another_size_is_refused() -> None:
    with pytest.raises(RuntimeError, match="codebook"):
        quantizer(k=8).load_state_dict(quantizer(k=16).state_dict())


def test_set_codebook_starts_afresh() -> None:
    q, codebook = quantizer(), torch.randn(K, D, generator=seeded(5))
    q(latents())
    q.step()
    q(latents())
    q.set_codebook(codebook)
    assert torch.equal(q.codebook, codebook) and q.step().sum() == 0
    torch.testing.assert_close(q.codebook, codebook, rtol=1e-4, atol=1e-6)
