"""The package as a wheel, in an environment of its own and away from the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
LOOK = """
import vq_core, sys
from pathlib import Path
from vq_core.notebook.widgets import CellPicture
from vq_core.notebook.lesson import pipeline
home = Path(vq_core.__file__).parent
assert home.is_relative_to(sys.prefix), home
assert vq_core.load_config("smoke").profile == "smoke" and pipeline(vq_core.load_config("demo")).data
assert CellPicture._esm and (home / "runs" / "card.md").is_file() and (home / "py.typed").is_file()
print(vq_core.__version__)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; what the package needs is that of this environment."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.strip("\0").split("\0"):  # a build would leave folders in the checkout
        if name.startswith(("vq_core", "pyproject", "README.md", "LICENSE")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(source)], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    made = next((folder / "venv").glob("bin/python*"))
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", str(made), "install", "--no-deps", str(wheel)], check=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    # A line of a .pth adds a folder, but not what that folder's own .pth files add: the editable install stays out.
    (packages / "needed.pth").write_text(sysconfig.get_paths()["purelib"])
    return made


def run(python: Path, here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    left = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VQ_DATA")}
    environment = left | {"VQ_PROFILE": "smoke", "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(python), *words], cwd=here, env=environment, capture_output=True, text=True, timeout=240)


def test_it_brings_all_that_it_needs(python: Path, tmp_path: Path) -> None:
    done = run(python, tmp_path, "-c", LOOK)
    assert done.returncode == 0, done.stderr


def test_data_lie_where_one_is(python: Path, tmp_path: Path) -> None:
    done = run(python, tmp_path, "-m", "vq_core", "sample", "--run", "demo-avatars", "--count", "1")
    assert done.returncode == 0, done.stderr
    (picture,) = (tmp_path / "data" / "exports").rglob("001.png")
    done = run(python, tmp_path, "-m", "vq_core", "reconstruct", str(picture), "--run", "demo-avatars")
    assert done.returncode == 0, done.stderr
    done = run(python, tmp_path, "-m", "vq_core", "ingest", "data.avatars=20")
    assert done.returncode == 0 and (tmp_path / "data" / "processed").is_dir(), done.stderr


def test_the_notebooks_are_the_checkouts(python: Path, tmp_path: Path) -> None:
    done = run(python, tmp_path, "-m", "vq_core", "workbook")
    assert done.returncode == 1 and "the notebooks are no part of the installed package" in done.stderr
