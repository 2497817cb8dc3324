"""Two processes (gloo) that train together against one on the union batch; each with a limit of time."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SETTINGS, fresh_copy, settings, the_run

from vq_core.runs.checkpoints import load_checkpoint
from vq_core.runs.folders import PHASES
from vq_core.training.phases import train

pytestmark = pytest.mark.slow

# Dropout masks are each process's own; Muon rounds to bf16, where a gradient's last bit shows, so it hardly moves here.
# The GAN, LeCam, its augmentation, accumulation and resets are all at work.
TOGETHER = (
    "prior.dropout=0",
    "prior.muon_lr=1.0e-9",
    "loss.gan_start=6",
    "discriminator.lecam=0.1",
    "discriminator.augment=true",
    "train.accumulate=2",
    "quantizer.reset_below=0.7",
    "phase1.steps=8",
    "phase2.steps=8",
    "prior.steps=8",
    "train.log_every=1",
)
SCRIPT = Path(__file__).with_name("train_all.py")
LIMIT = 240


def environment(data: Path) -> dict[str, str]:
    rest = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")}
    return rest | {"VQ_DATA": str(data), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}


def close(a: Any, b: Any, tolerance: float) -> dict[str, float]:
    """Tensors that differ by more than the tolerance, with the largest difference."""
    apart = {name: float((value.double() - b[name].double()).abs().max()) for name, value in a.items() if value.numel()}
    return {name: value for name, value in apart.items() if value > tolerance * max(1.0, float(a[name].abs().max()))}


def in_two(data: Path, how: str, *changes: str) -> None:
    """Train all phases in two processes: two devices that Lightning starts, or two nodes that torchrun starts."""
    commands = [[sys.executable, str(SCRIPT), *changes, "train.devices=2"]]
    if how == "nodes":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        torchrun += ["--master-addr=127.0.0.1", f"--master-port={port}"]
        commands = [[*torchrun, f"--node-rank={n}", str(SCRIPT), *changes, "train.num_nodes=2"] for n in (0, 1)]
    streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [subprocess.Popen(command, env=environment(data), **streams) for command in commands]
    try:
        for process in started:
            said, _ = process.communicate(timeout=LIMIT)
            assert process.returncode == 0, said[-3000:]
    finally:
        for process in started:
            process.kill()


@pytest.mark.parametrize("how", ["devices", "nodes"])
def test_two_processes_train_as_one(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    alone = fresh_copy(prepared, tmp_path / "alone", monkeypatch)
    shutil.copytree(alone, tmp_path / "two")
    for phase in PHASES:
        train(phase, settings(*TOGETHER))
    in_two(tmp_path / "two", how, *TOGETHER)
    for phase in PHASES:
        one, two = the_run(alone, phase), the_run(tmp_path / "two", phase)
        a, b = load_checkpoint(one.last, (phase,)), load_checkpoint(two.last, (phase,))
        assert len(b["rng"]) == 2 and len(a["rng"]) == 1
        assert close(a["model"], b["model"], 1e-5) == {}
        if phase not in ("prior", "masked"):
            codebooks = [state["model"]["vqvae.quantizer.codebook"] for state in (a, b)]
            torch.testing.assert_close(codebooks[0], codebooks[1], atol=1e-6, rtol=0)
        for name in (
            ("train/bits", "val/bits") if phase in ("prior", "masked") else ("train/rec", "val/rec", "val/psnr")
        ):
            torch.testing.assert_close(*(torch.from_numpy(run.curve(name)[1]) for run in (one, two)), atol=1e-4, rtol=0)
        assert one.curve("train/codes_reset")[1].tolist() == two.curve("train/codes_reset")[1].tolist()
        # All ranks say what they hold at the end: bit for bit the same.
        held = [torch.load(tmp_path / "two" / f"{phase}-rank{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert held[0].keys() == held[1].keys() and all(torch.equal(held[0][name], held[1][name]) for name in held[0])
    assert the_run(alone, "phase1").curve("train/codes_reset")[1].sum() > 0
    assert [p.name for p in tmp_path.glob("two/**/*.part*")] == []


def test_ranks_agree_to_the_bit_with_muon_at_work(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_copy(prepared, tmp_path / "two", monkeypatch)
    short = ("kmeans.steps=2", "phase1.steps=2", "phase2.steps=2", "prior.steps=4", "train.devices=2")
    short += ("loss.gan_start=3",)
    command = [sys.executable, str(SCRIPT), *short]
    done = subprocess.run(command, env=environment(tmp_path / "two"), timeout=LIMIT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for phase in ("prior", "masked"):
        held = [torch.load(tmp_path / "two" / f"{phase}-rank{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert all(torch.equal(held[0][name], held[1][name]) for name in held[0])


def test_a_signal_to_one_process_stops_both_and_one_can_go_on(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fresh_copy(prepared, tmp_path / "data", monkeypatch)
    long = ("quantizer.init=kaiming", "phase1.steps=400", "train.val_every=400", "train.log_every=1")
    command = [sys.executable, "-m", "vq_core", "train", "phase1", "--profile", "smoke", *SETTINGS, *long]
    started = subprocess.Popen(
        [*command, "train.devices=2"], env=environment(data), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and started.poll() is None:
            if [row for folder in data.glob("runs/*") for row in the_run(data, "phase1").history() if folder]:
                break
            time.sleep(0.2)
        started.send_signal(signal.SIGTERM)  # to the first process alone
        said = started.communicate(timeout=LIMIT)[1]
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 130 and "run it again to resume" in said and "Traceback" not in said
    while subprocess.run(["pgrep", "-g", str(started.pid)], capture_output=True).stdout and time.monotonic() < deadline:
        time.sleep(0.2)
    assert time.monotonic() < deadline  # nobody is left
    stopped = load_checkpoint(the_run(data, "phase1").last, ("phase1",))["steps_done"]
    assert 0 < stopped < 400
    run = train("phase1", settings(*long))  # in one process, in the same folder
    assert run.result()["steps"] == 400 and run.curve("train/rec")[0].tolist() == list(range(1, 401))
