"""Training that has not converged: the two forms of the step, and the bound's term G."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch

from cdu.certification import Bound, newton_bound
from cdu.data.samples import Samples
from cdu.evaluation.readings import Reading, Refusal, outcome
from cdu.evaluation.theory_checks.bound import NetworkConstants, bound_reading, released_distance, retrained_gradient
from cdu.evaluation.theory_checks.constants import segment_constants, smallest_eigenvalue
from cdu.models.training import Trained
from cdu.unlearning.methods.newton import Form, NewtonStep
from cdu.unlearning.problem import Problem, UnlearningResult


@dataclass(frozen=True)
class Stopped:
    """Two trainings that were stopped after as many epochs.

    Attributes:
        problem: Delete D_u from the original, w* as it was then.
        retrained: w̃*.
        everything: D.
    """

    problem: Problem
    retrained: Trained
    everything: Samples

    def forms_apart(self, by_retain: UnlearningResult, by_forget: UnlearningResult) -> dict[str, float]:
        """Both forms of the Newton step beside the gradients that tell them apart, by metric.

        Args:
            by_retain: The step from ∇L(w*, D_r).
            by_forget: The step from ∇L(w*, D_u).

        Returns:
            ``distance`` = ‖w̃ − w̃*‖ by the first form, projected; ``gradient_retrained`` = G; ``gradient_original`` =
            ‖∇L(w*, D)‖; ``forms_difference``, relative to the first step.
        """
        problem, w_star = self.problem, self.problem.w_star
        first, second = (update.w - w_star for update in (by_retain, by_forget))
        return {
            "distance": released_distance(problem, by_retain, self.retrained.w),
            "gradient_retrained": retrained_gradient(problem, self.retrained),
            "gradient_original": float(problem.objective.gradient(w_star, self.everything).norm()),
            "forms_difference": float((first - second).norm() / first.norm()),
        }

    def bound(self, damping: float, generator: torch.Generator) -> Bound:
        """Theorem 3.4 with its term for training that has not converged, from constants measured in few products.

        Args:
            damping: λ.
            generator: Draws the starts of Lanczos.

        Raises:
            CduError: λ + λ_min ≤ 0.
        """
        objective, w_star, retain = self.problem.objective, self.problem.w_star, self.problem.retain
        smallest = smallest_eigenvalue(objective, w_star, retain, generator)
        segment = segment_constants(objective, w_star, self.retrained.w, retain, generator, nodes=2)
        slope = retrained_gradient(self.problem, self.retrained)
        return newton_bound(self.problem.radius, segment.hessian_lipschitz, damping, smallest, slope)


def early_readings(
    stopped: Stopped, damping: float, generator: torch.Generator, known: NetworkConstants | None = None
) -> Iterator[Reading]:
    """Both forms of the step, and the bound, where training stopped after some epochs.

    Args:
        stopped: The original and the retrained model.
        damping: λ.
        generator: Draws the starts of Lanczos.
        known: Constants that were measured of this very network; measured in few products when None.

    Yields:
        What :meth:`Stopped.forms_apart` gives and ``bound``; or the reason for each form that cannot be computed.
    """
    problem = stopped.problem
    steps = [NewtonStep(damping, gradient=form) for form in get_args(Form)]
    updates = [outcome(partial(step, problem, torch.Generator())) for step in steps]
    yield from (update.reading("distance") for update in updates if isinstance(update, Refusal))
    by_retain, by_forget = updates
    if isinstance(by_retain, Refusal) or isinstance(by_forget, Refusal):
        return
    yield Reading(stopped.forms_apart(by_retain, by_forget), {})
    if known is None:
        yield bound_reading("bound", partial(stopped.bound, damping, generator))
    else:
        yield bound_reading("bound", partial(known.newton_bound, problem.radius, damping))
