"""Going on from finished runs: other images, weights of a run by name; and runs named outright."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from disturbances import SignalDuringStep, Watch, differences
from small_runs import SETTINGS, fresh_copy, settings, the_run, view

from vq_core import config_of
from vq_core.__main__ import main
from vq_core.data.images import prepare_images
from vq_core.errors import CheckpointError, ConfigError, DataError, RunError
from vq_core.runs.checkpoints import load_checkpoint
from vq_core.runs.finding import finished, load_images, run_for
from vq_core.runs.folders import PHASES, Phase, Run
from vq_core.runs.loading import load_prior, load_vqvae
from vq_core.training.phases import train

pytestmark = pytest.mark.slow


@pytest.fixture
def data(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All five runs, finished, to be changed at will."""
    return fresh_copy(story, tmp_path / "data", monkeypatch)


def other_images(*changes: str) -> Any:
    """Settings with four more images, which are prepared."""
    config = settings("data.avatars=52", *changes)
    prepare_images(config, progress=False)
    return config


# --- weights of a run ------------------------------------------------------------------------------------------------


def weights(run: Run) -> dict[str, torch.Tensor]:
    model = load_prior(run) if run.phase in ("prior", "masked") else load_vqvae(run)
    return model.state_dict()


@pytest.mark.parametrize(
    ("phase", "source"),
    [("phase1", "phase1"), ("phase1", "phase2"), ("phase2", "phase1"), ("phase2", "phase2")],
)
def test_an_autoencoder_starts_from_the_weights_of_a_run(data: Path, phase: Phase, source: str) -> None:
    start = the_run(data, source)
    config = other_images(f"{phase}.start_from={start.name}")
    watch = Watch(lambda module: {name: value.clone() for name, value in module.state_dict().items()})
    run = train(phase, config, view(watch))
    begun, expected = watch.seen[0], load_checkpoint(start.best, (source,))["model"]
    names = [name for name in begun if name.startswith("vqvae.") or (phase == source == "phase2" and "adv" in name)]
    assert names and differences({n: begun[n] for n in names}, {n: expected[n] for n in names}) == []
    assert run.result()["start_from"] == start.name and run.result()["parent"] is None
    assert run.result()["data"] != start.result()["data"]
    assert train(phase, config) == run  # by its name again, loaded
    if phase == "phase2":
        steps = load_checkpoint(start.best, (source,))["steps_done"] + int(expected["steps_before"])
        assert int(begun["steps_before"]) == steps
        # λ_gan goes on where it was: its ramp is not walked twice.
        assert int(begun["gan_from"]) == (int(expected["gan_from"]) if source == "phase2" else steps)


@pytest.mark.parametrize("phase", ["prior", "masked"])
def test_a_prior_starts_from_the_weights_of_one(data: Path, phase: Phase) -> None:
    tuned = f"phase2.start_from={the_run(data, 'phase2').name}"
    autoencoder = train("phase2", other_images(tuned))
    start = the_run(data, phase)
    watch = Watch(lambda module: {name: value.clone() for name, value in module.transformer.state_dict().items()})
    run = train(phase, settings("data.avatars=52", tuned, f"{phase}.start_from={start.folder}"), view(watch))
    begun, expected = watch.seen[0], weights(start)
    assert differences(*({n: w for n, w in tree.items() if n != "looks"} for tree in (begun, expected))) == []
    assert not torch.equal(begun["looks"], expected["looks"])  # those of the new codebook
    assert run.result()["parent"] == autoencoder.name and run.result()["start_from"] == start.name


def test_what_does_not_fit_is_listed(data: Path) -> None:
    start = the_run(data, "phase1").name
    with pytest.raises(
        CheckpointError,
        match=r"encoder\.layers\.2\.weight \(\(16, 8, 4, 4\) there, \(24, 8, 4, 4\) here\).* and \d+ more",
    ):
        train("phase1", settings("model.num_codes=32", "model.channels=[8, 24]", f"phase1.start_from={start}"))
    with pytest.raises(RunError, match=r"prior\.start_from=.*: is a masked run, but prior is needed"):
        train("prior", settings(f"prior.start_from={the_run(data, 'masked').name}"))
    with pytest.raises(
        RunError, match=r"phase1-smoke-00000000: is neither a finished run nor an export; there are: .*phase1-smoke"
    ):
        train("phase1", settings("phase1.start_from=phase1-smoke-00000000"))
    assert len(list((data / "runs").iterdir())) == 5  # no folder of what has not begun


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ("seed=1", r"seed \(0 there, 1 here\)"),
        ("data.val_share=0.3", r"data\.val_share \(0\.2 there, 0\.3 here\)"),
        ("data.square=pad", r"data\.square \(crop there, pad here\)"),
        ("data.val_share=0.15", None),  # fewer of the same are held out
    ],
)
def test_a_source_that_has_seen_what_is_held_out_is_refused(data: Path, change: str, refused: str | None) -> None:
    config = settings(change, f"phase1.start_from={the_run(data, 'phase1').name}", "train.batch_size=4")
    packed = prepare_images(config, progress=False)
    if refused is None:
        before = load_images(settings())
        held_out = ({entry.sha256 for entry in p.kept if entry.split == "val"} for p in (packed, before))
        assert next(held_out) <= next(held_out)
        assert train("phase1", config).done
        return
    with pytest.raises(RunError, match=f"was trained on images that are now held out: {refused}"):
        train("phase1", config)


def test_steps_are_counted_along_every_start(data: Path) -> None:
    """The GAN's start counts the autoencoder's steps of the run that Phase 1 started from, too."""
    source = the_run(data, "phase1")
    before = load_checkpoint(source.best, ("phase1",))["steps_done"]
    longer = ("phase1.steps=6", f"phase1.start_from={source.name}", "train.val_every=6")
    tuned = load_checkpoint(train("phase1", other_images(*longer)).best, ("phase1",))
    assert int(tuned["model"]["steps_before"]) == before and tuned["steps_done"] == 6
    run = train("phase2", settings("data.avatars=52", *longer, "phase2.steps=6"))
    assert int(load_checkpoint(run.last, ("phase2",))["model"]["steps_before"]) == before + 6


def test_a_discriminator_that_never_trained_is_not_taken_over(data: Path) -> None:
    without = train("phase2", settings("loss.gan=0"))
    weights = Watch(lambda module: module.gan_weight)
    train("phase2", settings(f"phase2.start_from={without.name}", "loss.gan_start=0"), view(weights))
    assert weights.seen[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])  # the whole ramp


# --- the nearest run -------------------------------------------------------------------------------------------------


def test_the_nearest_finished_run_is_named_with_what_differs(data: Path) -> None:
    near = the_run(data, "phase2").name
    with pytest.raises(
        RunError, match=rf"nearest finished run is {near}, which differs in loss\.gan \(0\.1 there, 0"
    ) as e:
        finished("phase2", settings("loss.gan=0.2"))
    assert f"use it with --run {near}, or start from it with phase2.start_from={near}" in str(e.value)
    with pytest.raises(RunError, match=r"differs in loss\.gan_loss \(hinge there, non_saturating here\)"):
        finished("phase2", settings("loss.gan_loss=non_saturating"))  # under today's key
    with pytest.raises(RunError, match=r"differs in kmeans\.steps \(4 there, 5 here\)"):  # of what it comes from
        finished("phase2", settings("kmeans.steps=5"))
    now = len(prepare_images(settings("data.avatars=52"), progress=False).images)
    then = len(load_images(settings()).images)
    with pytest.raises(RunError, match=rf"differs in its images \({then} then, {now} now\): use it") as e:
        finished("phase2", settings("data.avatars=52"))
    assert "\n" not in str(e.value)
    shutil.rmtree(data / "runs")
    with pytest.raises(RunError, match=r"train phase2 …\)$"):
        finished("phase2", settings())


def test_a_new_run_says_what_it_is_near_to(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after an update that changed a default: finished runs and interrupted ones are named, not silently left."""
    near = the_run(data, "kmeans").name
    changed = settings("optim.clip=0.5")
    train("kmeans", changed)
    said = capsys.readouterr().out
    assert (
        f"is a new run. The nearest finished run is {near}, which differs in optim.clip (1.0 there, 0.5 here)" in said
    )
    assert f"use it with --run {near}\n" in said  # a warm-up starts from no other
    with pytest.raises(KeyboardInterrupt):
        train("kmeans", settings("optim.clip=0.25"), view(SignalDuringStep(2)))
    train("kmeans", settings("optim.clip=0.75"))
    said = capsys.readouterr().out
    assert "was interrupted and differs in optim.clip (0.25 there, 0.75 here): to resume it, set these" in said
    train("kmeans", settings("optim.clip=0.25"))
    assert "new run" not in capsys.readouterr().out  # it goes on


# --- named outright --------------------------------------------------------------------------------------------------


def test_a_named_run_brings_its_settings_parents_priors_and_images(data: Path) -> None:
    by_settings = {phase: finished(phase, settings()) for phase in PHASES}
    fingerprint = load_images(settings()).fingerprint
    for phase in PHASES:
        config = config_of(by_settings[phase].name)
        assert config.model_dump() == settings().model_dump()
        assert {p: run_for(p, config) for p in PHASES} == by_settings
        assert load_images(config).fingerprint == fingerprint
    by_path = config_of(str(by_settings["phase2"].folder), ["train.log_every=3"])
    assert finished("phase1", by_path) == by_settings["phase1"] and by_path.train.log_every == 3
    with pytest.raises(ConfigError, match=r"was trained with other settings: model\.num_codes \(16 there, 32 here\)"):
        config_of(by_settings["prior"].name, ["model.num_codes=32"])
    with pytest.raises(ConfigError, match="run: is not a setting"):
        settings("run=phase1-smoke-x")


def test_the_newest_prior_on_an_autoencoder_is_its_prior(data: Path) -> None:
    newer = train("prior", settings("prior.dropout=0.3"))
    assert finished("prior", config_of(the_run(data, "phase2").name)) == newer
    (older,) = [run for run in (data / "runs").glob("prior-*") if run.name != newer.name]
    assert finished("prior", config_of(older.name)).name == older.name
    assert finished("prior", config_of(the_run(data, "masked").name)).name == older.name  # whose weights it began with


def test_a_run_whose_images_are_gone_still_loads(data: Path) -> None:
    run = the_run(data, "phase2")
    (folder,) = (data / "processed").iterdir()
    shutil.rmtree(folder)
    config = config_of(run.name)
    assert finished("phase1", config) == the_run(data, "phase1")
    with pytest.raises(DataError, match=f"start a new run from its weights with phase2.start_from={run.name}"):
        load_images(config)
    with pytest.raises(DataError, match=r"; train a new one$"):
        load_images(config_of(the_run(data, "kmeans").name))


def test_training_after_a_named_run_is_on_its_images(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "raw").mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)):
        from PIL import Image

        Image.fromarray(pixels).save(data / "raw" / f"{number}.png")
    named = the_run(data, "phase2")
    result = CliRunner().invoke(main, ["train", "prior", "--run", named.name, "prior.steps=4", "prior.val_every=2"])
    assert result.exit_code == 0, result.output
    run = Run(Path(result.output.strip().splitlines()[-1]))
    assert run.result()["parent"] == named.name and run.result()["data"] == named.result()["data"]
    assert run.result()["steps"] == 4
    result = CliRunner().invoke(main, ["train", "phase1", "--run", the_run(data, "phase1").name, "phase1.steps=12"])
    assert "trained with other settings: phase1.steps (10 there, 12 here)" in result.output


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate"],
        ["evaluate", "--phase", "phase1"],
        ["reconstruct", "IMAGE"],
        ["sample", "--count", "2"],
        ["interpolate", "IMAGE", "IMAGE"],
        ["edit", "IMAGE", "--code", "3"],
        ["train", "phase1"],
    ],
)
def test_every_command_that_reads_a_run_takes_its_name(data: Path, tmp_path: Path, words: list[str]) -> None:
    from PIL import Image

    image, named = tmp_path / "image.png", the_run(data, "phase2")
    Image.fromarray(load_images(settings()).images[0]).save(image)
    words = [str(image) if word == "IMAGE" else word for word in words]
    result = CliRunner(env={"VQ_PROFILE": "full"}).invoke(main, [*words, "--run", named.name])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, [*words, "--run", "phase2-smoke-none"])
    assert result.exit_code == 1 and "is neither a finished run nor an export" in result.output
    result = CliRunner().invoke(main, [*words, "--run", named.name, "--profile", "smoke", *SETTINGS])
    assert result.exit_code == 2 and "leave out --profile" in result.output


def test_each_autoencoder_keeps_its_own_priors(data: Path) -> None:
    """Named by their Phase 1, the newest Phase 2 has no prior yet: that of another autoencoder is not its."""
    newer = train("phase2", settings("loss.gan=0.2"))
    config = config_of(the_run(data, "phase1").name)
    assert finished("phase2", config) == newer
    with pytest.raises(RunError, match="no finished prior run"):
        finished("prior", config)


def test_strange_and_damaged_neighbours_hinder_nobody(data: Path) -> None:
    shutil.copytree(the_run(data, "phase1").folder, data / "runs" / "backup-of-phase1")
    for number, damage in enumerate(("result.json", "config.yaml")):
        copy = data / "runs" / f"phase2-smoke-0000000{number}"
        shutil.copytree(the_run_named(data, "phase2").folder, copy)
        (copy / damage).write_text('{"phase": "pha')
    with pytest.raises(RunError, match="nearest finished run is phase2-smoke-"):
        finished("phase2", settings("loss.gan=0.2"))
    assert train("phase2", settings("phase2.steps=12")).result()["steps"] == 12
    assert finished("phase2", config_of(the_run(data, "prior").name)).done
    with pytest.raises(RunError, match=r"phase2-smoke-00000000/result\.json: is damaged"):
        config_of("phase2-smoke-00000000")
    with pytest.raises(RunError, match=r"phase2-smoke-00000001/config\.yaml: is missing or damaged"):
        config_of("phase2-smoke-00000001")


def the_run_named(data: Path, phase: str) -> Run:
    return next(run for run in map(Run, sorted((data / "runs").glob(f"{phase}-*"))) if run.best.is_file())


def test_overrides_that_would_change_its_images_are_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.val_share \(0\.2 there, 0\.5 here\)"):
        config_of(the_run(data, "phase1").name, ["data.val_share=0.5"])


def test_samples_of_a_run_whose_images_are_gone(data: Path) -> None:
    shutil.rmtree(next((data / "processed").iterdir()))
    result = CliRunner().invoke(main, ["sample", "--count", "2", "--run", the_run(data, "prior").name])
    assert result.exit_code == 0 and "not compared with training images" in result.output
    folder, grid = map(Path, result.output.strip().splitlines()[-2:])
    assert grid.is_file() and {path.name for path in folder.iterdir()} == {"001.png", "001.npy", "002.png", "002.npy"}
