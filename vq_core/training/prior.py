"""Phase 3: training of the transformer prior, causal or masked."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.optim import Optimizer

from vq_core.config import Config
from vq_core.data.batches import Position, Purpose
from vq_core.runs.loading import make_prior
from vq_core.training.ranks import total
from vq_core.training.steps import StepModule

PriorPhase = Literal["prior", "masked"]
Sequences = Int64[Tensor, "b n"]


class PriorTraining(StepModule):
    """Trains a `CodeTransformer`; its loss is in bits per token, of which guessing costs log2(1024) = 10.

    "prior", causal: −log2 p of each code given those before it; codes [64, 256] → logits [64, 256, 1024].

    "masked": −log2 p of the unknown codes given the known ones, with the number of unknown codes drawn uniformly from
    1 … n. Its mean is an upper bound on the cost in bits of drawing the codes one by one in any order (Hoogeboom et
    al., "Autoregressive Diffusion Models", arXiv:2110.02037, equation 3), so it can be compared with the causal loss.
    """

    def __init__(self, config: Config, phase: PriorPhase) -> None:
        prior = config.prior
        position = Position(config.seed, prior.steps, prior.val_every)
        super().__init__(config, phase, position, prior.lr, prior.warmup_steps, "bits", prior.patience)
        self.transformer = make_prior(config, phase)
        self._val = torch.zeros(2)
        self._val_masks = torch.zeros(0)

    def forward(self, codes: Sequences) -> Float[Tensor, "b n k"]:
        """Logits at every position, given the codes that the transformer is allowed to see from there."""
        return self.transformer(codes)

    def training_step(self, codes: Sequences, batch_idx: int) -> None:
        """One batch of code sequences."""
        bits = self.bits_per_token(codes, self.batch_masks(codes)).mean()
        self.add_gradient(bits * math.log(2))
        self.finish_batch({"bits": bits}, len(codes))

    def bits_per_token(self, codes: Sequences, masks: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b"]:
        """Mean of `bits` over the positions of each sequence or, with masks, over its masked positions."""
        bits = self.bits(codes, masks)
        return bits.mean(1) if masks is None else bits.sum(1) / masks.sum(1)

    def bits(self, codes: Sequences, masks: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b n"]:
        """−log2 p of every code given those before it; with masks, of masked codes given the others, else 0."""
        given = codes if masks is None else codes.masked_fill(masks, self.transformer.unknown)
        nats = F.cross_entropy(self(given).flatten(0, 1).float(), codes.flatten(), reduction="none").view(codes.shape)
        return (nats if masks is None else nats * masks) / math.log(2)

    def batch_masks(self, codes: Sequences) -> Bool[Tensor, "b n"] | None:
        """Which codes of this batch are to be filled in; None for the causal prior."""
        if self.phase == "prior":
            return None
        rank, world = self.shard
        masks = random_masks(len(codes) * world, codes.shape[1], self.position.generator(Purpose.MASKS))
        return masks[rank::world].to(codes.device)

    def make_optimizers(self) -> dict[str, Optimizer]:
        """Muon (K. Jordan; weight decay as in arXiv:2502.16982) for the blocks' matrices, AdamW for everything else."""
        prior = self.config.prior
        inside = [p for p in self.transformer.blocks.parameters() if p.dim() == 2]
        rest = [p for p in self.parameters() if all(p is not other for other in inside)]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in rest if p.dim() == 2], "weight_decay": prior.weight_decay},
            {"params": [p for p in rest if p.dim() != 2], "weight_decay": 0.0},
        ]
        return {
            "": torch.optim.AdamW(groups, prior.lr, betas=(0.9, 0.95), fused=self.device.type == "cuda"),
            "_muon": torch.optim.Muon(inside, prior.muon_lr, weight_decay=0.1),
        }

    # --- validation -----------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._val = torch.zeros(3, device=self.device)  # sums over sequences: bits, their squares, 1
        if self.phase == "masked":  # the same masks at every validation, for any number of processes
            count = len(self.trainer.datamodule.val_rows)  # type: ignore[attr-defined]
            masks = random_masks(count, self.transformer.length, torch.Generator().manual_seed(self.config.seed))
            self._val_masks = masks[self.global_rank :: self.trainer.world_size].to(self.device)

    def validation_step(self, codes: Sequences, batch_idx: int) -> None:
        first = batch_idx * self.config.prior.batch_size
        masks = self._val_masks[first : first + len(codes)] if self.phase == "masked" else None
        bits = self.bits_per_token(codes, masks)
        self._val += torch.stack([bits.sum(), bits.square().sum(), bits.new_tensor(len(bits))])

    def on_validation_epoch_end(self) -> None:
        bits, squares, count = total(self._val).tolist()
        spread = max(0.0, squares / count - (bits / count) ** 2) / max(1, count - 1)
        self.finish_validation({"bits": bits / count, "bits_se": spread**0.5})


def random_masks(count: int, length: int, generator: torch.Generator) -> Bool[Tensor, "count length"]:
    """Masks of random positions; the number of positions per mask is spread evenly over 1 … length.

    A single draw shifts evenly spaced numbers (Kingma et al., arXiv:2107.00630, appendix I.1), so every batch has both
    easy and hard masks, and its loss varies less than with one draw per mask.
    """
    spread = (torch.rand(1, generator=generator) + torch.randperm(count, generator=generator)) / count
    wanted = 1 + (spread * length).floor().clamp(max=length - 1)
    ranks = torch.rand(count, length, generator=generator).argsort(1).argsort(1)
    return ranks < wanted[:, None]
