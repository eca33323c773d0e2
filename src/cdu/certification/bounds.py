"""Bounds on ‖w̃ − w̃*‖₂, the distance of what is released to what it should equal.

A bound whose constants were measured on the data D is an *indication*, however exactly they were computed: on
neighbouring data the constants differ. Only a bound that was fixed before D is seen gives a certificate.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from cdu.checks import expect, expect_length, expect_not_negative, expect_positive

_RETRAINED = "retraining on the retained set by the same recipe, projected, plus N(0, σ²I)"
_STATIONARY = "the stationary point w̃* on the retained set inside the ball of radius C, plus N(0, σ²I)"
_MINIMISER = "the exact minimiser of the loss on the retained set, plus N(0, σ²I)"

_ENDS_PROJECTED = "training, retraining and unlearning all end with a projection onto the ball of radius C"
_IN_THE_BALL = "w* and w̃* lie in the ball of radius C"
_SMOOTH = "the Hessian of the loss is M-Lipschitz over the ball (no ReLU network's is)"
#: The assumption that a bound which counts the solver's error does not need.
EXACT_SOLVE = "the damped system is solved exactly"
_STRONGLY_CONVEX = "the loss on the retained set is l2-strongly convex"


class Bound(BaseModel):
    """A bound on ‖w̃ − w̃*‖₂ with what it was computed from.

    Attributes:
        value: Δ, in the units of the weights; 0 where the step is exact.
        name: Where it comes from, e.g. "2C by projection" or "Theorem 3.4".
        constants: The arguments it was computed from, by name.
        fixed_in_advance: Whether every constant was fixed before the data were seen.
        failure: ρ, the probability with which the bound may fail; 0 for none.
        requests: The number of requests that ``failure`` covers.
        assumptions: What must be true for the bound to hold.
        reference: The distribution that a noisy release is compared with.
        covers: What a certificate from this bound is worth, in words.
        rounding: What the arithmetic of the program that computed both models may add to Δ, proven.
        arithmetic: The type of floating-point numbers that ``rounding`` is for; "exact" where no program was named.

    Example:
        >>> bound = trivial_bound(10)
        >>> print(bound.name, bound.sensitivity, bound.kind)
        2C by projection 20.0 certificate
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    name: str
    constants: dict[str, float]
    fixed_in_advance: bool
    failure: Annotated[float, Field(ge=0, lt=1)] = 0.0
    requests: Annotated[int, Field(ge=1)] = 1
    assumptions: tuple[str, ...]
    reference: str
    covers: str
    rounding: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    arithmetic: Literal["exact", "float32", "float64"] = "exact"

    @property
    def sensitivity(self) -> float:
        """What noise must hide: Δ and the allowance for rounding, rounded up."""
        return self.value if self.rounding == 0 else math.nextafter(self.value + self.rounding, math.inf)

    @property
    def kind(self) -> Literal["certificate", "indication"]:
        """``certificate`` where the bound was fixed before the data were seen, else ``indication``."""
        return "certificate" if self.fixed_in_advance else "indication"


def trivial_bound(radius: float) -> Bound:
    """2C: two points of the ball ‖w‖₂ ≤ C are never farther apart. Holds for every method that projects.

    Args:
        radius: C, fixed before the data are seen.

    Raises:
        CduError: C is not a positive finite number.

    Example:
        >>> trivial_bound(10).sensitivity
        20.0
    """
    expect_length(radius=radius)
    return Bound(
        value=2 * radius,
        name="2C by projection",
        constants={"radius": radius},
        fixed_in_advance=True,
        assumptions=(_ENDS_PROJECTED, "C was fixed before the data were seen"),
        reference=_RETRAINED,
        covers="every point of the ball alike: no better than releasing the original model with noise for 2C",
    )


def unprojected_bound(radius: float, step_norm: float) -> Bound:
    """2C + ‖w̃ − w*‖: what is left of 2C when the Newton iterate leaves the ball and is not projected back.

    By the triangle inequality over w*. The step is measured on D, so that this is an indication.

    Args:
        radius: C, the ball that w* and w̃* lie in.
        step_norm: ‖w̃ − w*‖₂ ≥ 0.

    Raises:
        CduError: An argument outside its range.

    Example:
        >>> unprojected_bound(10, step_norm=3).sensitivity
        23.0
    """
    expect_length(radius=radius)
    expect_not_negative(step_norm=step_norm)
    return Bound(
        value=2 * radius + step_norm,
        name="2C + step, not projected",
        constants={"radius": radius, "step_norm": step_norm},
        fixed_in_advance=False,
        assumptions=(_IN_THE_BALL,),
        reference=_RETRAINED,
        covers="nothing: the step was measured on the data",
    )


def newton_bound(
    radius: float,
    hessian_lipschitz: float,
    damping: float,
    smallest_eigenvalue: float,
    gradient_norm: float = 0.0,
    *,
    fixed_in_advance: bool = False,
) -> Bound:
    """Theorem 3.4 with the term for training that has not converged: [2C(MC + λ) + G] / (λ + λ_min).

    It is below 2C exactly where MC + G/(2C) < λ_min, so never for λ_min ≤ 0.

    Args:
        radius: C.
        hessian_lipschitz: M, Lipschitz constant of the Hessian over the ball; 0 for a quadratic loss.
        damping: λ ≥ 0; 0 needs λ_min > 0.
        smallest_eigenvalue: λ_min of H = ∇²L(w*, D_r).
        gradient_norm: G, the retrained model's ‖∇L(w̃*, D_r)‖; 0 for a stationary point.
        fixed_in_advance: Say True only if M, λ_min and G hold for every data set, as they do for an l2-regularised
            linear model with clipped inputs.

    Raises:
        CduError: λ + λ_min ≤ 0, where the theorem does not apply, or an argument outside its range.

    Example:
        >>> newton_bound(radius=10, hessian_lipschitz=0.1, damping=1, smallest_eigenvalue=3).value
        10.0
    """
    expect_length(radius=radius)
    expect(hessian_lipschitz >= 0, f"hessian_lipschitz = {hessian_lipschitz} is negative; M is at least 0")
    expect(gradient_norm >= 0, f"gradient_norm = {gradient_norm} is negative; G is at least 0")
    expect_not_negative(damping=damping, hessian_lipschitz=hessian_lipschitz, gradient_norm=gradient_norm)
    smallest_damped = smallest_damped_eigenvalue(damping, smallest_eigenvalue)
    return Bound(
        value=(2 * radius * (hessian_lipschitz * radius + damping) + gradient_norm) / smallest_damped,
        name="Theorem 3.4, not converged" if gradient_norm > 0 else "Theorem 3.4",
        constants={
            "radius": radius,
            "hessian_lipschitz": hessian_lipschitz,
            "damping": damping,
            "smallest_eigenvalue": smallest_eigenvalue,
            "gradient_norm": gradient_norm,
        },
        fixed_in_advance=fixed_in_advance,
        assumptions=(
            _IN_THE_BALL,
            _SMOOTH,
            "no eigenvalue of the Hessian on the retained set at w* is below λ_min",
            "‖∇L(w̃*, D_r)‖ ≤ G" if gradient_norm > 0 else "w̃* is a stationary point of the loss on the retained set",
            EXACT_SOLVE,
        ),
        reference=_RETRAINED if gradient_norm > 0 else _STATIONARY,
        covers="the Newton step, as far as its constants hold on every data set",
    )


def residual_bound(residual_norm: float, strong_convexity: float, retrained_residual_norm: float = 0.0) -> Bound:
    """(‖∇L(w̃, D_r)‖ + ‖∇L(ŵ, D_r)‖) / l2: distance of w̃ to a retrained model ŵ, for an l2-strongly convex loss.

    Strong convexity gives l2·‖w̃ − ŵ‖ ≤ ‖∇L(w̃, D_r) − ∇L(ŵ, D_r)‖. Residuals are measured on D: always an
    indication. :func:`budget_bound` makes a certificate of it.

    Args:
        residual_norm: ‖∇L(w̃, D_r)‖₂.
        strong_convexity: l2, in the loss as (l2/2)·‖w‖².
        retrained_residual_norm: ‖∇L(ŵ, D_r)‖₂; 0 for the exact minimiser.

    Raises:
        CduError: An argument outside its range.

    Example:
        >>> residual_bound(0.25, strong_convexity=0.5).value
        0.5
    """
    expect_not_negative(residual_norm=residual_norm, retrained_residual_norm=retrained_residual_norm)
    expect_positive(strong_convexity=strong_convexity)
    return Bound(
        value=(residual_norm + retrained_residual_norm) / strong_convexity,
        name="residual over l2",
        constants={
            "residual_norm": residual_norm,
            "strong_convexity": strong_convexity,
            "retrained_residual_norm": retrained_residual_norm,
        },
        fixed_in_advance=False,
        assumptions=(_STRONGLY_CONVEX,),
        reference=_MINIMISER if retrained_residual_norm == 0 else "the retrained model ŵ, plus N(0, σ²I)",
        covers="nothing: the residuals were measured on the data",
    )


def budget_bound(budget: float) -> Bound:
    """Δ fixed before the data are seen: a result whose residual bound exceeds it is replaced by retraining.

    Whatever is released, with the same noise, then lies within Δ of the exact minimiser w̃* on D_r, on every data set
    and for every request. Noise scaled to the *measured* residual would be no certificate: the reference
    w̃* + N(0, σ²I) must not depend on D_u, but its σ would; the noise level, which can be read off the release, would
    itself leak; and two neighbouring references would differ in their variance.

    Args:
        budget: Δ, in the units of the weights.

    Raises:
        CduError: Δ is not a positive finite number.

    Example:
        >>> budget_bound(1e-3).value
        0.001
    """
    expect_length(budget=budget)
    return Bound(
        value=budget,
        name="budget with fallback",
        constants={"budget": budget},
        fixed_in_advance=True,
        assumptions=(
            _STRONGLY_CONVEX,
            "Δ was fixed before the data were seen",
            "a result whose residual over l2 exceeds Δ is not released; retraining replaces it, with the same noise",
            "the retrained model's own residual over l2 is at most Δ",
            "nothing tells whether the fallback was taken, not the time it took either",
        ),
        reference=_MINIMISER,
        covers="the released weights, whether they come from the unlearning step or from the fallback",
    )


def sequential_bound(steps: Sequence[Bound]) -> Bound:
    """The bound at any of k requests, when every iterate is projected before the next step: the largest of the steps'.

    The proof of Theorem 3.4 uses of w_{k−1} only that it lies in the ball of radius C, not where it comes from, so
    that errors of earlier steps do not add up. Failure probabilities do, by the union bound.

    Args:
        steps: One bound for each request, at least one.

    Raises:
        CduError: No steps, or failure probabilities that add up to 1 or more.

    Example:
        >>> bound = sequential_bound([trivial_bound(10), trivial_bound(10)])
        >>> print(bound.value, bound.requests)
        20.0 2
    """
    expect(len(steps) > 0, "a sequential bound was asked for 0 steps; give one bound for each request")
    requests = sum(step.requests for step in steps)
    failure = math.fsum(step.failure for step in steps)
    expect(
        failure < 1,
        f"the failure probabilities of {requests} requests add up to {failure:g}, which is not below 1; "
        "run LiSSA with a smaller ρ at every request",
    )
    largest = max(steps, key=lambda step: step.sensitivity)
    projected = "every iterate is projected onto the ball of radius C before the next step"
    needs_the_ball = any("radius" in step.constants for step in steps)
    assumptions = [text for step in steps for text in step.assumptions] + [projected] * needs_the_ball
    return Bound(
        value=largest.value,
        name=f"{largest.name}, the largest of {requests} requests",
        constants=largest.constants,
        fixed_in_advance=all(step.fixed_in_advance for step in steps),
        failure=failure,
        requests=requests,
        assumptions=tuple(dict.fromkeys(assumptions)),
        reference="; ".join(dict.fromkeys(step.reference for step in steps)),
        rounding=largest.rounding,
        arithmetic=largest.arithmetic,
        covers="; ".join(dict.fromkeys(step.covers for step in steps)),
    )


def smallest_damped_eigenvalue(damping: float, smallest_eigenvalue: float) -> float:
    """λ + λ_min.

    Args:
        damping: λ.
        smallest_eigenvalue: λ_min.

    Raises:
        CduError: It is not positive, or λ_min is not finite.
    """
    denominator = damping + smallest_eigenvalue
    expect(
        denominator > 0,
        f"Theorem 3.4 needs H + λI positive definite, but λ + λ_min = {denominator:.4g}; "
        f"choose λ > {0 - smallest_eigenvalue:.4g}",
    )
    expect(denominator < math.inf, f"smallest_eigenvalue = {smallest_eigenvalue} is not a finite number")
    return denominator
