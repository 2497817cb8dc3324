"""The codes that a finished autoencoder gives to all images: computed once, then kept in its run's folder."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt16
from tqdm.auto import tqdm

from vq_core.config import Config, pick_device
from vq_core.data.images import images_of
from vq_core.data.packed import PackedImages
from vq_core.errors import RunError
from vq_core.files import save_array
from vq_core.runs.finding import load_images
from vq_core.runs.folders import Run
from vq_core.runs.loading import load_vqvae


@torch.no_grad()
def extract_codes(run: Run, config: Config, flipped: bool = False) -> UInt16[np.ndarray, "n h w"]:
    """Codes of all packed images (or of their mirror images) from a run's best autoencoder.

    Kept in the run's folder as `codes.npy` (`codes-flipped.npy`). Raises `RunError` if the packed images are not those
    that the run was trained on.
    """
    path = run.folder / ("codes-flipped.npy" if flipped else "codes.npy")
    if not path.is_file():
        _write_codes(path, run, load_images(config), config, flipped)
    return np.load(path)


def _write_codes(path: Path, run: Run, packed: PackedImages, config: Config, flipped: bool) -> None:
    if packed.fingerprint != run.result()["data"]:
        raise RunError(f"{packed.folder}: no longer holds the images that {run.name} was trained on; start again")
    device = pick_device(config)
    with torch.random.fork_rng(
        devices=[]
    ):  # so that a training draws the same numbers whether the codes existed or not
        model = load_vqvae(run).to(device)
    batches = np.array_split(np.arange(len(packed.images)), -(-len(packed.images) // 64))
    parts = []
    for rows in tqdm(batches, desc="codes of flipped images" if flipped else "codes", unit="batch", leave=False):
        x = images_of(packed, rows).to(device)
        parts.append(model.encode(x.flip(-1) if flipped else x).cpu().numpy())
    save_array(path, np.concatenate(parts).astype(np.uint16))
