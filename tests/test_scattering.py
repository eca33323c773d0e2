"""The scattering transform against a plain reference, and its invariants."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import convolve2d
from torch import Tensor

from cdu.errors import CduError
from cdu.models.scattering import Scattering, gaussian, morlet


def images(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scattering(side: int = 28, scales: int = 2, angles: int = 8) -> Scattering:
    return Scattering(side, side, scales, angles, torch.float64)


def convolved(image: NDArray[np.float64], kernel: Tensor) -> NDArray[np.complex128]:
    """The convolution at every pixel, by SciPy."""
    border = kernel.shape[0] // 2
    found: NDArray[np.complex128] = convolve2d(np.pad(image, border, mode="reflect"), kernel.numpy(), mode="valid")
    return found


def reference(image: NDArray[np.float64], scales: int, angles: int) -> list[NDArray[np.float64]]:
    """Every coefficient from convolutions at every pixel, of which some are then kept."""
    turns = [turn * math.pi / angles for turn in range(angles)]

    def mean(values: NDArray[np.float64], resolution: int) -> NDArray[np.float64]:
        left = scales - resolution
        low = gaussian(left - 1)
        return convolved(values, torch.outer(low, low)).real[:: 2**left, :: 2**left]

    def modulus(values: NDArray[np.float64], scale: int, angle: float) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.abs(convolved(values, morlet(scale, angle, angles)))
        return found[:: 2**scale, :: 2**scale]

    found, second = [mean(image, 0)], []
    for first in range(scales):
        moduli = [modulus(image, first, angle) for angle in turns]
        found += [mean(values, first) for values in moduli]
        for scale in range(first + 1, scales):
            second += [mean(modulus(values, scale - first, angle), scale) for values in moduli for angle in turns]
    return found + second


@pytest.mark.parametrize(("side", "scales", "angles", "seed"), [(12, 2, 3, 0), (8, 1, 8, 1), (24, 3, 2, 2)])
def test_is_that_of_plain_convolutions(side: int, scales: int, angles: int, seed: int) -> None:
    given_images = images(seed, 2, 1, side, side)
    found = scattering(side, scales, angles)(given_images)
    for image, coefficients in zip(given_images[:, 0].numpy(), found.numpy(), strict=True):
        np.testing.assert_allclose(coefficients, np.stack(reference(image, scales, angles)), rtol=0, atol=1e-12)


def test_sides_may_differ() -> None:
    image = images(3, 1, 1, 16, 24)
    found = Scattering(16, 24, 2, 2, torch.float64)(image)
    np.testing.assert_allclose(found[0].numpy(), np.stack(reference(image[0, 0].numpy(), 2, 2)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("scales", "angles"), [(1, 4), (1, 8), (2, 6), (2, 8), (3, 3), (3, 4)])
def test_channels_by_the_formula(scales: int, angles: int) -> None:
    transform = scattering(32, scales, angles)
    pairs = sum(1 for first in range(scales) for _ in range(first + 1, scales))
    assert transform.channels == 1 + scales * angles + pairs * angles**2
    assert transform(images(0, 2, 3, 32, 32)).shape == (2, 3 * transform.channels, 32 // 2**scales, 32 // 2**scales)


def test_colours_one_after_another() -> None:
    transform, coloured = scattering(16), images(1, 2, 3, 16, 16)
    parts = [transform(coloured[:, [colour]]) for colour in range(3)]
    torch.testing.assert_close(transform(coloured), torch.cat(parts, dim=1), rtol=0, atol=1e-13)


def test_a_constant_image_is_its_own_mean() -> None:
    found = scattering()(torch.full((1, 1, 28, 28), 0.7, dtype=torch.float64))
    torch.testing.assert_close(found[:, :1], torch.full_like(found[:, :1], 0.7), rtol=0, atol=1e-13)
    assert found[:, 1:].abs().max() < 1e-13


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_sums_of_filters(scale: int) -> None:
    assert gaussian(scale).sum() == pytest.approx(1, abs=1e-14)
    for turn in range(8):
        assert morlet(scale, turn * math.pi / 8, 8).sum().abs() < 1e-13


@pytest.mark.parametrize(("scales", "angles"), [(1, 4), (1, 8), (2, 6), (2, 8), (2, 16), (3, 8)])
def test_filters_do_not_add_energy(scales: int, angles: int) -> None:
    """|φ|² + ½ Σ |ψ(ω)|² + |ψ(−ω)|² ≤ 1, and is nowhere near 0 within the band: Bruna & Mallat (2013), (2.7)."""
    size = 128
    low = torch.fft.fft(gaussian(scales - 1), size).abs() ** 2
    energy = torch.outer(low, low)
    for scale in range(scales):
        for turn in range(angles):
            power = torch.fft.fft2(morlet(scale, turn * math.pi / angles, angles), s=(size, size)).abs() ** 2
            energy += 0.5 * (power + power.flip(0, 1).roll((1, 1), (0, 1)))
    assert energy.max() < 1.02
    assert energy[0, 0] == pytest.approx(1, abs=1e-12)
    frequencies = torch.fft.fftfreq(size, dtype=torch.float64)
    inner = frequencies[:, None].hypot(frequencies[None]) < 0.4
    assert energy[inner].min() > 0.25


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), smoothness=st.integers(0, 4))
def test_energy_does_not_grow(seed: int, smoothness: int) -> None:
    """2^{2J} ‖Sx‖² ≤ ‖x‖² but for what the reflected border counts twice."""
    image = images(seed, 1, 1, 16, 16) - 0.5
    for _ in range(smoothness):
        image = (image + image.roll(1, 2) + image.roll(1, 3)) / 3
    assert 16 * scattering(16).forward(image).square().sum() <= 1.1 * image.square().sum()


@pytest.mark.parametrize("seed", range(3))
def test_a_shift_by_a_pixel_changes_little(seed: int) -> None:
    image = images(seed, 1, 1, 32, 32)
    transform, moved = scattering(32), image.roll(1, 3)
    change = (transform(moved) - transform(image)).norm() / transform(image).norm()
    assert change < 0.25 * (moved - image).norm() / image.norm()


def test_a_transposed_image_swaps_angles() -> None:
    """θ becomes π/2 − θ; the pixels that are kept are those that were kept."""
    transform, image = scattering(16, 2, 8), images(5, 1, 1, 16, 16)
    found, other = transform(image)[0], transform(image.mT)[0].mT
    angle = (4 - torch.arange(8)) % 8
    first = [0, *(1 + angle), *(9 + angle)]
    second = 17 + (8 * angle[:, None] + angle[None]).flatten()
    torch.testing.assert_close(other, found[torch.tensor([*first, *second])], rtol=0, atol=1e-12)


def test_a_turn_by_90_degrees_turns_angles() -> None:
    """The image is 0 near its borders, and is moved so that the pixels that are kept are turned into one another."""
    transform, image = scattering(64, 2, 8), torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    image[..., 29:36, 28:35] = images(6, 7, 7)
    turned = image.rot90(1, (2, 3)).roll(1, 2)
    angle = (4 + torch.arange(8)) % 8
    order = torch.tensor([0, *(1 + angle), *(9 + angle), *(17 + (8 * angle[:, None] + angle[None]).flatten())])
    expected = transform(image)[0, order].rot90(1, (1, 2)).roll(1, 1)
    torch.testing.assert_close(transform(turned)[0], expected, rtol=0, atol=1e-12)


def test_single_precision() -> None:
    image = images(7, 3, 1, 28, 28)
    found = Scattering(28, 28)(image.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), scattering()(image), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("side", "scales"), [(30, 2), (8, 2), (4, 1)])
def test_refuses_images_that_do_not_fit(side: int, scales: int) -> None:
    with pytest.raises(CduError, match=f"images of {side} x {side} pixels cannot be scattered at {scales} scales"):
        Scattering(side, side, scales)


def test_refuses_images_of_another_size() -> None:
    with pytest.raises(CduError, match=r"images are of shape \(1, 32, 32\)"):
        scattering(28)(images(0, 1, 1, 32, 32))
