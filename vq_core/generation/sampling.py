"""New avatars: codes drawn from the prior, or at random from the codebook."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from tqdm.auto import tqdm

from vq_core.models import CodeTransformer

Codes = Int64[Tensor, "b h w"]


@torch.no_grad()
def sample_codes(
    prior: CodeTransformer,
    count: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    start: Int64[Tensor, "s _ _"] | None = None,
    keep: Bool[Tensor, "_ _"] | None = None,
    progress: bool = True,
) -> Codes:
    """Draw grids of codes from the prior, one position after the other in raster order, with a key-value cache.

    Args:
        temperature: below 1 safer and more alike, above 1 wilder; greater than 0.
        top_k: draw among the k likeliest codes only; in [1, num_codes].
        top_p: draw among the likeliest codes that together have this probability; in (0, 1].
        start: given codes, [count, h, w] or [1, h, w]; only with `keep`.
        keep: where the given codes stay; the others are drawn given all that stand before them.

    Raises:
        ValueError: an argument outside its range, naming it.
    """
    _check_arguments(prior, count, temperature, top_k, top_p, start, keep)
    device, grid, length = prior.head.weight.device, prior.grid, prior.length
    generator = torch.Generator(device=device).manual_seed(seed)
    codes = torch.zeros(count, length, dtype=torch.long, device=device)
    kept = torch.zeros(length, dtype=torch.bool)
    if start is not None and keep is not None:
        codes += start.to(device).expand(count, -1, -1).flatten(1)
        kept = keep.flatten().cpu()
    training, cache = prior.training, prior.cache(count)
    prior.eval()
    first, fixed = 0, kept.tolist()
    for position in tqdm(range(length), desc="sampling", unit="code", disable=not progress, leave=False):
        if fixed[position]:
            continue  # its key and value are computed with the next position that is drawn
        logits = prior(codes[:, : position + 1], cache, first)[:, -1]
        first = position + 1
        probabilities = filtered_probabilities(logits.float(), temperature, top_k, top_p)
        codes[:, position] = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    prior.train(training)
    return codes.view(count, grid, grid)


def filtered_probabilities(
    logits: Float[Tensor, "b k"], temperature: float, top_k: int | None, top_p: float | None
) -> Float[Tensor, "b k"]:
    """Softmax at a temperature, over the codes that top-k and top-p leave."""
    logits = logits / temperature
    if top_k is not None:
        floor = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    probabilities = logits.softmax(dim=-1)
    if top_p is not None:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        beyond = ordered.cumsum(dim=-1) - ordered >= top_p  # the likeliest code always stays
        probabilities = probabilities.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0.0)
    return probabilities / probabilities.sum(dim=-1, keepdim=True)


def random_codes(num_codes: int, count: int, grid: int, seed: int = 0) -> Codes:
    """Grids of codes drawn independently and alike: what the decoder makes of no structure at all."""
    return torch.randint(num_codes, (count, grid, grid), generator=torch.Generator().manual_seed(seed))


def _check_arguments(
    prior: CodeTransformer,
    count: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    start: Tensor | None,
    keep: Tensor | None,
) -> None:
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not temperature > 0:
        raise ValueError(f"temperature must be greater than 0, got {temperature}")
    if top_k is not None and not 1 <= top_k <= prior.num_codes:
        raise ValueError(f"top_k must be in [1, {prior.num_codes}], got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    if (start is None) != (keep is None):
        raise ValueError("start and keep must be given together")
    if start is not None and keep is not None:
        shape = (prior.grid, prior.grid)
        if tuple(keep.shape) != shape or tuple(start.shape[1:]) != shape or start.shape[0] not in (1, count):
            raise ValueError(f"start must be [{count} or 1, {shape[0]}, {shape[1]}] and keep {list(shape)}")
        if int(start.min()) < 0 or int(start.max()) >= prior.num_codes:
            raise ValueError(f"start must hold codes in [0, {prior.num_codes})")
