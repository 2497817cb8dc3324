"""The perceptual distance: LPIPS, and a substitute that needs no download."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import lpips
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vq_core.errors import MissingWeights

Images = Float[Tensor, "b 3 h w"]
TRUNK_FILES = {"vgg": "vgg16-397923af.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}


@contextmanager
def needing_weights(what: str, file: str, otherwise: str) -> Iterator[None]:
    """Turn a failure to read or download weights into `MissingWeights`, which names the file and its folder."""
    try:
        yield
    except OSError as error:  # urllib's errors too
        folder = torch.hub.get_dir() + "/checkpoints"
        message = f"{what} needs {file}, which cannot be downloaded ({error}); put it in {folder}, or {otherwise}"
        raise MissingWeights(message) from None


class PerceptualLoss(nn.Module):
    """LPIPS (Zhang et al., arXiv:1801.03924) as a loss: a mean over the batch, with finite gradients.

    "vgg" and "squeeze" are the `lpips` package's networks (`MissingWeights` is raised if their files are). "random" is
    its SqueezeNet with random weights and without the learned channel weights: not LPIPS, but needs no download.
    Deviation: features are normalised by sqrt(Σ f² + ε) instead of sqrt(Σ f²) + ε, whose gradient at f = 0 is NaN.
    """

    def __init__(self, net: Literal["vgg", "squeeze", "random"]) -> None:
        super().__init__()
        self.calibrated = net != "random"
        trunk = "vgg" if net == "vgg" else "squeeze"
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's warnings about how lpips calls it
            torch.manual_seed(0)
            otherwise = "train with loss.perceptual_net=random or loss.perceptual=0, and evaluate without --lpips"
            with needing_weights(f"LPIPS-{trunk}", TRUNK_FILES[trunk], otherwise):
                model = lpips.LPIPS(net=trunk, lpips=self.calibrated, pnet_rand=not self.calibrated, verbose=False)
        self.scaling, self.net = model.scaling_layer, model.net
        self.lins = nn.ModuleList(lin.model for lin in model.lins) if self.calibrated else None
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PerceptualLoss":
        """Stay in eval mode: dropout is only meant for training the LPIPS weights."""
        return super().train(False)

    def forward(self, x_rec: Images, x: Images) -> Float[Tensor, ""]:
        """Mean distance between two batches in [−1, 1]; the gradient flows to `x_rec` only."""
        return self.each(x_rec, x).mean()

    def each(self, x_rec: Images, x: Images) -> Float[Tensor, " b"]:
        """The distance for each image; the gradient flows to `x_rec` only."""
        with torch.no_grad():
            features = self.net(self.scaling(x))
        pairs = zip(self.net(self.scaling(x_rec)), features, strict=True)
        total = torch.zeros(len(x), device=x.device)
        with torch.autocast(x.device.type, enabled=False):  # squared features overflow fp16 and lose precision in bf16
            for level, (f_rec, f) in enumerate(pairs):
                difference = (_unit(f_rec.float()) - _unit(f.float())).square()
                weighted = self.lins[level](difference) if self.lins is not None else difference.sum(1, keepdim=True)
                total = total + weighted.mean(dim=(1, 2, 3))
        return total


def _unit(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    return features * torch.rsqrt(features.square().sum(dim=1, keepdim=True) + 1e-10)
