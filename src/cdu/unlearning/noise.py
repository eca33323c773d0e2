"""Gaussian noise on weights."""

import math

import torch
from torch import Tensor

from cdu.checks import expect

#: A standard normal vector is longer than √p + this with a probability below e^(−72).
_TAIL = 12.0


def noise_norm(size: int) -> float:
    """A norm that a vector of ``size`` standard normal numbers exceeds with a probability below 10⁻³¹."""
    return math.sqrt(size) + _TAIL


def draw_noise(w: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers for every weight, drawn on the CPU in the weights' type.

    Args:
        w: The weights, shape (p,).
        generator: Draws them.

    Raises:
        CduError: They are longer than :func:`noise_norm`, which no working generator gives.
    """
    noise = torch.randn(w.shape, generator=generator, dtype=w.dtype)
    length = noise.double().norm().item()
    expect(
        length <= noise_norm(len(w)),
        f"{len(w):,} standard normal numbers have the norm {length:.4g}, which happens with a probability below "
        "1e-31; the generator is broken",
    )
    return noise.to(w.device)


def expect_noise_shows(w: "Tensor", sigma: float) -> None:
    """Refuse noise of σ that is lost in the rounding of the weights it is added to."""
    import torch

    largest = w.abs().max().item() if sigma else 0.0
    expect(
        sigma >= 4 * torch.finfo(w.dtype).eps * largest,
        f"sigma = {sigma:g} is lost in the rounding of {w.dtype} weights of up to {largest:.3g}; use float64",
    )
