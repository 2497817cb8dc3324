"""New avatars and filled-in regions: codes drawn from the priors or uniformly from the codebook."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from tqdm.auto import tqdm

from vq_core.config import Config
from vq_core.errors import ArgumentError
from vq_core.generation import PASSES, TEMPERATURE, TOP_P
from vq_core.machine import pick_device
from vq_core.models import AnyOrderTransformer, CodeTransformer
from vq_core.models.transformer import halton_order
from vq_core.runs.finding import finished
from vq_core.runs.folders import Phase
from vq_core.runs.loading import load_prior

Codes = Int64[Tensor, "b h w"]
PerCode = Float[Tensor, "b k"]
Way = Literal["causal", "masked"]


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn from a prior. Raises `ArgumentError` for a value outside its range."""

    temperature: float = TEMPERATURE  # above 0; below 1 safer and more alike, above 1 wilder
    top_k: int | None = None  # draw only from the k likeliest codes; in [1, num_codes]
    top_p: float = TOP_P  # only from the likeliest codes that together have this probability; in (0, 1], 1: from all
    passes: int = PASSES  # of a bidirectional masked prior, at least 1; more is slower and, up to a point, better
    seed: int = 0  # determines all random numbers

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ArgumentError(f"temperature must be greater than 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ArgumentError(f"top_k must be at least 1, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ArgumentError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.passes < 1:
            raise ArgumentError(f"passes must be at least 1, got {self.passes}")

    def draw(self, logits: PerCode, generator: torch.Generator) -> Int64[Tensor, "b 1"]:
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
    keep: Bool[Tensor, "*_ _ _"] | None = None,
    progress: bool = True,
) -> Codes:
    """Draw `count` grids of codes from the causal prior, position by position in raster order, with a key-value cache.

    Of `start`, codes [count, h, w] or [1, h, w], those where `keep` [h, w] is true stay; each other code is drawn given
    all codes before it. Raises an `ArgumentError` that names the argument outside its range.
    """
    if not prior.causal:
        raise ArgumentError("prior must be the causal one; fill_codes draws from the masked one")
    if keep is not None and keep.dim() == 3:
        raise ArgumentError("keep must be one mask [h, w] for all grids")
    known, codes, generator = _given(prior, count, sampling, start, keep)
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
    """Draw the unknown codes of `count` grids from the masked prior, given the known ones on all sides.

    They are drawn in Halton's order, each far from those before it: one by one from a prior that learned any order, in
    passes of several, which hardly depend on each other, from a bidirectional one. Known are the codes `start`, [count,
    h, w] or [1, h, w], where `keep` is true, [h, w] or, for a mask per grid, [count, h, w]; by default none. Raises an
    `ArgumentError` that names the argument outside its range.
    """
    if prior.causal:
        raise ArgumentError("prior must be the masked one; sample_codes draws from the causal one")
    known, codes, generator = _given(prior, count, sampling, start, keep)
    training, turn = prior.training, halton_order(prior.grid).argsort().to(codes.device)
    order = torch.where(known, turn - len(turn), turn).argsort(1)  # first what is known, then the others by their turn
    prior.eval()
    if isinstance(prior, AnyOrderTransformer):  # one after another, with a cache
        cache, first, steps = prior.cache(count), 0, range(int(known.sum(1).min()), prior.length)
        for step in tqdm(steps, desc="filling in", unit="code", disable=not progress, leave=False):
            logits = prior(codes, order, cache, first, step + 1)[:, -1]
            first, now = step + 1, order[:, step : step + 1]
            drawn = torch.where(known.gather(1, now), codes.gather(1, now), sampling.draw(logits.float(), generator))
            codes = codes.scatter(1, now, drawn)
    else:  # many at a time; how many follows a cosine, few at first (MaskGIT, arXiv:2202.04200, section 3.2)
        codes, passes = codes.masked_fill(~known, prior.unknown), sampling.passes
        unknown = (~known).sum(1, keepdim=True)
        rank = order.argsort(1) - known.sum(1, keepdim=True)  # from 0, the first to be drawn
        for number in tqdm(range(1, passes + 1), desc="filling in", unit="pass", disable=not progress, leave=False):
            left = (unknown * math.cos(0.5 * math.pi * number / passes)).long() if number < passes else 0
            due = (codes == prior.unknown) & (rank < unknown - left)
            if bool(due.any()):
                codes = codes.masked_scatter(due, sampling.draw(prior(codes)[due].float(), generator))
    prior.train(training)
    return codes.view(count, prior.grid, prior.grid)


def prior_of(phase: Phase, config: Config) -> CodeTransformer:
    """The transformer of a finished prior, on the configured device."""
    return load_prior(finished(phase, config)).to(pick_device(config))


def draw_many(phase: Phase, config: Config, count: int) -> Codes:
    """Codes drawn from a finished prior, 256 grids at a time: in `full` the cache takes 8 MB per grid."""
    prior = prior_of(phase, config)
    draw, sizes = sample_codes if prior.causal else fill_codes, [min(256, count - n) for n in range(0, count, 256)]
    return torch.cat([draw(prior, size, Sampling(seed=config.seed + i)) for i, size in enumerate(sizes)])


def filtered_probabilities(logits: PerCode, temperature: float, top_k: int | None, top_p: float) -> PerCode:
    """Softmax with temperature over the codes that pass top-k and top-p."""
    logits = logits / temperature
    if top_k is not None:
        floor = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    probabilities = logits.softmax(dim=-1)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        beyond = ordered.cumsum(dim=-1) - ordered >= top_p  # the likeliest code always stays
        probabilities = probabilities.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0.0)
    return probabilities / probabilities.sum(dim=-1, keepdim=True)


def random_codes(num_codes: int, count: int, grid: int, seed: int = 0) -> Codes:
    """Grids of codes drawn independently and uniformly, to show what the decoder makes of no structure at all."""
    return torch.randint(num_codes, (count, grid, grid), generator=torch.Generator().manual_seed(seed))


def _given(
    prior: CodeTransformer, count: int, sampling: Sampling, start: Tensor | None, keep: Tensor | None
) -> tuple[Bool[Tensor, "b n"], Int64[Tensor, "b n"], torch.Generator]:
    """For every grid, the mask of known positions and the codes there; and a generator for the others."""
    if count < 1:
        raise ArgumentError(f"count must be at least 1, got {count}")
    if sampling.top_k is not None and sampling.top_k > prior.num_codes:
        raise ArgumentError(f"top_k must be in [1, {prior.num_codes}], got {sampling.top_k}")
    device, shape = prior.head.weight.device, (prior.grid, prior.grid)
    if start is None and keep is None:
        start, keep = torch.zeros(1, *shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    if start is None or keep is None:
        raise ArgumentError("start and keep must be given together")
    if tuple(start.shape) not in ((1, *shape), (count, *shape)):
        raise ArgumentError(f"start must be [{count} or 1, {shape[0]}, {shape[1]}], got {list(start.shape)}")
    if tuple(keep.shape) not in (shape, (count, *shape)):
        raise ArgumentError(f"keep must be {list(shape)} or {[count, *shape]}, got {list(keep.shape)}")
    if int(start.min()) < 0 or int(start.max()) >= prior.num_codes:
        raise ArgumentError(f"start must hold codes in [0, {prior.num_codes})")
    codes = start.to(device).expand(count, *shape).flatten(1).clone()
    generator = torch.Generator(device=device).manual_seed(sampling.seed)
    return keep.to(device).expand(count, *shape).flatten(1), codes, generator
