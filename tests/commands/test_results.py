"""Where results land and what they are called; masks of every kind; what doctor tells."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from called import call
from click.testing import Result
from PIL import Image
from small_runs import SETTINGS, the_run

from vq_core.config import load_config
from vq_core.data.decode import load_mask
from vq_core.errors import UnusableImage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def data(story: Path) -> Iterator[Path]:
    """A copy of all runs, where any user of the machine may look."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "data"
        shutil.copytree(story, copy)
        for path in (Path(folder), copy, *copy.rglob("*")):
            path.chmod(0o755)
        yield copy


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be written there; to root everything can, so it becomes nobody."""
    root = os.geteuid() == 0
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555)
    os.seteuid(65534 if root else os.geteuid())
    try:
        yield
    finally:
        os.seteuid(0 if root else os.geteuid())
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


def run(data: Path, *words: str) -> Result:
    return call(data, *words, *SETTINGS)


def noise(path: Path, seed: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def pictures(result: Result) -> list[Path]:
    assert result.exit_code == 0, result.output
    return [Path(line.strip()) for line in result.output.splitlines() if line.endswith(".png")]


def test_results_lie_beside_each_other_and_say_what_differs(data: Path, tmp_path: Path) -> None:
    one, two = noise(tmp_path / "a" / "1.png", 0), noise(tmp_path / "b" / "1.png", 1)
    made = [pictures(run(data, "reconstruct", image))[0] for image in (one, two)]
    for more in ((), ("--seed", "1"), ("--temperature", "0.8"), ("--top-k", "4")):
        made += pictures(run(data, "sample", "--count", "1", *more))[-1:]
    for more in (("--vary", "0.3"), ("--vary", "0.3", "--seed", "1"), ("--code", "3"), ("--code", "4")):
        made += pictures(run(data, "edit", one, *more))[-1:]
    assert len(set(made)) == len(made) == 10 and [path for path in made if not path.is_file()] == []
    assert made[3].name.startswith("sample-count=1-seed=1") and "vary=0.3" in made[6].name
    with Image.open(made[7]) as picture:
        said = json.loads(picture.text["vq_core"])  # type: ignore[attr-defined]
    assert said["command"] == "edit" and said["seed"] == 1 and said["images"] == ["1.png"]
    assert said["prior"].startswith("masked-") and said["run"].startswith("phase2-")
    assert str(tmp_path) not in json.dumps(said) and str(data) not in json.dumps(said)


@pytest.mark.parametrize(
    "words",
    [
        ("--way", "random", "--temperature", "0.5"),
        ("--way", "random", "--top-k", "3"),
        ("--way", "causal", "--passes", "8"),
    ],
)
def test_options_without_effect_are_refused(data: Path, words: tuple[str, ...]) -> None:
    result = run(data, "sample", *words)
    assert result.exit_code == 2 and f"{words[2]} has no effect with --way {words[1]}" in result.output


def test_a_seed_beyond_its_range_is_refused(data: Path) -> None:
    result = run(data, "sample", "--seed", "99999999999999999999")
    assert result.exit_code == 2 and "0<=x<=4294967295" in result.output


def test_reading_never_needs_to_write(data: Path, tmp_path: Path) -> None:
    image = noise(data.parent / "me.png", 0)
    out = Path(tempfile.mkdtemp())
    out.chmod(0o777)
    for codes in data.glob("runs/*/codes*.npy"):
        codes.unlink()
    with read_only(data):
        for words in (("reconstruct", image), ("sample", "--count", "1"), ("edit", image, "--code", "3")):
            result = run(data, *words)
            assert result.exit_code == 1 and "choose another folder with --out" in result.output, result.output
            assert pictures(run(data, *words, "--out", str(out)))
        result = run(data, "evaluate")
        assert result.exit_code == 0 and "psnr: " in result.output and "are not kept" in result.output
        assert run(data, "compare").exit_code == 0
    shutil.rmtree(out)


def mask(path: Path, *spots: tuple[int, int, int, int], size: int = 64, mode: str = "L", rest: object = 0) -> Path:
    image = Image.new(mode, (size, size), rest)  # type: ignore[arg-type]
    for box in spots:
        image.paste("white", box)
    image.save(path)
    return path


def test_masks_of_every_kind(tmp_path: Path) -> None:
    config, image = load_config("smoke").data, Path(noise(tmp_path / "1.png", 0))
    expected = np.zeros((64, 64), bool)
    expected[8:16, 4:32] = True
    stroke = mask(tmp_path / "layer.png", (4, 8, 32, 16), mode="RGBA", rest=(255, 255, 255, 0))
    np.testing.assert_array_equal(load_mask(stroke, image, config, 16), expected)
    plain = mask(tmp_path / "plain.png", (4, 8, 32, 16))
    np.testing.assert_array_equal(load_mask(plain, image, config, 16), expected)
    cells = mask(tmp_path / "cells.png", (1, 2, 8, 4), size=16)
    np.testing.assert_array_equal(load_mask(cells, image, config, 16), expected)
    soft = mask(tmp_path / "soft.png", rest=127)
    assert not load_mask(soft, image, config, 16).any()
    assert load_mask(mask(tmp_path / "half.png", rest=128), image, config, 16).all()
    large = load_mask(mask(tmp_path / "large.png", (16, 32, 128, 64), size=256), image, config, 16)
    assert (large != expected).mean() < 0.02
    Image.new("L", (64, 32)).save(tmp_path / "wide.png")
    with pytest.raises(UnusableImage, match="64×32 is of another shape than the image, 64×64"):
        load_mask(tmp_path / "wide.png", image, config, 16)
    (tmp_path / "text.png").write_text("no mask")
    with pytest.raises(UnusableImage, match=r"text\.png"):
        load_mask(tmp_path / "text.png", image, config, 16)


def test_a_mask_that_chooses_all_or_nothing_is_refused(data: Path, tmp_path: Path) -> None:
    image = noise(tmp_path / "1.png", 0)
    for rest, which in ((0, "none"), (255, "all")):
        result = run(data, "edit", image, "--mask", str(mask(tmp_path / "mask.png", rest=rest)), "--code", "3")
        assert result.exit_code == 2 and f"chooses {which} of the cells" in result.output


def test_doctor_tells_what_a_report_needs_and_no_folders(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(data / "torch"))
    result = run(data, "doctor")
    assert result.exit_code == 0, result.output
    for word in (
        "torch 2.",
        "GB free, writable",
        "files in raw",
        the_run(data, "phase2").name,
        "Python version",
        "CPU",
        "demo: expected here: ",
        "quick: how long it takes here is not known before squeezenet1_1-b8a52dc0.pth is downloaded",
    ):
        assert word in result.output, word
    assert str(data) not in result.output and str(Path.home()) not in result.output


def test_figures_of_flat_or_single_images_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sharpness of images without any edge is undefined; one held-out image has no standard error."""
    monkeypatch.setenv("VQ_DATA", str(tmp_path))
    (tmp_path / "raw").mkdir()
    for number, colour in enumerate(np.ndindex(4, 4, 4)):
        shade = tuple(85 * part for part in colour)
        Image.new("RGB", (64, 64), shade).save(tmp_path / "raw" / f"{number}.png")
    words = ["quantizer.init=kaiming", "data.source=raw", "data.val_share=0.01"]
    for command in (("train", "phase1"), ("train", "phase2"), ("evaluate",)):
        result = call(tmp_path, *command, *SETTINGS, *words)
        assert result.exit_code == 0, result.output
    assert "sharpness: nan" in result.output and "psnr_se" not in result.output and "images: 1" in result.output
    result = call(tmp_path, "evaluate", "--frechet", *SETTINGS, *words)
    assert result.exit_code == 1 and "Traceback" not in result.output


def test_images_that_are_all_alike_are_one(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(5):
        Image.new("RGB", (64, 64), "red").save(tmp_path / "raw" / f"{number}.png")
    result = call(tmp_path, "train", "phase1", *SETTINGS)
    assert result.exit_code == 1 and "only one image is left; two are needed (4 duplicate)" in result.output
