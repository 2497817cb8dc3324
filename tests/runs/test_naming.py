"""Which settings and images lead to which run."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_runs import FROM_SCRATCH, settings

from vq_core.config import NEUTRAL, RENAMED, config_from_dict, load_config
from vq_core.data.images import prepare_images, processed_dir
from vq_core.runs.finding import run_for
from vq_core.runs.folders import PHASES, Run
from vq_core.runs.naming import phases_up_to, relevant_settings

OLD = Path(__file__).parents[1] / "fixtures" / "runs_of_6d1eaf3"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("phase", "change", "moves"),
    [
        ("kmeans", "kmeans.steps=5", True),
        ("kmeans", "loss.gan=0.2", False),
        ("kmeans", "train.patience=3", True),
        ("phase1", "kmeans.steps=5", True),  # its parent is another
        ("phase1", "optim.clip=0.5", True),
        ("phase1", "seed=1", True),
        ("phase1", "loss.gan=0.2", False),
        ("phase1", "prior.steps=5", False),
        ("phase1", "train.log_every=3", False),
        ("phase2", "train.accumulate=2", False),
        ("phase1", "train.save_every=7", False),
        ("phase2", "loss.gan=0.2", True),
        ("phase2", "phase1.steps=11", True),
        ("prior", "prior.dropout=0.3", True),
        ("prior", "model.num_codes=32", True),
        ("prior", "train.wandb=true", False),
    ],
)
def test_what_matters_leads_to_another_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, phase: str, change: str, moves: bool
) -> None:
    if change.startswith("seed"):  # the images of another seed are others
        shutil.copytree(processed_dir(settings()), processed_dir(settings(change)))
    assert (run_for(phase, settings()) != run_for(phase, settings(change))) == moves


@pytest.mark.parametrize("phase", PHASES)
def test_other_images_lead_to_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    """One's own in place of the built-in ones, one more, the same under other names."""
    monkeypatch.setenv("VQ_DATA", str(tmp_path))

    def run(*changes: str) -> Run:
        prepare_images(settings(*changes), progress=False)
        return run_for(phase, settings(*changes))

    drawn, other = run(), run("data.avatars=49")
    pictures = sorted((tmp_path / "avatars" / "48-seed0").glob("*.png"))
    (tmp_path / "raw").mkdir()
    for path in pictures[:20]:
        shutil.copy(path, tmp_path / "raw")
    own = run()
    shutil.copy(pictures[20], tmp_path / "raw")
    more = run()
    assert len({run.folder for run in (drawn, other, own, more)}) == 4
    (tmp_path / "raw" / pictures[0].name).rename(tmp_path / "raw" / "zzz.png")
    assert run() == more


def keys(tree: dict[str, Any], prefix: str = "") -> set[str]:
    return {
        key
        for name, value in tree.items()
        for key in (keys(value, f"{name}.") if isinstance(value, dict) else {prefix + name})
    }


def test_a_new_setting_needs_a_neutral_value() -> None:
    """Whoever adds a setting adds it to `config.NEUTRAL`, with the value under which everything is as before.

    Else the names of all runs that users have would change, and the runs would not be found again.
    """
    stored = keys(yaml.safe_load((OLD / "settings.yaml").read_text()))
    then = {key for key in stored if not key.startswith("sweep.")}  # which no name has ever depended on
    now = keys(load_config("full").model_dump(mode="json")) - {"profile"}
    known = {RENAMED.get(key, key) for key in now - (NEUTRAL.keys() - then)}  # an old key may have one too
    assert known == then, "a key is neither in config.NEUTRAL nor in config.RENAMED"
    for key, neutral in NEUTRAL.items():
        group, name = key.split(".")  # and it is a value that the key can have
        config = load_config("full", [f"{key}={'null' if neutral is None else neutral}"])
        assert getattr(getattr(config, group), name) == neutral


def test_names_see_new_settings_only_off_their_neutral_value(place: Path) -> None:
    for key in (key for key in NEUTRAL if key.endswith(".start_from")):
        phase = key.split(".")[0]
        neutral = settings(f"{key}=null")
        changed = run_for(phase, settings(f"{key}={phase}-smoke-12345678"))
        assert "start_from" not in relevant_settings(phase, neutral.model_dump(mode="json")).get(phase, {})
        assert run_for(phase, neutral) != changed
        by_path = settings(f"{key}={place}/runs/{phase}-smoke-12345678")
        assert run_for(phase, by_path) == changed


def test_old_keys_are_read_and_hashed_as_of_old(place: Path) -> None:
    assert settings("loss.gan_kind=non_saturating") == settings("loss.gan_loss=non_saturating")
    relevant = relevant_settings("phase2", settings().model_dump(mode="json"))
    assert relevant["loss"]["gan_kind"] == "hinge" and "gan_loss" not in relevant["loss"]


def test_the_phases_that_lead_up_to_one() -> None:
    assert phases_up_to("phase2", settings()) == ["kmeans", "phase1", "phase2"]
    assert phases_up_to("prior", settings(*FROM_SCRATCH)) == ["phase2", "prior"]


def test_a_group_that_is_gone_is_read_over_in_what_is_stored() -> None:
    tree = settings().model_dump(mode="json")
    assert config_from_dict(tree | {"sweep": {"steps": 40}}) == settings()
