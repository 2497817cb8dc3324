"""The blocks of encoder and decoder, each by itself."""

from typing import Any

import pytest
import torch
from torch import nn

from vq_core.models import Decoder, Encoder, blocks
from vq_core.models.blocks import ResBlock, SelfAttention, Upsample, make_norm


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsampling_doubles_the_size_with_the_chosen_interpolation(mode: Any) -> None:
    up = Upsample(1, 1, mode)
    nn.init.dirac_(up.conv.weight)
    assert up.conv.bias is not None
    nn.init.zeros_(up.conv.bias)
    x = torch.tensor([[0.0, 4.0], [0.0, 4.0]]).view(1, 1, 2, 2)
    expected = [0.0, 0.0, 4.0, 4.0] if mode == "nearest" else [0.0, 1.0, 3.0, 4.0]
    assert up(x)[0, 0].tolist() == [expected] * 4


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


@pytest.mark.parametrize(
    "network, shape", [(Encoder((32, 64), 1, 8), (2, 3, 16, 16)), (Decoder((64, 32), 1, 8), (2, 8, 4, 4))]
)
def test_what_is_compiled_for_a_gpu_computes_the_same_with_channels_last_throughout(
    monkeypatch: pytest.MonkeyPatch, network: nn.Module, shape: tuple[int, ...]
) -> None:
    network = network.double().to(memory_format=torch.channels_last)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))  # no block is the identity
    weights = list(network.parameters())
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # so that only mistakes make a difference
    results, seen = [], list[bool]()
    for compiled in (False, True):
        monkeypatch.setattr(blocks, "compiled_for_gpu", lambda x, compiled=compiled: compiled)
        y = network(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *weights])])
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(
                    lambda module, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
                )
    torch.testing.assert_close(*results)
    assert seen and all(seen)


def test_group_norm_keeps_bf16_and_computes_in_fp32() -> None:
    norm = make_norm(32, "group")
    x = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = norm(x.bfloat16())
        assert norm(x).dtype == torch.float32
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), norm(x.bfloat16().float()), atol=0.02, rtol=0.02)
