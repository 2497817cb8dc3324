"""For the tests of the networks."""

import torch
from torch import Tensor


def images(batch: int, size: int) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
