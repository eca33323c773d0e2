"""Constants of the theory, measured on data: L and M from below, and the ends of Hessians' spectra."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cdu.curvature.hessian import Hessian, Product
from cdu.curvature.lanczos import extreme_eigenvalues, ritz_norm, ritz_values, spectral_norm
from cdu.data.samples import Samples, part_of
from cdu.errors import CduError
from cdu.models.objective import Objective
from cdu.unlearning.problem import Problem


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


def smallest_eigenvalue(objective: Objective, w: Tensor, samples: Samples, generator: torch.Generator) -> float:
    """λ_min of ∇²L(w, S) to a hundredth, by Lanczos in a space of twenty vectors.

    Args:
        objective: L.
        w: The point, shape (p,).
        samples: S.
        generator: Draws the start.
    """
    hessian = Hessian(objective, w, samples)
    return extreme_eigenvalues(hessian.__matmul__, w, generator, tolerance=1e-2, subspace=20)[0].value


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


def spectrum_range(spectra: Sequence[tuple[float, float]]) -> dict[str, float]:
    """The smallest and the largest eigenvalue met on any mini-batch, by metric.

    Args:
        spectra: What :func:`batch_spectra` gives, at least one.
    """
    smallest, largest = zip(*spectra, strict=True)
    return {"batch_lambda_min": min(smallest), "batch_lambda_max": max(largest)}


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
