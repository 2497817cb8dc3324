"""Figures of an autoencoder on held-out images, and of a prior on held-out codes."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from vq_core.config import Config
from vq_core.data.datamodule import images_of
from vq_core.data.packed import PackedImages
from vq_core.evaluation.count_models import bigram_bits, neighbours_bits, unigram_bits
from vq_core.evaluation.distances import (
    FEW,
    FEWEST,
    PretrainedFeatures,
    features_of,
    frechet_distance,
    kernel_distance,
)
from vq_core.evaluation.metrics import gradient_energy, psnr, ssim, usage
from vq_core.models.quantizer_ema import perplexity
from vq_core.training.losses import PerceptualLoss
from vq_core.training.vqvae_module import VQVAEModel


@torch.no_grad()
def reconstruction_figures(
    model: VQVAEModel, packed: PackedImages, lpips_net: PerceptualLoss | None = None
) -> dict[str, float]:
    """PSNR, SSIM, L1, sharpness, codes used and perplexity on all validation images; LPIPS where a network is given.

    PSNR, SSIM and LPIPS are means over images with their standard errors (`…_se`, where there are two images or more);
    sharpness is the ratio of gradient energies, all reconstructions over all inputs.
    """
    device = next(model.parameters()).device
    parts: dict[str, list[Tensor]] = {}
    counts = torch.zeros(model.config.model.num_codes)
    rows = packed.val_rows
    for some in np.array_split(rows, -(-len(rows) // 32)):
        x = images_of(packed, some).to(device)
        out = model.reconstruct(x)
        figures = {
            "psnr": psnr(out.x_rec, x),
            "ssim": ssim(out.x_rec, x),
            "l1": (out.x_rec - x).abs().mean(dim=(1, 2, 3)),
            "energy_rec": gradient_energy(out.x_rec),
            "energy": gradient_energy(x),
        }
        if lpips_net is not None:
            figures["lpips"] = lpips_net.to(device).each(out.x_rec, x)
        for name, value in figures.items():
            parts.setdefault(name, []).append(value.cpu())
        if out.quantized is not None:
            counts += usage(out.quantized.indices.cpu(), len(counts))
    values = {name: torch.cat(part) for name, part in parts.items()}
    sharpness = float(values.pop("energy_rec").sum() / values.pop("energy").sum())
    result = {name: float(value.mean()) for name, value in values.items()} | {"sharpness": sharpness}
    shown = [name for name in ("psnr", "ssim", "lpips") if name in values and len(rows) > 1]
    result |= {f"{name}_se": float(values[name].std() / len(rows) ** 0.5) for name in shown}
    if model.quantize:
        result |= {"perplexity": float(perplexity(counts)), "codes_used": float((counts > 0).float().mean())}
    return result | {"images": float(len(rows))}


@torch.no_grad()
def reconstruct_held_out(model: VQVAEModel, packed: PackedImages, count: int = 2000) -> Float[Tensor, "b 3 h w"]:
    """Reconstructions of the first held-out images, on the CPU."""
    rows = packed.val_rows[:count]
    parts = np.array_split(rows, -(-len(rows) // 64))
    return torch.cat([model(images_of(packed, part).to(model.device)).cpu() for part in parts])


def distance_figures(
    model: VQVAEModel,
    packed: PackedImages,
    nets: Iterable[PretrainedFeatures],
    samples: Float[Tensor, "n 3 h w"] | None = None,
) -> dict[str, float]:
    """Fréchet and kernel distances to the first half of the held-out images, with equal numbers each.

    `floor` is that of the second half itself, `reconstructions` of the second half through the model, `samples` of as
    many generated images, where at least so many are given. With Inception's features they are `fid_…` and `kid_…`,
    with SqueezeNet's `frechet_…` and `kernel_…`; the latter with their spread over subsets (`…_std`). Where a half has
    fewer than 513 images the Fréchet distances are left out.

    Raises:
        ValueError: fewer than 4 images in a half.
    """
    half = len(packed.val_rows) // 2
    if half < FEWEST:
        raise ValueError(f"{len(packed.val_rows)} held-out images are too few for distances between their halves")
    first, second = (images_of(packed, rows) for rows in (packed.val_rows[:half], packed.val_rows[half : 2 * half]))
    sets = {"floor": second, "reconstructions": reconstruct_held_out(model, packed, 2 * half)[half:]}
    if samples is not None and len(samples) >= half:
        sets["samples"] = samples[:half]
    figures = {"distance_images": float(half)}
    for net in nets:
        real = features_of(first.split(64), net, model.device)
        for name, images in sets.items():
            other = features_of(images.split(64), net, model.device)
            if half >= FEW:
                figures[f"{net.frechet}_{name}"] = frechet_distance(real, other)
            kernel, spread = kernel_distance(real, other, model.config.seed)
            figures |= {f"{net.kernel}_{name}": kernel, f"{net.kernel}_{name}_std": spread}
    return figures


def bits_figures(codes: Integer[np.ndarray, "n h w"], packed: PackedImages, config: Config) -> dict[str, float]:
    """Bits per held-out token of the count models that the prior is compared with."""
    flat = codes.reshape(len(codes), -1).astype(np.int64)
    train, held_out = flat[packed.train_rows], flat[packed.val_rows]
    k = config.model.num_codes
    return {
        "uniform": float(np.log2(k)),
        "unigram": unigram_bits(train, held_out, k),
        "bigram": bigram_bits(train, held_out, k),
        "left + above": neighbours_bits(codes[packed.train_rows], codes[packed.val_rows], k),
    }
