"""The README's tour, as it stands there, with the model that comes with the package."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "README_zh.md"]


def tour(readme: Path) -> str:
    (found,) = re.findall(
        r"```python\n(import vq_core\n.*?tour\.png.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL
    )
    return found


def test_both_readmes_have_the_same_tour() -> None:
    assert tour(READMES[0]) == tour(READMES[1]) and tour(READMES[0]).count("\n") <= 21


@pytest.mark.slow
def test_the_tour_draws_its_picture(tmp_path: Path) -> None:
    environment = os.environ | {"VQ_DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", tour(READMES[0])], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tensor([[") and not (tmp_path / "data").exists()
    with Image.open(tmp_path / "tour.png") as made, Image.open(ROOT / "notebooks/pictures/tour.png") as shown:
        assert made.size == shown.size


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_pictures_and_files_that_are_linked_are_there(readme: Path) -> None:
    linked = re.findall(r"\]\(([\w./-]+?)(?:#[\w-]+)?\)", readme.read_text(encoding="utf-8"))
    assert len(linked) > 20 and not [link for link in linked if not (ROOT / link).exists()]
