"""Image → latents z_e."""

from jaxtyping import Float
from torch import Tensor, nn

from vq_core.models.blocks import Activation, Norm, ResBlock, SelfAttention, norm_and_activation


class Encoder(nn.Module):
    """ResNet-style encoder: per stage a stride-2 convolution, then residual blocks.

    [32, 3, 256, 256] with channels (128, 256, 256, 256)
        → [32, 128, 128, 128] → [32, 256, 64, 64] → [32, 256, 32, 32] → [32, 256, 16, 16]
        → norm, activation, 1×1 convolution → z_e [32, latent_channels, 16, 16].

    Each stage halves the side and has `res_blocks` blocks; in `attention_levels` (0: the first) attention follows them.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (128, 256, 256, 256),
        res_blocks: int = 2,
        latent_channels: int = 256,
        norm: Norm = "group",
        activation: Activation = "silu",
        attention_levels: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for level, wider in enumerate(channels):
            layers.append(nn.Conv2d(width, wider, 4, stride=2, padding=1))
            layers += [ResBlock(wider, norm, activation) for _ in range(res_blocks)]
            layers += [SelfAttention(wider, norm)] if level in attention_levels else []
            width = wider
        layers += [*norm_and_activation(width, norm, activation), nn.Conv2d(width, latent_channels, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c h w"]:
        return self.layers(x)
