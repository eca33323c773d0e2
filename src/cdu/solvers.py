"""Solutions of (H + λI) x = v: exact, conjugate gradient, and the paper's LiSSA.

A solver that cannot give a solution raises with the values that it met; none returns NaN.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import grad, vmap

from cdu.curvature import Hessian
from cdu.errors import CduError


class SolverError(CduError):
    """The system has no solution by this method; the message gives the values met and what to change."""


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        x: The solution, shape (p,).
        residual: ‖(H + λI)x − v‖ / ‖v‖ on all samples, computed after the solver has finished.
        seconds: Wall time of the solver, without that check.
        hvp_samples: Per-sample Hessian-vector products spent, without that check.
        converged: Whether the solver reached its own target.
        curve: For iterative solvers, their own measure of progress step by step: the relative residual of
            conjugate gradient; for LiSSA the norm of the last term added, relative to ‖v‖.
    """

    x: Tensor
    residual: float
    seconds: float
    hvp_samples: int
    converged: bool
    curve: list[float] = field(default_factory=list)


def exact(operator: Hessian, vector: Tensor, limit: int = 5000) -> Solution:
    """Dense Cholesky solve in float64.

    Args:
        operator: H + λI.
        vector: v, shape (p,).
        limit: The largest p for which the p×p matrix is built.

    Raises:
        SolverError: p exceeds ``limit``, or H + λI is not positive definite.
    """
    if operator.size > limit:
        raise SolverError(
            f"the exact inverse was not computed: p = {operator.size:,} parameters exceed the limit of {limit:,} for a "
            "dense Hessian; use conjugate gradient, which solves the same system to any accuracy"
        )
    if _is_zero(vector):
        return _zero(vector)
    start = time.perf_counter()
    matrix = operator.dense().double()
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info.item() != 0:
        smallest = torch.linalg.eigvalsh(matrix)[0].item()
        raise SolverError(_indefinite("the exact solver", operator.damping, smallest))
    x = torch.cholesky_solve(vector.double().unsqueeze(1), factor).squeeze(1)
    synchronise(x)
    seconds = time.perf_counter() - start
    residual = ((matrix @ x - vector.double()).norm() / vector.double().norm()).item()
    return Solution(x.to(vector.dtype), residual, seconds, operator.size * len(operator.samples), converged=True)


def conjugate_gradient(
    operator: Hessian,
    vector: Tensor,
    tolerance: float = 1e-4,
    max_steps: int = 500,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
) -> Solution:
    """Conjugate gradient, stopped at a relative residual.

    Args:
        operator: H + λI.
        vector: v, shape (p,).
        tolerance: Relative residual to reach.
        max_steps: Steps, at least one, after which it gives up, saying so in ``converged``.
        preconditioner: An approximate inverse of the operator, symmetric and positive definite; none when None.

    Raises:
        SolverError: A direction of negative curvature, which proves that H + λI is indefinite. That none is met
            proves nothing: a negative eigenvalue whose eigenvector v hardly contains can go unseen.
    """
    if _is_zero(vector):
        return _zero(vector)
    start = time.perf_counter()
    size = vector.norm()
    x = torch.zeros_like(vector)
    residual = vector.clone()
    smoothed = residual if preconditioner is None else preconditioner(residual)
    direction, square = smoothed.clone(), residual.dot(smoothed)
    curve: list[float] = []
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
            raise SolverError(_indefinite("conjugate gradient", operator.damping, rayleigh))
        step = square / curvature
        x = x + step * direction
        residual = residual - step * image
        curve.append((residual.norm() / size).item())
        if curve[-1] <= tolerance:
            break
        smoothed = residual if preconditioner is None else preconditioner(residual)
        square, previous = residual.dot(smoothed), square
        direction = smoothed + (square / previous) * direction
    synchronise(x)
    seconds = time.perf_counter() - start
    products = len(curve) * len(operator.samples)
    residual_norm = _residual(operator, x, vector)
    return Solution(x, residual_norm, seconds, products, converged=curve[-1] <= tolerance, curve=curve)


def lissa(
    operator: Hessian,
    vector: Tensor,
    scale: float,
    depth: int,
    repeats: int,
    batch_size: int,
    generator: torch.Generator,
    tolerance: float = 0.1,
) -> Solution:
    """LiSSA: the Neumann series of the inverse with a fresh mini-batch in every term.

    X₀v = v and X_t v = v + (I − (H_t + λI)/h) X_{t−1} v, where H_t is the Hessian on a mini-batch drawn with
    replacement; (H + λI)⁻¹v ≈ X_s v / h, averaged over repeats (Agarwal et al. 2017; the paper's Proposition 3.5).
    All repeats advance together.

    Args:
        operator: H + λI on the retained samples.
        vector: v, shape (p,).
        scale: h, to be at least ‖H_t + λI‖ for every mini-batch (the paper's H).
        depth: Number of terms s (the paper's s₂).
        repeats: Independent runs averaged (the paper's s₁).
        batch_size: Samples in a mini-batch.
        generator: Draws the mini-batches.
        tolerance: The relative residual on all samples up to which the result counts as converged.

    Raises:
        SolverError: The iteration diverges. While ‖I − (H_t + λI)/h‖ ≤ 1 the iterate obeys ‖X_t v‖ ≤ (t+1)‖v‖;
            ten times that is taken as divergence.
    """
    if _is_zero(vector):
        return _zero(vector)
    start = time.perf_counter()
    objective, samples, w = operator.objective, operator.samples, operator.w
    shift = objective.l2 + operator.damping

    def product(inputs: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        def slope(point: Tensor) -> Tensor:
            gradient: Tensor = grad(objective.batch_loss)(point, inputs, targets)
            return gradient.dot(direction)

        result: Tensor = grad(slope)(w)
        return result

    products = vmap(product)
    size = vector.norm()
    x = vector.expand(repeats, -1).clone()
    curve: list[float] = []
    with objective.evaluating():
        for step in range(1, depth + 1):
            rows = torch.randint(len(samples), (repeats, batch_size), generator=generator).to(vector.device)
            inputs, targets = samples.batch(rows)
            image = products(inputs, targets, x) + shift * x
            before = x
            x = vector + x - image / scale
            growth = x.norm(dim=1).max() / size
            curve.append(((x - before).norm(dim=1).mean() / size).item())
            if not growth <= 10 * (step + 1):
                stiffness = (image.norm(dim=1) / before.norm(dim=1)).max().item()
                raise SolverError(
                    f"LiSSA diverges at step {step}: its iterate has grown to {growth.item():.3g} times ‖v‖, with "
                    f"‖(H_t + λI)x‖/‖x‖ = {stiffness:.3g} on a mini-batch; scale = {scale:g} is too small for "
                    f"‖H_t + λI‖ or λ = {operator.damping:g} is below −λ_min(H_t); choose scale ≥ {2 * stiffness:.3g}, "
                    "or a larger damping or batch"
                )
    mean = x.mean(dim=0) / scale
    synchronise(x)
    seconds = time.perf_counter() - start
    residual = _residual(operator, mean, vector)
    spent = depth * repeats * batch_size
    return Solution(mean, residual, seconds, spent, converged=residual <= tolerance, curve=curve)


def synchronise(tensor: Tensor) -> None:
    """Wait until ``tensor`` is computed, so that a clock read next tells the truth."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _residual(operator: Hessian, x: Tensor, vector: Tensor) -> float:
    return float((operator @ x - vector).norm() / vector.norm())


def _is_zero(vector: Tensor) -> bool:
    """Whether v is zero; raises :class:`SolverError` when it is not finite."""
    size = vector.norm()
    if not size.isfinite():
        raise SolverError(
            f"the right-hand side has norm {size.item()}: the gradient overflowed; check that training converged"
        )
    return not size.item()


def _zero(vector: Tensor) -> Solution:
    """The solution for v = 0."""
    return Solution(torch.zeros_like(vector), 0.0, 0.0, 0, converged=True)


def _indefinite(solver: str, damping: float, eigenvalue: float) -> str:
    """The sentence for a system that is not positive definite; ``eigenvalue`` is (an upper bound of) its smallest."""
    return (
        f"{solver} met curvature {eigenvalue:.3g} in H + λI, so the Newton step is undefined: λ = {damping:g} is at "
        f"most −λ_min(H), and λ_min(H) ≤ {eigenvalue - damping:.3g}; choose λ > −λ_min(H), which is at least "
        f"{damping - eigenvalue:.3g}"
    )
