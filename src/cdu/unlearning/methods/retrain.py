"""Retraining from scratch on the retained set: what unlearning is measured against."""

import torch

from cdu.checks import expect
from cdu.unlearning.problem import Problem, UnlearningResult


class Retrain:
    """w̃*: the training recipe, run on D_r.

    Args:
        seed: Seed of the retraining; the original model's when None. Another seed gives the yardstick "a second
            retraining", which shows how far apart two honest retrainings are.

    Example:
        One weight, the mean of the targets 1, 2, 3 and 6, of which the 6 is deleted:

        >>> from torch import nn
        >>> from torch.nn.functional import mse_loss
        >>> from cdu import Objective, Problem, Samples
        >>> from cdu.models.training import Trained
        >>> objective = Objective(nn.Linear(1, 1, bias=False), mse_loss)
        >>> retain = Samples(torch.ones(3, 1), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> forget = Samples(torch.ones(1, 1), torch.tensor([[6.0]]))
        >>> def recipe(samples, seed):
        ...     return Trained(objective.model, samples.targets.mean(dim=0), history=[])
        >>> problem = Problem(objective, torch.tensor([3.0]), retain, forget, radius=5, retrain=recipe, seed=0)
        >>> Retrain()(problem, torch.Generator()).w
        tensor([2.])
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
