"""Runs that 6d1eaf3 made are found under their names, load, and are finished as 6d1eaf3 itself finished them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vq_core.config import NEUTRAL, Config, load_config
from vq_core.runs.checkpoints import load_checkpoint
from vq_core.runs.finding import finished, lineage, run_for
from vq_core.runs.folders import PHASES, PRIORS, Phase, all_runs
from vq_core.runs.loading import load_prior, load_vqvae
from vq_core.runs.records import table
from vq_core.training.phases import train

pytestmark = pytest.mark.slow

OLD = Path(__file__).parents[1] / "fixtures" / "runs_of_6d1eaf3"
LONGER = {phase: f"{'prior' if phase in PRIORS else phase}.steps=14" for phase in PHASES}  # of the interrupted ones


def settings(old: Path, *changes: str) -> Config:
    """What the runs were trained with. Settings newer than they are have values under which all is as it was then."""
    neutral = [f"{key}={'null' if value is None else value}" for key, value in NEUTRAL.items() if key[:5] != "train"]
    return load_config(str(old / "settings.yaml"), [*neutral, *changes])


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(OLD, tmp_path / "data")
    monkeypatch.setenv("VQ_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_finished_runs_are_found_and_load(old: Path) -> None:
    config = settings(old)
    names = {path.parent.name for path in OLD.glob("runs/*/result.json")}
    assert {finished(phase, config).name for phase in PHASES} == names == {run.name for run in all_runs()}
    for phase in PHASES:
        run = finished(phase, config)
        assert run.result()["phase"] == phase and run.config() == config
        assert run.curve("train/lr")[0].tolist() == ([2, 4] if phase == "kmeans" else [2, 4, 6, 8, 10])
    x = torch.zeros(2, 3, 32, 32)
    model = load_vqvae(finished("phase2", config))
    assert model(x).shape == x.shape
    assert load_prior(finished("masked", config))(model.encode(x).flatten(1)).shape == (2, 64, 16)
    assert [run.phase for run in lineage(finished("prior", config)).values()] == ["prior", "phase2", "phase1", "kmeans"]
    assert {row["run"] for row in table()} == names


@pytest.mark.parametrize("phase", PHASES)
def test_interrupted_runs_go_on_to_the_end(old: Path, phase: Phase) -> None:
    config = settings(old, LONGER[phase])
    run = run_for(phase, config)
    assert run.last.is_file() and not run.done and (OLD / "runs" / run.name).is_dir()
    assert load_checkpoint(run.last, (phase,))["steps_done"] == 7
    assert train(phase, config) == run
    then = json.loads((OLD / "ends" / f"{run.name}.json").read_text())
    now = run.result()
    assert now["steps"] == then["steps"] == 14 and now["best_step"] == then["best_step"]
    for name in ("best_rec", "best_bits", "inertia"):
        assert now.get(name, 0) == pytest.approx(then.get(name, 0), rel=1e-3)
    model = load_checkpoint(run.last, (phase,))["model"]
    with np.load(OLD / "ends" / f"{run.name}.npz") as weights:
        assert len(weights.files) == len(model) - ("gan_from" in model)
        for name in weights.files:
            ours = model.get(name, model.get(f"vqvae.{name}"))
            assert ours is not None, name
            np.testing.assert_allclose(ours.numpy(), weights[name], atol=1e-3, rtol=1e-3, err_msg=name)
