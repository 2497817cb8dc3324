"""Shapes in signatures are checked in every test: a wrong one is an error. And images and runs for many tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from vq_core.data.packed import PackedImages

# Not the drawing of avatars: it has no tensors, and hands whole numbers to what is declared as float.
CHECKED = ["models", "runs", "training", "evaluation", "generation", "data.augment", "data.batches", "data.datamodule"]
install_import_hook([f"vq_core.{name}" for name in CHECKED], "beartype.beartype")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tensors are tiny in the small trainings: several threads only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> "PackedImages":
    """Sixty avatars, packed; their files are in `raw` beside it. Not to be changed."""
    from vq_core.avatars.dataset import write_avatars
    from vq_core.config import load_config
    from vq_core.data.ingest import ingest

    folder = tmp_path_factory.mktemp("packed")
    write_avatars(folder / "raw", 60, seed=0, progress=False)
    return ingest(folder / "raw", folder / "packed", load_config("smoke").data, seed=0, progress=False)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the packed images of the small runs and nothing else. Not to be changed."""
    from small_runs import settings

    from vq_core.data.images import prepare_images

    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQ_DATA", str(folder))
        prepare_images(settings(), progress=False)
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own: images, no runs."""
    from small_runs import fresh_copy

    return fresh_copy(prepared, tmp_path / "data", monkeypatch)


@pytest.fixture(scope="session")
def story(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which all trainings have been run without interruption. Not to be changed."""
    import torch
    from small_runs import settings

    from vq_core.runs.folders import PHASES
    from vq_core.training.phases import train

    folder = tmp_path_factory.mktemp("story") / "data"
    shutil.copytree(prepared / "processed", folder / "processed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # like all that is compared with it, to the last bit: whichever test asks first
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQ_DATA", str(folder))
        for phase in PHASES:
            train(phase, settings())
    torch.set_num_threads(threads)
    return folder
