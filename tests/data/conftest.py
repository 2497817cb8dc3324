"""For the tests of ingest."""

from pathlib import Path

import pytest
from ingested import SIZE

from vq_core.config import load_config
from vq_core.data import ingest as ingest_module
from vq_core.data.decode import Picture
from vq_core.settings import DataConfig


@pytest.fixture
def config() -> DataConfig:
    changes = {"image_size": SIZE, "min_side": 8, "near_duplicate_bits": 6, "val_share": 0.3, "max_pixels": 1_000_000}
    return load_config("smoke").data.model_copy(update=changes)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded."""
    names: list[str] = []
    original = ingest_module.load_picture

    def spy(path: Path, config: DataConfig) -> Picture:
        names.append(path.name)
        return original(path, config)

    monkeypatch.setattr(ingest_module, "load_picture", spy)
    return names
