"""Metrics of reconstructions and of codes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

Images = Float[Tensor, "b 3 h w"]


def psnr(x_rec: Images, x: Images) -> Float[Tensor, "b"]:
    """Peak signal-to-noise ratio of each image in decibels; images in [−1, 1], higher is better."""
    return peak_signal_noise_ratio(x_rec.clamp(-1, 1), x, data_range=2.0, dim=(1, 2, 3), reduction="none")


def ssim(x_rec: Images, x: Images) -> Float[Tensor, "b"]:
    """Structural similarity of each image in [−1, 1]; 1 means equal (Wang et al. 2004)."""
    rec, real = (x_rec.clamp(-1, 1) + 1) / 2, (x + 1) / 2  # its luminance term is defined for intensities of 0 or more
    values = structural_similarity_index_measure(rec, real, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)
    return values


def gradient_energy(x: Images) -> Float[Tensor, "b"]:
    """Mean squared difference of neighbouring pixels, horizontal plus vertical, of each image.

    Sharpness is a reconstruction's over its input's: below 1 is blurred, above 1 has grain that the input lacks.
    """
    return x.diff(dim=-1).square().mean(dim=(1, 2, 3)) + x.diff(dim=-2).square().mean(dim=(1, 2, 3))


def usage(indices: Int[Tensor, "..."], num_codes: int) -> Float[Tensor, "k"]:
    """How often each code occurs."""
    return torch.bincount(indices.reshape(-1).long(), minlength=num_codes).float()
