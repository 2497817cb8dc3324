"""What all commands share: help, settings, errors as one line, tracebacks of bugs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from called import TINY, call
from click.testing import CliRunner

import vq_core
from vq_core.__main__ import main
from vq_core.errors import Stopped, UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


def test_help_everywhere() -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["--help"]).exit_code == 0
    for name in main.commands:
        result = runner.invoke(main, [name, "--help"])
        assert result.exit_code == 0 and "--debug" in result.output, name
        assert "--profile" in result.output or name == "export", name  # which takes the settings of its run


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("model.num_code=4", "did you mean 'model.num_codes'"),
        ("model.num_codes=many", "model.num_codes"),
        ("train.accumulate=3", "accumulate"),
        ("nothing", "key=value"),
    ],
)
def test_bad_settings_are_one_line_and_status_2(folder: Path, setting: str, named: str) -> None:
    result = call(folder, "train", "phase1", setting)
    assert result.exit_code == 2 and named in result.output and "Traceback" not in result.output


def test_out_of_order_names_the_notebook(folder: Path) -> None:
    result = call(folder / "empty", "sample", *TINY)
    assert result.exit_code == 1 and "00_data_prep" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_the_gpus_memory_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("vq_core.runs.finding.finished", full)
    result = call(folder, "sample", *TINY)
    assert result.exit_code == 1 and result.output == (
        "Error: not enough GPU memory for this much at once: ask for less\n"
    )


@pytest.mark.parametrize("error", [ValueError, IndexError, KeyError, RuntimeError, FileNotFoundError])
def test_a_fault_of_the_program_shows_its_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Whatever its class: only what a user can cause is dressed as one line."""

    def broken(*_: object) -> None:
        raise error("a fault in the program")

    monkeypatch.setattr("vq_core.runs.finding.finished", broken)
    result = call(folder, "sample", *TINY)
    assert result.exit_code == 70 and "\nError: " not in result.output
    assert f"{error.__name__}: " in result.output and result.output.endswith("'python -m vq_core doctor' says\n")


@pytest.mark.parametrize("setting", ["model.num_code=4", "data.avatars=999"])
def test_debug_shows_the_traceback_of_every_error(folder: Path, setting: str) -> None:
    """Of a mistake in the settings, and of images that are missing."""
    plain, debug = (call(folder / "empty", "sample", setting, *more) for more in ((), ("--debug",)))
    assert plain.output and isinstance(plain.exception, SystemExit)
    assert isinstance(debug.exception, UserError)


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_a_stop_is_no_error_and_says_how_to_resume(
    folder: Path, monkeypatch: pytest.MonkeyPatch, debug: tuple[str, ...]
) -> None:
    def stopped(*_: object) -> None:
        raise Stopped("phase1-x stopped at step 3 of 10; run it again to resume", together=False)

    monkeypatch.setattr("vq_core.runs.finding.finished", stopped)
    result = call(folder, "sample", *TINY, *debug)
    assert result.exit_code == 130 and result.output.strip().endswith("run it again to resume")


def test_the_version_is_told() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0 and result.output.strip() == f"vq_core, version {vq_core.__version__}"


def test_a_console_of_few_letters_shows_what_it_can(tmp_path: Path) -> None:
    environment = os.environ | {"VQ_DATA": str(tmp_path / "画"), "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "vq_core", "compare", "--profile", "smoke"]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=Path(vq_core.__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert b"no finished runs in" in done.stdout and b"?" in done.stdout
