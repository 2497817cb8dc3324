"""The PatchGAN discriminator."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as with_spectral_norm

from vq_core.models.blocks import make_norm


class PatchDiscriminator(nn.Module):
    """Rates how real each patch of an image looks (Isola et al., arXiv:1611.07004, section 3.2.2).

    [32, 3, 256, 256] with layers=3 → logits [32, 1, 30, 30]; each sees a patch of 70×70 pixels. Higher is more real.
    Deviation from the paper: GroupNorm instead of BatchNorm, so real and generated batches share no statistics; or with
    `spectral_norm` neither, but a bound on each convolution's Lipschitz constant (arXiv:1802.05957). There are `layers`
    stride-2 layers; `channels`, of the first, are doubled in each further one, up to eight times as many.
    """

    def __init__(self, channels: int = 64, layers: int = 3, spectral_norm: bool = False) -> None:
        super().__init__()

        def conv(width_in: int, width_out: int, stride: int) -> nn.Module:
            layer = nn.Conv2d(width_in, width_out, 4, stride=stride, padding=1)
            return with_spectral_norm(layer) if spectral_norm else layer

        body: list[nn.Module] = [conv(3, channels, 2), nn.LeakyReLU(0.2)]
        widths = [channels * min(2**level, 8) for level in range(layers + 1)]
        for level, (width, wider) in enumerate(pairwise(widths), 1):
            body.append(conv(width, wider, 2 if level < layers else 1))
            body += [] if spectral_norm else [make_norm(wider, "group")]
            body.append(nn.LeakyReLU(0.2))
        self.body = nn.Sequential(*body, conv(widths[-1], 1, 1))

    def forward(self, x: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b 1 h w"]:
        return self.body(x)
