"""Updates of a chain of requests, kept beside the trained models."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cdu.checks import expect
from cdu.experiments.sections import REVISIONS
from cdu.experiments.setup import Setup
from cdu.settings import digest
from cdu.storage import kept_tensors
from cdu.unlearning.problem import Method, UnlearningResult
from cdu.unlearning.requests import Keep


def keeper(setup: Setup, method: Method, count: int, sigma: float) -> Keep:
    """Keeps a chain's updates beside the trained models, under a hash of all that determines them.

    Args:
        setup: Data, models and settings.
        method: Answers the requests; its attributes are part of the hash.
        count: How many requests there are.
        sigma: The noise that is carried on.
    """
    origin = [setup.origin(), REVISIONS["07_sequential"], type(method).__name__, vars(method), count, sigma]

    def kept(number: int, function: Callable[[], UnlearningResult]) -> UnlearningResult:
        name = f"{setup.name}-{setup.seed}-{digest([*origin, number])}.safetensors"
        found = kept_tensors(setup.checkpoints / "requests" / name, lambda: _tensors(function()))
        seconds, products, gradients, residual, converged = found["facts"].tolist()
        costs = (seconds, int(products), int(gradients))
        # NaN is kept where no system was solved and there is no residual.
        solved = () if math.isnan(residual) else (residual, bool(converged))
        return UnlearningResult(found["w"].to(setup.device), *costs, *solved)

    return kept


def _tensors(update: UnlearningResult) -> dict[str, Tensor]:
    """What is kept of a Newton step."""
    expect(
        not (update.no_certificate_reason or update.bound or update.certificate)
        and update.radius is None
        and update.model is None,
        "of a chain's updates weights and costs are kept, which is all of a Newton step's; this method's update brings "
        "more, which would be lost: answer its requests without a keeper",
    )
    residual = float("nan") if update.residual is None else update.residual
    facts = (update.seconds, update.hvp_samples, update.gradient_samples, residual, float(bool(update.converged)))
    return {"w": update.w, "facts": torch.tensor(facts, dtype=torch.float64)}
