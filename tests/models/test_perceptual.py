"""The perceptual distance against the package that it wraps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import lpips
import pytest
import torch
from torch import Tensor, nn

from vq_core.errors import MissingWeights
from vq_core.models.perceptual import PerceptualLoss


def images(seed: int, batch: int = 2, size: int = 64) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[lpips.LPIPS]]:
    """LPIPS with its learned weights of channels, on a trunk with random weights; what was made, in order."""
    made: list[lpips.LPIPS] = []
    original = lpips.LPIPS

    def on_random_trunk(**options: Any) -> lpips.LPIPS:
        made.append(original(**(options | {"pnet_rand": True})))
        return made[-1]

    monkeypatch.setattr(lpips, "LPIPS", on_random_trunk)
    return made


@pytest.mark.parametrize("net", ["squeeze", "vgg", "random"])
def test_equals_the_lpips_package(no_download: list[lpips.LPIPS], net: Any) -> None:
    loss = PerceptualLoss(net)
    (reference,) = no_download
    assert reference.lpips == (net != "random") and loss.calibrated == (net != "random")
    x_rec, x = images(0), images(1)
    expected = reference(x_rec, x).mean()
    assert float(expected.detach()) > 1e-3
    assert float(loss(x_rec, x).detach()) == pytest.approx(float(expected.detach()), rel=1e-4, abs=1e-6)


def test_the_random_net_is_always_the_same_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    one, other = PerceptualLoss("random"), PerceptualLoss("random")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one(images(0), images(1)), other(images(0), images(1)))


def test_equal_images_cost_nothing_and_more_noise_costs_more() -> None:
    loss, x, noise = PerceptualLoss("random"), images(0) * 0.5, images(1)
    costs = [float(loss(x + share * noise, x)) for share in (0.0, 0.05, 0.2, 0.5)]
    assert costs[0] == 0 and costs == sorted(set(costs))


def test_the_gradient_is_finite_and_flows_to_the_reconstruction_only() -> None:
    loss = PerceptualLoss("random")
    x_rec, x = images(0).requires_grad_(), images(1).requires_grad_()
    loss(x_rec, x).backward()
    assert x_rec.grad is not None and x_rec.grad.isfinite().all() and x_rec.grad.abs().sum() > 0
    assert x.grad is None and all(parameter.grad is None for parameter in loss.parameters())


def test_the_gradient_is_finite_for_equal_images() -> None:
    x_rec = images(0).requires_grad_()
    PerceptualLoss("random")(x_rec, images(0)).backward()
    assert x_rec.grad is not None and torch.equal(x_rec.grad, torch.zeros_like(x_rec))


def test_the_gradient_is_finite_where_all_features_are_zero() -> None:
    loss = PerceptualLoss("random")
    for module in loss.net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    x_rec = images(0).requires_grad_()
    value = loss(x_rec, images(1))
    value.backward()
    assert value == 0 and x_rec.grad is not None and x_rec.grad.isfinite().all()


def test_it_is_summed_in_float32_under_mixed_precision() -> None:
    loss, x_rec, x = PerceptualLoss("random"), images(0), images(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss.each(x_rec, x)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, loss.each(x_rec, x), rtol=0.02, atol=0)


def test_it_stays_in_eval_mode() -> None:
    assert not any(module.training for module in PerceptualLoss("random").train().modules())


def test_the_distance_of_each_image_is_that_of_the_image_alone() -> None:
    loss, x_rec, x = PerceptualLoss("random"), images(0), images(1)
    alone = torch.stack([loss(a, b) for a, b in zip(x_rec.split(1), x.split(1), strict=True)])
    torch.testing.assert_close(loss.each(x_rec, x), alone)


@pytest.mark.parametrize(("net", "file"), [("vgg", "vgg16-397923af.pth"), ("squeeze", "squeezenet1_1-b8a52dc0.pth")])
def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: Any, file: str) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(MissingWeights) as caught:
        PerceptualLoss(net)
    message = str(caught.value)
    assert file in message and str(tmp_path / "hub" / "checkpoints") in message and "no route to host" in message
    assert "loss.perceptual_net=random" in message and "loss.perceptual=0" in message and "\n" not in message
