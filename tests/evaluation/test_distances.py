"""Fréchet and kernel distances against their formulas; pretrained weights cannot be had in a test."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from corner_pixels import CornerPixels
from torch import Tensor, nn

from vq_core.errors import MissingWeights
from vq_core.evaluation.distances import (
    InceptionFeatures,
    SqueezeFeatures,
    features_of,
    frechet_distance,
    kernel_distance,
    precision_recall,
)


def images(seed: int, count: int, mean: float = 0.0) -> Tensor:
    return (0.2 * torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) + mean).clamp(-1, 1)


def test_the_frechet_distance_equals_the_formula() -> None:
    a, b = (features_of(x.split(64), CornerPixels()) for x in (images(0, 600), images(1, 700, 0.1)))
    f, g = a.double().numpy(), b.double().numpy()
    root = scipy.linalg.sqrtm(np.cov(f.T) @ np.cov(g.T)).real
    expected = np.square(f.mean(0) - g.mean(0)).sum() + np.trace(np.cov(f.T) + np.cov(g.T) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-3)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 513 images in each set, got 512"):
        frechet_distance(torch.randn(600, 4), torch.randn(512, 4))
    with pytest.raises(ValueError, match="at least 4 images in each set, got 3"):
        kernel_distance(torch.randn(600, 4), torch.randn(3, 4))
    with pytest.raises(ValueError, match="at least 4 images in each set, got 3"):
        precision_recall(torch.randn(600, 4), torch.randn(3, 4))


def test_the_kernel_distance_equals_the_unbiased_estimate_of_the_formula() -> None:
    """On all features at once; the mean over subsets comes as near as its spread allows."""
    generator = torch.Generator().manual_seed(0)
    f, g = torch.randn(400, 6, generator=generator), torch.randn(500, 6, generator=generator) + 0.5
    whole = unbiased(f.double(), g.double())
    mean, spread = kernel_distance(f, g)
    assert mean == pytest.approx(whole, abs=3 * spread / 10) and 0 < spread < whole  # of 100 subsets
    assert kernel_distance(f, g) == (mean, spread) != kernel_distance(f, g, seed=1)
    same, around = kernel_distance(f[:200], f[200:])
    assert abs(same) < around


def unbiased(f: Tensor, g: Tensor) -> float:
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (kernel(f, f), kernel(g, g))]
    return float(sum(within) - 2 * kernel(f, g).mean())


def test_precision_and_recall_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    real, other = torch.randn(60, 5, generator=generator), 0.7 * torch.randn(50, 5, generator=generator) + 0.5
    expected = share_inside(other, real[:50]), share_inside(real[:50], other)
    assert 0 < expected[1] < expected[0] < 1
    assert precision_recall(real, other) == pytest.approx(expected)


def share_inside(asked: Tensor, known: Tensor) -> float:
    def inside(point: Tensor) -> bool:
        for index, centre in enumerate(known):
            others = [float((centre - o).norm()) for number, o in enumerate(known) if number != index]
            if float((point - centre).norm()) <= sorted(others)[2]:
                return True
        return False

    return sum(inside(point) for point in asked) / len(asked)


def test_precision_and_recall_tell_bad_images_from_missing_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(40, 3, generator=generator)
    far = torch.cat([near, near + 100])[torch.randperm(80, generator=generator)]  # two modes
    assert precision_recall(far, far.clone()) == (1, 1)
    assert precision_recall(far, far + 1000) == (0, 0)
    one_mode = torch.cat([near, near + 1e-3])
    precision, recall = precision_recall(far, one_mode)
    assert precision == 1 and recall == 0.5
    precision, recall = precision_recall(one_mode, far)
    assert precision == 0.5 and recall == 1


@pytest.mark.parametrize(("features", "file"), [(SqueezeFeatures, "squeezenet1_1"), (InceptionFeatures, "inception")])
def test_missing_weights_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: type[nn.Module], file: str
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(MissingWeights, match=file) as caught:
        features()
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
