"""The codebook: nearest-neighbour quantisation with a codebook learned by moving averages.

van den Oord et al., "Neural Discrete Representation Learning", arXiv:1711.00937: equations 1 and 2 (nearest code,
straight-through), equation 3 (losses), appendix A.1 (moving averages).
"""

from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vq_core.errors import UnknownCodeError

Learning = Literal["ema", "gradient"]
_PAIRS_PER_CHUNK = 2**21  # distances computed at once: 8 MB of fp32, which fits a CPU's cache
# Initial moving average of each code's uses. At 1, with a mean of 8 uses, a dead code seems alive for 120 steps.
_FIRST_COUNT = 0.1


class Quantized(NamedTuple):
    """What the quantiser returns for z_e [b, d, h, w]."""

    z_q: Tensor  # [b, d, h, w], rows of the codebook; the gradient goes straight through to z_e
    indices: Tensor  # [b, h, w], int64, in [0, num_codes)
    codebook_loss: Tensor  # mean ‖sg[z_e] − e‖²; has no gradient if the codebook learns by moving averages
    commit_loss: Tensor  # mean ‖z_e − sg[e]‖², unweighted


def nearest_codes(vectors: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]) -> Int64[Tensor, "n"]:
    """Index of the codebook row nearest to each vector (squared Euclidean distance; the lowest index in a tie).

    ‖z − e‖² = ‖z‖² − 2 (z·e − ½‖e‖²), where ‖z‖² does not affect which is smallest: one matrix product in chunks.
    """
    half_norms = 0.5 * codebook.square().sum(dim=1)
    rows, nearest = max(1, _PAIRS_PER_CHUNK // len(codebook)), []
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # TF32 picks wrong codes, if fewer than bf16
    try:
        for chunk in vectors.split(rows):
            if chunk.device.type == "cpu":  # a 1×1 convolution is a quarter faster there than the matrix product
                column = chunk.view(1, len(chunk), 1, -1).permute(0, 3, 1, 2)  # an image of height n and width 1
                closeness = F.conv2d(column, codebook[:, :, None, None], -half_norms).permute(0, 2, 3, 1).flatten(0, 2)
            else:
                closeness = torch.addmm(half_norms, chunk, codebook.T, beta=-1.0)
            nearest.append(closeness.argmax(dim=1))
    finally:
        torch.set_float32_matmul_precision(allowed)
    return torch.cat(nearest)


def perplexity(counts: Float[Tensor, "k"]) -> Float[Tensor, ""]:
    """exp(entropy) of a usage histogram: the number of codes in use if all are used equally; 0 if it is empty."""
    total = counts.sum()
    if total == 0:
        return torch.zeros((), device=counts.device)
    p = counts / total
    return torch.exp(-torch.special.xlogy(p, p).sum())


class VectorQuantizerEMA(nn.Module):
    """Maps each vector of z_e to its nearest code; learns the codebook by moving averages of these vectors.

    z_e [32, 256, 16, 16] → 8192 vectors of 256 → nearest of 1024 codes → z_q [32, 256, 16, 16], indices [32, 16, 16].

    Learning works like an optimiser's: in training mode `forward` only accumulates counts and sums; `step()` updates
    the codebook and clears them. So a batch split by accumulation or over processes, whose sums `step()` adds up, moves
    the codebook as the whole batch would. All is computed in fp32, even under autocast: bf16 picks wrong codes.

    `decay` is that of the averages N_k ← decay·N_k + (1 − decay)·n_k, and likewise of the sums; `eps` smooths the
    counts (Laplace). With `learning="gradient"` the codebook is a parameter, and `codebook_loss` carries its gradient.
    Deviation from the paper: counts start at 0.1 and sums at 0.1 times the codebook, so a code that no vector chooses
    stays where it is and is soon recognised as dead.
    """

    def __init__(
        self, num_codes: int, code_dim: int, decay: float = 0.99, eps: float = 1e-5, learning: Learning = "ema"
    ) -> None:
        super().__init__()
        self.num_codes, self.code_dim, self.decay, self.eps = num_codes, code_dim, decay, eps
        self.by_gradient = learning == "gradient"
        codebook = torch.empty(num_codes, code_dim)
        nn.init.kaiming_uniform_(codebook)
        self.codebook: Tensor = nn.Parameter(codebook) if self.by_gradient else nn.Buffer(codebook)
        self.ema_counts: Tensor = nn.Buffer(torch.full((num_codes,), _FIRST_COUNT))
        self.ema_sums: Tensor = nn.Buffer(_FIRST_COUNT * codebook)
        # Accumulated since the last step(); not saved, as checkpoints are written between steps, when these are zero.
        self.pending_counts: Tensor = nn.Buffer(torch.zeros(num_codes), persistent=False)
        self.pending_sums: Tensor = nn.Buffer(torch.zeros(num_codes, code_dim), persistent=False)

    @torch.no_grad()
    def set_codebook(self, codebook: Float[Tensor, "k d"]) -> None:
        """Adopt a codebook, such as k-means centres, and reset the moving averages."""
        self.codebook.copy_(codebook)
        self.ema_counts.fill_(_FIRST_COUNT)
        self.ema_sums.copy_(_FIRST_COUNT * codebook)
        self.forget()

    def forward(self, z_e: Float[Tensor, "b d h w"]) -> Quantized:
        with torch.autocast(z_e.device.type, enabled=False):
            z = z_e.float()
            b, _, h, w = z.shape
            vectors = z.permute(0, 2, 3, 1).reshape(-1, self.code_dim)
            indices = nearest_codes(vectors.detach(), self.codebook.detach())
            if self.training:
                self.pending_counts.index_add_(0, indices, torch.ones_like(indices, dtype=torch.float))
                if not self.by_gradient:
                    self.pending_sums.index_add_(0, indices, vectors.detach())
            codes = F.embedding(indices, self.codebook)
            commit_loss = F.mse_loss(vectors, codes.detach())
            codebook_loss = F.mse_loss(codes, vectors.detach()) if self.by_gradient else commit_loss.detach()
            through = codes.detach() + (vectors - vectors.detach())  # plus 0: the codes, with the vectors' gradient
            z_q = through.view(b, h, w, -1).permute(0, 3, 1, 2)
        return Quantized(z_q, indices.view(b, h, w), codebook_loss, commit_loss)

    def lookup(self, indices: Int64[Tensor, "b h w"]) -> Float[Tensor, "b d h w"]:
        """The codes at these indices. Raises `UnknownCodeError` for an index outside [0, num_codes)."""
        if indices.numel() and not (int(indices.min()) >= 0 and int(indices.max()) < self.num_codes):
            raise UnknownCodeError(f"code indices must be in [0, {self.num_codes})")
        return F.embedding(indices, self.codebook).permute(0, 3, 1, 2)

    @torch.no_grad()
    def step(self, made: Bool[Tensor, ""] | bool = True) -> Float[Tensor, "k"]:
        """Update the averages, and so the codebook; returns each code's uses since the last call, over all ranks.

        If the step was not `made`, nothing changes and all uses are 0; a tensor, because the device is not waited for.
        """
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.pending_counts)
            dist.all_reduce(self.pending_sums)
        made = torch.as_tensor(made, device=self.codebook.device)
        counts = torch.where(made, self.pending_counts, 0)
        self.ema_counts.lerp_(torch.where(made, self.pending_counts, self.ema_counts), 1 - self.decay)
        if not self.by_gradient:
            self.ema_sums.lerp_(torch.where(made, self.pending_sums, self.ema_sums), 1 - self.decay)
            total = self.ema_counts.sum()
            smoothed = (self.ema_counts + self.eps) / (total + self.num_codes * self.eps) * total
            # A code unused for so long that ε outweighs its count would drift to the origin: it stays instead.
            used = (self.ema_counts > 1e-3).unsqueeze(1)
            self.codebook.copy_(torch.where(made & used, self.ema_sums / smoothed.unsqueeze(1), self.codebook))
        self.forget()
        return counts

    @torch.no_grad()
    def forget(self) -> None:
        """Discard what was accumulated since the last `step()`."""
        self.pending_counts.zero_()
        self.pending_sums.zero_()

    def dead_codes(self, below: float) -> Bool[Tensor, "k"]:
        """Codes whose moving average of uses is below this fraction of the mean over all codes."""
        return self.ema_counts < below * self.ema_counts.mean()

    @torch.no_grad()
    def replace(self, which: Int64[Tensor, "m"], vectors: Float[Tensor, "m d"]) -> None:
        """Move codes onto the given vectors, with the mean usage as their count and matching sums."""
        count = self.ema_counts.mean()
        self.codebook[which] = vectors.float()
        self.ema_counts[which] = count
        self.ema_sums[which] = vectors.float() * count
