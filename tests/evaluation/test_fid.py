"""The protocol of FID against torch-fidelity run by hand, and clean-fid's resizing.

Inception has random weights, since the real ones cannot be had in a test: the figures are no FID, only equal.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from cleanfid.resize import build_resizer
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from vq_core.config import load_config
from vq_core.data.augment import to_float, to_uint8
from vq_core.data.packed import PackedImages
from vq_core.evaluation.distances import InceptionFeatures, clean_resize
from vq_core.evaluation.report import distance_metrics
from vq_core.runs.loading import make_vqvae

pytestmark = pytest.mark.slow
FILE = "weights-inception-2015-12-05-6726825d.pth"
SEED = 3


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Random weights, scaled so that features neither vanish nor explode, where the real ones would lie."""
    home = tmp_path_factory.mktemp("torch")
    path = home / "hub" / "checkpoints" / FILE
    path.parent.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        with pytest.MonkeyPatch.context() as building:
            building.setattr(
                "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {}
            )
            building.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
            net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        torch.manual_seed(0)
        for name, weight in net.named_parameters():
            if weight.dim() == 4:
                assert name.endswith("conv.weight")
                torch.nn.init.kaiming_normal_(weight)
        torch.save(net.state_dict(), path)
        yield path


def save(pixels: np.ndarray, folder: Path) -> str:
    folder.mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{number:03}.png")
    return str(folder)


def test_figures_are_those_of_torch_fidelity_run_by_hand(
    packed: PackedImages, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On folders of PNGs, sets of unequal sizes: samples and reconstructions against real images."""
    monkeypatch.setattr("vq_core.evaluation.distances.FEW", 8)
    torch.manual_seed(0)
    model, rows = make_vqvae(load_config("smoke", [])).eval(), packed.train_rows[:24]
    codes, reference = torch.randint(model.num_codes, (32, 16, 16)), (packed.images, rows)
    found = distance_metrics(model, reference, reference, {"causal": codes}, [InceptionFeatures()], SEED, draws=1)
    assert "fid_floor" not in found and "fid_causal_ratio" not in found
    real = packed.images[rows]
    with torch.no_grad():
        sets = {"causal": model.decode(codes), "reconstructions": model(to_float(torch.from_numpy(real)))}
    known = save(real, tmp_path / "real")
    for name, images in sets.items():
        by_hand = torch_fidelity.calculate_metrics(
            input1=save(to_uint8(images).numpy(), tmp_path / name),
            input2=known,
            feature_extractor_weights_path=str(weights),
            **{"cuda": False, "fid": True, "kid": True, "prc": True, "cache": False, "verbose": False},
            **{"feature_extractor": "inception-v3-compat", "feature_layer_prc": "2048", "save_cpu_ram": True},
            kid_subset_size=12,
            rng_seed=SEED,
        )
        assert by_hand["frechet_inception_distance"] > 0.1
        expected = {
            f"fid_{name}": by_hand["frechet_inception_distance"],
            f"kid_{name}": by_hand["kernel_inception_distance_mean"],
            f"kid_{name}_std": by_hand["kernel_inception_distance_std"],
            f"fid_precision_{name}": by_hand["precision"],
            f"fid_recall_{name}": by_hand["recall"],
        }
        assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-3)


def test_clean_resizing_is_clean_fids(packed: PackedImages, weights: Path) -> None:
    pixels = packed.images[[0, 1, 2]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how clean-fid calls Pillow
        expected = np.stack([build_resizer("clean")(x) for x in pixels]).transpose(0, 3, 1, 2)
    resized = clean_resize(torch.from_numpy(pixels))
    np.testing.assert_array_equal(resized.numpy(), expected)
    seen: list[torch.Tensor] = []
    net = InceptionFeatures("clean-fid")
    net.net.Conv2d_1a_3x3.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    x = to_float(torch.from_numpy(pixels))
    features = net(x)
    np.testing.assert_allclose(seen[0].numpy() * 128 + 128, expected, atol=1e-4)
    other = InceptionFeatures()
    assert not torch.allclose(features, other(x), rtol=1e-2)
    large = to_float(clean_resize(torch.from_numpy(pixels)).round().to(torch.uint8).permute(0, 2, 3, 1))
    torch.testing.assert_close(net(large), other(large))  # of that size already
    assert "resized by clean-fid's rule" in net.figure and "resized by torch-fidelity's rule" in other.figure
