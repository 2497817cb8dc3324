"""Analysis of codes on a packed set made by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy

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


def test_usage_by_position_against_scipy(codes: np.ndarray) -> None:
    found = analysis.usage_by_position(codes, 8)
    counts = np.bincount(codes[:, 3, 5], minlength=8)
    assert found.shape == (16, 16)
    assert found[3, 5] == pytest.approx(np.exp(entropy(counts)))


def test_code_colours_are_means_of_cells(packed: PackedImages) -> None:
    grids = np.zeros((len(packed.images), 16, 16), dtype=np.uint16)
    grids[:, :8] = 1
    colours = analysis.code_colours(packed, grids, 3)
    np.testing.assert_allclose(colours[1], packed.images[:, :32].mean(axis=(0, 1, 2)), atol=1)
    np.testing.assert_array_equal(colours[2], [128] * 3)


def test_attributes_come_in_the_order_of_rows(packed: PackedImages) -> None:
    raw, files = packed.folder.parent / "raw", [entry.file for entry in packed.kept]
    attributes = read_attributes(raw, files)
    lines = (raw / "attributes.csv").read_text().splitlines()
    column = lines[0].split(",").index("hair_colour")
    by_file = {line.split(",")[0]: line.split(",")[column] for line in lines[1:]}
    assert attributes["hair_colour"] == [by_file[entry.file] for entry in packed.kept]
    with pytest.raises(DataError, match=r"attributes\.csv"):
        read_attributes(Path("nowhere"), files)


def test_probe_reads_what_is_there_and_not_what_is_not(packed: PackedImages) -> None:
    rng = np.random.default_rng(0)
    n = len(packed.images)
    seen, hidden = rng.integers(0, 2, n), rng.integers(0, 2, n)
    features = rng.normal(size=(n, 6)) * 0.1
    features[:, 0] += 3 * seen
    named = {"seen": [str(v) for v in seen], "hidden": [str(v) for v in hidden], "constant": ["a"] * n}
    probes = {probe.attribute: probe for probe in analysis.linear_probes(features, named, packed)}
    assert set(probes) == {"seen", "hidden"}
    assert probes["seen"].accuracy == 1.0 and probes["hidden"].accuracy < 1.0


def test_probe_leaves_out_what_is_unknown(packed: PackedImages) -> None:
    n = len(packed.images)
    known = [("yes", "no")[i % 2] if i % 5 < 3 else "" for i in range(n)]
    features = np.array([[float(value == "yes"), 0.0] for value in known]) + 1e-3 * np.arange(2 * n).reshape(n, 2) / n
    one = ["yes" if i % 2 else "" for i in range(n)]
    (probe,) = analysis.linear_probes(features, {"known": known, "one": one}, packed)
    values = [known[row] for row in packed.val_rows if known[row]]
    often = max(set(known) - {""}, key=[known[row] for row in packed.train_rows].count)
    assert probe.accuracy == 1.0
    assert probe.majority == pytest.approx(values.count(often) / len(values))


def test_codebook_fit_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, codebook = torch.randn(200, 4, generator=generator), torch.randn(10, 4, generator=generator)
    distances = torch.cdist(vectors, codebook).square()
    fit = analysis.codebook_fit(vectors, codebook)
    counts = np.bincount(distances.argmin(1).numpy(), minlength=10)
    assert fit.error == pytest.approx(distances.min(1).values.mean().item(), rel=1e-4)
    assert fit.counts.tolist() == counts.tolist()
    assert fit.perplexity == pytest.approx(np.exp(entropy(counts)), rel=1e-4)
