"""Two sets of images compared in the features of a pretrained network: distances, precision and recall.

In Inception's features the Fréchet and kernel distances are FID and KID. In those of SqueezeNet, a small download, they
have another scale and are never given these names. A network maps images [b, 3, h, w] in [−1, 1] to features [b, d];
constructing one raises `MissingWeights` if its weights are not on disk and cannot be downloaded.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
import torch_fidelity
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torch_fidelity import metric_fid, metric_kid, metric_prc
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

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


class SqueezeFeatures(nn.Module):
    """SqueezeNet's last features, averaged over the image: [b, 512]."""

    frechet, kernel = "frechet", "kernel"  # names of the two distances in its features
    # What its figures are called in full, {} being the sets.
    figure = "Fréchet and kernel distance, precision and recall of {}; SqueezeNet by torchvision, not resized"

    def __init__(self) -> None:
        super().__init__()
        self.trunk = PerceptualLoss("squeeze")

    def forward(self, x: Images) -> Features:
        return self.trunk.net(self.trunk.scaling(x))[-1].mean(dim=(2, 3))


class InceptionFeatures(nn.Module):
    """The pooled features of FID's InceptionV3 (arXiv:1706.08500), images resized by one of two rules: [b, 2048]."""

    frechet, kernel = "fid", "kid"

    def __init__(self, resize: Literal["torch-fidelity", "clean-fid"] = "torch-fidelity") -> None:
        super().__init__()
        with needing_weights("FID", _INCEPTION_FILE, "use SqueezeNet's features (evaluate --frechet)"):
            self.net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        self.clean, version = resize == "clean-fid", f"torch-fidelity {torch_fidelity.__version__}"
        self.figure = f"FID, KID, precision and recall of {{}}; Inception by {version}, resized by {resize}'s rule"
        if self.clean:  # the network takes bytes alone, and resizes them: what comes out of that is replaced
            self.net.Conv2d_1a_3x3.register_forward_pre_hook(lambda *_: (self.resized,))

    def forward(self, x: Images) -> Features:
        pixels = to_uint8(x)
        self.resized = (clean_resize(pixels).to(x.device) - 128) / 128 if self.clean else None
        return self.net(pixels.permute(0, 3, 1, 2))[0]


def clean_resize(pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 299 299"]:
    """Images resized to 299×299 by clean-fid's rule: Pillow's bicubic filter, on floats, without rounding."""
    planes = pixels.permute(0, 3, 1, 2).flatten(0, 1).float().cpu().numpy()
    resized = [np.asarray(Image.fromarray(x).resize((299, 299), Image.Resampling.BICUBIC)) for x in planes]
    return torch.from_numpy(np.stack(resized)).clamp(0, 255).unflatten(0, (-1, 3))


@torch.no_grad()
def features_of(images: Iterable[Images], net: nn.Module, device: torch.device | str = "cpu") -> Features:
    """A network's features of images (batches in [−1, 1]), on the CPU."""
    net = net.to(device).eval()
    return torch.cat([net(batch.to(device).float().clamp(-1, 1)).cpu() for batch in images])


def frechet_distance(real: Features, other: Features) -> float:
    """Fréchet distance of two sets of features (arXiv:1706.08500, equation 6); 0 for equal statistics.

    It depends on the number of images: compare it only between sets of equal size, and with the floor, the distance
    between two halves of the real images. Raises `ArgumentError` for fewer than 513 images in a set.
    """
    if (least := min(len(real), len(other))) < FEW:
        raise ArgumentError(f"the Fréchet distance needs at least {FEW} images in each set, got {least}")
    known, made = (metric_fid.fid_features_to_statistics(features.double()) for features in (real, other))
    return metric_fid.fid_statistics_to_metric(made, known, verbose=False)["frechet_inception_distance"]


def kernel_distance(real: Features, other: Features, seed: int = 0) -> tuple[float, float]:
    """Squared maximum mean discrepancy of two sets of features under the kernel (x·y/d + 1)³, and its spread.

    Bińkowski et al., arXiv:1801.01401, section 4. Unbiased: for equal distributions its mean is 0 at any size. Mean and
    standard deviation over 100 pairs of random subsets, each half as large as the smaller set (at most 1,000). Raises
    `ArgumentError` for fewer than 4 images in a set.
    """
    if (least := min(len(real), len(other))) < FEWEST:
        raise ArgumentError(f"the kernel distance needs at least {FEWEST} images in each set, got {least}")
    found = metric_kid.kid_features_to_metric(
        other.double(), real.double(), kid_subset_size=min(1000, least // 2), rng_seed=seed, verbose=False
    )
    return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]


def precision_recall(real: Features, other: Features, whole: bool = False) -> tuple[float, float]:
    """How many of the other images look real, and how much of what is real they cover: precision and recall in [0, 1].

    Kynkäänniemi et al., arXiv:1904.06991, section 2: the fractions of each set inside the other one, which is taken as
    a union of balls, around each image as far as its third nearest neighbour in its set. Both depend on the number of
    images, so only the first n of each set count, n being the size of the smaller one, unless the sets are to be taken
    `whole`. Raises `ArgumentError` for fewer than 4 images in a set.
    """
    if (size := min(len(real), len(other))) < FEWEST:
        raise ArgumentError(f"precision and recall need at least {FEWEST} images in each set, got {size}")
    made, known = (features.double() if whole else features[:size].double() for features in (other, real))
    # In parts: all distances among 50,000 images would take 20 GB.
    found = metric_prc.prc_features_to_metric(made, known, save_cpu_ram=True, prc_batch_size=1000, verbose=False)
    return found["precision"], found["recall"]
