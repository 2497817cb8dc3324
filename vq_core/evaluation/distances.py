"""Two sets of images compared in the features of a pretrained network: distances, precision and recall.

In Inception's features the Fréchet and kernel distances are FID and KID. In those of SqueezeNet, a small download, they
have another scale and are never given these names.
"""

import warnings
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.kid import KernelInceptionDistance

from vq_core.data.augment import to_uint8
from vq_core.errors import ArgumentError
from vq_core.models.perceptual import PerceptualLoss, needing_weights

Images = Float[Tensor, "_ 3 h w"]
Features = Float[Tensor, "_ d"]
FEW = 513  # images per set: with fewer, the covariances of SqueezeNet's 512 features are singular
FEWEST = 4  # images per set: with fewer, half a set is a single image, and no image has a third neighbour in its set
STEADY = 100  # images per set from which precision and recall tell much: at 100, their standard error is up to 0.05
FID_WANTS = 2048  # the number of Inception's features: with fewer images FID is strongly biased upwards
_INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


class PretrainedFeatures(nn.Module):
    """A network whose features are compared: images [b, 3, h, w] in [−1, 1] → [b, d].

    Constructing one raises `MissingWeights` if its weights are not on disk and cannot be downloaded.
    """

    frechet: str  # names of the two distances in its features
    kernel: str


class SqueezeFeatures(PretrainedFeatures):
    """SqueezeNet's last features, averaged over the image: [b, 512]."""

    frechet, kernel = "frechet", "kernel"

    def __init__(self) -> None:
        super().__init__()
        self.trunk = PerceptualLoss("squeeze")

    def forward(self, x: Images) -> Features:
        return self.trunk.net(self.trunk.scaling(x))[-1].mean(dim=(2, 3))


class InceptionFeatures(PretrainedFeatures):
    """The pooled features of FID's InceptionV3 (Heusel et al., arXiv:1706.08500): [b, 2048]."""

    frechet, kernel = "fid", "kid"

    def __init__(self) -> None:
        super().__init__()
        with needing_weights("FID", _INCEPTION_FILE, "use SqueezeNet's features (evaluate --frechet)"):
            self.net = NoTrainInceptionV3("inception-v3-compat", ["2048"])

    def forward(self, x: Images) -> Features:
        return self.net(to_uint8(x).permute(0, 3, 1, 2))


@torch.no_grad()
def features_of(images: Iterable[Images], net: nn.Module, device: torch.device | str = "cpu") -> Features:
    """A network's features of images (batches in [−1, 1]), on the CPU."""
    net = net.to(device).eval()
    return torch.cat([net(batch.to(device).float().clamp(-1, 1)).cpu() for batch in images])


class _AsGiven(nn.Identity):
    """Takes the place of a network, as torchmetrics is given features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def frechet_distance(real: Features, other: Features) -> float:
    """Fréchet distance of two sets of features (arXiv:1706.08500, equation 6); 0 for equal statistics.

    It depends on the number of images: compare it only between sets of equal size, and with the floor, the distance
    between two halves of the real images. Raises `ArgumentError` for fewer than 513 images in a set.
    """
    if min(len(real), len(other)) < FEW:
        got = f"got {len(real)}, {len(other)}"
        raise ArgumentError(f"the Fréchet distance needs at least {FEW} images in each set, {got}")
    metric = FrechetInceptionDistance(feature=_AsGiven(real.shape[1]))
    metric.update(real, real=True)
    metric.update(other, real=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about imaginary parts of 1e-20 that rounding leaves in the matrix root
        return float(metric.compute())


def kernel_distance(real: Features, other: Features, seed: int = 0) -> tuple[float, float]:
    """Squared maximum mean discrepancy of two sets of features under the kernel (x·y/d + 1)³, and its spread.

    Bińkowski et al., arXiv:1801.01401, section 4. Unbiased: for equal distributions its mean is 0 at any size. Mean and
    standard deviation over 100 pairs of random subsets, each half as large as the smaller set (at most 1,000). Raises
    `ArgumentError` for fewer than 4 images in a set.
    """
    if min(len(real), len(other)) < FEWEST:
        got = f"got {len(real)}, {len(other)}"
        raise ArgumentError(f"the kernel distance needs at least {FEWEST} images in each set, {got}")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # about keeping all features, which are few
        torch.manual_seed(seed)
        size = min(1000, min(len(real), len(other)) // 2)
        metric = KernelInceptionDistance(feature=_AsGiven(real.shape[1]), subset_size=size)
        metric.update(real, real=True)
        metric.update(other, real=False)
        mean, spread = metric.compute()
    return float(mean), float(spread)


def precision_recall(real: Features, other: Features) -> tuple[float, float]:
    """How many of the other images look real, and how much of what is real they cover: precision and recall in [0, 1].

    Kynkäänniemi et al., arXiv:1904.06991, section 2: the fractions of each set inside the other one, which is taken as
    a union of balls, around each image as far as its third nearest neighbour in its set. Both depend on the number of
    images, so only the first n of each set count, n being the size of the smaller one. Raises `ArgumentError` for fewer
    than 4 images in a set.
    """
    size = min(len(real), len(other))
    if size < FEWEST:
        raise ArgumentError(f"precision and recall need at least {FEWEST} images in each set, got {size}")
    found = prc_features_to_metric(other[:size].double(), real[:size].double(), prc_neighborhood=3, verbose=False)
    return found["precision"], found["recall"]
