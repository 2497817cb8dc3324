"""Features that need no weights, for the tests of distances."""

from torch import Tensor, nn


class CornerPixels(nn.Module):
    frechet, kernel, figure = "fid", "kid", "Distances of {}; corners"

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :2, :2].flatten(1)
