"""For the tests of editor and explorers."""

import torch

from vq_core.models import VQVAE, CodeTransformer


def prior(model: VQVAE, causal: bool) -> CodeTransformer:
    torch.manual_seed(0)
    return CodeTransformer(model.num_codes, 16, dim=16, layers=1, heads=2, causal=causal).eval()
