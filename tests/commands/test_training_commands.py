"""Commands that prepare, train and evaluate; then all commands in a row, as a user types them."""

import json
import shutil
from pathlib import Path

import lpips
import pytest
import torch
from called import TINY, call
from PIL import Image

from vq_core.avatars.dataset import write_avatars
from vq_core.config import load_config
from vq_core.data.packed import PackedImages
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


class Pixels(torch.nn.Module):
    frechet, kernel, figure = "fid", "kid", "Distances of {}; pixels"

    def __init__(self, resize: str) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, ::32, ::32].flatten(1)


def test_evaluate_with_pretrained_networks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks without their weights, and sets that are too small: what is asked for is what comes out."""
    original = lpips.LPIPS
    monkeypatch.setattr(lpips, "LPIPS", lambda **how: original(**how | {"pnet_rand": True}))
    monkeypatch.setattr("vq_core.evaluation.distances.InceptionFeatures", Pixels)
    result = call(folder, "evaluate", *TINY, "--fid")
    assert result.exit_code == 0 and "and it needs 513" in result.output
    assert "  causal: kid " in result.output and "precision" in result.output and "fid" not in result.output
    assert "precision and recall on" in result.output and "are mostly chance" in result.output
    all_rows = PackedImages.val_rows.fget
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedImages, "val_rows", property(lambda self: all_rows(self)[:1]))
        result = call(folder, "evaluate", *TINY, "--fid")
    assert result.exit_code == 1 and "1 held-out images are too few for distances between their halves" in result.output
    monkeypatch.setattr("vq_core.evaluation.distances.FEW", 2)
    result = call(folder, "evaluate", *TINY, "--fid", "--lpips", "squeeze")
    assert result.exit_code == 0, result.output
    assert "fewer than 2048, is biased upwards" in result.output
    (run,) = (folder / "runs").glob("phase2-*")
    metrics = json.loads((run / "result.json").read_text())
    assert metrics["lpips_squeeze"] > 0 and metrics["lpips_squeeze_se"] > 0
    figures = ("fid_{}", "kid_{}", "kid_{}_std", "fid_precision_{}", "fid_recall_{}")
    sets = ("floor", "reconstructions", "causal", "masked")
    assert {figure.format(name) for figure in figures for name in sets} <= metrics.keys()
    assert {"fid_masked_ratio", "copies_causal", "copies_masked", "copies_held_out"} <= metrics.keys()
    (line,) = (line for line in result.output.splitlines() if line.startswith("  masked: "))
    for part in (f"({metrics['fid_masked_ratio']:.2f}× reconstructions)", " ± ", "recall ", "copies ", "(held-out"):
        assert part in line
    assert "causal: fid ratio" in call(folder, "compare").output


def test_evaluate_against_a_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vq_core.evaluation.distances.InceptionFeatures", Pixels)
    (run,) = (folder / "runs").glob("phase2-*")
    words, faces = ["evaluate", *TINY, "--against"], tmp_path / "faces"
    result = call(folder, *words, str(faces), "--fid")
    assert result.exit_code == 2 and "does not exist" in result.output.splitlines()[-1]
    write_avatars(faces / "some", 6, seed=1, progress=False)
    result = call(folder, *words, str(faces))
    assert result.exit_code == 2 and "--frechet or --fid" in result.output.splitlines()[-1]
    (faces / "broken.png").write_bytes(b"no image")
    before = json.loads((run / "result.json").read_text())
    result = call(folder, *words, str(faces), "--fid")
    assert result.exit_code == 0, result.output
    after, held_out = json.loads((run / "result.json").read_text()), int(before["images"])
    assert after["against"] == "faces" and after["distance_images"] == held_out
    assert f"{held_out} images in each set, compared with 6 of {faces}; 1 unusable files left out" in result.output
    assert before["fid_floor"] > 0 and after["fid_floor"] is None, "of other images, and not found anew"
    assert after["kid_floor"] != before["kid_floor"] and after["copies_causal"] >= 0
    assert "| faces |" in call(folder, "compare").output
    result = call(folder, *words, str(faces), "--fid", "--phase", "phase1")
    assert result.exit_code == 0 and "reconstructions: kid" in result.output and "causal" not in result.output
    shutil.rmtree(faces / "some")
    result = call(folder, *words, str(faces), "--fid")
    assert result.exit_code == 1 and result.output.splitlines()[-1].endswith(
        "faces: 0 of 1 files are usable images; at least 4 are needed"
    )
    result = call(folder, "evaluate", *TINY, "--fid")
    assert result.exit_code == 0 and json.loads((run / "result.json").read_text())["against"] is None


def test_evaluate_by_the_protocol_of_papers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many samples, whole sets, a spread over draws, and a name that says all of it."""
    monkeypatch.setattr("vq_core.evaluation.distances.InceptionFeatures", Pixels)
    monkeypatch.setattr("vq_core.evaluation.distances.FEW", 2)
    (run,) = (folder / "runs").glob("phase2-*")
    words = ["evaluate", *TINY, "--fid"]
    for wrong, message in (
        (["evaluate", *TINY, "--count", "9"], "--frechet or --fid"),
        (["evaluate", *TINY, "--resize", "clean-fid"], "add --fid"),
        ([*words, "--count", "9", "--phase", "phase1"], "train prior or masked"),
    ):
        result = call(folder, *wrong)
        assert result.exit_code == 2 and message in result.output.splitlines()[-1]
    result = call(folder, *words, "--against", "training", "--count", "9", "--repeat", "3")
    assert result.exit_code == 0, result.output
    stored = json.loads((run / "result.json").read_text())
    held_out, kept = int(stored["images"]), stored["packed_images"]
    name = (
        f"9 samples (mean of 3 draws) and {held_out} reconstructions against {kept - held_out} training images, 64×64"
    )
    assert stored["fid_figure"] == f"Distances of {name}; pixels" and stored["fid_figure"] in result.output
    assert stored["against"] == "training" and stored["fid_floor"] > 0 and stored["fid_causal_spread"] > 0
    assert f"fid_causal_spread {stored['fid_causal_spread']:.2g}" in result.output
    assert held_out != 9 and stored.get("fid_causal_ratio") is None, "of other numbers of images"
    result = call(folder, *words, "--against", "held-out")
    assert result.exit_code == 0, result.output
    stored = json.loads((run / "result.json").read_text())
    assert stored["fid_causal_ratio"] > 0 and stored["fid_causal_spread"] is None and stored["fid_floor"] is None
    assert f"against {held_out} held-out images" in stored["fid_figure"] and "floor" not in result.output
    result = call(folder, *words)
    assert result.exit_code == 0 and json.loads((run / "result.json").read_text())["against"] is None


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
    assert result.exit_code == 2 and str(tmp_path / "file") in result.output and "Traceback" not in result.output
