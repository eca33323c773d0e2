"""Training of a linear model to where a budget needs it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cdu.checks import expect
from cdu.curvature.minimise import (
    FeatureMoments,
    feature_moments,
    kronecker_preconditioner,
    leading_moments,
    minimise,
)
from cdu.curvature.solution import Preconditioner
from cdu.data.samples import Samples
from cdu.models.objective import Objective
from cdu.unlearning.convex_deletions import distance_at_most

#: Training ends where ‖∇L‖/l2 is at most this share of the budget: the rest is for what rounding may hide.
SHARE = 0.1

#: ‖∇L‖ at which the preconditioner is made anew: from one to the next the probabilities come nearer to the minimiser's.
_STAGES = (1e-2, 1e-3, 1e-4)

#: Rows that are cast at once.
_BLOCK = 2048

#: Features from which on all eigenpairs are not worth their time, which grows with the cube; and the leading ones that
#: are taken instead, where the features are in single precision.
_MANY, _LEADING = 1024, 256


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


def train(objective: Objective, samples: Samples, budget: float, moments: FeatureMoments | None = None) -> Trained:
    """Minimise from zero until ‖∇L‖/l2 ≤ budget/10, and check that the distance to the minimiser keeps the budget.

    The certificate needs a distance of at most the budget, with all that rounding may hide of the gradient. The start
    is zero, so that the result depends on these samples alone.

    Args:
        objective: L of a :class:`~cdu.models.architectures.LogisticRegression` in float64, with l2 > 0.
        samples: S. Newton's directions are computed in single precision where the features are, gradients never.
        budget: Δ.
        moments: For the preconditioner (:func:`moments_of`); computed when None.

    Raises:
        CduError: Float64 cannot show so small a distance, or the minimiser was not reached.
    """
    device = next(objective.model.parameters()).device
    w = torch.zeros(objective.size, dtype=torch.float64, device=device)
    _expect_shown(distance_at_most(objective, w, samples, 0.0), budget, len(samples), objective.l2)
    tolerance = SHARE * objective.l2 * budget
    known, steps = moments_of(samples) if moments is None else moments, 0
    for stage in (*(rough for rough in _STAGES if rough > tolerance), tolerance):
        inverse = preconditioner(objective, w, samples, known)
        found = minimise(objective, samples, w, stage, inverse, frugal=True)
        w, steps = found.w, steps + found.steps
    distance = distance_at_most(objective, w, samples, found.gradient_norm)
    _expect_shown(distance, budget, len(samples), objective.l2)
    return Trained(w, distance, steps)


class Training:
    """Trains linear models within a budget, and preconditions the steps that follow.

    The preconditioner is made from the moments of the features of the last training, which stay in memory. It decides
    how fast a minimiser is reached, and not where that is: every model is held against the budget by a gradient in
    float64.

    Args:
        objective: L.
        budget: Δ.
    """

    def __init__(self, objective: Objective, budget: float) -> None:
        self._objective, self._budget = objective, budget
        self._moments: FeatureMoments | None = None

    def minimiser(self, samples: Samples) -> Trained:
        """The minimiser on some rows, from zero and with the moments of these rows, so that nothing else is in it."""
        self._moments = moments_of(samples)
        return train(self._objective, samples, self._budget, self._moments)

    def preconditioner(self, w: Tensor, samples: Samples) -> Preconditioner | None:
        """An approximate inverse Hessian at w; its moments are those of these rows where nothing was trained yet."""
        self._moments = moments_of(samples) if self._moments is None else self._moments
        return preconditioner(self._objective, w, samples, self._moments)


def moments_of(samples: Samples) -> FeatureMoments | None:
    """What the preconditioner knows of the features; None where it would cost more than it saves.

    It may be kept while rows are deleted, as long as they are few. It decides how fast the minimiser is reached, and
    not where that is: every model is held against the budget by its own gradient.
    """
    if samples.inputs.shape[1] <= _MANY:
        return feature_moments(samples, block=_BLOCK)
    return leading_moments(samples, _LEADING) if samples.inputs.dtype == torch.float32 else None


def preconditioner(
    objective: Objective, w: Tensor, samples: Samples, moments: FeatureMoments | None
) -> Preconditioner | None:
    """What conjugate gradient is preconditioned with; None without moments.

    Args:
        objective: L.
        w: Where the probabilities are taken.
        samples: S, of which a block at a time is cast to float64.
        moments: From :func:`moments_of`.
    """
    return None if moments is None else kronecker_preconditioner(objective, w, samples, moments=moments)


def _expect_shown(distance: float, budget: float, count: int, l2: float) -> None:
    expect(
        distance <= budget,
        f"float64 shows of the gradient over {count:,} rows with l2 = {l2:g} only that the minimiser is within "
        f"{distance:.3g}, and the budget is {budget:g}; give a larger budget or a larger l2",
    )
