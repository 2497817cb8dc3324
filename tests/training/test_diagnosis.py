"""The trouble table, on runs made to go wrong on purpose, and on one that does not."""

import io
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from small_runs import FROM_SCRATCH, NO_AUGMENTATION, fresh_copy, settings

from vq_core.config import Config
from vq_core.data.images import prepare_images
from vq_core.notebook.monitor import LiveView
from vq_core.runs.finding import run_for
from vq_core.runs.folders import PHASES, Phase, Run
from vq_core.training.diagnosis import diagnose
from vq_core.training.phases import train

pytestmark = pytest.mark.slow


def trained(phase: Phase, *changes: str) -> tuple[Run, Config]:
    config = settings(*changes)
    prepare_images(config, progress=False)
    return train(phase, config), config


def rows_found(run: Run, config: Config) -> list[str]:
    found = diagnose(run.phase, run.history(), config, ended=True)
    assert run.result()["findings"] == [str(finding) for finding in found]
    return [finding.row for finding in found]


def switches(run: Run) -> str:
    return " ".join(run.result()["findings"])


def applies(run: Run, *changes: str) -> None:
    """Every switch that is named can be set so, and makes another run of it."""
    for finding in diagnose(run.phase, run.history(), settings(*changes), ended=True):
        for switch in finding.switches:
            if "=" in switch:
                assert run_for(run.phase, settings(*changes, switch)) != run, switch


@pytest.mark.usefixtures("place")
def test_a_collapsed_codebook_is_t1(capsys: pytest.CaptureFixture[str]) -> None:
    """Kaiming codes that nothing moves: no moving averages, no L_vq, no resets."""
    frozen = ("quantizer.learning=gradient", "loss.vq=0", "quantizer.reset_every=0")
    changes = (*FROM_SCRATCH, *frozen, "phase1.steps=20", "train.val_every=10")
    run, config = trained("phase1", *changes)
    assert rows_found(run, config) == ["T1"] and run.curve("val/codes_used")[1][-1] < 0.5
    assert all(s in switches(run) for s in ("quantizer.init=kmeans", "quantizer.reset_every=50", "loss.commit=0.5"))
    applies(run, *changes)
    assert "step 10: T1: codebook collapse" in capsys.readouterr().err  # said while it trained, and once
    assert sum("T1" in row for row in run.result()["findings"]) == 1


@pytest.mark.usefixtures("place")
def test_a_gan_far_too_strong_is_t2() -> None:
    wild = ("loss.gan=50", "discriminator.lr=0.02", "loss.gan_start=30", "loss.gan_ramp=1")
    changes = (*FROM_SCRATCH, *wild, "phase2.steps=80", "train.val_every=20", "phase2.lr=0.005")
    run, config = trained("phase2", *changes)
    assert rows_found(run, config) == ["T2"]
    assert all(
        s in switches(run) for s in ("loss.gan=25", "discriminator.lr=0.01", "spectral_norm=true", "gan_start=60")
    )
    applies(run, *changes)
    after_a_long_phase1 = settings(*changes, "phase2.start_from=phase1", "phase1.steps=100")
    (finding,) = diagnose(run.phase, run.history(), after_a_long_phase1, ended=True)
    assert not any("gan_start" in switch for switch in finding.switches)  # it starts with Phase 2 all the same


@pytest.mark.usefixtures("place")
def test_a_run_that_is_too_short_is_t3_at_its_end_and_not_before() -> None:
    changes = (*FROM_SCRATCH, "phase1.steps=20", "train.val_every=10")
    run, config = trained("phase1", *changes)
    assert rows_found(run, config) == ["T3"]
    assert all(s in switches(run) for s in ("loss.perceptual=0.5", "model.res_blocks=2", "model.num_codes=32"))
    applies(run, *changes)
    assert diagnose("phase1", [row for row in run.history() if row["step"] < 20], config) == []


@pytest.mark.usefixtures("place")
def test_a_dozen_images_learnt_by_heart_is_t4() -> None:
    few = ("data.val_share=0.75", "train.batch_size=4", "model.num_codes=64", "phase1.lr=0.01")
    long = ("phase1.steps=240", "train.val_every=60", "train.log_every=10", "train.image_every=120")
    changes = (*FROM_SCRATCH, *NO_AUGMENTATION, *few, *long)
    run, config = trained("phase1", *changes)
    assert rows_found(run, config) == ["T4"]
    assert all(s in switches(run) for s in ("data.flip=0.5", "data.brightness=0.2", "more images"))
    applies(run, *changes)


def test_sequences_learnt_by_heart_are_t4(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_copy(prepared, tmp_path / "data", monkeypatch)
    large = ("prior.dropout=0", "prior.dim=64", "prior.layers=2", "prior.lr=0.01")
    long = ("prior.steps=160", "prior.val_every=20", "prior.patience=4", "phase2.steps=20", *FROM_SCRATCH)
    trained("phase2", *large, *long)
    run, config = trained("prior", *large, *long)
    assert rows_found(run, config) == ["T4"] and "prior.dropout=0.1" in switches(run)


@pytest.mark.usefixtures("place")
def test_a_sound_run_is_told_nothing_but_that_it_was_short() -> None:
    gan = ("loss.gan_start=60", "loss.gan_ramp=20", "loss.gan=0.02")
    run, config = trained("phase2", *FROM_SCRATCH, *gan, "phase2.steps=120", "train.val_every=30", "phase2.lr=0.005")
    assert rows_found(run, config) == ["T3"]


def test_nothing_is_said_of_nothing() -> None:
    assert all(diagnose(phase, [], settings()) == [] for phase in PHASES)


@pytest.mark.usefixtures("place")
def test_the_live_view_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []

    def seen(figure: Figure) -> bytes:
        labels.append(figure.get_supxlabel())
        return b""

    monkeypatch.setattr("vq_core.notebook.monitor.png_of", seen)
    frozen = ("quantizer.learning=gradient", "loss.vq=0", "quantizer.reset_every=0")
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # what `display` prints outside a notebook
    config = settings(*FROM_SCRATCH, *frozen, "phase1.steps=20", "train.val_every=10")
    train("phase1", config, LiveView)
    assert labels[0] == "" and labels[-1].startswith("T1: codebook collapse")
