"""Privacy amplification by iteration: what noise in every step of a descent certifies about its last iterate alone.

Two processes start within a distance D₀. In step t their maps enlarge a distance z to at most ρz + s_t, then both add
N(0, σ²I). Whatever the shares a_t ≥ 0 with z_t = ρz_{t−1} + s_t − a_t ≥ 0, z₀ = D₀ and z_N = 0: the last iterates
are μ-indistinguishable in Gaussian differential privacy with μ² = Σ a_t²/σ². This is the shifted interpolation of Bok,
Su & Altschuler (2024), "Shifted Interpolation for Differential Privacy", after Feldman, Mironov, Talwar & Thakurta
(2018), "Privacy Amplification by Iteration". √Σ a_t² thus plays the part of Δ, with the σ of one step beside it: a
:class:`~cdu.certification.bounds.Bound` of that value is all that ``certify`` and ``required_sigma`` need.
"""

import math
from collections.abc import Sequence

from cdu.certification.bounds import Bound
from cdu.checks import expect, expect_count, expect_not_negative, expect_positive

#: By how much the result is enlarged for every step: more than the roundings of its sums and powers.
_STEP_MARGIN = 2.0**-50

_LAST_ITERATE = "nothing but the last iterate is seen, no earlier one and no gradient"
_FRESH_STEPS = "the noise of every step is drawn afresh"


def amplified_distance(shifts: Sequence[float], expansion: float, start: float = 0.0) -> float:
    """The least √Σ a_t² over all shares a_t that bring the distance to 0 and never below it before the end.

    Seen from the start, with every length divided by ρᵗ, the distance taken away so far is a path that must stay under
    the distance there is, and Σ a_t² is its energy when time runs as Σ_{i≤t} ρ^{−2i}. The least energy is that of the
    greatest convex path under the obstacle. It falls into windows of steps, each from z = 0 to z = 0 (the first from
    D₀); in a window of n steps a_t ∝ ρ^{n−t} by Lagrange, which costs

        (Σ_{t≤n} ρ^{n−t} s_t)² / Σ_{t≤n} ρ^{2(n−t)}.

    For ρ ≤ 1 and shifts that never grow one window is feasible and therefore best; for ρ > 1 the constraint z ≥ 0
    binds, and the early steps pay what they add at once, a_t = s_t.

    Args:
        shifts: s_t ≥ 0 for every step.
        expansion: ρ ≥ 0.
        start: D₀ ≥ 0.

    Returns:
        √Σ a_t², rounded up.

    Raises:
        CduError: No step, or an argument outside its range.

    Example:
        >>> print(f"{amplified_distance([1.0, 1.0, 1.0, 1.0], expansion=1.0):.4f}")
        2.0000
    """
    expect(len(shifts) > 0, "an amplified distance was asked for 0 steps; at least one must add noise")
    expect_not_negative(expansion=expansion, start=start)
    for shift in shifts:
        expect_not_negative(shift=shift)
    # Powers of ρ are taken towards the side on which they do not overflow: seen from a window's end or from its start.
    shrink, lift = min(1.0, expansion), 1 / max(1.0, expansion)
    windows: list[tuple[float, float, int]] = []
    for number, shift in enumerate(shifts):
        distance, weight, steps = shift + (expansion * start if number == 0 else 0.0), 1.0, 1
        while windows:
            before, weight_before, steps_before = windows[-1]
            if before / weight_before * lift**steps_before < distance / weight * shrink**steps:
                break
            # The window before would pay less per step if it left some of its distance to this one.
            windows.pop()
            distance = before * shrink**steps + distance * lift**steps_before
            weight = weight_before * shrink ** (2 * steps) + weight * lift ** (2 * steps_before)
            steps += steps_before
        windows.append((distance, weight, steps))
    squares = math.fsum(distance * distance / weight for distance, weight, _ in windows)
    return math.sqrt(squares) * (1 + (len(shifts) + 4) * _STEP_MARGIN)


def coupled_distance(bound: Bound) -> float:
    """How far two runs of a method with noise on the way may end apart if both draw the same noise: z_N for a_t = 0.

    Args:
        bound: That of :func:`noisy_fine_tuning_bound`, of :func:`langevin_bound`, or of
            :func:`cdu.certification.contraction.model_clipping_bound`, where the last projection alone brings them
            near.
    """
    known = bound.constants
    if "model_clip" in known:
        return 2 * known["model_clip"]
    if "gradient_clip" in known:
        expansion = abs(1 - known["learning_rate"] * known["decay"])
        shift, added = 2 * known["learning_rate"] * known["gradient_clip"], known["steps"]
        start, later = 2 * known["start_clip"], 0.0
    else:
        expansion, shift, added = known["expansion"], known["shift"], known["training_steps"]
        start, later = 0.0, known["steps"]
    grown = start * expansion**added + shift * math.fsum(expansion**power for power in range(int(added)))
    ended: float = min(grown, 2 * known.get("radius", math.inf)) * expansion**later
    return ended


def noisy_fine_tuning_bound(
    start_clip: float, gradient_clip: float, learning_rate: float, decay: float, steps: int, rounding: float = 0.0
) -> Bound:
    """Noisy fine-tuning with clipped gradients: D₀ = 2C₀, ρ = 1 − ηλ, s = 2ηC₁ in every step.

    Nothing is assumed of the loss or of training: two clipped gradients differ by at most 2C₁ wherever they are taken.
    For ηλ ≤ 1 the bound is attained, by two processes in one dimension that start at ±C₀ with gradients ∓C₁.

    Args:
        start_clip: C₀, the ball that the weights are projected onto first.
        gradient_clip: C₁, the norm that every batch's gradient is clipped to.
        learning_rate: η.
        decay: λ ≥ 0 of the weight decay.
        steps: N.
        rounding: What rounding may add to the distance of two starts, and to that of two steps.

    Raises:
        CduError: An argument outside its range.
    """
    expect_not_negative(rounding=rounding)
    expect_positive(start_clip=start_clip, gradient_clip=gradient_clip, learning_rate=learning_rate)
    expect_not_negative(decay=decay)
    expect_count(steps=steps)
    shift = 2 * learning_rate * gradient_clip
    expansion = abs(1 - learning_rate * decay)
    value = amplified_distance([shift] * steps, expansion, 2 * start_clip)
    rounded = amplified_distance([shift + rounding] * steps, expansion, 2 * start_clip + rounding)
    return Bound(
        value=value,
        rounding=rounded - value,
        name="amplification by iteration, clipped",
        constants={
            "start_clip": start_clip,
            "gradient_clip": gradient_clip,
            "learning_rate": learning_rate,
            "decay": decay,
            "steps": steps,
        },
        fixed_in_advance=True,
        assumptions=(
            "the weights are projected onto the ball of radius C₀ before the first step",
            "the gradient of every batch is clipped to the norm C₁, and no batch holds a forgotten sample",
            "C₀, C₁, learning rate, decay and the number of steps were fixed before the data were seen",
            _LAST_ITERATE,
            _FRESH_STEPS,
        ),
        reference=(
            "the same noisy fine-tuning on the retained set, started from the projection of a model trained on the "
            "retained set alone"
        ),
        covers="the weights after the last noisy step, whatever loss, network and training were; σ is that of one step",
    )


def langevin_bound(
    shift: float,
    expansion: float,
    training_steps: int,
    steps: int,
    radius: float = math.inf,
    rounding: float = 0.0,
) -> Bound:
    """Noisy descent on D, then on D_r: D₀ = 0, s in each of the T steps of training and 0 in the K of unlearning.

    Training can be forgotten altogether: what was projected onto the ball of radius C lies within 2C of anything else
    in it. The smaller of the two counts: 2C at the end of training, or what training has added up.

    Args:
        shift: s ≥ 0, how far the two maps of one training step lie apart at most; 2ηGn_u/n for gradients of norm G.
        expansion: ρ of every step; 1 − η·l2 for an l2-strongly convex loss and η ≤ 2/(L + l2).
        training_steps: T.
        steps: K ≥ 0.
        radius: C, the ball that every iterate is projected onto; infinite where none is.
        rounding: What rounding may add to the distance of two steps.

    Raises:
        CduError: An argument outside its range.
    """
    expect_count(training_steps=training_steps)
    expect(isinstance(steps, int) and steps >= 0, f"steps = {steps} is not a whole number of at least 0")
    expect(radius > 0, f"radius = {radius} is not positive")
    expect_not_negative(rounding=rounding)

    def distance(added: float) -> float:
        through = amplified_distance([shift + added] * training_steps + [added] * steps, expansion)
        if steps == 0 or radius == math.inf:
            return through
        return min(through, amplified_distance([added] * steps, expansion, 2 * radius + added))

    value = distance(0.0)
    return Bound(
        value=value,
        rounding=distance(rounding) - value,
        name="amplification by iteration, Langevin",
        constants={
            "shift": shift,
            "expansion": expansion,
            "training_steps": training_steps,
            "steps": steps,
            **({"radius": radius} if radius < math.inf else {}),
        },
        fixed_in_advance=True,
        assumptions=(
            "training was noisy gradient descent on all samples at once, from a start that does not depend on the data",
            "a gradient step on any data set enlarges distances by ρ at most; with and without the forgotten samples "
            "it leads to points at most s apart",
            "the inputs' norm, l2, learning rate and numbers of steps were fixed before the data were seen; the sizes "
            "of training and forget set are no secret",
            _LAST_ITERATE,
            _FRESH_STEPS,
        ),
        reference="the same noisy descent on the retained set from the first step to the last, T + K in all",
        covers="the weights after the last step, of training by noisy descent alone; σ is that of one step",
    )
