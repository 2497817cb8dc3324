"""Encoder, decoder and discriminator: shapes, ranges, options, what each output sees."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vq_core import load_config
from vq_core.models import Decoder, Encoder, PatchDiscriminator
from vq_core.models.blocks import ResBlock, SelfAttention, Upsample, make_norm
from vq_core.runs.loading import make_vqvae


def images(batch: int, size: int) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


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


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsampling_doubles_the_size_with_the_chosen_interpolation(mode: Any) -> None:
    up = Upsample(1, 1, mode)
    nn.init.dirac_(up.conv.weight)
    assert up.conv.bias is not None
    nn.init.zeros_(up.conv.bias)
    x = torch.tensor([[0.0, 4.0], [0.0, 4.0]]).view(1, 1, 2, 2)
    expected = [0.0, 0.0, 4.0, 4.0] if mode == "nearest" else [0.0, 1.0, 3.0, 4.0]
    assert up(x)[0, 0].tolist() == [expected] * 4


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


@torch.no_grad()
def test_the_decoder_stays_within_its_range_whatever_comes() -> None:
    decoder = Decoder((16, 8), 1, 8)
    x = decoder(1e4 * torch.randn(2, 8, 4, 4))
    assert x.isfinite().all() and x.abs().max() <= 1


@torch.no_grad()
def test_fresh_blocks_are_the_identity() -> None:
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(ResBlock(16)(x), x)
    attention = SelfAttention(16)
    assert attention.out.bias is not None
    torch.testing.assert_close(attention(x) - attention.out.bias.view(1, -1, 1, 1), x)


@torch.no_grad()
def test_attention_by_hand() -> None:
    attention, x = SelfAttention(8), torch.randn(2, 8, 3, 3)
    nn.init.normal_(attention.out.weight)
    q, k, v = attention.qkv(attention.norm(x)).flatten(2).chunk(3, dim=1)  # each [b, c, 9]
    weights = (torch.einsum("bci,bcj->bij", q, k) / 8**0.5).softmax(-1)
    mixed = torch.einsum("bij,bcj->bci", weights, v).view(2, 8, 3, 3)
    torch.testing.assert_close(attention(x), x + attention.out(mixed), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (128, 16), (32, 4), (16, 2), (12, 1), (8, 1), (5, 1)])
def test_groups_have_at_least_eight_channels(channels: int, groups: int) -> None:
    norm = make_norm(channels, "group")
    assert isinstance(norm, nn.GroupNorm) and norm.num_groups == groups


# --- discriminator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "size", "grid"), [(3, 256, 30), (3, 128, 14), (2, 64, 14), (1, 64, 30), (1, 32, 14)]
)
def test_discriminator_shape(layers: int, size: int, grid: int) -> None:
    assert PatchDiscriminator(4, layers)(images(2, size)).shape == (2, 1, grid, grid)


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_each_logit_sees_one_patch(layers: int, patch: int) -> None:
    x = images(1, 128).requires_grad_()
    # Spectral norm stands in for GroupNorm, whose means see the whole image.
    logits = PatchDiscriminator(4, layers, spectral_norm=True)(x)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    assert x.grad is not None
    seen = x.grad.abs().sum((0, 1)) > 0
    assert [int(seen.any(dim).sum()) for dim in (0, 1)] == [patch, patch]


def test_spectral_norm_bounds_every_convolution() -> None:
    torch.manual_seed(0)
    plain, bounded = PatchDiscriminator(8, 2), PatchDiscriminator(8, 2, spectral_norm=True)
    for _ in range(30):  # its power iteration goes on with every forward pass in training
        bounded(images(1, 32))
    norms = [
        [
            float(torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2))
            for m in net.modules()
            if isinstance(m, nn.Conv2d)
        ]
        for net in (plain, bounded)
    ]
    assert norms[1] == pytest.approx([1.0] * 4, abs=0.05) and any(abs(norm - 1) > 0.1 for norm in norms[0])
    assert not any(isinstance(module, nn.GroupNorm) for module in bounded.modules())


@torch.no_grad()
def test_real_and_generated_images_share_no_statistics() -> None:
    net, x = PatchDiscriminator(8, 2), images(4, 32)
    torch.testing.assert_close(net(x)[:1], net(x[:1]), atol=1e-5, rtol=1e-4)


def test_group_norm_keeps_bf16_and_computes_in_fp32() -> None:
    norm = make_norm(32, "group")
    x = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = norm(x.bfloat16())
        assert norm(x).dtype == torch.float32
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), norm(x.bfloat16().float()), atol=0.02, rtol=0.02)
