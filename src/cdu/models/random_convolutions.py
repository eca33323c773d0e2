"""Random convolutional features of images, which depend on no training sample.

Coates & Ng (2011), "The Importance of Encoding Versus Training with Sparse Coding and Vector Quantization": patches are
normalised and whitened, multiplied with random filters, and encoded by a soft threshold; what is found is averaged over
a grid. There the whitening is that of the training images. Here it is that of a prior.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, conv2d, softshrink

from cdu.checks import expect, expect_count, expect_not_negative
from cdu.seeding import generator

#: Added to a patch's variance, of pixels in [0, 1]: Coates & Ng's 10, of pixels up to 255.
FLAT = 10 / 255**2
#: The prior: pixels are blurred over this distance, and correlated up to the other; what two colours share.
BLUR, EXTENT, SHARED = 0.5, 32.0, 0.9
#: Added to the prior's variances before whitening, relative to their mean.
NOISE = 0.1
#: Filters whose responses are computed at once.
AT_ONCE = 32


class RandomConvolutions(nn.Module):
    """Features by random filters: normalise every patch, filter, soft threshold, average over a grid of cells.

    Of a patch p with mean m and variance v, and a filter f, the features are the averages of

        max(0, z − α) and max(0, −z − α) with z = fᵀ W (p − m)/√(v + c)

    over the patches of a cell. f is Gaussian from a fixed seed and has norm 1. W is :func:`whitening`, or 1. A second
    layer does the same with the first one's features, averaged over squares of 2 × 2, in place of pixels.

    Args:
        colours: Of the images.
        filters: In every layer.
        size: Height and width of a filter of the first layer; those of a second layer have 3.
        cells: The image is averaged over cells × cells regions.
        threshold: α.
        stride: Every so many-th patch of the first layer is taken, in both directions.
        layers: 1 or 2.
        whitened: Whether the first layer's patches are.
        seed: Of the filters.
        dtype: Of the images.

    Attributes:
        channels: Features in a cell, twice the filters.

    Raises:
        CduError: A number is out of range.

    Example:
        >>> import torch
        >>> features = RandomConvolutions(3, filters=10)
        >>> print(features.channels, tuple(features(torch.rand(5, 3, 32, 32)).shape))
        20 (5, 20, 2, 2)
    """

    def __init__(
        self,
        colours: int,
        filters: int = 500,
        size: int = 6,
        cells: int = 2,
        threshold: float = 1.0,
        stride: int = 1,
        layers: int = 1,
        whitened: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        expect_count(colours=colours, filters=filters, size=size, cells=cells, stride=stride)
        expect_not_negative(threshold=threshold)
        expect(layers in (1, 2), f"{layers} layers of random convolutions are not available; choose 1 or 2")
        self.cells, self.threshold, self.stride, self.channels = cells, threshold, stride, 2 * filters
        drawn = _drawn(filters, colours, size, seed, 1)
        if whitened:
            drawn = (drawn.flatten(1) @ whitening(colours, size)).view_as(drawn)
        second = [_drawn(filters, 2 * filters, 3, seed, 2)] if layers == 2 else []
        self.layers = 1 + len(second)
        for number, kernels in enumerate([drawn, *second]):
            centred = kernels - kernels.mean(dim=(1, 2, 3), keepdim=True)
            self.register_buffer(f"filters_{number}", centred.to(dtype), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The features of images.

        Args:
            images: Shape (n, colours, height, width), pixels in [0, 1].

        Returns:
            Shape (n, 2 · filters, cells, cells).
        """
        for number in range(self.layers - 1):
            signs = self._encoded(images, number, lambda maps: avg_pool2d(maps, 2))
            images = torch.cat(signs, dim=1)
        found: Tensor = torch.cat(self._encoded(images, self.layers - 1, self._in_cells), dim=1)
        return found.view(*found.shape[:2], self.cells, self.cells)

    def _encoded(self, maps: Tensor, number: int, pool: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The averages of max(0, z − α) and of max(0, −z − α), for the responses z of one layer's filters."""
        filters: Tensor = self.get_buffer(f"filters_{number}")
        size, stride = filters.shape[-1], self.stride if number == 0 else 1
        expect(
            min(maps.shape[2:]) >= size + (stride if number + 1 < self.layers else 0),
            f"filters of {size} x {size} do not fit maps of {maps.shape[2]} x {maps.shape[3]}; take smaller filters, "
            "or fewer layers",
        )
        # Deviations from one number for each image: patches have the same variances, with less rounding.
        maps = maps - maps.mean(dim=(1, 2, 3), keepdim=True)
        mean, square = (avg_pool2d(part.mean(dim=1, keepdim=True), size, stride) for part in (maps, maps * maps))
        scale = torch.rsqrt((square - mean * mean).clamp(min=0) + FLAT)
        differences, sums = [], []
        # A few filters at a time: their responses stay in the processor's cache.
        for some in filters.split(AT_ONCE):
            # max(0, z − α) − max(0, −z − α), whose modulus is the sum of both.
            shrunk = softshrink(conv2d(maps, some, stride=stride).mul_(scale), self.threshold)
            differences.append(pool(shrunk))
            sums.append(pool(shrunk.abs_()))
        difference, total = torch.cat(differences, dim=1), torch.cat(sums, dim=1)
        return (total + difference) / 2, (total - difference) / 2

    def _in_cells(self, maps: Tensor) -> Tensor:
        """Averages over a grid of cells, shape (n, maps, cells²)."""
        places = torch.eye(maps.shape[2] * maps.shape[3], dtype=maps.dtype, device=maps.device)
        weights = adaptive_avg_pool2d(places.unflatten(1, maps.shape[2:]), self.cells).flatten(1)
        return maps.flatten(2) @ weights


def whitening(colours: int, size: int) -> Tensor:
    """The matrix that makes patches white under a fixed prior of natural images: (PCP + noise)^(−1/2).

    Natural images have a spectrum of about ``1/|k|²`` (Field, 1987). In the plane that of a covariance
    log(R/√(r² + b²)) is such a one, between the frequencies 1/R and 1/b: it solves Laplace's equation but for the blur
    b. Two different colours have SHARED times the covariance of one. P subtracts a patch's mean. No image is looked at.

    Args:
        colours: Of a patch.
        size: Height and width of a patch.

    Returns:
        Shape (d, d) with d = colours · size², float64, symmetric.
    """
    places = torch.cartesian_prod(*[torch.arange(size, dtype=torch.float64)] * 2)
    squares = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    pixels = math.log(EXTENT) - 0.5 * torch.log(squares + BLUR**2)
    shared = torch.full((colours, colours), SHARED, dtype=torch.float64).fill_diagonal_(1.0)
    covariance = torch.kron(shared, pixels)
    centred = torch.eye(len(covariance), dtype=torch.float64) - 1 / len(covariance)
    covariance = centred @ covariance @ centred
    variances: Tensor
    directions: Tensor
    variances, directions = torch.linalg.eigh(covariance / covariance.diagonal().mean())
    return (directions * (variances + NOISE).rsqrt()) @ directions.T


def _drawn(filters: int, colours: int, size: int, seed: int, layer: int) -> Tensor:
    """Gaussian filters of norm 1, shape (filters, colours, size, size)."""
    stream = generator(seed, "random convolutions", layer, size)
    drawn = torch.randn(filters, colours, size, size, generator=stream, dtype=torch.float64)
    lengths: Tensor = drawn.flatten(1).norm(dim=1)
    return drawn / lengths.view(-1, 1, 1, 1)
