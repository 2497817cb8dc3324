"""What the DataModules look up and hand on."""

from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from disturbances import differences
from small_runs import fresh_copy, settings

from vq_core.config import load_config
from vq_core.data.batches import Position
from vq_core.data.datamodule import AnimeDataModule, CodesDataModule, RowsDataModule
from vq_core.data.images import packed_images
from vq_core.runs.checkpoints import load_checkpoint
from vq_core.training.phases import train

ROWS = torch.arange(100, 137)  # 37 rows, which a batch of 10 does not divide


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_the_prior_sees_codes_of_flipped_images_in_training_only(place: Path, flip: float) -> None:
    config, packed = settings(f"data.flip={flip}"), packed_images(settings())
    codes = torch.stack([torch.full((len(packed.images), 8, 8), which) for which in (0, 1)]).int()
    data = CodesDataModule(config, codes, packed, Position(0, 10, 4))
    data.trainer = SimpleNamespace(training=True, global_rank=0, world_size=1)  # type: ignore[assignment]
    batch = data.on_after_batch_transfer(torch.arange(32), 0)
    assert (batch.float().mean() == flip) if flip in (0, 1) else 0 < batch.float().mean() < 1
    data.trainer.training = False  # type: ignore[union-attr, misc]
    assert data.on_after_batch_transfer(torch.arange(32), 0).sum() == 0


@pytest.mark.parametrize("views", [1, 2, 5])
def test_the_prior_sees_every_view_in_training_and_the_first_in_validation(place: Path, views: int) -> None:
    packed = packed_images(settings())
    codes = torch.stack([torch.full((len(packed.images), 8, 8), which) for which in range(views)]).int()
    data = CodesDataModule(settings(), codes, packed, Position(0, 10, 4))
    data.trainer = SimpleNamespace(training=True, global_rank=0, world_size=1)  # type: ignore[assignment]
    shares = torch.bincount(data.on_after_batch_transfer(torch.arange(40).repeat(50), 0)[:, 0], minlength=views) / 2000
    assert len(shares) == views and bool((shares - 1 / views).abs().max() < 0.04)
    data.trainer.training = False  # type: ignore[union-attr, misc]
    assert data.on_after_batch_transfer(torch.arange(32), 0).sum() == 0


def test_validation_keeps_the_order_and_the_short_end() -> None:
    data = RowsDataModule(load_config("smoke"), Position(0, 10, 4), "train.batch_size", 10, ROWS, ROWS)
    data.trainer = cast(Any, SimpleNamespace(global_rank=0, world_size=1))
    batches = [batch.tolist() for batch in data.val_dataloader()]
    assert [len(batch) for batch in batches] == [10, 10, 10, 7] and list(chain.from_iterable(batches)) == ROWS.tolist()


def test_images_that_are_streamed_train_the_same(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """As when they do not fit on the GPU: worker processes read them from the file, ahead of the training."""
    alone = ("quantizer.init=kaiming", "phase1.steps=6")
    read = load_checkpoint(train("phase1", settings(*alone)).last, ("phase1",))["model"]
    monkeypatch.setattr(AnimeDataModule, "setup", lambda self, stage: self.stream())
    fresh_copy(place, tmp_path / "again", monkeypatch, without="phase1")
    streamed = load_checkpoint(train("phase1", settings(*alone)).last, ("phase1",))["model"]
    assert differences(read, streamed) == []
