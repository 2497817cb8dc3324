"""k-means over latents, to initialise the codebook: Lloyd's algorithm from k-means++ seeds."""

import math

import torch
from jaxtyping import Float
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
    generator = torch.Generator(device=vectors.device).manual_seed(seed)
    centres = _spread_seeds(vectors, k, generator)
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


def _spread_seeds(vectors: Vectors, k: int, generator: torch.Generator) -> Float[Tensor, "k d"]:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007) on a sample of 16 vectors per centre.

    Vectors far from all seeds so far are more likely to be drawn; of a few drawn, the one that lowers the inertia most
    becomes the next seed. The distances to all candidates of a round are one matrix product.
    """
    sample = vectors[torch.randperm(len(vectors), generator=generator, device=vectors.device)[: 16 * k]]
    norms, tries = sample.square().sum(1), 2 + int(math.log(k))
    chosen = [0]
    nearest = (sample - sample[0]).square().sum(1)
    while len(chosen) < k:
        if not (nearest > 0).any():  # fewer distinct vectors than centres
            extra = sample[torch.arange(k - len(chosen), device=sample.device) % len(sample)]
            noise = torch.randn(extra.shape, generator=generator, device=extra.device)
            return torch.cat([sample[chosen], extra + 1e-4 * (1 + extra.abs().mean()) * noise])
        drawn = torch.multinomial(nearest, tries, replacement=True, generator=generator)
        distances = torch.addmm(norms[:, None], sample, sample[drawn].T, alpha=-2.0).add_(norms[drawn]).clamp_(min=0)
        distances = torch.minimum(distances, nearest[:, None])
        best = int(distances.sum(0).argmin())
        nearest = distances[:, best]
        chosen.append(int(drawn[best]))
        nearest[chosen[-1]] = 0  # exactly 0, despite rounding
    return sample[chosen]
