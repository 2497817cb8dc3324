"""Codes extracted once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import fresh_copy, settings, the_run

from vq_core.data.images import images_of, packed_images
from vq_core.errors import RunError
from vq_core.models import VQVAE
from vq_core.runs import codes
from vq_core.runs.codes import extract_codes
from vq_core.runs.loading import load_vqvae


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


def test_views_are_the_image_its_mirror_image_and_random_versions(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fresh_copy(story, tmp_path / "data", monkeypatch)
    run, packed, config = the_run(data, "phase2"), packed_images(settings()), settings()
    views = [extract_codes(run, config, view) for view in range(4)]
    x = images_of(packed, list(range(len(packed.images))))
    with torch.no_grad():
        assert np.array_equal(load_vqvae(run).encode(x), views[0])
        assert np.array_equal(load_vqvae(run).encode(x.flip(-1)), views[1])
    for one, other in ((0, 2), (2, 3)):
        assert 0.05 < (views[one] != views[other]).mean() < 1  # alike, but not equal
    (run.folder / "codes-view3.npy").unlink()
    assert np.array_equal(extract_codes(run, config, 3), views[3])  # the same again


@pytest.mark.parametrize("view", [0, 1, 2])
def test_an_extraction_that_was_stopped_goes_on(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: int
) -> None:
    """In parts of two batches of eight images; what was computed is not computed again, and all is as in one go."""
    run = the_run(fresh_copy(story, tmp_path / "data", monkeypatch), "phase2")
    monkeypatch.setattr(codes, "_BATCH", 8)
    monkeypatch.setattr(codes, "_PART", 2)
    encode, calls = VQVAE.encode, list[int]()

    def counted(self: VQVAE, x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(self, x)

    monkeypatch.setattr(VQVAE, "encode", counted)
    for file in run.folder.glob("codes*"):
        file.unlink()
    with pytest.raises(KeyboardInterrupt):
        extract_codes(run, settings(), view)
    (parts,) = run.folder.glob("codes*.parts")
    assert [path.name for path in parts.iterdir()] == ["000000.npy"]
    found = extract_codes(run, settings(), view)
    whole = -(-len(found) // 8)
    assert len(calls) == 4 + whole - 2  # the two of the first part are not encoded again
    assert not parts.exists()
    next(run.folder.glob("codes*.npy")).unlink()
    assert np.array_equal(extract_codes(run, settings(), view), found)
