"""Metrics of an autoencoder on held-out images, and of count models on held-out codes."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from vq_core.config import Config, pick_device
from vq_core.data.images import images_of
from vq_core.data.packed import PackedImages
from vq_core.errors import ArgumentError
from vq_core.evaluation.count_models import bigram_bits, neighbours_bits, unigram_bits
from vq_core.evaluation.distances import FEW, FEWEST, PretrainedFeatures, features_of, frechet_distance, kernel_distance
from vq_core.models import VQVAE
from vq_core.models.metrics import gradient_energy, psnr, ssim, usage
from vq_core.models.perceptual import PerceptualLoss
from vq_core.models.quantizer_ema import perplexity
from vq_core.runs.finding import load_images
from vq_core.runs.folders import Run
from vq_core.runs.loading import load_vqvae


def evaluate_run(run: Run, config: Config) -> dict[str, Any]:
    """Metrics of an autoencoder run on all validation images; computed once and stored in its `result.json`."""
    if "psnr" not in run.result():
        run.update_result(reconstruction_metrics(load_vqvae(run).to(pick_device(config)), load_images(config)))
    return run.result()


@torch.no_grad()
def reconstruction_metrics(
    model: VQVAE, packed: PackedImages, lpips_net: PerceptualLoss | None = None
) -> dict[str, float]:
    """PSNR, SSIM, L1, sharpness, codes used and perplexity on all validation images; LPIPS if a network is given.

    PSNR, SSIM and LPIPS are means over images, with standard errors (`…_se`) if there are at least two; sharpness is
    the total gradient energy of the reconstructions over that of the inputs; `codes_used` is a fraction of all codes.
    """
    device = model.device
    parts: dict[str, list[Tensor]] = {}
    counts = torch.zeros(model.num_codes)
    rows = packed.val_rows
    for some in np.array_split(rows, -(-len(rows) // 32)):
        x = images_of(packed, some).to(device)
        out = model.reconstruct(x)
        metrics = {
            "psnr": psnr(out.x_rec, x),
            "ssim": ssim(out.x_rec, x),
            "l1": (out.x_rec - x).abs().mean(dim=(1, 2, 3)),
            "energy_rec": gradient_energy(out.x_rec),
            "energy": gradient_energy(x),
        }
        if lpips_net is not None:
            metrics["lpips"] = lpips_net.to(device).each(out.x_rec, x)
        for name, value in metrics.items():
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
def reconstruct_held_out(model: VQVAE, packed: PackedImages, count: int = 2000) -> Float[Tensor, "b 3 h w"]:
    """Reconstructions of the first `count` held-out images, on the CPU."""
    rows = packed.val_rows[:count]
    parts = np.array_split(rows, -(-len(rows) // 64))
    return torch.cat([model(images_of(packed, part).to(model.device)).cpu() for part in parts])


def distance_metrics(
    model: VQVAE,
    packed: PackedImages,
    nets: Iterable[PretrainedFeatures],
    seed: int,
    samples: Float[Tensor, "n 3 h w"] | None = None,
) -> dict[str, float]:
    """Fréchet and kernel distances to the first half of the held-out images, between equal numbers of images.

    `floor` is the distance of the second half itself, `reconstructions` that of the second half passed through the
    model, and `samples` that of as many generated images, if enough are given. With Inception's features the metrics
    are named `fid_…` and `kid_…`, with SqueezeNet's `frechet_…` and `kernel_…`; kernel distances come with their spread
    over subsets (`…_std`). If a half has fewer than 513 images, the Fréchet distances are left out.

    Raises:
        ArgumentError: fewer than 4 images in a half.
    """
    half = len(packed.val_rows) // 2
    if half < FEWEST:
        raise ArgumentError(f"{len(packed.val_rows)} held-out images are too few for distances between their halves")
    first, second = (images_of(packed, rows) for rows in (packed.val_rows[:half], packed.val_rows[half : 2 * half]))
    sets = {"floor": second, "reconstructions": reconstruct_held_out(model, packed, 2 * half)[half:]}
    if samples is not None and len(samples) >= half:
        sets["samples"] = samples[:half]
    metrics = {"distance_images": float(half)}
    for net in nets:
        real = features_of(first.split(64), net, model.device)
        for name, images in sets.items():
            other = features_of(images.split(64), net, model.device)
            if half >= FEW:
                metrics[f"{net.frechet}_{name}"] = frechet_distance(real, other)
            kernel, spread = kernel_distance(real, other, seed)
            metrics |= {f"{net.kernel}_{name}": kernel, f"{net.kernel}_{name}_std": spread}
    return metrics


def bits_metrics(codes: Integer[np.ndarray, "n h w"], packed: PackedImages, config: Config) -> dict[str, float]:
    """Bits per held-out token for the count models that the prior is compared with."""
    flat = codes.reshape(len(codes), -1).astype(np.int64)
    train, held_out = flat[packed.train_rows], flat[packed.val_rows]
    k = config.model.num_codes
    return {
        "uniform": float(np.log2(k)),
        "unigram": unigram_bits(train, held_out, k),
        "bigram": bigram_bits(train, held_out, k),
        "left + above": neighbours_bits(codes[packed.train_rows], codes[packed.val_rows], k),
    }
