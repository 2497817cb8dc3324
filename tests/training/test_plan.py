"""What trainings will take is told before they begin, and again after a hundred steps; it changes no result."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import lightning as L
import pytest
import torch
from disturbances import assert_same_end
from small_runs import FROM_SCRATCH, fresh_copy, settings, the_run

from vq_core.config import load_config
from vq_core.training import phases, plan
from vq_core.training.autoencoder import AutoencoderTraining
from vq_core.training.phases import train
from vq_core.training.prior import PriorTraining


def test_it_is_a_step_times_the_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    each = {"kmeans": 1.0, "phase1": 2.0, "phase2": 3.0, "prior": 5.0, "masked": 7.0}
    monkeypatch.setattr(plan, "_step", lambda module: (each[module.phase], 1e9 * each[module.phase]))
    config = settings("prior.steps=12")
    seconds, line = plan.plan(config)
    assert seconds == {"kmeans": 4.0, "phase1": 20.0, "phase2": 30.0, "prior": 60.0, "masked": 84.0}
    assert "3.3 min of training (kmeans 4 s, phase1 20 s, phase2 30 s, prior 1.0 min, masked 1.4 min)" in line
    later, _ = plan.plan(config, "prior")
    assert later == {"prior": 60.0, "masked": 84.0}


def test_what_is_kept_for_the_backward_pass_is_what_the_profiler_sees() -> None:
    """Of a whole batch, though fewer images are tried; saved tensors are most of what a forward pass leaves behind."""
    config = settings("train.batch_size=16", "train.precision=32-true")
    module = AutoencoderTraining(config, "phase1")
    x = torch.rand(16, 3, 32, 32) * 2 - 1
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        out = module.vqvae.reconstruct(x)
        loss = module.weighted(module.autoencoder_terms(x, out))
    left = sum(event.self_cpu_memory_usage for event in profiler.key_averages())  # allocated and not yet freed
    assert loss.item() > 0
    assert plan._step(module)[1] == pytest.approx(left + 16 * sum(p.numel() for p in module.parameters()), rel=0.25)


def test_the_disk_space_is_that_of_the_checkpoints(place: Path) -> None:
    config = settings(*FROM_SCRATCH)
    before = AutoencoderTraining(config, "phase1").checkpoint_bytes
    run = train("phase1", config)
    written = sum(path.stat().st_size for path in (run.folder / "checkpoints").iterdir())
    weights = sum(w.numel() * w.element_size() for w in AutoencoderTraining(config, "phase1").state_dict().values())
    assert len(list((run.folder / "checkpoints").iterdir())) == 3  # last, best, one to keep
    assert before == pytest.approx(9 * weights, rel=0.01) and written < 1.3 * before


def test_it_follows_the_way_that_the_settings_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_step", lambda module: (1.0, 1e9))
    assert [*plan.plan(settings(*FROM_SCRATCH))[0]] == ["phase2", "prior", "masked"]
    assert [*plan.plan(settings("quantizer.init=kaiming"), "phase1")[0]] == ["phase1", "phase2", "prior", "masked"]
    older = settings("masked.network=bidirectional")  # which is no longer trained; its causal prior is
    assert [*plan.plan(older, "prior")[0]] == ["prior"]


def test_each_process_has_its_part_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(PriorTraining, "bits_per_token", lambda self, codes, _: seen.append(len(codes)) or ones(codes))
    for words in ((), ("train.devices=4",)):
        plan._step(PriorTraining(settings("prior.batch_size=8", *words), "prior"))
    assert seen == [4] * 3 + [2] * 3  # at most four are tried on a CPU


def ones(codes: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(codes), requires_grad=True)


def test_what_cannot_be_tried_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(plan, "_step", lambda module: pytest.fail("tried"))
    seconds, line = plan.plan(settings("loss.perceptual=1", "loss.perceptual_net=squeeze"))
    assert not seconds and "is not known before squeezenet1_1-b8a52dc0.pth is downloaded" in line
    seconds, line = plan.plan(load_config("full", ["train.device=cpu", "loss.perceptual=0"]))
    assert not seconds and "weeks without a GPU" in line
    monkeypatch.setattr(plan, "_step", lambda module: (1.0, 1e9))
    assert plan.plan(settings("loss.perceptual=1", "loss.perceptual_net=random"))[0]  # which needs no file


def test_what_does_not_fit_into_the_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(module: Any) -> tuple[float, float]:
        if module.phase == "phase2":
            raise torch.cuda.OutOfMemoryError
        return 1.0, 1e9

    monkeypatch.setattr(plan, "_step", step)
    seconds, line = plan.plan(settings())
    assert "phase2" not in seconds and "phase1 10 s, phase2 does not fit into the GPU's memory, prior 10 s" in line


@pytest.mark.slow
def test_it_changes_no_result(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    config = settings("quantizer.init=kaiming", "phase1.steps=104", "train.val_every=52")
    with_it = fresh_copy(prepared, tmp_path / "with", monkeypatch)
    train("phase1", config)
    told = capsys.readouterr().out
    assert "expected here: " in told and "GB of disk for checkpoints" in told and "after 100 steps: " in told
    without = fresh_copy(prepared, tmp_path / "without", monkeypatch)
    monkeypatch.setattr(phases, "plan", lambda *_: ({}, ""))
    train("phase1", config)
    assert "after 100 steps" not in capsys.readouterr().out
    assert_same_end(the_run(with_it, "phase1"), the_run(without, "phase1"), steps=104)


def test_the_correction_scales_all_that_is_left(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    correction, now = plan.Correction(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    position = SimpleNamespace(steps_done=0, between_steps=True, total_steps=1000)
    module = SimpleNamespace(position=position, phase="phase2", expected={"phase2": 1000.0, "prior": 600.0})
    for step in range(1, 200):  # the first ten steps take a minute each: something is compiled
        now[0] += 60.0 if step <= 10 else 0.5
        position.steps_done = step
        correction.on_train_batch_end(Mock(spec=L.Trainer), module)
    out = capsys.readouterr().out
    assert out == "after 100 steps: 12.5 min of training left, 0.5 times what was expected\n"  # 450 s and 300 s


@pytest.mark.parametrize(
    ("seconds", "words"), [(5.0, "5 s"), (294.0, "4.9 min"), (5400.0, "1.5 h"), (260_000.0, "3.0 days")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert plan.in_words(seconds) == words
