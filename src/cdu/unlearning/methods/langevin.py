"""Langevin unlearning: training is noisy descent, and unlearning is more of it without the forget set."""

import math
import time
from dataclasses import replace

import torch
from torch import Tensor

from cdu.certification import Bound, certify, required_sigma
from cdu.certification.amplification import langevin_bound
from cdu.certification.rounding import UNIT
from cdu.checks import expect, expect_count, expect_positive
from cdu.curvature.solution import synchronise
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models.objective import Objective
from cdu.models.training import project
from cdu.unlearning.methods.fixed_features import GRADIENT_NORM, LinearTask, contraction
from cdu.unlearning.methods.rewind import descend
from cdu.unlearning.noise import draw_noise, noise_norm
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register


@register("Langevin, linear", own_model=True, needs_classes=True, l2_in_advance=0.01)
class Langevin:
    """Noisy gradient descent, T steps on D and then K on D_r, for a linear model on fixed features.

    w ← projection of w − η∇L(w, S) + N(0, σ²I) onto ‖w‖ ≤ C, from w = 0; S is D in training, D_r in unlearning. C is
    the radius that contains every minimiser.

    Chien, Wang, Chen & Li (2024), "Langevin Unlearning: A New Perspective of Noisy Gradient Descent for Machine
    Unlearning", who use logistic regression too. Different from the source: σ is the least that privacy amplification
    by iteration certifies in Gaussian differential privacy for these T and K
    (:func:`~cdu.certification.amplification.langevin_bound`), in place of Rényi divergence with a log-Sobolev constant
    for T → ∞, see :func:`published_epsilon`; training starts at 0, not at random; D_u is deleted, not replaced; the
    loss is multinomial and its gradient bounded by the features' norm, not clipped.

    The original network is not used: the method trains its own model, in float64.

    Args:
        epsilon: ε to certify.
        delta: δ to certify.
        l2: Weight of (l2/2)‖w‖².
        learning_rate: η, at most 2/(L + l2).
        training_steps: T.
        steps: K.
        filters: Random filters of the features.
    """

    def __init__(
        self,
        epsilon: float,
        delta: float,
        l2: float,
        learning_rate: float,
        training_steps: int,
        steps: int,
        filters: int,
    ) -> None:
        expect_count(training_steps=training_steps, steps=steps, filters=filters)
        self.expansion = contraction(learning_rate, l2)
        self.epsilon = epsilon
        self.delta = delta
        self.l2 = l2
        self.learning_rate = learning_rate
        self.training_steps = training_steps
        self.steps = steps
        self.filters = filters

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Train, then unlearn; the generator draws the noise of both."""
        task = LinearTask(problem, self.filters, self.l2)
        begin = time.perf_counter()
        radius = task.constants.radius
        bound = self.computed(len(problem.forget), task)
        sigma = required_sigma(bound, self.epsilon, self.delta)
        shared = (self.learning_rate, radius, sigma, generator)
        w = noisy_descent(task.objective, task.zeros(), task.everything, self.training_steps, *shared)
        synchronise(w)
        trained = time.perf_counter()
        w = noisy_descent(task.objective, w, task.retain, self.steps, *shared)
        synchronise(w)
        return UnlearningResult(
            w,
            time.perf_counter() - trained,
            gradient_samples=self.steps * len(task.retain),
            model=task.model,
            radius=radius,
            bound=bound,
            certificate=certify(bound, sigma, self.delta),
            training_seconds=task.seconds + trained - begin,
            note="own model on fixed features, trained by noisy gradient descent",
        )

    def reference(self, problem: Problem, result: UnlearningResult, generator: torch.Generator) -> UnlearningResult:
        """T + K noisy steps on D_r, with the σ of the result's certificate.

        Raises:
            CduError: The result has no certificate, so that it is not this method's.
        """
        certificate = result.certificate
        if certificate is None:
            raise CduError("the result has no certificate, which tells its noise; give what the method returned")
        task = LinearTask(problem, self.filters, self.l2)
        rates = (self.learning_rate, task.constants.radius, certificate.sigma)
        steps = self.training_steps + self.steps
        return replace(result, w=noisy_descent(task.objective, task.zeros(), task.retain, steps, *rates, generator))

    def noiseless_difference(self, problem: Problem) -> Tensor:
        """The difference of the ends of the same descents without noise, shape (p,)."""
        task = LinearTask(problem, self.filters, self.l2)
        rates, ends = (self.learning_rate, task.constants.radius), []
        for first in (task.everything, task.retain):
            w = descend(task.objective, task.zeros(), first, self.training_steps, *rates)
            ends.append(descend(task.objective, w, task.retain, self.steps, *rates))
        return ends[0] - ends[1]

    def bound(self, forget: int, samples: int, radius: float, rounding: float = 0.0) -> Bound:
        """What noise must hide when ``forget`` of ``samples`` training samples are deleted.

        Args:
            forget: n_u.
            samples: n.
            radius: C.
            rounding: What rounding may add to the distance of two steps.
        """
        shift = 2 * self.learning_rate * GRADIENT_NORM * forget / samples
        return langevin_bound(shift, self.expansion, self.training_steps, self.steps, radius, rounding)

    def computed(self, forget: int, task: LinearTask) -> Bound:
        """The same for what is computed in float64.

        Raises:
            CduError: Rounding may add as much as there is to hide.
        """
        known = (forget, len(task.everything), task.constants.radius)
        exact = self.bound(*known)
        # Noise takes part in the next step's rounding. Twice what exact arithmetic needs is room for the allowance.
        most = 2 * required_sigma(exact, self.epsilon, self.delta)
        noisy = 8 * UNIT["float64"] * most * noise_norm(task.objective.size)
        step = task.step_rounding(self.learning_rate, task.constants.radius)
        bound = self.bound(*known, rounding=2 * (step + noisy)).model_copy(update={"arithmetic": "float64"})
        expect(
            bound.sensitivity <= 2 * exact.value,
            f"rounding may add {bound.rounding:.3g} to what noise must hide, {bound.value:.3g}; take fewer steps",
        )
        return bound


@register("Langevin, Adam")
class LangevinAdam:
    """K noisy projected gradient steps on D_r from the Adam-trained w*.

    w ← projection of w − η∇L(w, D_r) + N(0, σ²I) onto ‖w‖ ≤ C: the unlearning half of Chien, Wang, Chen & Li (2024),
    "Langevin Unlearning", on a network. Different from the source: the original model was not trained by noisy descent,
    which the proof needs, so there is no certificate. BatchNorm uses the original's running statistics.

    Args:
        sigma: Standard deviation of the noise per coordinate, in every step.
        learning_rate: η.
        steps: K.
    """

    def __init__(self, sigma: float, learning_rate: float, steps: int) -> None:
        expect_positive(sigma=sigma, learning_rate=learning_rate)
        expect_count(steps=steps)
        self.sigma = sigma
        self.learning_rate = learning_rate
        self.steps = steps

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Descend; the generator draws the noise."""
        begin = time.perf_counter()
        w = noisy_descent(
            problem.objective,
            problem.w_star,
            problem.retain,
            self.steps,
            self.learning_rate,
            problem.radius,
            self.sigma,
            generator,
        )
        synchronise(w)
        return UnlearningResult(
            w,
            time.perf_counter() - begin,
            gradient_samples=self.steps * len(problem.retain),
            no_certificate_reason="training assumption violated: the proof needs noisy gradient descent as training, "
            "this model was trained with Adam",
        )


def noisy_descent(
    objective: Objective,
    w: Tensor,
    samples: Samples,
    steps: int,
    learning_rate: float,
    radius: float,
    sigma: float,
    generator: torch.Generator,
) -> Tensor:
    """Gradient descent on all samples at once with N(0, σ²I) in every step, then projection onto the ball."""
    for _ in range(steps):
        noise = draw_noise(w, generator)
        w = project(w - learning_rate * objective.gradient(w, samples) + sigma * noise, radius)
    if not w.isfinite().all():
        raise CduError(f"noisy descent diverged within {steps} steps; lower its learning rate, {learning_rate:g}")
    return w


def published_epsilon(
    sigma: float,
    delta: float,
    gradient_norm: float,
    l2: float,
    learning_rate: float,
    steps: int,
    forget: int,
    samples: int,
) -> float:
    """ε after K unlearning steps by the source's bound for strongly convex losses, for comparison.

    The least over α > 1 of exp(−K·l2·η/α) · 4α·(n_u·G)²/(l2·τ²·n²) + ln(1/δ)/(α − 1), for training that has converged
    in distribution and η ≤ 1/L; τ² = σ²/(2η), since the source writes the noise of a step as √(2η)·τ. As the authors'
    code (Graph-COM/Langevin_unlearning) has it.

    Args:
        sigma: Standard deviation of the noise of one step.
        delta: δ.
        gradient_norm: G.
        l2: The strong convexity.
        learning_rate: η.
        steps: K.
        forget: n_u.
        samples: n.
    """
    # Imported here: it is slow to import, and all other methods do without.
    from scipy.optimize import minimize_scalar

    divergence = 4 * (forget * gradient_norm / samples) ** 2 / (l2 * sigma**2 / (2 * learning_rate))

    def epsilon(log_order: float) -> float:
        order = 1 + math.exp(log_order)
        fading = math.exp(-steps * l2 * learning_rate / order)
        return order * divergence * fading + math.log(1 / delta) / (order - 1)

    return float(minimize_scalar(epsilon, bounds=(-20.0, 20.0), method="bounded", options={"xatol": 1e-9}).fun)
