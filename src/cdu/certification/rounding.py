"""What floating-point arithmetic adds to a distance: proven bounds, for sums in any order.

A bound Δ is about real numbers, a release about what a program computed. Where Δ is of the size of the program's
rounding the certificate would be false, so that a proven allowance is added to Δ. With the unit roundoff u, a sum of n
products is off by at most γ_n·Σ|a_i b_i| with γ_n = nu/(1 − nu), in whatever order it is taken and with or without
fused operations (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1). Of a library's exp and
log an error of :data:`ULPS` units in the last place is allowed.

What comes after the noise needs no allowance: rounding the sum of weights and noise is post-processing. That the noise
itself is drawn from floating-point numbers, and is no ideal Gaussian, is not covered (Mironov 2012).
"""

import math
from typing import TYPE_CHECKING, Literal

from cdu.certification.bounds import Bound, trivial_bound
from cdu.checks import expect, expect_count, expect_not_negative, expect_positive

if TYPE_CHECKING:
    import torch

Arithmetic = Literal["float32", "float64"]

#: Unit roundoff u by type.
UNIT: dict[str, float] = {"float32": 2.0**-24, "float64": 2.0**-53}

#: Units in the last place by which exp and log may be off.
ULPS = 4

#: For products of two roundings, which the first-order terms below leave out; they need nu ≤ 0.01.
_SECOND_ORDER = 1.05


def arithmetic_of(dtype: "torch.dtype") -> Arithmetic:
    """The name of a type of weights.

    Raises:
        CduError: It is neither float32 nor float64.
    """
    name = str(dtype).removeprefix("torch.")
    expect(
        name in UNIT,
        f"the unlearned weights are of type {dtype}, whose rounding swallows noise; give float32 or float64",
    )
    return "float32" if name == "float32" else "float64"


def gamma(operations: int, unit: float) -> float:
    """γ_n = nu/(1 − nu), by which a sum of n products is off at most, relative to the sum of their absolute values.

    Args:
        operations: n.
        unit: u.

    Raises:
        CduError: nu is above 0.01, where nothing is left of the sum's digits.
    """
    expect_count(operations=operations)
    expect(
        operations * unit <= 0.01,
        f"a sum of {operations:,} terms has no proven digits with a unit roundoff of {unit:.2g}; use float64",
    )
    return operations * unit / (1 - operations * unit)


def norm_rounding(size: int) -> float:
    """Bound on the relative amount by which the float64 norm of ``size`` numbers is too small."""
    return gamma(size + 2, UNIT["float64"])


def ball_rounding(radius: float, size: int) -> float:
    """How far outside the ball weights may lie after :func:`~cdu.models.training.project`.

    It shrinks them by two roundings more than it has to, which covers those of the product; the norm, taken in float64,
    may be too small.

    Args:
        radius: C.
        size: p, the number of weights.
    """
    return radius * norm_rounding(size)


def projection_bound(radius: float, size: int, arithmetic: Arithmetic) -> Bound:
    """2C by projection as a program computes it: with an allowance for how far outside the ball both ends may lie.

    Args:
        radius: C.
        size: p, the number of weights.
        arithmetic: The type of the weights.
    """
    return computed(trivial_bound(radius), arithmetic, 2 * ball_rounding(radius, size))


def projection_rounding(radius: float, arithmetic: Arithmetic) -> float:
    """How far a computed projection may lie from the exact one; 0 for an infinite ball, in which nothing is projected.

    Args:
        radius: C.
        arithmetic: The type of the weights.
    """
    return 0.0 if math.isinf(radius) else 8 * UNIT[arithmetic] * radius


def softmax_gradient_rounding(
    input_norm: float, weight_norm: float, l2: float, features: int, classes: int, samples: int, unit: float
) -> float:
    """A bound on the error of ∇L(w, S) as computed, for l2-regularised softmax regression with a bias.

    With B = √(input_norm² + 1) and R = ‖w‖: logits are off by γ_{d+1}·BR, of which softmax passes on half; its own
    error is at most u·(K + 4·ULPS + 8BR), relative to probabilities whose norm is at most 1; and the mean over n
    samples of (p − y)x̃ᵀ, whose norms are at most √2·B, is off by γ_{n+8} of that. The l2 term takes part in the sum.

    Args:
        input_norm: Largest ‖x‖₂.
        weight_norm: R.
        l2: Weight of (l2/2)‖w‖².
        features: d.
        classes: K.
        samples: n.
        unit: u.

    Raises:
        CduError: An argument outside its range, or too many samples for the type (:func:`gamma`).
    """
    expect_not_negative(input_norm=input_norm, weight_norm=weight_norm, l2=l2)
    expect_positive(unit=unit)
    reach = math.hypot(input_norm, 1.0)
    logits = gamma(features + 1, unit) * reach * weight_norm
    softmax = unit * (classes + 4 * ULPS + 8 * reach * weight_norm)
    summed = gamma(samples + 8, unit) * (math.sqrt(2) * reach + l2 * weight_norm)
    return _SECOND_ORDER * (reach * (logits / 2 + softmax) + summed)


def squared_gradient_rounding(
    input_norm: float, weight_norm: float, l2: float, features: int, samples: int, unit: float
) -> float:
    """A bound on the error of ∇L(w, S) as computed, for ridge regression on one-hot targets.

    The residual z − y takes the place of p − y in :func:`softmax_gradient_rounding`: its norm is at most BR + 1, and it
    passes on the error of the logits in full.

    Args:
        input_norm: Largest ‖x‖₂.
        weight_norm: R.
        l2: Weight of (l2/2)‖w‖².
        features: d.
        samples: n.
        unit: u.

    Raises:
        CduError: As for :func:`softmax_gradient_rounding`.
    """
    expect_not_negative(input_norm=input_norm, weight_norm=weight_norm, l2=l2)
    expect_positive(unit=unit)
    reach = math.hypot(input_norm, 1.0)
    residual = reach * weight_norm + 1
    logits = gamma(features + 2, unit) * residual
    summed = gamma(samples + 8, unit) * (residual * reach + l2 * weight_norm)
    return _SECOND_ORDER * (reach * logits + summed)


def step_rounding(
    gradient_rounding: float, learning_rate: float, weight_norm: float, gradient_norm: float, unit: float
) -> float:
    """How far a computed step w − ηg, with its projection, may lie from the step of the exact gradient.

    Args:
        gradient_rounding: The error of g.
        learning_rate: η.
        weight_norm: ‖w‖ at most, before and after the step.
        gradient_norm: ‖g‖ at most.
        unit: u.
    """
    expect_not_negative(gradient_rounding=gradient_rounding, weight_norm=weight_norm, gradient_norm=gradient_norm)
    return learning_rate * gradient_rounding + 8 * unit * (weight_norm + learning_rate * gradient_norm)


def descent_rounding(step: float, expansion: float, steps: int) -> float:
    """How far T computed steps may end from T exact ones: e·(1 + ρ + … + ρ^{T−1}) for a step that is off by e.

    Args:
        step: e.
        expansion: ρ ≤ 1.
        steps: T.
    """
    expect_not_negative(step=step, expansion=expansion)
    expect(expansion <= 1, f"expansion = {expansion} is above 1: roundings would grow with every step")
    return step * math.fsum(expansion**power for power in range(steps)) * _SECOND_ORDER


def computed(bound: Bound, arithmetic: Arithmetic, rounding: float) -> Bound:
    """A bound for models as a program computes them: Δ with what rounding may add.

    Args:
        bound: Δ in exact arithmetic.
        arithmetic: The type that the weights were computed in.
        rounding: By how much both models together may be off.

    Raises:
        CduError: The allowance is not a finite number of at least 0.

    Example:
        >>> from cdu.certification import budget_bound
        >>> bound = computed(budget_bound(1e-3), "float64", rounding=1e-9)
        >>> print(bound.arithmetic, f"{bound.sensitivity:.9f}")
        float64 0.001000001
    """
    expect_not_negative(rounding=rounding)
    return bound.model_copy(update={"rounding": rounding, "arithmetic": arithmetic})
