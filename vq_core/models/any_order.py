"""The prior for edits: the causal transformer, but in any order of the positions."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vq_core.models.transformer import Block, Cache, CodeTransformer

Order = Int64[Tensor, "b n"]  # permutations of the positions of a grid


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
        self,
        codes: Int64[Tensor, "b n"],
        order: Order,
        cache: Cache | None = None,
        start: int = 0,
        end: int | None = None,
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
