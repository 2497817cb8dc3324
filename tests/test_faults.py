"""What people's machines really do: two processes at once, files that are damaged, folders that are something else."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import SETTINGS, fresh_copy, settings, the_run

from vq_core.data.images import prepare_images, processed_dir
from vq_core.data.packed import load_packed
from vq_core.errors import ConfigError, DataError, NotFiniteError, RunError
from vq_core.files import load_array, owned, save_array
from vq_core.runs.codes import extract_codes
from vq_core.runs.finding import finished
from vq_core.runs.records import markdown, table
from vq_core.training.phases import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
HOLDER = """
import sys, time
from pathlib import Path
from vq_core.files import owned
with owned(Path(sys.argv[1]), "training phase1-x", wait=False):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the lock `tmp_path / "lock"`."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdout=-1, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def both(data: Path, words: tuple[str, ...], *more: str) -> list[subprocess.CompletedProcess[str]]:
    """The same command twice at once."""
    command = [sys.executable, "-m", "vq_core", *words, *SETTINGS, *more]
    environment = os.environ | {"VQ_DATA": str(data), "VQ_PROFILE": "smoke", "OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment) for _ in range(2)]
    outputs = [process.communicate(timeout=240) for process in started]
    return [subprocess.CompletedProcess(p.args, p.returncode, *o) for p, o in zip(started, outputs, strict=True)]


# --- 31: two processes on one thing ---------------------------------------------------------------------------------


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    says = rf"process {holder.pid} on \S+ is training phase1-x, since .*: wait until it is done, or stop it"
    with pytest.raises(RunError, match=says), owned(tmp_path / "lock", "me", wait=False):
        pass
    holder.kill()
    holder.wait()
    with owned(tmp_path / "lock", "me", wait=False):
        assert "is me, since" in (tmp_path / "lock.txt").read_text()


def test_whoever_waits_says_for_whom(
    tmp_path: Path, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    end = ["sh", "-c", f"sleep 1; kill -9 {holder.pid}"]
    with subprocess.Popen(end), owned(tmp_path / "lock", "me", wait=True):
        assert f"waiting: process {holder.pid} on" in capsys.readouterr().out


def test_where_locks_do_not_work_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("vq_core.files.FileLock.acquire", none)
    for _ in range(2):
        with owned(tmp_path / "lock", "me", wait=False):
            pass
    assert capsys.readouterr().out.count("no locks here") == 1


def test_two_ingests_at_once_pack_the_images_once(tmp_path: Path) -> None:
    done = both(tmp_path, ("ingest",))
    assert [each.returncode for each in done] == [0, 0], done
    assert sum("waiting: process" in each.stdout and "preparing images" in each.stdout for each in done) == 1
    assert done[0].stdout.splitlines()[-1] == done[1].stdout.splitlines()[-1]


def test_of_two_trainings_of_a_run_the_second_is_refused(prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    done = both(data, ("train", "phase1"), "quantizer.init=kaiming", "phase1.steps=300", "train.val_every=300")
    assert sorted(each.returncode for each in done) == [0, 1], done
    (refused,) = (each for each in done if each.returncode)
    assert "is training phase1-smoke-" in refused.stderr and "Traceback" not in refused.stderr
    steps = [row["step"] for row in the_run(data, "phase1").history() if "train/total" in row]
    assert steps == sorted(set(steps)) and steps[-1] == 300


def test_of_two_warm_ups_at_once_the_second_uses_the_firsts(prepared: Path, tmp_path: Path) -> None:
    """It takes a minute and everything begins with it: the second waits."""
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    done = both(data, ("train", "kmeans"), "kmeans.steps=60")
    assert [each.returncode for each in done] == [0, 0], done
    assert sum("waiting: process" in each.stdout + each.stderr for each in done) == 1
    steps = [row["step"] for row in the_run(data, "kmeans").history() if "train/total" in row]
    assert steps == sorted(set(steps)) and the_run(data, "kmeans").done


def test_an_ingest_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on disk is whole or not there, and the end is that of an undisturbed one; forty kills with everything."""
    for number in range(300):
        image = Image.effect_noise((96, 96), 60 + number / 10)
        (tmp_path / "raw" / str(number % 7)).mkdir(parents=True, exist_ok=True)
        image.convert("RGB").save(tmp_path / "raw" / str(number % 7) / f"{number}.png")
    monkeypatch.setenv("VQ_DATA", str(tmp_path))
    command = [sys.executable, "-m", "vq_core", "ingest", "--profile", "smoke", *SETTINGS, "data.near_duplicate_bits=0"]
    config = settings("data.near_duplicate_bits=0")
    folder = processed_dir(config)
    for n in range(40 if os.environ.get("VQ_TEST_EVERYTHING") else 3):
        shutil.rmtree(folder, ignore_errors=True)
        with subprocess.Popen(command, stdout=-3, stderr=-3) as process:
            while not folder.exists() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(0.5 * random.Random(n).random())
            process.kill()
        if (folder / "meta.json").exists():
            assert not load_packed(folder).damaged()
    packed = prepare_images(config, progress=False)
    ended = packed.entries, np.array(packed.images), packed.fingerprint
    shutil.rmtree(folder)
    whole = prepare_images(config, progress=False)
    assert ended[0] == whole.entries and np.array_equal(ended[1], whole.images) and ended[2] == whole.fingerprint


# --- 32, 33: files that are not what was written --------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True])
def test_an_array_with_any_byte_changed_is_damaged(tmp_path: Path, old: bool) -> None:
    path, array = tmp_path / "codes.npy", np.arange(40, dtype=np.uint16)
    np.save(path, array) if old else save_array(path, array)
    assert np.array_equal(np.load(path), array) and np.array_equal(load_array(path), array)
    whole = path.read_bytes()
    for cut in (0, 3, 60, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(RunError, match=r"codes\.npy: is damaged"):
            load_array(path)
    for at in range(len(whole)) if not old else ():
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(RunError, match=r"codes\.npy: is damaged"):
            load_array(path)


def test_damaged_codes_are_extracted_anew(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh_copy(story, tmp_path / "data", monkeypatch)
    run = finished("phase2", settings())
    codes = extract_codes(run, settings())
    for damage in (b"", (run.folder / "codes.npy").read_bytes()[:200]):
        (run.folder / "codes.npy").write_bytes(damage)
        assert np.array_equal(extract_codes(run, settings()), codes)
        assert "codes.npy: is damaged; the codes are extracted anew" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "changed", "other shape"])
def test_a_damaged_codebook_is_named(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    data = fresh_copy(story, tmp_path / "data", monkeypatch, without="phase1")
    path = the_run(data, "kmeans").folder / "codebook.npy"
    spoil(path, damage)
    with pytest.raises(RunError, match=r"codebook\.npy: is missing or damaged; delete kmeans-.*train kmeans again"):
        train("phase1", settings())


def test_a_damaged_run_is_one_line_of_the_table(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = fresh_copy(story, tmp_path / "data", monkeypatch)
    spoil(the_run(data, "phase1").folder / "result.json", "cut")
    spoil(the_run(data, "prior").folder / "config.yaml", "empty")
    (data / "runs" / "phase2-of-somebody").mkdir()
    (data / "runs" / "phase2-of-somebody" / "result.json").write_text("{}")
    rows = {row["run"].partition("-")[0]: row for row in table() if "cannot be read" in row}
    assert set(rows) == {"phase1", "prior", "phase2"} and len(table()) == 6
    assert "result.json: is damaged; delete it, and train the phase again" in rows["phase1"]["cannot be read"]
    assert "config.yaml: is missing or damaged" in rows["prior"]["cannot be read"]
    assert len(markdown(table()).splitlines()) == 8


def test_a_missing_best_checkpoint_points_to_the_last(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fresh_copy(story, tmp_path / "data", monkeypatch, without="phase2")
    the_run(data, "phase1").best.unlink()
    with pytest.raises(RunError, match=r"best\.ckpt: no such checkpoint; .*\.ckpt next to it is intact \(step"):
        train("phase2", settings())


def test_rows_that_cannot_be_read_are_counted(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = the_run(fresh_copy(story, tmp_path / "data", monkeypatch), "phase1")
    rows = run.history()
    lines = (run.folder / "history.jsonl").read_bytes().splitlines(keepends=True)
    (run.folder / "history.jsonl").write_bytes(b"".join([lines[0], b"\xff\xfe\n", b"[1]\n", *lines[1:], b'{"step": 1']))
    assert run.history() == rows
    assert f"history.jsonl: 3 of {len(lines) + 3} rows cannot be read" in capsys.readouterr().out


def test_changed_pixels_are_noticed_and_mended(place: Path) -> None:
    config = settings("quantizer.init=kaiming")
    packed = prepare_images(config, progress=False)
    pixels, first = np.array(packed.images), packed.kept[0].file
    with (packed.folder / "images.npy").open("r+b") as file:
        file.seek(128 + 100)
        file.write(bytes(16))
    with pytest.raises(
        DataError, match=rf"images\.npy: 1 of \d+ pictures have changed .*, {first} first; run notebook 00"
    ):
        train("phase1", config)
    assert not list((place / "runs").glob("*/checkpoints"))
    if not (place / "avatars").exists():
        shutil.rmtree(place / "processed")
    assert np.array_equal(prepare_images(config, progress=False).images, pixels)
    assert train("phase1", config).done


def test_a_manifest_that_was_edited_is_noticed(place: Path) -> None:
    folder = processed_dir(settings())
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",val,", ",train,", 1))
    with pytest.raises(DataError, match=r"damaged \(manifest\.csv has changed\); delete it and run notebook 00"):
        load_packed(folder)


# --- 34: folders that are something else ----------------------------------------------------------------------------


def test_raw_that_leads_nowhere_is_never_replaced_by_avatars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQ_DATA", str(tmp_path))
    (tmp_path / "raw").symlink_to("/media/drive/faces")
    for source in ("auto", "raw"):
        with pytest.raises(DataError, match=r"raw: leads to /media/drive/faces, which is not there"):
            prepare_images(settings(f"data.source={source}"), progress=False)
    (tmp_path / "raw").unlink()
    (tmp_path / "raw").write_text("a file")
    with pytest.raises(DataError, match="raw: must be a folder of images"):
        prepare_images(settings(), progress=False)
    (tmp_path / "raw").unlink()
    Image.new("RGB", (80, 80)).save(tmp_path / "mine.JPG", format="jpeg")
    with pytest.raises(DataError, match="has images of its own, but they belong into its folder raw"):
        prepare_images(settings(), progress=False)
    assert not (tmp_path / "avatars").exists()


@pytest.mark.parametrize("what", ["", "  ", "FILE"])
def test_a_data_folder_that_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    (tmp_path / "FILE").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQ_DATA", what)
    with pytest.raises(ConfigError, match=r"VQ_DATA='.*': must be the path of a folder"):
        prepare_images(settings(), progress=False)


# --- 38: what is never finite ----------------------------------------------------------------------------------------


def test_a_learning_rate_beyond_all_bounds_is_named(place: Path) -> None:
    config = settings("quantizer.init=kaiming", "phase1.lr=1e30", "train.bad_steps=50", "optim.warmup_steps=0")
    with pytest.raises(NotFiniteError, match="lower the learning rate"):
        train("phase1", config)


def spoil(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "missing":
        return path.unlink()
    if how == "other shape":
        return save_array(path, np.zeros((3, 3), np.float32))
    changed = whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "changed": changed}[how])
