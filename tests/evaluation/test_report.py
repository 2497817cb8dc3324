"""Metrics of an autoencoder on held-out images."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from corner_pixels import CornerPixels

from vq_core.config import load_config
from vq_core.data.augment import to_float
from vq_core.data.decode import load_picture
from vq_core.data.packed import PackedImages
from vq_core.errors import DataError
from vq_core.evaluation.distances import features_of, frechet_distance, kernel_distance, precision_recall
from vq_core.evaluation.report import distance_metrics, held_out_halves, images_in
from vq_core.models import VQVAE
from vq_core.runs.loading import make_vqvae


@pytest.fixture(scope="module")
def model() -> VQVAE:
    torch.manual_seed(0)
    return make_vqvae(load_config("smoke", [])).eval()


def test_each_set_is_compared_with_the_reference_at_equal_numbers(
    packed: PackedImages, model: VQVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vq_core.evaluation.distances.FEW", 2)
    reference, real = held_out_halves(packed)
    rows, half = packed.val_rows, len(packed.val_rows) // 2
    np.testing.assert_array_equal(np.concatenate([reference[1], real[1]]), rows[: 2 * half])
    net, codes = CornerPixels(), torch.randint(model.num_codes, (half + 3, 16, 16))
    x, y = (to_float(torch.from_numpy(images[some])) for images, some in (reference, real))
    metrics = distance_metrics(model, reference, real, {"causal": codes}, [net], 0)
    expected = {"floor": y, "reconstructions": model(y).detach(), "causal": model.decode(codes[: len(y)]).detach()}
    for name, images in expected.items():
        f, g = features_of([x], net), features_of([images], net)
        assert metrics[f"fid_{name}"] == pytest.approx(frechet_distance(f, g), rel=1e-4, abs=1e-6)
        assert (metrics[f"kid_{name}"], metrics[f"kid_{name}_std"]) == pytest.approx(kernel_distance(f, g), rel=1e-4)
        shares = metrics[f"fid_precision_{name}"], metrics[f"fid_recall_{name}"]
        assert shares == precision_recall(f, g)
    assert metrics["fid_causal_ratio"] == metrics["fid_causal"] / metrics["fid_reconstructions"]
    assert len(metrics) == 3 * 5 + 2 and metrics["distance_images"] == half
    few = distance_metrics(model, reference, real, {"causal": codes, "masked": codes[:4]}, [net], 0)
    assert few["distance_images"] == 4 and few["fid_masked"] == few["fid_causal"] != metrics["fid_causal"]


def test_the_frechet_distance_is_left_out_where_images_are_few(packed: PackedImages, model: VQVAE) -> None:
    codes = {"masked": torch.zeros(9, 16, 16, dtype=torch.long)}
    metrics = distance_metrics(model, *held_out_halves(packed), codes, [CornerPixels()], 0)
    assert {name.rsplit("_", 1)[0] for name in metrics if name.endswith("masked")} == {
        "kid",
        "fid_precision",
        "fid_recall",
    }


def test_images_of_a_folder_are_read_like_ones_own(packed: PackedImages, tmp_path: Path) -> None:
    config = load_config("smoke", [])
    with pytest.raises(DataError, match="0 of 0 files are usable images"):
        images_in(tmp_path, config)
    shutil.copytree(packed.folder.parent / "raw", tmp_path / "a/b")
    (tmp_path / "a/broken.png").write_bytes(b"\x89PNG\r\n")
    pictures, unusable = images_in(tmp_path, config)
    again, _ = images_in(tmp_path, config)
    paths = sorted((tmp_path / "a/b").glob("*.png"))
    in_order = np.stack([load_picture(path, config.data).pixels for path in paths])
    assert unusable == 1 and len(pictures) == len(paths) == 60
    assert sorted(x.tobytes() for x in pictures) == sorted(x.tobytes() for x in in_order)
    assert np.array_equal(pictures, again) and not np.array_equal(pictures, in_order)
