"""Certified removal from a linear model on fixed features: Newton steps under a budget, retraining beyond it."""

import time
from dataclasses import replace

import torch
from torch import Tensor

from cdu.certification import budget_bound
from cdu.certification.rounding import norm_rounding
from cdu.checks import expect, expect_count, expect_positive
from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.minimise import kronecker_preconditioner, minimise
from cdu.curvature.solution import Preconditioner, synchronise
from cdu.data.samples import Samples
from cdu.unlearning.methods.fixed_features import LinearTask
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register

#: ‖∇L‖ at which training stops; less where the budget needs it.
TOLERANCE = 1e-9


@register("certified removal, linear", own_model=True, needs_classes=True, l2_in_advance=1e-3)
class CertifiedRemoval:
    """Newton steps on D_r from the minimiser on D; where they leave more than the budget, retraining.

    w ← w − H⁻¹∇L(w, D_r) with H = ∇²L(w, D_r), and afterwards ‖w − w̃*‖ ≤ ‖∇L(w, D_r)‖/l2 since L is l2-strongly
    convex; what rounding may hide of the gradient is counted. The noise is scaled to the ``budget``, fixed in advance,
    whichever way a request is answered.

    Guo, Goldstein, Hannun & van der Maaten (2020), "Certified Data Removal from Machine Learning Models", on the last
    layer over features that do not depend on the data. Different from the source: noise on the weights released, not
    on the objective that is trained; several steps; a multinomial loss in place of one against the rest; and the
    residual is checked against the budget for every request, with retraining beyond it, where the source adds up
    bounds on it until a batch of removals is retrained.

    The original network is not used: the method trains its own model on D, in float64. The result is projected onto the
    ball that contains every minimiser, which takes it no farther from w̃*. Counts are those of the Newton steps; a
    fallback shows in ``seconds`` and in ``note``.

    Args:
        l2: Weight of (l2/2)‖w‖².
        budget: Δ.
        steps: Newton steps.
        filters: Random filters of the features.
    """

    def __init__(self, l2: float, budget: float, steps: int, filters: int) -> None:
        expect_positive(l2=l2)
        expect_count(steps=steps, filters=filters)
        self.l2 = l2
        self.steps = steps
        self.filters = filters
        self.bound = budget_bound(budget)

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Train on D, then remove D_u; the generator is not used."""
        task = LinearTask(problem, self.filters, self.l2)
        begin = time.perf_counter()
        w, inverse = self._fit(task, task.everything)
        synchronise(w)
        trained = time.perf_counter()
        products = 0
        gradient = task.objective.gradient(w, task.retain)
        for _ in range(self.steps):
            hessian = Hessian(task.objective, w, task.retain)
            direction = conjugate_gradient(hessian, gradient, 1e-5, max_steps=5000, preconditioner=inverse)
            w = w - direction.x
            gradient = task.objective.gradient(w, task.retain)
            products += direction.hvp_samples
        distance = self._distance(task, w, gradient)
        # Not ``>``, so that a distance of NaN leads to retraining as well.
        fallback = not distance <= self.bound.value
        if fallback:
            w, _ = self._fit(task, task.retain)
            retrained = self._distance(task, w, task.objective.gradient(w, task.retain))
            expect(
                retrained <= self.bound.value,
                f"retraining ends up to {retrained:.3g} from the minimiser, rounding included, beyond the budget of "
                f"{self.bound.value:g}; raise the budget or l2",
            )
        synchronise(w)
        return UnlearningResult(
            w,
            time.perf_counter() - trained,
            hvp_samples=products,
            gradient_samples=(self.steps + 1) * len(task.retain),
            model=task.model,
            radius=task.constants.radius,
            bound=self.bound,
            # The budget was checked with it, and the reference is exact.
            rounding=0.0,
            training_seconds=task.seconds + trained - begin,
            note=f"own model on fixed features; residual over l2 {distance:.3g} of {self.bound.value:g}"
            + (", therefore retrained" if fallback else ""),
        )

    def reference(self, problem: Problem, result: UnlearningResult, generator: torch.Generator) -> UnlearningResult:
        """The minimiser on D_r, as exactly as float64 gives it."""
        task = LinearTask(problem, self.filters, self.l2)
        rough = minimise(task.objective, task.retain, task.zeros(), 1e-2).w
        inverse = kronecker_preconditioner(task.objective, rough, task.retain)
        return replace(result, w=minimise(task.objective, task.retain, rough, TOLERANCE, inverse).w)

    def _distance(self, task: LinearTask, w: Tensor, gradient: Tensor) -> float:
        """An upper bound on ‖w − w̃*‖, from the computed gradient on D_r and a bound on its rounding."""
        rounding = task.gradient_rounding(w.norm().item())
        norm: float = gradient.norm().item()
        return (norm * (1 + norm_rounding(len(w))) + rounding) / self.l2

    def _fit(self, task: LinearTask, samples: Samples) -> tuple[Tensor, Preconditioner]:
        """The minimiser on ``samples``, from w = 0, and the preconditioner that led to it."""
        rough = minimise(task.objective, samples, task.zeros(), 1e-2).w
        inverse = kronecker_preconditioner(task.objective, rough, samples)
        # The reference is the exact minimiser: retraining too must end within the budget of it.
        tolerance = min(TOLERANCE, self.l2 * self.bound.value)
        return minimise(task.objective, samples, rough, tolerance, inverse).w, inverse
