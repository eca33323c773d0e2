"""A sequence of requests: every step starts from the last iterate, projected onto the ball."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdu.certification import (
    Bound,
    certify,
    naive_epsilon,
    newton_bound,
    residual_bound,
    sequential_bound,
    trivial_bound,
)
from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.minimise import minimise, newton_direction
from cdu.data.samples import Samples
from cdu.evaluation.readings import Reading, Refusal, outcome
from cdu.evaluation.theory_checks.constants import smallest_eigenvalue
from cdu.evaluation.theory_checks.linear_problem import LinearProblem
from cdu.models.training import project
from cdu.seeding import generator
from cdu.unlearning.problem import Problem


def softmax_requests(problem: LinearProblem, count: int) -> Iterator[Reading]:
    """D_u of a linear problem in several requests, answered by undamped steps of softmax regression.

    Args:
        problem: Its constants are known, so that every bound was fixed in advance.
        count: Number of requests.

    Yields:
        After each request ``distance`` = ‖w̃ − w̃*‖, ``bound`` by Theorem 3.4 and ``certified_distance`` =
        ‖∇L(w̃, D_r)‖/l2.
    """
    objective, known = problem.softmax, problem.softmax_constants
    step_bound = newton_bound(known.radius, known.hessian_lipschitz, 0.0, known.strong_convexity, fixed_in_advance=True)
    parts = torch.tensor_split(problem.forget_rows, count)
    w = problem.w_softmax
    for number in range(1, count + 1):
        left = problem.without(torch.cat(parts[:number]))
        direction = newton_direction(objective, w, left, objective.gradient(w, left), 1e-10)
        w = project(w - direction, known.radius)
        residual = objective.gradient(w, left).norm().item()
        numbers = {
            "distance": (w - minimise(objective, left, w, 1e-12).w).norm().item(),
            "bound": sequential_bound([step_bound] * number).value,
            "certified_distance": residual_bound(residual, problem.l2).value,
        }
        yield Reading(numbers, {"method": "softmax", "axis": "request", "point": number})


def rows_left(train: NDArray[np.int64], forget: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """Rows of D that are left after each of several requests, which delete the rows of D_u in their order.

    Args:
        train: Rows of D.
        forget: Rows of D_u.
        count: Number of requests.
    """
    parts = np.array_split(forget, count)
    return [np.setdiff1d(train, np.concatenate(parts[:number])) for number in range(1, count + 1)]


@dataclass(frozen=True)
class Answer:
    """One request answered by a Newton step.

    Attributes:
        w: The iterate, projected, shape (p,).
        distance: ‖w − w̃*‖ for the model retrained on what is left.
        lambda_min: The smallest eigenvalue of the Hessian that the step used.
        gradient_retrained: G = ‖∇L(w̃*, D_r)‖.
    """

    w: Tensor
    distance: float
    lambda_min: float
    gradient_retrained: float

    def newton_bound(self, hessian_lipschitz: float, radius: float, damping: float) -> Bound:
        """Theorem 3.4 for this step.

        Args:
            hessian_lipschitz: M.
            radius: C.
            damping: λ.

        Raises:
            CduError: λ + λ_min ≤ 0.
        """
        return newton_bound(radius, hessian_lipschitz, damping, self.lambda_min, self.gradient_retrained)


def answer(problem: Problem, w: Tensor, left: Samples, damping: float, generator: torch.Generator) -> Answer:
    """Answer one request from the last iterate, and retrain on what is left to compare with.

    Args:
        problem: Where L, C and the training recipe come from.
        w: The last iterate, shape (p,).
        left: D_r after this request.
        damping: λ.
        generator: Draws the start of Lanczos.

    Raises:
        SolverError: H + λI is not positive definite.
    """
    objective, retrained = problem.objective, problem.retrain(left, problem.seed)
    smallest = smallest_eigenvalue(objective, w, left, generator)
    step = conjugate_gradient(Hessian(objective, w, left) + damping, objective.gradient(w, left)).x
    moved = project(w - step, problem.radius)
    slope = objective.with_model(retrained.model).gradient(retrained.w, left).norm().item()
    return Answer(moved, (moved - retrained.w).norm().item(), smallest, slope)


def network_requests(
    problem: Problem, remaining: Sequence[Samples], damping: float, hessian_lipschitz: float
) -> Iterator[Reading]:
    """Requests to a network, answered one after another by damped steps, until one cannot be.

    Args:
        problem: Where the first step starts, at w*.
        remaining: D_r after every request.
        damping: λ.
        hessian_lipschitz: M, measured at w*.

    Yields:
        After each request ``distance`` = ‖w − w̃*‖, ``step_bound`` by Theorem 3.4 and ``bound``, the largest so far; or
        the reason where there is none.
    """
    w, bounds = problem.w_star, list[Bound]()
    for number, left in enumerate(remaining, start=1):
        keys = {"axis": "request", "point": number}
        found = outcome(partial(answer, problem, w, left, damping, generator(problem.seed, "request", number)))
        if isinstance(found, Refusal):
            yield found.reading("distance", **keys)
            return
        w = found.w
        yield Reading({"distance": found.distance}, keys)
        step = outcome(partial(found.newton_bound, hessian_lipschitz, problem.radius, damping))
        if isinstance(step, Refusal):
            yield step.reading("step_bound", **keys)
            continue
        bounds.append(step)
        yield Reading({"step_bound": step.value}, keys)
        if len(bounds) == number:
            yield Reading({"bound": sequential_bound(bounds).value}, keys)


def composed(radius: float, sigma: float, delta: float, counts: Sequence[int]) -> Iterator[Reading]:
    """What several releases cost under the trivial bound 2C: composed as one Gaussian mechanism, and added up.

    Args:
        radius: C.
        sigma: Standard deviation of the noise of every release.
        delta: δ of all releases together.
        counts: Numbers of releases.

    Yields:
        ``epsilon``, first composed and then added up, for every number of releases.
    """
    bound = trivial_bound(radius)
    for count in counts:
        together = certify(bound, sigma, delta, count).epsilon
        naive = naive_epsilon(sigma, delta, bound.value, count)
        for name, epsilon in {"composed": together, "added up": naive}.items():
            yield Reading({"epsilon": epsilon}, {"method": name, "axis": "releases", "point": count})
