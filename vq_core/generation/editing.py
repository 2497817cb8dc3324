"""Editing in code space: functions from codes [b, h, w] (or images) to new ones; none changes its input."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vq_core.generation.sampling import fill_codes
from vq_core.models import CodeTransformer
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


def cells_of(pixels: Bool[Tensor, "height width"], grid: int) -> Mask:
    """The cells of the code grid that hold at least one of some pixels. Raises ValueError where there are none."""
    if not bool(pixels.any()):
        raise ValueError("the mask is empty: it must mark at least one pixel")
    cell = pixels.shape[0] // grid
    return F.max_pool2d(pixels[None].float(), cell)[0] > 0


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
def complete(
    model: VQVAEModel,
    prior: CodeTransformer,
    x: OneImage,
    missing: Bool[Tensor, "height width"],
    count: int,
    **drawing: Any,
) -> Codes:
    """Codes of a partial image, completed by the masked prior: [count, h, w], which decode to so many proposals.

    Args:
        x: the image, with anything in its missing part.
        missing: the pixels that are not known. Codes of the cells that hold them are drawn, and of those next to
            them: what the encoder says of a cell depends on its neighbours.
        drawing: `steps`, `temperature`, `top_k`, `top_p`, `risk`, `seed`, `progress` of `fill_codes`.
    """
    missing = missing.to(x.device)
    # The hole takes the mean colour of the rest: the encoder sees it from cells away, and by GroupNorm everywhere.
    mean = x[..., ~missing].mean(-1).nan_to_num()[..., None, None]  # NaN where all is missing
    codes = model.encode(torch.where(missing, mean, x))
    cells = F.max_pool2d(cells_of(missing, codes.shape[-1])[None].float(), 3, stride=1, padding=1)[0] > 0
    return fill_codes(prior, count, start=codes, keep=~cells, **drawing)


@torch.no_grad()
def decode_edited(model: VQVAEModel, before: OneGrid, after: Codes) -> Float[Tensor, "b 3 height width"]:
    """Decode edited codes [b, h, w]; pixels beyond the decoder's reach of every change are those of `before`, exactly.

    GroupNorm's statistics are of the whole image, so that without this an edit would tint all of it by a trace.
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
def variations(
    prior: CodeTransformer, codes: OneGrid, strength: float, count: int, *, seed: int = 0, **drawing: Any
) -> Codes:
    """Avatars like a given one: a share of its codes, scattered, is forgotten and drawn anew by the masked prior.

    Args:
        strength: that share; small changes details, 1 leaves nothing of the avatar; in (0, 1].
        drawing: `steps`, `temperature`, `top_k`, `top_p`, `risk`, `progress` of `fill_codes`.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1], got {strength}")
    size, n = codes.shape[1:], codes[0].numel()
    order = torch.rand(count, n, generator=torch.Generator().manual_seed(seed)).argsort(1).argsort(1)
    keep = (order >= max(1, round(strength * n))).view(count, *size)
    return fill_codes(prior, count, start=codes, keep=keep, seed=seed, **drawing)


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


@torch.no_grad()
def exchange_likely(prior: CodeTransformer, a: OneGrid, b: OneGrid, steps: int) -> Int64[Tensor, "steps h w"]:
    """From codes a to b [1, h, w] like `exchange_codes`, but in the order that the masked prior finds likely.

    At each step those positions change over where b's code gains most over a's, given the codes that stand elsewhere:
    log p(b_i | rest) − log p(a_i | rest). The rest is all but the position's group; 16 sets of positions,
    scattered over the grid, are hidden in turn, so that a step costs one batch of so many grids.
    """
    if prior.causal:
        raise ValueError("prior must be the masked one")
    training, n, device, groups = prior.training, a[0].numel(), a.device, 16
    prior.eval()
    start, end = a.flatten(), b.flatten()
    frames, now = [a], start.clone()
    scattered = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(device) % groups
    differ = int((start != end).sum())
    for step in range(1, steps):
        hidden = scattered == torch.arange(groups, device=device)[:, None]
        logits = prior(now.expand(groups, -1).masked_fill(hidden, prior.unknown)).float()
        own = logits[scattered, torch.arange(n, device=device)].log_softmax(-1)
        gain = own.gather(1, end[:, None]) - own.gather(1, start[:, None])
        waiting = (now == start) & (start != end)
        wanted = round(differ * step / (steps - 1)) - round(differ * (step - 1) / (steps - 1))
        best = gain.squeeze(1).masked_fill(~waiting, -torch.inf).topk(wanted).indices
        now = now.index_copy(0, best, end[best])
        frames.append(now.view_as(a))
    prior.train(training)
    return torch.cat(frames)
