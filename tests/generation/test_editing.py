"""Editing codes: only the region changes, and far from it not one pixel does."""

from typing import Any

import pytest
import torch

from vq_core.config import load_config
from vq_core.errors import ArgumentError
from vq_core.generation.editing import (
    Edit,
    blend_latents,
    cells_of,
    completion,
    decode_edited,
    exchange_codes,
    region,
)
from vq_core.generation.sampling import Sampling, random_codes, sample_codes
from vq_core.models import VQVAE, CodeTransformer
from vq_core.runs.loading import make_vqvae


@pytest.fixture(scope="module")
def model() -> VQVAE:
    torch.manual_seed(0)
    # Batch norm: in eval mode it has no statistics over the image, so a pixel depends on its neighbourhood only.
    return make_vqvae(load_config("smoke", ["model.norm=batch"])).eval().requires_grad_(False)


def test_regions_and_their_errors() -> None:
    mask = region(16, (2, 5), (0, 16))
    assert mask.sum() == 48 and mask[2:5].all()
    for rows in ((5, 5), (-1, 3), (0, 17)):
        with pytest.raises(ValueError, match="rows"):
            region(16, rows, (0, 16))


def test_only_the_region_changes() -> None:
    a, b = random_codes(32, 2, 16).split(1)
    mask = region(16, (3, 6), (4, 9))
    copied, painted = Edit(region=mask, copy_from=b).apply(a), Edit(region=mask, code=31).apply(a)
    for changed in (copied, painted):
        assert torch.equal(changed[:, ~mask], a[:, ~mask])
    assert torch.equal(copied[:, mask], b[:, mask])
    assert bool((painted[:, mask] == 31).all()) and bool((Edit(code=31).apply(a) == 31).all())


def test_replace_code_leaves_the_others() -> None:
    codes = random_codes(8, 1, 16)
    changed = Edit(replace=(3, 5)).apply(codes)
    assert not (changed == 3).any() and bool((changed[codes != 3] == codes[codes != 3]).all())


def test_cells_of_pixels() -> None:
    pixels = torch.zeros(64, 64, dtype=torch.bool)
    pixels[7, 8] = pixels[63, 0] = True
    assert cells_of(pixels, 16).nonzero().tolist() == [[1, 2], [15, 0]]
    with pytest.raises(ValueError, match="mask is empty"):
        cells_of(torch.zeros(64, 64, dtype=torch.bool), 16)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_pixels_outside_the_decoders_reach_stay_equal(norm: str) -> None:
    """With GroupNorm too, whose statistics carry a change into every pixel."""
    torch.manual_seed(0)
    model = make_vqvae(load_config("smoke", [f"model.norm={norm}"])).eval().requires_grad_(False)
    for name, parameter in model.decoder.named_parameters():
        if "weight" in name:
            parameter.add_(0.05 * torch.randn_like(parameter))  # a fresh model's blocks reach nowhere
    codes = random_codes(32, 1, 16, seed=1)
    mask = region(16, (0, 2), (0, 2))
    painted = Edit(region=mask, code=7).apply(codes)
    before, plain = model.decode(codes), model.decode(painted)
    after = decode_edited(model, codes, painted)
    edge = int((2 + model.decoder.reach) * 4) + 1
    far = torch.ones(64, 64, dtype=torch.bool)
    far[:edge, :edge] = False
    assert far.any() and torch.equal(before[..., far], after[..., far])
    assert torch.equal(plain[..., far], before[..., far]) == (norm == "batch")
    assert torch.equal(after[..., :16, :16], plain[..., :16, :16])
    assert not torch.equal(before[..., :8, :8], after[..., :8, :8])


def test_nothing_edited_changes_nothing() -> None:
    torch.manual_seed(0)
    model, codes = make_vqvae(load_config("smoke")).eval().requires_grad_(False), random_codes(32, 1, 16)
    assert torch.equal(decode_edited(model, codes, codes.clone()), model.decode(codes))


# --- with the masked prior ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked() -> CodeTransformer:
    torch.manual_seed(0)
    return CodeTransformer(32, 16, 16, 1, 2, 0.0, causal=False)


@pytest.mark.parametrize(("fraction", "redrawn"), [(0.001, 1), (0.25, 64), (1.0, 256)])
def test_variations_draw_a_fraction_anew(masked: CodeTransformer, fraction: float, redrawn: int) -> None:
    codes, edit, how = random_codes(32, 1, 16, seed=4), Edit(vary=fraction), Sampling(seed=1)
    varied = edit.apply(codes, masked, 3, how, progress=False)
    changed = (varied != codes).flatten(1).sum(1)
    assert bool((changed <= redrawn).all()) and bool((changed >= 0.8 * redrawn).all())
    assert torch.equal(varied, edit.apply(codes, masked, 3, how, progress=False))
    if redrawn == 64:
        assert not torch.equal(varied[0] != codes[0], varied[1] != codes[0])  # each forgets other places


def test_a_region_is_drawn_anew_given_the_rest(masked: CodeTransformer) -> None:
    codes, mask = random_codes(32, 1, 16, seed=4), region(16, (3, 6), (4, 9))
    drawn = Edit(region=mask, regenerate=True).apply(codes, masked, 3, Sampling(seed=1), progress=False)
    assert drawn.shape == (3, 16, 16) and torch.equal(drawn[:, ~mask], codes[:, ~mask].expand(3, -1))
    assert not torch.equal(drawn[:, mask], codes[:, mask].expand(3, -1))
    with pytest.raises(ArgumentError, match="needs a prior, preferably the masked one"):
        Edit(region=mask, regenerate=True).apply(codes)


def test_the_causal_prior_draws_what_comes_last_in_raster_order(masked: CodeTransformer) -> None:
    rows, corner = region(16, (8, 16), (0, 16)), region(16, (8, 16), (8, 16))
    after = torch.arange(256).view(16, 16) >= 100  # begins in the middle of a row
    for mask, way in ((rows, "causal"), (after, "causal"), (corner, "masked"), (~after, "masked"), (None, "causal")):
        assert Edit(region=mask, regenerate=True).way == way
    assert Edit(vary=0.5).way == "masked"
    torch.manual_seed(0)
    causal, codes = CodeTransformer(32, 16, 16, 1, 2, 0.0), random_codes(32, 1, 16, seed=4)
    drawn = Edit(region=rows, regenerate=True).apply(codes, causal, 3, Sampling(seed=1), progress=False)
    assert torch.equal(
        drawn, sample_codes(causal, 3, Sampling(seed=1), start=codes, keep=~rows, progress=False)
    ) and not torch.equal(drawn[:, rows], codes[:, rows].expand(3, -1))
    with pytest.raises(ArgumentError, match="one mask"):
        Edit(vary=0.5).apply(codes, causal)


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ({}, "an edit is one of .*; got none"),
        ({"code": 1, "vary": 0.5}, "got code, vary"),
        ({"regenerate": True, "replace": (1, 2)}, "got replace, regenerate"),
        ({"region": torch.ones(16, 16, dtype=torch.bool), "vary": 0.5}, "vary takes no region"),
        ({"region": torch.ones(16, 16, dtype=torch.bool), "replace": (1, 2)}, "replace takes no region"),
        *(({"vary": fraction}, r"vary must be in \(0, 1\]") for fraction in (0.0, -1.0, 1.1, float("nan"))),
    ],
)
def test_impossible_edits_are_named(what: dict[str, Any], named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        Edit(**what)


def test_completion_ignores_what_is_in_the_hole(model: VQVAE, masked: CodeTransformer) -> None:
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    missing = torch.zeros(64, 64, dtype=torch.bool)
    missing[40:, :] = True

    def completed(x: torch.Tensor) -> torch.Tensor:
        given, edit = completion(model, x, missing)
        return edit.apply(given, masked, 2, Sampling(seed=3), progress=False)

    codes = completed(x)
    assert torch.equal(codes, completed(torch.where(missing, -x, x)))
    assert torch.equal(codes[0, :9], codes[1, :9])  # one row of cells above the hole is drawn too
    assert not torch.equal(codes[0, 9:], codes[1, 9:])


def test_interpolations_start_and_end_where_they_should(model: VQVAE) -> None:
    a, b = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).split(1)
    blended = blend_latents(model, a, b, 5)
    torch.testing.assert_close(blended[:1], model(a))
    torch.testing.assert_close(blended[-1:], model(b))
    one, two = random_codes(32, 2, 16).split(1)
    path = exchange_codes(one, two, 5)
    assert torch.equal(path[:1], one) and torch.equal(path[-1:], two)
    taken = [(grid == two[0]).sum().item() for grid in path]
    assert taken == sorted(taken)
