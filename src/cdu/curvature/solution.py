"""What a solver of (H + λI) x = b returns, and what all solvers share."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cdu.curvature.hessian import Hessian
from cdu.curvature.linear_hessian import LinearHessian
from cdu.errors import CduError

Preconditioner = Callable[[Tensor], Tensor]

#: Seconds after which a solver shows a progress bar.
BAR_DELAY = 5.0


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
        note: What a reader has to know about how the system was solved; usually empty.
    """

    x: Tensor
    residual: float
    seconds: float
    hvp_samples: int
    converged: bool
    curve: list[float] = field(default_factory=list)
    note: str = ""


def synchronise(tensor: Tensor) -> None:
    """Wait until ``tensor`` is computed, so that a clock read next tells the truth."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def relative_residual(operator: Hessian | LinearHessian, x: Tensor, vector: Tensor) -> float:
    """‖Ax − v‖ / ‖v‖."""
    return float((operator @ x - vector).norm() / vector.norm())


def is_zero(vector: Tensor) -> bool:
    """Whether v is zero; raises :class:`SolverError` when it is not finite."""
    size = vector.norm()
    if not size.isfinite():
        raise SolverError(
            f"the right-hand side has norm {size.item()}: the gradient overflowed; check that training converged"
        )
    return not size.item()


def zero_solution(vector: Tensor) -> Solution:
    """The solution for v = 0."""
    return Solution(torch.zeros_like(vector), 0.0, 0.0, 0, converged=True)


def indefinite_error(solver: str, damping: float, eigenvalue: float) -> str:
    """The sentence for a system that is not positive definite; ``eigenvalue`` is (an upper bound of) its smallest."""
    return (
        f"{solver} met curvature {eigenvalue:.3g} in H + λI, so the Newton step is undefined: λ = {damping:g} is at "
        f"most −λ_min(H), and λ_min(H) ≤ {eigenvalue - damping:.3g}; choose λ > −λ_min(H), which is at least "
        f"{damping - eigenvalue:.3g}"
    )
