"""Retraining from scratch on the retained set: what unlearning is measured against."""

import torch

from cdu.checks import expect
from cdu.unlearning.problem import Problem, UnlearningResult


class Retrain:
    """w̃*: the training recipe, run on D_r.

    Args:
        seed: Seed of the retraining; the original model's when None. Another seed gives the yardstick "a second
            retraining", which shows how far apart two honest retrainings are.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Retrain; the generator is not used, the recipe has a seed of its own."""
        expect(
            callable(problem.retrain),
            f"the problem's recipe is {problem.retrain!r}; retraining needs retrain(samples, seed), a function that "
            "returns a Trained",
        )
        seed = problem.seed if self.seed is None else self.seed
        trained = problem.retrain(problem.retain, seed)
        return UnlearningResult(trained.w, trained.seconds, model=trained.model)
