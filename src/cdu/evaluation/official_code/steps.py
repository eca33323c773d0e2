"""The step with the departures of the code, one at a time and all together (departures 1 to 6)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from torch import Tensor
from torch.nn.functional import cross_entropy

from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.lissa import lissa
from cdu.curvature.settings import LissaSettings
from cdu.curvature.solution import Solution
from cdu.evaluation.official_code.judge import Variant
from cdu.evaluation.official_code.solvers import minimal_residual
from cdu.evaluation.official_code.tensor_norms import TensorNorms
from cdu.evaluation.readings import Reading, Refusal, outcome
from cdu.evaluation.settings import OfficialSettings
from cdu.models.objective import Objective
from cdu.seeding import generator
from cdu.unlearning.problem import Problem


@dataclass(frozen=True)
class Steps:
    """The step on one problem, as the paper has it and as the code departs from it.

    The systems of the code can be indefinite. There the least residual over a Krylov space stands in for LiSSA, so that
    the system is looked at and not the solver.

    Attributes:
        problem: What is deleted from.
        damping: The paper's λ.
        sigma: The paper's noise.
        code: The code's constants.
        seed: Seed of LiSSA's mini-batches.
    """

    problem: Problem
    damping: float
    sigma: float
    code: OfficialSettings
    seed: int

    @cached_property
    def hessian(self) -> Hessian:
        """H = ∇²L(w*, D_r)."""
        return Hessian(self.problem.objective, self.problem.w_star, self.problem.retain)

    @cached_property
    def gradient(self) -> Tensor:
        """∇L(w*, D_r), shape (p,)."""
        return self.problem.objective.gradient(self.problem.w_star, self.problem.retain)

    @cached_property
    def solution(self) -> Solution:
        """The paper's step: (H + λI)x = ∇L(w*, D_r) by conjugate gradient."""
        return conjugate_gradient(self.hessian + self.damping, self.gradient)

    @property
    def paper(self) -> Variant:
        """The paper's step, projected, with the paper's noise."""
        return Variant(lambda: self.solution, self.problem, self.damping, self.sigma)

    @property
    def norms_in_hessian(self) -> Variant:
        """1: Σ‖W_l‖ in place of (λ/2)‖w‖² in the Hessian, where it should add λI."""
        objective = self._norms(self.problem.objective.l2 + self.damping)
        return Variant(partial(self._least_residual, objective, 0.0), self.problem, self.damping, self.sigma)

    @property
    def norms_in_gradient(self) -> Variant:
        """2: the same in the gradient, with the weight decay that training used."""
        objective = self._norms(self.problem.objective.l2)
        slope = objective.gradient(self.problem.w_star, self.problem.retain)
        solve = partial(conjugate_gradient, self.hessian + self.damping, slope)
        return Variant(solve, self.problem, self.damping, self.sigma, objective=objective)

    @property
    def gradient_over_forget(self) -> Variant:
        """3: the form of the step that needs D_u alone, which the code has commented out."""
        retain, forget = self.problem.retain, self.problem.forget
        slope = -len(forget) / len(retain) * self.problem.objective.gradient(self.problem.w_star, forget)
        solve = partial(conjugate_gradient, self.hessian + self.damping, slope)
        return Variant(solve, self.problem, self.damping, self.sigma)

    @property
    def small_damping(self) -> Variant:
        """4: the system at the code's λ."""
        solve = partial(self._least_residual, self.problem.objective, self.code.damping)
        return Variant(solve, self.problem, self.code.damping, self.sigma)

    @cached_property
    def lissa_solution(self) -> Solution | Refusal:
        """What LiSSA with the code's constants makes of the system at the code's λ, or why it diverges."""
        operator, draw = self.hessian + self.code.damping, generator(self.seed, "LiSSA")
        return outcome(partial(lissa, operator, self.gradient, **self.code.lissa.model_dump(), generator=draw))

    @property
    def small_damping_by_lissa(self) -> Variant:
        """4: the same system by LiSSA with the code's constants."""
        return Variant(lambda: self.lissa_solution, self.problem, self.code.damping, self.sigma)

    @property
    def free_noise(self) -> Variant:
        """5: the paper's step, with noise of any size and without projection."""
        return Variant(lambda: self.solution, self.problem, self.damping, self.code.sigma, projected=False)

    @property
    def batches(self) -> int:
        """The number of batches of D_r, of which the last may have fewer samples."""
        return -(-len(self.problem.retain) // self.problem.training.batch_size)

    @property
    def summed_losses(self) -> Variant:
        """6, commented out: the mean losses of all batches added up, so that H is as many times too large."""
        count = self.batches
        objective = Objective(
            self.problem.objective.model,
            lambda outputs, targets: count * cross_entropy(outputs, targets),
            self.problem.objective.l2,
        )
        return Variant(partial(self._least_residual, objective, self.damping), self.problem, self.damping, self.sigma)

    @property
    def as_published(self) -> Variant:
        """1 to 5 together: LiSSA on the norms' Hessian, with the norms' gradient, free noise and no projection."""
        objective = self._norms(self.problem.objective.l2)
        return Variant(
            self._published, self.problem, self.code.damping, self.code.sigma, projected=False, objective=objective
        )

    def depth_residuals(
        self, name: str, damping: float, constants: LissaSettings, depths: Sequence[int]
    ) -> Iterator[Reading]:
        """What LiSSA leaves of the paper's system at several depths.

        Args:
            name: Whose constants they are; part of the names of the streams.
            damping: λ.
            constants: LiSSA's constants beside the depth.
            depths: The s₂.

        Yields:
            ``depth_residual``, or the reason where LiSSA diverges.
        """
        for depth in depths:
            given = {**constants.model_dump(), "depth": depth}
            draw = generator(self.seed, "depth", name, depth)
            found = outcome(partial(lissa, self.hessian + damping, self.gradient, **given, generator=draw))
            if isinstance(found, Refusal):
                yield found.reading("residual", method=name)
                continue
            yield Reading({"depth_residual": found.residual}, {"method": name, "axis": "depth", "point": depth})

    def full_depth_residual(self) -> Iterator[Reading]:
        """``depth_residual`` at the code's own depth; nothing where LiSSA diverges."""
        if not isinstance(self.lissa_solution, Refusal):
            keys = {"method": "code", "axis": "depth", "point": self.code.lissa.depth}
            yield Reading({"depth_residual": self.lissa_solution.residual}, keys)

    def _norms(self, weight: float) -> TensorNorms:
        return TensorNorms(self.problem.objective.model, weight)

    def _least_residual(self, objective: Objective, damping: float) -> Solution:
        operator = Hessian(objective, self.problem.w_star, self.problem.retain) + damping
        return minimal_residual(operator, self.gradient, self.code.krylov)

    def _published(self) -> Solution:
        w, retain, l2 = self.problem.w_star, self.problem.retain, self.problem.objective.l2
        operator = Hessian(self._norms(l2 + self.code.damping), w, retain)
        slope, draw = self._norms(l2).gradient(w, retain), generator(self.seed, "LiSSA")
        return lissa(operator, slope, **self.code.lissa.model_dump(), generator=draw)
