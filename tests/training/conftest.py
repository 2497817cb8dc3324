"""Images for the small trainings."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_runs import fresh_copy, settings

from vq_core.data.datamodule import prepare_images


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors are tiny here: several threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the packed images and nothing else."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQ_DATA", str(folder))
        prepare_images(settings(), progress=False)
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own: images, no runs."""
    return fresh_copy(prepared, tmp_path / "data", monkeypatch)
