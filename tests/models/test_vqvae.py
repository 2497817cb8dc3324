"""The assembled autoencoder."""

import pytest
import torch
from random_images import images
from torch import nn

from vq_core import load_config
from vq_core.errors import ArgumentError
from vq_core.models import VQVAE
from vq_core.models.blocks import SelfAttention, Upsample
from vq_core.runs.loading import make_vqvae


def vqvae(latent: int = 6, dim: int = 6, quantize: bool = True) -> VQVAE:
    torch.manual_seed(0)
    return VQVAE((8, 8), (8, 8), 1, latent, dim, 16, quantize=quantize).eval()


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


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "size"), [("full", 256), ("demo", 64), ("smoke", 64)])
@torch.no_grad()
def test_every_profiles_way_through_the_model(profile: str, size: int) -> None:
    config = load_config(profile, ["model.res_blocks=1"] if profile == "full" else [])
    model = make_vqvae(config).eval()
    x = images(1, size)
    indices = model.encode(x)
    assert model.latents(x).shape == (1, config.model.code_dim, 16, 16)
    assert indices.shape == (1, 16, 16) and indices.dtype == torch.int64
    x_rec = model.decode(indices)
    assert x_rec.shape == x.shape and x_rec.abs().max() < 1
    torch.testing.assert_close(x_rec, model(x), atol=1e-5, rtol=1e-4)


def test_options_reach_the_parts_of_the_model() -> None:
    changes = ["model.norm=batch", "model.activation=relu", "model.upsample=bilinear", "model.attention_at=[16, 32]"]
    model = make_vqvae(load_config("smoke", [*changes, "model.latent_channels=24"]))
    kinds = [type(module) for module in model.modules()]
    assert nn.GroupNorm not in kinds and nn.SiLU not in kinds and nn.BatchNorm2d in kinds and nn.ReLU in kinds
    assert {module.mode for module in model.modules() if isinstance(module, Upsample)} == {"bilinear"}
    assert model.to_codes.weight.shape == (16, 24, 1, 1) and model.from_codes.weight.shape == (24, 16, 1, 1)
    x = images(2, 64)
    sizes: list[tuple[str, int]] = []
    for part in ("encoder", "decoder"):
        for module in getattr(model, part).modules():
            if isinstance(module, SelfAttention):
                module.register_forward_hook(lambda _, inputs, out, p=part: sizes.append((p, out.shape[-1])))
    assert model(x).shape == x.shape and model.latents(x).shape == (2, 16, 16, 16)
    assert set(sizes) == {("encoder", 32), ("encoder", 16), ("decoder", 16), ("decoder", 32)}
