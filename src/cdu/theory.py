"""Numeric checks of the paper's statements: estimates from below, the truncated Neumann series, fitted slopes."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Normal

from cdu.curvature import Hessian, Product, extreme_eigenvalues, spectral_norm
from cdu.data import Samples
from cdu.errors import CduError
from cdu.objective import Objective


def monte_carlo_delta(
    epsilon: float, sigma: float, sensitivity: float, draws: int, generator: torch.Generator
) -> tuple[float, float]:
    """δ(ε) of the Gaussian mechanism by simulation: the mean of max(0, 1 − q(x)·e^ε/p(x)) over x ~ p, and its error.

    p and q are the densities of the release at distance Δ and of the reference, along the line between their means;
    across it they are the same.

    Args:
        epsilon: ε.
        sigma: Standard deviation of the noise.
        sensitivity: Δ.
        draws: Number of releases simulated.
        generator: Draws them.
    """
    moved, reference = Normal(sensitivity, sigma), Normal(0.0, sigma)
    released = sensitivity + sigma * torch.randn(draws, generator=generator, dtype=torch.float64)
    loss = moved.log_prob(released) - reference.log_prob(released)
    terms = (-torch.expm1(epsilon - loss)).clamp(min=0)
    return terms.mean().item(), (terms.std() / draws**0.5).item()


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent a of the power law y ∝ xᵃ that fits best on log-log axes."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


@dataclass(frozen=True)
class Segment:
    """Lipschitz constants estimated from below along the straight line between two points.

    Attributes:
        gradient_lipschitz: The largest ‖H(w)‖ met at the nodes.
        hessian_lipschitz: The largest ‖H(w) − H(w′)‖ / ‖w − w′‖ over neighbouring nodes.
        length: Distance of the end points.
    """

    gradient_lipschitz: float
    hessian_lipschitz: float
    length: float


#: An operator's spectral norm from below, by v ↦ Av, a vector like A's and a generator.
Norm = Callable[[Product, Tensor, torch.Generator], float]


def segment_constants(
    objective: Objective,
    start: Tensor,
    end: Tensor,
    samples: Samples,
    generator: torch.Generator,
    nodes: int = 3,
    norm: Norm = spectral_norm,
) -> Segment:
    """L and M from below, by Lanczos at evenly spaced nodes; the true constants over the ball can only be larger.

    Args:
        objective: L.
        start: One end, shape (p,).
        end: The other.
        samples: S.
        generator: Draws the starting vectors of Lanczos.
        nodes: Points on the segment, the ends included; at least 2.
        norm: How spectral norms are found: :func:`~cdu.curvature.spectral_norm`, or
            :func:`~cdu.curvature.ritz_norm` for vectors that should not leave the device.

    Raises:
        CduError: The ends are the same point.
    """
    points = [torch.lerp(start, end, share) for share in np.linspace(0, 1, nodes).tolist()]
    hessians = [Hessian(objective, point, samples) for point in points]
    length = (end - start).norm().item()
    if not length > 0:
        raise CduError(f"the segment's ends are {length:g} apart; Lipschitz constants need two different points")
    steepest = max(norm(hessian.__matmul__, start, generator) for hessian in hessians)

    def change(before: Hessian, after: Hessian) -> float:
        return norm(lambda vector: after @ vector - before @ vector, start, generator)

    bend = max(change(before, after) for before, after in itertools.pairwise(hessians))
    return Segment(steepest, bend / (length / (nodes - 1)), length)


def neumann_series(operator: Hessian, vector: Tensor, scale: float, depths: Iterable[int]) -> dict[int, Tensor]:
    """LiSSA's expected value at each depth s: (1/h) Σ_{j≤s} (I − (H + λI)/h)ʲ v, with the Hessian on all samples.

    Mini-batches are drawn independently, so that the mean of LiSSA's product of random matrices is the product of
    their means: the estimator is unbiased for *this*, at every depth, and for the inverse only as s → ∞.

    Args:
        operator: H + λI.
        vector: v, shape (p,).
        scale: h.
        depths: The s ≥ 1 to return.
    """
    wanted = set(depths)
    x, found = vector.clone(), {}
    for step in range(1, max(wanted) + 1):
        x = vector + x - (operator @ x) / scale
        if step in wanted:
            found[step] = x / scale
    return found


@dataclass(frozen=True)
class Bias:
    """How far the mean of independent draws lies from an expected value.

    Attributes:
        relative: ‖mean − expected‖ / ‖expected‖.
        noise: What sampling alone makes of that on average.
        p: The probability of so large a distance without any bias.
    """

    relative: float
    noise: float
    p: float


def bias(draws: Tensor, expected: Tensor) -> Bias:
    """Test that independent draws, shape (r, p), have the mean ``expected``.

    Without bias r·‖mean − expected‖²/tr(S) follows, for Gaussian draws of covariance S, about an F distribution of k
    and k·(r − 1) degrees of freedom, k = tr(S)²/tr(S²). Estimated from r draws k is at most r − 1, which errs on the
    side of finding no bias.
    """
    count = len(draws)
    centred = draws - draws.mean(dim=0)
    gram = (centred @ centred.T / (count - 1)).double()
    trace = gram.trace().item()
    distance = (draws.mean(dim=0) - expected).norm().item()
    freedom = trace**2 / gram.square().sum().item()
    size = expected.norm().item()
    p = float(stats.f.sf(count * distance**2 / trace, freedom, freedom * (count - 1)))
    return Bias(distance / size, (trace / count) ** 0.5 / size, p)


def batch_spectra(
    objective: Objective, w: Tensor, samples: Samples, batch_size: int, batches: int, generator: torch.Generator
) -> list[tuple[float, float]]:
    """Smallest and largest Hessian eigenvalue of mini-batches drawn with replacement, by Lanczos.

    Args:
        objective: L.
        w: The point.
        samples: S.
        batch_size: Samples in a mini-batch.
        batches: How many mini-batches.
        generator: Draws the batches and the starting vectors.
    """
    found = []
    for _ in range(batches):
        rows = torch.randint(len(samples), (batch_size,), generator=generator)
        hessian = Hessian(objective, w, samples.subset(rows))
        low, high = extreme_eigenvalues(hessian.__matmul__, w, generator, tolerance=1e-2, subspace=20)
        found.append((low.value, high.value))
    return found


def descend(
    objective: Objective, samples: Samples, start: Tensor, lipschitz: float, norms: Sequence[float]
) -> list[Tensor]:
    """Gradient descent with step 1/L, and its iterate at each gradient norm of ``norms`` (descending) as it passes.

    Args:
        objective: A strongly convex L.
        samples: S.
        start: Starting weights.
        lipschitz: Lipschitz constant of the gradient.
        norms: Values of ‖∇L‖ at which to stop and look.
    """
    w, found = start, []
    gradient = objective.gradient(w, samples)
    for norm in norms:
        while gradient.norm().item() > norm:
            w = w - gradient / lipschitz
            gradient = objective.gradient(w, samples)
        found.append(w)
    return found
