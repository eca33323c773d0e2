"""What every method shares: projection onto the ball, then noise, then the certificate."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cdu.certification import Certificate, certify_by_projection
from cdu.objective import Objective
from cdu.training import project
from cdu.unlearning.problem import Method, Problem, Update


@dataclass(frozen=True)
class Release:
    """A model that is handed out.

    Attributes:
        w: The released weights, shape (p,).
        objective: L with the buffers that belong to the released model.
        certificate: What it guarantees; None where no noise was added.
        update: The method's own result and cost, before projection and noise.
    """

    w: Tensor
    objective: Objective
    certificate: Certificate | None
    update: Update


def release(
    problem: Problem, method: Method, generator: torch.Generator, sigma: float = 0.0, delta: float = 1e-5
) -> Release:
    """Run a method, project its result onto the ball of radius C, add N(0, σ²I).

    The Newton iterate can leave the ball; the projection is non-expansive and the retrained model lies inside, so
    that every bound on the distance stays valid and 2C becomes one.

    Args:
        problem: What is to be unlearned.
        method: How.
        generator: Draws what the method needs, then the noise.
        sigma: Standard deviation of the noise per coordinate; 0 for none.
        delta: δ of the certificate.
    """
    return publish(problem, method(problem, generator), generator, sigma, delta)


def publish(
    problem: Problem, update: Update, generator: torch.Generator, sigma: float = 0.0, delta: float = 1e-5
) -> Release:
    """Project an update that was computed before and add noise to it; see :func:`release`."""
    original = problem.objective
    objective = original if update.model is None else Objective(update.model, original.loss_of, original.l2)
    w = project(update.w, problem.radius)
    if sigma == 0:
        return Release(w, objective, None, update)
    noise = torch.randn(w.shape, generator=generator, dtype=w.dtype).to(w.device)
    certificate = certify_by_projection(sigma, delta, problem.radius)
    return Release(w + sigma * noise, objective, certificate, update)
