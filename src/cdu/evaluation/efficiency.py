"""What is timed: the system of the Newton step, and the programs that solve it or do part of the work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cdu.curvature.conjugate_gradient import conjugate_gradient, preconditioned_conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.lissa import lissa
from cdu.curvature.settings import LissaSettings
from cdu.curvature.solution import Solution
from cdu.data.samples import Samples
from cdu.evaluation.peers import Authors, Curvlinops
from cdu.evaluation.settings import EfficiencySettings
from cdu.evaluation.theory_checks import slope
from cdu.evaluation.timing import Program, Timing
from cdu.models import architectures
from cdu.models.objective import Linearised, Objective, parameter_vector
from cdu.models.settings import ModelSettings, TrainingSettings
from cdu.models.training import train
from cdu.seeding import generator

#: LiSSA's h where its steps are timed: no step's time depends on it.
STEPS_SCALE = 1e4

#: The tolerance of conjugate gradient where its time is taken against the number of samples.
SCALING_TOLERANCE = 1e-3

#: LiSSA's s₂ and s₁ whose time is taken.
LISSA_SCALING = {"depth": (20, 60, 180), "repeats": (1, 3, 10, 30)}


class Point(NamedTuple):
    """A program by its name, and the point of the axis that it is run at."""

    method: str
    axis: str
    point: float


@dataclass(frozen=True)
class System:
    """(H + λI) x = v with H = ∇²L(w, S), for any λ.

    Attributes:
        objective: L.
        w: The point, shape (p,).
        samples: S.
        right_hand_side: v, shape (p,).
        seed: What is drawn on the way is drawn from this seed, by purpose.
    """

    objective: Objective
    w: Tensor
    samples: Samples
    right_hand_side: Tensor
    seed: int

    @cached_property
    def hessian(self) -> Hessian:
        """H, which keeps what its first product computes."""
        return Hessian(self.objective, self.w, self.samples)

    def cold(self, damping: float) -> Hessian:
        """H + λI for which nothing is computed yet."""
        return Hessian(self.objective, self.w, self.samples) + damping

    def first(self, count: int) -> "System":
        """The same system over the first ``count`` samples, or over all where there are fewer."""
        rows = torch.arange(min(count, len(self.samples)), device=self.samples.device)
        return replace(self, samples=self.samples.subset(rows))

    def random_vectors(self, purpose: str, *shape: int) -> Tensor:
        """Gaussian vectors as rows, shape (..., p), drawn for a purpose in single precision."""
        return torch.randn(*shape, len(self.w), generator=generator(self.seed, purpose)).to(self.w)

    def product(self, vector: Tensor) -> Tensor:
        """Hv, with the graph of the gradient computed anew."""
        return self.objective.hvp(self.w, self.samples, vector)

    def gradient(self) -> Tensor:
        """∇L(w, S)."""
        return self.objective.gradient(self.w, self.samples)

    def residual(self, damping: float, x: Tensor) -> float:
        """‖(H + λI)x − v‖ / ‖v‖."""
        missed = (self.hessian + damping) @ x - self.right_hand_side
        return float(missed.norm()) / float(self.right_hand_side.norm())

    def conjugate_gradient(self, damping: float, tolerance: float) -> Solution:
        """The solution by conjugate gradient, from a cold start."""
        return conjugate_gradient(self.cold(damping), self.right_hand_side, tolerance)

    def preconditioned(self, damping: float, tolerance: float) -> Solution:
        """The same with the preconditioner, whose making is part of the time."""
        draws = generator(self.seed, "preconditioner")
        return preconditioned_conjugate_gradient(self.cold(damping), self.right_hand_side, draws, tolerance)

    def lissa(self, damping: float, constants: LissaSettings, *purpose: str | int) -> Solution:
        """The solution by LiSSA, from a cold start, with mini-batches that are drawn for a purpose."""
        return self.lissa_with(self.cold(damping), constants, *purpose)

    def lissa_with(self, operator: Hessian, constants: LissaSettings, *purpose: str | int) -> Solution:
        """The same with an operator whose products may have begun."""
        draws = generator(self.seed, *purpose)
        return lissa(operator, self.right_hand_side, **constants.model_dump(), generator=draws)

    def curvlinops(self, damping: float) -> Curvlinops:
        """H + λI by curvlinops, from a cold start; raises :class:`~cdu.errors.CduError` where it is not installed."""
        return Curvlinops(self.objective, self.w, self.samples, damping)


def untrained_system(settings: ModelSettings, samples: Samples, classes: int, seed: int) -> System:
    """The system of a network with fresh weights, without l2, and a random right-hand side."""
    module = architectures.build(settings, tuple(samples.inputs.shape[1:]), classes, seed).to(samples.device)
    w = parameter_vector(module)
    system = System(Objective(module), w, samples, torch.zeros_like(w), seed)
    return replace(system, right_hand_side=system.random_vectors("direction"))


# --- a gradient and a product --------------------------------------------------------------------------------------


def forward_over_reverse(system: System, vector: Tensor) -> Tensor:
    """Hv as the derivative along v of the gradient, by forward over reverse differentiation."""
    objective, samples = system.objective, system.samples
    total = objective.l2 * vector
    with objective.evaluating():
        for inputs, targets in samples.batches(objective.rows(system.w, samples)):

            def slope_at(w: Tensor, inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
                gradient: Tensor = torch.func.grad(objective.batch_loss)(w, inputs, targets)
                return gradient

            total = total + torch.func.jvp(slope_at, (system.w,), (vector,))[1] * (len(targets) / len(samples))
    return total


def product_programs(system: System) -> dict[str, Program]:
    """The gradient, and the ways to a product with the same vector; one multiplies 16 vectors at once."""
    vector, several = system.random_vectors("vector"), system.random_vectors("several", 16)
    warm = Linearised(system.objective, system.w, system.samples)
    warm.product(vector)
    return {
        "gradient": system.gradient,
        "product, first": partial(system.product, vector),
        "product, next": partial(warm.product, vector),
        "16 products at once": partial(warm.product, several),
        "forward over reverse": partial(forward_over_reverse, system, vector),
    }


def curvlinops_product(system: System) -> Program:
    """Hv by curvlinops; raises :class:`~cdu.errors.CduError` where it is not installed."""
    vector = system.random_vectors("vector")
    return partial(system.curvlinops(0.0).__matmul__, vector)


def product_metrics(
    name: str, timings: Mapping[str, Timing], operations: Mapping[str, int], rate: float
) -> dict[str, float]:
    """The metrics of one of :func:`product_programs` beside its times.

    Args:
        name: The program.
        timings: Those of all programs.
        operations: Floating-point operations of those that were counted.
        rate: Operations a second in a product of two large matrices.

    Returns:
        ``gradients``: its time as a multiple of the gradient's. ``rate_share``: its operations a second, as a share of
        ``rate``. ``difference``: how far its product is from ours, relatively.
    """
    own, reference = timings[name], timings["product, next"].result
    found = {"gradients": own.seconds / timings["gradient"].seconds}
    if name in operations:
        found["rate_share"] = operations[name] / own.seconds / rate
    if name != "gradient" and own.result.shape == reference.shape:
        found["difference"] = float((own.result - reference).norm() / reference.norm())
    return found


# --- the authors' code ---------------------------------------------------------------------------------------------


def lissa_programs(
    system: System,
    damping: float,
    repeats: int,
    batch_size: int,
    depth: int,
    authors: Authors | None,
    sources: Mapping[str, Dataset[Any]],
) -> dict[str, Program]:
    """The same steps of LiSSA: ours, and those of the authors' code from every source of samples.

    Args:
        system: The system.
        damping: λ.
        repeats: s₁.
        batch_size: Samples in a mini-batch.
        depth: s₂, the number of steps.
        authors: Their code, if it is at hand.
        sources: The samples as their code is given them, by the name of the program.
    """
    operator = system.hessian + damping
    constants = LissaSettings(scale=STEPS_SCALE, depth=depth, repeats=repeats, batch_size=batch_size)
    programs: dict[str, Program] = {"cdu": partial(system.lissa_with, operator, constants, "steps")}
    if authors is not None:
        for name, source in sources.items():
            programs[name] = partial(
                authors.lissa,
                system.objective,
                system.w,
                source,
                system.right_hand_side,
                damping,
                STEPS_SCALE,
                batch_size,
                depth,
                repeats,
            )
    return programs


def epoch_programs(
    fresh: Callable[[], nn.Module],
    samples: Samples,
    recipe: TrainingSettings,
    seed: int,
    authors: Authors | None,
    sources: Mapping[str, Dataset[Any]],
) -> dict[str, Program]:
    """An epoch of training of the same network: ours, and that of the authors' code from every source of samples.

    Args:
        fresh: Makes the network with its first weights.
        samples: What it is trained on.
        recipe: How.
        seed: Draws the order of the samples.
        authors: Their code, if it is at hand.
        sources: The samples as their code is given them, by the name of the program.
    """
    once = recipe.model_copy(update={"epochs": 1})
    programs: dict[str, Program] = {"cdu": lambda: train(fresh(), samples, once, seed, label="one epoch").w}
    options = (recipe.learning_rate, recipe.weight_decay, recipe.radius, recipe.batch_size)

    def theirs(code: Authors, source: Dataset[Any]) -> None:
        code.epoch(fresh(), source, *options, workers=2)

    if authors is not None:
        programs |= {name: partial(theirs, authors, source) for name, source in sources.items()}
    return programs


# --- solvers -------------------------------------------------------------------------------------------------------


def solver_programs(
    system: System, damping: float, ends: tuple[float, float], settings: EfficiencySettings, constants: LissaSettings
) -> dict[Point, Program]:
    """Every program that solves the system at λ, each from a cold start.

    Args:
        system: The system.
        damping: λ > −λ_min.
        ends: λ_min and λ_max of H.
        settings: Tolerances, depths and terms, and the λ at which curvlinops takes part.
        constants: LiSSA's repeats and batch size.
    """
    found: dict[Point, Program] = {}
    with_peer = damping in settings.peer_dampings
    for tolerance in settings.tolerances:
        at = ("tolerance", tolerance)
        found[Point("conjugate gradient", *at)] = partial(system.conjugate_gradient, damping, tolerance)
        found[Point("preconditioned", *at)] = partial(system.preconditioned, damping, tolerance)
        if with_peer:
            found[Point("curvlinops, conjugate gradient", *at)] = partial(_peer_gradient, system, damping, tolerance)
    for depth in settings.lissa_depths:
        deep = constants.model_copy(update={"scale": "auto", "depth": depth})
        found[Point("lissa", "depth", depth)] = partial(system.lissa, damping, deep, "lissa", depth)
    low, high = (damping + end for end in ends)
    for fewer, terms in pairwise((0, *settings.neumann_terms)) if with_peer else ():
        # Where fewer terms reach the smallest tolerance already, there is nothing to see.
        if (1 - low / high) ** fewer > min(settings.tolerances):
            found[Point("curvlinops, Neumann", "terms", terms)] = partial(
                _peer_series, system, damping, terms, 1 / high
            )
    return found


def _peer_gradient(system: System, damping: float, tolerance: float) -> Tensor:
    return system.curvlinops(damping).conjugate_gradient(system.right_hand_side, tolerance)


def _peer_series(system: System, damping: float, terms: int, scale: float) -> Tensor:
    return system.curvlinops(damping).neumann(system.right_hand_side, terms, scale)


# --- scaling -------------------------------------------------------------------------------------------------------


def scaling_programs(
    system: System, damping: float, settings: EfficiencySettings, constants: LissaSettings, classes: int
) -> dict[Point, Program]:
    """A product and two solvers against the numbers of samples and of parameters, LiSSA's depth and its repeats.

    Args:
        system: The system.
        damping: λ.
        settings: Numbers of samples, and widths of an MLP with fresh weights.
        constants: LiSSA's, of which one at a time is another.
        classes: The MLP's outputs.
    """
    found: dict[Point, Program] = {}
    vector = system.random_vectors("vector")
    for size in settings.sizes:
        part = system.first(size)
        at = ("samples", len(part.samples))
        found[Point("product", *at)] = partial(part.product, vector)
        found[Point("conjugate gradient", *at)] = partial(part.conjugate_gradient, damping, SCALING_TOLERANCE)
        found[Point("lissa", *at)] = partial(part.lissa, damping, constants, "scaling")
    for width in settings.widths:
        wide = untrained_system(ModelSettings(name="mlp", hidden=(width, width)), system.samples, classes, system.seed)
        found[Point("product", "parameters", len(wide.w))] = partial(wide.product, wide.right_hand_side)
    for constant, values in LISSA_SCALING.items():
        for value in values:
            changed = constants.model_copy(update={constant: value})
            program = partial(system.lissa_with, system.hessian + damping, changed, "scaling")
            found[Point("lissa", f"LiSSA {constant}", value)] = program
    return found


def slopes(timings: Mapping[Point, Timing]) -> dict[tuple[str, str], float]:
    """By program and axis the exponent a of time ∝ pointᵃ, wherever there are two points or more."""
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for (method, axis, point), timing in timings.items():
        groups.setdefault((method, axis), []).append((point, timing.seconds))
    return {key: slope(*zip(*points, strict=True)) for key, points in groups.items() if len(points) > 1}
