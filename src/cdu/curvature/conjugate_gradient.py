"""Conjugate gradient, plain and preconditioned."""

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import lanczos
from cdu.curvature.linear_hessian import LinearHessian
from cdu.curvature.solution import (
    BAR_DELAY,
    Preconditioner,
    Solution,
    SolverError,
    indefinite_error,
    is_zero,
    relative_residual,
    synchronise,
    zero_solution,
)
from cdu.progress import Progress


def conjugate_gradient(
    operator: Hessian | LinearHessian,
    vector: Tensor,
    tolerance: float = 1e-4,
    max_steps: int = 500,
    preconditioner: Preconditioner | None = None,
    start: Tensor | None = None,
) -> Solution:
    """Conjugate gradient, stopped at a relative residual.

    Args:
        operator: H + λI.
        vector: v, shape (p,).
        tolerance: Relative residual to reach.
        max_steps: Steps, at least one, after which it gives up, saying so in ``converged``.
        preconditioner: An approximate inverse of the operator, symmetric and positive definite; none when None. It
            changes the number of steps and not the solution; :func:`low_rank_preconditioner` makes one.
        start: A first guess of the solution, shape (p,); zero when None.

    Raises:
        SolverError: A direction of negative curvature was met, which proves that H + λI is indefinite. Meeting none
            proves nothing: a negative eigenvalue whose eigenvector v hardly contains can be missed.

    Example:
        The mean of (w − y)² over targets y has the second derivative 2:

        >>> from torch import nn
        >>> from torch.nn.functional import mse_loss
        >>> from cdu import Objective, Samples
        >>> objective = Objective(nn.Linear(1, 1, bias=False), mse_loss)
        >>> samples = Samples(torch.ones(2, 1), torch.tensor([[1.0], [3.0]]))
        >>> operator = Hessian(objective, torch.tensor([5.0]), samples) + 0.5
        >>> print(f"{conjugate_gradient(operator, torch.tensor([4.0])).x.item():.4f}")
        1.6000
    """
    if is_zero(vector):
        return zero_solution(vector)
    began = time.perf_counter()
    size = vector.norm()
    x = torch.zeros_like(vector) if start is None else start.clone()
    residual = vector.clone() if start is None else vector - operator @ start
    products = 0 if start is None else 1
    reached = (residual.norm() / size).item()
    if reached <= tolerance:
        return Solution(x, reached, time.perf_counter() - began, products * len(operator.samples), converged=True)
    smoothed = residual if preconditioner is None else preconditioner(residual)
    direction, square = smoothed.clone(), residual.dot(smoothed)
    curve: list[float] = []
    digits = Progress(
        total=max(0.1, round(-math.log10(tolerance), 1)),
        desc="conjugate gradient",
        unit="digit",
        delay=BAR_DELAY,
        leave=False,
    )
    for _ in range(max_steps):
        image = operator @ direction
        curvature = direction.dot(image)
        if not curvature.isfinite():
            raise SolverError(
                f"conjugate gradient met a Hessian-vector product that is not finite at step {len(curve) + 1}; check "
                "that training converged"
            )
        if curvature <= 0:
            rayleigh = (curvature / direction.dot(direction)).item()
            raise SolverError(indefinite_error("conjugate gradient", operator.damping, rayleigh))
        step = square / curvature
        x = x + step * direction
        residual = residual - step * image
        curve.append((residual.norm() / size).item())
        _advance(digits, curve[-1])
        if curve[-1] <= tolerance:
            break
        smoothed = residual if preconditioner is None else preconditioner(residual)
        square, previous = residual.dot(smoothed), square
        direction = smoothed + (square / previous) * direction
    digits.close()
    synchronise(x)
    seconds = time.perf_counter() - began
    spent = (products + len(curve)) * len(operator.samples)
    residual_norm = relative_residual(operator, x, vector)
    return Solution(x, residual_norm, seconds, spent, converged=curve[-1] <= tolerance, curve=curve)


def _advance(digits: Progress, residual: float) -> None:
    """Move a bar of the digits that the relative residual has gained; from them it tells when it will be done."""
    gained = min(digits.total or 0.0, round(-math.log10(max(residual, 1e-300)), 2))
    digits.update(max(0.0, gained - digits.n))


@dataclass(frozen=True)
class LowRank:
    """An approximate inverse of H + λI from a k-dimensional Krylov space of a sub-sample's Hessian.

    With the Ritz pairs (θᵢ, uᵢ) of that Hessian and its l2 weight: Σᵢ uᵢuᵢᵀ/(max(θᵢ, l2) + λ) on the space and
    1/(l2 + λ) across it; positive definite whatever the sub-sample's Hessian is.

    Attributes:
        seconds: Wall time of making it.
        hvp_samples: Per-sample Hessian-vector products that it took.
    """

    vectors: Tensor
    values: Tensor
    floor: float
    seconds: float
    hvp_samples: int

    def __call__(self, vector: Tensor) -> Tensor:
        """The approximate inverse times a vector of shape (p,)."""
        inside = self.vectors.T @ vector
        return vector / self.floor + self.vectors @ (inside / self.values - inside / self.floor)


def low_rank_preconditioner(
    operator: Hessian, vector: Tensor, generator: torch.Generator, rank: int = 30, samples: int = 2000
) -> LowRank:
    """A preconditioner for conjugate gradient: Lanczos on the Hessian of a sub-sample, from the right-hand side on.

    The few large eigenvalues that make a network's system slow are much the same on a sub-sample, where a product
    costs little: the defaults cost as much as one product over 60,000 samples.

    Args:
        operator: H + λI.
        vector: The right-hand side, shape (p,), not zero.
        generator: Draws the sub-sample.
        rank: Lanczos steps k.
        samples: Size of the sub-sample.

    Raises:
        SolverError: λ and the l2 weight are both zero, so that nothing is known across the Krylov space.
    """
    floor = operator.objective.l2 + operator.damping
    if not floor > 0:
        raise SolverError(
            f"the low-rank preconditioner needs λ + l2 > 0; they are {operator.damping:g} and "
            f"{operator.objective.l2:g}: solve without a preconditioner"
        )
    began = time.perf_counter()
    count = min(samples, len(operator.samples))
    chosen = torch.randperm(len(operator.samples), generator=generator)[:count]
    part = Hessian(operator.objective, operator.w, operator.samples.subset(chosen.to(operator.samples.device)))
    basis, diagonal, off = lanczos(part.__matmul__, vector, min(rank, operator.size))
    ritz, rotation = torch.linalg.eigh(torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1))
    values = ritz.clamp(min=operator.objective.l2) + operator.damping
    vectors = basis.T @ rotation.to(basis.dtype)
    synchronise(vectors)
    seconds = time.perf_counter() - began
    return LowRank(vectors, values.to(basis.dtype), floor, seconds, len(diagonal) * count)


def preconditioned_conjugate_gradient(
    operator: Hessian,
    vector: Tensor,
    generator: torch.Generator,
    tolerance: float = 1e-4,
    max_steps: int = 500,
    rank: int = 30,
    samples: int = 2000,
) -> Solution:
    """Conjugate gradient with :func:`low_rank_preconditioner`, whose construction is part of the cost.

    Worth it where plain conjugate gradient takes more than about five steps: for a λ well below λ_max.

    Args:
        operator: H + λI.
        vector: v, shape (p,).
        generator: Draws the sub-sample.
        tolerance: Relative residual to reach.
        max_steps: Steps after which it gives up.
        rank: Lanczos steps on the sub-sample.
        samples: Size of the sub-sample.

    Raises:
        SolverError: As for the two functions.
    """
    if is_zero(vector):
        return zero_solution(vector)
    inverse = low_rank_preconditioner(operator, vector, generator, rank, samples)
    found = conjugate_gradient(operator, vector, tolerance, max_steps, inverse)
    return replace(found, seconds=found.seconds + inverse.seconds, hvp_samples=found.hvp_samples + inverse.hvp_samples)
