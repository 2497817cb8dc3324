"""Checkpoints: damaged, hostile, foreign, of another format; and disks that are full."""

import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import FROM_SCRATCH, settings, the_run

from vq_core.errors import CheckpointError, RunError
from vq_core.runs.checkpoints import FORMAT, load_checkpoint, save_checkpoint
from vq_core.runs.loading import load_prior, load_vqvae
from vq_core.training.phases import train


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save({"phase": "phase1", "model": Payload(tmp_path / "one")}, tmp_path / "zip.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps({"phase": "phase1", "model": Payload(tmp_path / "two")}))
    for name in ("zip.ckpt", "plain.ckpt"):
        with pytest.raises(CheckpointError, match=f"{name}: is not a readable checkpoint"):
            load_vqvae(tmp_path / name)
    assert not (tmp_path / "one").exists() and not (tmp_path / "two").exists()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["empty", "half", "garbage"])
def test_a_damaged_checkpoint_is_named(story: Path, tmp_path: Path, damage: str) -> None:
    whole = the_run(story, "phase1").best.read_bytes()
    path = tmp_path / "best.ckpt"
    path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "garbage": b"no checkpoint at all" * 99}[damage])
    with pytest.raises(CheckpointError, match=r"best\.ckpt: is not a readable checkpoint") as caught:
        load_vqvae(path)
    assert "\n" not in str(caught.value)


def test_another_kind_of_checkpoint_is_named(story: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds 'prior', but kmeans or phase1 or phase2 is needed"):
        load_vqvae(the_run(story, "prior"))
    with pytest.raises(CheckpointError, match="holds 'phase2', but prior or masked is needed"):
        load_prior(the_run(story, "phase2").best)
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match="holds 'list'"):
        load_prior(tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match=r"none\.ckpt: no such checkpoint"):
        load_prior(tmp_path / "none.ckpt")
    with pytest.raises(RunError, match="is neither a finished run nor an export"):
        load_vqvae(tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"format": 2, "phase": "phase1", "value": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # writing beyond it fails as on a full disk
    try:
        with pytest.raises(CheckpointError, match=r"last\.ckpt: cannot be written .*; the previous checkpoint is kept"):
            save_checkpoint(path, {"format": 2, "phase": "phase1", "value": 2, "big": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path, ("phase1",))["value"] == 1 and [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


KILLED = """
import resource, signal, sys
from pathlib import Path
from types import SimpleNamespace
import torch
from vq_core.runs.checkpoints import save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the write that goes beyond kills the process
save_checkpoint(Path(sys.argv[1]), {"format": 2, "phase": "phase1", "value": 2, "big": torch.zeros(100_000)})
"""


@pytest.mark.slow
def test_killed_while_saving(tmp_path: Path) -> None:
    """A process that dies at once, half-way through the file, leaves the old one under the final name."""
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"format": 2, "phase": "phase1", "value": 1})
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=120).returncode == -signal.SIGXFSZ
    assert load_checkpoint(path, ("phase1",))["value"] == 1
    save_checkpoint(path, {"format": 2, "phase": "phase1", "value": 3})
    assert load_checkpoint(path, ("phase1",))["value"] == 3


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b)


@pytest.fixture
def two_states(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for steps, name in ((4, "best"), (6, "last")):
        weights = {f"w{i}": torch.randn(50, generator=generator) for i in range(8)}
        save_checkpoint(
            tmp_path / f"{name}.ckpt", {"format": 2, "phase": "phase1", "steps_done": steps, "model": weights}
        )
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
                "best.ckpt next to it is intact (step 4): copy it over last.ckpt to use it instead"
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
    with pytest.raises(CheckpointError, match=r"wrong checksum of "):
        load_checkpoint(path, ("phase1",))
    (two_states / "best.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="there is no intact one next to it"):
        load_checkpoint(path, ("phase1",))


@pytest.mark.usefixtures("place")
def test_a_codebook_of_another_size_does_not_fit(tmp_path: Path) -> None:
    run = train("phase1", settings(*FROM_SCRATCH, "phase1.steps=4"))
    state = load_checkpoint(run.best, ("phase1",))
    for name in ("codebook", "ema_sums"):
        state["model"][f"vqvae.quantizer.{name}"] = torch.zeros(24, 8)
    save_checkpoint(run.best, state)
    with pytest.raises(
        CheckpointError, match=r"best\.ckpt: its weights do not fit: .*codebook \(\(24, 8\) there, \(16, 8\) here\)"
    ) as caught:
        load_vqvae(run)
    assert "\n" not in str(caught.value)
    del state["config"]["optim"]
    save_checkpoint(run.best, state)
    with pytest.raises(CheckpointError, match=r"best\.ckpt: does not fit this version of the workbook \(optim: "):
        load_vqvae(run)


def test_a_newer_format_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    save_checkpoint(path, {"format": FORMAT + 1, "phase": "a phase of the future", "model": {}})
    with pytest.raises(CheckpointError, match=rf"has format {FORMAT + 1}, newer than {FORMAT}; update the workbook"):
        load_checkpoint(path, ("phase1",))


def test_an_older_format_is_translated_when_it_is_read(tmp_path: Path) -> None:
    """As 6d1eaf3 wrote it, with the learning-rate plateau of the main optimiser alone."""
    model = {"encoder.w": torch.ones(1), "quantizer.codebook": torch.ones(2), "adversary.anchors": torch.ones(2)}
    old = {"kind": "phase2", "model": model | {"steps_before": torch.tensor(7)}, "optimizers": [{}, {}]}
    save_checkpoint(tmp_path / "last.ckpt", old | {"plateau": {"best": 0.5}, "steps_done": 3})
    state = load_checkpoint(tmp_path / "last.ckpt", ("phase2",))
    assert state["phase"] == "phase2" and state["format"] == FORMAT and state["steps_done"] == 3
    assert state["plateaus"] == [{"best": 0.5}, {"best": 0.5}]
    weights = {"vqvae.encoder.w", "vqvae.quantizer.codebook", "adversary.anchors", "steps_before", "gan_from"}
    assert state["model"].keys() == weights and int(state["model"]["gan_from"]) == 7
