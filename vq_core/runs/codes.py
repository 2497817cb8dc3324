"""The codes that a finished autoencoder gives to all images: computed once, then kept in its run's folder."""

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt16
from tqdm.auto import tqdm

from vq_core.config import Config, data_dir
from vq_core.data.augment import augment, crop
from vq_core.data.images import images_of
from vq_core.errors import RunError, tell_once
from vq_core.files import load_array, owned, save_array
from vq_core.machine import pick_device
from vq_core.runs.finding import load_images
from vq_core.runs.folders import Run
from vq_core.runs.loading import load_vqvae

_BATCH, _PART = 64, 64  # images in a batch, batches in a part


@torch.no_grad()
def extract_codes(run: Run, config: Config, view: int = 0) -> UInt16[np.ndarray, "n h w"]:
    """Codes of one view of all packed images from a run's best autoencoder.

    View 0 are the images themselves, view 1 their mirror images; each further one is lightly cropped, recoloured and
    mirrored at random. Kept in the run's folder as `codes.npy`, `codes-flipped.npy`, `codes-view2.npy`, … Raises
    `RunError` if the packed images are not those that the run was trained on.
    """
    path = run.results / ["codes.npy", "codes-flipped.npy", f"codes-view{view}.npy"][min(view, 2)]
    if (codes := _kept(path, config)) is not None:
        return codes
    with owned(data_dir() / ".locks" / f"{run.name}-codes", "extracting codes", wait=True):
        if (codes := _kept(path, config)) is None:  # nor has another process just written them
            if path.is_file():
                tqdm.write(f"{path}: is damaged; the codes are extracted anew")
            codes = _extracted(run, config, view, path.with_name(f"{path.stem}.parts"))
            _save(path, codes)
            shutil.rmtree(path.with_name(f"{path.stem}.parts"), ignore_errors=True)
    return codes


def _kept(path: Path, config: Config) -> np.ndarray | None:
    with suppress(RunError, FileNotFoundError):
        codes = load_array(path)
        if codes.dtype == np.uint16 and codes.ndim == 3 and codes.max(initial=0) < config.model.num_codes:
            return codes
    return None


def _extracted(run: Run, config: Config, view: int, parts: Path) -> UInt16[np.ndarray, "n h w"]:
    """Computed in parts, each kept in a file until all are there: a kill loses at most a minute's work."""
    packed = load_images(config).verify()
    if packed.fingerprint != run.result()["data"]:
        raise RunError(f"{packed.folder}: no longer holds the images that {run.name} was trained on; start again")
    device = pick_device(config)
    with torch.random.fork_rng(devices=[]):  # a training draws the same numbers whether the codes existed or not
        model = load_vqvae(run).to(device)
    batches = np.array_split(np.arange(len(packed.images)), -(-len(packed.images) // _BATCH))
    done, generator = list[np.ndarray](), torch.Generator().manual_seed(config.seed * 1_000_003 + view)
    for first in tqdm(range(0, len(batches), _PART), desc=f"codes, view {view + 1}", unit="part", leave=False):
        path, codes = parts / f"{first:06d}.npy", list[np.ndarray]()
        kept = _kept(path, config)
        for rows in batches[first : first + _PART] if kept is None or view > 1 else ():
            x = images_of(packed, rows).to(device)
            if view > 1:  # also where codes are kept: the generator goes on from there
                x = augment(crop(x, generator), config.data, generator)
            if kept is None:
                codes.append(model.encode(x.flip(-1) if view == 1 else x).cpu().numpy().astype(np.uint16))
        if kept is None:
            kept = np.concatenate(codes)
            if len(batches) > _PART:
                _save(path, kept)
        done.append(kept)
    return np.concatenate(done)


def _save(path: Path, codes: np.ndarray) -> None:
    """Keep codes, if the folder can be written to; otherwise that is said once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_array(path, codes)
    except OSError as error:
        tell_once(f"{path.parent}: cannot be written to ({error.strerror}), so the codes are not kept")
