"""Phase 3: training of the transformer prior, causal or in any order."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vq_core.config import Config
from vq_core.data.batches import Position, Purpose
from vq_core.errors import ConfigError
from vq_core.models.transformer import Sequences, halton_order
from vq_core.runs.loading import make_prior
from vq_core.training.muon import Muon
from vq_core.training.ranks import total
from vq_core.training.steps import StepModule


class PriorTraining(StepModule):
    """Trains a `CodeTransformer`; its loss is in bits per token, of which guessing costs log2(1024) = 10.

    "prior", causal: −log2 p of each code given those before it; codes [64, 256] → logits [64, 256, 1024].

    "masked": the same in the orders of `random_orders`. A bidirectional network raises `ConfigError`.
    """

    def __init__(self, config: Config, phase: Literal["prior", "masked"]) -> None:
        if phase == "masked" and config.masked.network == "bidirectional":
            gone = "is no longer trained, only loaded; set masked.network=any_order"
            raise ConfigError(f"masked.network=bidirectional: {gone}")
        prior = config.prior
        position = Position(config.seed, prior.steps, prior.val_every)
        super().__init__(config, phase, position, prior.lr, prior.warmup_steps, "bits", prior.patience)
        self.transformer = make_prior(config, phase)
        # Moving averages of its weights: used for validation, and by all that loads a checkpoint.
        move = get_ema_multi_avg_fn(prior.ema)
        self.averaged = AveragedModel(self.transformer, multi_avg_fn=move).requires_grad_(False) if prior.ema else None
        if config.train.processes == 1:  # CUDA graphs, as a step is many small kernels; not known to work with several
            self.compile_how = {"mode": "reduce-overhead"}

    def forward(self, codes: Sequences, *order: Sequences) -> Float[Tensor, "b n k"]:
        """Logits of every code, given those that the transformer is allowed to see for it."""
        network = self.transformer if self.training or self.averaged is None else self.averaged
        return network(codes, *order)

    def compiled_parts(self) -> list[nn.Module]:
        return [self.transformer]

    def training_step(self, codes: Sequences, batch_idx: int) -> None:
        """One batch of code sequences."""
        if self.device.type == "cuda":  # what the last step's graphs returned is needed no more
            torch.compiler.cudagraph_mark_step_begin()
        orders = self.orders(len(codes) * self.trainer.world_size, self.position.generator(Purpose.MASKS))
        bits = self.bits_per_token(codes, orders).mean()
        self.add_gradient(bits * math.log(2))
        self.finish_batch({"bits": bits}, len(codes))

    def bits_per_token(self, codes: Sequences, orders: Sequences | None) -> Float[Tensor, "b"]:
        """Mean −log2 p of each sequence's codes given those before them, in raster order or in the given orders."""
        if orders is None:
            logits = self(codes)
        else:
            logits, codes = self(codes, orders), codes.gather(1, orders)
        nats = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten(), reduction="none").view(codes.shape)
        return nats.mean(1) / math.log(2)

    def after_update(self, updated: Tensor, means: dict[str, Tensor]) -> None:
        """Move the averages."""
        if self.averaged is not None and bool(updated):
            self.averaged.update_parameters(self.transformer)

    def orders(self, count: int, generator: torch.Generator) -> Sequences | None:
        """Of the orders for this many sequences of all processes, those of this one; None for the causal prior."""
        if self.phase == "prior":
            return None
        rank, world = self.shard
        return random_orders(count, self.transformer.grid, generator)[rank::world].to(self.device, non_blocking=True)

    def make_optimizers(self) -> dict[str, Optimizer]:
        """Muon for the blocks' matrices, AdamW for everything else."""
        prior = self.config.prior
        inside = [p for p in self.transformer.blocks.parameters() if p.dim() == 2]
        rest = [p for p in self.transformer.parameters() if all(p is not other for other in inside)]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in rest if p.dim() == 2], "weight_decay": prior.weight_decay},
            {"params": [p for p in rest if p.dim() != 2], "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(groups, prior.lr, betas=(0.9, 0.95), fused=self.device.type == "cuda")
        return {"": adamw, "_muon": Muon(inside, prior.muon_lr, weight_decay=0.1)}

    def on_validation_epoch_start(self) -> None:
        self._val = torch.zeros(3, device=self.device)  # sums over sequences: bits, their squares, 1
        # The same orders at every validation, for any number of processes.
        generator = torch.Generator().manual_seed(self.config.seed)
        self._val_orders = self.orders(len(self.trainer.datamodule.val_rows), generator)  # type: ignore[attr-defined]

    @torch.compiler.set_stance("force_eager")
    def validation_step(self, codes: Sequences, batch_idx: int) -> None:
        first = batch_idx * self.config.prior.batch_size
        orders = None if self._val_orders is None else self._val_orders[first : first + len(codes)]
        bits = self.bits_per_token(codes, orders)
        self._val += torch.stack([bits.sum(), bits.square().sum(), bits.new_tensor(len(bits))])

    def on_validation_epoch_end(self) -> None:
        bits, squares, count = total(self._val).tolist()
        spread = max(0.0, squares / count - (bits / count) ** 2) / max(1, count - 1)
        self.finish_validation({"bits": bits / count, "bits_se": spread**0.5})


def random_orders(count: int, grid: int, generator: torch.Generator) -> Int64[Tensor, "count n"]:
    """Orders as they come up in drawing: what is known, at random, and then the cells of a region in Halton's order.

    In half of them the region is the whole grid, in a quarter each a rectangle or scattered cells.
    """
    n, turn = grid**2, halton_order(grid).argsort()
    side = 1 + (torch.rand(2, count, 1, generator=generator) * grid).long()
    first = (torch.rand(2, count, 1, generator=generator) * (grid - side + 1)).long()
    rows, columns = (torch.arange(grid) >= first) & (torch.arange(grid) < first + side)
    rectangle = (rows[:, :, None] & columns[:, None]).flatten(1)
    scattered = torch.rand(count, n, generator=generator) < torch.rand(count, 1, generator=generator)
    kind = torch.rand(count, 1, generator=generator)
    region = (kind < 0.5) | torch.where(kind < 0.75, rectangle, scattered)
    return torch.where(region, turn, torch.rand(count, n, generator=generator) - 1).argsort(1)
