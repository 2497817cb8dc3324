"""What codes mean: where they occur, which patches they stand for, and which attributes can be read off them."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from vq_core.data.augment import to_pictures
from vq_core.data.packed import PackedImages
from vq_core.models import VQVAE
from vq_core.models.kmeans import inertia
from vq_core.models.metrics import usage
from vq_core.models.quantizer_ema import nearest_codes, perplexity

CodeGrids = Integer[np.ndarray, "n h w"]


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
def decoded_codes(model: VQVAE, codes: CodeGrids, images: int = 400) -> UInt8[np.ndarray, "k s s 3"]:
    """What each code decodes to, with one cell around it: the most typical of its occurrences in decoded images.

    That is the one nearest to the mean over (at most 500 of) all occurrences in the first `images` grids, and in one
    more for each code that these lack. A code that no grid contains is shown as the decoding of a grid filled with it.
    """
    known, first = np.unique(codes, return_index=True)
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
