"""What a certificate compares a release with: every certified method says it itself, and these functions ask it."""

import torch
from torch import Tensor

from cdu.errors import CduError
from cdu.unlearning.problem import CertifiedMethod, Method, NoisyMethod, Problem, UnlearningResult


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


def noiseless_difference(method: Method, problem: Problem) -> Tensor:
    """The direction in which a method that adds noise on the way and its reference lie apart, roughly, shape (p,).

    For an adversary who knows both starts.

    Args:
        method: Such a method.
        problem: What it is run on.

    Raises:
        CduError: The method adds its noise last, or none.
    """
    if not isinstance(method, NoisyMethod):
        raise CduError(
            f"{type(method).__name__} adds no noise on the way; its release and reference are known without it"
        )
    return method.noiseless_difference(problem)
