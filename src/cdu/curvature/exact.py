"""The dense solver, for small models."""

import time
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import extreme_eigenvalues
from cdu.curvature.solution import Solution, SolverError, indefinite_error, is_zero, synchronise, zero_solution

#: Largest p of the exact solver unless told otherwise: a float64 matrix of 7.2 GB, twice while it is factorised.
EXACT_LIMIT = 30_000
#: A larger relative residual of the dense float64 solution means that the matrix is singular up to rounding.
SINGULAR = 1e-6
#: Up to this p the smallest eigenvalue of an indefinite matrix is computed densely, above it by Lanczos.
DENSE_EIGENVALUES = 5000


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
        path: Where the matrix H is kept while and after it is built; see
            :meth:`~cdu.curvature.hessian.Hessian.timed_dense`.
        indefinite: What to do where H + λI is not positive definite: ``refuse``, since the Newton step is undefined
            there, or ``solve`` the system, which has a solution all the same, and say so in the solution's note.

    Raises:
        SolverError: p exceeds ``limit``; H + λI is not positive definite and refused, or singular to rounding.

    Example:
        The mean of (w − y)² over targets y has the second derivative 2:

        >>> from torch import nn
        >>> from torch.nn.functional import mse_loss
        >>> from cdu import Objective, Samples
        >>> objective = Objective(nn.Linear(1, 1, bias=False), mse_loss)
        >>> samples = Samples(torch.ones(2, 1), torch.tensor([[1.0], [3.0]]))
        >>> operator = Hessian(objective, torch.tensor([5.0]), samples) + 0.5
        >>> print(f"{exact(operator, torch.tensor([4.0])).x.item():.4f}")
        1.6000
    """
    if operator.size > limit:
        raise SolverError(
            f"the exact inverse was not computed: p = {operator.size:,} parameters exceed the limit of {limit:,} for a "
            "dense Hessian; use conjugate gradient, which solves the same system to any accuracy"
        )
    if is_zero(vector):
        return zero_solution(vector)
    rows, building = operator.timed_dense(path)
    start = time.perf_counter()
    matrix, right, note = rows.double(), vector.double(), ""
    del rows
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info.item() == 0:
        x = torch.cholesky_solve(right.unsqueeze(1), factor).squeeze(1)
    elif indefinite == "refuse":
        raise SolverError(indefinite_error("the exact solver", operator.damping, _smallest_eigenvalue(matrix)))
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


def _smallest_eigenvalue(matrix: Tensor) -> float:
    """The smallest eigenvalue of a symmetric matrix, by Lanczos where the dense computation would take minutes."""
    if len(matrix) <= DENSE_EIGENVALUES:
        return float(torch.linalg.eigvalsh(matrix)[0])
    return extreme_eigenvalues(matrix.__matmul__, matrix[0], torch.Generator().manual_seed(0))[0].value
