"""All trainings on four dozen small avatars: run folders, exact resume, accumulation, stops, damaged checkpoints."""

import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from small_runs import FROM_SCRATCH, NO_AUGMENTATION, SETTINGS, VECTORS_PER_STEP, fresh_copy, settings, the_run, view
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vq_core.config import Config
from vq_core.data.datamodule import prepare_images, processed_dir
from vq_core.data.ingest import DataError, load_packed
from vq_core.evaluation.experiments import sweep, table
from vq_core.training.callbacks import RunView
from vq_core.training.phases import TRAININGS, extract_codes, finished, run_for, stages_up_to
from vq_core.training.prior_module import CodesDataModule, PriorModel, random_masks
from vq_core.training.runs import Run, RunError, all_runs
from vq_core.training.state import CheckpointError, load_checkpoint, save_array, save_checkpoint
from vq_core.training.vqvae_module import VQVAEModel

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")


@pytest.fixture(scope="module")
def story(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which all trainings have been run without interruption. Not to be changed."""
    folder = tmp_path_factory.mktemp("story") / "data"
    shutil.copytree(prepared / "processed", folder / "processed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQ_DATA", str(folder))
        for train in TRAININGS.values():
            train(settings())
    return folder


@pytest.fixture(autouse=True)
def signals_stay_as_they_were() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


# --- disturbances ---------------------------------------------------------------------------------------------------


class Crash(Exception):
    pass


class SignalDuringStep(Callback):
    """Sends this process a signal in the course of a step, as Ctrl-C does."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if module.steps_done + 1 == self.step and module.at_step_boundary:
            os.kill(os.getpid(), self.number)


class SignalBetweenBatches(SignalDuringStep):
    """Sends the signal between two batches of a step."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if module.steps_done + 1 == self.step and not module.at_step_boundary:
            os.kill(os.getpid(), self.number)


class CrashBetweenBatches(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if module.steps_done + 1 == self.step and not module.at_step_boundary:
            raise Crash


class SignalDuringValidation(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        if module.steps_done == self.step:
            os.kill(os.getpid(), signal.SIGINT)


class CrashAfterStep(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if module.steps_done == self.step:
            raise Crash


class CrashDuringValidation(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_validation_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        if module.steps_done == self.step:
            raise Crash


class Watch(Callback):
    """Notes down what a function says of the module at the start of every step."""

    def __init__(self, look: Callable[[Any], Any]) -> None:
        self.look = look
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(self.look(module))


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Paths of nested values that are not equal to the last bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a for d in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}/{i}")]
    return [] if type(a) is type(b) and a == b else [where]


def assert_same_end(run: Run, reference: Run, steps: int = 10) -> None:
    """Both runs ended with the same weights, buffers, optimiser states and validation figures, bit for bit."""
    for name in ("last", "best"):
        states = []
        for path in (getattr(run, name), getattr(reference, name)):
            state = load_checkpoint(path, (run.kind,))
            states.append({key: value for key, value in state.items() if key not in ("seconds", "rng")})
        assert differences(*states) == []
    assert validations(run) == validations(reference)
    for ours, theirs in zip(run.usage(), reference.usage(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    pictures = [{p.name for p in r.folder.glob("pictures/*")} for r in (run, reference)]
    assert pictures[0] == pictures[1]
    assert run.result()["best_step"] == reference.result()["best_step"]
    logged = [row["step"] for row in run.history() if "train/total" in row or "train/bits" in row]
    assert logged == sorted(set(logged)) and logged[-1] == steps


def validations(run: Run) -> list[dict[str, float]]:
    return [row for row in run.history() if any(name.startswith("val/") for name in row)]


# --- the whole way --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_run_leaves_its_records(story: Path, kind: str) -> None:
    run, steps = the_run(story, kind), 4 if kind == "kmeans" else 10
    result = run.result()
    assert result["kind"] == kind and result["profile"] == "smoke" and result["steps"] == steps
    assert load_checkpoint(run.last, (kind,))["steps_done"] == steps
    best = load_checkpoint(run.best, (kind,))
    monitor = "bits" if kind in ("prior", "masked") else "rec"
    figures = {row["step"]: row[f"val/{monitor}"] for row in validations(run)}
    assert list(figures) == ([4] if kind == "kmeans" else [4, 8, 10])
    if kind == "phase2":  # without LPIPS the latest is the best: L_rec would choose what the GAN has not touched
        assert best["steps_done"] == result["best_step"] == steps
    else:
        assert best["steps_done"] == result["best_step"] == min(figures, key=lambda step: figures[step])
        assert result[f"best_{monitor}"] == pytest.approx(min(figures.values()), abs=1e-6)
    assert [step for step, _ in zip(*run.curve("train/lr"), strict=True)] == list(range(2, steps + 1, 2))
    assert run.config() == settings().model_dump(mode="json")
    assert (run.folder / "checkpoints" / "step=6.ckpt").is_file() == (kind != "kmeans")
    assert not list(run.folder.rglob("*.part*"))


@pytest.mark.parametrize("kind", ["phase1", "phase2"])
def test_usage_counts_every_vector(story: Path, kind: str) -> None:
    run = the_run(story, kind)
    steps, counts = run.usage()
    assert steps.tolist() == [5, 10]
    assert counts.shape == (2, 16) and (counts.sum(1) == 5 * VECTORS_PER_STEP).all()
    assert [p.name for p in sorted((run.folder / "pictures").iterdir())] == ["step=000005.png", "step=000010.png"]


def test_phase1_starts_from_the_clustered_codebook(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_copy(story, tmp_path / "data", monkeypatch, without="phase1")
    watch = Watch(lambda module: module.quantizer.codebook.clone())
    TRAININGS["phase1"](settings(), view(watch))
    codebook = np.load(the_run(story, "kmeans").folder / "codebook.npy")
    assert codebook.shape == (16, 8) and np.array_equal(watch.seen[0].numpy(), codebook)


def test_phase2_starts_from_phase1s_best_and_counts_updates_of_the_autoencoder(story: Path) -> None:
    before = load_checkpoint(the_run(story, "phase1").best, ("phase1",))
    after = load_checkpoint(the_run(story, "phase2").last, ("phase2",))
    steps_before = int(after["model"]["steps_before"])
    assert steps_before == before["steps_done"]
    updates = [{int(state["step"]) for state in optimizer["state"].values()} for optimizer in after["optimizers"]]
    assert updates == [{10}, {10 - (13 - steps_before)}]  # the discriminator rests until the GAN starts


def test_means_are_over_the_steps_that_had_a_term(place: Path) -> None:
    """The GAN starts in the middle of what is logged together: the mean is over its steps alone."""
    config = (*FROM_SCRATCH, "loss.gan_start=3", "phase2.steps=4", "train.val_every=4")
    each = TRAININGS["phase2"](settings(*config, "train.log_every=1"))
    four = TRAININGS["phase2"](settings(*config, "train.log_every=4", "optim.betas=[0.9, 0.9900001]"))
    for name in ("train/disc", "train/gan", "train/rec"):
        assert four.curve(name)[1] == pytest.approx([each.curve(name)[1].mean()], rel=1e-4)


def test_phase2_counts_its_own_codes_alone(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phase 1's best state may lie between two of its pictures, with codes counted since the first."""
    data = fresh_copy(story, tmp_path / "data", monkeypatch, without="phase2")
    best = the_run(data, "phase1").best
    state = load_checkpoint(best, ("phase1",))
    state["model"]["usage"] += 7
    save_checkpoint(best, state)
    assert TRAININGS["phase2"](settings()).usage()[1].sum(1).tolist() == [5 * VECTORS_PER_STEP] * 2


def test_the_prior_learns_the_codes_of_phase2(story: Path) -> None:
    run = the_run(story, "phase2")
    codes = np.load(run.folder / "codes.npy")
    images = np.load(next((story / "processed").glob("*/images.npy")))
    assert codes.dtype == np.uint16 and codes.shape == (len(images), 8, 8) and codes.max() < 16
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert np.array_equal(VQVAEModel.load(run.folder).encode(x).numpy(), codes)
    flipped = np.load(run.folder / "codes-flipped.npy")
    assert np.array_equal(VQVAEModel.load(run.folder).encode(x.flip(-1)).numpy(), flipped)
    sequences = torch.from_numpy(codes.astype(np.int64)).flatten(1)
    bits = PriorModel.load(the_run(story, "prior").folder).bits(sequences)
    assert bits.shape == (len(images), 64)
    held_out = bits[torch.from_numpy(load_packed(next((story / "processed").glob("*"))).val_rows)].mean(1)
    result = the_run(story, "prior").result()
    assert result["best_bits"] == pytest.approx(float(held_out.mean()), rel=1e-5)
    assert result["best_bits_se"] == pytest.approx(float(held_out.std()) / len(held_out) ** 0.5, rel=1e-3)
    masks = random_masks(len(images), 64, torch.Generator().manual_seed(0))
    bits = PriorModel.load(the_run(story, "masked").folder).bits(sequences, masks)
    assert bool(((bits > 0) == masks).all())


def test_tensorboard_has_curves_pictures_and_histograms(story: Path) -> None:
    events = EventAccumulator(str(the_run(story, "phase2").folder / "tensorboard"), {"images": 0, "histograms": 0})
    tags = events.Reload().Tags()
    assert {"train/rec", "train/gan", "train/disc", "train/lr", "train/lr_discriminator", "val/psnr"} <= {
        *tags["scalars"]
    }
    assert [event.step for event in events.Images("reconstructions")] == [5, 10]
    assert [event.step for event in events.Histograms("codes")] == [5, 10]
    for event, counts in zip(events.Histograms("codes"), the_run(story, "phase2").usage()[1], strict=True):
        assert event.histogram_value.num == counts.sum()


def test_wandb_gets_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is installed; here a logger in its place notes what it is given."""
    given: dict[str, list[Any]] = {}

    class Notes(WandbLogger):
        name, version, experiment = "notes", "", None

        def __init__(self, **settings: Any) -> None:
            given["settings"] = [settings]

        def log_hyperparams(self, *args: Any) -> None: ...
        def after_save_checkpoint(self, *args: Any) -> None: ...
        def finalize(self, status: str) -> None: ...

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            for name, value in metrics.items():
                given.setdefault(name, []).append((step, value))

        def log_image(self, key: str, images: list[Any], step: int | None = None, **more: Any) -> None:
            given.setdefault(key, []).append((step, images[0]))

    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", Notes)
    monkeypatch.setattr("vq_core.training.phases.find_spec", lambda name: name)
    ended: list[bool] = []
    wandb = SimpleNamespace(Histogram=lambda values: values, finish=lambda: ended.append(True))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run = TRAININGS["phase1"](settings(*FROM_SCRATCH, "train.wandb=true"))
    assert given["settings"][0]["name"] == given["settings"][0]["id"] == run.name and ended == [True]
    assert [step for step, _ in given["reconstructions"]] == [step for step, _ in given["codes"]] == [5, 10]
    _, counts = run.usage()
    for (_, values), expected in zip(given["codes"], counts, strict=True):
        assert np.bincount(values, minlength=16).tolist() == expected.tolist()
    assert [value for _, value in given["val/psnr"]] == pytest.approx(run.curve("val/psnr")[1].tolist())


def test_masks_hide_from_one_to_all_in_equal_shares() -> None:
    masks = random_masks(64, 64, torch.Generator().manual_seed(0))
    assert sorted(masks.sum(1).tolist()) == list(range(1, 65))
    many = torch.cat([random_masks(5, 64, torch.Generator().manual_seed(seed)) for seed in range(400)])
    assert many.any(1).all() and abs(many.float().mean() - 65 / 128) < 0.01
    assert (many.float().mean(0) - 65 / 128).abs().max() < 0.05  # no position is favoured


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_the_prior_sees_codes_of_flipped_images_in_training_only(place: Path, flip: float) -> None:
    codes = torch.stack([torch.zeros(40, 8, 8), torch.ones(40, 8, 8)]).int()
    data = CodesDataModule(settings(f"data.flip={flip}"), codes, torch.arange(32), torch.arange(32, 40))
    module = PriorModel(settings())
    data.trainer = SimpleNamespace(training=True, lightning_module=module, global_rank=0, world_size=1)  # type: ignore[assignment]
    batch = data.on_after_batch_transfer(torch.arange(32), 0)
    assert (batch.float().mean() == flip) if flip in (0, 1) else 0 < batch.float().mean() < 1
    data.trainer.training = False  # type: ignore[union-attr, misc]
    assert data.on_after_batch_transfer(torch.arange(32), 0).sum() == 0


def test_a_finished_run_is_loaded(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQ_DATA", str(story))
    before = {path: path.stat().st_mtime_ns for path in story.rglob("*")}
    shown: list[str] = []

    class Shows(RunView):
        def show_finished(self) -> None:
            shown.append(f"{self.run.name}, {len(self.history.rows)} rows")

        def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
            raise AssertionError("trained again")

    names = [train(settings(), Shows).name for train in TRAININGS.values()]
    assert shown == [f"{name}, {len(Run(story / 'runs' / name).history())} rows" for name in names]
    assert sorted(names) == [run.name for run in all_runs()]
    assert {path: path.stat().st_mtime_ns for path in story.rglob("*")} == before


@pytest.mark.parametrize(
    ("kind", "change", "moves"),
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
        ("phase2", "sweep.steps=5", False),
        ("prior", "prior.dropout=0.3", True),
        ("prior", "model.num_codes=32", True),
        ("prior", "train.wandb=true", False),
    ],
)
def test_what_matters_leads_to_another_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, kind: str, change: str, moves: bool
) -> None:
    if change.startswith("seed"):  # the images of another seed are others
        shutil.copytree(processed_dir(settings()), processed_dir(settings(change)))
    assert (run_for(kind, settings()) != run_for(kind, settings(change))) == moves


@pytest.mark.parametrize("kind", TRAININGS)
def test_other_images_lead_to_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """One's own in place of the built-in ones, one more, the same under other names."""
    monkeypatch.setenv("VQ_DATA", str(tmp_path))

    def run(*changes: str) -> Run:
        prepare_images(settings(*changes), progress=False)
        return run_for(kind, settings(*changes))

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


def test_images_that_come_while_training_change_nothing(place: Path) -> None:
    fingerprint = load_packed(processed_dir(settings())).fingerprint

    class Downloads(Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            (place / "raw").mkdir()
            Image.new("RGB", (64, 64)).save(place / "raw" / "mine.png")

    run = TRAININGS["kmeans"](settings(), view(Downloads()))
    assert run.done and run.result()["data"] == fingerprint


def test_codes_of_other_images_than_the_runs_are_refused(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of packed images may be brought up to date under a notebook that is open."""
    data = fresh_copy(story, tmp_path / "data", monkeypatch)
    run = the_run(data, "phase2")
    (run.folder / "codes.npy").unlink()
    run.update_result({"data": "0123456789abcdef"})
    with pytest.raises(RunError, match=f"holds other images by now than {run.name} was trained on"):
        extract_codes(run, settings())
    assert not (run.folder / "codes.npy").exists()


def test_the_sweep_trains_what_its_start_needs(place: Path) -> None:
    short = ("sweep.steps=1", "sweep.num_codes=[8]", "sweep.perceptual=[]", "sweep.gan=[0.2]")
    runs = sweep(settings(*short, "quantizer.init=kaiming"))
    assert list(runs) == ["as configured", "with GAN", "K=8", "λ_gan=0.2"]
    assert [run.kind for run in runs.values()] == ["phase1", "phase2", "phase1", "phase2"]
    assert {run.kind for run in all_runs()} == {"phase1", "phase2"} and len(all_runs()) == 4
    assert all(run.result()["psnr"] > 0 and run.result()["steps"] == 1 for run in runs.values())
    assert [row["run"] for row in table(runs.values())] == [run.name for run in runs.values()]
    assert not any("data" in row for row in table())
    runs["K=8"].update_result({"data": "0123456789abcdef"})  # as if trained on other images
    assert {row["data"] for row in table()} == {"012345", load_packed(processed_dir(settings())).fingerprint[:6]}
    clustered = stages_up_to("phase2", settings())
    assert clustered == ["kmeans", "phase1", "phase2"]
    assert stages_up_to("prior", settings(*FROM_SCRATCH)) == ["phase2", "prior"]


@pytest.mark.parametrize(
    ("kind", "notebook"),
    [("phase1", "01_codebook_kmeans_init"), ("phase2", "02_phase1_vqvae"), ("prior", "03_phase2_vqgan")],
)
def test_out_of_order_names_the_notebook(place: Path, kind: str, notebook: str) -> None:
    with pytest.raises(RunError, match=f"run notebook {notebook} first"):
        TRAININGS[kind](settings())
    assert not (place / "runs").exists()


def test_without_images_or_prior_the_notebook_is_named_too(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match="run notebook 04_phase3_prior first"):
        finished("prior", settings())
    monkeypatch.setenv("VQ_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="00_data_prep"):
        TRAININGS["kmeans"](settings())


def test_fewer_images_than_a_batch_is_an_error_before_training(place: Path) -> None:
    with pytest.raises(DataError, match=r"training images are fewer than train\.batch_size=64"):
        TRAININGS["kmeans"](settings("train.batch_size=64"))
    assert not (place / "runs").exists()


# --- resume ---------------------------------------------------------------------------------------------------------

CUTS = [
    SignalDuringStep(1),
    SignalDuringStep(4),  # validation belongs to this step
    SignalDuringStep(5),  # just after a validation
    SignalDuringStep(6),  # where a checkpoint is written anyhow
    SignalDuringStep(7, signal.SIGTERM),
    SignalDuringStep(8, signal.SIGTERM),
    SignalDuringStep(10),
    SignalDuringValidation(4),
    CrashAfterStep(2),  # before anything was saved
    CrashAfterStep(7),  # one step after the last save
    CrashAfterStep(10),
    CrashDuringValidation(4),
]


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: f"{type(cut).__name__}{cut.step}")
@pytest.mark.parametrize("kind", ["phase1", "phase2", "prior", "masked"])
def test_resume_equals_the_uninterrupted_run(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, cut: Any
) -> None:
    data = fresh_copy(story, tmp_path / "data", monkeypatch, without=kind)
    with pytest.raises(Crash if "Crash" in type(cut).__name__ else KeyboardInterrupt):
        TRAININGS[kind](settings(), view(cut))
    run = the_run(data, kind)
    assert not run.done
    assert TRAININGS[kind](settings()) == run
    assert_same_end(run, the_run(story, kind))


HALVES = (
    *FROM_SCRATCH,
    "train.accumulate=2",
    "loss.gan_start=3",
    "discriminator.lecam=0.1",
    "discriminator.augment=true",
)
HALF_CUTS = [
    *(SignalBetweenBatches(step) for step in (1, 4, 5, 10)),
    *(CrashBetweenBatches(step) for step in (2, 4, 7)),
]


@pytest.fixture(scope="module")
def halves(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with uninterrupted runs whose steps are of two batches each. Not to be changed."""
    folder = tmp_path_factory.mktemp("halves") / "data"
    with pytest.MonkeyPatch.context() as patch:
        fresh_copy(prepared, folder, patch)
        for kind in ("phase1", "phase2"):
            TRAININGS[kind](settings(*HALVES))
    return folder


@pytest.mark.parametrize("cut", HALF_CUTS, ids=lambda cut: f"{type(cut).__name__}{cut.step}")
@pytest.mark.parametrize("kind", ["phase1", "phase2"])
def test_resume_from_within_a_step(halves: Path, place: Path, kind: str, cut: Any) -> None:
    with pytest.raises(Crash if "Crash" in type(cut).__name__ else KeyboardInterrupt):
        TRAININGS[kind](settings(*HALVES), view(cut))
    run = TRAININGS[kind](settings(*HALVES))
    assert run == the_run(place, kind)
    assert_same_end(run, the_run(halves, kind))


def checkpoint_times(data: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in data.glob("runs/phase2-*/checkpoints/last.ckpt")]


def test_killed_at_any_moment(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL at moments that nobody chose, most of them while a checkpoint is being written."""
    busy = (*FROM_SCRATCH, "phase2.steps=200", "train.save_every=1", "train.val_every=50", "train.log_every=10")
    data = fresh_copy(prepared, tmp_path / "killed", monkeypatch)
    command = [sys.executable, "-m", "vq_core", "train", "phase2", "--profile", "smoke", *SETTINGS, *busy]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    reached = [0]
    for moment in (0.13, 0.71, 0.37):
        before = checkpoint_times(data)
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        # Not the log: it may hold a row of a step whose checkpoint the process killed before did not live to write.
        while process.poll() is None and checkpoint_times(data) == before and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(moment)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        reached.append(load_checkpoint(the_run(data, "phase2").last, ("phase2",))["steps_done"])
    assert reached == sorted(set(reached)) and reached[-1] < 200
    run = TRAININGS["phase2"](settings(*busy))
    fresh_copy(prepared, tmp_path / "whole", monkeypatch)
    assert_same_end(run, TRAININGS["phase2"](settings(*busy)), steps=200)


def test_many_interruptions(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = fresh_copy(story, tmp_path / "data", monkeypatch, without="phase2")
    for step in (1, 2, 3, 6, 7, 9):
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step {step} of 10; run it again to go on"):
            TRAININGS["phase2"](settings(), view(SignalDuringStep(step)))
    TRAININGS["phase2"](settings())
    assert_same_end(the_run(data, "phase2"), the_run(story, "phase2"))


def test_schedules_go_on_where_they_were(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_copy(story, tmp_path / "data", monkeypatch, without="phase2")
    first, second = (Watch(lambda module: (module.steps_done, module.gan_weight)) for _ in range(2))
    stop = SignalDuringStep(6)

    class Both(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            first.on_train_batch_start(*args)
            stop.on_train_batch_start(*args)

    with pytest.raises(KeyboardInterrupt):
        TRAININGS["phase2"](settings(), view(Both()))
    TRAININGS["phase2"](settings(), view(second))
    start = 13 - load_checkpoint(the_run(story, "phase1").best, ("phase1",))["steps_done"]
    weights = [0.0 if step < start else 0.1 * min(1.0, (step - start + 1) / 4) for step in range(10)]
    assert [step for step, _ in first.seen + second.seen] == list(range(10))
    assert [weight for _, weight in first.seen + second.seen] == pytest.approx(weights)


def test_resume_with_plateau_schedule(place: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings("optim.schedule=plateau", "optim.plateau_patience=1", "quantizer.init=kaiming", "phase1.lr=0.05")
    reference = TRAININGS["phase1"](config)
    fresh_copy(prepared, place.parent / "again", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        TRAININGS["phase1"](config, view(SignalDuringStep(9)))
    assert_same_end(TRAININGS["phase1"](config), reference)


def test_the_rate_is_halved_at_a_plateau(place: Path) -> None:
    """Gradients are clipped to nothing, so that every second validation without a better one halves the rate."""
    frozen = ("phase1.lr=1e-3", "optim.clip=1e-12", "optim.weight_decay=0", "optim.warmup_steps=4")
    long = settings(
        *frozen, "optim.schedule=plateau", "optim.plateau_patience=1", "kmeans.steps=28", "train.log_every=4"
    )
    rates = TRAININGS["kmeans"](long).curve("train/lr")[1][1:]
    assert rates[0] == pytest.approx(1e-3) and rates[-1] < 0.3e-3
    assert set(np.round(rates[1:] / rates[:-1], 6)) == {1.0, 0.5}


def test_the_stop_waits_for_the_whole_effective_batch(place: Path) -> None:
    config = settings("train.accumulate=2", "quantizer.init=kaiming")
    with pytest.raises(KeyboardInterrupt):
        TRAININGS["phase1"](config, view(SignalDuringStep(3)))
    state = load_checkpoint(the_run(place, "phase1").last, ("phase1",))
    assert state["steps_done"] == 3
    assert {int(s["step"]) for s in state["optimizers"][0]["state"].values()} == {3}


# --- steps ----------------------------------------------------------------------------------------------------------


def weights_after(config: Config, folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    fresh_copy(source, folder, monkeypatch)
    return load_checkpoint(TRAININGS["phase2"](config).last, ("phase2",))["model"]


def test_accumulation_equals_the_whole_batch(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = (
        *FROM_SCRATCH,
        *NO_AUGMENTATION,
        "loss.gan_start=0",
        "loss.gan=0.1",
        "quantizer.reset_every=0",
        "phase2.steps=4",
    )
    whole, halves, smaller = (
        weights_after(settings(*common, *more), tmp_path / str(i), prepared, monkeypatch)
        for i, more in enumerate(((), ("train.accumulate=2",), ("train.batch_size=4",)))
    )
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    moved = [name for name in whole if not torch.allclose(smaller[name], whole[name], atol=1e-4, rtol=1e-3)]
    parts = ("encoder", "decoder", "adversary", "quantizer.codebook")
    assert all(any(name.startswith(part) for name in moved) for part in parts)  # the comparison can tell


class GradientNorms(Callback):
    """The gradient norms with which the optimisers make their updates."""

    def __init__(self) -> None:
        self.norms: dict[int, list[float]] = {}

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad.flatten() for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        self.norms.setdefault(trainer.optimizers.index(optimizer), []).append(float(torch.cat(gradients).norm()))


def test_clipping_bounds_both_optimisers(place: Path) -> None:
    norms = GradientNorms()
    config = settings(*FROM_SCRATCH, "loss.gan_start=0", "optim.clip=0.01", "phase2.steps=4")
    run = TRAININGS["phase2"](config, view(norms))
    assert [len(norms.norms[number]) for number in (0, 1)] == [4, 4]
    assert max(norms.norms[0] + norms.norms[1]) <= 0.01 * (1 + 1e-4)
    assert run.curve("train/grad_norm")[1].min() > 0.01  # the recorded norm is that before clipping


def test_early_stopping(place: Path) -> None:
    frozen = ("phase1.lr=1e-30", "optim.lr_start=1e-30", "optim.lr_end=1e-30", "optim.weight_decay=0")
    run = TRAININGS["kmeans"](settings(*frozen, "kmeans.steps=40", "train.patience=2"))
    assert run.result()["steps"] == 12 and run.result()["best_step"] == 4


def test_dead_codes_come_back_to_life(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = fresh_copy(story, tmp_path / "data", monkeypatch, without="phase1")
    path = the_run(data, "kmeans").folder / "codebook.npy"
    codebook = np.load(path)
    codebook[4:] = 1000 + np.arange(12)[:, None]  # so far away that no vector ever chooses them
    np.save(path, codebook)
    run = TRAININGS["phase1"](settings())
    steps, reset = run.curve("train/codes_reset")
    assert steps.tolist() == [3, 6, 9]  # quantizer.reset_every
    codes = load_checkpoint(run.last, ("phase1",))["model"]["quantizer.codebook"]
    assert reset.sum() > 0 and codes.abs().max() < 100
    assert run.curve("val/codes_used")[1][-1] > 4 / 16


def test_bf16_mixed_trains_on_the_cpu(place: Path) -> None:
    config = settings(*FROM_SCRATCH, "train.precision=bf16-mixed", "loss.gan_start=0", "phase2.steps=4")
    run = TRAININGS["phase2"](config)
    model = load_checkpoint(run.last, ("phase2",))["model"]
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in model.values() if value.ndim)


def test_options_train(place: Path) -> None:
    """Gradient-learned codebook, perceptual and L2 terms, attention, BatchNorm, projections, non-saturating GAN."""
    config = settings(
        *FROM_SCRATCH,
        "quantizer.init=normal",
        "quantizer.learning=gradient",
        "quantizer.reset_every=0",
        "loss.perceptual=0.5",
        "loss.l2=0.1",
        "loss.gan_kind=non_saturating",
        "loss.gan_start=0",
        "model.norm=batch",
        "model.activation=relu",
        "model.upsample=bilinear",
        "model.attention_at=[8]",
        "model.latent_channels=12",
        "discriminator.spectral_norm=true",
        "optim.name=adam",
        "train.monitor=val_perceptual",
        "phase2.steps=4",
    )
    start: list[torch.Tensor] = []
    run = TRAININGS["phase2"](
        config, view(Watch(lambda module: start.append(module.quantizer.codebook.detach().clone())))
    )
    end = load_checkpoint(run.last, ("phase2",))["model"]["quantizer.codebook"]
    assert not torch.equal(start[0], end) and torch.isfinite(end).all()
    names = {name for row in run.history() for name in row}
    assert {f"train/{n}" for n in ("rec", "l2", "perceptual", "vq", "commit", "gan", "disc")} <= names
    assert run.result()["best_perceptual"] == pytest.approx(run.curve("val/perceptual")[1].min(), abs=1e-6)
    x = torch.zeros(2, 3, 32, 32)
    model = VQVAEModel.load(run.folder)
    assert torch.allclose(model.decode(model.encode(x)), model(x), atol=1e-5)


# --- stops ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT])
@pytest.mark.parametrize("interrupted", [True, False])
def test_signals_are_given_back(place: Path, number: int, interrupted: bool) -> None:
    received: list[int] = []
    before = signal.signal(number, lambda n, frame: received.append(n))
    try:
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                TRAININGS["kmeans"](settings(), view(SignalDuringStep(2, number)))
        else:
            TRAININGS["kmeans"](settings())
        assert received == []
        os.kill(os.getpid(), number)
        assert received == [number]
    finally:
        signal.signal(number, before)


# --- checkpoints ----------------------------------------------------------------------------------------------------


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save({"kind": "phase1", "model": Payload(tmp_path / "one")}, tmp_path / "zip.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps({"kind": "phase1", "model": Payload(tmp_path / "two")}))
    for name in ("zip.ckpt", "plain.ckpt"):
        with pytest.raises(CheckpointError, match=f"{name}: is not a readable checkpoint"):
            VQVAEModel.load(tmp_path / name)
    assert not (tmp_path / "one").exists() and not (tmp_path / "two").exists()


@pytest.mark.parametrize("damage", ["empty", "half", "garbage"])
def test_a_damaged_checkpoint_is_named(story: Path, tmp_path: Path, damage: str) -> None:
    whole = the_run(story, "phase1").best.read_bytes()
    path = tmp_path / "best.ckpt"
    path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "garbage": b"no checkpoint at all" * 99}[damage])
    with pytest.raises(CheckpointError, match=r"best\.ckpt: is not a readable checkpoint") as caught:
        VQVAEModel.load(path)
    assert "\n" not in str(caught.value)


def test_another_kind_of_checkpoint_is_named(story: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds 'prior', but kmeans or phase1 or phase2 is needed"):
        VQVAEModel.load(the_run(story, "prior").folder)
    with pytest.raises(CheckpointError, match="holds 'phase2', but prior or masked is needed"):
        PriorModel.load(the_run(story, "phase2").best)
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match="holds 'list'"):
        PriorModel.load(tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match=r"none\.ckpt: there is no such checkpoint"):
        PriorModel.load(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match=r"best\.ckpt: there is no such checkpoint"):
        VQVAEModel.load(tmp_path)


def test_a_damaged_last_checkpoint_is_no_fresh_start(place: Path) -> None:
    config = settings("quantizer.init=kaiming")
    with pytest.raises(KeyboardInterrupt):
        TRAININGS["phase1"](config, view(SignalDuringStep(3)))
    last = the_run(place, "phase1").last
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        TRAININGS["phase1"](config)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"kind": "phase1", "value": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # writing beyond it fails as on a full disk
    try:
        with pytest.raises(
            CheckpointError, match=r"last\.ckpt: cannot be written .*; the checkpoint before it is kept"
        ):
            save_checkpoint(path, {"kind": "phase1", "value": 2, "big": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path, ("phase1",))["value"] == 1 and [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_leaves_the_array_before(tmp_path: Path) -> None:
    path = tmp_path / "codes.npy"
    save_array(path, np.arange(10))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, hard))
    try:
        for size in (5_900, 6_000, 7_000, 100_000):  # with its header the first is too large by a little
            with pytest.raises(OSError, match="too large"):
                save_array(path, np.zeros(size, dtype=np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert np.array_equal(np.load(path), np.arange(10)) and [p.name for p in tmp_path.iterdir()] == ["codes.npy"]


KILLED = """
import resource, signal, sys
from pathlib import Path
from types import SimpleNamespace
import torch
from vq_core.training.state import save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the write that goes beyond kills the process
save_checkpoint(Path(sys.argv[1]), {"kind": "phase1", "value": 2, "big": torch.zeros(100_000)})
"""


def test_killed_while_saving(tmp_path: Path) -> None:
    """A process that dies at once, half-way through the file, leaves the old one under the final name."""
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"kind": "phase1", "value": 1})
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=120).returncode == -signal.SIGXFSZ
    assert load_checkpoint(path, ("phase1",))["value"] == 1
    save_checkpoint(path, {"kind": "phase1", "value": 3})
    assert load_checkpoint(path, ("phase1",))["value"] == 3
