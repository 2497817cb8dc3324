"""Phase 3: the transformer prior in training."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.utils.data import DataLoader

from vq_core.config import Config, config_from_dict
from vq_core.data.datamodule import enough_images, stretch_loader, val_loader
from vq_core.models import CodeTransformer
from vq_core.training.ranks import total
from vq_core.training.state import checkpoint_file, fitting, load_checkpoint
from vq_core.training.step_module import StepModule

Sequences = Int64[Tensor, "b n"]


class CodesDataModule(L.LightningDataModule):
    """Training and validation batches of code sequences [b, n], from codes extracted once [N, h, w]."""

    def __init__(self, config: Config, codes: Int[Tensor, "count h w"], train_rows: Tensor, val_rows: Tensor) -> None:
        super().__init__()
        self.config, self.train_rows, self.val_rows = config, train_rows, val_rows
        self.codes = codes.flatten(1)
        enough_images("prior.batch_size", config.prior.batch_size, len(train_rows), len(val_rows), config.train.devices)

    def train_dataloader(self) -> DataLoader[int]:
        return stretch_loader(self.trainer, self.train_rows, self.config.prior.batch_size)

    def val_dataloader(self) -> DataLoader[int]:
        return val_loader(self.trainer, self.val_rows, self.config.prior.batch_size)

    def on_after_batch_transfer(self, batch: Int64[Tensor, "b"], dataloader_idx: int) -> Sequences:
        return self.codes[batch.cpu()].long().to(batch.device)


class PriorModel(StepModule):
    """The causal transformer with its loss: cross-entropy of the next code, reported in bits per token.

    codes [64, 256] → logits [64, 256, 1024]; log2(1024) = 10 bits is what guessing costs.
    """

    kind = "prior"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        prior = config.prior
        self.transformer = CodeTransformer(
            config.model.num_codes, config.grid, prior.dim, prior.layers, prior.heads, prior.dropout
        )
        self.total_steps, self.peak_lr = prior.steps, prior.lr
        self.warmup_steps = min(prior.warmup_steps, prior.steps // 2)
        self.monitor, self.patience, self.accumulate, self.val_every = "bits", prior.patience, 1, prior.val_every
        self._val = torch.zeros(2)

    @classmethod
    def load(cls, run_or_checkpoint: str | Path) -> "PriorModel":
        """The prior of a run's best checkpoint, or of a given file, in eval mode. Raises `CheckpointError`."""
        path = checkpoint_file(run_or_checkpoint)
        state = load_checkpoint(path, ("prior",))
        with fitting(path):
            model = cls(config_from_dict(state["config"]))
            model.load_state_dict(state["model"])
        return model.eval().requires_grad_(False)

    def forward(self, codes: Sequences) -> Float[Tensor, "b n k"]:
        """Logits of every position given those before it."""
        return self.transformer(codes)

    def bits(self, codes: Sequences) -> Float[Tensor, "b n"]:
        """−log2 p of every code given those before it."""
        logits = self(codes)
        return F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten(), reduction="none").view(
            codes.shape
        ) / math.log(2)

    def training_step(self, codes: Sequences, batch_idx: int) -> None:
        bits = self.bits(codes).mean()
        self.manual_backward(bits * math.log(2))
        self.finish_batch({"bits": bits}, len(codes))

    def players(self) -> list[tuple[Any, list[torch.nn.Parameter]]]:
        return [(self.optimizers(), list(self.parameters()))]

    def on_validation_epoch_start(self) -> None:
        self._val = torch.zeros(2, device=self.device)

    def validation_step(self, codes: Sequences, batch_idx: int) -> None:
        bits = self.bits(codes)
        self._val += torch.stack([bits.sum(), bits.new_tensor(bits.numel())])

    def on_validation_epoch_end(self) -> None:
        bits, count = total(self._val).tolist()
        self.finish_validation({"bits": bits / count})

    def configure_optimizers(self) -> Any:
        decayed = [p for p in self.parameters() if p.dim() == 2]
        rest = [p for p in self.parameters() if p.dim() != 2]
        prior = self.config.prior
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": prior.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, prior.lr, betas=(0.9, 0.95), fused=self.device.type == "cuda")
