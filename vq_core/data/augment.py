"""Conversion of image batches between bytes and floats, and augmentation on whichever device they are on.

Flip and colour jitter only: faces are upright, so nothing is rotated or warped.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from vq_core.errors import UserError
from vq_core.settings import DataConfig

try:
    from torchvision.transforms.v2.functional import rgb_to_grayscale
except (ImportError, RuntimeError) as error:  # "operator torchvision::nms does not exist"
    why = f"torchvision does not work with torch {torch.__version__} ({error})"
    raise UserError(f"{why}: install both from one place, as on pytorch.org's page 'Get started'") from None


def to_float(x: UInt8[Tensor, "b h w c"]) -> Float[Tensor, "b c h w"]:
    """Bytes in [0, 255] to floats in [−1, 1]; channels come first in shape and last in memory."""
    return x.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(x: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b h w c"]:
    """Floats in [−1, 1] to bytes, rounded; values outside that range are clamped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def augment(
    x: Float[Tensor, "b c h w"], config: DataConfig, generator: torch.Generator, shard: tuple[int, int] = (0, 1)
) -> Float[Tensor, "b c h w"]:
    """Flip and jitter each RGB image of a batch in [−1, 1] independently; returns a new batch clamped to [−1, 1].

    `config.flip` is a probability; brightness, contrast and saturation, v in `config`, are applied in that order and
    defined as in torchvision, with factors drawn from [1 − v, 1 + v]. The generator is on the CPU, so that a GPU gets
    the same batches; of a single draw each process of `shard` (rank, number of processes) takes its part.
    """
    rank, world = shard
    draw = torch.rand(4, len(x) * world, 1, 1, 1, generator=generator)[:, rank::world]
    spread = torch.tensor([config.brightness, config.contrast, config.saturation])
    factors = (1 + spread.view(3, 1, 1, 1, 1) * (2 * draw[1:] - 1)).to(x.device, non_blocking=True)
    x = torch.where((draw[0] < config.flip).to(x.device, non_blocking=True), x.flip(-1), x)
    x = ((x + 1) / 2 * factors[0]).clamp(0, 1)
    x = (factors[1] * x + (1 - factors[1]) * rgb_to_grayscale(x).mean((1, 2, 3), keepdim=True)).clamp(0, 1)
    x = (factors[2] * x + (1 - factors[2]) * rgb_to_grayscale(x)).clamp(0, 1)
    return x * 2 - 1


def crop(x: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
    """A random square of 84 % to 100 % of each image's side, resized to the whole (bilinear)."""
    draw = torch.rand(3, len(x), generator=generator)
    side, zero = 1 - 0.16 * draw[0], torch.zeros(len(x))
    right, down = (1 - side) * (2 * draw[1:] - 1)  # of its centre, in [−1, 1]
    affine = torch.stack([side, zero, right, zero, side, down], dim=1).view(-1, 2, 3).to(x.device)
    where = F.affine_grid(affine, list(x.shape), align_corners=False)
    return F.grid_sample(x, where, padding_mode="border", align_corners=False)


def to_pictures(x: Float[Tensor, "b c h w"]) -> UInt8[np.ndarray, "b h w c"]:
    """Images in [−1, 1], on any device, as uint8 arrays for display."""
    return to_uint8(x.detach()).cpu().numpy()
