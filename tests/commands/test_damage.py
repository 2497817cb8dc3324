"""Damage to any file that a finished workbook has: every command gives a right result, or one line that names it."""

import os
import random
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from called import call
from PIL import Image
from small_runs import SETTINGS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
DAMAGES = ("missing", "empty", "cut", "changed")
COMMANDS = (
    ("reconstruct", "IMAGE"),
    ("sample", "--count", "2"),
    ("sample", "--count", "2", "--way", "masked"),
    ("interpolate", "IMAGE", "IMAGE", "--steps", "3"),
    ("edit", "IMAGE", "--vary", "0.3", "--count", "1"),
    ("evaluate",),
    ("compare",),
    ("train", "phase1"),
    ("train", "phase2", "phase2.steps=12"),
    ("train", "prior", "prior.steps=12"),
)
EVERYTHING = bool(os.environ.get("VQ_TEST_EVERYTHING"))  # every file, damage and command: half an hour


@pytest.fixture(scope="module")
def whole(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    data = tmp_path_factory.mktemp("damage") / "data"
    shutil.copytree(story, data)
    assert call(data, "ingest", *SETTINGS).exit_code == 0
    yield data


def spoiled(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    other = b"\xff" if path.suffix in (".json", ".jsonl", ".yaml", ".csv") else bytes([content[middle] ^ 1])
    wrong = content[:middle] + other + content[middle + 1 :]
    path.write_bytes({"empty": b"", "cut": content[:middle], "changed": wrong, "missing": b""}[how])
    if how == "missing":
        path.unlink()


def contents(folder: Path) -> dict[Path, str]:
    return {path: sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_every_damage_to_every_file(whole: Path) -> None:
    """Found by what is there, so that a new kind of file is in it by itself; three commands for each, by a seed."""
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and path.stat().st_size > 1)
    files = [path for path in files if path.parts[0] in ("runs", "processed")]
    kinds = {(path.parts[1].partition("-")[0], path.parent.name, path.name.split("=")[0]): path for path in files}
    assert len(kinds) > 25
    image = whole.parent / "noise.png"
    Image.effect_noise((64, 64), 80).convert("RGB").save(image)
    wrong, order = [], random.Random(0)
    for path in files if EVERYTHING else kinds.values():
        for how in DAMAGES if EVERYTHING else order.sample(DAMAGES, 2):
            for words in COMMANDS if EVERYTHING else order.sample(COMMANDS, 3):
                fault = attempt(whole, path, how, [str(image) if word == "IMAGE" else word for word in words])
                wrong += [f"{path} {how}: {' '.join(words)}: {fault}"] if fault else []
    assert not wrong, "\n\n".join(wrong)


def attempt(whole: Path, path: Path, how: str, words: list[str]) -> str:
    """What is wrong with what a command says and does when a file is damaged; nothing if all is well."""
    data = whole.parent / "attempt"
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(whole, data)
    spoiled(data / path, how)
    before = contents(data)
    more = [word for word in words if "=" in word]
    result = call(data, *(word for word in words if word not in more), *SETTINGS, *more)
    errors = [line for line in result.output.splitlines() if "Error: " in line]
    if result.exit_code not in (0, 1, 2) or "Traceback" in result.output:
        return f"status {result.exit_code}: {result.output[-1500:]}"
    if result.exit_code and not (len(errors) == 1 and any(name in errors[0] for name in (path.name, path.parts[1]))):
        return f"does not name the file: {result.output[-1500:]}"
    changed = [str(p.relative_to(data)) for p, digest in contents(data).items() if before.get(p, digest) != digest]
    mended = (path.name, *(("result.json",) if words[0] in ("evaluate", "train") else ()))
    mended += ("images.npy", "manifest.csv", "meta.json") if path.parts[0] == "processed" else ()
    touched = [name for name in changed if not (name.startswith(".locks") or name.endswith(mended))]
    return f"touched {touched}" if touched else ""
