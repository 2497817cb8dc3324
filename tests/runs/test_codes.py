"""Codes extracted once."""

from pathlib import Path

import pytest
from small_runs import fresh_copy, settings, the_run

from vq_core.errors import RunError
from vq_core.runs.codes import extract_codes

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")


def test_codes_of_other_images_than_the_runs_are_refused(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of packed images may be brought up to date under a notebook that is open."""
    data = fresh_copy(story, tmp_path / "data", monkeypatch)
    run = the_run(data, "phase2")
    (run.folder / "codes.npy").unlink()
    run.update_result({"data": "0123456789abcdef"})
    with pytest.raises(RunError, match=f"no longer holds the images that {run.name} was trained on"):
        extract_codes(run, settings())
    assert not (run.folder / "codes.npy").exists()
