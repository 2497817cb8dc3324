"""The assembled autoencoder: encoder, quantiser and decoder as one model."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vq_core.hub import Portable
from vq_core.models.blocks import Activation, Norm, Upsampling
from vq_core.models.decoder import Decoder
from vq_core.models.encoder import Encoder
from vq_core.models.quantizer_ema import Learning, Quantized, VectorQuantizerEMA

Images = Float[Tensor, "b 3 height width"]
Latents = Float[Tensor, "b d h w"]
Codes = Int64[Tensor, "b h w"]


class Reconstruction(NamedTuple):
    """What the autoencoder makes of images; `quantized` is None while quantisation is off."""

    x_rec: Tensor
    z_e: Tensor
    quantized: Quantized | None


class VQVAE(nn.Module, Portable):
    """Image → latents → codes → image.

    x [32, 3, 256, 256] in [−1, 1] → z_e [32, 256, 16, 16] → indices [32, 16, 16] → z_q → x_rec [32, 3, 256, 256].
    The arguments are those of `Encoder`, `Decoder` and `VectorQuantizerEMA`; `attention_levels` are the decoder's, and
    the encoder has attention at the same sizes. Between C_latent and D_e, if these differ, there are 1×1 convolutions.
    `quantize` is False during the warm-up before k-means, when latents reach the decoder unchanged.
    """

    def __init__(
        self,
        channels: Sequence[int] = (128, 256, 256, 256),
        decoder_channels: Sequence[int] = (256, 256, 128, 64),
        res_blocks: int = 2,
        latent_channels: int = 256,
        code_dim: int = 256,
        num_codes: int = 1024,
        norm: Norm = "group",
        activation: Activation = "silu",
        upsample: Upsampling = "nearest",
        attention_levels: Sequence[int] = (),
        decay: float = 0.99,
        eps: float = 1e-5,
        learning: Learning = "ema",
        quantize: bool = True,
    ) -> None:
        super().__init__()
        same, inside, levels = (norm, activation), latent_channels, tuple(attention_levels)
        stages = tuple(len(channels) - 1 - level for level in levels)
        # The order in which these modules draw random numbers is part of every result: do not change it.
        self.encoder = Encoder(tuple(channels), res_blocks, inside, *same, stages)
        self.decoder = Decoder(tuple(decoder_channels), res_blocks, inside, *same, upsample, levels)
        self.to_codes = nn.Conv2d(inside, code_dim, 1) if inside != code_dim else nn.Identity()
        self.from_codes = nn.Conv2d(code_dim, inside, 1) if inside != code_dim else nn.Identity()
        self.quantizer = VectorQuantizerEMA(num_codes, code_dim, decay, eps, learning)
        self.num_codes, self.quantize = num_codes, quantize

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.quantizer.codebook.device

    def latents(self, x: Images) -> Latents:
        """z_e, the latents before quantisation."""
        return self.to_codes(self.encoder(x))

    def encode(self, x: Images) -> Codes:
        """Images in [−1, 1] → indices."""
        return self.quantizer(self.latents(x)).indices

    def decode(self, indices: Codes) -> Images:
        """Indices → images in [−1, 1]. Raises `UnknownCodeError` for an index outside the codebook."""
        return self.decode_latents(self.quantizer.lookup(indices))

    def decode_latents(self, z: Latents) -> Images:
        """Latents, quantised or not → images in [−1, 1]."""
        return self.decoder(self.from_codes(z))

    def forward(self, x: Images) -> Images:
        """Reconstructions of images in [−1, 1]."""
        return self.reconstruct(x).x_rec

    def reconstruct(self, x: Images) -> Reconstruction:
        """Reconstruction, latents and quantisation together."""
        z_e = self.latents(x)
        quantized = self.quantizer(z_e) if self.quantize else None
        return Reconstruction(self.decode_latents(z_e if quantized is None else quantized.z_q), z_e, quantized)
