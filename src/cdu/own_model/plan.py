"""What a deletion would take and what could be promised, told before anything is computed."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from cdu.certification import required_sigma
from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.solution import SolverError, synchronise
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.own_model.deletion import expect_asked
from cdu.own_model.methods import safe_damping
from cdu.own_model.recipe import FIXED_SAW_DATA, Recipe
from cdu.seeding import generator
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.release import distance_bound

#: Rows that costs are measured on: at least, at most.
FEWEST, MOST = 8, 256

#: Seconds that all measurements may take, roughly, and the products that they are.
SECONDS, PRODUCTS = 5.0, 150

#: Noise that is this share of the weights leaves a network's accuracy about as it was; see the book's chapter on noise.
HARMLESS = 0.1


@dataclass(frozen=True)
class Road:
    """One way to answer a request.

    Attributes:
        method: Its name.
        gradients: Gradients of single rows.
        products: Hessian-vector products of single rows.
        seconds: Wall time; None where it is not known.
        exact: Whether the result needs no certificate.
        note: What else matters, in words.
    """

    method: str
    gradients: int
    products: int
    seconds: float | None
    exact: bool = False
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """What deleting some rows would take, and what noise could promise.

    Example:
        >>> from torch import nn
        >>> from torch.nn.functional import cross_entropy
        >>> from cdu import Task, Unlearner, as_data
        >>> unlearner = Unlearner(nn.Linear(3, 2), Task(cross_entropy), as_data(torch.eye(3), [0, 1, 1]), radius=10)
        >>> plan = unlearner.plan(["2"], epsilon=1.0)
        >>> f"σ = {plan.sigma:.3g}: the noise exceeds the weights {plan.ratio > 10}"
        'σ = 74.6: the noise exceeds the weights True'

    Attributes:
        rows: Rows that go.
        rows_left: Rows that stay.
        epsilon: ε that is asked for.
        delta: δ.
        sigma: σ that certifies it, the same for every method; infinite where no noise does.
        noise: The noise's norm, σ√p about.
        weights: The norm of the weights, ‖w*‖.
        obstacle: Why no noise certifies; empty where one does.
        roads: The ways to answer.
    """

    rows: int
    rows_left: int
    epsilon: float
    delta: float
    sigma: float
    noise: float
    weights: float
    obstacle: str
    roads: tuple[Road, ...]

    @property
    def ratio(self) -> float:
        """The noise's norm over the weights'."""
        return self.noise / self.weights if self.weights > 0 else math.inf

    @property
    def retraining_is_cheaper(self) -> bool | None:
        """Whether retraining takes no longer than the Newton step; None where its time is not known."""
        step, retraining = (next(road for road in self.roads if road.method == name) for name in ("newton", "retrain"))
        if retraining.seconds is None or step.seconds is None:
            return None
        return retraining.seconds <= step.seconds

    @property
    def advice(self) -> str:
        """What to do, in a sentence or two."""
        if self.obstacle:
            return f"No noise certifies ε = {self.epsilon:g}: {self.obstacle}. Retrain, which is exact."
        if self.ratio > HARMLESS:
            return (
                f"The noise for ε = {self.epsilon:g} is {self.ratio:.3g} times the weights, so that the released "
                "network is likely to guess. Retrain, which is exact; or put a linear model on features that never saw "
                "the data (cdu.convex.Linear), whose noise is small."
            )
        if self.retraining_is_cheaper:
            return "Retraining is exact and takes no longer than the Newton step. Retrain."
        return f"The noise is {self.ratio:.2g} of the weights: a certified release can be of use. Measure its accuracy."

    def __str__(self) -> str:
        """The plan in plain text."""
        lines = [
            f"delete {self.rows:,} of {self.rows + self.rows_left:,} rows, ε = {self.epsilon:g}, δ = {self.delta:g}"
        ]
        if not self.obstacle:
            lines.append(f"noise: σ = {self.sigma:.4g}, of norm {self.noise:.4g}; the weights have {self.weights:.4g}")
        lines.append(f"{'method':<14}{'gradients':>14}{'products':>16}{'seconds':>12}  ")
        for road in self.roads:
            seconds = "unknown" if road.seconds is None else f"{road.seconds:,.3g}"
            lines.append(
                f"{road.method:<14}{road.gradients:>14,}{road.products:>16,}{seconds:>12}  {road.note}".rstrip()
            )
        return "\n".join([*lines, self.advice])


def planned(
    recipe: Recipe, problem: Problem, epsilon: float, delta: float, training_seconds: float | None = None
) -> Plan:
    """Estimate costs on a few rows and compute the noise; see :class:`Plan`.

    The steps of conjugate gradient are counted on the sub-sample, whose Hessian is like that of all rows.

    Args:
        recipe: How the model was trained.
        problem: What would be deleted.
        epsilon: ε.
        delta: δ.
        training_seconds: How long training takes, where that is known.
    """
    expect_asked(problem, epsilon, delta)
    left, size = len(problem.retain), len(problem.w_star)
    sigma, obstacle = _noise(recipe, problem, epsilon, delta)
    part, per_gradient, per_product = _measured(problem)
    steps, note = _steps(problem, part)
    roads = (
        Road("newton", left, left * steps, left * (per_gradient + steps * per_product), note=note),
        Road("fine-tuning", left, 0, left * per_gradient, note="one epoch; no proof of its own"),
        Road("nothing", 0, 0, 0.0, note="noise alone, with the same certificate"),
        Road("retrain", 0, 0, training_seconds, exact=True, note=_retraining(recipe, training_seconds)),
    )
    weights = problem.w_star.double().norm().item()
    return Plan(len(problem.forget), left, epsilon, delta, sigma, sigma * math.sqrt(size), weights, obstacle, roads)


def _retraining(recipe: Recipe, seconds: float | None) -> str:
    if recipe.train is None:
        return "exact; needs train="
    return "exact; no noise, spends no budget" + ("" if seconds is not None else "; give training_seconds=")


def _noise(recipe: Recipe, problem: Problem, epsilon: float, delta: float) -> tuple[float, str]:
    """σ, or infinity and why."""
    if recipe.fixed_saw_data:
        return math.inf, FIXED_SAW_DATA
    if math.isinf(recipe.radius):
        return math.inf, "training projected onto no ball, so that nothing bounds the distance to the retrained model"
    bound = distance_bound(problem, UnlearningResult(problem.w_star, 0.0))
    return required_sigma(bound, epsilon, delta), ""


def _measured(problem: Problem) -> tuple[Samples, float, float]:
    """Some retained rows, and the seconds that a gradient and a product of one row take."""
    first = _first(problem.retain, FEWEST)
    _, rough = _timed(problem, first)
    rows = int(min(MOST, max(FEWEST, SECONDS / (PRODUCTS * rough))))
    part = _first(problem.retain, rows)
    return part, *_timed(problem, part)


def _first(samples: Samples, count: int) -> Samples:
    rows = torch.linspace(0, len(samples) - 1, min(count, len(samples))).long().unique()
    return samples.subset(rows)


def _timed(problem: Problem, part: Samples) -> tuple[float, float]:
    objective, w = problem.objective, problem.w_star

    def seconds(vector: Tensor | None) -> float:
        begin = time.perf_counter()
        found = objective.gradient(w, part) if vector is None else objective.hvp(w, part, vector)
        synchronise(found)
        return (time.perf_counter() - begin) / len(part)

    # The first call of each loads what later ones use.
    gradient, product = (min(seconds(vector) for _ in range(2)) for vector in (None, torch.ones_like(w)))
    return gradient, product


def _steps(problem: Problem, part: Samples) -> tuple[int, str]:
    """Products that the Newton step takes for every row: those for λ, and conjugate gradient's."""
    draws = generator(0, "plan")
    local = Problem(
        problem.objective, problem.w_star, part, problem.forget, problem.radius, problem.retrain, problem.seed
    )
    try:
        damping = safe_damping(local, draws)
        hessian = Hessian(problem.objective, problem.w_star, part)
        # The gradient of the rows that go is what the step inverts; that of all rows is nearly zero.
        solution = conjugate_gradient(hessian + damping, problem.objective.gradient(problem.w_star, problem.forget))
    except (SolverError, CduError) as error:
        return 500, f"no damping was found on a sub-sample ({error}); give damping="
    searched = min(40, len(problem.w_star))
    return searched + solution.hvp_samples // len(part), f"λ = {damping:.3g} or so"
