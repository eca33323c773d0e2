"""The Newton step with the Hessian over part of the retained set."""

import torch

from cdu.data.samples import part_of
from cdu.unlearning.methods.newton import Form, NewtonStep
from cdu.unlearning.problem import Problem, UnlearningResult


class SubsampledNewton:
    """The paper's step with H_S in place of H, the Hessian over a random part S of D_r.

    - ``gradient="forget"``: w̃ = w* + n_u/(n − n_u) · (H_S + λI)⁻¹ ∇L(w*, D_u), which costs n_u gradients
    - ``gradient="retain"``: w̃ = w* − (H_S + λI)⁻¹ ∇L(w*, D_r), with the gradient over all of D_r

    H_S stands in for H as in sub-sampled Newton methods: over all of D_r it is the paper's step. The residual is that
    of the system with H_S.

    Args:
        damping: λ.
        samples: Size of S; all of D_r when None.
        gradient: Which form, as for :class:`~cdu.unlearning.methods.newton.NewtonStep`.
    """

    # Attributes hold exactly the arguments, since kept results are told apart by the attributes.
    def __init__(self, damping: float, samples: int | None = None, gradient: Form = "forget") -> None:
        self.damping = damping
        self.samples = samples
        self.gradient = gradient

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Take the step; raises :class:`~cdu.curvature.solution.SolverError` where H_S + λI is indefinite."""
        part = part_of(problem.retain, self.samples, generator)
        return NewtonStep(self.damping, gradient=self.gradient).with_hessian_over(part, problem, generator)
