"""Editing in code space: functions from codes [b, h, w] (or images) to new ones; none changes its input."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vq_core.training.vqvae_module import VQVAEModel

Codes = Int64[Tensor, "b h w"]
Mask = Bool[Tensor, "h w"]
OneImage = Float[Tensor, "1 3 height width"]
OneGrid = Int64[Tensor, "1 h w"]


def region(grid: int, rows: tuple[int, int], columns: tuple[int, int]) -> Mask:
    """A rectangle of the code grid: rows and columns from the first up to, not including, the second.

    Raises:
        ValueError: empty, or not inside the grid.
    """
    for name, (first, last) in (("rows", rows), ("columns", columns)):
        if not 0 <= first < last <= grid:
            raise ValueError(f"{name} must be first:last with 0 <= first < last <= {grid}, got {first}:{last}")
    mask = torch.zeros(grid, grid, dtype=torch.bool)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


def copy_region(codes: Codes, other: Codes, mask: Mask) -> Codes:
    """The codes with a region taken over from another avatar."""
    return torch.where(mask.to(codes.device), other, codes)


def paint(codes: Codes, mask: Mask, code: int) -> Codes:
    """The codes with one code in all of a region."""
    return codes.masked_fill(mask.to(codes.device), code)


def replace_code(codes: Codes, old: int, new: int) -> Codes:
    """The codes with one code replaced by another wherever it stands."""
    return codes.masked_fill(codes == old, new)


@torch.no_grad()
def blend_latents(model: VQVAEModel, a: OneImage, b: OneImage, steps: int) -> Float[Tensor, "steps 3 height width"]:
    """From avatar a to b [1, 3, h, w]: z_e blended, quantised anew and decoded; [steps, 3, h, w]."""
    z_a, z_b = model.latents(a), model.latents(b)
    weights = torch.linspace(0, 1, steps, device=a.device).view(-1, 1, 1, 1)
    return model.decode(model.quantizer(torch.lerp(z_a, z_b, weights)).indices)


def exchange_codes(a: OneGrid, b: OneGrid, steps: int, seed: int = 0) -> Int64[Tensor, "steps h w"]:
    """From codes a to b [1, h, w]: ever more positions taken over, in an order drawn by the seed; [steps, h, w]."""
    count = a[0].numel()
    rank = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).view(a.shape[1:]).to(a.device)
    taken = torch.linspace(0, count, steps).round().long().tolist()
    return torch.cat([torch.where(rank < n, b, a) for n in taken])
