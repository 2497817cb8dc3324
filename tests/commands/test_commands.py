"""The command line, as a user types it."""

import json
import shutil
from pathlib import Path

import lpips
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import vq_core
from vq_core.__main__ import main
from vq_core.config import load_config
from vq_core.data.packed import PackedImages
from vq_core.errors import UserError
from vq_core.evaluation.distances import PretrainedFeatures
from vq_core.runs.finding import run_for
from vq_core.runs.folders import PHASES

pytestmark = pytest.mark.slow

TINY = [
    "data.source=avatars",
    "data.avatars=48",
    "kmeans.steps=3",
    "phase1.steps=4",
    "phase2.steps=4",
    "prior.steps=4",
    "train.val_every=2",
    "prior.val_every=2",
    "train.device=cpu",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


def call(folder: Path, *words: str) -> Result:
    return CliRunner(env={"VQ_DATA": str(folder), "VQ_PROFILE": "smoke"}).invoke(main, [*words])


def test_help_everywhere() -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["--help"]).exit_code == 0
    for name in main.commands:
        result = runner.invoke(main, [name, "--help"])
        assert result.exit_code == 0 and "--profile" in result.output and "--debug" in result.output, name


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("model.num_code=4", "did you mean 'model.num_codes'"),
        ("model.num_codes=many", "model.num_codes"),
        ("train.accumulate=3", "accumulate"),
        ("nothing", "key=value"),
    ],
)
def test_bad_settings_are_one_line_and_status_2(folder: Path, setting: str, named: str) -> None:
    result = call(folder, "train", "phase1", setting)
    assert result.exit_code == 2 and named in result.output and "Traceback" not in result.output


def test_out_of_order_names_the_notebook(folder: Path) -> None:
    result = call(folder / "empty", "sample", *TINY)
    assert result.exit_code == 1 and "00_data_prep" in result.output
    assert len(result.output.strip().splitlines()) == 1


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedImages, "val_rows", property(lambda self: self._rows("val")[:1]))
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


def test_the_gpus_memory_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("vq_core.runs.finding.finished", full)
    result = call(folder, "sample", *TINY)
    assert result.exit_code == 1 and result.output == (
        "Error: not enough GPU memory for this much at once: ask for less\n"
    )


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


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["sample", "--top-k", "0"], "top_k"),
        (["sample", "--temperature", "0"], "temperature"),
        (["edit", "IMAGE"], "--copy-from"),
        (["edit", "IMAGE", "--code", "99999"], "codes are in [0, 32)"),
        (["edit", "IMAGE", "--replace", "1", "-1"], "codes are in [0, 32)"),
        (["edit", "IMAGE", "--vary", "1.5"], "vary must be in (0, 1]"),
        (["edit", "IMAGE", "--vary", "0.5", "--rows", "0:2"], "--vary takes no region"),
        (["edit", "IMAGE", "--complete"], "no transparent pixels"),
        (["edit", "IMAGE", "--code", "1", "--regenerate"], "give one of"),
        (["sample", "--way", "masked", "--passes", "0"], "passes must be"),
        (["edit", "IMAGE", "--rows", "9:3", "--code", "1"], "rows"),
        (["edit", "IMAGE", "--rows", "x", "--code", "1"], "--rows"),
        (["reconstruct", "BROKEN"], "not an image"),
    ],
)
def test_bad_arguments_are_named(folder: Path, words: list[str], named: str) -> None:
    image = next((folder / "avatars").glob("*/00000.png"))
    broken = folder / "broken.png"
    broken.write_text("no picture")
    places = {"IMAGE": str(image), "BROKEN": str(broken)}
    result = call(folder, *(places.get(word, word) for word in words), *TINY)
    assert result.exit_code != 0 and named in result.output and "Traceback" not in result.output


@pytest.mark.parametrize("error", [ValueError, IndexError, KeyError, RuntimeError, FileNotFoundError])
def test_a_fault_of_the_program_shows_its_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Whatever its class: only what a user can cause is dressed as one line."""

    def broken(*_: object) -> None:
        raise error("a fault in the program")

    monkeypatch.setattr("vq_core.runs.finding.finished", broken)
    result = call(folder, "sample", *TINY)
    assert type(result.exception) is error and "Error: " not in result.output


@pytest.mark.parametrize("setting", ["model.num_code=4", "data.avatars=999"])
def test_debug_shows_the_traceback_of_every_error(folder: Path, setting: str) -> None:
    """Of a mistake in the settings, and of images that are missing."""
    plain, debug = (call(folder / "empty", "sample", setting, *more) for more in ((), ("--debug",)))
    assert plain.output and isinstance(plain.exception, SystemExit)
    assert isinstance(debug.exception, UserError)


def test_the_version_is_told() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0 and result.output.strip() == f"vq_core, version {vq_core.__version__}"
