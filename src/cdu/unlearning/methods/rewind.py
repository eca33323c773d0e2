"""Rewinding: back to an earlier iterate of training, from there on without the forget set."""

import math
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cdu.certification import Bound
from cdu.certification.rounding import descent_rounding
from cdu.checks import expect, expect_count, expect_positive
from cdu.curvature.solution import synchronise
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models.objective import Objective, parameter_vector
from cdu.models.training import project
from cdu.unlearning.methods.descent import Learner
from cdu.unlearning.methods.fixed_features import GRADIENT_NORM, LinearTask, contraction
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register


@register("rewind", own_model=True)
class Rewind:
    """Gradient descent on D, back by K of its T steps, then K steps on D_r.

    w_{t+1} = w_t − η∇L(w_t, D) for t < T − K, then w_{t+1} = w_t − η∇L(w_t, D_r) for K steps. The K steps of training
    that are undone cannot change the result and are not taken: ``training_seconds`` ends at step T − K.

    Mu & Klabjan (2025), "Rewind-to-Delete: Certified Machine Unlearning for Nonconvex Functions". Different from the
    source: every step ends with a projection onto the ball of radius C, which moves no two points apart, and the
    certificate rests on that projection. Their own (:func:`published_distance`, tighter in :func:`derived_distance`)
    needs the Lipschitz constants G of the loss and L of its gradient in advance; for a ReLU network there is no L.

    The method trains its own model, from the problem's initial weights: the module's own parameters, which training
    here never changes. A module that was trained in place starts where it ended. BatchNorm uses the module's running
    statistics throughout, those of the original model.

    Args:
        steps: T.
        rewound: K.
        learning_rate: η.
    """

    by_projection = True

    def __init__(self, steps: int, rewound: int, learning_rate: float) -> None:
        _require_rewindable(steps, rewound)
        expect_positive(learning_rate=learning_rate)
        self.steps = steps
        self.rewound = rewound
        self.learning_rate = learning_rate

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Train, rewind and descend; the generator is not used."""
        begin = time.perf_counter()
        objective, rate, radius = problem.objective, self.learning_rate, problem.radius
        start = project(parameter_vector(objective.model).to(problem.w_star), radius)
        kept = descend(objective, start, problem.everything, self.steps - self.rewound, rate, radius)
        synchronise(kept)
        trained = time.perf_counter()
        w = descend(objective, kept, problem.retain, self.rewound, rate, radius)
        synchronise(w)
        return UnlearningResult(
            w,
            time.perf_counter() - trained,
            gradient_samples=self.rewound * len(problem.retain),
            training_seconds=trained - begin,
            note="own training by gradient descent; the method's own bound needs the Lipschitz constants of loss and "
            "gradient in advance, so that the certificate rests on the projection",
        )

    def reference(self, problem: Problem, result: UnlearningResult, generator: torch.Generator) -> UnlearningResult:
        """T steps on D_r from the start: back by all steps."""
        return Rewind(self.steps, self.steps, self.learning_rate)(problem, generator)


@register("rewind, linear", own_model=True, needs_classes=True, l2_in_advance=0.01)
class RewindLinear:
    """:class:`Rewind` where G and L are known in advance: a linear model on fixed features, l2-regularised.

    A step with η ≤ 2/(L + l2) brings two points nearer by ρ = 1 − η·l2, so that the distance to retraining, T steps on
    D_r, is at most

        2ηG·n_u/n · (1 − ρ^{T−K})/(1 − ρ) · ρᴷ.

    Different from Mu & Klabjan (2025), who treat general losses, for which a step can drive points apart: the bound
    falls with K and stays finite for T → ∞. The original network is not used. The result is projected onto the ball
    that descent from w = 0 never leaves, L(w_t) ≤ L(0): for the reference that changes nothing. Everything is computed
    in float64: the noise may be of the size of float32's rounding.

    Args:
        l2: Weight of (l2/2)‖w‖².
        steps: T.
        rewound: K.
        learning_rate: η, at most 2/(L + l2).
        filters: Random filters of the features.
    """

    def __init__(self, l2: float, steps: int, rewound: int, learning_rate: float, filters: int) -> None:
        _require_rewindable(steps, rewound)
        expect_count(filters=filters)
        self.expansion = contraction(learning_rate, l2)
        self.l2 = l2
        self.steps = steps
        self.rewound = rewound
        self.learning_rate = learning_rate
        self.filters = filters

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Train, rewind and descend; the generator is not used."""
        task = LinearTask(problem, self.filters, self.l2)
        begin = time.perf_counter()
        objective, rate = task.objective, self.learning_rate
        kept = descend(objective, task.zeros(), task.everything, self.steps - self.rewound, rate, math.inf)
        synchronise(kept)
        trained = time.perf_counter()
        w = descend(objective, kept, task.retain, self.rewound, rate, math.inf)
        synchronise(w)
        return UnlearningResult(
            w,
            time.perf_counter() - trained,
            gradient_samples=self.rewound * len(task.retain),
            model=task.model,
            radius=task.constants.radius,
            bound=self.bound(len(problem.forget), len(task.everything)),
            rounding=self.rounding(task),
            training_seconds=task.seconds + trained - begin,
            note="own model on fixed features, trained by gradient descent",
        )

    def reference(self, problem: Problem, result: UnlearningResult, generator: torch.Generator) -> UnlearningResult:
        """T steps on D_r from w = 0: back by all steps."""
        return RewindLinear(self.l2, self.steps, self.steps, self.learning_rate, self.filters)(problem, generator)

    def rounding(self, task: LinearTask) -> float:
        """How far the T steps in float64 may end from T exact ones."""
        # A step on D_r brings weights nearer to the minimiser on D_r, and both start in the ball: never beyond 3C.
        step = task.step_rounding(self.learning_rate, 3 * task.constants.radius)
        return descent_rounding(step, self.expansion, self.steps)

    def bound(self, forget: int, samples: int) -> Bound:
        """Δ for ``forget`` of ``samples`` training samples."""
        shift = 2 * self.learning_rate * GRADIENT_NORM * forget / samples
        return Bound(
            value=shift * math.fsum(self.expansion**power for power in range(self.rewound, self.steps)),
            name="rewinding, strongly convex",
            constants={
                "l2": self.l2,
                "steps": self.steps,
                "rewound": self.rewound,
                "learning_rate": self.learning_rate,
                "gradient_norm": GRADIENT_NORM,
                "forget": forget,
                "samples": samples,
            },
            fixed_in_advance=True,
            assumptions=(
                "training was gradient descent on all samples at once, from w = 0",
                "the features do not depend on the data and are at most 1 long",
                "l2, learning rate and numbers of steps were fixed before the data were seen; the sizes of training "
                "and forget set are no secret",
            ),
            reference="gradient descent on the retained set, T steps from w = 0, plus N(0, σ²I)",
            covers="a linear model on fixed features that was trained by gradient descent",
        )


@register("rewind, Adam")
class RewindAdam:
    """Back by some epochs of the original training with Adam, then as many epochs on D_r.

    Mu & Klabjan (2025), "Rewind-to-Delete", for a model trained as in practice. Different from the source: training and
    unlearning use Adam on mini-batches, unlearning with a fresh Adam and other batches than training would have drawn.
    The proof is for plain gradient descent, so there is no certificate. BatchNorm's running statistics are rewound too.

    Args:
        epochs: How many epochs to go back and then to train.
    """

    def __init__(self, epochs: int) -> None:
        expect(epochs >= 0, f"epochs = {epochs} is negative: training cannot be rewound to after its end")
        self.epochs = epochs

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Train on from the checkpoint; the generator draws the order of the batches."""
        if problem.stopped is None:
            raise CduError("rewinding Adam needs the original model's earlier states, but the problem has no 'stopped'")
        done = problem.training.epochs - self.epochs
        expect(done >= 1, f"{self.epochs} of {problem.training.epochs} epochs cannot be rewound: none would be left")
        kept = problem.stopped(done)
        original = problem.objective
        local = replace(problem, objective=original.with_model(kept.model))
        learner = Learner(local, problem.training.learning_rate, generator, start=kept.w)
        for _ in range(self.epochs):
            for inputs, targets in problem.retain.shuffled(problem.training.batch_size, generator):
                learner.step(learner.loss(inputs, targets))
        return learner.result(
            no_certificate_reason="training assumption violated: the proof is for plain gradient descent, this model "
            "was trained with Adam"
        )


def descend(
    objective: Objective, w: Tensor, samples: Samples, steps: int, learning_rate: float, radius: float
) -> Tensor:
    """Gradient descent on all samples at once, each step projected onto the ball of ``radius``."""
    for _ in range(steps):
        w = project(w - learning_rate * objective.gradient(w, samples), radius)
    if not w.isfinite().all():
        raise CduError(f"gradient descent diverged within {steps} steps; lower its learning rate, {learning_rate:g}")
    return w


def published_distance(
    gradient_norm: float,
    gradient_lipschitz: float,
    learning_rate: float,
    steps: int,
    rewound: int,
    forget: int,
    samples: int,
) -> float:
    """Mu & Klabjan's bound on the distance to retraining: 2·n_u·G·h(K)/(nL).

    h(K) = ((1 + ηL·n/(n − n_u))^{T−K} − 1)·(1 + ηL)ᴷ, as their code (anonymous-1234567/r2d) has it.

    Args:
        gradient_norm: G, of every sample's gradient.
        gradient_lipschitz: L, of every sample's gradient.
        learning_rate: η.
        steps: T.
        rewound: K.
        forget: n_u.
        samples: n.

    Returns:
        The bound, infinite where it is beyond double precision.
    """
    rate = learning_rate * gradient_lipschitz
    apart = rate * samples / (samples - forget)
    return _distance(apart, rate, steps, rewound) * 2 * forget * gradient_norm / (samples * gradient_lipschitz)


def derived_distance(
    gradient_norm: float,
    gradient_lipschitz: float,
    learning_rate: float,
    steps: int,
    rewound: int,
    forget: int,
    samples: int,
) -> float:
    """The same bound, tighter: 2·n_u·G/(nL) · ((1 + ηL)^{T−K} − 1)·(1 + ηL)ᴷ.

    The gradients on D and D_r, taken at one point, differ by n_u/n times the difference of the means over D_u and D_r,
    so by at most 2G·n_u/n; a step on D_r drives two points apart by 1 + ηL, not by 1 + ηL·n/(n − n_u).

    Args:
        gradient_norm: G.
        gradient_lipschitz: L.
        learning_rate: η.
        steps: T.
        rewound: K.
        forget: n_u.
        samples: n.

    Returns:
        The bound, infinite where it is beyond double precision.
    """
    rate = learning_rate * gradient_lipschitz
    return _distance(rate, rate, steps, rewound) * 2 * forget * gradient_norm / (samples * gradient_lipschitz)


def _distance(training: float, unlearning: float, steps: int, rewound: int) -> float:
    """((1 + a)^{T−K} − 1)·(1 + b)ᴷ for the growth a of a distance per training step and b per unlearning step."""
    with np.errstate(over="ignore"):
        grown = np.expm1((steps - rewound) * np.log1p(training)) * np.exp(rewound * np.log1p(unlearning))
    return float(grown)


def _require_rewindable(steps: int, rewound: int) -> None:
    expect_count(steps=steps)
    expect(0 <= rewound <= steps, f"rewound = {rewound} is not between 0 and steps = {steps}")
