"""Copies: how near generated images are to training images, in pixels and in codes, compared with unseen real ones."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Integer, UInt8
from sklearn.neighbors import NearestNeighbors

from vq_core.data.duplicates import cell_means
from vq_core.data.packed import PackedImages

Pictures = UInt8[np.ndarray, "_ h w 3"]
Codes = Integer[np.ndarray, "_ h w"]
Views = Integer[np.ndarray, "v n h w"]


@dataclass(frozen=True)
class Novelty:
    """Distances to the nearest training image, for samples and for held-out images."""

    samples: Float[np.ndarray, "b"]
    held_out: Float[np.ndarray, "h"]
    rows: Int[np.ndarray, "b"]  # in the packed images, of the training image nearest to each sample

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


def novelty(samples: Pictures, packed: PackedImages, reconstructed: Pictures) -> Novelty:
    """Compare pictures decoded from a prior's codes with training images.

    `reconstructed` are held-out images passed through the same decoder: the images themselves are sharper than any
    sample and therefore further away.
    """
    distance, rows = nearest_training(np.concatenate([samples, reconstructed]), packed)
    count = len(samples)
    return Novelty(distance[:count], distance[count:], rows[:count])


def code_novelty(samples: dict[str, Codes], train: Views, held_out: Codes) -> dict[str, Novelty]:
    """The same by codes: a distance is the smallest share of codes that differ, by place, from a training image's.

    `train` are the codes of the training images as they are and mirrored. Unlike thumbnails, this notices a picture of
    which a large part is copied while the rest is new.
    """
    flat = train.reshape(len(train) * train.shape[1], -1)

    def nearest(grids: Codes) -> tuple[Float[np.ndarray, " _"], Int[np.ndarray, " _"]]:
        differ = [(flat != grid.ravel()).mean(axis=1) for grid in grids.astype(train.dtype)]
        return np.array([d.min() for d in differ]), np.array([d.argmin() % train.shape[1] for d in differ])

    usual, _ = nearest(held_out)
    found = {name: nearest(grids) for name, grids in samples.items()}
    return {name: Novelty(distance, usual, rows) for name, (distance, rows) in found.items()}


def nearest_training(images: Pictures, packed: PackedImages) -> tuple[Float[np.ndarray, " _"], Int[np.ndarray, " _"]]:
    """Distance of each image to the nearest training image, mirrored or not, and the latter's row.

    The distance is the root mean squared difference (0 to 255) of thumbnails of 32×32, or slightly more if the side is
    not a multiple of 32.
    """
    known = _thumbnails(packed.images[packed.train_rows])
    both = np.concatenate([known, known[:, :, ::-1]]).reshape(2 * len(known), -1)
    asked = _thumbnails(images).reshape(len(images), -1)
    distance, index = NearestNeighbors(n_neighbors=1).fit(both).kneighbors(asked)
    return distance[:, 0] / both.shape[1] ** 0.5, packed.train_rows[index[:, 0] % len(known)]


def _thumbnails(images: Pictures) -> Float[np.ndarray, "b side side 3"]:
    side = images.shape[1]
    return cell_means(images, side // max(1, side // 32)).astype(np.float32)
