"""Solvers for the code's systems: indefinite ones, and LiSSA with the code's constants."""

import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cdu.certification import lissa_depth
from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import lanczos
from cdu.curvature.settings import LissaSettings
from cdu.curvature.solution import Solution, synchronise
from cdu.evaluation.readings import Reading
from cdu.progress import Progress

#: Largest relative residual at which a system counts as solved.
SOLVED = 1e-2


def minimal_residual(operator: Hessian, vector: Tensor, steps: int = 100) -> Solution:
    """The x of a Krylov space that leaves the least residual of (H + λI)x = v, whether H + λI is definite or not.

    MINRES by full reorthogonalisation: with a basis V of the space and the tridiagonal T = VᵀAV, the least squares
    problem min ‖Ty − ‖v‖e₁‖ over all columns of T but the last.

    Args:
        operator: H + λI.
        vector: v, shape (p,), not zero.
        steps: Dimension of the space, at most p.

    Returns:
        The solution; ``converged`` if the relative residual is at most :data:`SOLVED`.
    """
    start = time.perf_counter()
    basis, diagonal, off = lanczos(operator.__matmul__, vector, min(steps + 1, operator.size))
    tridiagonal = torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1)
    # A space that ended early, or is the whole, is invariant: T is square then and solves the system.
    columns = tridiagonal[:, :-1] if len(diagonal) > steps else tridiagonal
    right = torch.zeros(len(diagonal), 1, dtype=diagonal.dtype, device=diagonal.device)
    right[0] = vector.norm().double()
    y = torch.linalg.lstsq(columns, right).solution[:, 0].to(basis.dtype)
    x = basis[: len(y)].T @ y
    synchronise(x)
    seconds = time.perf_counter() - start
    residual = ((operator @ x - vector).norm() / vector.norm()).item()
    return Solution(x, residual, seconds, len(diagonal) * len(operator.samples), converged=residual <= SOLVED)


def replayed_lissa(operator: Hessian, vector: Tensor, scale: float, rows: Tensor) -> Tensor:
    """LiSSA on mini-batches that are given instead of drawn; otherwise what :func:`cdu.curvature.lissa.lissa` computes.

    Args:
        operator: H + λI.
        vector: v, shape (p,).
        scale: h.
        rows: The samples of every mini-batch, shape (repeats, depth, batch size).

    Returns:
        The estimate of (H + λI)⁻¹v, shape (p,).
    """
    objective, samples = operator.objective, operator.samples
    total = torch.zeros_like(vector)
    for order in Progress(rows, desc="replayed LiSSA", unit="repeat"):
        x = vector
        for batch in order:
            image = objective.hvp(operator.w, samples.subset(batch), x).add(x, alpha=operator.damping)
            x = x + vector - image / scale
        total = total + x / scale
    return total / len(rows)


def lissa_gain(curvature: float, scale: float, depth: int) -> float:
    """LiSSA's mean factor on a direction of curvature a: (1 − (1 − a/h)^{s+1})/a, where 1/a is wanted.

    Args:
        curvature: a, an eigenvalue of H + λI; 0 gives the limit (s + 1)/h.
        scale: h.
        depth: s.
    """
    if curvature == 0:
        return (depth + 1) / scale
    return float((1 - (1 - curvature / scale) ** (depth + 1)) / curvature)


def lissa_gains(constants: LissaSettings, damping: float, curvatures: Sequence[float]) -> Iterator[Reading]:
    """What LiSSA with some constants makes of directions of curvature, beside what is wanted.

    Args:
        constants: LiSSA's h and s.
        damping: λ, the smallest curvature for λ_min = 0.
        curvatures: The a, eigenvalues of H + λI.

    Yields:
        ``gain`` given and wanted for every curvature; the ``depth`` done and the one that LiSSA's theorem needs.
    """
    scale = float(constants.scale)
    for curvature in curvatures:
        keys = {"axis": "curvature", "point": curvature}
        yield Reading({"gain": lissa_gain(curvature, scale, constants.depth)}, {"method": "given", **keys})
        yield Reading({"gain": 1 / curvature}, {"method": "wanted", **keys})
    yield Reading({"depth": constants.depth}, {"method": "done"})
    yield Reading({"depth": lissa_depth(scale, damping, 0.0)}, {"method": "needed"})
