"""The assembled autoencoder: encoder, quantiser and decoder as one model."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vq_core.models.decoder import Decoder
from vq_core.models.encoder import Encoder
from vq_core.models.quantizer_ema import Quantized, VectorQuantizerEMA

Images = Float[Tensor, "b 3 height width"]
Latents = Float[Tensor, "b d h w"]
Codes = Int64[Tensor, "b h w"]


class Reconstruction(NamedTuple):
    """What the autoencoder makes of images; `quantized` is None while quantisation is off."""

    x_rec: Tensor
    z_e: Tensor
    quantized: Quantized | None


class VQVAE(nn.Module):
    """Image → latents → codes → image.

    x [32, 3, 256, 256] in [−1, 1] → z_e [32, 256, 16, 16] → indices [32, 16, 16] → z_q → x_rec [32, 3, 256, 256].
    `to_codes` and `from_codes` are 1×1 convolutions between C_latent and D_e, if these differ; `quantize` is False
    during the warm-up before k-means, when latents reach the decoder unchanged.
    """

    def __init__(
        self,
        encoder: Encoder,
        quantizer: VectorQuantizerEMA,
        decoder: Decoder,
        to_codes: nn.Module | None = None,
        from_codes: nn.Module | None = None,
        quantize: bool = True,
    ) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.to_codes, self.from_codes = to_codes or nn.Identity(), from_codes or nn.Identity()
        self.num_codes, self.quantize = quantizer.num_codes, quantize

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
        if not self.quantize:
            return Reconstruction(self.decode_latents(z_e), z_e, None)
        quantized = self.quantizer(z_e)
        return Reconstruction(self.decode_latents(quantized.z_q), z_e, quantized)
