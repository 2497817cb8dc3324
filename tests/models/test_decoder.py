"""The decoder: its range, and how far a code reaches."""

from typing import Any

import pytest
import torch

from vq_core.models import Decoder


@torch.no_grad()
def test_the_decoder_stays_within_its_range_whatever_comes() -> None:
    decoder = Decoder((16, 8), 1, 8)
    x = decoder(1e4 * torch.randn(2, 8, 4, 4))
    assert x.isfinite().all() and x.abs().max() <= 1


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@pytest.mark.parametrize(("channels", "res_blocks"), [((8, 8), 1), ((8, 8), 0), ((8, 8, 8), 2), ((8,), 1)])
def test_reach_bounds_what_a_code_touches(channels: tuple[int, ...], res_blocks: int, upsample: Any) -> None:
    """Against the gradient: where the image depends on one code. Batch norm in eval mode mixes no pixels."""
    torch.manual_seed(0)
    decoder = Decoder(channels, res_blocks, 4, norm="batch", upsample=upsample).eval().double()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    grid, cell = 32, 2 ** len(channels)
    z = torch.randn(1, 4, grid, grid, dtype=torch.double)
    other = z.clone()
    other[..., 16, 16] += 1
    touched = (decoder(z) != decoder(other)).any(1)[0].nonzero()
    first, last = 16 * cell, 17 * cell - 1  # pixels of the cell itself
    beyond = max(first - int(touched.min()), int(touched.max()) - last)
    assert beyond <= decoder.reach * cell < beyond + cell


def test_attention_reaches_everywhere() -> None:
    assert Decoder((8, 8), 1, 4, attention_levels=(0,)).reach == float("inf")
