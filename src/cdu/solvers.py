"""Solutions of (H + λI) x = v: exact, conjugate gradient, and the paper's LiSSA.

A solver that cannot give a solution raises with the values that it met; none returns NaN.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.func import vmap

from cdu.curvature import Hessian, extreme_eigenvalues, lanczos
from cdu.errors import CduError
from cdu.objective import twice_differentiable

Preconditioner = Callable[[Tensor], Tensor]

#: Largest p of the exact solver unless told otherwise: a float64 matrix of 7.2 GB, twice while it is factorised.
EXACT_LIMIT = 30_000
#: A dense float64 solution that leaves more than this relative residual is of a matrix that is singular to rounding.
SINGULAR = 1e-6
#: Up to this p the smallest eigenvalue of an indefinite matrix is computed densely, above it by Lanczos.
DENSE_EIGENVALUES = 5000


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
        note: What a reader has to know of how the system was solved; empty where there is nothing.
    """

    x: Tensor
    residual: float
    seconds: float
    hvp_samples: int
    converged: bool
    curve: list[float] = field(default_factory=list)
    note: str = ""


def exact(
    operator: Hessian,
    vector: Tensor,
    limit: int = EXACT_LIMIT,
    path: Path | None = None,
    indefinite: Literal["refuse", "solve"] = "refuse",
) -> Solution:
    """Dense solve in float64: Cholesky, or an eigendecomposition where H + λI is indefinite.

    Args:
        operator: H + λI.
        vector: v, shape (p,).
        limit: The largest p for which the p×p matrix is built.
        path: Where the matrix H is kept while and after it is built; see :meth:`~cdu.curvature.Hessian.timed_dense`.
        indefinite: What to do where H + λI is not positive definite: ``refuse``, since the Newton step is undefined
            there, or ``solve`` the system, which has a solution all the same, and say so in the solution's note.

    Raises:
        SolverError: p exceeds ``limit``; H + λI is not positive definite and refused, or singular to rounding.
    """
    if operator.size > limit:
        raise SolverError(
            f"the exact inverse was not computed: p = {operator.size:,} parameters exceed the limit of {limit:,} for a "
            "dense Hessian; use conjugate gradient, which solves the same system to any accuracy"
        )
    if _is_zero(vector):
        return _zero(vector)
    rows, building = operator.timed_dense(path)
    start = time.perf_counter()
    matrix, right, note = rows.double(), vector.double(), ""
    del rows
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info.item() == 0:
        x = torch.cholesky_solve(right.unsqueeze(1), factor).squeeze(1)
    elif indefinite == "refuse":
        raise SolverError(_indefinite("the exact solver", operator.damping, _smallest_eigenvalue(matrix)))
    else:
        del factor
        values, vectors = torch.linalg.eigh(matrix)
        x = vectors @ ((vectors.T @ right) / values)
        note = (
            f"H + λI is indefinite, with eigenvalues from {values[0].item():.3g}: solved by an eigendecomposition; "
            "this is no Newton step towards a minimum"
        )
    synchronise(x)
    seconds = building + time.perf_counter() - start
    residual = ((matrix @ x - right).norm() / right.norm()).item()
    if not residual <= SINGULAR:
        raise SolverError(
            f"H + λI is singular to rounding: its dense solution leaves a relative residual of {residual:.3g}; choose "
            f"another λ than {operator.damping:g}"
        )
    products = operator.size * len(operator.samples)
    return Solution(x.to(vector.dtype), residual, seconds, products, converged=True, note=note)


def conjugate_gradient(
    operator: Hessian,
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
        SolverError: A direction of negative curvature, which proves that H + λI is indefinite. That none is met
            proves nothing: a negative eigenvalue whose eigenvector v hardly contains can go unseen.
    """
    if _is_zero(vector):
        return _zero(vector)
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
    seconds = time.perf_counter() - began
    spent = (products + len(curve)) * len(operator.samples)
    residual_norm = _residual(operator, x, vector)
    return Solution(x, residual_norm, seconds, spent, converged=curve[-1] <= tolerance, curve=curve)


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
    if _is_zero(vector):
        return _zero(vector)
    inverse = low_rank_preconditioner(operator, vector, generator, rank, samples)
    found = conjugate_gradient(operator, vector, tolerance, max_steps, inverse)
    return replace(found, seconds=found.seconds + inverse.seconds, hvp_samples=found.hvp_samples + inverse.hvp_samples)


def lissa(
    operator: Hessian,
    vector: Tensor,
    scale: float | Literal["auto"],
    depth: int,
    repeats: int,
    batch_size: int,
    generator: torch.Generator,
    tolerance: float = 0.1,
) -> Solution:
    """LiSSA: the Neumann series of the inverse with a fresh mini-batch in every term.

    X₀v = v and X_t v = v + (I − (H_t + λI)/h) X_{t−1} v, where H_t is the Hessian on a mini-batch drawn with
    replacement; (H + λI)⁻¹v ≈ X_s v / h, averaged over repeats (Agarwal et al. 2017; the paper's Proposition 3.5).
    All repeats advance together, as many at once as memory allows; memory does not grow with the depth.

    Args:
        operator: H + λI on the retained samples.
        vector: v, shape (p,).
        scale: h, to be at least ‖H_t + λI‖ for every mini-batch (the paper's H); ``auto`` takes :func:`batch_scale`.
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
    estimated = scale == "auto"
    h = batch_scale(operator, batch_size, generator) if scale == "auto" else scale
    size = vector.norm()
    x = vector.expand(repeats, -1).clone()
    curve: list[float] = []
    with operator.objective.evaluating(), twice_differentiable():
        for step in range(1, depth + 1):
            image = _batch_products(operator, x, batch_size, generator)
            term = torch.sub(vector, image, alpha=1 / h)
            before, x = x, x + term
            growth = x.norm(dim=1).max() / size
            curve.append((term.norm(dim=1).mean() / size).item())
            if not growth <= 10 * (step + 1):
                stiffness = (image.norm(dim=1) / before.norm(dim=1)).max().item()
                raise SolverError(
                    f"LiSSA diverges at step {step}: its iterate has grown to {growth.item():.3g} times ‖v‖, with "
                    f"‖(H_t + λI)x‖/‖x‖ = {stiffness:.3g} on a mini-batch; scale = {h:g} is too small for "
                    f"‖H_t + λI‖ or λ = {operator.damping:g} is below −λ_min(H_t); choose scale ≥ {2 * stiffness:.3g}, "
                    "or a larger damping or batch"
                )
    mean = x.mean(dim=0) / h
    synchronise(x)
    seconds = time.perf_counter() - start
    residual = _residual(operator, mean, vector)
    spent = (depth * repeats + (SCALE_STEPS * SCALE_BATCHES if estimated else 0)) * batch_size
    note = f"scale = {h:.4g}, estimated from mini-batches" if estimated else ""
    return Solution(mean, residual, seconds, spent, converged=residual <= tolerance, curve=curve, note=note)


#: Mini-batches, power-iteration steps and safety factor behind LiSSA's automatic scale.
SCALE_BATCHES, SCALE_STEPS, SCALE_MARGIN = 20, 12, 2.0


def batch_scale(operator: Hessian, batch_size: int, generator: torch.Generator) -> float:
    """LiSSA's h: twice the largest ‖H_t + λI‖ found by power iteration on twenty mini-batches at once.

    Power iteration errs below, and a batch that was not looked at can be stiffer: hence the factor. It is an estimate
    and proves nothing about the batches to come.
    """
    count = len(operator.samples)
    rows = torch.randint(count, (SCALE_BATCHES, batch_size), generator=generator).to(operator.w.device)
    x = torch.randn(SCALE_BATCHES, operator.size, generator=generator, dtype=operator.w.dtype).to(operator.w.device)
    largest = 0.0
    with operator.objective.evaluating(), twice_differentiable():
        for _ in range(SCALE_STEPS):
            x = x / x.norm(dim=1, keepdim=True)
            x = _products_on(operator, x, rows)
            largest = x.norm(dim=1).max().item()
    return SCALE_MARGIN * largest


def _batch_products(operator: Hessian, vectors: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """(H_t + λI)x for every row x of ``vectors``, each with a mini-batch of its own, drawn anew."""
    rows = torch.randint(len(operator.samples), (len(vectors), batch_size), generator=generator)
    return _products_on(operator, vectors, rows.to(vectors.device))


def _products_on(operator: Hessian, vectors: Tensor, rows: Tensor) -> Tensor:
    """(H_t + λI)x for every row x of ``vectors``, H_t the Hessian on the samples that the same row of ``rows`` lists.

    The forward pass is batched over copies of w; the two backward passes are then ordinary ones, which is about one
    and a half times as fast as differentiating inside the batching. The caller evaluates the module, and asks for
    attention that can be differentiated twice: doing both here would cost a tenth of a small network's step.
    """
    objective, w = operator.objective, operator.w
    shift = objective.l2 + operator.damping
    together = max(1, objective.chunk_bytes // max(1, rows.shape[1] * objective.bytes_per_sample(w, operator.samples)))
    images = []
    for part, chosen in zip(vectors.split(together), rows.split(together), strict=True):
        inputs, targets = operator.samples.batch(chosen)
        point = w.detach().expand_as(part).clone().requires_grad_()
        if len(part) == 1:
            loss = objective.batch_loss(point[0], inputs[0], targets[0])
        else:
            loss = vmap(objective.batch_loss)(point, inputs, targets).sum()
        (gradient,) = torch.autograd.grad(loss, point, create_graph=True)
        (image,) = torch.autograd.grad(gradient, point, part)
        images.append(image.add_(part, alpha=shift))
    return images[0] if len(images) == 1 else torch.cat(images)


def synchronise(tensor: Tensor) -> None:
    """Wait until ``tensor`` is computed, so that a clock read next tells the truth."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _smallest_eigenvalue(matrix: Tensor) -> float:
    """The smallest eigenvalue of a symmetric matrix, by Lanczos where the dense computation would take minutes."""
    if len(matrix) <= DENSE_EIGENVALUES:
        return float(torch.linalg.eigvalsh(matrix)[0])
    return extreme_eigenvalues(matrix.__matmul__, matrix[0], torch.Generator().manual_seed(0))[0].value


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
