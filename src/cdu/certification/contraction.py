"""Steps that end with a projection and noise forget what came before: contraction of the hockey-stick divergence.

E_γ(P‖Q) = sup_S P(S) − γQ(S) with γ = e^ε is the least δ for which (ε, δ) holds in one direction. Two processes take
steps w ← h_t(w) + N(0, σ²I) with ‖h_t(w)‖ ≤ C, whatever h_t is and wherever they start. Say E_γ of the two is A before
a step; then P − γQ = A·a − (A + γ − 1)·b for probability distributions a and b. After the step, whose kernel is K,

    E_γ(PK‖QK) = sup_S A·aK(S) − (A + γ − 1)·bK(S) = A·E_γ'(aK‖bK) with γ' = 1 + (γ − 1)/A.

E_γ' is jointly convex, aK and bK are mixtures of Gaussians with means at most 2C apart, so that E_γ'(aK‖bK) is at most
the δ of the Gaussian mechanism at ε' = ln γ' and μ = 2C/σ. From A = 1 the first step gives that mechanism's δ itself,
and every further step multiplies it by a factor that falls with A.

The argument is the advanced joint convexity of Balle, Barthe, Gaboardi & Geumlek (2019), "Privacy Amplification by
Mixing and Diffusion Mechanisms". With ε' = ε in every step it gives the product of the steps' contraction coefficients,
which is weaker: Asoodeh, Diaz & Calmon (2020), "Privacy Amplification of Iterative Algorithms via Contraction
Coefficients". For every ε the bound is attained, in one dimension, by maps h_t that send each side of a threshold to C
or to −C.
"""

import math
from collections.abc import Callable

from cdu.certification.bounds import Bound
from cdu.certification.certificate import Certificate, certify
from cdu.certification.gaussian import gaussian_delta, gaussian_epsilon, gaussian_sigma
from cdu.checks import expect, expect_count, expect_length, expect_not_negative

#: Factor on μ, and on every computed factor of δ: more than the roundings of both.
_MARGIN = 1 + 1e-11

#: What a smaller δ is taken for.
_SMALLEST = 1e-290

#: Halvings of an interval in which ε or ln σ is sought.
_HALVINGS = 45


def contracted_delta(epsilon: float, sigma: float, sensitivity: float, steps: int) -> float:
    """δ after T steps w ← h_t(w) + N(0, σ²I) whose h_t(w) are never more than Δ apart, rounded up.

    Args:
        epsilon: ε ≥ 0.
        sigma: Standard deviation of the noise of one step.
        sensitivity: Δ; 2C for a projection onto the ball of radius C.
        steps: T.

    Raises:
        CduError: An argument outside its range.

    Example:
        >>> [f"{contracted_delta(1, sigma=1, sensitivity=2, steps=steps):.4f}" for steps in (1, 2, 3)]
        ['0.5099', '0.2160', '0.0649']
    """
    expect_count(steps=steps)
    expect_not_negative(epsilon=epsilon)
    delta = 1.0
    for _ in range(steps):
        # ln(1 + (e^ε − 1)/δ), rounded down.
        over = -math.inf if epsilon == 0 else epsilon + math.log(-math.expm1(-epsilon)) - math.log(delta)
        raised = max(over, 0.0) + math.log1p(math.exp(-abs(over)))
        reduced = 0.0 if over == -math.inf else max(epsilon, raised / _MARGIN)
        factor = min(1.0, _MARGIN * gaussian_delta(reduced, sigma, _MARGIN * sensitivity))
        delta = max(_SMALLEST, delta * factor)
    return delta


def contracted_epsilon(sigma: float, delta: float, sensitivity: float, steps: int) -> float:
    """The least ε that T such steps certify at δ, rounded up.

    Args:
        sigma: As for :func:`contracted_delta`.
        delta: δ.
        sensitivity: As for :func:`contracted_delta`.
        steps: T.

    Raises:
        CduError: An argument outside its range.
    """
    above = 1e-9 + (1 + 1e-9) * gaussian_epsilon(sigma, delta, sensitivity)
    return _least(0.0, above, lambda epsilon: contracted_delta(epsilon, sigma, sensitivity, steps) <= delta)


def contracted_sigma(epsilon: float, delta: float, sensitivity: float, steps: int) -> float:
    """The least noise of one step for which T steps certify (ε, δ), rounded up.

    Args:
        epsilon: ε ≥ 0.
        delta: δ.
        sensitivity: As for :func:`contracted_delta`.
        steps: T.

    Raises:
        CduError: An argument outside its range.

    Example:
        >>> [f"{contracted_sigma(1, 1e-5, sensitivity=2, steps=steps):.4f}" for steps in (1, 10, 100)]
        ['7.4613', '0.7488', '0.4198']
    """
    expect_count(steps=steps)
    once = (1 + 1e-9) * gaussian_sigma(epsilon, delta, sensitivity)
    # Δ/σ = 100: no number of steps that can be taken makes up for it.
    below = math.log(min(sensitivity / 100, once))
    found = _least(
        below,
        math.log(once),
        lambda logarithm: contracted_delta(epsilon, math.exp(logarithm), sensitivity, steps) <= delta,
    )
    return math.exp(found)


def model_clipping_bound(model_clip: float, steps: int, rounding: float = 0.0) -> Bound:
    """The distance 2C of the last step's two means; what T steps make of it is :func:`contracted_certificate`.

    Args:
        model_clip: C, the ball that the model is projected onto in every step.
        steps: T.
        rounding: How far outside the ball, both together, weights may lie.

    Raises:
        CduError: An argument outside its range.
    """
    expect_length(model_clip=model_clip)
    expect_count(steps=steps)
    expect_not_negative(rounding=rounding)
    return Bound(
        value=2 * model_clip,
        rounding=rounding,
        name="contraction by clipped steps",
        constants={"model_clip": model_clip, "steps": steps},
        fixed_in_advance=True,
        assumptions=(
            "the model is projected onto the ball of radius C after every step, before its noise",
            "no batch holds a forgotten sample, and which batches are drawn does not depend on the forget set",
            "C and the number of steps were fixed before the data were seen",
            "nothing but the last iterate is seen, no earlier one and no gradient",
            "the noise of every step is drawn afresh",
        ),
        reference=(
            "the same noisy fine-tuning on the retained set, started from a model trained on the retained set alone"
        ),
        covers="the weights after the last noisy step, whatever loss, network and training were; σ is that of one "
        "step, and ε is that of all steps together, below that of one step alone",
    )


def contracted_certificate(bound: Bound, sigma: float, delta: float) -> Certificate:
    """What noise σ in every one of T steps certifies of the last iterate.

    Its ε is not that of the Gaussian mechanism for the Δ and σ that it states, which is that of the last step alone. A
    ledger therefore refuses to add it up with others.

    Args:
        bound: That of :func:`model_clipping_bound`.
        sigma: Standard deviation of the noise of one step.
        delta: δ at which ε is quoted.

    Raises:
        CduError: The bound is another, or an argument is outside its range.
    """
    expect(
        "model_clip" in bound.constants,
        f"the bound '{bound.name}' is not of steps that are each clipped; give that of model_clipping_bound",
    )
    last = certify(bound, sigma, delta)
    epsilon = contracted_epsilon(sigma, delta, bound.sensitivity, int(bound.constants["steps"]))
    return last.model_copy(update={"epsilon": min(epsilon, last.epsilon)})


def _least(low: float, high: float, holds: Callable[[float], bool]) -> float:
    """The least number of an interval at which something holds that holds at its upper end and everywhere above."""
    if holds(low):
        return low
    expect(holds(high), f"no number between {low:g} and {high:g} certifies this; ask for a larger epsilon or delta")
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
