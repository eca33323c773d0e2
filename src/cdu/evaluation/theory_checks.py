"""Experiments: what is run, on what, with which constants. Read from YAML, validated, hashed."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Normal

from cdu.curvature.hessian import Hessian, Product
from cdu.curvature.lanczos import extreme_eigenvalues, ritz_norm, ritz_values, spectral_norm
from cdu.data.samples import Samples, part_of
from cdu.errors import CduError
from cdu.models.objective import Objective
from cdu.unlearning.problem import Problem


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
        norm: How spectral norms are found: :func:`~cdu.curvature.lanczos.spectral_norm`, or
            :func:`~cdu.curvature.lanczos.ritz_norm` for vectors that should not leave the device.

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


def spectrum_ends(problem: Problem, samples: int, steps: int, generator: torch.Generator) -> tuple[float, float]:
    """Bounds on the ends of the spectrum of H_S: λ_min is at most the first, λ_max at least the second.

    Args:
        problem: Where H is taken.
        samples: Size of S.
        steps: Lanczos steps.
        generator: Draws S and the start.
    """
    hessian = Hessian(problem.objective, problem.w_star, part_of(problem.retain, samples, generator))
    values = ritz_values(hessian.__matmul__, hessian.w, generator, steps)
    return float(values[0]), float(values[-1])


def hessian_lipschitz(problem: Problem, other: Tensor, samples: int, steps: int, generator: torch.Generator) -> float:
    """M from below: ‖H_S(w) − H_S(w*)‖ / ‖w − w*‖ for one other point w, the norm as the largest absolute Ritz value.

    Args:
        problem: Where w* and D_r come from.
        other: w, shape (p,).
        samples: Size of S.
        steps: Lanczos steps, each two products.
        generator: Draws S and the start.

    Raises:
        CduError: The two points are the same.
    """
    length = float((other - problem.w_star).norm())
    if not length > 0:
        raise CduError(f"the two points are {length:g} apart; a Lipschitz constant needs two different points")
    part = part_of(problem.retain, samples, generator)
    here, there = (Hessian(problem.objective, point, part) for point in (problem.w_star, other))
    return ritz_norm(lambda vector: there @ vector - here @ vector, other, generator, steps, tolerance=0.0) / length
