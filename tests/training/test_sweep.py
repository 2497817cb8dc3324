"""The small sweep."""

from pathlib import Path

import pytest
from small_runs import FROM_SCRATCH, settings

from vq_core.data.images import processed_dir
from vq_core.data.packed import load_packed
from vq_core.evaluation.report import evaluate_run
from vq_core.runs.folders import all_runs
from vq_core.runs.naming import phases_up_to
from vq_core.runs.records import table
from vq_core.training.sweep import sweep

pytestmark = pytest.mark.slow


def test_the_sweep_trains_what_its_start_needs(place: Path) -> None:
    short = ("sweep.steps=1", "sweep.num_codes=[8]", "sweep.perceptual=[]", "sweep.gan=[0.2]")
    config = settings(*short, "quantizer.init=kaiming")
    runs = sweep(config)
    assert list(runs) == ["as configured", "with GAN", "K=8", "λ_gan=0.2"]
    assert [run.phase for run in runs.values()] == ["phase1", "phase2", "phase1", "phase2"]
    assert {run.phase for run in all_runs()} == {"phase1", "phase2"} and len(all_runs()) == 4
    assert all(evaluate_run(run, config)["psnr"] > 0 and run.result()["steps"] == 1 for run in runs.values())
    assert [row["run"] for row in table(runs.values())] == [run.name for run in runs.values()]
    assert not any("data" in row for row in table())
    runs["K=8"].update_result({"data": "0123456789abcdef"})  # as if trained on other images
    assert {row["data"] for row in table()} == {"012345", load_packed(processed_dir(settings())).fingerprint[:6]}
    clustered = phases_up_to("phase2", settings())
    assert clustered == ["kmeans", "phase1", "phase2"]
    assert phases_up_to("prior", settings(*FROM_SCRATCH)) == ["phase2", "prior"]
