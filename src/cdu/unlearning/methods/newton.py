"""The paper's Newton step with local convex approximation."""

import time
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from cdu.checks import expect
from cdu.curvature.conjugate_gradient import conjugate_gradient, preconditioned_conjugate_gradient
from cdu.curvature.exact import exact
from cdu.curvature.hessian import Hessian
from cdu.curvature.lissa import lissa
from cdu.curvature.settings import LissaSettings
from cdu.curvature.solution import Solution, synchronise
from cdu.data.samples import Samples
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register

Solver = Literal["exact", "conjugate_gradient", "preconditioned", "lissa"]
Form = Literal["retain", "forget"]


def right_hand_side(problem: Problem, form: Form) -> Tensor:
    """The right-hand side v of (H + λI)x = v, whose solution the step subtracts from w*, shape (p,).

    ∇L(w*, D_r) for ``retain``; −n_u/n_r · ∇L(w*, D_u), which equals it where ∇L(w*, D) = 0, for ``forget``.
    """
    if form == "retain":
        return problem.objective.gradient(problem.w_star, problem.retain)
    ratio = len(problem.forget) / len(problem.retain)
    return -ratio * problem.objective.gradient(problem.w_star, problem.forget)


@register("Newton step")
class NewtonStep:
    """One damped Newton step towards the retrained model (the paper's section 3).

    With H = ∇²L(w*, D_r):

    - ``gradient="retain"``: w̃ = w* − (H + λI)⁻¹ ∇L(w*, D_r)
    - ``gradient="forget"``: w̃ = w* + n_u/(n − n_u) · (H + λI)⁻¹ ∇L(w*, D_u)

    The two agree where ∇L(w*, D) = 0 and differ when training has not converged. The first costs one gradient over
    D_r, the second one over D_u.

    Args:
        damping: λ.
        solver: How (H + λI)⁻¹ is applied.
        gradient: Which form.
        lissa_settings: Constants of LiSSA; needed for that solver.
        exact_limit: Largest p for the exact solver.

    Raises:
        CduError: There is no such solver or form, LiSSA has no constants, or ``damping`` is not a number of at least 0.

    Example:
        One weight, the mean of the targets 1, 2, 3 and 6, of which the 6 is deleted. For a quadratic loss the step is
        exact without damping:

        >>> from torch import nn
        >>> from torch.nn.functional import mse_loss
        >>> from cdu import Objective, Problem, Samples
        >>> objective = Objective(nn.Linear(1, 1, bias=False), mse_loss)
        >>> retain = Samples(torch.ones(3, 1), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> forget = Samples(torch.ones(1, 1), torch.tensor([[6.0]]))
        >>> problem = Problem(objective, torch.tensor([3.0]), retain, forget, radius=5, retrain=None, seed=0)
        >>> print(f"{NewtonStep(damping=0)(problem, torch.Generator()).w.item():.4f}")
        2.0000
    """

    by_projection = True

    def __init__(
        self,
        damping: float,
        solver: Solver = "conjugate_gradient",
        gradient: Form = "retain",
        lissa_settings: LissaSettings | None = None,
        exact_limit: int = 5000,
    ) -> None:
        expect(0 <= damping < float("inf"), f"damping = {damping} is not a finite number of at least 0")
        expect(solver in get_args(Solver), f"there is no solver '{solver}'; known are {', '.join(get_args(Solver))}")
        expect(gradient in ("retain", "forget"), f"gradient = '{gradient}' is neither 'retain' nor 'forget'")
        expect(
            solver != "lissa" or lissa_settings is not None,
            "the solver 'lissa' needs its constants; give lissa_settings",
        )
        self.damping = damping
        self.solver = solver
        self.gradient = gradient
        self.lissa_settings = lissa_settings
        self.exact_limit = exact_limit

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Take the step; raises :class:`~cdu.curvature.solution.SolverError` when H + λI cannot be inverted."""
        return self.with_hessian_over(problem.retain, problem, generator)

    def reference(self, problem: Problem, result: UnlearningResult, generator: torch.Generator) -> UnlearningResult:
        """Retraining on D_r."""
        return Retrain()(problem, generator)

    def with_hessian_over(self, part: Samples, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Take the step with the Hessian over ``part`` of D_r; the gradient is still over the problem's own sets."""
        start = time.perf_counter()
        hessian = Hessian(problem.objective, problem.w_star, part)
        gradient = right_hand_side(problem, self.gradient)
        synchronise(gradient)
        seconds = time.perf_counter() - start
        solution = self._solve(generator)(hessian + self.damping, gradient)
        touched = problem.retain if self.gradient == "retain" else problem.forget
        return UnlearningResult(
            problem.w_star - solution.x,
            seconds + solution.seconds,
            hvp_samples=solution.hvp_samples,
            gradient_samples=len(touched),
            residual=solution.residual,
            converged=solution.converged,
            note=solution.note,
        )

    def _solve(self, generator: torch.Generator) -> Callable[[Hessian, Tensor], Solution]:
        if self.solver == "exact":
            return partial(exact, limit=self.exact_limit)
        if self.solver == "preconditioned":
            return partial(preconditioned_conjugate_gradient, generator=generator)
        if self.lissa_settings is None or self.solver == "conjugate_gradient":
            return conjugate_gradient
        return partial(lissa, **self.lissa_settings.model_dump(), generator=generator)
