"""Runs that 6d1eaf3 made are found under their names, load, and go on as in 6d1eaf3, but for a masked prior."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vq_core.config import NEUTRAL, Config, load_config
from vq_core.errors import ConfigError
from vq_core.generation.editing import Edit
from vq_core.generation.sampling import Sampling, fill_codes
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


def test_a_finished_masked_prior_fills_in_and_edits_in_passes(old: Path) -> None:
    config = settings(old)
    assert train("masked", config) == finished("masked", config)  # which trains nothing
    prior = load_prior(finished("masked", config))
    start, keep = torch.randint(16, (1, 8, 8), generator=torch.Generator().manual_seed(0)), torch.zeros(8, 8).bool()
    keep[:3] = True
    drawn = fill_codes(prior, 3, Sampling(passes=4), start=start, keep=keep, progress=False)
    assert bool((drawn < 16).all()) and torch.equal(drawn[:, :3], start[:, :3].expand(3, -1, -1))
    redrawn = Edit(region=keep, regenerate=True).apply(start, prior, 3, progress=False)
    assert bool((redrawn < 16).all()) and torch.equal(redrawn[:, 3:], start[:, 3:].expand(3, -1, -1))


def test_an_interrupted_masked_prior_is_refused(old: Path) -> None:
    config = settings(old, LONGER["masked"])
    last = run_for("masked", config).last
    before = last.read_bytes()
    with pytest.raises(ConfigError) as caught:
        train("masked", config)
    line = "masked.network=bidirectional: is no longer trained, only loaded; set masked.network=any_order"
    assert str(caught.value) == line and last.read_bytes() == before


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "masked"])
def test_interrupted_runs_go_on_to_the_end(old: Path, phase: Phase) -> None:
    config = settings(old, LONGER[phase])
    run = run_for(phase, config)
    assert run.last.is_file() and not run.done and (OLD / "runs" / run.name).is_dir()
    assert load_checkpoint(run.last, (phase,))["steps_done"] == 7
    assert train(phase, config) == run
    then = json.loads((OLD / "ends" / f"{run.name}.json").read_text())
    now = run.result()
    assert now["steps"] == then["steps"] == 14 and now["best_step"] == then["best_step"]
    for name, within in (("best_rec", 1e-3), ("best_bits", 1e-3), ("inertia", 0.05)):  # k-means begins elsewhere now
        assert now.get(name, 0) == pytest.approx(then.get(name, 0), rel=within)
    model = load_checkpoint(run.last, (phase,))["model"]
    with np.load(OLD / "ends" / f"{run.name}.npz") as weights:
        assert len(weights.files) == len(model) - ("gan_from" in model)
        for name in weights.files:
            ours = model.get(name, model.get(f"vqvae.{name}"))
            assert ours is not None, name
            np.testing.assert_allclose(ours.numpy(), weights[name], atol=1e-3, rtol=1e-3, err_msg=name)
