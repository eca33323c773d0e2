"""An experiment that could refute the certificate of a deletion."""

import torch

from cdu.certification import required_sigma
from cdu.checks import expect, expect_count
from cdu.evaluation.audit import Audit, audit
from cdu.own_model.deletion import expect_asked
from cdu.seeding import generator
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.problem import CertifiedMethod, Method, Problem
from cdu.unlearning.references import reference
from cdu.unlearning.release import distance_bound, projected, trials


def audited(problem: Problem, method: Method, epsilon: float, delta: float, count: int) -> Audit:
    """A lower bound on ε from many releases of a method and of its reference.

    Noise comes last in both, so that an adversary who knows the two ends looks along their difference alone.

    Args:
        problem: What is deleted.
        method: How; one that adds no noise of its own.
        epsilon: ε that the noise is made for.
        delta: δ.
        count: Releases of each.

    Raises:
        CduError: The method has no certificate or adds noise of its own, or nothing bounds the distance.
    """
    expect_asked(problem, epsilon, delta)
    expect_count(trials=count)
    expect(callable(method), f"the method is a {type(method).__name__}; give a method, or the name of one")
    expect(not isinstance(method, Retrain), "retraining adds no noise, so that there is nothing to audit")
    draws = generator(0, "audit")
    result = method(problem, draws)
    expect(
        result.certificate is None,
        f"{type(method).__name__} adds noise on the way, so that every trial is a run of it; audit it by "
        "cdu.evaluation.audit.audit on releases of your own",
    )
    expect(
        not result.no_certificate_reason,
        f"{type(method).__name__} has no certificate that could be refuted: {result.no_certificate_reason}",
    )
    # Of any other method the projection is what is certified, and that is about the retrained model.
    by_projection = not isinstance(method, CertifiedMethod)
    retrained = Retrain()(problem, draws) if by_projection else reference(method, problem, result, draws)
    sigma = required_sigma(distance_bound(problem, result), epsilon, delta)
    ends = [projected(problem, one).double() for one in (result, retrained)]
    direction = ends[0] - ends[1]
    direction = direction / direction.norm() if direction.any() else torch.ones_like(direction) / len(direction) ** 0.5
    centre = ends[1] @ direction
    seen = [
        # In units of the noise, so that single precision holds them.
        torch.cat(
            [(block.double() @ direction - centre) / sigma for block in trials(problem, one, draws, sigma, count)]
        )
        for one in (result, retrained)
    ]
    return audit(seen[0][:, None], seen[1][:, None], delta)
