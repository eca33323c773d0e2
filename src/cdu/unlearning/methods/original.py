"""Doing nothing: the yardstick below which no method is worth its cost."""

import torch

from cdu.unlearning.problem import Problem, UnlearningResult


class Original:
    """w*, unchanged. With noise it is output perturbation, whose certificate is that of every projected method."""

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Return the original weights."""
        return UnlearningResult(problem.w_star, 0.0)
