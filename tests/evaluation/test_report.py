"""Metrics of an autoencoder on held-out images."""

import numpy as np
import pytest
import torch
from corner_pixels import CornerPixels

from vq_core.avatars.dataset import write_avatars
from vq_core.config import load_config
from vq_core.data.ingest import ingest
from vq_core.data.packed import PackedImages
from vq_core.evaluation.report import distance_metrics
from vq_core.runs.loading import make_vqvae


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedImages:
    folder = tmp_path_factory.mktemp("distances")
    write_avatars(folder / "raw", 60, seed=0, progress=False)
    return ingest(folder / "raw", folder / "packed", load_config("smoke").data, seed=0, progress=False)


def test_metrics_compare_halves_of_what_was_held_out(packed: PackedImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vq_core.evaluation.distances.FEW", 2)
    monkeypatch.setattr("vq_core.evaluation.report.FEW", 2)
    torch.manual_seed(0)
    model, half = make_vqvae(load_config("smoke", [])).eval(), len(packed.val_rows) // 2
    few, enough = torch.zeros(half - 1, 3, 64, 64), torch.rand(half + 1, 3, 64, 64)
    metrics = distance_metrics(model, packed, [CornerPixels()], 0, enough)
    sets = ("floor", "reconstructions", "samples")
    names = {f"{d}_{s}" for d in ("fid", "kid") for s in sets} | {f"kid_{s}_std" for s in sets} | {"distance_images"}
    assert metrics.keys() == names and metrics["distance_images"] == half
    assert all(np.isfinite(value) for value in metrics.values())
    assert not any("samples" in name for name in distance_metrics(model, packed, [CornerPixels()], 0, few))
