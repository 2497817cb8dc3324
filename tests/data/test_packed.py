"""Packed images that are damaged or of another version."""

from pathlib import Path

import pytest
from ingested import fill, run, same

from vq_core.data.packed import load_packed
from vq_core.errors import DataError
from vq_core.settings import DataConfig


@pytest.mark.parametrize("name", ["images.npy", "manifest.csv", "meta.json"])
def test_a_damaged_result_is_refused_and_made_anew(raw: Path, config: DataConfig, name: str) -> None:
    fill(raw, range(4))
    path = run(raw, config).folder / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="00_data_prep") as caught:
        load_packed(path.parent)
    assert "\n" not in str(caught.value)
    assert same(run(raw, config), run(raw, config, "scratch"))


def test_what_another_version_has_packed_is_packed_again(raw: Path, config: DataConfig) -> None:
    fill(raw, range(4))
    packed = run(raw, config)
    meta = packed.folder / "meta.json"
    meta.write_text(meta.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(DataError, match="prepared by another version; run notebook 00_data_prep again"):
        load_packed(packed.folder)
    assert same(run(raw, config), packed)
