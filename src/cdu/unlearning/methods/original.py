"""Doing nothing: the yardstick below which no method is worth its cost."""

import torch

from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register


@register("output perturbation", without_noise="original")
class Original:
    """w*, unchanged. With noise it is output perturbation, whose certificate is that of every projected method."""

    by_projection = True

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Return the original weights."""
        return UnlearningResult(problem.w_star, 0.0)

    def reference(self, problem: Problem, result: UnlearningResult, generator: torch.Generator) -> UnlearningResult:
        """Retraining on D_r, which lies in the ball as w* does."""
        return Retrain()(problem, generator)
