"""Runs that are missing, near, or named outright."""

from pathlib import Path

import pytest
from small_runs import settings

from vq_core.errors import DataError, RunError
from vq_core.runs.finding import finished
from vq_core.training.phases import train


@pytest.mark.parametrize(
    ("phase", "notebook"),
    [("phase1", "01_codebook_kmeans_init"), ("phase2", "02_phase1_vqvae"), ("prior", "03_phase2_vqgan")],
)
def test_out_of_order_names_the_notebook(place: Path, phase: str, notebook: str) -> None:
    with pytest.raises(RunError, match=f"run notebook {notebook} first"):
        train(phase, settings())
    assert not (place / "runs").exists()


def test_without_images_or_prior_the_notebook_is_named_too(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match="run notebook 04_phase3_prior first"):
        finished("prior", settings())
    monkeypatch.setenv("VQ_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="00_data_prep"):
        train("kmeans", settings())
