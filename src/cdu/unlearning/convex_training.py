"""Training of a linear model to where a budget needs it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cdu.checks import expect
from cdu.curvature.minimise import kronecker_preconditioner, minimise
from cdu.curvature.solution import Preconditioner
from cdu.data.samples import Samples
from cdu.models.objective import Objective
from cdu.unlearning.convex_deletions import distance_at_most

#: Training ends where ‖∇L‖/l2 is at most this share of the budget: the rest is for what rounding may hide.
SHARE = 0.1

#: ‖∇L‖ at which the preconditioner is made anew: the probabilities are then nearly those of the minimiser.
_ROUGH = 1e-2

#: Features from which on the preconditioner is not worth it: its decomposition grows with their cube.
_MANY = 1024


@dataclass(frozen=True)
class Trained:
    """A minimiser of a linear model's objective.

    Attributes:
        w: The weights, shape (p,).
        distance: A bound on the distance to the exact minimiser; :func:`distance_at_most`.
        steps: Newton steps taken.
    """

    w: Tensor
    distance: float
    steps: int


def train(objective: Objective, samples: Samples, budget: float) -> Trained:
    """Minimise from zero until ‖∇L‖/l2 ≤ budget/10, and check that the distance to the minimiser keeps the budget.

    The certificate needs a distance of at most the budget, with all that rounding may hide of the gradient. The start
    is zero, so that the result depends on these samples alone.

    Args:
        objective: L of a :class:`~cdu.models.architectures.LogisticRegression` in float64, with l2 > 0.
        samples: S.
        budget: Δ.

    Raises:
        CduError: Float64 cannot show so small a distance, or the minimiser was not reached.
    """
    device = next(objective.model.parameters()).device
    start = torch.zeros(objective.size, dtype=torch.float64, device=device)
    _expect_shown(distance_at_most(objective, start, samples, 0.0), budget, len(samples), objective.l2)
    tolerance = SHARE * objective.l2 * budget
    rough = minimise(objective, samples, start, max(_ROUGH, tolerance), preconditioner(objective, start, samples))
    found = minimise(objective, samples, rough.w, tolerance, preconditioner(objective, rough.w, samples))
    distance = distance_at_most(objective, found.w, samples, found.gradient_norm)
    _expect_shown(distance, budget, len(samples), objective.l2)
    return Trained(found.w, distance, rough.steps + found.steps)


def preconditioner(objective: Objective, w: Tensor, samples: Samples) -> Preconditioner | None:
    """What conjugate gradient is preconditioned with; none where it would cost more than it saves.

    Args:
        objective: L.
        w: Where the probabilities are taken.
        samples: S, of which a block at a time is cast to float64.
    """
    if samples.inputs.shape[1] > _MANY:
        return None
    return kronecker_preconditioner(objective, w, samples, objective.chunk)


def _expect_shown(distance: float, budget: float, count: int, l2: float) -> None:
    expect(
        distance <= budget,
        f"float64 shows of the gradient over {count:,} rows with l2 = {l2:g} only that the minimiser is within "
        f"{distance:.3g}, and the budget is {budget:g}; give a larger budget or a larger l2",
    )
