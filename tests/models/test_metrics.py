"""Figures against independent references."""

import numpy as np
import pytest
import torch
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from vq_core.evaluation.count_models import bigram_bits, neighbours_bits, unigram_bits
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


def test_count_models_on_a_known_source() -> None:
    """A Markov chain of known entropy: the bigram model finds it, the unigram model only the marginal entropy."""
    rng = np.random.default_rng(0)
    stay = 0.9
    codes = np.zeros((600, 200), dtype=np.int64)
    codes[:, 0] = rng.integers(0, 4, 600)
    for t in range(1, 200):
        moved = rng.integers(0, 4, 600)
        codes[:, t] = np.where(rng.random(600) < stay, codes[:, t - 1], moved)
    p = np.array([stay + (1 - stay) / 4] + [(1 - stay) / 4] * 3)
    rate = -(p * np.log2(p)).sum()
    assert unigram_bits(codes[:500], codes[500:], 4) == pytest.approx(2.0, abs=0.01)
    assert bigram_bits(codes[:500], codes[500:], 4) == pytest.approx(rate, abs=0.03)


def test_neighbours_find_what_two_neighbours_decide_together() -> None:
    """c = left XOR above, one time in ten chance: neither neighbour alone tells anything."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, (400, 12, 12))
    for row in range(1, 12):
        for column in range(1, 12):
            both = codes[:, row, column - 1] ^ codes[:, row - 1, column]
            codes[:, row, column] = np.where(rng.random(400) < 0.9, both, codes[:, row, column])
    p = 0.95
    inside = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    expected = (121 * inside + 23) / 144  # the first row and column are chance
    assert neighbours_bits(codes[:300], codes[300:], 2) == pytest.approx(expected, abs=0.02)
    assert bigram_bits(codes[:300].reshape(300, -1), codes[300:].reshape(100, -1), 2) > 0.99


def test_count_models_survive_codes_never_seen() -> None:
    train, held_out = np.zeros((3, 10), dtype=np.int64), np.full((2, 10), 7)
    assert np.isfinite(unigram_bits(train, held_out, 8)) and np.isfinite(
        neighbours_bits(train.reshape(3, 2, 5), held_out.reshape(2, 2, 5), 8)
    )
    assert np.isfinite(bigram_bits(train, held_out, 8))
