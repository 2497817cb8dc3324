"""The five trainings on four dozen small avatars: where each starts, what it leaves, what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disturbances import Watch, validations
from lightning.pytorch.callbacks import Callback
from PIL import Image
from small_runs import FROM_SCRATCH, fresh_copy, settings, the_run, view

from vq_core.data.images import prepare_images, processed_dir
from vq_core.data.packed import load_packed, write_packed
from vq_core.errors import ConfigError, DataError
from vq_core.runs.checkpoints import load_checkpoint
from vq_core.runs.folders import PHASES, Run, all_runs
from vq_core.training.callbacks import View
from vq_core.training.phases import train

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("phase", PHASES)
def test_a_run_leaves_its_records(story: Path, phase: str) -> None:
    run, steps = the_run(story, phase), 4 if phase == "kmeans" else 10
    result = run.result()
    assert result["phase"] == phase and result["profile"] == "smoke" and result["steps"] == steps
    assert load_checkpoint(run.last, (phase,))["steps_done"] == steps
    best = load_checkpoint(run.best, (phase,))
    monitor = "bits" if phase in ("prior", "masked") else "rec"
    metrics = {row["step"]: row[f"val/{monitor}"] for row in validations(run)}
    assert list(metrics) == ([4] if phase == "kmeans" else [4, 8, 10])
    if phase == "phase2":  # without LPIPS the latest is the best: L_rec would choose what the GAN has not touched
        assert best["steps_done"] == result["best_step"] == steps
    else:
        assert best["steps_done"] == result["best_step"] == min(metrics, key=lambda step: metrics[step])
        assert result[f"best_{monitor}"] == pytest.approx(min(metrics.values()), abs=1e-6)
    assert [step for step, _ in zip(*run.curve("train/lr"), strict=True)] == list(range(2, steps + 1, 2))
    assert run.settings() == settings().model_dump(mode="json") and run.config() == settings()
    assert (run.folder / "checkpoints" / "step=6.ckpt").is_file() == (phase != "kmeans")
    assert not list(run.folder.rglob("*.part*"))


def test_phase1_starts_from_the_clustered_codebook(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_copy(story, tmp_path / "data", monkeypatch, without="phase1")
    watch = Watch(lambda module: module.vqvae.quantizer.codebook.clone())
    train("phase1", settings(), view(watch))
    codebook = np.load(the_run(story, "kmeans").folder / "codebook.npy")
    assert codebook.shape == (16, 8) and np.array_equal(watch.seen[0].numpy(), codebook)


def test_phase2_starts_from_phase1s_best_and_counts_updates_of_the_autoencoder(story: Path) -> None:
    before = load_checkpoint(the_run(story, "phase1").best, ("phase1",))
    after = load_checkpoint(the_run(story, "phase2").last, ("phase2",))
    steps_before = int(after["model"]["steps_before"])
    assert steps_before == before["steps_done"]
    updates = [{int(state["step"]) for state in optimizer["state"].values()} for optimizer in after["optimizers"]]
    assert updates == [{10}, {10 - (13 - steps_before)}]  # the discriminator rests until the GAN starts


def test_a_finished_run_is_loaded(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQ_DATA", str(story))
    before = {path: path.stat().st_mtime_ns for path in story.rglob("*")}
    shown: list[str] = []

    class Shows(View):
        def show_finished(self) -> None:
            shown.append(f"{self.run.name}, {len(self.history.rows)} rows")

        def on_train_start(self, trainer: Any, module: Any) -> None:
            raise AssertionError("trained again")

    names = [train(phase, settings(), Shows).name for phase in PHASES]
    assert shown == [f"{name}, {len(Run(story / 'runs' / name).history())} rows" for name in names]
    assert sorted(names) == [run.name for run in all_runs()]
    assert {path: path.stat().st_mtime_ns for path in story.rglob("*")} == before


def test_images_that_come_while_training_change_nothing(place: Path) -> None:
    fingerprint = load_packed(processed_dir(settings())).fingerprint

    class Downloads(Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            (place / "raw").mkdir()
            Image.new("RGB", (64, 64)).save(place / "raw" / "mine.png")

    run = train("kmeans", settings(), view(Downloads()))
    assert run.done and run.result()["data"] == fingerprint


def test_fewer_images_than_a_batch_is_an_error_before_training(place: Path) -> None:
    with pytest.raises(DataError, match=r"training images are fewer than train\.batch_size=64"):
        train("kmeans", settings("train.batch_size=64"))
    assert not (place / "runs").exists()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_images_is_an_error_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setenv("VQ_DATA", str(tmp_path))
    (tmp_path / "raw").mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "raw" / f"{number}.png")
    config = settings("data.source=raw", *FROM_SCRATCH)
    with pytest.raises(DataError) as caught:
        prepare_images(config, progress=False)
        train("phase1", config)
    assert "\n" not in str(caught.value) and not (tmp_path / "runs").exists()


def test_no_validation_images_is_an_error_before_training(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fresh_copy(prepared, tmp_path / "data", monkeypatch)
    (folder,) = data.glob("processed/*/")
    packed = load_packed(folder)
    (folder / "new").mkdir()
    all_train = [replace(entry, split="train" if entry.split else "") for entry in packed.entries]
    write_packed(folder / "new", folder, np.array(packed.images), all_train, packed.settings)
    with pytest.raises(DataError, match=r"0 validation images are too few.*data\.val_share"):
        train("phase1", settings(*FROM_SCRATCH))


@pytest.mark.usefixtures("place")
def test_a_gan_that_would_never_start_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"loss\.gan_start=13: Phase 2 ends at step 10"):
        train("phase2", settings(*FROM_SCRATCH))
