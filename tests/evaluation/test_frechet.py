"""The Fréchet distance against its formula; SqueezeNet's weights cannot be had in a test, so features are plain."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from vq_core.evaluation.frechet import SqueezeFeatures, frechet_distance
from vq_core.training.losses import MissingWeights


class CornerPixels(nn.Module):
    num_features = 12

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :2, :2].flatten(1)


def images(seed: int, count: int, mean: float = 0.0) -> Tensor:
    return (0.2 * torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) + mean).clamp(-1, 1)


def test_equals_the_formula() -> None:
    a, b = images(0, 600), images(1, 700, 0.1)
    f, g = (CornerPixels()(x).double().numpy() for x in (a, b))
    root = scipy.linalg.sqrtm(np.cov(f.T) @ np.cov(g.T)).real
    expected = np.square(f.mean(0) - g.mean(0)).sum() + np.trace(np.cov(f.T) + np.cov(g.T) - 2 * root)
    assert frechet_distance(a.split(64), b.split(100), CornerPixels()) == pytest.approx(expected, rel=1e-3)
    assert frechet_distance([a], [a], CornerPixels()) == pytest.approx(0, abs=1e-6)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 513 images in each set, got 512"):
        frechet_distance([images(0, 600)], [images(1, 512)], CornerPixels())


def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(MissingWeights, match="squeezenet1_1"):
        SqueezeFeatures()
