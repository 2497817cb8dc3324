"""The prior: a causal transformer over grids of codes."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn


class KeyValueCache:
    """Keys and values of the positions already seen, for all layers: two tensors of a fixed size."""

    def __init__(self, model: "CodeTransformer", batch: int) -> None:
        shape = (len(model.blocks), batch, model.heads, model.length, model.dim // model.heads)
        like = model.head.weight
        self.keys = torch.zeros(shape, device=like.device, dtype=like.dtype)
        self.values = torch.zeros_like(self.keys)


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout))

    def forward(
        self, x: Float[Tensor, "b n d"], cache: tuple[Tensor, Tensor] | None = None, start: int = 0
    ) -> Float[Tensor, "b n d"]:
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if cache is not None:
            keys, values = cache
            keys[:, :, start : start + n] = k
            values[:, :, start : start + n] = v
            k, v = keys[:, :, : start + n], values[:, :, : start + n]
        # Position start+i may look at all positions up to itself; a single new position at all there are.
        mask = None
        if n > 1 and start > 0:
            mask = torch.ones(n, start + n, dtype=torch.bool, device=x.device).tril(start)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None and n > 1)
        x = x + F.dropout(self.out(mixed.transpose(1, 2).reshape(b, n, d)), dropout)
        return x + self.mlp(self.norm2(x))


class CodeTransformer(nn.Module):
    """Predicts each code of a grid from those before it in raster order (left to right, top to bottom).

    codes [32, 256] of a 16×16 grid, num_codes=1024 → logits [32, 256, 1024]; logits[:, t] depends on codes[:, :t].

    What stands at position t is the sum of the embeddings of its neighbours that are already known (the one before in
    raster order, above, above right; a learned "none" at the border) and of its row and column. A plain language
    model would only be given the first and have to find the others by attention: handing them over costs nothing.

    Args:
        num_codes: K.
        grid: side of the grid of codes.
        dim: width; a multiple of heads.
        dropout: after attention and MLP, in training.
    """

    def __init__(
        self,
        num_codes: int = 1024,
        grid: int = 16,
        dim: int = 512,
        layers: int = 8,
        heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_codes, self.grid, self.dim, self.heads = num_codes, grid, dim, heads
        self.length = grid * grid
        self.neighbours = nn.ModuleList([nn.Embedding(num_codes + 1, dim) for _ in range(3)])
        self.rows, self.columns = nn.Embedding(grid, dim), nn.Embedding(grid, dim)
        self.blocks = nn.ModuleList([Block(dim, heads, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_codes)
        self.apply(self._init)
        for name, weight in self.blocks.named_parameters():  # residual branches start small, as in GPT-2
            if name.endswith(("out.weight", "mlp.2.weight")):
                nn.init.normal_(weight, std=0.02 / (2 * layers) ** 0.5)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def cache(self, batch: int) -> KeyValueCache:
        """An empty cache for sampling so many grids at once."""
        return KeyValueCache(self, batch)

    def forward(
        self, codes: Int64[Tensor, "b n"], cache: KeyValueCache | None = None, start: int = 0
    ) -> Float[Tensor, "b m k"]:
        """Logits of positions `start` … n − 1 (without a cache: of all, which is what training uses).

        Args:
            codes: the first n codes of each grid; those from position n − 1 on are never looked at.
            cache: holds the positions before `start`, and takes up those computed now.
            start: first position to compute; only with a cache.
        """
        x = self._embed(codes)[:, start:]
        for number, block in enumerate(self.blocks):
            layer = (cache.keys[number], cache.values[number]) if cache is not None else None
            x = block(x, layer, start)
        return self.head(self.norm(x))

    def _embed(self, codes: Int64[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        n = codes.shape[1]
        position = torch.arange(n, device=codes.device)
        row, column = position // self.grid, position % self.grid
        x = self.rows(row) + self.columns(column)
        # (distance back in raster order, where that neighbour exists)
        ways = (
            (1, position > 0),
            (self.grid, row > 0),
            (self.grid - 1, (row > 0) & (column < self.grid - 1)),
        )
        none = self.num_codes
        for table, (back, exists) in zip(self.neighbours, ways, strict=True):
            shifted = F.pad(codes, (back, 0), value=none)[:, :n]
            x = x + table(torch.where(exists, shifted, none))
        return x
