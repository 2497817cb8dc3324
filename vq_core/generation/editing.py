"""Editing in code space: from codes [b, h, w] (or images) to new ones; inputs are never modified."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vq_core.errors import ArgumentError
from vq_core.generation.sampling import Sampling, Way, fill_codes, sample_codes
from vq_core.models import VQVAE, CodeTransformer

Codes = Int64[Tensor, "b h w"]
Mask = Bool[Tensor, "h w"]
OneImage = Float[Tensor, "1 3 height width"]
OneGrid = Int64[Tensor, "1 h w"]


def region(grid: int, rows: tuple[int, int], columns: tuple[int, int]) -> Mask:
    """Rows and columns first … last − 1 of the code grid. Raises `ArgumentError` if they are none, or not inside it."""
    for name, (first, last) in (("rows", rows), ("columns", columns)):
        if not 0 <= first < last <= grid:
            raise ArgumentError(f"{name} must be first:last with 0 <= first < last <= {grid}, got {first}:{last}")
    mask = torch.zeros(grid, grid, dtype=torch.bool)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


def cells_of(pixels: Bool[Tensor, "height width"], grid: int) -> Mask:
    """The cells of the code grid that contain a marked pixel. Raises `ArgumentError` if none is marked."""
    if not bool(pixels.any()):
        raise ArgumentError("the mask is empty: it must mark at least one pixel")
    return F.max_pool2d(pixels[None].float(), pixels.shape[0] // grid)[0] > 0


@dataclass(frozen=True)
class Edit:
    """A region of an avatar's codes and one change to it: give exactly one of the other arguments.

    Raises `ArgumentError` if none or several of them are given, or one is outside its range.
    """

    region: Mask | None = None  # cells of the grid [h, w]; all of them by default
    copy_from: OneGrid | None = None  # codes of another avatar [1, h, w], to copy the region from
    code: int | None = None  # fill the region with this code
    replace: tuple[int, int] | None = None  # (old code, new code), wherever the old one occurs; takes no region
    regenerate: bool = False  # let a prior redraw the region, given the rest
    # Let a prior redraw this fraction of all codes, in (0, 1], at scattered positions: a little changes details, 1
    # leaves nothing of the avatar; takes no region.
    vary: float | None = None

    def __post_init__(self) -> None:
        ways = {"copy_from": self.copy_from, "code": self.code, "replace": self.replace, "vary": self.vary}
        given = [name for name, value in ways.items() if value is not None] + ["regenerate"] * self.regenerate
        if len(given) != 1:
            raise ArgumentError(f"an edit is one of {', '.join(ways)}, regenerate; got {', '.join(given) or 'none'}")
        if self.region is not None and given[0] in ("replace", "vary"):
            raise ArgumentError(f"{given[0]} takes no region")
        if self.vary is not None and not 0 < self.vary <= 1:
            raise ArgumentError(f"vary must be in (0, 1], got {self.vary}")

    @property
    def way(self) -> Way:
        """The prior that redraws best: causal if the region comes after all others in raster order, else masked."""
        region = torch.ones(1, dtype=torch.bool) if self.region is None else self.region.flatten()
        return "causal" if self.vary is None and bool((region[1:] >= region[:-1]).all()) else "masked"

    def apply(
        self,
        codes: OneGrid,
        prior: CodeTransformer | None = None,
        count: int = 1,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        progress: bool = True,
    ) -> Codes:
        """The edited codes: [1, h, w], or [count, h, w] proposals if a prior, preferably that of `way`, draws them.

        Raises `ArgumentError` if a prior is needed but not given, or the causal one is given for `vary`.
        """
        region = torch.ones_like(codes[0], dtype=torch.bool) if self.region is None else self.region.to(codes.device)
        if self.copy_from is not None:
            return torch.where(region, self.copy_from, codes)
        if self.code is not None:
            return codes.masked_fill(region, self.code)
        if self.replace is not None:
            return codes.masked_fill(codes == self.replace[0], self.replace[1])
        if prior is None:
            raise ArgumentError(f"this edit needs a prior, preferably the {self.way} one")
        keep = ~region
        if self.vary is not None:
            n = codes[0].numel()
            order = torch.rand(count, n, generator=torch.Generator().manual_seed(sampling.seed)).argsort(1).argsort(1)
            keep = (order >= max(1, round(self.vary * n))).view(count, *codes.shape[1:])
        draw = sample_codes if prior.causal else fill_codes
        return draw(prior, count, sampling, start=codes, keep=keep, progress=progress)


@torch.no_grad()
def completion(model: VQVAE, x: OneImage, missing: Bool[Tensor, "height width"]) -> tuple[OneGrid, Edit]:
    """Codes of a partial image, and the edit that completes them.

    What `x` contains in its missing pixels does not matter. The edit redraws the cells that contain missing pixels and
    their neighbours, as the encoder's output for a cell depends on its surroundings.
    """
    missing = missing.to(x.device)
    # The hole takes the mean colour of the rest: the encoder sees it from cells away and, by GroupNorm, everywhere.
    mean = x[..., ~missing].mean(-1).nan_to_num()[..., None, None]  # NaN if everything is missing
    codes = model.encode(torch.where(missing, mean, x))
    cells = F.max_pool2d(cells_of(missing, codes.shape[-1])[None].float(), 3, stride=1, padding=1)[0] > 0
    return codes, Edit(region=cells, regenerate=True)


@torch.no_grad()
def decode_edited(model: VQVAE, before: OneGrid, after: Codes) -> Float[Tensor, "b 3 height width"]:
    """Decode edited codes [b, h, w]; pixels beyond the decoder's reach of any change are exactly those of `before`.

    GroupNorm's statistics cover the whole image, so without this an edit would slightly tint all of it.
    """
    old, new = model.decode(before), model.decode(after)
    changed = (after != before).float().unsqueeze(1)
    scale = old.shape[-1] // before.shape[-1]
    pixels = F.interpolate(changed, scale_factor=float(scale), mode="nearest")
    margin = math.ceil(min(model.decoder.reach * scale, old.shape[-1]))
    window = 2 * margin + 1
    near = F.max_pool2d(F.max_pool2d(pixels, (window, 1), 1, (margin, 0)), (1, window), 1, (0, margin))
    return torch.where(near > 0, new, old)


@torch.no_grad()
def blend_latents(model: VQVAE, a: OneImage, b: OneImage, steps: int) -> Float[Tensor, "steps 3 height width"]:
    """From avatar a to b [1, 3, h, w]: z_e interpolated, then quantised and decoded; [steps, 3, h, w]."""
    weights = torch.linspace(0, 1, steps, device=a.device).view(-1, 1, 1, 1)
    return model.decode(model.quantizer(torch.lerp(model.latents(a), model.latents(b), weights)).indices)


def exchange_codes(a: OneGrid, b: OneGrid, steps: int, seed: int = 0) -> Int64[Tensor, "steps h w"]:
    """From codes a to b [1, h, w]: more and more positions change over, in an order set by `seed`; [steps, h, w]."""
    count = a[0].numel()
    rank = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).view(a.shape[1:]).to(a.device)
    return torch.cat([torch.where(rank < n, b, a) for n in torch.linspace(0, count, steps).round().long().tolist()])
