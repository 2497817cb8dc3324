"""Fréchet distance between two sets of images, in the features of a small network that needs no large download."""

import warnings
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from vq_core.training.losses import PerceptualLoss

Images = Float[Tensor, "_ 3 h w"]
FEW = 513  # images in each set: with fewer than its 512 features the covariances are singular


class SqueezeFeatures(nn.Module):
    """SqueezeNet's last features, averaged over the image: [b, 512] of images in [−1, 1].

    Raises:
        MissingWeights: the network is not on the disk and cannot be downloaded.
    """

    num_features = 512

    def __init__(self) -> None:
        super().__init__()
        self.trunk = PerceptualLoss("squeeze")

    def forward(self, x: Images) -> Float[Tensor, "b 512"]:
        return self.trunk.net(self.trunk.scaling(x))[-1].mean(dim=(2, 3))


@torch.no_grad()
def frechet_distance(
    real: Iterable[Images],
    other: Iterable[Images],
    features: nn.Module | None = None,
    device: torch.device | str = "cpu",
) -> float:
    """Fréchet distance of two sets of images (batches in [−1, 1]), in SqueezeNet's pooled features; 0 is alike.

    Not FID, which is the same figure in Inception's features, on another scale. It depends on how many images there
    are, so compare only figures of equal numbers, and with the floor: that of two halves of the real images.

    Raises:
        MissingWeights: SqueezeNet is not on the disk and cannot be downloaded.
        ValueError: fewer than 513 images in a set.
    """
    metric = FrechetInceptionDistance(feature=features or SqueezeFeatures()).to(device)
    counts = {}
    for real_ones, batches in ((True, real), (False, other)):
        counts[real_ones] = 0
        for batch in batches:
            metric.update(batch.to(device).float().clamp(-1, 1), real=real_ones)
            counts[real_ones] += len(batch)
    if min(counts.values()) < FEW:
        raise ValueError(f"the Fréchet distance needs at least {FEW} images in each set, got {min(counts.values())}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rounding leaves imaginary parts of 1e-20 in the matrix root
        return float(metric.compute())
