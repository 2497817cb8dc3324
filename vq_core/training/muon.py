"""Muon for many equally large matrices or kernels of convolutions."""

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vq_core.machine import fast_in_bf16


class Muon(torch.optim.Optimizer):
    """torch's Muon (K. Jordan, 2024; weight decay as in arXiv:2502.16982) for matrices and kernels [out, in, h, w].

    These count as matrices [out, in·h·w]. Weights of one shape are a batch: for a GPU, a sixth of the launches.
    """

    def __init__(self, weights: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update: θ ← (1 − λη)·θ − η·√max(1, rows/columns)·NS(g + μ·(B − g)), of all that have a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            alike = defaultdict[torch.Size, list[Tensor]](list)
            for matrix in (matrix for matrix in group["params"] if matrix.grad is not None):
                alike[matrix.shape].append(matrix)
                if not self.state[matrix]:
                    self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
            for shape, matrices in alike.items():
                gradients: Any = [matrix.grad for matrix in matrices]
                momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's
                updates = orthogonalised(torch.stack([x.flatten(1) for x in ahead])).float()
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * max(1.0, shape[0] / shape[1:].numel()) ** 0.5
                torch._foreach_add_(matrices, [x.view(shape) for x in updates], alpha=-rate)
        return loss


def orthogonalised(x: Float[Tensor, "b m n"]) -> Float[Tensor, "b m n"]:
    """U·Vᵀ of each matrix U·S·Vᵀ, roughly, by Newton and Schulz's iteration, where that is fast in bf16 (K. Jordan)."""
    (a, b, c), tall = (3.4445, -4.775, 2.0315), x.shape[-2] > x.shape[-1]
    x = (x.mT if tall else x).to(torch.bfloat16 if fast_in_bf16(x.device) else torch.float32)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
