"""What the DataModules look up."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_runs import settings

from vq_core.data.batches import Position
from vq_core.data.datamodule import CodesDataModule
from vq_core.data.images import packed_images

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")


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
