"""The reference that a certificate compares a release with. Every certified method computes its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cdu.certification import Bound
from cdu.certification.amplification import coupled_distance
from cdu.errors import CduError
from cdu.unlearning.problem import CertifiedMethod, Method, NoisyMethod, Problem, UnlearningResult
from cdu.unlearning.release import distance_bound, projected


def reference(
    method: Method, problem: Problem, result: UnlearningResult, generator: torch.Generator
) -> UnlearningResult:
    """The reference of a method's certificate, before the noise that is added last.

    Args:
        method: A certified method.
        problem: What it was run on.
        result: What it returned; the noise that a method adds itself is taken from its certificate.
        generator: Draws the noise of methods that add it on the way.

    Raises:
        CduError: The method has no certificate.
    """
    if not isinstance(method, CertifiedMethod):
        raise CduError(f"{type(method).__name__} has no certificate, so there is nothing to compare its release with")
    return method.reference(problem, result, generator)


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

    For an adversary who knows both starts.

    Args:
        method: A method that adds noise on the way.
        problem: What it is run on.

    Raises:
        CduError: The method adds its noise last, or none.
    """
    if not isinstance(method, NoisyMethod):
        raise CduError(
            f"{type(method).__name__} adds no noise on the way; its release and reference are known without it"
        )
    return method.noiseless_difference(problem)
