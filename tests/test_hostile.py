"""Text and files from elsewhere are never run: names, settings, images, checkpoints."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vq_core.config import load_config
from vq_core.data.ingest import ingest
from vq_core.errors import ConfigError, RunError
from vq_core.runs.folders import open_run

CORE = Path(__file__).parents[1] / "vq_core"
NAMES = (
    "$(touch hit).png",
    "`touch hit`.png",
    "a;touch hit;.png",
    "=1+1.png",
    "<img src=x>.png",
    "-rf.png",
    "new\nline.png",
)
FUZZ = """
import io, random, resource, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
from vq_core.config import load_config
from vq_core.data.decode import FORMATS, load_picture
from vq_core.errors import UnusableImage
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
path, seconds, order = Path(sys.argv[1]), float(sys.argv[2]), random.Random(0)
config, started, tried, kept = load_config("smoke").data, time.monotonic(), 0, 0
pixels = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
whole = []
for name in FORMATS:
    for mode in ("RGB", "L"):
        stream = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(stream, name)
        whole.append(stream.getvalue())
while time.monotonic() - started < seconds:
    data = bytearray(order.choice(whole))
    for _ in range(order.choice((1, 1, 4, 30))):
        at = order.randrange(min(len(data), order.choice((64, len(data)))))
        data[at] = order.randrange(256)
    if order.random() < 0.2:
        del data[order.randrange(len(data)):]
    path.write_bytes(data)
    tried += 1
    try:
        load_picture(path, config)
        kept += 1
    except UnusableImage:
        pass
assert tried > 100 and 0 < kept < tried
print(tried, kept)
"""


def test_the_decoder_says_nothing_but_set_aside(tmp_path: Path) -> None:
    """Mutated files of every format, in a process of 3 GB; a minute of them with VQ_TEST_EVERYTHING."""
    seconds = "60" if os.environ.get("VQ_TEST_EVERYTHING") else "4"
    command = [sys.executable, "-W", "ignore", "-c", FUZZ, str(tmp_path / "image"), seconds]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]


def test_names_of_files_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    for number, name in enumerate(NAMES):
        Image.effect_noise((80, 80), 20 + 10 * number).convert("RGB").save(tmp_path / "raw" / name)
    packed = ingest(tmp_path / "raw", tmp_path / "out", load_config("smoke").data, 0, progress=False)
    assert {entry.file for entry in packed.kept} == set(NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.system ['touch hit']", "!!python/name:os.system", "$(touch hit)"]
)
def test_settings_are_only_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.num_codes"):
        load_config("smoke", [f"model.num_codes={value}"])
    (tmp_path / "mine.yaml").write_text(f"model:\n  num_codes: {value}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml|model\.num_codes"):
        load_config("mine.yaml")
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize("name", ["../../etc", "phase1-$(touch hit)", "phase1-`id`", "/dev/null", "phase1-%s%n"])
def test_names_of_runs_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQ_DATA", str(tmp_path))
    with pytest.raises(RunError, match=r"is n(ot|either) a"):
        open_run(name)
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: path.relative_to(CORE).as_posix())
def test_nothing_is_evaluated_unpickled_or_given_to_a_shell(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not {name.name for name in node.names} & {"pickle", "shelve", "dill", "subprocess"}
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert called not in ("eval", "exec", "os.system", "os.popen", "yaml.unsafe_load") and "shell" not in given
            assert called != "torch.load" or given["weights_only"] == "True"
            assert given.get("allow_pickle") != "True"
