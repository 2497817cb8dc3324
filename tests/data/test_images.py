"""Which images are meant."""

from pathlib import Path

import pytest

from vq_core.config import load_config
from vq_core.data.images import image_source


def test_what_nobody_meant_as_a_picture_is_no_source_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQ_DATA", str(tmp_path))
    auto = load_config("smoke", ["data.source=auto"])
    assert image_source(auto) == "avatars"  # no folder at all
    (tmp_path / "raw" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "raw" / ".ipynb_checkpoints" / "a.png").touch()
    (tmp_path / "raw" / "labels.csv").touch()
    assert image_source(auto) == "avatars"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "raw" / "mine").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert image_source(auto) == "raw"  # for ingest to say that it does not follow links
