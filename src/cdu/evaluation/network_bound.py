"""Theorem 3.4 on a network whose Hessian is too large to build: the bound's constants, and the step's real error."""

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import ritz_norm, ritz_values
from cdu.curvature.solution import Solution
from cdu.data.samples import Samples
from cdu.evaluation.theory_checks import segment_constants
from cdu.models.objective import Objective
from cdu.models.training import project
from cdu.seeding import generator
from cdu.unlearning.methods.newton import Form, right_hand_side
from cdu.unlearning.problem import Problem


@dataclass(frozen=True)
class NetworkStep:
    """The Newton step of one network in both forms, with its Hessian over a part S of D_r.

    Attributes:
        problem: The deletion; its objective is the function L that everything is about.
        retrained: w̃*, the retrained model's weights, shape (p,).
        part: S.
    """

    problem: Problem
    retrained: Tensor
    part: Samples

    @cached_property
    def hessian(self) -> Hessian:
        """H_S at w*."""
        return Hessian(self.problem.objective, self.problem.w_star, self.part)

    @cached_property
    def right_hand_sides(self) -> dict[Form, Tensor]:
        """What (H + λI)⁻¹ is applied to in either form; see :func:`~cdu.unlearning.methods.newton.right_hand_side`."""
        forms: tuple[Form, ...] = ("retain", "forget")
        return {form: right_hand_side(self.problem, form) for form in forms}

    def solve(self, form: Form, damping: float, max_steps: int) -> Solution:
        """(H_S + λI)⁻¹ v by conjugate gradient.

        Raises:
            SolverError: H_S + λI is indefinite.
        """
        return conjugate_gradient(self.hessian + damping, self.right_hand_sides[form], max_steps=max_steps)

    def error(self, solution: Tensor) -> float:
        """‖P_C(w* − x) − w̃*‖ of a step x; in double, since a step can be shorter than the rounding of the weights."""
        moved = project(self.problem.w_star.double() - solution.double(), self.problem.radius)
        return float((moved - self.retrained.double()).norm())

    def curvature(self, samples: Samples, steps: int, nodes: int, seed: int) -> dict[str, float]:
        """λ_min, λ_max, L and M as Lanczos sees them from inside.

        Ritz values lie within the spectrum: λ_max is at least the largest, λ_min at most the smallest. L and M are the
        largest that is met along the segment w*–w̃*, from below.

        Args:
            samples: What the ends of the spectrum are taken over; L and M are taken over S.
            steps: Lanczos steps behind each at most.
            nodes: Points of the segment.
            seed: Draws the starts of Lanczos.

        Returns:
            By the names of metrics.
        """
        problem = self.problem
        spectrum = Hessian(problem.objective, problem.w_star, samples)
        values = ritz_values(spectrum.__matmul__, problem.w_star, generator(seed, "lanczos"), steps)
        low, high = values[0].item(), values[-1].item()
        norm, draws = partial(ritz_norm, steps=steps), generator(seed, "segment")
        segment = segment_constants(problem.objective, problem.w_star, self.retrained, self.part, draws, nodes, norm)
        return {
            "lambda_min": low,
            "lambda_max": high,
            "gradient_lipschitz": max(segment.gradient_lipschitz, abs(low), abs(high)),
            "hessian_lipschitz": segment.hessian_lipschitz,
        }

    def gradients(self, own: Objective) -> dict[str, float]:
        """Norms of gradients at both models, and the distances of the forms' right-hand sides and of the two models.

        The right-hand sides differ by n/n_r · ∇L(w*, D).

        Args:
            own: L with the retrained model's own BatchNorm statistics.

        Returns:
            By the names of metrics. ``gradient_retrained`` is G in the function that H is of.
        """
        problem, (retain, forget) = self.problem, self.right_hand_sides.values()
        gap = (retain - forget).norm()
        kept, everything = len(problem.retain), len(problem.retain) + len(problem.forget)
        cosine = torch.nn.functional.cosine_similarity(retain.double(), forget.double(), dim=0)
        return {
            "gradient_retrained": float(problem.objective.gradient(self.retrained, problem.retain).norm()),
            "gradient_retrained_own": float(own.gradient(self.retrained, problem.retain).norm()),
            "gradient_original": float(gap * kept / everything),
            "forms_gap": float(gap),
            "forms_cosine": float(cosine),
            "distance_original": float((problem.w_star.double() - self.retrained.double()).norm()),
        }
