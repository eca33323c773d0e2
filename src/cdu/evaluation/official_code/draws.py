"""A seed without effect, and noise that is never added (departures 8 and 13)."""

from collections.abc import Iterator, Sequence
from functools import partial
from statistics import stdev

import torch
from torch import Tensor

from cdu.certification import certify, composed_sensitivity, gaussian_epsilon, trivial_bound, unprojected_bound
from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.solution import Solution
from cdu.data.samples import Samples
from cdu.evaluation.accuracy import accuracy
from cdu.evaluation.readings import Reading, Refusal, outcome
from cdu.models.training import project
from cdu.seeding import generator
from cdu.unlearning.problem import Problem


def step_from(problem: Problem, w: Tensor, retain: Samples, damping: float) -> Solution:
    """The paper's step from some weights: (∇²L(w, D_r) + λI)x = ∇L(w, D_r).

    Args:
        problem: Where L comes from.
        w: The weights, shape (p,).
        retain: D_r.
        damping: λ.

    Raises:
        SolverError: H + λI is not positive definite.
    """
    objective = problem.objective
    return conjugate_gradient(Hessian(objective, w, retain) + damping, objective.gradient(w, retain))


def redrawn(problem: Problem, everything: Samples, damping: float, sigma: float, seed: int) -> tuple[float, Tensor]:
    """Unlearning with everything in it drawn anew: D_u, as large as the problem's, and the noise.

    Args:
        problem: The model, and C.
        everything: D, which D_u is drawn from.
        damping: λ.
        sigma: Standard deviation of the noise.
        seed: Seed of both draws.

    Returns:
        Accuracy on D_u before projection and noise, and the released weights, shape (p,).

    Raises:
        SolverError: H + λI is not positive definite.
    """
    w, size = problem.w_star, len(problem.forget)
    order = torch.randperm(len(everything), generator=generator(seed, "unlearning, split"))
    gone, kept = (everything.subset(rows) for rows in (order[:size], order[size:]))
    moved = w - step_from(problem, w, kept, damping).x
    noise = torch.randn(len(w), generator=generator(seed, "unlearning, noise")).to(w)
    return accuracy(problem.objective, moved, gone), project(moved, problem.radius) + sigma * noise


def spread(
    problem: Problem, everything: Samples, damping: float, sigma: float, seeds: Sequence[int]
) -> Iterator[Reading]:
    """How much unlearning depends on its seed.

    Args:
        problem: As for :func:`redrawn`, like the next three.
        everything: D.
        damping: λ.
        sigma: Standard deviation of the noise.
        seeds: At least two.

    Yields:
        ``spread_accuracy``, the standard deviation of the accuracy on D_u, and ``spread_weights``, the mean distance of
        two releases; or the reason for every seed with which there is no step.
    """
    drawn = [outcome(partial(redrawn, problem, everything, damping, sigma, seed)) for seed in seeds]
    yield from (one.reading("spread_accuracy") for one in drawn if isinstance(one, Refusal))
    done = [one for one in drawn if not isinstance(one, Refusal)]
    if len(done) < len(drawn):
        return
    accuracies, releases = zip(*done, strict=True)
    distances = torch.pdist(torch.stack(releases))
    yield Reading({"spread_accuracy": stdev(accuracies), "spread_weights": float(distances.mean())}, {})


#: The code's way with requests: the noise that it means to add is added to nothing.
NEVER_NOISED = "13: never noised"


def requests_without_noise(
    problem: Problem, test: Samples, damping: float, sigma: float, delta: float, count: int, seed: int
) -> Iterator[Reading]:
    """Several requests, each a step from the last one's weights without projection, with noise at the end or without.

    Args:
        problem: Whose D_u is cut into requests.
        test: The test samples.
        damping: λ.
        sigma: Standard deviation of the noise that the code means to add.
        delta: δ of all releases together.
        count: Number of requests.
        seed: Seed of the noise.

    Yields:
        ``sequential_norm``, how far the last release is from w*, and ``sequential_accuracy``; with noise each time
        ``sequential_epsilon``; or the reason for the first request that cannot be answered.
    """
    w, longest = problem.w_star, 0.0
    for retain in _remaining(problem, count):
        found = outcome(partial(step_from, problem, w, retain, damping))
        if isinstance(found, Refusal):
            yield found.reading("sequential_norm", method=NEVER_NOISED)
            break
        w, longest = w - found.x, max(longest, found.x.norm().item())
    noise = torch.randn(len(w), generator=generator(seed, "noise")).to(w)
    noised = f"noise σ = {sigma:g} each time"
    sets = {"forget": problem.forget, "retain": problem.retain, "test": test}
    for name, released in {noised: project(w, problem.radius) + sigma * noise, NEVER_NOISED: w}.items():
        yield Reading({"sequential_norm": float((released - problem.w_star).norm())}, {"method": name})
        for split, samples in sets.items():
            found_accuracy = accuracy(problem.objective, released, samples)
            yield Reading({"sequential_accuracy": found_accuracy}, {"method": name, "split": split})
    composed = certify(trivial_bound(problem.radius), sigma, delta, releases=count).epsilon
    loose = composed_sensitivity(unprojected_bound(problem.radius, longest).value, count)
    yield Reading({"requests": count}, {})
    yield Reading({"sequential_epsilon": composed}, {"method": noised})
    yield Reading({"sequential_epsilon_unprojected": gaussian_epsilon(sigma, delta, loose)}, {"method": noised})
    note = "no noise is added, so that no ε is certified"
    yield Reading({"sequential_epsilon": None}, {"method": NEVER_NOISED, "note": note})


def _remaining(problem: Problem, count: int) -> Iterator[Samples]:
    """D_r after each of several requests: the retained samples first, then those that later requests delete."""
    pieces = torch.arange(len(problem.forget)).tensor_split(count)
    for number in range(count):
        later = torch.cat([pieces[0][:0], *pieces[number + 1 :]])
        yield problem.retain.joined(problem.forget.subset(later))
