"""Augmentation: torchvision's meaning, seeded, batched."""

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from vq_core.config import load_config
from vq_core.data.augment import augment, crop, to_float, to_uint8
from vq_core.settings import DataConfig


def settings(flip: float = 0.0, jitter: float = 0.0) -> DataConfig:
    changes = {"flip": flip, "brightness": jitter, "contrast": jitter, "saturation": jitter}
    return load_config("smoke").data.model_copy(update=changes)


def batch(n: int = 8, size: int = 16) -> torch.Tensor:
    return to_float(torch.randint(0, 256, (n, size, size, 3), generator=seeded(1), dtype=torch.uint8))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    bytes_ = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(2, 16, 16, 3)
    floats = to_float(bytes_)
    assert floats.shape == (2, 3, 16, 16) and floats.min() == -1 and floats.max() == 1
    assert torch.equal(to_uint8(floats), bytes_)
    assert to_uint8(torch.tensor([-3.0, 3.0]).view(1, 1, 1, 2)).flatten().tolist() == [0, 255]


def test_floats_are_channels_last() -> None:
    assert batch().is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("jitter", [0.1, 0.9])
def test_equals_torchvision(jitter: float) -> None:
    x, config = batch(), settings(0.5, jitter)
    draw = torch.rand(4, len(x), generator=seeded(3))
    factors = 1 + jitter * (2 * draw[1:] - 1)
    result = augment(x, config, seeded(3))
    for i, image in enumerate((x + 1) / 2):
        expected = image.flip(-1) if draw[0, i] < 0.5 else image
        expected = tv.adjust_brightness(expected, factors[0, i].item())
        expected = tv.adjust_contrast(expected, factors[1, i].item())
        expected = tv.adjust_saturation(expected, factors[2, i].item())
        torch.testing.assert_close(result[i], expected * 2 - 1, atol=1e-5, rtol=0)


def test_flips_as_often_as_told_and_changes_nothing_else() -> None:
    x = batch(1000, 4)
    result = augment(x, settings(flip=0.3), seeded(0))
    flipped = (result - x.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    same = (result - x).abs().amax((1, 2, 3)) < 1e-5
    assert (flipped ^ same).all() and 240 < flipped.sum() < 360


def test_stays_in_range_and_leaves_its_input_alone() -> None:
    x = batch()
    before = x.clone()
    result = augment(x, settings(0.5, 0.9), seeded(0))
    assert result.abs().max() <= 1 and torch.equal(x, before) and result.shape == x.shape


def test_same_generator_same_result() -> None:
    x, config = batch(), settings(0.5, 0.2)
    assert torch.equal(augment(x, config, seeded(5)), augment(x, config, seeded(5)))
    assert not torch.equal(augment(x, config, seeded(5)), augment(x, config, seeded(6)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu() -> None:
    x, config = batch(), settings(0.5, 0.2)
    on_gpu = augment(x.cuda(), config, seeded(5)).cpu()
    torch.testing.assert_close(on_gpu, augment(x, config, seeded(5)), atol=1e-5, rtol=0)


def test_crops_are_squares_inside_the_image_in_place_of_it() -> None:
    """Of an image of its own coordinates, a crop is straight lines between two points 84 % to 100 % apart."""
    line = torch.linspace(-1, 1, 64 + 1)[:-1] + 1 / 64  # of pixels' centres
    x = torch.stack([line.expand(64, 64), line[:, None].expand(64, 64), torch.zeros(64, 64)]).expand(200, -1, -1, -1)
    crops = crop(x, seeded(0))
    across, down = crops[:, 0], crops[:, 1]
    side = (across[:, 0, 40] - across[:, 0, 20]) / (line[40] - line[20])
    assert 0.84 <= float(side.min()) < 0.86 and 0.98 < float(side.max()) <= 1
    torch.testing.assert_close((down[:, 40, 0] - down[:, 20, 0]) / (line[40] - line[20]), side, atol=1e-4, rtol=0)
    for each in (across[:, 0], down[:, :, 0]):
        assert bool((each[:, 0] - side / 64 >= -1 - 1e-4).all()) and bool((each[:, -1] + side / 64 <= 1 + 1e-4).all())
    assert torch.equal(crop(x, seeded(0)), crops)
