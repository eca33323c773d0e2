"""Random convolutional features against a reference patch by patch."""

import math

import pytest
import torch
from torch import Tensor

from cdu.errors import CduError
from cdu.models.random_convolutions import BLUR, EXTENT, FLAT, NOISE, SHARED, RandomConvolutions, whitening


def images(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(maps: Tensor, filters: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Both signs of every response, one patch and one filter after another, for one image."""
    count, _, size, _ = filters.shape
    height, width = (side - size + 1 for side in maps.shape[1:])
    found = torch.zeros(count, height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            patch = maps[:, row : row + size, column : column + size].flatten()
            patch = (patch - patch.mean()) / (patch.var(correction=0) + FLAT).sqrt()
            found[:, row, column] = filters.flatten(1) @ patch
    return (found - threshold).clamp(min=0), (-found - threshold).clamp(min=0)


@pytest.mark.parametrize(
    ("colours", "size", "cells", "threshold", "whitened", "seed"),
    [(1, 3, 2, 0.0, False, 0), (3, 4, 2, 0.5, True, 1), (3, 2, 1, 0.25, True, 2)],
)
def test_is_that_of_single_patches(
    colours: int, size: int, cells: int, threshold: float, whitened: bool, seed: int
) -> None:
    features = RandomConvolutions(colours, 40, size, cells, threshold, 1, 1, whitened, seed, torch.float64)
    given = images(seed, 2, colours, 7 + size, 7 + size)  # 8 x 8 patches
    for image, found in zip(given, features(given), strict=True):
        signs = torch.cat(layer(image, features.get_buffer("filters_0"), threshold))
        side = 8 // cells
        expected = signs.unflatten(2, (cells, side)).unflatten(1, (cells, side)).mean(dim=(2, 4))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_two_layers() -> None:
    features = RandomConvolutions(3, 5, 3, 2, 0.25, 1, 2, True, 0, torch.float64)
    image = images(3, 1, 3, 14, 14)
    first = torch.cat(layer(image[0], features.get_buffer("filters_0"), 0.25))  # 12 x 12
    pooled = first.unflatten(2, (6, 2)).unflatten(1, (6, 2)).mean(dim=(2, 4))
    second = torch.cat(layer(pooled, features.get_buffer("filters_1"), 0.25))  # 4 x 4
    expected = second.unflatten(2, (2, 2)).unflatten(1, (2, 2)).mean(dim=(2, 4))
    torch.testing.assert_close(features(image)[0], expected, rtol=0, atol=1e-11)


def test_every_second_patch() -> None:
    """With cells of one patch each, they are every second of those that there are."""
    image = images(7, 2, 3, 10, 10)
    some, every = (
        RandomConvolutions(3, 6, 3, cells, 0.25, stride, dtype=torch.float64)(image)
        for cells, stride in ((4, 2), (8, 1))
    )
    torch.testing.assert_close(some, every[..., ::2, ::2], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("colours", "size"), [(1, 2), (1, 6), (3, 4), (3, 6)])
def test_whitening_makes_the_prior_white(colours: int, size: int) -> None:
    """W (PCP + noise) W = 1, for a covariance with no negative variance."""
    count = colours * size**2
    covariance = torch.zeros(count, count, dtype=torch.float64)
    for first in range(count):
        for second in range(count):
            (one, place), (other, place2) = divmod(first, size**2), divmod(second, size**2)
            square = (place // size - place2 // size) ** 2 + (place % size - place2 % size) ** 2
            covariance[first, second] = (1.0 if one == other else SHARED) * math.log(
                EXTENT / math.sqrt(square + BLUR**2)
            )
    covariance = covariance - covariance.mean(dim=0) - covariance.mean(dim=1, keepdim=True) + covariance.mean()
    covariance = covariance / (covariance.trace() / count)
    assert torch.linalg.eigvalsh(covariance).min() > -1e-12
    matrix, unit = whitening(colours, size), torch.eye(count, dtype=torch.float64)
    torch.testing.assert_close(matrix @ (covariance + NOISE * unit) @ matrix, unit, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_brightness_and_contrast_do_not_matter(seed: int) -> None:
    """Only the constant beside a patch's variance tells contrasts apart."""
    features, image = (
        RandomConvolutions(1, 30, 5, 2, 0.25, whitened=True, dtype=torch.float64),
        images(seed, 1, 1, 16, 16),
    )
    found = features(image)
    torch.testing.assert_close(features(image + 0.3), found, rtol=0, atol=1e-11)
    torch.testing.assert_close(features(2 * image), found, rtol=0.01, atol=0.001)
    assert features(image).max() > 0.1
    assert features(torch.full_like(image, 0.3)).abs().max() < 1e-9


def test_an_inverted_image_exchanges_signs() -> None:
    features, image = RandomConvolutions(3, 30, 5, dtype=torch.float64), images(4, 2, 3, 16, 16)
    torch.testing.assert_close(features(1 - image), features(image).roll(30, 1), rtol=0, atol=1e-11)


def test_filters_are_fixed() -> None:
    first, again, other = (RandomConvolutions(3, 10, seed=seed).get_buffer("filters_0") for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_single_precision() -> None:
    image = images(5, 3, 3, 32, 32)
    single, double = (RandomConvolutions(3, 30, dtype=dtype) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(single(image.float()).double(), double(image), rtol=1e-3, atol=1e-4)


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(CduError, match="filters of 6 x 6 do not fit maps of 4 x 4"):
        RandomConvolutions(1, 5)(images(0, 1, 1, 4, 4))
    with pytest.raises(CduError, match="filters of 3 x 3 do not fit maps of 1 x 1"):
        RandomConvolutions(1, 5, layers=2, dtype=torch.float64)(images(0, 1, 1, 8, 8))
    with pytest.raises(CduError, match="3 layers of random convolutions are not available"):
        RandomConvolutions(1, layers=3)
