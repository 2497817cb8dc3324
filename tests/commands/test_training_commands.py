"""Commands that prepare, train and evaluate; then all commands in a row, as a user types them."""

import json
import shutil
from pathlib import Path

import lpips
import pytest
import torch
from called import TINY, call
from PIL import Image

from vq_core.config import load_config
from vq_core.data.packed import PackedImages
from vq_core.evaluation.distances import PretrainedFeatures
from vq_core.runs.finding import run_for
from vq_core.runs.folders import PHASES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that `test_the_whole_way` fills, for the tests after it."""
    return tmp_path_factory.mktemp("cli")


def test_the_whole_way(folder: Path) -> None:
    result = call(folder, "ingest", *TINY)
    assert result.exit_code == 0 and "images kept" in result.output and "near-duplicate" in result.output
    result = call(folder, "train", "phase1", *TINY)
    assert result.exit_code == 1 and "01_codebook_kmeans_init" in result.output
    for phase in PHASES:
        result = call(folder, "train", phase, *TINY)
        assert result.exit_code == 0, result.output
    raw = next((folder / "avatars").iterdir())
    a, b = str(raw / "00000.png"), str(raw / "00001.png")
    mask, torn = folder / "mask.png", folder / "torn.png"
    Image.new("L", (300, 300)).save(mask)
    with Image.open(mask) as black:
        black.paste(255, (0, 0, 150, 150))
        black.save(mask)
    with Image.open(a) as whole:
        whole = whole.convert("RGBA")
        whole.paste((0, 0, 0, 0), (0, whole.height // 2, whole.width, whole.height))
        whole.save(torn)
    for words in (
        ["sample", "--count", "2", "--top-k", "4"],
        ["sample", "--count", "2", "--way", "masked", "--passes", "4"],
        ["sample", "--count", "2", "--way", "random"],
        ["reconstruct", a],
        ["interpolate", a, b, "--steps", "3"],
        ["interpolate", a, b, "--steps", "3", "--method", "exchange"],
        ["interpolate", a, b, "--steps", "3", "--method", "likely"],
        ["edit", a, "--rows", "0:4", "--copy-from", b],
        ["edit", a, "--code", "3"],
        ["edit", a, "--mask", str(mask), "--code", "3"],
        ["edit", a, "--replace", "3", "4"],
        ["edit", a, "--rows", "12:16", "--regenerate", "--count", "2", "--top-p", "0.9"],
        ["edit", a, "--vary", "0.3", "--count", "2"],
        ["edit", str(torn), "--complete", "--count", "2"],
    ):
        result = call(folder, *words, *TINY)
        assert result.exit_code == 0, result.output
        with Image.open(result.output.strip().splitlines()[-1].strip()) as picture:
            assert picture.height >= 64
    result = call(folder, "evaluate", *TINY)
    assert result.exit_code == 0 and "psnr" in result.output
    result = call(folder, "compare")
    assert result.exit_code == 0 and result.output.count("smoke-") == 5
    (run,) = (folder / "runs").glob("phase2-*")
    assert {"psnr", "ssim", "sharpness", "perplexity"} <= set(json.loads((run / "result.json").read_text()))


def test_evaluate_with_pretrained_networks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks without their weights, and sets that are too small: what is asked for is what comes out."""

    class Pixels(PretrainedFeatures):
        frechet, kernel = "fid", "kid"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :, ::32, ::32].flatten(1)

    original = lpips.LPIPS
    monkeypatch.setattr(lpips, "LPIPS", lambda **how: original(**how | {"pnet_rand": True}))
    monkeypatch.setattr("vq_core.evaluation.distances.InceptionFeatures", Pixels)
    result = call(folder, "evaluate", *TINY, "--fid")
    assert result.exit_code == 0 and "no Fréchet distance: it needs 513 images" in result.output
    assert "kid_samples_std" in result.output and "fid_floor" not in result.output
    all_rows = PackedImages.val_rows.fget
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedImages, "val_rows", property(lambda self: all_rows(self)[:1]))
        result = call(folder, "evaluate", *TINY, "--fid")
    assert result.exit_code == 1 and "1 held-out images are too few for distances between their halves" in result.output
    monkeypatch.setattr("vq_core.evaluation.distances.FEW", 2)
    monkeypatch.setattr("vq_core.evaluation.report.FEW", 2)
    result = call(folder, "evaluate", *TINY, "--fid", "--lpips", "squeeze")
    assert result.exit_code == 0, result.output
    assert "fewer than 2048, is biased upwards" in result.output
    (run,) = (folder / "runs").glob("phase2-*")
    metrics = json.loads((run / "result.json").read_text())
    assert metrics["lpips_squeeze"] > 0 and metrics["lpips_squeeze_se"] > 0
    assert {"fid_floor", "fid_samples", "kid_floor", "kid_samples_std"} <= metrics.keys()


def test_a_full_disk_is_one_line(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "processed", tmp_path / "processed")
    shutil.copytree(folder / "avatars", tmp_path / "avatars")
    whole = [*TINY, "quantizer.init=kaiming", "train.log_every=1"]
    config = load_config("smoke", whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQ_DATA", str(tmp_path))
        run = run_for("phase1", config)
    run.folder.mkdir(parents=True)
    (run.folder / "history.jsonl").symlink_to("/dev/full")
    result = call(tmp_path, "train", "phase1", *whole)
    assert result.exit_code == 1 and "No space left on device" in result.output
    assert "Traceback" not in result.output and "everything saved so far is still there" in result.output
    (tmp_path / "file").write_text("in the way")
    result = call(tmp_path / "file", "ingest", *TINY)
    assert result.exit_code == 1 and str(tmp_path / "file") in result.output and "Traceback" not in result.output
