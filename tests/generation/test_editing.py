"""Editing codes: only the region changes, and far from it not one pixel does."""

import pytest
import torch

from vq_core.config import load_config
from vq_core.generation.editing import blend_latents, copy_region, exchange_codes, paint, region, replace_code
from vq_core.generation.sampling import random_codes
from vq_core.training.vqvae_module import VQVAEModel


@pytest.fixture(scope="module")
def model() -> VQVAEModel:
    torch.manual_seed(0)
    # Batch norm: in eval mode it has no statistics over the image, so a pixel depends on its neighbourhood only.
    return VQVAEModel(load_config("smoke", ["model.norm=batch"])).eval().requires_grad_(False)


def test_regions_and_their_errors() -> None:
    mask = region(16, (2, 5), (0, 16))
    assert mask.sum() == 48 and mask[2:5].all()
    for rows in ((5, 5), (-1, 3), (0, 17)):
        with pytest.raises(ValueError, match="rows"):
            region(16, rows, (0, 16))


def test_only_the_region_changes() -> None:
    a, b = random_codes(32, 2, 16).split(1)
    mask = region(16, (3, 6), (4, 9))
    for changed in (copy_region(a, b, mask), paint(a, mask, 31)):
        assert torch.equal(changed[:, ~mask], a[:, ~mask])
    assert torch.equal(copy_region(a, b, mask)[:, mask], b[:, mask])
    assert bool((paint(a, mask, 31)[:, mask] == 31).all())


def test_replace_code_leaves_the_others() -> None:
    codes = random_codes(8, 1, 16)
    changed = replace_code(codes, 3, 5)
    assert not (changed == 3).any() and bool((changed[codes != 3] == codes[codes != 3]).all())


def test_pixels_outside_the_decoders_reach_stay_equal(model: VQVAEModel) -> None:
    codes = random_codes(32, 1, 16, seed=1)
    mask = region(16, (0, 2), (0, 2))
    before, after = model.decode(codes), model.decode(paint(codes, mask, 7))
    cells = 6  # reach of the decoder in cells of the grid
    far = torch.ones(64, 64, dtype=torch.bool)
    far[: (2 + cells) * 4, : (2 + cells) * 4] = False
    assert torch.equal(before[..., far], after[..., far])
    assert not torch.equal(before[..., :8, :8], after[..., :8, :8])


def test_interpolations_start_and_end_where_they_should(model: VQVAEModel) -> None:
    a, b = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).split(1)
    blended = blend_latents(model, a, b, 5)
    torch.testing.assert_close(blended[:1], model(a))
    torch.testing.assert_close(blended[-1:], model(b))
    one, two = random_codes(32, 2, 16).split(1)
    path = exchange_codes(one, two, 5)
    assert torch.equal(path[:1], one) and torch.equal(path[-1:], two)
    taken = [(grid == two[0]).sum().item() for grid in path]
    assert taken == sorted(taken)
