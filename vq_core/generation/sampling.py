"""New avatars and filled-in regions: codes drawn from the priors or uniformly from the codebook."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from tqdm.auto import tqdm

from vq_core.errors import ArgumentError
from vq_core.models import CodeTransformer

Codes = Int64[Tensor, "b h w"]
# Randomness, besides confidence, in which codes stay in a pass of `fill_codes`: the initial scale of Gumbel noise that
# shrinks to 0. Without it grids become smooth and alike.
RISK = 1.0


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn from a prior.

    Args:
        temperature: below 1 safer and more alike, above 1 wilder; greater than 0.
        top_k: draw only from the k likeliest codes; in [1, num_codes].
        top_p: draw only from the likeliest codes that together have this probability; in (0, 1].
        passes: number of passes of the masked prior; more is slower and, up to a point, better.
        seed: determines all random numbers.

    Raises:
        ArgumentError: one of them is outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    passes: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ArgumentError(f"temperature must be greater than 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ArgumentError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ArgumentError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.passes < 1:
            raise ArgumentError(f"passes must be at least 1, got {self.passes}")

    def draw(self, logits: Float[Tensor, "b k"], generator: torch.Generator) -> Int64[Tensor, "b 1"]:
        """Draw one code for each row of logits."""
        probabilities = filtered_probabilities(logits, self.temperature, self.top_k, self.top_p)
        return torch.multinomial(probabilities, 1, generator=generator)


@torch.no_grad()
def sample_codes(
    prior: CodeTransformer,
    count: int,
    sampling: Sampling = Sampling(),
    *,
    start: Int64[Tensor, "s _ _"] | None = None,
    keep: Bool[Tensor, "_ _"] | None = None,
    progress: bool = True,
) -> Codes:
    """Draw `count` grids of codes from the causal prior, position by position in raster order, with a key-value cache.

    Args:
        start: given codes, [count, h, w] or [1, h, w]; requires `keep`.
        keep: where the given codes stay; each other code is drawn given all codes before it.

    Raises:
        ArgumentError: an argument is outside its range; names it.
    """
    if not prior.causal:
        raise ArgumentError("prior must be the causal one; fill_codes draws from the masked one")
    if keep is not None and keep.dim() == 3:
        raise ArgumentError("keep must be one mask [h, w] for all grids")
    known, codes = _given(prior, count, sampling, start, keep)
    generator = torch.Generator(device=codes.device).manual_seed(sampling.seed)
    training, cache = prior.training, prior.cache(count)
    prior.eval()
    first, fixed = 0, known[0].tolist()
    for position in tqdm(range(prior.length), desc="sampling", unit="code", disable=not progress, leave=False):
        if fixed[position]:
            continue  # its key and value are computed along with the next position drawn
        logits = prior(codes[:, : position + 1], cache, first)[:, -1]
        first = position + 1
        codes[:, position] = sampling.draw(logits.float(), generator).squeeze(1)
    prior.train(training)
    return codes.view(count, prior.grid, prior.grid)


@torch.no_grad()
def fill_codes(
    prior: CodeTransformer,
    count: int,
    sampling: Sampling = Sampling(),
    *,
    start: Int64[Tensor, "s _ _"] | None = None,
    keep: Bool[Tensor, "*_ _ _"] | None = None,
    progress: bool = True,
) -> Codes:
    """Draw the unknown codes of `count` grids from the masked prior, many at once, given the known ones on all sides.

    Each pass draws all unknown codes and keeps those it is most confident of; how many follows a cosine, few at first
    (Chang et al., "MaskGIT", arXiv:2202.04200, section 3.2).

    Args:
        start: given codes, [count, h, w] or [1, h, w]; requires `keep`.
        keep: where the given codes stay, [h, w], or [count, h, w] for a mask per grid; if omitted, all are drawn.

    Raises:
        ArgumentError: an argument is outside its range; names it.
    """
    if prior.causal:
        raise ArgumentError("prior must be the masked one; sample_codes draws from the causal one")
    known, codes = _given(prior, count, sampling, start, keep)
    codes = codes.masked_fill(~known, prior.unknown)
    generator = torch.Generator(device=codes.device).manual_seed(sampling.seed)
    training, unknown, passes = prior.training, (~known).sum(1), sampling.passes
    prior.eval()
    for number in tqdm(range(1, passes + 1), desc="filling in", unit="pass", disable=not progress, leave=False):
        left = (unknown * math.cos(0.5 * math.pi * number / passes)).floor().long() if number < passes else unknown * 0
        open_ = codes == prior.unknown
        if bool((open_.sum(1) <= left).all()):
            continue  # this pass would keep nothing
        logits = prior(codes)[open_].float()  # [open, K]
        chosen = sampling.draw(logits, generator)
        drawn = codes.masked_scatter(open_, chosen)
        uniform = torch.rand(codes.shape, generator=generator, device=codes.device)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))
        sureness = torch.full(codes.shape, -torch.inf, device=codes.device)
        sureness = sureness.masked_scatter(open_, logits.log_softmax(-1).gather(1, chosen))
        rank = (sureness + RISK * (1 - number / passes) * gumbel).argsort(1, descending=True).argsort(1)
        stays = open_ & (rank < (open_.sum(1) - left)[:, None])
        codes = torch.where(stays, drawn, codes)
    prior.train(training)
    return codes.view(count, prior.grid, prior.grid)


def filtered_probabilities(
    logits: Float[Tensor, "b k"], temperature: float, top_k: int | None, top_p: float | None
) -> Float[Tensor, "b k"]:
    """Softmax with temperature over the codes that pass top-k and top-p."""
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
    """Grids of codes drawn independently and uniformly, to show what the decoder makes of no structure at all."""
    return torch.randint(num_codes, (count, grid, grid), generator=torch.Generator().manual_seed(seed))


def _given(
    prior: CodeTransformer, count: int, sampling: Sampling, start: Tensor | None, keep: Tensor | None
) -> tuple[Bool[Tensor, "b n"], Int64[Tensor, "b n"]]:
    """For every grid, the mask of known positions and the codes there."""
    if count < 1:
        raise ArgumentError(f"count must be at least 1, got {count}")
    if sampling.top_k is not None and sampling.top_k > prior.num_codes:
        raise ArgumentError(f"top_k must be in [1, {prior.num_codes}], got {sampling.top_k}")
    device, shape = prior.head.weight.device, (prior.grid, prior.grid)
    if start is None and keep is None:
        known = torch.zeros(count, prior.length, dtype=torch.bool, device=device)
        return known, torch.zeros(count, prior.length, dtype=torch.long, device=device)
    if start is None or keep is None:
        raise ArgumentError("start and keep must be given together")
    if tuple(start.shape) not in ((1, *shape), (count, *shape)):
        raise ArgumentError(f"start must be [{count} or 1, {shape[0]}, {shape[1]}], got {list(start.shape)}")
    if tuple(keep.shape) not in (shape, (count, *shape)):
        raise ArgumentError(f"keep must be {list(shape)} or {[count, *shape]}, got {list(keep.shape)}")
    if int(start.min()) < 0 or int(start.max()) >= prior.num_codes:
        raise ArgumentError(f"start must hold codes in [0, {prior.num_codes})")
    codes = start.to(device).expand(count, *shape).flatten(1).clone()
    return keep.to(device).expand(count, *shape).flatten(1), codes
