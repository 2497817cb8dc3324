"""Distances between two sets of images: Fréchet and kernel distance in the features of a pretrained network.

In Inception's features they are FID and KID. In SqueezeNet's, a small download, they are the same figures on another
scale and are never called so.
"""

import warnings
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.kid import KernelInceptionDistance

from vq_core.data.augment import to_uint8
from vq_core.errors import ArgumentError
from vq_core.models.perceptual import PerceptualLoss, needing_weights

Images = Float[Tensor, "_ 3 h w"]
Features = Float[Tensor, "_ d"]
FEW = 513  # images in each set: with fewer than SqueezeNet's 512 features their covariances are singular
FEWEST = 4  # for the kernel distance: of fewer, half a set is a single image
FID_WANTS = 2048  # Inception's features: with fewer images FID is biased upwards, by much
_INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


class PretrainedFeatures(nn.Module):
    """A network whose features are compared: images [b, 3, h, w] in [−1, 1] → [b, d]."""

    frechet: str  # what the two distances are called in its features
    kernel: str


class SqueezeFeatures(PretrainedFeatures):
    """SqueezeNet's last features, averaged over the image: [b, 512] of images in [−1, 1].

    Raises:
        MissingWeights: the network is not on the disk and cannot be downloaded.
    """

    frechet, kernel = "frechet", "kernel"

    def __init__(self) -> None:
        super().__init__()
        self.trunk = PerceptualLoss("squeeze")

    def forward(self, x: Images) -> Features:
        return self.trunk.net(self.trunk.scaling(x))[-1].mean(dim=(2, 3))


class InceptionFeatures(PretrainedFeatures):
    """The pooled features of FID's InceptionV3 (Heusel et al., arXiv:1706.08500): [b, 2048] of images in [−1, 1].

    Raises:
        MissingWeights: the network is not on the disk and cannot be downloaded.
    """

    frechet, kernel = "fid", "kid"

    def __init__(self) -> None:
        super().__init__()
        otherwise = ", or measure in SqueezeNet's features (evaluate --frechet)"
        with needing_weights("FID", _INCEPTION_FILE, otherwise):
            self.net = NoTrainInceptionV3("inception-v3-compat", ["2048"])

    def forward(self, x: Images) -> Features:
        return self.net(to_uint8(x).permute(0, 3, 1, 2))


@torch.no_grad()
def features_of(images: Iterable[Images], net: nn.Module, device: torch.device | str = "cpu") -> Features:
    """A network's features of images (batches in [−1, 1]), on the CPU."""
    net = net.to(device).eval()
    return torch.cat([net(batch.to(device).float().clamp(-1, 1)).cpu() for batch in images])


class _AsGiven(nn.Module):
    """In the place of a network: what torchmetrics is given are features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Features) -> Features:
        return features


def frechet_distance(real: Features, other: Features) -> float:
    """Fréchet distance of two sets of features (arXiv:1706.08500, equation 6); 0 is alike.

    It depends on how many there are: compare only figures of equal numbers, and with the floor, which is that of two
    halves of the real images.

    Raises:
        ArgumentError: fewer than 513 in a set.
    """
    if min(len(real), len(other)) < FEW:
        raise ArgumentError(
            f"the Fréchet distance needs at least {FEW} images in each set, got {len(real)}, {len(other)}"
        )
    metric = FrechetInceptionDistance(feature=_AsGiven(real.shape[1]))
    metric.update(real, real=True)
    metric.update(other, real=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rounding leaves imaginary parts of 1e-20 in the matrix root
        return float(metric.compute())


def kernel_distance(real: Features, other: Features, seed: int = 0) -> tuple[float, float]:
    """Squared maximum mean discrepancy of two sets of features under the kernel (x·y/d + 1)³, and its spread.

    Bińkowski et al., arXiv:1801.01401, section 4. Unbiased: for equal distributions the mean is 0 whatever the number.
    Mean and standard deviation over 100 pairs of subsets, each half of the smaller set (at most 1,000), by the seed.

    Raises:
        ArgumentError: fewer than 4 in a set.
    """
    if min(len(real), len(other)) < FEWEST:
        raise ArgumentError(
            f"the kernel distance needs at least {FEWEST} images in each set, got {len(real)}, {len(other)}"
        )
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # that it keeps all features: they are few
        torch.manual_seed(seed)
        size = min(1000, min(len(real), len(other)) // 2)
        metric = KernelInceptionDistance(feature=_AsGiven(real.shape[1]), subset_size=size)
        metric.update(real, real=True)
        metric.update(other, real=False)
        mean, spread = metric.compute()
    return float(mean), float(spread)
