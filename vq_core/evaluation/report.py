"""Metrics of an autoencoder on held-out images, and of samples."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from vq_core.config import Config
from vq_core.data.augment import to_float
from vq_core.data.decode import load_picture
from vq_core.data.images import images_of
from vq_core.data.ingest import raw_files
from vq_core.data.packed import PackedImages
from vq_core.errors import ArgumentError, DataError, UnusableImage, tell_once
from vq_core.evaluation import distances
from vq_core.evaluation.distances import PretrainedFeatures
from vq_core.evaluation.memorization import novelty
from vq_core.machine import pick_device
from vq_core.models import VQVAE
from vq_core.models.metrics import gradient_energy, psnr, ssim, usage
from vq_core.models.perceptual import PerceptualLoss
from vq_core.models.quantizer_ema import perplexity
from vq_core.runs.codes import extract_codes
from vq_core.runs.finding import load_images
from vq_core.runs.folders import Run
from vq_core.runs.loading import load_vqvae

Pictures = UInt8[np.ndarray, "_ size size 3"]
Drawn = dict[str, Int64[Tensor, "_ h w"]]  # sets of codes, by name


def evaluate_run(run: Run, config: Config) -> dict[str, Any]:
    """Metrics of an autoencoder run on all validation images; computed once and stored in its `result.json`."""
    if "psnr" in (known := run.result()):
        return known
    metrics = reconstruction_metrics(load_vqvae(run).to(pick_device(config)), load_images(config).verify())
    keep(run, metrics)
    return known | metrics


def keep(run: Run, metrics: dict[str, Any]) -> None:
    """Add metrics to a run's result; if its folder cannot be written to, say that they are not kept."""
    try:
        run.update_result(metrics)
    except OSError as error:
        tell_once(f"{run.folder}: cannot be written to ({error.strerror}), so the figures are not kept")


@torch.no_grad()
def reconstruction_metrics(
    model: VQVAE, packed: PackedImages, lpips_net: PerceptualLoss | None = None
) -> dict[str, float]:
    """PSNR, SSIM, L1, sharpness, codes used and perplexity on all validation images; LPIPS if a network is given.

    PSNR, SSIM and LPIPS are means over images, with standard errors (`…_se`) if there are at least two; sharpness is
    the total gradient energy of the reconstructions over that of the inputs; `codes_used` is a fraction of all codes.
    """
    device, rows = model.device, packed.val_rows
    parts: dict[str, list[Tensor]] = {}
    counts = torch.zeros(model.num_codes)
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
    made, there = (float(values.pop(name).sum()) for name in ("energy_rec", "energy"))
    sharpness = made / there if there else float("nan")  # of flat images it is undefined
    result = {name: float(value.mean()) for name, value in values.items()} | {"sharpness": sharpness}
    shown = [name for name in ("psnr", "ssim", "lpips") if name in values and len(rows) > 1]
    result |= {f"{name}_se": float(values[name].std() / len(rows) ** 0.5) for name in shown}
    if model.quantize:
        result |= {"perplexity": float(perplexity(counts)), "codes_used": float((counts > 0).float().mean())}
    return result | {"images": float(len(rows))}


def held_out_halves(packed: PackedImages) -> tuple[Pictures, Pictures]:
    """The first and the second half of the held-out images. Raises `ArgumentError` if a half has fewer than 4."""
    half = len(packed.val_rows) // 2
    if half < distances.FEWEST:
        raise ArgumentError(f"{len(packed.val_rows)} held-out images are too few for distances between their halves")
    return packed.images[packed.val_rows[:half]], packed.images[packed.val_rows[half : 2 * half]]


def images_in(folder: Path, config: Config) -> tuple[Pictures, int]:
    """All usable images of a folder and its subfolders, read like one's own, and the number of unusable files.

    Raises `DataError` for fewer than 4 images. Their order is random: as precision and recall take the first ones, in
    order of name all of these might be of the first subfolder.
    """
    files, pictures = sorted(raw_files(folder)), []
    np.random.default_rng(config.seed).shuffle(files)
    for file in tqdm(files, desc="reading images", unit="image", leave=False):
        with suppress(UnusableImage):
            pictures.append(load_picture(file, config.data).pixels)
    if len(pictures) < distances.FEWEST:
        raise DataError(f"{folder}: {len(pictures)} of {len(files)} files are usable images; at least 4 are needed")
    return np.stack(pictures), len(files) - len(pictures)


def distance_metrics(
    model: VQVAE, reference: Pictures, real: Pictures, samples: Drawn, nets: Sequence[PretrainedFeatures], seed: int
) -> dict[str, float]:
    """Compare a reference with other real images (`floor`), their `reconstructions`, and sets of samples, decoded.

    Of each set as many images count as the smallest has (`distance_images`). In SqueezeNet's features the metrics of a
    SET are `frechet_SET` (with at least 513 images) and, for samples, `frechet_SET_ratio` (to the reconstructions'),
    `kernel_SET`, `kernel_SET_std` (spread over subsets), `frechet_precision_SET`, `frechet_recall_SET`; in Inception's
    `fid_…`, `kid_…`. Raises `ArgumentError` for fewer than 4 images in a set.
    """
    count, device = min([len(real), *map(len, samples.values())]), model.device
    known, given = (torch.from_numpy(pictures).split(64) for pictures in (reference, real[:count]))
    metrics = {"distance_images": float(count)}
    for net in nets:
        there = distances.features_of(map(to_float, known), net, device)
        sets: dict[str, Iterable[Tensor]] = {"floor": map(to_float, given)}
        sets["reconstructions"] = (model(to_float(x.to(device))) for x in given)
        sets |= {name: map(model.decode, codes[:count].to(device).split(64)) for name, codes in samples.items()}
        for name, images in sets.items():
            here = distances.features_of(images, net, device)
            frechet, kernel = f"{net.frechet}_{name}", f"{net.kernel}_{name}"
            if min(len(there), count) >= distances.FEW:
                metrics[frechet] = distances.frechet_distance(there, here)
                if name in samples:
                    metrics[f"{frechet}_ratio"] = metrics[frechet] / metrics[f"{net.frechet}_reconstructions"]
            metrics[kernel], metrics[f"{kernel}_std"] = distances.kernel_distance(there, here, seed)
            precision, recall = distances.precision_recall(there, here)
            metrics |= {f"{net.frechet}_precision_{name}": precision, f"{net.frechet}_recall_{name}": recall}
    return metrics


def compare_sets(
    run: Run, config: Config, samples: Drawn, nets: Sequence[PretrainedFeatures], folder: Path | None = None
) -> list[str]:
    """Compare an autoencoder's reconstructions, and samples of its priors, with real images; store all in its result.

    With the images of a folder or, without one, with half of the held-out images, the other half being reconstructed.
    Without networks only copies are counted. Returns a line for each set, and for each figure that means little. Raises
    `ArgumentError` or `DataError` for fewer than 4 images in a set.
    """
    model, packed = load_vqvae(run).to(pick_device(config)), load_images(config)
    if folder is None:
        (reference, real), against, where = held_out_halves(packed), None, "others held out"
    else:
        (reference, left_out), real = images_in(folder, config), packed.images[packed.val_rows]
        against, where = folder.resolve().name, f"of {folder}; {left_out} unusable files left out"
    metrics: dict[str, Any] = distance_metrics(model, reference, real, samples, nets, config.seed)
    if samples and packed.fingerprint == run.result()["data"]:  # else of an export, whose training images are not here
        codes = np.stack([extract_codes(run, config, view) for view in (0, 1)])
        drawn = {name: grids.cpu().numpy() for name, grids in samples.items()}
        for name, found in novelty(drawn, codes[:, packed.train_rows], codes[0, packed.val_rows]).items():
            metrics |= {f"copies_{name}": found.copies, "copies_held_out": found.held_out_copies}
    stored, few = run.result(), min(len(reference), int(metrics["distance_images"]))
    if stored.get("against") != against:  # distances to other images are not comparable with these
        old = [key for key in stored if key.startswith(("fid_", "kid_", "frechet_", "kernel_"))]
        keep(run, dict.fromkeys(old) | {"against": against})
    keep(run, metrics)
    lines = [f"{int(metrics['distance_images'])} images in each set, compared with {len(reference)} {where}"]
    told = {name: ", ".join(_told(name, metrics, nets)) for name in ("floor", "reconstructions", *samples)}
    lines += [f"{name}: {figures}" for name, figures in told.items() if figures]
    if nets and few < distances.FEW:
        lines.append(f"no Fréchet distance, only the kernel distance: {few} images, and it needs {distances.FEW}")
    elif few < distances.FID_WANTS and "fid_floor" in metrics:
        lines.append(f"FID on {few} images, fewer than {distances.FID_WANTS}, is biased upwards; KID is unbiased")
    if nets and few < distances.STEADY:
        lines.append(f"precision and recall on {few} images, fewer than {distances.STEADY}, are mostly chance")
    return lines


def _told(name: str, metrics: dict[str, Any], nets: Sequence[PretrainedFeatures]) -> Iterator[str]:
    """The metrics of one set, in words."""
    for net in nets:
        frechet, kernel = f"{net.frechet}_{name}", f"{net.kernel}_{name}"
        if frechet in metrics:
            ratio = f" ({metrics[f'{frechet}_ratio']:.2f}× reconstructions)" if f"{frechet}_ratio" in metrics else ""
            yield f"{net.frechet} {metrics[frechet]:,.1f}{ratio}"
        yield f"{net.kernel} {metrics[kernel]:.3g} ± {metrics[f'{kernel}_std']:.2g}"
        yield from (f"{kind} {metrics[f'{net.frechet}_{kind}_{name}']:.2f}" for kind in ("precision", "recall"))
    if f"copies_{name}" in metrics:
        copied, usual = (100 * metrics[f"copies_{key}"] for key in (name, "held_out"))
        yield f"copies {copied:.1f} % (held-out images {usual:.1f} %)"
