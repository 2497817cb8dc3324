"""The assembled autoencoder."""

import pytest
import torch
from torch import nn

from vq_core.errors import ArgumentError
from vq_core.models import VQVAE, Decoder, Encoder, VectorQuantizerEMA


def vqvae(latent: int = 6, dim: int = 6, quantize: bool = True) -> VQVAE:
    torch.manual_seed(0)
    there, back = (nn.Conv2d(*ends, 1) if latent != dim else None for ends in ((latent, dim), (dim, latent)))
    encoder, decoder = Encoder((8, 8), 1, latent), Decoder((8, 8), 1, latent)
    return VQVAE(encoder, VectorQuantizerEMA(16, dim), decoder, there, back, quantize).eval()


@pytest.mark.parametrize(("latent", "dim"), [(6, 6), (6, 4)])
def test_its_parts_make_the_whole(latent: int, dim: int) -> None:
    model, x = vqvae(latent, dim), torch.rand(2, 3, 32, 32) * 2 - 1
    out = model.reconstruct(x)
    assert out.z_e.shape == (2, dim, 8, 8) and torch.equal(out.z_e, model.latents(x))
    assert out.quantized is not None and torch.equal(out.quantized.indices, model.encode(x))
    assert torch.equal(out.quantized.z_q, model.quantizer.lookup(model.encode(x)))
    assert torch.equal(model.decode(model.encode(x)), out.x_rec) and torch.equal(model(x), out.x_rec)
    assert model.device == torch.device("cpu") and model.num_codes == 16


def test_without_quantisation_latents_reach_the_decoder_as_they_are() -> None:
    model, x = vqvae(quantize=False), torch.rand(2, 3, 32, 32) * 2 - 1
    out = model.reconstruct(x)
    assert out.quantized is None and torch.equal(out.x_rec, model.decode_latents(model.latents(x)))
    assert not torch.equal(out.x_rec, model.decode(model.encode(x)))


@pytest.mark.parametrize("code", [-1, 16])
def test_a_code_that_the_codebook_does_not_have_is_named(code: int) -> None:
    indices = torch.full((1, 8, 8), code)
    with pytest.raises(ArgumentError, match=r"\[0, 16\)") as caught:
        vqvae().decode(indices)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, IndexError)
