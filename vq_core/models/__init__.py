"""The networks, in plain torch: nothing here knows of Lightning, configuration files or the disk."""

from vq_core.models.decoder import Decoder
from vq_core.models.discriminator import PatchDiscriminator
from vq_core.models.encoder import Encoder
from vq_core.models.quantizer_ema import Quantized, VectorQuantizerEMA
from vq_core.models.transformer import CodeTransformer

__all__ = ["CodeTransformer", "Decoder", "Encoder", "PatchDiscriminator", "Quantized", "VectorQuantizerEMA"]
