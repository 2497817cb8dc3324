"""The blocks of encoder and decoder, each by itself."""

from typing import Any

import pytest
import torch
from torch import nn

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


def test_group_norm_keeps_bf16_and_computes_in_fp32() -> None:
    norm = make_norm(32, "group")
    x = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = norm(x.bfloat16())
        assert norm(x).dtype == torch.float32
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), norm(x.bfloat16().float()), atol=0.02, rtol=0.02)
