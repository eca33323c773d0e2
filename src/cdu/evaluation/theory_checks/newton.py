"""The Newton step: exact on a quadratic, second order in what is forgotten, and its two forms."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.minimise import minimise, newton_direction
from cdu.data.samples import Samples
from cdu.evaluation.readings import Reading
from cdu.evaluation.theory_checks.linear_problem import OPTIMUM, LinearProblem
from cdu.models.losses import downweighted
from cdu.models.objective import Objective
from cdu.seeding import generator


def ridge_check(problem: LinearProblem) -> dict[str, float]:
    """One undamped step of ridge regression beside the retrained weights, which the normal equations give.

    Args:
        problem: Whose D_u is deleted.

    Returns:
        Relative to ‖w̃*‖, ``ridge_error`` = ‖w̃ − w̃*‖ after the step and ``ridge_distance`` = ‖w* − w̃*‖ before it.
    """
    w_star, retrained = problem.w_ridge(problem.samples), problem.w_ridge(problem.retain)
    gradient = problem.ridge.gradient(w_star, problem.retain)
    step = conjugate_gradient(Hessian(problem.ridge, w_star, problem.retain), gradient, 1e-14, 5000).x
    error, distance = (w_star - step - retrained).norm(), (w_star - retrained).norm()
    return {
        "ridge_error": (error / retrained.norm()).item(),
        "ridge_distance": (distance / retrained.norm()).item(),
    }


def step_error(objective: Objective, w_star: Tensor, retain: Samples) -> float:
    """‖w̃ − w̃*‖ after one undamped Newton step.

    Args:
        objective: A strongly convex L, in float64.
        w_star: The minimiser on D, shape (p,).
        retain: D_r.
    """
    gradient = objective.gradient(w_star, retain)
    w = w_star - newton_direction(objective, w_star, retain, gradient, 1e-10)
    return float((w - minimise(objective, retain, w, 1e-13).w).norm())


def share_errors(problem: LinearProblem, shares: Sequence[float]) -> dict[float, float]:
    """The step's error where the weight of one fixed D_u is lowered by t, for every t of ``shares``.

    Everything is smooth in t. The step matches the first order, so that its error falls as t².

    Args:
        problem: Whose D_u it is; softmax regression.
        shares: The t, each above 0 and at most 1, where D_u is gone.
    """
    parts = {share: downweighted(problem.retain, problem.forget, share) for share in shares}
    return {share: step_error(problem.weighted_softmax, problem.w_softmax, part) for share, part in parts.items()}


def forget_orders(problem: LinearProblem, count: int, label: int, seed: int) -> dict[str, list[Tensor]]:
    """Orders in which samples are forgotten: ``count`` random ones, and one class from its first sample to its last.

    Args:
        problem: Whose samples they are.
        count: Number of random orders.
        label: The class.
        seed: The run's seed.
    """
    order = problem.order
    streams = [generator(seed, "pool", number) for number in range(count)]
    return {
        "random": [order[torch.randperm(len(order), generator=stream)] for stream in streams],
        "one class": [order[problem.samples.targets[order] == label]],
    }


def size_errors(problem: LinearProblem, orders: Sequence[Tensor], sizes: Sequence[int]) -> dict[int, dict[str, float]]:
    """The step's error against the number of samples that are forgotten; softmax regression.

    Args:
        problem: What is deleted from.
        orders: Orders in which rows of D are forgotten; each gives one forget set of every size.
        sizes: The n_u; those above the length of the shortest order are left out.

    Returns:
        By n_u, on average over the orders, ``step_error`` = ‖w̃ − w̃*‖ and ``gradient_sum`` = ‖Σ∇ℓ‖ over the forget set
        at w*, whose square the error follows.
    """
    objective, w_star = problem.softmax, problem.w_softmax
    found = {}
    for size in sizes:
        if size > min(map(len, orders)):
            continue
        sets = [order[:size] for order in orders]
        errors = [step_error(objective, w_star, problem.without(rows)) for rows in sets]
        sums = [size * objective.gradient(w_star, problem.samples.subset(rows)).norm().item() for rows in sets]
        found[size] = {"step_error": float(np.mean(errors)), "gradient_sum": float(np.mean(sums))}
    return found


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent a of the power law y ∝ xᵃ that fits best on log-log axes."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def second_order(
    problem: LinearProblem, shares: Sequence[float], orders: Mapping[str, Sequence[Tensor]], sizes: Sequence[int]
) -> Iterator[Reading]:
    """The step's error against the share of one fixed D_u, and against the size of other ones, with their exponents.

    Args:
        problem: What is deleted from; softmax regression.
        shares: As for :func:`share_errors`.
        orders: Of every kind of forget set, as for :func:`size_errors`.
        sizes: The n_u.

    Yields:
        ``step_error``, with ``gradient_sum`` where sizes differ, and for each kind the ``slope`` on log-log axes.
    """
    fixed = share_errors(problem, shares)
    for share, error in fixed.items():
        yield Reading({"step_error": error}, {"method": "one fixed set", "axis": "share", "point": share})
    yield Reading({"slope": slope([*fixed], [*fixed.values()])}, {"method": "one fixed set"})
    for kind, own in orders.items():
        found = size_errors(problem, own, sizes)
        for size, numbers in found.items():
            yield Reading(numbers, {"method": kind, "axis": "forget size", "point": size})
        errors = [numbers["step_error"] for numbers in found.values()]
        yield Reading({"slope": slope([*found], errors)}, {"method": kind})


def stopped_early(problem: LinearProblem, norms: Sequence[float]) -> Iterator[Reading]:
    """The two forms of the step where gradient descent stopped at some ‖∇L(w, D)‖, and at last at the optimum.

    Args:
        problem: Whose D_u is deleted; softmax regression.
        norms: The ‖∇L(w, D)‖, descending.

    Yields:
        What :func:`two_forms` gives.
    """
    lipschitz = problem.softmax_constants.gradient_lipschitz
    stops = descend(problem.softmax, problem.samples, problem.start, lipschitz, norms)
    for norm, w in zip((*norms, OPTIMUM), (*stops, problem.w_softmax), strict=True):
        yield Reading(two_forms(problem, w), {"method": "softmax", "axis": "gradient norm", "point": norm})


def two_forms(problem: LinearProblem, w: Tensor) -> dict[str, float]:
    """The two forms of the undamped step at some weights of softmax regression, relative to the first.

    H⁻¹∇L(w, D_r) and −n_u/n_r·H⁻¹∇L(w, D_u) differ by n/n_r·H⁻¹∇L(w, D).

    Args:
        problem: Whose D_u is deleted.
        w: Where training stopped, shape (p,).

    Returns:
        ``forms_difference``, the difference of the two, and ``forms_unexplained``, what that formula leaves of it.
    """
    objective, retain, forget, everything = problem.softmax, problem.retain, problem.forget, problem.samples
    gradients = (
        objective.gradient(w, retain),
        objective.gradient(w, forget) * (-len(forget) / len(retain)),
        objective.gradient(w, everything) * (len(everything) / len(retain)),
    )
    by_retain, by_forget, predicted = (newton_direction(objective, w, retain, one, 1e-12) for one in gradients)
    difference = by_retain - by_forget
    return {
        "forms_difference": (difference.norm() / by_retain.norm()).item(),
        "forms_unexplained": ((difference - predicted).norm() / by_retain.norm()).item(),
    }


def descend(
    objective: Objective, samples: Samples, start: Tensor, lipschitz: float, norms: Sequence[float]
) -> list[Tensor]:
    """Gradient descent with step 1/L, and its iterate at each gradient norm of ``norms`` (descending) as it passes.

    Args:
        objective: A strongly convex L.
        samples: S.
        start: Starting weights.
        lipschitz: Lipschitz constant of the gradient.
        norms: Values of ‖∇L‖ at which to stop and look.
    """
    w, found = start, []
    gradient = objective.gradient(w, samples)
    for norm in norms:
        while gradient.norm().item() > norm:
            w = w - gradient / lipschitz
            gradient = objective.gradient(w, samples)
        found.append(w)
    return found
