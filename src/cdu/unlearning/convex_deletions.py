"""Certified deletions from a convex model, one request after another."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cdu.certification.convex import gradient_rounding, largest_norm, ridge_constants, softmax_constants
from cdu.certification.rounding import norm_rounding
from cdu.checks import expect
from cdu.curvature.minimise import newton_direction
from cdu.curvature.solution import Preconditioner
from cdu.data.samples import Samples, expect_disjoint, expect_finite
from cdu.models.losses import squared_error
from cdu.models.objective import Objective
from cdu.models.objective_checks import expect_fitting, expect_mean

#: Relative accuracy of a Newton step's linear system.
ACCURACY = 1e-5


@dataclass(frozen=True)
class Deletion:
    """A deletion by Newton steps, checked against a budget.

    Attributes:
        steps: Newton steps taken.
        iterate: The Newton iterate, shape (p,).
        residual: ‖∇L(iterate, D_r)‖ as computed; over l2 it bounds the distance to the exact retrained model.
        distance: That bound, with what rounding may hide of the gradient.
        fallback: Whether ``distance`` exceeds the budget, so that the request is answered by retraining instead.
        seconds: Wall time of the steps and of the check, without a fallback.
    """

    steps: int
    iterate: Tensor
    residual: float
    distance: float
    fallback: bool
    seconds: float


def deletions(
    objective: Objective,
    w_star: Tensor,
    retain: Samples,
    forget: Samples,
    steps: int,
    budget: float,
    preconditioner: Preconditioner | None = None,
) -> list[Deletion]:
    """Newton steps on D_r; after each step, check the certificate's condition ‖∇L(w̃, D_r)‖/l2 ≤ budget.

    For an l2-strongly convex L the left side bounds ‖w̃ − w̃*‖; what rounding may hide of the gradient is added to it
    (:func:`gradient_rounding`). Noise is scaled to the *budget*, which was fixed before the data were seen, whether a
    request is answered by the iterate or by retraining.

    Args:
        objective: L of a :class:`~cdu.models.architectures.LogisticRegression`, with l2 > 0.
        w_star: The minimiser on D.
        retain: D_r, rows of shape (n, features).
        forget: D_u, none of which may be in ``retain``; the steps need nothing else of it.
        steps: Newton steps.
        budget: Δ.
        preconditioner: For conjugate gradient.

    Returns:
        One deletion for 0, 1, …, ``steps`` steps.

    Raises:
        CduError: l2 or the budget is not positive, a sample is in both sets, the weights are not in float64, the loss
            is no mean or none whose rounding is known, the model is not linear, or the gradient is not finite, so that
            nothing can be checked.

    Example:
        A linear model, trained by Newton steps, from which one of 40 samples is deleted:

        >>> from cdu.models.architectures import LogisticRegression
        >>> generator = torch.Generator().manual_seed(0)
        >>> inputs = torch.randn(40, 3, generator=generator, dtype=torch.float64)
        >>> samples = Samples(inputs, (inputs[:, 0] > 0).long(), dtype=torch.float64)
        >>> objective = Objective(LogisticRegression(3, 2).double(), l2=0.1)
        >>> w = torch.zeros(8, dtype=torch.float64)
        >>> for _ in range(10):
        ...     w = w - newton_direction(objective, w, samples, objective.gradient(w, samples), 1e-5)
        >>> retain, forget = samples.subset(torch.arange(39)), samples.subset(torch.tensor([39]))
        >>> [deletion.fallback for deletion in deletions(objective, w, retain, forget, steps=2, budget=1e-3)]
        [True, False, False]
    """
    return list(deletion_steps(objective, w_star, retain, forget, steps, budget, preconditioner))


def deletion_steps(
    objective: Objective,
    w_star: Tensor,
    retain: Samples,
    forget: Samples,
    steps: int,
    budget: float,
    preconditioner: Preconditioner | None = None,
    accuracy: float | None = ACCURACY,
) -> Iterator[Deletion]:
    """The same one after another: the next step is taken when the next deletion is asked for.

    Args:
        objective: As for :func:`deletions`, and so are the next six.
        w_star: The same.
        retain: The same.
        forget: The same.
        steps: The same.
        budget: The same.
        preconditioner: The same.
        accuracy: Relative accuracy of the steps' linear systems; no more than the budget asks for when None
            (:func:`enough`).
    """
    expect(objective.l2 > 0, f"l2 = {objective.l2} bounds no distance; train with l2 > 0")
    expect(0 < budget < math.inf, f"budget = {budget} is not a positive finite number")
    expect(steps >= 0, f"steps = {steps} is below 0")
    expect(
        w_star.dtype == torch.float64,
        f"the weights are of type {w_star.dtype}, whose rounding a residual does not show; give model and samples "
        "in float64",
    )
    expect_disjoint(retain, forget)
    expect_finite(retain, "retain")
    expect_fitting(objective, w_star, retain, "retain")
    expect_mean(objective, w_star, retain)
    begin = time.perf_counter()
    w = w_star
    for taken in range(steps + 1):
        gradient = objective.gradient(w, retain)
        residual = gradient.norm().item()
        expect(
            math.isfinite(residual),
            f"the gradient on D_r has the norm {residual} after {taken} Newton steps, so that no budget can be "
            "checked; look for NaN in the weights and the inputs, and retrain",
        )
        distance = distance_at_most(objective, w, retain, residual)
        yield Deletion(taken, w, residual, distance, distance > budget, time.perf_counter() - begin)
        if taken < steps:
            wanted = enough(objective.l2 * budget, residual) if accuracy is None else accuracy
            w = w - newton_direction(objective, w, retain, gradient, wanted, preconditioner)


def enough(allowed: float, residual: float) -> float:
    """The relative accuracy of a Newton step's linear system that is worth its time.

    A system solved to a relative accuracy of a leaves a gradient of about a·‖∇L‖, and the step is off by its second
    order besides. A third of what the budget allows is therefore enough; where that is more than three digits away two
    steps share them.

    Args:
        allowed: l2 · budget, the gradient's norm that is allowed.
        residual: ‖∇L‖ before the step.
    """
    wanted = min(0.3, 0.3 * allowed / residual) if residual > 0 else 0.3
    return wanted if wanted >= 1e-3 else max(1e-3, wanted**0.5)


def distance_at_most(objective: Objective, w: Tensor, samples: Samples, residual: float) -> float:
    """A bound on the distance of w to the exact minimiser: ‖∇L(w, S)‖/l2, with what rounding may hide of the gradient.

    Args:
        objective: L of a :class:`~cdu.models.architectures.LogisticRegression`, with l2 > 0.
        w: The weights, shape (p,), in float64.
        samples: S.
        residual: ‖∇L(w, S)‖ as computed.

    Raises:
        CduError: As for :func:`~cdu.certification.convex.gradient_rounding`.
    """
    hidden = gradient_rounding(objective, w, samples)
    return (residual * (1 + norm_rounding(len(w))) + hidden) / objective.l2


def distance_foreseen(objective: Objective, samples: Samples, residual: float, steps: int, budget: float) -> float:
    """A distance to the exact minimiser that Newton steps are proven to end within, in exact arithmetic.

    A step from a gradient of norm r whose linear system is solved to a relative accuracy a is at most (1 + a)·r/l2
    long, and leaves a gradient of norm a·r + (M/2)·((1 + a)·r/l2)² at most, where M is the Lipschitz constant of the
    Hessian (:mod:`cdu.certification.convex`) and a what the budget asks for (:func:`enough`). The steps end early where
    the budget is kept, so that a step that is not proven to help is counted as none.

    Args:
        objective: L of a :class:`~cdu.models.architectures.LogisticRegression` with l2 > 0: cross-entropy or squared
            error.
        samples: S.
        residual: ‖∇L(w, S)‖ at the start.
        steps: Newton steps.
        budget: Δ.
    """
    longest = largest_norm(samples)
    if objective.loss_function is squared_error:
        constants = ridge_constants(longest, objective.l2)
    else:
        classes = objective.size // (samples.inputs.shape[1] + 1)
        constants = softmax_constants(longest, objective.l2, classes)
    for _ in range(steps):
        accuracy = enough(objective.l2 * budget, residual)
        length = (1 + accuracy) * residual / objective.l2
        residual = min(residual, accuracy * residual + constants.hessian_lipschitz / 2 * length**2)
    return residual / objective.l2
