"""The networks, in plain torch: nothing here knows about Lightning, configuration files or runs."""

from vq_core.models.decoder import Decoder
from vq_core.models.discriminator import PatchDiscriminator
from vq_core.models.encoder import Encoder
from vq_core.models.quantizer_ema import Quantized, VectorQuantizerEMA
from vq_core.models.transformer import AnyOrderTransformer, CodeTransformer
from vq_core.models.vqvae import VQVAE, Reconstruction

__all__ = ["VQVAE", "AnyOrderTransformer", "CodeTransformer", "Decoder", "Encoder", "PatchDiscriminator"]
__all__ += ["Quantized", "Reconstruction", "VectorQuantizerEMA"]
