"""Commands that use trained models: arguments that cannot be. What they draw is in `test_the_whole_way`."""

from pathlib import Path

import called
import pytest
from called import call
from small_runs import FROM_SCRATCH

pytestmark = pytest.mark.slow

TINY = [*called.TINY, *FROM_SCRATCH]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with images, a finished Phase 2 and both priors: all that is looked at here."""
    folder = tmp_path_factory.mktemp("drawing")
    for words in (["ingest"], ["train", "phase2"], ["train", "prior"], ["train", "masked"]):
        result = call(folder, *words, *TINY)
        assert result.exit_code == 0, result.output
    return folder


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["sample", "--top-k", "0"], "top_k"),
        (["sample", "--temperature", "0"], "temperature"),
        (["edit", "IMAGE"], "--copy-from"),
        (["edit", "IMAGE", "--code", "99999"], "codes are in [0, 32)"),
        (["edit", "IMAGE", "--replace", "1", "-1"], "codes are in [0, 32)"),
        (["edit", "IMAGE", "--vary", "1.5"], "vary must be in (0, 1]"),
        (["edit", "IMAGE", "--vary", "0.5", "--rows", "0:2"], "--vary takes no region"),
        (["edit", "IMAGE", "--complete"], "no transparent pixels"),
        (["edit", "IMAGE", "--code", "1", "--regenerate"], "give one of"),
        (["sample", "--way", "masked", "--passes", "0"], "passes must be"),
        (["edit", "IMAGE", "--rows", "9:3", "--code", "1"], "rows"),
        (["edit", "IMAGE", "--rows", "x", "--code", "1"], "--rows"),
        (["reconstruct", "BROKEN"], "not an image"),
    ],
)
def test_bad_arguments_are_named(folder: Path, words: list[str], named: str) -> None:
    image = next((folder / "avatars").glob("*/00000.png"))
    broken = folder / "broken.png"
    broken.write_text("no picture")
    places = {"IMAGE": str(image), "BROKEN": str(broken)}
    result = call(folder, *(places.get(word, word) for word in words), *TINY)
    assert result.exit_code != 0 and named in result.output and "Traceback" not in result.output
