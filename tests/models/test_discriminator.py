"""The discriminator: shapes, what each logit sees, its norms."""

import pytest
import torch
from random_images import images
from torch import nn

from vq_core.models import PatchDiscriminator


@pytest.mark.parametrize(
    ("layers", "size", "grid"), [(3, 256, 30), (3, 128, 14), (2, 64, 14), (1, 64, 30), (1, 32, 14)]
)
def test_discriminator_shape(layers: int, size: int, grid: int) -> None:
    assert PatchDiscriminator(4, layers)(images(2, size)).shape == (2, 1, grid, grid)


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_each_logit_sees_one_patch(layers: int, patch: int) -> None:
    x = images(1, 128).requires_grad_()
    # Spectral norm stands in for GroupNorm, whose means see the whole image.
    logits = PatchDiscriminator(4, layers, spectral_norm=True)(x)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    assert x.grad is not None
    seen = x.grad.abs().sum((0, 1)) > 0
    assert [int(seen.any(dim).sum()) for dim in (0, 1)] == [patch, patch]


def test_spectral_norm_bounds_every_convolution() -> None:
    torch.manual_seed(0)
    plain, bounded = PatchDiscriminator(8, 2), PatchDiscriminator(8, 2, spectral_norm=True)
    for _ in range(30):  # its power iteration goes on with every forward pass in training
        bounded(images(1, 32))
    norms = [
        [
            float(torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2))
            for m in net.modules()
            if isinstance(m, nn.Conv2d)
        ]
        for net in (plain, bounded)
    ]
    assert norms[1] == pytest.approx([1.0] * 4, abs=0.05) and any(abs(norm - 1) > 0.1 for norm in norms[0])
    assert not any(isinstance(module, nn.GroupNorm) for module in bounded.modules())


@torch.no_grad()
def test_real_and_generated_images_share_no_statistics() -> None:
    net, x = PatchDiscriminator(8, 2), images(4, 32)
    torch.testing.assert_close(net(x)[:1], net(x[:1]), atol=1e-5, rtol=1e-4)
