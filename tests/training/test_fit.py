"""What stops a training, and what does not let it begin."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from disturbances import SignalDuringStep
from lightning.pytorch.callbacks import Callback
from small_runs import FROM_SCRATCH, SETTINGS, settings, the_run, view

from vq_core.__main__ import main
from vq_core.data.images import prepare_images
from vq_core.errors import CheckpointError, ConfigError, RunError
from vq_core.runs.finding import run_for
from vq_core.training.phases import train

pytestmark = pytest.mark.slow


def test_a_damaged_last_checkpoint_is_no_fresh_start(place: Path) -> None:
    config = settings("quantizer.init=kaiming")
    with pytest.raises(KeyboardInterrupt):
        train("phase1", config, view(SignalDuringStep(3)))
    last = the_run(place, "phase1").last
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        train("phase1", config)


@pytest.mark.usefixtures("place")
def test_a_checkpoint_of_other_settings_is_refused_with_what_differs(tmp_path: Path) -> None:
    run = train("phase1", settings(*FROM_SCRATCH, "phase1.steps=4"))
    for changes, listed in (
        (("model.num_codes=32",), r"model\.num_codes \(16 there, 32 here\)"),
        (
            ("optim.clip=0.5", "model.code_dim=4"),
            r"model\.code_dim \(8 there, 4 here\), optim\.clip \(1\.0 there, 0\.5",
        ),
    ):
        config = settings(*FROM_SCRATCH, "phase1.steps=4", *changes)
        folder = train("phase1", config).folder
        (folder / "result.json").unlink()
        (folder / "checkpoints" / "last.ckpt").write_bytes(run.last.read_bytes())
        with pytest.raises(CheckpointError, match=rf"last\.ckpt: was made with different settings: {listed}") as caught:
            train("phase1", config)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("place")
def test_nothing_to_resume_is_an_error(tmp_path: Path) -> None:
    command = ["train", "phase1", "--profile", "smoke", *SETTINGS, *FROM_SCRATCH]
    result = CliRunner().invoke(main, [*command, "--resume"])
    assert result.exit_code == 1 and "nothing to resume; leave out --resume to start the run" in result.output
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
        train("phase1", settings(*FROM_SCRATCH), view(InTheWay()))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("phase", "advice"), [("phase1", "train.accumulate=2.*train.batch_size"), ("prior", "prior.batch_size")]
)
def test_out_of_memory_names_the_settings(monkeypatch: pytest.MonkeyPatch, phase: str, advice: str) -> None:
    config = settings(*FROM_SCRATCH, "phase2.steps=2", "loss.gan_start=0")
    if phase == "prior":
        train("phase2", config)

    class Full(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
            if module.steps_done == 4:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with pytest.raises(RunError, match=f"does not fit into the GPU's memory; set .*{advice}") as caught:
        train(phase, config, view(Full()))
    assert caught.value.__context__ is None  # in a notebook it would keep all tensors of the step alive
    if phase == "phase1":  # what is advised goes on from what was reached

        class Start(Callback):
            def on_train_start(self, trainer: Any, module: Any) -> None:
                assert module.steps_done == 4  # the validation before

        run = train(phase, settings(*FROM_SCRATCH, "train.accumulate=2"), view(Start()))
        assert run == run_for(phase, config) and run.done


@pytest.mark.usefixtures("place")
def test_no_gpu_suggests_what_works_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"no usable GPU; set train\.device=auto, or --profile demo"):
        train("phase1", settings(*FROM_SCRATCH, "train.device=cuda"))
    large = settings(*FROM_SCRATCH, "data.image_size=256", "train.device=auto")
    prepare_images(large)
    with pytest.raises(ConfigError, match=r"no usable GPU: 256×256 images .* --profile demo.*train\.device=cpu"):
        train("phase1", large)


@pytest.mark.usefixtures("place")
def test_wandb_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vq_core.training.fit.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        train("phase1", settings(*FROM_SCRATCH, "train.wandb=true"))


def test_without_room_for_its_checkpoints_a_training_does_not_begin(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train("phase1", settings(*FROM_SCRATCH))
    size = run.last.stat().st_size
    for lr, free, begins in (
        (0.01, 2 * size, False),
        (0.02, 5 * size, True),
    ):  # 10 steps leave best, last and one at step 6
        monkeypatch.setattr(
            "vq_core.training.fit.shutil.disk_usage", lambda folder, free=free: SimpleNamespace(free=free)
        )
        config = settings(*FROM_SCRATCH, f"phase1.lr={lr}")
        if begins:
            assert train("phase1", config).done
        else:
            with pytest.raises(RunError, match=r"GB are free: make room, or raise train.checkpoint_every=6"):
                train("phase1", config)
