"""What codes mean: where they occur, which patches they stand for; and copies, whose codes are nearly all known."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Integer, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from vq_core.data.augment import to_pictures
from vq_core.data.packed import PackedImages
from vq_core.models import VQVAE
from vq_core.models.kmeans import inertia
from vq_core.models.metrics import usage
from vq_core.models.quantizer_ema import nearest_codes, perplexity

CodeGrids = Integer[np.ndarray, "_ h w"]


@dataclass(frozen=True)
class CodebookFit:
    """How well a codebook fits given latents."""

    error: float  # mean squared distance to the nearest code, summed over dimensions
    perplexity: float
    used: float  # fraction of codes that at least one latent chose
    counts: np.ndarray  # [K]


def codebook_fit(vectors: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]) -> CodebookFit:
    """Quantise latents with a codebook and measure how well it fits them."""
    counts = usage(nearest_codes(vectors, codebook), len(codebook))
    used = float((counts > 0).float().mean())
    return CodebookFit(inertia(vectors, codebook), float(perplexity(counts)), used, counts.numpy())


def code_patches(packed: PackedImages, codes: CodeGrids, code: int, count: int) -> list[UInt8[np.ndarray, "s s 3"]]:
    """Up to `count` image patches, at most one per image, that map to a code, with one (padded) cell around each."""
    cell = packed.images.shape[1] // codes.shape[1]
    images, rows, columns = np.nonzero(codes == code)
    first = np.unique(images, return_index=True)[1][:count]
    padded = np.pad(packed.images[images[first]], ((0, 0), (cell, cell), (cell, cell), (0, 0)), mode="edge")
    corners = zip(padded, rows[first] * cell, columns[first] * cell, strict=True)
    return [image[top : top + 3 * cell, left : left + 3 * cell] for image, top, left in corners]


@torch.no_grad()
def decoded_codes(model: VQVAE, codes: CodeGrids, images: int = 256) -> UInt8[np.ndarray, "k s s 3"]:
    """What each code decodes to, with one cell around it: the most typical of its occurrences in decoded images.

    That is the one nearest to the mean over (at most 500 of) all occurrences in the first `images` grids, and in one
    more for each code that these lack. A code that no grid contains is shown as the decoding of a grid filled with it.
    """
    complete = len(np.unique(codes[:images])) == model.num_codes  # mostly so; sorting all may take a second
    known, first = np.unique(codes[:images] if complete else codes, return_index=True)
    rows = np.union1d(np.arange(min(images, len(codes))), first // codes[0].size)
    unused = np.setdiff1d(np.arange(model.num_codes), known)
    fields = np.broadcast_to(unused[:, None, None], (len(unused), *codes.shape[1:]))
    grids = torch.from_numpy(np.concatenate([codes[rows], fields]).astype(np.int64))
    decoded = np.concatenate([to_pictures(model.decode(part.to(model.device))) for part in grids.split(64)])
    cell = decoded.shape[1] // codes.shape[1]
    padded = np.pad(decoded, ((0, 0), (cell, cell), (cell, cell), (0, 0)), mode="edge")
    windows = sliding_window_view(padded, (3 * cell, 3 * cell), axis=(1, 2))[:, ::cell, ::cell]
    patches = windows.transpose(0, 1, 2, 4, 5, 3)  # [n, h, w, s, s, 3], a view
    typical = []
    for code in range(model.num_codes):
        places = np.argwhere(grids.numpy() == code)
        own = patches[tuple(places[:: -(-len(places) // 500)].T)]
        far = ((own - own.mean(axis=0, dtype=np.float32)) ** 2).sum(axis=(1, 2, 3))
        typical.append(own[far.argmin()])
    return np.stack(typical)


@dataclass(frozen=True)
class Novelty:
    """Distances to the nearest training image, for samples and for held-out images.

    A distance is the smallest share of codes that differ, place by place, from those of a training image.
    """

    samples: Float[np.ndarray, "b"]
    held_out: Float[np.ndarray, "h"]
    nearest: Int[np.ndarray, "b"]  # the training image nearest to each sample: which of `train`

    @property
    def nearer(self) -> float:
        """Probability that a sample is nearer to a training image than a held-out image is; 0.5 for real images."""
        samples = self.samples[:, None]
        return float((samples < self.held_out).mean() + (samples == self.held_out).mean() / 2)

    @property
    def copies(self) -> float:
        """Fraction of samples nearer to a training image than 99 % of held-out images are; 0.01 for real images."""
        return float((self.samples < np.quantile(self.held_out, 0.01)).mean())

    @property
    def held_out_copies(self) -> float:
        """The same of held-out images: about 0.01, but less if many are equally near."""
        return float((self.held_out < np.quantile(self.held_out, 0.01)).mean())


def novelty(
    samples: dict[str, CodeGrids], train: Integer[np.ndarray, "v n h w"], held_out: CodeGrids
) -> dict[str, Novelty]:
    """Compare sets of samples with training images, of which `train` are the codes as they are and mirrored.

    Unlike pixels, codes tell of a picture of which a large part is copied while the rest is new.
    """
    flat = train.reshape(len(train) * train.shape[1], -1)

    def nearest(grids: CodeGrids) -> tuple[Float[np.ndarray, " _"], Int[np.ndarray, " _"]]:
        differ = [(flat != grid.ravel()).mean(axis=1) for grid in grids.astype(train.dtype)]
        return np.array([d.min() for d in differ]), np.array([d.argmin() % train.shape[1] for d in differ])

    usual, _ = nearest(held_out)
    found = {name: nearest(grids) for name, grids in samples.items()}
    return {name: Novelty(distance, usual, which) for name, (distance, which) in found.items()}
