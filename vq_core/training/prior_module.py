"""Phase 3: the transformer prior in training, causal or masked."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from vq_core.config import Config, config_from_dict
from vq_core.data.datamodule import RowsDataModule
from vq_core.models import CodeTransformer
from vq_core.training.ranks import total
from vq_core.training.runs import PRIORS
from vq_core.training.state import checkpoint_file, fitting, load_checkpoint
from vq_core.training.step_module import StepModule

PriorKind = Literal["prior", "masked"]  # runs.PRIORS
Sequences = Int64[Tensor, "b n"]


class CodesDataModule(RowsDataModule):
    """Training and validation batches of code sequences [b, n], from codes extracted once.

    Args:
        codes: of every image and of every image flipped, [2, N, h, w]; `data.flip` says how often training takes
            the second. Validation is on the first.
    """

    def __init__(self, config: Config, codes: Int[Tensor, "2 count h w"], train_rows: Tensor, val_rows: Tensor) -> None:
        super().__init__(config, "prior.batch_size", config.prior.batch_size, train_rows, val_rows)
        self.codes = codes.flatten(2)

    def on_after_batch_transfer(self, batch: Int64[Tensor, "b"], dataloader_idx: int) -> Sequences:
        flipped = torch.zeros(len(batch), dtype=torch.long)
        trainer, module = self._fitting()
        if trainer.training:
            rank, world = trainer.global_rank, trainer.world_size
            draw = torch.rand(len(batch) * world, generator=torch.Generator().manual_seed(module.batch_seed(0)))[
                rank::world
            ]
            flipped = (draw < self.config.data.flip).long()
        return self.codes[flipped, batch.cpu()].long().to(batch.device)


class PriorModel(StepModule):
    """A transformer over codes with its loss, in bits per token; log2(1024) = 10 bits is what guessing costs.

    "prior", causal: −log2 p of each code given those before it; codes [64, 256] → logits [64, 256, 1024].

    "masked": −log2 p of unknown codes given the known ones, where the number of unknown ones is drawn evenly from
    1 … n. The mean is an upper bound of the bits that the codes cost when drawn one by one in any order (Hoogeboom et
    al., "Autoregressive Diffusion Models", arXiv:2110.02037, equation 3), so that it may be compared with the first.
    """

    def __init__(self, config: Config, kind: PriorKind = "prior") -> None:
        super().__init__(config)
        self.kind, prior = kind, config.prior
        self.optimizer_names = ("", "_muon")
        self.transformer = CodeTransformer(
            config.model.num_codes,
            config.grid,
            prior.dim,
            prior.layers,
            prior.heads,
            prior.dropout,
            causal=kind == "prior",
            code_dim=config.model.code_dim,
        )
        self.total_steps, self.peak_lr = prior.steps, prior.lr
        self.warmup_steps = min(prior.warmup_steps, prior.steps // 2)
        self.monitor, self.patience, self.accumulate, self.val_every = "bits", prior.patience, 1, prior.val_every
        self._val = torch.zeros(2)
        self._val_masks = torch.zeros(0)

    @classmethod
    def load(cls, run_or_checkpoint: str | Path) -> "PriorModel":
        """The prior of a run's best checkpoint, or of a given file, in eval mode. Raises `CheckpointError`."""
        path = checkpoint_file(run_or_checkpoint)
        state = load_checkpoint(path, PRIORS)
        with fitting(path):
            model = cls(config_from_dict(state["config"]), state["kind"])
            model.load_state_dict(state["model"])
        return model.eval().requires_grad_(False)

    def forward(self, codes: Sequences) -> Float[Tensor, "b n k"]:
        """Logits of every position given those that the transformer may look at."""
        return self.transformer(codes)

    def bits(self, codes: Sequences, masks: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b n"]:
        """−log2 p of every code given those before it; with masks, of the masked ones given the others, else 0."""
        given = codes if masks is None else codes.masked_fill(masks, self.transformer.unknown)
        nats = F.cross_entropy(self(given).flatten(0, 1).float(), codes.flatten(), reduction="none").view(codes.shape)
        return (nats if masks is None else nats * masks) / math.log(2)

    def mean_bits(self, codes: Sequences, masks: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b"]:
        """Bits per token of each sequence: over all positions or, with masks, over the masked ones."""
        bits = self.bits(codes, masks)
        return bits.mean(1) if masks is None else bits.sum(1) / masks.sum(1)

    def training_step(self, codes: Sequences, batch_idx: int) -> None:
        masks = None
        if self.kind == "masked":
            rank, world = self.global_rank, self.trainer.world_size
            generator = torch.Generator().manual_seed(self.batch_seed(1))
            masks = random_masks(len(codes) * world, codes.shape[1], generator)[rank::world].to(codes.device)
        bits = self.mean_bits(codes, masks).mean()
        self.manual_backward(bits * math.log(2))
        self.finish_batch({"bits": bits}, len(codes))

    def on_validation_epoch_start(self) -> None:
        self._val = torch.zeros(3, device=self.device)  # sums over sequences: bits, their squares, 1
        if self.kind == "masked":  # the same masks at every validation, however many processes share it
            count = len(self.trainer.datamodule.val_rows)  # type: ignore[attr-defined]
            masks = random_masks(count, self.transformer.length, torch.Generator().manual_seed(self.config.seed))
            self._val_masks = masks[self.global_rank :: self.trainer.world_size].to(self.device)

    def validation_step(self, codes: Sequences, batch_idx: int) -> None:
        first = batch_idx * self.config.prior.batch_size
        masks = self._val_masks[first : first + len(codes)] if self.kind == "masked" else None
        bits = self.mean_bits(codes, masks)
        self._val += torch.stack([bits.sum(), bits.square().sum(), bits.new_tensor(len(bits))])

    def on_validation_epoch_end(self) -> None:
        bits, squares, count = total(self._val).tolist()
        spread = max(0.0, squares / count - (bits / count) ** 2) / max(1, count - 1)
        self.finish_validation({"bits": bits / count, "bits_se": spread**0.5})

    def configure_optimizers(self) -> Any:
        """Muon (K. Jordan; with the weight decay of arXiv:2502.16982) for the blocks' matrices, AdamW for all else."""
        prior = self.config.prior
        inside = [p for p in self.transformer.blocks.parameters() if p.dim() == 2]
        known = {id(p) for p in inside}
        rest = [p for p in self.parameters() if id(p) not in known]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in rest if p.dim() == 2], "weight_decay": prior.weight_decay},
            {"params": [p for p in rest if p.dim() != 2], "weight_decay": 0.0},
        ]
        return [
            torch.optim.AdamW(groups, prior.lr, betas=(0.9, 0.95), fused=self.device.type == "cuda"),
            torch.optim.Muon(inside, prior.muon_lr, weight_decay=0.1),
        ]


def random_masks(count: int, length: int, generator: torch.Generator) -> Bool[Tensor, "count length"]:
    """Masks of random positions, the number of which is spread evenly over 1 … length among the masks.

    One draw shifts evenly spaced numbers (Kingma et al., arXiv:2107.00630, appendix I.1): so that a batch always has
    easy and hard ones, and its loss varies less than with a draw for each.
    """
    spread = (torch.rand(1, generator=generator) + torch.randperm(count, generator=generator)) / count
    wanted = 1 + (spread * length).floor().clamp(max=length - 1)
    ranks = torch.rand(count, length, generator=generator).argsort(1).argsort(1)
    return ranks < wanted[:, None]
