"""k-means over latents, to initialise the codebook: Lloyd's algorithm from k-means++ seeds."""

import numpy as np
import torch
from jaxtyping import Float
from sklearn.cluster import kmeans_plusplus
from torch import Tensor

from vq_core.errors import ArgumentError
from vq_core.models.quantizer_ema import nearest_codes

Vectors = Float[Tensor, "n d"]


def kmeans(vectors: Vectors, k: int, iterations: int, seed: int) -> Float[Tensor, "k d"]:
    """Cluster vectors into k centres: [65536, 256] → [1024, 256].

    Seeds are spread out by k-means++ on a sample; a centre that loses all its vectors moves onto one that is far from
    its own centre. With fewer distinct vectors than k, some centres are duplicates that differ by a trace of noise, so
    each stays usable. Raises `ArgumentError` if there are no vectors, or values that are not finite.
    """
    if len(vectors) == 0:
        raise ArgumentError("k-means needs at least one vector")
    if not torch.isfinite(vectors).all():
        raise ArgumentError("k-means needs finite vectors")
    vectors = vectors.float()
    centres = _spread_seeds(vectors, k, seed)
    for _ in range(iterations):
        assigned = nearest_codes(vectors, centres)
        counts = torch.bincount(assigned, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, assigned, vectors)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        if len(empty := (counts == 0).nonzero().flatten()):
            far = (vectors - centres[assigned]).square().sum(1).topk(min(len(empty), len(vectors))).indices
            centres[empty[: len(far)]] = vectors[far]
    return centres


def inertia(vectors: Vectors, centres: Float[Tensor, "k d"]) -> float:
    """Mean squared distance from each vector to its nearest centre, summed over dimensions."""
    return float((vectors - centres[nearest_codes(vectors, centres)]).square().sum(dim=1).mean())


def _spread_seeds(vectors: Vectors, k: int, seed: int) -> Float[Tensor, "k d"]:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007) on a sample of 16 vectors per centre."""
    generator = torch.Generator().manual_seed(seed)
    sample = vectors.cpu()[torch.randperm(len(vectors), generator=generator)[: 16 * k]]
    seeds = torch.from_numpy(kmeans_plusplus(sample.repeat(-(-k // len(sample)), 1).numpy(), k, random_state=seed)[0])
    again = np.setdiff1d(np.arange(k), np.unique(seeds, axis=0, return_index=True)[1])  # too few distinct vectors
    seeds[again] += 1e-4 * (1 + seeds.abs().mean()) * torch.randn(len(again), seeds.shape[1], generator=generator)
    return seeds.to(vectors.device)
