"""The prior: one transformer over grids of codes, causal or masked."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

Cache = Float[Tensor, "layers 2 b heads length e"]  # keys and values of the positions already seen


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
        mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None and looks_back)
        x = x + F.dropout(self.out(mixed.transpose(1, 2).reshape(b, n, d)), self.dropout, self.training)
        return x + self.mlp(self.norm2(x))


# Which codes each position gets at its input, as offsets (rows down, columns right). Causal: codes before it in raster
# order; masked: its own, which may be unknown, and those around it.
_BEFORE = ((0, -1), (-1, 0), (-1, 1), (-1, -1), (0, -2), (-2, 0))  # the first wraps to the end of the row above
_AROUND = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))


class CodeTransformer(nn.Module):
    """Predicts the codes of a grid from the known ones.

    codes [32, 256] of a 16×16 grid, num_codes=1024 → logits [32, 256, 1024].

    Causal (`causal=True`): each code from those before it in raster order, left to right and top to bottom;
    logits[:, t] depends on codes[:, :t]. Masked (`causal=False`): each unknown code, given as `model.unknown`, from all
    known ones, before and after it (Chang et al., "MaskGIT", arXiv:2202.04200).

    The input at position t is a small MLP of the known codes next to it (zero if there is none) plus embeddings of its
    row and column. A plain language model would be given one code and have to find the others by attention; giving it
    all of them costs nothing. And, unlike with words, it is known which codes look alike: codebook vectors represent
    them at the input, and at the output the logits gain the products of a predicted vector with all codebook vectors.
    These are random until `set_codebook` is called.

    Args:
        num_codes: K.
        grid: side of the code grid.
        dim: width; a multiple of heads.
        dropout: after attention and MLP, in training.
        code_dim: D, columns of the codebook.
    """

    beside: Tensor
    looks: Tensor

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
    ) -> None:
        super().__init__()
        self.num_codes, self.grid, self.dim, self.heads, self.causal = num_codes, grid, dim, heads, causal
        self.length, self.unknown = grid * grid, num_codes
        ways = _BEFORE if causal else _AROUND
        beside = _positions(grid, ways)
        if causal:  # otherwise the first code of a row would not see the last one above
            beside[0] = torch.arange(self.length).roll(1)
            beside[0, 0] = self.length
        self.register_buffer("beside", beside, persistent=False)
        # Each code's codebook vector, standardised; zero for "unknown".
        self.register_buffer("looks", torch.cat([torch.randn(num_codes, code_dim), torch.zeros(1, code_dim)]))
        self.from_looks = nn.Sequential(nn.Linear(len(ways) * code_dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.to_looks = nn.Linear(dim, code_dim)
        self.rows, self.columns = nn.Embedding(grid, dim), nn.Embedding(grid, dim)
        self.blocks = nn.ModuleList([Block(dim, heads, dropout, causal) for _ in range(layers)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_codes)
        self.apply(self._init)
        for name, weight in self.blocks.named_parameters():  # residual branches start small, as in GPT-2
            if name.endswith(("out.weight", "mlp.2.weight")):
                nn.init.normal_(weight, std=0.02 / (2 * layers) ** 0.5)
        nn.init.zeros_(self.to_looks.weight)

    @torch.no_grad()
    def set_codebook(self, codebook: Float[Tensor, "k d"]) -> None:
        """Set the codebook, which tells the model which codes look alike."""
        self.looks[:-1] = (codebook - codebook.mean(0)) / codebook.std()

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def cache(self, batch: int) -> Cache:
        """An empty cache for sampling this many grids at once."""
        return self.head.weight.new_empty(len(self.blocks), 2, batch, self.heads, self.length, self.dim // self.heads)

    def forward(
        self, codes: Int64[Tensor, "b n"], cache: Cache | None = None, start: int = 0
    ) -> Float[Tensor, "b m k"]:
        """Logits of positions `start` … n − 1; training uses no cache and gets all of them.

        Args:
            codes: causal: the first n codes of each grid, of which the last is never looked at. Masked: all of them,
                `unknown` where they are not known.
            cache: holds the positions before `start` and is extended by those computed now; causal only.
            start: first position to compute; requires a cache.
        """
        x = self._embed(codes, start)
        for number, block in enumerate(self.blocks):
            x = block(x, cache[number] if cache is not None else None, start)
        x = self.norm(x)
        return self.head(x).float() + (self.to_looks(x) @ self.looks[:-1].T).float()

    def _embed(self, codes: Int64[Tensor, "b n"], start: int) -> Float[Tensor, "b m d"]:
        n = codes.shape[1]
        position = torch.arange(start, n, device=codes.device)
        x = self.rows(position // self.grid) + self.columns(position % self.grid)
        known = F.pad(codes, (0, self.length + 1 - n), value=self.unknown)[:, self.beside[:, start:n].T]  # [b, m, ways]
        return x + self.from_looks(self.looks[known].flatten(2))


def _positions(grid: int, ways: tuple[tuple[int, int], ...]) -> Int64[Tensor, "ways n"]:
    """For each offset, the position that lies there from each position in raster order; n if outside the grid."""
    index = torch.full((grid + 4, grid + 4), grid * grid)
    index[2:-2, 2:-2] = torch.arange(grid * grid).view(grid, grid)
    return torch.stack(
        [index[2 + down : 2 + down + grid, 2 + right : 2 + right + grid].flatten() for down, right in ways]
    )
