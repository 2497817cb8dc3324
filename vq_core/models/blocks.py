"""The building blocks of encoder and decoder."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Norm = Literal["group", "batch"]
Activation = Literal["silu", "relu"]
Upsampling = Literal["nearest", "bilinear"]


class GroupNorm(nn.GroupNorm):
    """GroupNorm that keeps its input's type: bf16 stays bf16, with statistics in fp32 inside.

    Autocast would return fp32, which doubles the memory of the following activation and the time to move it.
    """

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if compiled_for_gpu(x):
            return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def compiled_for_gpu(x: Tensor) -> bool:
    """Whether this is being compiled for a GPU, where images have their channels last in memory."""
    return x.is_cuda and torch.compiler.is_compiling()


def group_norm(x: Float[Tensor, "b c h w"], groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`F.group_norm` for the compiler, whose own version copies x to channels first, and the next convolution back."""
    moments = torch.var_mean(x.float().unflatten(1, (groups, -1)), dim=(2, 3, 4), correction=0)
    var, mean = (m.unsqueeze(2).expand(-1, -1, x.shape[1] // groups).flatten(1) for m in moments)  # of each channel
    scale = (var + eps).rsqrt() * weight
    return (x.float() * scale[:, :, None, None] + (bias - mean * scale)[:, :, None, None]).to(x.dtype)


def twice_as_large(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Nearest neighbour ×2 for the compiler, whose own version converts to fp32, and adds gradients up by atomics."""
    rows = x.permute(0, 2, 3, 1).unsqueeze(2).unsqueeze(4).expand(-1, -1, 2, -1, 2, -1)  # [b, h, 2, w, 2, c]
    return rows.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def make_norm(channels: int, kind: Norm) -> nn.Module:
    """GroupNorm with up to 32 groups of at least 8 channels, or BatchNorm."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    groups = max(g for g in range(1, 33) if channels % g == 0 and (g == 1 or channels // g >= 8))
    return GroupNorm(groups, channels, eps=1e-6)


def norm_and_activation(channels: int, norm: Norm, activation: Activation) -> tuple[nn.Module, nn.Module]:
    """A norm, and the SiLU or ReLU that follows it."""
    return make_norm(channels, norm), nn.SiLU() if activation == "silu" else nn.ReLU()


class ResBlock(nn.Module):
    """Pre-activation residual block: x + conv(act(norm(conv(act(norm(x)))))); at first the identity."""

    def __init__(self, channels: int, norm: Norm = "group", activation: Activation = "silu") -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        first = [*norm_and_activation(channels, norm, activation), nn.Conv2d(channels, channels, 3, padding=1)]
        self.body = nn.Sequential(*first, *norm_and_activation(channels, norm, activation), last)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.body(x)


class SelfAttention(nn.Module):
    """Single-head self-attention over all positions of a feature map, added to its input.

    [8, 256, 16, 16] → 256 positions of 256 channels → [8, 256, 16, 16]. Meant for feature maps of 32×32 or below.
    """

    def __init__(self, channels: int, norm: Norm = "group") -> None:
        super().__init__()
        self.norm = make_norm(channels, norm)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2).reshape(x.shape)
        return x + self.out(mixed)


class Upsample(nn.Module):
    """×2 interpolation, then a 3×3 convolution; avoids the checkerboard patterns of transposed convolutions."""

    def __init__(self, channels_in: int, channels_out: int, mode: Upsampling = "nearest") -> None:
        super().__init__()
        self.mode = mode
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        if self.mode == "nearest" and compiled_for_gpu(x):
            return self.conv(twice_as_large(x))
        return self.conv(F.interpolate(x, scale_factor=2.0, mode=self.mode))
