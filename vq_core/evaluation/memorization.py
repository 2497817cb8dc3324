"""Copies: how near the codes of generated images are to those of training images, compared with unseen real ones."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Integer

Codes = Integer[np.ndarray, "_ h w"]
Views = Integer[np.ndarray, "v n h w"]


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


def novelty(samples: dict[str, Codes], train: Views, held_out: Codes) -> dict[str, Novelty]:
    """Compare sets of samples with training images, of which `train` are the codes as they are and mirrored.

    Unlike pixels, codes tell of a picture of which a large part is copied while the rest is new.
    """
    flat = train.reshape(len(train) * train.shape[1], -1)

    def nearest(grids: Codes) -> tuple[Float[np.ndarray, " _"], Int[np.ndarray, " _"]]:
        differ = [(flat != grid.ravel()).mean(axis=1) for grid in grids.astype(train.dtype)]
        return np.array([d.min() for d in differ]), np.array([d.argmin() % train.shape[1] for d in differ])

    usual, _ = nearest(held_out)
    found = {name: nearest(grids) for name, grids in samples.items()}
    return {name: Novelty(distance, usual, which) for name, (distance, which) in found.items()}
