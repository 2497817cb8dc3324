"""Faults that are really made to happen: not finite, damaged or foreign checkpoints, too few images, no memory."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from lightning.pytorch.callbacks import Callback
from PIL import Image
from small_runs import FROM_SCRATCH, SETTINGS, fresh_copy, settings, the_run, view

from vq_core.__main__ import main
from vq_core.data.datamodule import prepare_images
from vq_core.data.packed import DataError
from vq_core.training import phases
from vq_core.training.phases import TRAININGS, run_for
from vq_core.training.runs import RunError
from vq_core.training.state import CheckpointError, load_checkpoint, save_checkpoint
from vq_core.training.vqvae_module import VQVAEModel

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")

GAN = (*FROM_SCRATCH, "loss.gan_start=0", "discriminator.lecam=0.1", "train.log_every=1")


# --- not finite -----------------------------------------------------------------------------------------------------


class Spoil(Callback):
    """Does something to the module or the batch just before given steps; keeps the model's state around each."""

    def __init__(self, steps: tuple[int, ...], spoil: Callable[[Any, torch.Tensor], None]) -> None:
        self.steps, self.spoil = steps, spoil
        self.before: dict[int, Any] = {}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        step = module.steps_done + 1
        self.before[step] = {
            "model": {
                name: value.clone()
                for name, value in module.state_dict().items()
                if not name.endswith(("usage", "batches_tracked"))
            },
            "moments": [
                {number: [value.clone() for value in moments.values()] for number, moments in o.state.items()}
                for o in trainer.optimizers
            ],
        }
        if step in self.steps:
            self.spoil(module, batch)


def spoil_batch(value: float) -> Callable[[Any, torch.Tensor], None]:
    return lambda module, batch: batch[0, 0, 0, 0].fill_(value)


def spoil_gradient(module: Any, batch: torch.Tensor) -> None:
    """One entry of one gradient, while the loss is sound."""
    weight = module.decoder.last.weight
    handle: Any = weight.register_hook(lambda g: (handle.remove(), torch.full_like(g, math.inf))[1])


def spoil_gradient_of_the_discriminator(module: Any, batch: torch.Tensor) -> None:
    weight = module.adversary.discriminator.body[0].weight
    handle: Any = weight.register_hook(lambda g: (handle.remove(), torch.full_like(g, math.nan))[1])


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize(
    "spoil", [spoil_batch(math.nan), spoil_batch(math.inf), spoil_gradient, spoil_gradient_of_the_discriminator]
)
def test_a_step_that_is_not_finite_is_skipped_and_counted(spoil: Any, norm: str) -> None:
    callback = Spoil((3, 4, 7), spoil)
    run = TRAININGS["phase2"](settings(*GAN, f"model.norm={norm}"), view(callback))
    state = load_checkpoint(run.last, ("phase2",))
    assert state["steps_done"] == 10 and state["skipped"] == 3 and state["bad_in_a_row"] == 0
    for step in (3, 4, 7):  # weights, codebook, LeCam's averages, Adam's moments and counts: nothing moved
        assert equal(callback.before[step], callback.before[step + 1])
    assert not equal(callback.before[5], callback.before[6])
    assert [list(values) for values in run.curve("train/skipped")] == [[3, 4, 7], [1, 2, 3]]
    assert all(math.isfinite(v) for row in run.history() for v in row.values())
    moved = [{int(s["step"]) for s in o["state"].values()} for o in state["optimizers"]]
    assert moved == [{7}, {7}]


@pytest.mark.usefixtures("place")
def test_too_many_in_a_row_stop_the_training(tmp_path: Path) -> None:
    config = settings(*GAN, "train.bad_steps=3")
    with pytest.raises(FloatingPointError, match=r"not finite at step 8, 3 times in a row; last\.ckpt holds"):
        TRAININGS["phase2"](config, view(Spoil((3, 6, 7, 8), spoil_batch(math.nan))))
    run = the_run(tmp_path / "data", "phase2")
    state = load_checkpoint(run.last, ("phase2",))
    assert state["steps_done"] == 6 and state["bad_in_a_row"] == 1
    assert all(bool(value.isfinite().all()) for value in state["model"].values())
    assert TRAININGS["phase2"](config) == run and run.result()["steps"] == 10  # it goes on where it was sound


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("bad_steps", [2, 99])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, bad_steps: int) -> None:
    def spoil(module: Any, batch: torch.Tensor) -> None:
        with torch.no_grad():
            module.encoder.layers[0].weight[0] = math.nan

    with pytest.raises(FloatingPointError, match=r"not finite.*last\.ckpt holds the last finite state"):
        TRAININGS["phase2"](settings(*GAN, f"train.bad_steps={bad_steps}"), view(Spoil((5,), spoil)))
    state = load_checkpoint(the_run(tmp_path / "data", "phase2").last, ("phase2",))
    assert state["steps_done"] == 4 and all(bool(value.isfinite().all()) for value in state["model"].values())


@pytest.mark.usefixtures("place")
def test_fp16_overflows_count_only_when_the_scale_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.zeros(()))  # what the precision plugin does with every loss; here it only makes it begin
    monkeypatch.setattr(VQVAEModel, "_scaler", scaler)
    run = TRAININGS["phase2"](settings(*GAN), view(Spoil((2, 3, 4, 5), spoil_gradient)))
    # The first brings the scale from 4 to 2, which is what a scaler is for; the others bring it to 1 and below.
    assert run.curve("train/skipped")[0].tolist() == [3, 4, 5] and run.curve("train/skipped")[1].tolist() == [1, 2, 3]
    assert scaler.get_scale() == 0.25


# --- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.fixture
def two_states(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for steps, name in ((4, "best"), (6, "last")):
        weights = {f"w{i}": torch.randn(50, generator=generator) for i in range(8)}
        save_checkpoint(tmp_path / f"{name}.ckpt", {"kind": "phase1", "steps_done": steps, "model": weights})
    return tmp_path


def test_every_flipped_bit_is_found_or_harmless(two_states: Path) -> None:
    path = two_states / "last.ckpt"
    whole = path.read_bytes()
    sound = load_checkpoint(path, ("phase1",))
    found = 0
    for place in np.random.default_rng(0).choice(len(whole), 300, replace=False):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(place) % 8
        path.write_bytes(flipped)
        try:
            state = load_checkpoint(path, ("phase1",))
        except CheckpointError as error:
            found += 1
            assert "last.ckpt: is not a readable checkpoint" in str(error)
            assert str(error).endswith(
                "best.ckpt beside it is whole (step 4): copy it over last.ckpt to go on from there"
            )
            assert "\n" not in str(error)
        else:  # padding between the parts
            assert equal(state["model"], sound["model"]) and state["steps_done"] == 6
    assert found > 60


def test_a_flipped_bit_in_a_weight_is_found_by_its_checksum(two_states: Path) -> None:
    path = two_states / "last.ckpt"
    whole = bytearray(path.read_bytes())
    weight = load_checkpoint(path, ("phase1",))["model"]["w3"].numpy().tobytes()
    whole[whole.index(weight) + 10] ^= 1
    path.write_bytes(whole)
    assert not torch.equal(  # torch itself would take it
        torch.load(path, weights_only=True)["model"]["w3"], torch.from_numpy(np.frombuffer(weight, np.float32).copy())
    )
    with pytest.raises(CheckpointError, match=r"the checksum of .* in it is wrong"):
        load_checkpoint(path, ("phase1",))
    (two_states / "best.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no whole one lies beside it"):
        load_checkpoint(path, ("phase1",))


@pytest.mark.usefixtures("place")
def test_a_checkpoint_of_other_settings_is_refused_with_what_differs(tmp_path: Path) -> None:
    run = TRAININGS["phase1"](settings(*FROM_SCRATCH, "phase1.steps=4"))
    for changes, listed in (
        (("model.num_codes=32",), r"model\.num_codes \(16 there, 32 here\)"),
        (
            ("optim.clip=0.5", "model.code_dim=4"),
            r"model\.code_dim \(8 there, 4 here\), optim\.clip \(1\.0 there, 0\.5",
        ),
    ):
        config = settings(*FROM_SCRATCH, "phase1.steps=4", *changes)
        folder = TRAININGS["phase1"](config).folder
        (folder / "result.json").unlink()
        (folder / "checkpoints" / "last.ckpt").write_bytes(run.last.read_bytes())
        with pytest.raises(CheckpointError, match=rf"last\.ckpt: was made with other settings: {listed}") as caught:
            TRAININGS["phase1"](config)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("place")
def test_a_codebook_of_another_size_does_not_fit(tmp_path: Path) -> None:
    run = TRAININGS["phase1"](settings(*FROM_SCRATCH, "phase1.steps=4"))
    state = load_checkpoint(run.best, ("phase1",))
    for name in ("codebook", "ema_sums"):
        state["model"][f"quantizer.{name}"] = torch.zeros(24, 8)
    save_checkpoint(run.best, state)
    with pytest.raises(CheckpointError, match=r"best\.ckpt: does not fit .*codebook.*\[24, 8\].*\[16, 8\]") as caught:
        VQVAEModel.load(run.folder)
    assert "\n" not in str(caught.value)
    del state["config"]["optim"]
    save_checkpoint(run.best, state)
    with pytest.raises(CheckpointError, match=r"best\.ckpt: does not fit this version of the workbook \(optim: "):
        VQVAEModel.load(run.folder)


@pytest.mark.usefixtures("place")
def test_nothing_to_resume_is_an_error(tmp_path: Path) -> None:
    command = ["train", "phase1", "--profile", "smoke", *SETTINGS, *FROM_SCRATCH]
    result = CliRunner().invoke(main, [*command, "--resume"])
    assert result.exit_code == 1 and "nothing to resume; leave out --resume to begin" in result.output
    assert not (tmp_path / "data" / "runs").exists()
    assert CliRunner().invoke(main, command).exit_code == 0
    assert CliRunner().invoke(main, [*command, "--resume"]).exit_code == 0


@pytest.mark.usefixtures("place")
def test_checkpoints_that_cannot_be_written_end_in_one_line(tmp_path: Path) -> None:
    class InTheWay(Callback):
        """A file where the folder of checkpoints should be made."""

        def on_train_start(self, trainer: Any, module: Any) -> None:
            (the_run(tmp_path / "data", "phase1").folder / "checkpoints").write_text("")

    with pytest.raises(CheckpointError, match=r"last\.ckpt: cannot be written \(.*\)") as caught:
        TRAININGS["phase1"](settings(*FROM_SCRATCH), view(InTheWay()))
    assert "\n" not in str(caught.value)


# --- images and memory ----------------------------------------------------------------------------------------------


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
        TRAININGS["phase1"](config)
    assert "\n" not in str(caught.value) and not (tmp_path / "runs").exists()


def test_no_validation_images_is_an_error_before_training(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fresh_copy(prepared, tmp_path / "data", monkeypatch)
    (manifest,) = data.glob("processed/*/manifest.csv")
    manifest.write_text(manifest.read_text().replace(",val,", ",train,"))
    with pytest.raises(DataError, match=r"0 validation images are too few.*data\.val_share"):
        TRAININGS["phase1"](settings(*FROM_SCRATCH))


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("kind", "advice"), [("phase1", "train.accumulate=2.*train.batch_size"), ("prior", "prior.batch_size")]
)
def test_out_of_memory_names_the_settings(monkeypatch: pytest.MonkeyPatch, kind: str, advice: str) -> None:
    config = settings(*FROM_SCRATCH, "phase2.steps=2", "loss.gan_start=0")
    if kind == "prior":
        TRAININGS["phase2"](config)

    class Full(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
            if module.steps_done == 4:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with pytest.raises(RunError, match=f"the GPU's memory does not hold a batch of this size: .*{advice}") as caught:
        TRAININGS[kind](config, view(Full()))
    assert caught.value.__context__ is None  # in a notebook it would keep all tensors of the step alive
    if kind == "phase1":  # what is advised goes on from what was reached

        class Start(Callback):
            def on_train_start(self, trainer: Any, module: Any) -> None:
                assert module.steps_done == 4  # the validation before

        run = TRAININGS[kind](settings(*FROM_SCRATCH, "train.accumulate=2"), view(Start()))
        assert run == run_for(kind, config) and run.done


@pytest.mark.usefixtures("place")
def test_no_gpu_suggests_what_works_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match=r"no usable GPU; set train\.device=auto, or --profile demo"):
        TRAININGS["phase1"](settings(*FROM_SCRATCH, "train.device=cuda"))
    large = settings(*FROM_SCRATCH, "data.image_size=256", "train.device=auto")
    prepare_images(large)
    with pytest.raises(RunError, match=r"no usable GPU: 256×256 images .* --profile demo.*train\.device=cpu"):
        TRAININGS["phase1"](large)


@pytest.mark.usefixtures("place")
def test_a_gan_that_would_never_start_is_an_error() -> None:
    with pytest.raises(RunError, match=r"loss\.gan_start=13: Phase 2 ends at step 10"):
        TRAININGS["phase2"](settings(*FROM_SCRATCH))


@pytest.mark.usefixtures("place")
def test_wandb_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "find_spec", lambda name: None)
    with pytest.raises(RunError, match="pip install wandb"):
        TRAININGS["phase1"](settings(*FROM_SCRATCH, "train.wandb=true"))
