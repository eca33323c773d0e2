"""A linear model that deletes within a budget, as two sections compare it: deletion, noise, accuracy and audit."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdu.certification import budget_bound, required_sigma
from cdu.certification.rounding import computed
from cdu.curvature.minimise import minimise
from cdu.curvature.solution import Preconditioner
from cdu.data.samples import Samples
from cdu.models.architectures import LogisticRegression
from cdu.models.objective import Objective
from cdu.unlearning.convex_deletions import deletion_steps
from cdu.unlearning.convex_training import moments_of, preconditioner, train

#: The true minimiser is computed to this share of the budget.
_EXACT = 0.01


@dataclass(frozen=True)
class BudgetedModel:
    """A linear model trained on all its samples, which deletes within a budget.

    Attributes:
        objective: L.
        samples: What it is trained on, with float64 batches and ids.
        w: The minimiser, shape (p,).
        inverse: An approximate inverse Hessian.
        budget: Δ.
        steps: Newton steps at most, before a request is answered by training anew.
        seconds: Wall time of the training.
    """

    objective: Objective
    samples: Samples
    w: Tensor
    inverse: Preconditioner | None
    budget: float
    steps: int
    seconds: float

    def sigma(self, epsilon: float, delta: float) -> float:
        """The noise that certifies (ε, δ) for any deletion, whatever its size."""
        return required_sigma(computed(budget_bound(self.budget), "float64", rounding=0.0), epsilon, delta)

    def delete(self, rows: NDArray[np.int64]) -> "Deleted":
        """Newton steps until the budget is kept, and training anew where they do not get there."""
        gone = self.samples.subset(rows)
        retain = self.samples.subset(np.setdiff1d(np.arange(len(self.samples)), rows))
        common = (self.objective, self.w, retain, gone, self.steps, self.budget, self.inverse)
        for last in deletion_steps(*common, accuracy=None):
            if not last.fallback:
                return Deleted(self, retain, last.iterate, last.seconds)
        begin = time.perf_counter()
        anew = train(self.objective, retain, self.budget)
        return Deleted(self, retain, anew.w, last.seconds + time.perf_counter() - begin)


@dataclass(frozen=True)
class Deleted:
    """What is released before noise.

    Attributes:
        model: Whose deletion it is.
        retain: The samples left.
        w: The weights, within the budget of the minimiser on these.
        seconds: Wall time of the deletion.
    """

    model: BudgetedModel
    retain: Samples
    w: Tensor
    seconds: float

    def distance(self) -> float:
        """The distance to the true minimiser on the samples left."""
        objective, allowed = self.model.objective, _EXACT * self.model.objective.l2 * self.model.budget
        exact = minimise(objective, self.retain, self.w, allowed, self.model.inverse)
        return float((self.w - exact.w).norm())

    def accuracy(self, samples: Samples, sigma: float, draws: int, generator: torch.Generator) -> float:
        """Accuracy with noise, as a mean over draws."""
        found = []
        for _ in range(draws):
            noise = torch.randn(len(self.w), dtype=self.w.dtype, generator=generator).to(self.w.device)
            predicted = self.model.objective.outputs(self.w + sigma * noise, samples).argmax(dim=1)
            found.append((predicted == samples.targets).double().mean().item())
        return float(np.mean(found))


def budgeted_model(samples: Samples, classes: int, l2: float, budget: float, steps: int) -> BudgetedModel:
    """Train a linear model to where its budget needs it.

    Args:
        samples: Rows of features, with float64 batches and ids.
        classes: K.
        l2: Weight of (l2/2)‖w‖².
        budget: Δ.
        steps: Newton steps at most for a request.

    Raises:
        CduError: As for :func:`cdu.unlearning.convex_training.train`.
    """
    begin = time.perf_counter()
    model = LogisticRegression(samples.inputs.shape[1], classes).double().to(samples.device)
    objective = Objective(model, l2=l2)
    moments = moments_of(samples)
    w = train(objective, samples, budget, moments).w
    inverse = preconditioner(objective, w, samples, moments)
    return BudgetedModel(objective, samples, w, inverse, budget, steps, time.perf_counter() - begin)
