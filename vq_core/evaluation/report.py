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
from vq_core.data.ingest import raw_files
from vq_core.data.packed import PackedImages, remapped
from vq_core.errors import ArgumentError, DataError, UnusableImage, tell_once
from vq_core.evaluation import distances
from vq_core.evaluation.analysis import Novelty, novelty
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
Chosen = tuple[Pictures, Int64[np.ndarray, " _"]]  # rows of an array: all at once may not fit in memory
Nets = Sequence[Any]  # networks as in `distances`
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
    parts, counts = list[dict[str, Tensor]](), torch.zeros(model.num_codes)
    for x in (batch.to(device) for batch in _batches(packed.images, rows, 32)):
        out = model.reconstruct(x)
        l1 = (out.x_rec - x).abs().mean(dim=(1, 2, 3))
        metrics = {"psnr": psnr(out.x_rec, x), "ssim": ssim(out.x_rec, x), "l1": l1}
        metrics |= {"energy_rec": gradient_energy(out.x_rec), "energy": gradient_energy(x)}
        if lpips_net is not None:
            metrics["lpips"] = lpips_net.to(device).each(out.x_rec, x)
        parts.append(metrics)
        if out.quantized is not None:
            counts += usage(out.quantized.indices.cpu(), len(counts))
    values = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    made, there = (float(values.pop(name).sum()) for name in ("energy_rec", "energy"))
    sharpness = made / there if there else float("nan")  # of flat images it is undefined
    result = {name: float(value.mean()) for name, value in values.items()} | {"sharpness": sharpness}
    shown = [name for name in ("psnr", "ssim", "lpips") if name in values and len(rows) > 1]
    result |= {f"{name}_se": float(values[name].std() / len(rows) ** 0.5) for name in shown}
    if model.quantize:
        result |= {"perplexity": float(perplexity(counts)), "codes_used": float((counts > 0).float().mean())}
    return result | {"images": float(len(rows))}


def _batches(images: Pictures, rows: np.ndarray, size: int = 64) -> Iterator[Tensor]:
    """The images at these rows as floats, `size` at a time."""
    return (to_float(torch.from_numpy(remapped(images)[some])) for some in np.array_split(rows, -(-len(rows) // size)))


def held_out_halves(packed: PackedImages) -> tuple[Chosen, Chosen]:
    """The first and the second half of the held-out images. Raises `ArgumentError` if a half has fewer than 4."""
    half = len(packed.val_rows) // 2
    if half < distances.FEWEST:
        raise ArgumentError(f"{len(packed.val_rows)} held-out images are too few for distances between their halves")
    return (packed.images, packed.val_rows[:half]), (packed.images, packed.val_rows[half : 2 * half])


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
    model: VQVAE, reference: Chosen, real: Chosen, samples: Drawn, nets: Nets, seed: int, draws: int = 0
) -> dict[str, float]:
    """Compare a reference with other real images (`floor`), their `reconstructions`, and sets of samples, decoded.

    Of each set as many images count as the smallest has (`distance_images`); or, with `draws`, sets are taken whole and
    samples are so many draws, with means and standard deviations (`…_spread`). In SqueezeNet's features the metrics of
    a SET are `frechet_SET` (with at least 513 images) and, for as many samples as reconstructions, `frechet_SET_ratio`
    of the two, `kernel_SET`, `kernel_SET_std` (spread over subsets), `frechet_precision_SET`, `frechet_recall_SET`; in
    Inception's `fid_…`, `kid_…`. The reference itself is no floor. Raises `ArgumentError` for fewer than 4 in a set.
    """
    least, device = min([len(real[1]), *(len(codes) // (draws or 1) for codes in samples.values())]), model.device
    metrics, cut = {"distance_images": float(least)}, None if draws else least
    given = real[0], real[1][:cut]
    for net in nets:
        there = distances.features_of(_batches(*reference), net, device)
        sets: dict[str, Iterable[Tensor]] = {} if real is reference else {"floor": _batches(*given)}
        sets["reconstructions"] = (model(x.to(device)) for x in _batches(*given))
        sets |= {name: map(model.decode, codes[:cut].to(device).split(64)) for name, codes in samples.items()}
        for name, images in sets.items():
            parts = distances.features_of(images, net, device).chunk(draws if draws and name in samples else 1)
            names = [f"{net.kernel}_{name}", f"{net.kernel}_{name}_std"]
            names += [f"{net.frechet}_{kind}{name}" for kind in ("precision_", "recall_", "")]
            values, many = list[list[float]](), min(len(there), len(parts[0])) >= distances.FEW
            for here in parts:
                shares = distances.precision_recall(there, here, draws > 0)
                values.append([*distances.kernel_distance(there, here, seed), *shares])
                values[-1] += [distances.frechet_distance(there, here)] if many else []
            for key, each in zip(names, zip(*values, strict=True), strict=False):  # no Fréchet distance of few images
                metrics[key] = float(np.mean(each))
                metrics |= {f"{key}_spread": float(np.std(each, ddof=1))} if len(each) > 1 else {}
            if names[-1] in metrics and name in samples and len(parts[0]) == len(given[1]):
                metrics[f"{names[-1]}_ratio"] = metrics[names[-1]] / metrics[f"{net.frechet}_reconstructions"]
    return metrics


def compare_codes(run: Run, config: Config, packed: PackedImages, samples: Drawn) -> dict[str, Novelty]:
    """How near samples come to the images that a run was trained on, by the codes that it gives to these."""
    codes = np.stack([extract_codes(run, config, view) for view in (0, 1)])
    drawn = {name: grids.cpu().numpy() for name, grids in samples.items()}
    return novelty(drawn, codes[:, packed.train_rows], codes[0, packed.val_rows])


def compare_sets(
    run: Run, config: Config, samples: Drawn, nets: Nets, against: Path | str | None = None, draws: int = 0
) -> list[str]:
    """Compare an autoencoder's reconstructions, and samples of its priors, with real images; store all in its result.

    With the "training" images, the "held-out" ones or those of a folder or, without any, with half of the held-out
    images, the other half being reconstructed; at equal numbers or, with `draws` of the samples, whole sets. Without
    networks only copies are counted. Returns a line for each set, for each figure that means little, and with its full
    name, stored as `…_figure`. Raises `ArgumentError` or `DataError` for fewer than 4 images in a set.
    """
    model, packed = load_vqvae(run).to(pick_device(config)), load_images(config)
    reference = real = packed.images, packed.val_rows
    where = which = f"{against} images"
    if against is None:
        (reference, real), which, where = held_out_halves(packed), "other held-out images", "others held out"
    elif against == "training":
        if packed.fingerprint != run.result()["data"]:
            raise DataError(f"{run.name}: was trained on other images than those here; give --against a folder of them")
        reference = packed.images, packed.train_rows
    elif against != "held-out":
        pictures, left_out = images_in(Path(against), config)
        where, against = f"of {against}; {left_out} unusable files left out", Path(against).resolve().name
        reference, which = (pictures, np.arange(len(pictures))), f"images of {against}"
    metrics: dict[str, Any] = distance_metrics(model, reference, real, samples, nets, config.seed, draws)
    if samples and packed.fingerprint == run.result()["data"]:  # else of an export, whose training images are not here
        for name, found in compare_codes(run, config, packed, samples).items():
            metrics |= {f"copies_{name}": found.copies, "copies_held_out": found.held_out_copies}
    least, there, size = int(metrics["distance_images"]), len(reference[1]), packed.images.shape[1]
    stored, few, made = run.result(), min(there, least), f"{len(real[1]) if draws else least} reconstructions"
    for many in {len(grids) // draws if draws else least for grids in samples.values()}:
        made = f"{many} samples{f' (mean of {draws} draws)' if draws > 1 else ''} and {made}"
    made += f" against {there} {which}, {size}×{size}"
    names = {f"{net.frechet}_figure": net.figure.format(made) for net in nets}
    stale = [f"{kind}_" for net in nets for kind in (net.frechet, net.kernel)]  # of other sets under the same keys
    if stored.get("against") != against:  # distances to other images are not comparable with these
        metrics["against"], stale = against, ["fid_", "kid_", "frechet_", "kernel_"]
    keep(run, dict.fromkeys(key for key in stored if key.startswith(tuple(stale))) | metrics | names)
    lines = [f"{'all' if draws else least} images in each set, compared with {there} {where}"]
    for name in ("floor", "reconstructions", *samples):
        if figures := ", ".join(_told(name, metrics, nets, 2 if draws else 1)):
            lines.append(f"{name}: {figures}")
    if nets and few < distances.FEW:
        of = " of the smallest set" if draws else ""
        lines.append(f"no Fréchet distance{of}, only the kernel distance: {few} images, and it needs {distances.FEW}")
    elif few < distances.FID_WANTS and "fid_reconstructions" in metrics:
        lines.append(f"FID on {few} images, fewer than {distances.FID_WANTS}, is biased upwards; KID is unbiased")
    if nets and few < distances.STEADY:
        lines.append(f"precision and recall on {few} images, fewer than {distances.STEADY}, are mostly chance")
    return [*lines, *names.values()]


def _told(name: str, metrics: dict[str, Any], nets: Nets, digits: int) -> Iterator[str]:
    """The metrics of one set, in words."""
    for net in (net for net in nets if f"{net.kernel}_{name}" in metrics):
        frechet, kernel = f"{net.frechet}_{name}", f"{net.kernel}_{name}"
        if frechet in metrics:
            ratio = f" ({metrics[f'{frechet}_ratio']:.2f}× reconstructions)" if f"{frechet}_ratio" in metrics else ""
            yield f"{net.frechet} {metrics[frechet]:,.{digits}f}{ratio}"
        yield f"{net.kernel} {metrics[kernel]:.3g} ± {metrics[f'{kernel}_std']:.2g}"
        yield from (f"{kind} {metrics[f'{net.frechet}_{kind}_{name}']:.2f}" for kind in ("precision", "recall"))
    yield from (f"{key} {value:.2g}" for key, value in metrics.items() if key.endswith(f"_{name}_spread"))
    if f"copies_{name}" in metrics:
        copied, usual = (100 * metrics[f"copies_{key}"] for key in (name, "held_out"))
        yield f"copies {copied:.1f} % (held-out images {usual:.1f} %)"
