"""For the tests of editor and explorers."""

import pytest
import torch
from torch import Tensor

from vq_core.config import load_config
from vq_core.models import VQVAE
from vq_core.runs.loading import make_vqvae


@pytest.fixture(scope="module")
def model() -> VQVAE:
    torch.manual_seed(0)
    return make_vqvae(load_config("smoke", [])).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
