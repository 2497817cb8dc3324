"""Compiled networks compute what they compute as they are; checkpoints of both are the same."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from disturbances import Crash, CrashAfterStep
from small_runs import FROM_SCRATCH, fresh_copy, settings, view
from torch import nn

from vq_core import machine
from vq_core.errors import ConfigError
from vq_core.machine import compiles
from vq_core.models import CodeTransformer
from vq_core.runs.checkpoints import load_checkpoint
from vq_core.runs.folders import Run
from vq_core.training.phases import train

# All of Phase 2 that differentiates in unusual ways.
UNUSUAL = (*FROM_SCRATCH, "loss.gan_start=3", "loss.gan_adaptive=1", "discriminator.gradient_penalty=0.1")
PERCEPTUAL = (*FROM_SCRATCH, "loss.gan_start=3", "loss.perceptual=0.5")


@pytest.fixture
def compiled_parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of networks that are compiled: by the compiler without its last stage, which takes minutes."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the checks of shapes would be compiled too
    monkeypatch.setattr("vq_core.machine._fails_to_compile", lambda device: "")
    parts: list[str] = []
    compile_module = nn.Module.compile

    def fast(module: nn.Module, dynamic: bool, **how: Any) -> None:
        parts.append(type(module).__name__)
        backend = "eager" if isinstance(module, CodeTransformer) else "aot_eager"  # which cannot trace its attention
        compile_module(module, backend=backend, dynamic=dynamic)

    monkeypatch.setattr(nn.Module, "compile", fast)
    return parts


def assert_alike(run: Run, other: Run) -> None:
    here, there = (load_checkpoint(each.last, (each.phase,))["model"] for each in (run, other))
    assert list(here) == list(there)
    assert not any("_orig_mod" in name for name in here)
    for name, value in here.items():
        torch.testing.assert_close(value, there[name], rtol=2e-3, atol=2e-4)
    assert run.history()[-1] == pytest.approx(other.history()[-1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "phase, more, parts",
    [
        ("phase2", UNUSUAL, {"Encoder", "Decoder"}),
        ("phase2", PERCEPTUAL, {"Encoder", "Decoder", "PerceptualLoss", "PatchDiscriminator"}),
        ("prior", (), {"CodeTransformer"}),
        ("masked", (), {"AnyOrderTransformer"}),
    ],
)
def test_compiled_or_not_and_resumed_either_way_a_training_ends_alike(
    story: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled_parts: list[str],
    phase: Any,
    more: Any,
    parts: Any,
) -> None:
    fresh_copy(story, tmp_path / "eager", monkeypatch, without=phase)
    eager = train(phase, settings(*more))
    assert not compiled_parts
    fresh_copy(story, tmp_path / "both", monkeypatch, without=phase)
    for last_step, compiled in ((4, True), (8, False)):
        with pytest.raises(Crash):
            train(phase, settings(*more, f"train.compile={compiled}"), view(CrashAfterStep(last_step)))
    assert set(compiled_parts) == parts
    both = train(phase, settings(*more, "train.compile=true"))
    assert both.name == eager.name
    assert_alike(both, eager)


def test_what_compile_means_on_each_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not compiles(settings()) and not compiles(settings("train.compile=false"))
    machine.tell_once.cache_clear()
    monkeypatch.setattr("vq_core.machine.pick_device", lambda config: torch.device("cuda"))
    for why, works in (("", True), ("Cannot find a working triton installation", False)):
        monkeypatch.setattr("vq_core.machine._fails_to_compile", lambda device, why=why: why)
        assert compiles(settings()) == compiles(settings(), 1000) == works
        assert not compiles(settings(), 999)  # compiling takes longer than so few steps
        assert not compiles(settings("train.compile=false"))
    assert (
        capsys.readouterr().out.count("training without torch.compile, which is slower: it does not work here (Can")
        == 1
    )
    with pytest.raises(ConfigError, match=r"train.compile=true: torch.compile does not work here \(Cannot find"):
        compiles(settings("train.compile=true"))


@pytest.mark.slow
def test_a_compiler_that_is_not_there_is_named(tmp_path: Path) -> None:
    script = "from vq_core.config import load_config; from vq_core.machine import compiles;"
    script += "print(compiles(load_config('smoke', ['train.compile=true'])))"
    for compiler, said in ((None, "True"), (str(tmp_path / "no-compiler"), "ConfigError: train.compile=true: ")):
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / f"{compiler is None}")}
        environment |= {"CXX": compiler} if compiler else {}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        assert said in done.stdout + done.stderr
