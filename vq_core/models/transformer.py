"""The priors: a transformer over grids of codes, causal or masked, and the one that goes through them in any order."""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vq_core.hub import Portable

Cache = Float[Tensor, "layers 2 b heads length e"]  # keys and values of the positions already seen
Sequences = Int64[Tensor, "b n"]  # the codes of grids in raster order
Order = Int64[Tensor, "b n"]  # permutations of the positions of a grid


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout))

    def forward(
        self, x: Float[Tensor, "b n d"], cache: Float[Tensor, "2 b heads m e"] | None = None, start: int = 0
    ) -> Float[Tensor, "b n d"]:
        b, n, d = x.shape
        q, *kv = qkv = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache[:, :, :, start : start + n] = qkv[1:]
            kv = cache[:, :, :, : start + n]
        k, v = kv
        # Causal: position start+i attends to all positions up to itself; a single new position to all there are.
        mask, looks_back = None, self.causal and n > 1
        if looks_back and start > 0:
            mask = torch.ones(n, start + n, dtype=torch.bool, device=x.device).tril(start)
        # No dropout inside the attention: on a CPU a step would take 1.7 times as long.
        if looks_back and q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu":
            mixed = _causal_attention(q, k, v).view_as(q)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None and looks_back)
        x = x + F.dropout(self.out(mixed.transpose(1, 2).reshape(b, n, d)), self.dropout, self.training)
        return x + self.mlp(self.norm2(x))


def _causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention for training in bf16 on a CPU, where torch's backward pass is slow; a quarter at a time."""
    n, quarter, parts = q.shape[2], -(-q.shape[2] // 4), []
    queries, keys, values = (x.flatten(0, 1).split(quarter, dim=1) for x in (q * q.shape[-1] ** -0.5, k, v))
    ahead = torch.zeros(n, n, dtype=q.dtype).masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
    for number, (some, bias) in enumerate(zip(queries, ahead.split(quarter), strict=True), 1):
        known = torch.cat(keys[:number], dim=1)
        scores = torch.baddbmm(bias[:, : known.shape[1]], some, known.transpose(1, 2))
        parts.append(scores.softmax(-1) @ torch.cat(values[:number], dim=1))
    return torch.cat(parts, dim=1)


# Which codes each position of a causal transformer gets at its input, as offsets (rows down, columns right): codes
# before it in raster order; the first wraps to the end of the row above.
_BEFORE = [(0, -1), (-1, 0), (-1, 1), (-1, -1), (0, -2), (-2, 0)]


def around(neighbours: int) -> list[tuple[int, int]]:
    """The same for a masked one: 1 + 2r(r + 1) cells, at most r steps away, its own first; or a `ValueError`."""
    radius = next((r for r in range(neighbours) if 1 + 2 * r * (r + 1) >= neighbours), 0)
    if 1 + 2 * radius * (radius + 1) != neighbours:
        raise ValueError(f"neighbours must be 1, 5, 13, 25, …, got {neighbours}")
    steps = range(-radius, radius + 1)
    cells = [(down, right) for down in steps for right in steps if abs(down) + abs(right) <= radius]
    return sorted(cells, key=lambda cell: (abs(cell[0]) + abs(cell[1]), abs(cell[0]), cell))


class CodeTransformer(nn.Module, Portable):
    """Predicts the codes of a grid from the known ones.

    codes [32, 256] of a 16×16 grid, num_codes=1024 → logits [32, 256, 1024].

    Causal (`causal=True`): each code from those before it in raster order, left to right and top to bottom;
    logits[:, t] depends on codes[:, :t]. Masked (`causal=False`): each unknown code, given as `model.unknown`, from all
    known ones, before and after it (Chang et al., "MaskGIT", arXiv:2202.04200).

    The input at position t is a small MLP of the known codes next to it (zero if there is none), so that attention need
    not find them, plus embeddings of row and column. And it is known which codes look alike: codebook vectors (random
    until `set_codebook`) represent them at the input; at the output, logits gain their products with a predicted one.

    `grid` is the side of the code grid, `dim` the width, a multiple of `heads`, and `code_dim` that of the codebook.
    `neighbours` is how many codes around it (and its own, if known) a position of a masked one gets at its input.
    """

    def __init__(
        self,
        num_codes: int = 1024,
        grid: int = 16,
        dim: int = 512,
        layers: int = 8,
        heads: int = 8,
        dropout: float = 0.1,
        causal: bool = True,
        code_dim: int = 256,
        neighbours: int = 5,
    ) -> None:
        super().__init__()
        self.num_codes, self.grid, self.dim, self.heads, self.causal = num_codes, grid, dim, heads, causal
        self.length, self.unknown = grid * grid, num_codes
        self.ways = ways = _BEFORE if causal else around(neighbours)
        # For each offset, the position that lies there from each position in raster order; n if outside the grid.
        edge = max(abs(offset) for way in ways for offset in way)
        index = F.pad(torch.arange(self.length).view(grid, grid), (edge,) * 4, value=self.length)
        beside = torch.stack([index[edge + d :, edge + r :][:grid, :grid].flatten() for d, r in ways])
        if causal:  # otherwise the first code of a row would not see the last one above
            beside[0] = F.pad(torch.arange(self.length - 1), (1, 0), value=self.length)
        self.beside = nn.Buffer(beside, persistent=False)
        # Each code's codebook vector, standardised; zero for "unknown".
        self.looks = nn.Buffer(torch.cat([torch.randn(num_codes, code_dim), torch.zeros(1, code_dim)]))
        self.from_looks = nn.Sequential(nn.Linear(len(ways) * code_dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.to_looks = nn.Linear(dim, code_dim)
        self.rows, self.columns = nn.Embedding(grid, dim), nn.Embedding(grid, dim)
        self.blocks = nn.ModuleList([Block(dim, heads, dropout, causal) for _ in range(layers)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_codes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, weight in self.blocks.named_parameters():  # residual branches start small, as in GPT-2
            if name.endswith(("out.weight", "mlp.2.weight")):
                nn.init.normal_(weight, std=0.02 / (2 * layers) ** 0.5)
        nn.init.zeros_(self.to_looks.weight)

    @torch.no_grad()
    def set_codebook(self, codebook: Float[Tensor, "k d"]) -> None:
        """Set the codebook, which tells the model which codes look alike."""
        self.looks[:-1] = (codebook - codebook.mean(0)) / codebook.std()

    def weights_from(self, causal: dict[str, Tensor]) -> dict[str, Tensor]:
        """A causal one's weights, made to fit: those for codes that only this one looks at stay its own."""
        own, name = self.state_dict(), "from_looks.0.weight"
        first, theirs = (weights[name].unflatten(1, (-1, self.looks.shape[1])) for weights in (own, causal))
        for way in (way for way in _BEFORE if way in self.ways):
            first[:, self.ways.index(way)] = theirs[:, _BEFORE.index(way)]
        return own | causal | {name: first.flatten(1)}

    def cache(self, batch: int) -> Cache:
        """An empty cache for sampling this many grids at once."""
        return self.head.weight.new_empty(len(self.blocks), 2, batch, self.heads, self.length, self.dim // self.heads)

    def forward(self, codes: Sequences, cache: Cache | None = None, start: int = 0) -> Float[Tensor, "b m k"]:
        """Logits of positions `start` … n − 1; training uses no cache and gets all of them.

        A causal one takes the first n codes of each grid, of which the last is never looked at, a masked one all of
        them, `unknown` where they are not known. The cache, which `start` requires (causal only), holds the positions
        before it and is extended by those computed now.
        """
        n = codes.shape[1]
        position = torch.arange(start, n, device=codes.device)
        x = self.rows(position // self.grid) + self.columns(position % self.grid)
        known = F.pad(codes, (0, self.length + 1 - n), value=self.unknown)[:, self.beside[:, start:n].T]  # [b, m, ways]
        return self.logits(x + self.from_looks(self.looks[known].flatten(2)), cache, start)

    def logits(self, x: Float[Tensor, "b m d"], cache: Cache | None, start: int) -> Float[Tensor, "b m k"]:
        """The blocks and the output, from embedded positions `start` … ."""
        for number, block in enumerate(self.blocks):
            x = block(x, cache[number] if cache is not None else None, start)
        x = self.norm(x)
        return self.head(x).float() + (self.to_looks(x) @ self.looks[:-1].T).float()


class AnyOrderTransformer(CodeTransformer):
    """Predicts each code of a grid from those before it in a given order of the positions.

    codes [32, 256], order [32, 256] → logits [32, 256, 1024]; logits[:, t] are those of the code at position
    order[:, t], and depend on the codes at order[:, :t] (Pannatier et al., "σ-GPTs", arXiv:2404.09562).

    With what is known first in the order, and then what is not, it fills in any region from all sides, with a cache.
    Like the causal one it is given, at each step, the position to predict and the known codes around it; also, because
    there the last code need not lie next to the next, the last code and its position.

    Takes the arguments of `CodeTransformer`, but for `causal`, by name.
    """

    def __init__(self, **size: Any) -> None:
        super().__init__(**size, causal=False)
        for block in self.modules():
            if isinstance(block, Block):
                block.causal = True  # in the given order
        self.last_look = nn.Linear(self.looks.shape[1], self.dim)
        self.last_rows, self.last_columns = nn.Embedding(self.grid, self.dim), nn.Embedding(self.grid, self.dim)
        for module in (self.last_look, self.last_rows, self.last_columns):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)  # so that it begins as the causal one whose weights it takes over

    def forward(  # type: ignore[override]
        self, codes: Sequences, order: Order, cache: Cache | None = None, start: int = 0, end: int | None = None
    ) -> Float[Tensor, "b m k"]:
        """Logits of the steps `start` … `end` − 1, by default all.

        Codes are by position; those of later steps are not looked at. The cache, which `start` requires, holds the
        steps before it and is extended by those computed now.
        """
        end = end or self.length
        now, step = order[:, start:end], torch.arange(start, end, device=codes.device)
        around = self.beside.T[now].flatten(1)  # [b, m·ways]; n outside the grid
        turn = F.pad(order.argsort(1), (0, 1), value=self.length).gather(1, around).view(*now.shape, -1)
        near = F.pad(codes, (0, 1)).gather(1, around).view_as(turn).masked_fill(turn >= step[:, None], self.unknown)
        x = self.rows(now // self.grid) + self.columns(now % self.grid) + self.from_looks(self.looks[near].flatten(2))
        last = F.pad(order, (1, 0))[:, start:end]
        shown = self.last_look(self.looks[codes.gather(1, last)])
        shown = shown + self.last_rows(last // self.grid) + self.last_columns(last % self.grid)
        return self.logits(x + shown * (step > 0)[:, None], cache, start)


@cache
def halton_order(grid: int) -> Int64[Tensor, "n"]:
    """The positions of a grid in Halton's order, each far from the last (Besnier et al., arXiv:2503.17076, § 3.2)."""
    from scipy.stats.qmc import Halton  # here, as importing scipy.stats takes half a second

    points, cells = Halton(2, scramble=False), dict[int, None]()  # which keeps the first of each, in order
    while len(cells) < grid * grid:
        row, column = (points.random(grid * grid) * grid).astype(int).T
        cells |= dict.fromkeys((row * grid + column).tolist())
    return torch.tensor([*cells])
