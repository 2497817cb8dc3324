"""Quantised latents z_q → image."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vq_core.models.blocks import Activation, Norm, ResBlock, SelfAttention, Upsample, Upsampling, norm_and_activation


class Decoder(nn.Module):
    """Roughly the encoder mirrored: residual blocks, then per stage ×2 upsampling, 3×3 convolution, residual blocks.

    z_q [32, 256, 16, 16] with channels (256, 256, 128, 64)
        → [32, 256, 16, 16] → [32, 256, 32, 32] → [32, 256, 64, 64] → [32, 128, 128, 128] → [32, 64, 256, 256]
        → norm, activation, 3×3 convolution, tanh → [32, 3, 256, 256] in (−1, 1).

    Those in `attention_levels` end with self-attention; level n has `2**n` times the side of the code grid. `reach` is
    how far a code affects the image, in cells of the grid, but for GroupNorm, whose statistics are of the whole image.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (256, 256, 128, 64),
        res_blocks: int = 2,
        latent_channels: int = 256,
        norm: Norm = "group",
        activation: Activation = "silu",
        upsample: Upsampling = "nearest",
        attention_levels: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        widths = (channels[0], *channels)  # of each level
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, widths[0], 3, padding=1)]
        for level, width in enumerate(widths):
            layers += [Upsample(widths[level - 1], width, upsample)] if level > 0 else []
            layers += [ResBlock(width, norm, activation) for _ in range(res_blocks)]
            layers += [SelfAttention(width, norm)] if level in attention_levels else []
        self.layers = nn.Sequential(*layers, *norm_and_activation(width, norm, activation))
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        # Each 3×3 convolution adds one of its pixels, which is 1/2^level of a cell; attention reaches everywhere.
        cells = sum((1 + 2 * res_blocks) / 2**level for level in range(len(channels) + 1)) + 1 / 2 ** len(channels)
        cells += sum(0.5 / 2**level for level in range(len(channels))) if upsample == "bilinear" else 0
        self.reach = float("inf") if attention_levels else cells

    def forward(self, z_q: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        return torch.tanh(self.last(self.layers(z_q)))
