"""Solutions of (H + λI) x = v: exact, conjugate gradient, and the paper's LiSSA.

A solver that cannot give a solution raises with the values that it met; none returns NaN.
"""

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
        residual: ‖(H + λI)x − v‖ / ‖v‖ on all samples.
        hvp_samples: Per-sample Hessian-vector products spent.
        converged: Whether the solver reached its own target.
        curve: For iterative solvers, their own measure of progress step by step: the relative residual of
            conjugate gradient; for LiSSA the norm of the last term added, relative to ‖v‖.
    """

    x: Tensor
    residual: float
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
    matrix = operator.dense().double()
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info.item() != 0:
        smallest = torch.linalg.eigvalsh(matrix)[0].item()
        raise SolverError(_indefinite("the exact solver", operator.damping, smallest))
    x = torch.cholesky_solve(vector.double().unsqueeze(1), factor).squeeze(1)
    residual = ((matrix @ x - vector.double()).norm() / vector.double().norm()).item()
    return Solution(x.to(vector.dtype), residual, operator.size * len(operator.samples), converged=True)


def conjugate_gradient(operator: Hessian, vector: Tensor, tolerance: float = 1e-4, max_steps: int = 500) -> Solution:
    """Conjugate gradient, stopped at a relative residual.

    Args:
        operator: H + λI.
        vector: v, shape (p,).
        tolerance: Relative residual to reach.
        max_steps: Steps after which it gives up, saying so in ``converged``.

    Raises:
        SolverError: A direction of negative curvature, which proves that H + λI is indefinite; or v is zero.
    """
    size = vector.norm()
    if size == 0:
        raise SolverError("the right-hand side is the zero vector: there is nothing to solve for")
    x = torch.zeros_like(vector)
    residual, direction = vector.clone(), vector.clone()
    square = residual.dot(residual)
    curve: list[float] = []
    for _ in range(max_steps):
        image = operator @ direction
        curvature = direction.dot(image)
        if curvature <= 0:
            rayleigh = (curvature / direction.dot(direction)).item()
            raise SolverError(_indefinite("conjugate gradient", operator.damping, rayleigh))
        step = square / curvature
        x = x + step * direction
        residual = residual - step * image
        square, previous = residual.dot(residual), square
        curve.append((square.sqrt() / size).item())
        if curve[-1] <= tolerance:
            break
        direction = residual + (square / previous) * direction
    true_residual = ((operator @ x - vector).norm() / size).item()
    products = (len(curve) + 1) * len(operator.samples)
    return Solution(x, true_residual, products, converged=curve[-1] <= tolerance, curve=curve)


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
    objective.model.eval()
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
    residual = ((operator @ mean - vector).norm() / size).item()
    spent = depth * repeats * batch_size + len(samples)
    return Solution(mean, residual, spent, converged=residual <= tolerance, curve=curve)


def _indefinite(solver: str, damping: float, eigenvalue: float) -> str:
    """The sentence for a system that is not positive definite; ``eigenvalue`` is (an upper bound of) its smallest."""
    return (
        f"{solver} met curvature {eigenvalue:.3g} in H + λI, so the Newton step is undefined: λ = {damping:g} is at "
        f"most −λ_min(H), and λ_min(H) ≤ {eigenvalue - damping:.3g}; choose λ > −λ_min(H), which is at least "
        f"{damping - eigenvalue:.3g}"
    )
