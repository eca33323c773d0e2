"""Theorem 3.4: ‖w̃ − w̃*‖ ≤ [2C(MC + λ) + G] / (λ + λ_min), with constants that are known, and with measured ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from cdu.certification import Bound, newton_bound, unprojected_bound
from cdu.certification.convex import Constants
from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import extreme_eigenvalues
from cdu.curvature.minimise import minimise
from cdu.data.samples import Samples
from cdu.evaluation.readings import Reading, Refusal, outcome, reading
from cdu.evaluation.theory_checks.constants import batch_spectra, segment_constants, spectrum_range
from cdu.evaluation.theory_checks.linear_problem import LinearProblem
from cdu.models.objective import Objective
from cdu.models.training import Trained
from cdu.seeding import generator
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.release import publish

# --- known constants -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnownCase:
    """A deletion from a strongly convex model whose constants were fixed in advance.

    Attributes:
        objective: L.
        retain: D_r.
        w_star: The minimiser on D, shape (p,).
        retrained: w̃*, the minimiser on D_r.
        constants: C, L, M and the strong convexity.
    """

    objective: Objective
    retain: Samples
    w_star: Tensor
    retrained: Tensor
    constants: Constants

    @cached_property
    def hessian(self) -> Hessian:
        """H = ∇²L(w*, D_r)."""
        return Hessian(self.objective, self.w_star, self.retain)

    def measured(self, generator: torch.Generator) -> dict[str, float]:
        """What the constants stand for, measured on the data, beside the constants, by metric.

        Args:
            generator: Draws the start of Lanczos.
        """
        smallest, largest = extreme_eigenvalues(self.hessian.__matmul__, self.w_star, generator)
        return {
            "lambda_min": smallest.value,
            "lambda_max": largest.value,
            "known_lipschitz": self.constants.gradient_lipschitz,
            "known_hessian_lipschitz": self.constants.hessian_lipschitz,
            "norm": max(self.w_star.norm().item(), self.retrained.norm().item()),
            "trivial_bound": 2 * self.constants.radius,
            "gradient_retrained": self.objective.gradient(self.retrained, self.retain).norm().item(),
            "distance_original": (self.w_star - self.retrained).norm().item(),
        }

    def bound_and_distance(self, damping: float) -> dict[str, float]:
        """The bound of Theorem 3.4 and ‖w̃ − w̃*‖ after one step, which must not exceed it.

        Args:
            damping: λ.
        """
        known = self.constants
        bound = newton_bound(
            known.radius, known.hessian_lipschitz, damping, known.strong_convexity, fixed_in_advance=True
        )
        gradient = self.objective.gradient(self.w_star, self.retain)
        step = conjugate_gradient(self.hessian + damping, gradient, 1e-12, 5000).x
        return {"bound": bound.value, "distance": (self.w_star - step - self.retrained).norm().item()}


def known_cases(problem: LinearProblem) -> dict[str, KnownCase]:
    """Ridge and softmax regression of a linear problem, by name."""
    retain, w_softmax = problem.retain, problem.w_softmax
    ridge = KnownCase(
        problem.ridge, retain, problem.w_ridge(problem.samples), problem.w_ridge(retain), problem.ridge_constants
    )
    retrained = minimise(problem.softmax, retain, w_softmax, 1e-12).w
    return {
        "ridge": ridge,
        "softmax": KnownCase(problem.softmax, retain, w_softmax, retrained, problem.softmax_constants),
    }


# --- measured constants --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetworkConstants:
    """What Theorem 3.4 asks of a network, measured on the data: a bound from them is an indication.

    Attributes:
        lambda_min: The smallest eigenvalue of H = ∇²L(w*, D_r), by Lanczos.
        lambda_min_error: By how much it may be off.
        lambda_max: The largest eigenvalue of H.
        gradient_lipschitz: L from below, along the segment from w* to w̃*.
        hessian_lipschitz: M from below, along the same segment.
        gradient_retrained: G = ‖∇L(w̃*, D_r)‖.
        gradient_original: ‖∇L(w*, D)‖.
        distance_original: ‖w* − w̃*‖.
        norm: The larger one of ‖w*‖ and ‖w̃*‖.
    """

    lambda_min: float
    lambda_min_error: float
    lambda_max: float
    gradient_lipschitz: float
    hessian_lipschitz: float
    gradient_retrained: float
    gradient_original: float
    distance_original: float
    norm: float

    @property
    def spectral_norm(self) -> float:
        """‖H‖₂."""
        return max(abs(self.lambda_max), abs(self.lambda_min))

    def newton_bound(self, radius: float, damping: float) -> Bound:
        """Theorem 3.4 with these constants.

        Args:
            radius: C.
            damping: λ.

        Raises:
            CduError: λ + λ_min ≤ 0.
        """
        return newton_bound(radius, self.hessian_lipschitz, damping, self.lambda_min, self.gradient_retrained)


def network_constants(problem: Problem, retrained: Trained, everything: Samples, seed: int) -> NetworkConstants:
    """Measure the constants of a network.

    Args:
        problem: Whose D_u is deleted.
        retrained: w̃*, trained on D_r.
        everything: D.
        seed: Seed of the starts of Lanczos.
    """
    objective, w_star, retain = problem.objective, problem.w_star, problem.retain
    hessian = Hessian(objective, w_star, retain)
    smallest, largest = extreme_eigenvalues(hessian.__matmul__, w_star, generator(seed, "lanczos"))
    segment = segment_constants(objective, w_star, retrained.w, retain, generator(seed, "segment"))
    return NetworkConstants(
        lambda_min=smallest.value,
        lambda_min_error=smallest.error,
        lambda_max=largest.value,
        gradient_lipschitz=max(segment.gradient_lipschitz, abs(largest.value), abs(smallest.value)),
        hessian_lipschitz=segment.hessian_lipschitz,
        gradient_retrained=retrained_gradient(problem, retrained),
        gradient_original=objective.gradient(w_star, everything).norm().item(),
        distance_original=segment.length,
        norm=max(w_star.norm().item(), retrained.w.norm().item()),
    )


def retrained_gradient(problem: Problem, retrained: Trained) -> float:
    """G = ‖∇L(w̃*, D_r)‖, with the buffers of the retrained model; 0 only if its training has converged.

    Args:
        problem: Where L and D_r come from.
        retrained: w̃*.
    """
    own = problem.objective.with_model(retrained.model)
    return float(own.gradient(retrained.w, problem.retain).norm())


def released_distance(problem: Problem, update: UnlearningResult, retrained: Tensor) -> float:
    """‖w̃ − w̃*‖ for an update that is projected and released without noise.

    Args:
        problem: What the update was computed for.
        update: What a method returned.
        retrained: w̃*, shape (p,).
    """
    return float((publish(problem, update, torch.Generator()).w - retrained).norm())


def known_readings(problem: LinearProblem, dampings: Sequence[float], batches: int, seed: int) -> Iterator[Reading]:
    """Theorem 3.4 where true constants are known: the bound must hold.

    Args:
        problem: Ridge and softmax regression.
        dampings: The λ.
        batches: Mini-batches of ten samples whose Hessians are looked at.
        seed: Seed of the mini-batches and of Lanczos.

    Yields:
        For each model what :meth:`KnownCase.measured` and :meth:`KnownCase.bound_and_distance` give, and the range of
        the mini-batches' eigenvalues.
    """
    for name, case in known_cases(problem).items():
        yield Reading(case.measured(generator(seed, "lanczos", name)), {"method": name})
        for damping in dampings:
            keys = {"method": name, "axis": "damping", "point": damping}
            yield Reading(case.bound_and_distance(damping), keys)
        stream = generator(seed, "batches", name)
        spectra = batch_spectra(case.objective, case.w_star, case.retain, 10, batches, stream)
        yield Reading(spectrum_range(spectra), {"method": name, "split": "batch 10"})


def network_readings(
    problem: Problem, retrained: Tensor, constants: NetworkConstants, dampings: Sequence[float]
) -> Iterator[Reading]:
    """Theorem 3.4 from measured constants beside the distance that the damped step really leaves.

    Args:
        problem: Whose D_u is deleted.
        retrained: w̃*, shape (p,).
        constants: Measured.
        dampings: The λ.

    Yields:
        ``bound`` and ``distance`` for every λ, or the reason where there is no step or no bound.
    """
    for damping in dampings:
        keys = {"axis": "damping", "point": damping}
        update = outcome(partial(NewtonStep(damping), problem, torch.Generator()))
        if isinstance(update, Refusal):
            yield update.reading("distance", **keys)
            continue
        yield bound_reading("bound", partial(constants.newton_bound, problem.radius, damping), **keys)
        yield Reading({"distance": released_distance(problem, update, retrained)}, keys)


def unprojected_reading(problem: Problem, damping: float) -> Reading:
    """``unprojected_bound``: 2C + ‖w̃ − w*‖ of the damped step, or the reason where there is no step.

    Args:
        problem: Whose D_u is deleted.
        damping: λ.
    """
    update = outcome(partial(NewtonStep(damping), problem, torch.Generator()))
    if isinstance(update, Refusal):
        return update.reading("unprojected_bound")
    step_norm = float((update.w - problem.w_star).norm())
    return bound_reading("unprojected_bound", partial(unprojected_bound, problem.radius, step_norm))


def bound_reading(metric: str, compute: Callable[[], Bound], **keys: Any) -> Reading:
    """The value of a bound, or the reason where its assumptions exclude the constants.

    Args:
        metric: Its name.
        compute: Gives the bound.
        keys: What tells it apart.
    """
    return reading(metric, lambda: compute().value, **keys)
