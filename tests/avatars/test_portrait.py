"""The built-in avatars as drawn: the same picture for the same seed, independent attributes."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from vq_core.avatars import portrait
from vq_core.avatars.portrait import ATTRIBUTES, draw_attributes, draw_avatar


def attributes_of(seed: int, index: int) -> dict[str, str]:
    return draw_attributes(np.random.default_rng([seed, index]))


def cramers_v(left: list[str], right: list[str]) -> float:
    """Association of two attributes with the bias of small samples removed: 0 none, 1 complete."""
    rows, columns = sorted(set(left)), sorted(set(right))
    table = np.zeros((len(rows), len(columns)))
    for (a, b), count in Counter(zip(left, right, strict=True)).items():
        table[rows.index(a), columns.index(b)] = count
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    phi2 = ((table - expected) ** 2 / expected).sum() / table.sum()
    free = (len(rows) - 1) * (len(columns) - 1) / (table.sum() - 1)
    return float(np.sqrt(max(0.0, phi2 - free) / max(1, min(table.shape) - 1)))


def test_same_seed_and_index_give_the_same_avatar() -> None:
    first, again = draw_avatar(3, 17), draw_avatar(3, 17)
    assert first.image.shape == (256, 256, 3)
    assert first.image.dtype == np.uint8
    np.testing.assert_array_equal(first.image, again.image)
    assert first.attributes == again.attributes
    assert first.attributes == attributes_of(3, 17)


def test_seed_matters() -> None:
    assert (draw_avatar(0, 5, 64).image != draw_avatar(1, 5, 64).image).mean() > 0.2


@pytest.mark.parametrize("size", [16, 64, 300])
def test_size(size: int) -> None:
    assert draw_avatar(0, 0, size).image.shape == (size, size, 3)


@pytest.mark.parametrize("size", [15, 0, -4])
def test_size_too_small(size: int) -> None:
    with pytest.raises(ValueError, match="at least 16"):
        draw_avatar(0, 0, size)


@pytest.mark.parametrize(
    "attribute", ["background", "jaw", "ears", "hair_tips", "fringe", "back_hair", "ahoge", "brows"]
)
def test_every_value_can_be_drawn_and_shows(attribute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_values(attribute, monkeypatch)


@pytest.mark.parametrize(
    "attribute", ["eye_shape", "eye_size", "mouth", "blush", "clothes", "glasses", "headwear", "extra"]
)
def test_every_feature_shows(attribute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_values(attribute, monkeypatch)


def check_values(attribute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw one person with each value of the attribute; all pictures must differ."""
    usual = {name: values[0] for name, values in ATTRIBUTES.items()} | {"hair_colour": "blonde"}
    seen = set()
    for value in ATTRIBUTES[attribute]:
        chosen = usual | {attribute: value}
        monkeypatch.setattr(portrait, "draw_attributes", lambda rng, chosen=chosen: chosen)
        seen.add(draw_avatar(0, 0, 64).image.tobytes())
    assert len(seen) == len(ATTRIBUTES[attribute])


def test_attributes_vary() -> None:
    drawn = [attributes_of(0, index) for index in range(300)]
    assert len(ATTRIBUTES) >= 12
    for name, values in ATTRIBUTES.items():
        seen = {attributes[name] for attributes in drawn}
        assert len(seen) >= 2
        assert seen <= set(values)


def test_attributes_are_pairwise_independent() -> None:
    drawn = [attributes_of(0, index) for index in range(2000)]
    columns = {name: [attributes[name] for attributes in drawn] for name in ATTRIBUTES}
    for left, right in combinations(ATTRIBUTES, 2):
        assert cramers_v(columns[left], columns[right]) < 0.1, (left, right)


def test_images_differ_pairwise() -> None:
    images = [draw_avatar(0, index, 32).image.astype(float) for index in range(40)]
    for left, right in combinations(images, 2):
        assert np.abs(left - right).mean() > 5
