"""The encoder, and the decoder as its mirror image: shapes and gradients with every option."""

from typing import Any

import pytest
from random_images import images

from vq_core.models import Decoder, Encoder
from vq_core.models.blocks import SelfAttention

OPTIONS: list[dict[str, Any]] = [
    {},
    {"norm": "batch"},
    {"activation": "relu"},
    {"res_blocks": 0},
    {"res_blocks": 3},
    {"attention_levels": (0,)},
    {"attention_levels": (0, 1)},
    {"channels": (8,)},
    {"channels": (8, 12, 20)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_encoder_and_decoder_with_every_option(options: dict[str, Any]) -> None:
    options = {"channels": (8, 16), "res_blocks": 1, "latent_channels": 5} | options
    depth, x = len(options["channels"]), images(2, 32)
    encoder = Encoder(**options)
    decoder = Decoder(**(options | {"channels": options["channels"][::-1]}))
    z = encoder(x)
    x_rec = decoder(z)
    assert z.shape == (2, 5, 32 >> depth, 32 >> depth) and x_rec.shape == x.shape
    (x_rec - x).square().mean().backward()
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    count = sum(isinstance(module, SelfAttention) for module in encoder.modules())
    assert count == len(options.get("attention_levels", ()))
