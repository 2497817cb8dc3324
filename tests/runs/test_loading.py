"""Models out of settings."""

import pytest
import torch
from small_runs import settings

from vq_core.runs.loading import make_vqvae


@pytest.mark.parametrize("start", ["normal", "kaiming"])
def test_the_codebook_starts_with_the_spread_that_is_said(start: str) -> None:
    """N(0, 0.1), or uniform in ±sqrt(6 / D) ("Kaiming")."""
    torch.manual_seed(0)
    size = ("model.num_codes=1024", "model.code_dim=64", "model.latent_channels=64")
    codebook = make_vqvae(settings(f"quantizer.init={start}", *size)).quantizer.codebook
    bound = (6 / 64) ** 0.5
    assert codebook.mean().abs() < 3e-3
    if start == "normal":
        assert codebook.std() == pytest.approx(0.1, rel=0.02) and codebook.abs().max() > 0.3
    else:
        assert codebook.std() == pytest.approx(bound / 3**0.5, rel=0.02) and codebook.abs().max() <= bound
