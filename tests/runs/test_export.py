"""Exports: the same outputs without what trains, errors that name the file, and nothing that looks whole but is not."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from disturbances import Watch, differences
from PIL import Image
from small_runs import SETTINGS, settings, the_run, view

import vq_core.hub
from vq_core import load_prior, load_vqvae
from vq_core.__main__ import main
from vq_core.data.images import images_of, prepare_images
from vq_core.errors import CheckpointError
from vq_core.evaluation.report import reconstruction_metrics
from vq_core.models import VQVAE, AnyOrderTransformer, CodeTransformer
from vq_core.runs.finding import config_of, finished, load_images
from vq_core.training.phases import train

pytestmark = pytest.mark.slow

ALONE = """
import sys, torch
from vq_core.models import VQVAE, AnyOrderTransformer, CodeTransformer
folder, x, codes = sys.argv[1], *torch.load(sys.argv[2])
model, causal = VQVAE.from_pretrained(folder), CodeTransformer.from_pretrained(folder, subfolder="prior")
masked = AnyOrderTransformer.from_pretrained(folder, subfolder="masked")
with torch.no_grad():
    order = torch.arange(64).flip(0)[None].expand(len(codes), -1)
    torch.save([model.encode(x), model(x), causal(codes), masked(codes, order)], sys.argv[3])
found = {"pydantic", "vq_core.config", "vq_core.settings", "lightning", "pytorch_lightning"} & sys.modules.keys()
assert not found, found
"""


def call(data: Path, *words: Any) -> str:
    """What a command prints, or its error."""
    done = CliRunner(env={"VQ_DATA": str(data), "VQ_PROFILE": "smoke"}).invoke(main, [str(word) for word in words])
    assert "Traceback" not in done.output, done.output
    return done.output


@pytest.fixture(scope="module")
def export(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of the small runs, with priors. Not to be changed."""
    folder = tmp_path_factory.mktemp("exports") / "small avatars"
    said = call(story, "export", the_run(story, "phase2").folder, "--out", folder, "--priors")
    assert said.strip().endswith(str(folder))
    return folder


@pytest.fixture
def copy(export: Path, tmp_path: Path) -> Path:
    """One to be changed at will."""
    return Path(shutil.copytree(export, tmp_path / "copy"))


@torch.no_grad()
def test_outputs_are_bit_equal_in_a_process_without_what_trains(story: Path, export: Path, tmp_path: Path) -> None:
    model, causal, masked = (load(the_run(story, phase)) for load, phase in LOADS)
    x, codes = torch.rand(3, 3, 32, 32) * 2 - 1, torch.randint(16, (3, 64))
    order = torch.arange(64).flip(0)[None].expand(3, -1)
    torch.set_num_threads(1)
    torch.save([x, codes], tmp_path / "given.pt")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", ALONE, str(export), str(tmp_path / "given.pt"), str(tmp_path / "made.pt")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    expected = [model.encode(x), model(x), causal(codes), masked(codes, order)]
    for ours, theirs in zip(expected, torch.load(tmp_path / "made.pt"), strict=True):
        assert torch.equal(ours, theirs)


LOADS: Any = [(load_vqvae, "phase2"), (load_prior, "prior"), (load_prior, "masked")]


def test_there_is_no_pickle_and_nothing_of_this_machine(story: Path, export: Path) -> None:
    files = {path.relative_to(export).as_posix(): path for path in export.rglob("*") if path.is_file()}
    parts = {f"{part}{name}" for part in ("", "prior/", "masked/") for name in ("config.json", "model.safetensors")}
    assert parts <= files.keys() and {"README.md", "reconstructions.png", "samples-prior.png"} <= files.keys()
    assert {path.suffix for path in files.values()} == {".json", ".safetensors", ".md", ".png"}
    text = "".join(files[name].read_text() for name in files if name.endswith((".json", ".md")))
    assert str(story) not in text and str(Path.home()) not in text
    card = files["README.md"].read_text()
    assert card.startswith("---\n") and "license: other" in card and "To be filled in by who shares this" in card
    told = the_run(story, "phase2").result()
    assert f"On {told['packed_images']} images" in card and "10 steps" in card
    if "psnr" in told:
        assert f"| psnr | {told['psnr']:.4g} ± " in card


def test_commands_take_one_and_write_elsewhere(export: Path, story: Path, tmp_path: Path) -> None:
    data, before = tmp_path / "friend", sorted(export.rglob("*"))
    image = next((story / "processed").glob("*/images.npy"))
    picture = tmp_path / "me.png"
    Image.fromarray(np.load(image)[0]).save(picture)
    for words in (["reconstruct", picture], ["edit", picture, "--regenerate"], ["edit", picture, "--vary", "0.5"]):
        made = Path(re.findall(re.escape(str(data)) + r".*\.png", call(data, *words, "--run", export))[-1])
        assert made.is_file() and made.is_relative_to(data / "exports")
    said = call(data, "sample", "--run", export, "--count", 2)
    assert "not compared with training images" in said and (data / "exports").is_dir()
    assert len(list((data / "exports").rglob("00*.npy"))) == 2
    assert "no prepared images; run notebook 00" in call(data, "evaluate", "--run", export)
    assert sorted(export.rglob("*")) == before
    # On a friend's own images: figures of the same network, told and not kept; samples are not compared with them.
    call(data, "ingest", *SETTINGS, "seed=1", "data.avatars=50")
    assert "this export has no phase1" in call(data, "reconstruct", picture, "--phase", "phase1", "--run", export)


def test_it_is_evaluated_on_ones_own_images(story: Path, export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQ_DATA", str(story))
    config = config_of(str(export))
    packed = load_images(config)
    assert packed.fingerprint == the_run(story, "phase2").result()["data"]
    ours = reconstruction_metrics(load_vqvae(finished("phase2", config)), packed)
    assert ours == reconstruction_metrics(load_vqvae(the_run(story, "phase2")), packed)
    assert f"psnr: {ours['psnr']:.4f}" in call(story, "evaluate", "--run", export)
    assert "fraction nearer to a training image" in call(story, "sample", "--run", export, "--count", 2)


def test_training_begins_from_one(story: Path, export: Path, place: Path) -> None:
    first = Watch(lambda module: {name: value.clone() for name, value in module.vqvae.state_dict().items()})
    run = train("phase1", settings(f"phase1.start_from={export}"), view(first))
    assert differences(first.seen[0], load_vqvae(the_run(story, "phase2")).state_dict()) == []
    assert run.result()["start_from"] == export.name and run.result()["parent"] is None


def test_half_precision_costs_next_to_nothing(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQ_DATA", str(story))
    run = the_run(story, "phase2")
    call(story, "export", run.folder, "--out", tmp_path / "half", "--half", "--licence", "mit")
    assert "license: mit" in (tmp_path / "half/README.md").read_text() and not (tmp_path / "half/prior").exists()
    half = load_vqvae(tmp_path / "half")
    assert {weight.dtype for weight in half.parameters()} == {torch.float32}
    whole = reconstruction_metrics(load_vqvae(run), packed := load_images(config_of(run.name)))
    assert reconstruction_metrics(half, packed)["psnr"] == pytest.approx(whole["psnr"], abs=0.02)


def spoil(folder: Path, how: str) -> str:
    """Damage an export; returns the file that the error must name."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    stored = json.loads(config.read_text())
    if how in ("cut", "other bytes", "gone"):
        content = weights.read_bytes()
        weights.unlink() if how == "gone" else weights.write_bytes(content[:-9] if how == "cut" else b"x" * 99)
        return "model.safetensors"
    changes: dict[str, Any] = {"newer": {"format": 99}, "foreign": {"model_type": "bert"}, "another": {"class": "GPT"}}
    changes["other size"] = {"size": stored["size"] | {"num_codes": 8}}
    stored = changes[how] if how == "foreign" else stored | changes.get(how, {})
    config.write_text("{" if how == "no JSON" else json.dumps(stored))
    return "model.safetensors" if how == "other size" else "config.json"


@pytest.mark.parametrize("how", ["cut", "other bytes", "gone", "newer", "foreign", "another", "other size", "no JSON"])
def test_a_damaged_foreign_or_newer_one_is_named(copy: Path, how: str) -> None:
    file = spoil(copy, how)
    says = {"newer": "newer than 1; update the workbook", "another": "holds a GPT, but VQVAE is needed"}.get(how, "")
    with pytest.raises(CheckpointError, match=rf"{file}: .*{says}"):
        VQVAE.from_pretrained(copy)
    said = call(copy.parent / "data", "reconstruct", __file__, "--run", copy)
    assert said.startswith("Error: ") and file in said


def test_a_prior_of_another_kind_is_named(export: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a AnyOrderTransformer, but CodeTransformer is needed"):
        CodeTransformer.from_pretrained(export / "masked")
    assert type(load_prior(export / "masked")) is AnyOrderTransformer
    with pytest.raises(CheckpointError, match="nobody/nothing: neither a folder nor to be had from the Hub"):
        VQVAE.from_pretrained("nobody/nothing", local_files_only=True)


def test_it_goes_to_the_hub_and_comes_back(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the Hub's two requests replaced by a folder."""
    remote = tmp_path / "remote"

    def upload(self: Any, *, folder_path: Path, **_: Any) -> str:
        return str(shutil.copytree(folder_path, remote))

    repository = type("Repository", (), {"repo_id": "me/avatars"})
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda *_, **__: repository)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    monkeypatch.setattr(vq_core.hub, "snapshot_download", lambda name, **_: remote)
    model = VQVAE.from_pretrained(export)
    model.push_to_hub("me/avatars")
    assert differences(VQVAE.from_pretrained("me/avatars").state_dict(), model.state_dict()) == []


def test_killed_in_the_middle_it_leaves_nothing_that_looks_whole(story: Path, tmp_path: Path) -> None:
    out, command = tmp_path / "made", [sys.executable, "-m", "vq_core", "export", str(the_run(story, "phase2").folder)]
    environment = os.environ | {"VQ_DATA": str(story), "VQ_PROFILE": "smoke", "OMP_NUM_THREADS": "1"}
    for written in ("prior/config.json", "masked", "reconstructions.png"):
        with subprocess.Popen([*command, "--out", str(out), "--priors"], env=environment, stdout=-1, stderr=-1) as p:
            until = time.monotonic() + 60
            while not [*tmp_path.glob(f".made.*.part/{written}")] and time.monotonic() < until and p.poll() is None:
                time.sleep(0.001)
            p.send_signal(signal.SIGKILL)
        assert not out.exists() or load_vqvae(out)  # not there or, if it was done before the signal, whole
        shutil.rmtree(out, ignore_errors=True)
    assert "made" in call(story, "export", the_run(story, "phase2").folder, "--out", out)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]  # what was left is cleared away
    assert "is there already" in call(story, "export", the_run(story, "phase2").folder, "--out", out)


@torch.no_grad()
def test_onnx_computes_the_same(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.setenv("VQ_DATA", str(story))
    run, folder = the_run(story, "phase2"), tmp_path / "onnx"
    call(story, "export", run.folder, "--out", folder, "--onnx")
    model, packed = load_vqvae(run), prepare_images(settings(), progress=False)
    x = images_of(packed, np.arange(len(packed.images)))
    encoder, decoder = (ort.InferenceSession(folder / f"{name}.onnx") for name in ("encoder", "decoder"))
    (codes,) = encoder.run(None, {encoder.get_inputs()[0].name: x.numpy()})
    assert (codes == model.encode(x).numpy()).mean() >= 0.999
    (images,) = decoder.run(None, {decoder.get_inputs()[0].name: codes})
    assert np.abs(images - model.decode(torch.from_numpy(codes)).numpy()).max() <= 1e-4


def test_what_cannot_be_exported_says_so(story: Path, tmp_path: Path) -> None:
    assert "name a run of Phase 1 or 2" in call(
        story, "export", the_run(story, "prior").folder, "--out", tmp_path / "x"
    )
    assert "neither a finished run nor an export" in call(story, "export", "none", "--out", tmp_path / "x")
    said = call(story, "export", the_run(story, "phase1").folder, "--out", tmp_path / "x", "--priors")
    assert "has no finished prior" in said and not (tmp_path / "x").exists()
