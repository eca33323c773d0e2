"""The scattering transform: features of an image that depend on no training sample.

Its wavelets are fixed in advance. Mallat (2012), "Group Invariant Scattering"; Bruna & Mallat (2013), "Invariant
Scattering Convolution Networks", whose Morlet wavelets these are.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, pad

from cdu.checks import expect, expect_count

#: Standard deviation of the envelope at the finest scale, in pixels, and the frequency at its centre, in radians.
SIGMA, FREQUENCY = 0.8, 3 * math.pi / 4
#: Filters of scale 2^j reach this many times 2^j pixels to each side: five standard deviations.
REACH = 4


class Scattering(nn.Module):
    """Scattering coefficients up to the second order at J scales and L angles.

    With * a convolution, ψ_{j,θ} a Morlet wavelet of scale 2^j and angle θ, and φ a Gaussian of scale 2^J:

        ``S₀ = x * φ,   S₁ = |x * ψ_{j,θ}| * φ,   S₂ = ||x * ψ_{j,θ}| * ψ_{j',θ'}| * φ`` with j < j',

    each taken at every 2^J-th pixel. ``|x * ψ_{j,θ}|`` is kept at every 2^j-th pixel, and what is convolved is
    reflected at its borders. Filters are cut off at :data:`REACH` · 2^j pixels; then a wavelet has mean 0 and φ has
    sum 1, so that a constant image c gives S₀ = c and nothing else.

    Args:
        height: Of the images, a multiple of 2^J.
        width: Of the images, a multiple of 2^J.
        scales: J.
        angles: L; θ is a multiple of π/L.
        dtype: Of the images, float32 or float64.

    Attributes:
        channels: Coefficients at a place: 1 + JL + L²J(J − 1)/2.

    Raises:
        CduError: The images' sides are no multiples of 2^J, or are too small to be reflected.

    Example:
        >>> import torch
        >>> scattering = Scattering(28, 28)
        >>> print(scattering.channels, tuple(scattering(torch.rand(5, 1, 28, 28)).shape))
        81 (5, 81, 7, 7)
    """

    def __init__(
        self, height: int, width: int, scales: int = 2, angles: int = 8, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        expect_count(height=height, width=width, scales=scales, angles=angles)
        step, border = 2**scales, REACH * 2 ** (scales - 1)
        expect(
            height % step == 0 and width % step == 0 and min(height, width) > border,
            f"images of {height} x {width} pixels cannot be scattered at {scales} scales; their sides are to be "
            f"multiples of {step} above {border}; take fewer scales, or other images",
        )
        self.height, self.width, self.scales, self.angles = height, width, scales, angles
        self.channels = 1 + scales * angles + angles**2 * scales * (scales - 1) // 2
        # A wavelet of scale 2^j' at every 2^j-th pixel is that of scale 2^(j'-j) at every pixel, and φ likewise.
        for scale in range(scales):
            bank = [morlet(scale, turn * math.pi / angles, angles) for turn in range(angles)]
            filters = torch.stack([*(wave.real for wave in bank), *(wave.imag for wave in bank)]).unsqueeze(1)
            self.register_buffer(f"wavelets_{scale}", filters.to(dtype), persistent=False)
            for name, side in (("rows", height), ("columns", width)):
                means = _means(side // 2**scale, scales - scale).to(dtype)
                self.register_buffer(f"{name}_{scale}", means, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The coefficients of images.

        Args:
            images: Shape (n, colours, height, width), floats.

        Returns:
            Shape (n, colours · channels, height/2^J, width/2^J): of each colour S₀, S₁ by j and θ, and S₂ by j, j', θ
            and θ'.
        """
        expect(
            images.shape[2:] == (self.height, self.width),
            f"images are of shape {tuple(images.shape[1:])}; the wavelets are for {self.height} x {self.width} pixels",
        )
        pixels = images.flatten(0, 1).unsqueeze(1)
        found, second = [self._averaged(pixels, 0)], []
        for first in range(self.scales):
            moduli = self._moduli(pixels, first)
            found.append(self._averaged(moduli, first))
            for scale in range(first + 1, self.scales):
                second.append(self._averaged(self._moduli(moduli, scale - first), scale))
        coefficients: Tensor = torch.cat([*found, *second], dim=1).unflatten(0, images.shape[:2])
        return coefficients.flatten(1, 2)

    def _moduli(self, maps: Tensor, scale: int) -> Tensor:
        """The moduli |x * ψ_{j,θ}| for every map x, at every 2^j-th pixel of it: shape (n, maps · L, height, width)."""
        border = REACH * 2**scale
        reflected = pad(maps.flatten(0, 1).unsqueeze(1), (border,) * 4, mode="reflect")
        waves = conv2d(reflected, self.get_buffer(f"wavelets_{scale}"), stride=2**scale)
        real, imaginary = waves.chunk(2, dim=1)
        moduli: Tensor = (real * real).addcmul_(imaginary, imaginary).sqrt_().unflatten(0, maps.shape[:2])
        return moduli.flatten(1, 2)

    def _averaged(self, maps: Tensor, resolution: int) -> Tensor:
        """Maps x * φ at every 2^J-th pixel of the image, from maps x at every 2^resolution-th."""
        # A Gaussian of both coordinates is the product of two.
        return self.get_buffer(f"rows_{resolution}") @ (maps @ self.get_buffer(f"columns_{resolution}").T)


def gaussian(scale: int) -> Tensor:
    """The Gaussian of standard deviation 0.8 · 2^scale, cut off; its sum is 1. Shape (8 · 2^scale + 1,), float64."""
    places = _places(scale)
    values = torch.exp(-(places**2) / (2 * (SIGMA * 2**scale) ** 2))
    return values / values.sum()


def morlet(scale: int, angle: float, angles: int) -> Tensor:
    """A Morlet wavelet: a wave under a Gaussian envelope, less that envelope so that the sum is 0.

    With u along and v across the angle, σ = 0.8 · 2^j, ξ = 3π/4 / 2^j, and s = 4/L the envelope's slant:

        ψ = s/(2πσ²) · exp(−(u² + s²v²)/(2σ²)) · (exp(iξu) − β).

    Args:
        scale: j.
        angle: Of the wave, in radians.
        angles: L, on which the envelope's width across the wave depends.

    Returns:
        Shape (8 · 2^j + 1, 8 · 2^j + 1), complex128; β is such that these values' sum is 0.
    """
    sigma, frequency, slant = SIGMA * 2**scale, FREQUENCY / 2**scale, 4 / angles
    rows, columns = torch.meshgrid(_places(scale), _places(scale), indexing="ij")
    along = rows * math.cos(angle) + columns * math.sin(angle)
    across = -rows * math.sin(angle) + columns * math.cos(angle)
    envelope: Tensor = (
        torch.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2)) * slant / (2 * math.pi * sigma**2)
    )
    wave: Tensor = envelope * torch.exp(1j * frequency * along)
    return wave - wave.sum() / envelope.sum() * envelope


def _places(scale: int) -> Tensor:
    border = REACH * 2**scale
    return torch.arange(-border, border + 1, dtype=torch.float64)


def _means(side: int, scale: int) -> Tensor:
    """The matrix that takes a line of pixels, reflected at its ends, to x * φ at every 2^scale-th."""
    low = gaussian(scale - 1)
    lines = pad(torch.eye(side, dtype=torch.float64).unsqueeze(1), (len(low) // 2,) * 2, mode="reflect")
    means: Tensor = conv1d(lines, low.view(1, 1, -1), stride=2**scale)
    return means.squeeze(1).T
