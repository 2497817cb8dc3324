"""Figures against independent references."""

import numpy as np
import pytest
import torch
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from vq_core.models.metrics import gradient_energy, psnr, ssim, usage


def images(seed: int, n: int = 4) -> torch.Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_is_the_mean_over_images_of_each_ones_own() -> None:
    x, y = images(0), (images(0) + 0.1 * images(1)).clamp(-1, 1)
    metric = PeakSignalNoiseRatio(data_range=2.0)
    expected = [metric(y[n : n + 1], x[n : n + 1]).item() for n in range(4)]
    by_hand = [10 * np.log10(4 / float((y[n] - x[n]).square().mean())) for n in range(4)]
    assert psnr(y, x).tolist() == pytest.approx(expected, abs=1e-4)
    assert psnr(y, x).tolist() == pytest.approx(by_hand, abs=1e-4)


def test_ssim_of_each_image() -> None:
    x, y = images(0), (images(0) + 0.2 * images(1)).clamp(-1, 1)
    metric = StructuralSimilarityIndexMeasure(data_range=1.0)
    expected = [metric((y[n : n + 1] + 1) / 2, (x[n : n + 1] + 1) / 2).item() for n in range(4)]
    assert ssim(y, x).tolist() == pytest.approx(expected, abs=1e-4)
    assert ssim(x, x).tolist() == pytest.approx([1.0] * 4)


def test_gradient_energy_by_hand_and_blur_lowers_it() -> None:
    x = images(0)
    expected = np.mean(np.diff(x[0].numpy(), axis=-1) ** 2) + np.mean(np.diff(x[0].numpy(), axis=-2) ** 2)
    assert gradient_energy(x)[0].item() == pytest.approx(float(expected), rel=1e-5)
    blurred = torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
    assert bool((gradient_energy(blurred) < 0.5 * gradient_energy(x)).all())


def test_usage_counts() -> None:
    assert usage(torch.tensor([[0, 2], [2, 2]]), 4).tolist() == [1, 0, 3, 0]
