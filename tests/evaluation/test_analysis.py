"""Analysis of codes on a packed set made by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vq_core.avatars.dataset import read_attributes
from vq_core.config import load_config
from vq_core.data.augment import to_pictures
from vq_core.data.packed import PackedImages
from vq_core.errors import DataError
from vq_core.evaluation import analysis
from vq_core.runs.loading import make_vqvae


@pytest.fixture(scope="module")
def codes(packed: PackedImages) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 8, (len(packed.images), 16, 16)).astype(np.uint16)


def test_patches_hold_the_cell_that_has_the_code(packed: PackedImages, codes: np.ndarray) -> None:
    grids = codes.copy()
    grids[grids == 5] = 4
    grids[3, 7, 9] = grids[6, 0, 15] = 5  # one in the middle, one in a corner
    middle, corner = analysis.code_patches(packed, grids, 5, 10)
    np.testing.assert_array_equal(middle, packed.images[3, 24:36, 32:44])
    cells = packed.images[6, 0:8, 56:64]
    np.testing.assert_array_equal(corner, np.pad(cells, ((4, 0), (0, 4), (0, 0)), mode="edge"))


def test_decoded_codes_are_what_stands_where_the_code_does(codes: np.ndarray) -> None:
    """One code in one place: its cell of the decoded image, with its neighbours; a field of it where it is nowhere."""
    torch.manual_seed(0)
    model = make_vqvae(load_config("smoke", [])).eval().requires_grad_(False)
    grids = codes[:3].copy()
    grids[grids == 5] = 4
    grids[1, 7, 9] = 5
    whole = to_pictures(model.decode(torch.from_numpy(grids.astype(np.int64))))
    cell = whole.shape[1] // 16
    for images in (3, 1):  # also where the code stands in none of the first images
        typical = analysis.decoded_codes(model, grids, images)
        np.testing.assert_array_equal(typical[5], whole[1, 6 * cell : 9 * cell, 8 * cell : 11 * cell])
    field = to_pictures(model.decode(torch.full((1, 16, 16), 8)))[0]
    inner = typical[8][cell : 2 * cell, cell : 2 * cell]
    assert any(
        np.array_equal(inner, field[y : y + cell, x : x + cell]) for y in range(0, 64, cell) for x in range(0, 64, cell)
    )
    assert len(typical) == model.num_codes


def test_attributes_come_in_the_order_of_rows(packed: PackedImages) -> None:
    raw, files = packed.folder.parent / "raw", [entry.file for entry in packed.kept]
    attributes = read_attributes(raw, files)
    lines = (raw / "attributes.csv").read_text().splitlines()
    column = lines[0].split(",").index("hair_colour")
    by_file = {line.split(",")[0]: line.split(",")[column] for line in lines[1:]}
    assert attributes["hair_colour"] == [by_file[entry.file] for entry in packed.kept]
    with pytest.raises(DataError, match=r"attributes\.csv"):
        read_attributes(Path("nowhere"), files)
