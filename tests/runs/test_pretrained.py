"""The model that comes with the package: small, whole, as good as the run that it was made from."""

import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from vq_core import config_of, load_config, load_prior, load_vqvae
from vq_core.__main__ import main
from vq_core.data.images import prepare_images
from vq_core.evaluation.report import reconstruction_metrics
from vq_core.generation.editing import Edit
from vq_core.runs.folders import PRETRAINED, open_run

pytestmark = pytest.mark.slow
NAME = "demo-avatars"


def test_it_is_small_and_holds_no_pickle() -> None:
    files = [path for path in (PRETRAINED / NAME).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md", ".png"}
    assert "license: mit" in (PRETRAINED / NAME / "README.md").read_text(encoding="utf-8")


def test_its_settings_are_those_of_demo_today() -> None:
    """If a default of `demo` has changed, it is to be made anew: `make pretrained`."""
    now = load_config("demo").model_dump()
    theirs = config_of(NAME).model_dump()
    for group in ("data", "model", "quantizer", "kmeans", "loss", "optim", "phase1", "phase2", "prior", "masked"):
        assert theirs[group] == now[group], group


def test_it_reconstructs_as_well_as_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run's held-out avatars, drawn again: all of them, or (in CI) those among the first three hundred."""
    monkeypatch.setenv("VQ_DATA", str(tmp_path))
    everything = bool(os.environ.get("VQ_TEST_EVERYTHING"))
    packed = prepare_images(load_config("demo", [] if everything else ["data.avatars=300"]), progress=False)
    told, found = open_run(NAME).result(), reconstruction_metrics(load_vqvae(NAME), packed)
    if everything:
        assert packed.fingerprint == told["data"]
        assert found["psnr"] == pytest.approx(told["psnr"], abs=0.02)
        assert found["codes_used"] == told["codes_used"]
    assert found["psnr"] == pytest.approx(told["psnr"], abs=4 * (found["psnr_se"] + told["psnr_se"]))


@torch.no_grad()
def test_both_priors_draw_and_edit() -> None:
    model, causal, masked = load_vqvae(NAME), load_prior(f"{NAME}/prior"), load_prior(f"{NAME}/masked")
    codes = torch.randint(model.num_codes, (1, 16, 16))
    for edit, prior in ((Edit(regenerate=True), causal), (Edit(vary=0.5), masked)):
        assert model.decode(edit.apply(codes, prior, 2, progress=False)).shape == (2, 3, 64, 64)


def test_it_is_there_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQ_DATA", str(tmp_path))
    result = CliRunner().invoke(main, ["sample", "--run", NAME, "--count", "1"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "exports" / f"{NAME}-prior" / "sample-count=1.png").is_file()
    result = CliRunner().invoke(main, ["sample", "--run", "nobody"])
    assert f"there are: {NAME}" in result.output
