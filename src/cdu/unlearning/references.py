"""What a certificate compares a release with: for every certified method the run that never saw the forget set."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cdu.certification import Bound
from cdu.certification.amplification import coupled_distance
from cdu.curvature.minimise import kronecker_preconditioner, minimise
from cdu.errors import CduError
from cdu.models.training import project
from cdu.unlearning.methods.certified_removal import TOLERANCE, CertifiedRemoval
from cdu.unlearning.methods.fixed_features import LinearTask
from cdu.unlearning.methods.langevin import Langevin, noisy_descent
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.methods.noisy_fine_tuning import NoisyFineTuning
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.methods.rewind import Rewind, RewindLinear, descend
from cdu.unlearning.problem import Method, Problem, UnlearningResult
from cdu.unlearning.release import distance_bound, projected


def reference(
    method: Method, problem: Problem, update: UnlearningResult, generator: torch.Generator
) -> UnlearningResult:
    """The reference of a method's certificate, before the noise that is added last.

    Args:
        method: A certified method.
        problem: What it was run on.
        update: What it returned; the noise that a method adds itself is taken from its certificate.
        generator: Draws the noise of methods that add it on the way.

    Raises:
        CduError: The method has no certificate.
    """
    if isinstance(method, Original | NewtonStep):
        return Retrain()(problem, generator)
    if isinstance(method, NoisyFineTuning):
        retrained = problem.retrain(problem.retain, problem.seed)
        return method(replace(problem, w_star=retrained.w), generator)
    if isinstance(method, Rewind | RewindLinear):
        # Going back by all steps is starting again.
        return _all_rewound(method)(problem, generator)
    if isinstance(method, Langevin) and update.certificate is not None:
        task = LinearTask(problem, method.filters, method.l2)
        w = noisy_descent(
            task.objective,
            task.zeros(),
            task.retain,
            method.training_steps + method.steps,
            method.learning_rate,
            task.constants.radius,
            update.certificate.sigma,
            generator,
        )
        return replace(update, w=w)
    if isinstance(method, CertifiedRemoval):
        task = LinearTask(problem, method.filters, method.l2)
        rough = minimise(task.objective, task.retain, task.zeros(), 1e-2).w
        inverse = kronecker_preconditioner(task.objective, rough, task.retain)
        return replace(update, w=minimise(task.objective, task.retain, rough, TOLERANCE, inverse).w)
    raise CduError(f"{type(method).__name__} has no certificate, so there is nothing to compare its release with")


@dataclass(frozen=True)
class Distance:
    """How far a release and its reference lie apart before the noise that is added last.

    Attributes:
        measured: ‖w − w′‖₂ of the two, in float64.
        certified: What the certificate allows, rounding included.
        bound: What the certificate rests on.
    """

    measured: float
    certified: float
    bound: Bound


def distance(problem: Problem, update: UnlearningResult, own: UnlearningResult) -> Distance:
    """Measure the distance that a certificate speaks of.

    Where noise comes last, Δ is about both ends after projection. A method that adds noise on the way is run twice with
    the same noise; for that distance a bound of the same proof holds
    (:func:`~cdu.certification.amplification.coupled_distance`).

    Args:
        problem: What was to be unlearned.
        update: What a method returned.
        own: Its :func:`reference`, with the same noise on the way.

    Raises:
        CduError: Nothing bounds the distance; see :func:`~cdu.unlearning.release.distance_bound`.
    """
    if update.certificate is None:
        bound = distance_bound(problem, update)
        certified, ends = bound.sensitivity, [projected(problem, one) for one in (update, own)]
    elif update.bound is None:
        raise CduError("the update has a certificate and no bound that it rests on; give it the one of its proof")
    else:
        bound = update.bound
        certified, ends = coupled_distance(bound), [update.w, own.w]
    return Distance((ends[0].double() - ends[1].double()).norm().item(), certified, bound)


def noiseless_difference(method: Method, problem: Problem) -> Tensor:
    """The direction in which a method that adds noise on the way and its reference lie apart, roughly, shape (p,).

    For an adversary who knows both starts: for noisy fine-tuning the difference of the clipped starts, for Langevin
    unlearning that of the same descents without noise.

    Args:
        method: Such a method.
        problem: What it is run on.

    Raises:
        CduError: The method adds its noise last, or none.
    """
    if isinstance(method, NoisyFineTuning):
        retrained = problem.retrain(problem.retain, problem.seed)
        return project(problem.w_star, method.start_clip) - project(retrained.w, method.start_clip)
    if isinstance(method, Langevin):
        task = LinearTask(problem, method.filters, method.l2)
        ends = []
        for first in (task.everything, task.retain):
            rates = (method.learning_rate, task.constants.radius)
            w = descend(task.objective, task.zeros(), first, method.training_steps, *rates)
            ends.append(descend(task.objective, w, task.retain, method.steps, *rates))
        return ends[0] - ends[1]
    raise CduError(f"{type(method).__name__} adds no noise on the way; its release and reference are known without it")


def _all_rewound(method: Rewind | RewindLinear) -> Rewind | RewindLinear:
    if isinstance(method, Rewind):
        return Rewind(method.steps, method.steps, method.learning_rate)
    return RewindLinear(method.l2, method.steps, method.steps, method.learning_rate, method.filters)
