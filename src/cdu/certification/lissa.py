"""Theorem 3.4 where LiSSA solves the system: its error is added, with a probability that it fails."""

import math
from typing import Literal

from cdu.certification.bounds import EXACT_SOLVE, Bound, newton_bound, smallest_damped_eigenvalue
from cdu.checks import expect, expect_count, expect_not_negative, expect_positive

#: The LiSSA term as later work prints it, as the code of that work has it, and as LiSSA's own theorem gives it.
LissaForm = Literal["printed, logarithm", "printed, square root", "derived"]


def lissa_depth(scale: float, damping: float, smallest_eigenvalue: float) -> int:
    """The depth s₂ from which LiSSA's bound applies: 2κ ln 4κ, rounded up, with κ = h/(λ + λ_min).

    LiSSA's theorem (Agarwal, Bullins & Hazan 2017) asks for 2κ ln 2κ, whose usual estimate κ·e^{−s₂/κ} of what is cut
    off is at most 1/16 from κ = 4 on only; with 2κ ln 4κ it is for every κ ≥ 1.

    Args:
        scale: h ≥ ‖H_t + λI‖.
        damping: λ.
        smallest_eigenvalue: λ_min.

    Raises:
        CduError: λ + λ_min ≤ 0, or h is below it.
    """
    expect_positive(scale=scale)
    expect_not_negative(damping=damping)
    smallest_damped = smallest_damped_eigenvalue(damping, smallest_eigenvalue)
    expect(
        scale >= smallest_damped,
        f"scale = {scale:g} is below λ + λ_min = {smallest_damped:.4g}, an eigenvalue of what it must bound; raise it",
    )
    condition = scale / smallest_damped
    return math.ceil(2 * condition * math.log(4 * condition))


def lissa_bound(
    radius: float,
    gradient_lipschitz: float,
    hessian_lipschitz: float,
    damping: float,
    smallest_eigenvalue: float,
    gradient_norm: float,
    *,
    parameters: int,
    repeats: int,
    depth: int,
    scale: float,
    failure: float,
    form: LissaForm,
    fixed_in_advance: bool = False,
) -> Bound:
    """Theorem 3.4 plus LiSSA's error, with probability 1 − ρ: newton + (2LC + G)·(16·r/(λ + λ_min) + t).

    2LC + G bounds the gradient that LiSSA is applied to. The forms differ in r and t:

    - "printed, logarithm": r = √(ln(d/ρ)/s₁), t = 1/16, as later work (Mu & Klabjan 2025) prints the paper's bound;
    - "printed, square root": r = √((d/ρ)/s₁), t = 1/16, as the code of that work has it;
    - "derived": r = √(ln(d/ρ)/s₁), t = 1/(16h), which is what LiSSA's theorem (Agarwal, Bullins & Hazan 2017) gives
      when it is followed through the division by h, and if λ_min bounds every mini-batch's Hessian from below, as l2
      does for a convex loss. The spread of one draw depends on the worst batch: with the mean's λ_min the term is an
      indication.

    Args:
        radius: C.
        gradient_lipschitz: L, Lipschitz constant of the gradient of every mini-batch loss, at least 0.
        hessian_lipschitz: M.
        damping: λ.
        smallest_eigenvalue: λ_min, of the Hessian of every mini-batch loss where this is to be certified.
        gradient_norm: G; 0 for a stationary point.
        parameters: d, the number of weights.
        repeats: s₁.
        depth: s₂, at least :func:`lissa_depth`.
        scale: h ≥ λ + L.
        failure: ρ, between 0 and 1.
        form: Which of the three.
        fixed_in_advance: As for :func:`newton_bound`.

    Raises:
        CduError: h, s₂ or ρ outside what LiSSA's theorem needs, or what :func:`newton_bound` refuses.
    """
    newton = newton_bound(
        radius, hessian_lipschitz, damping, smallest_eigenvalue, gradient_norm, fixed_in_advance=fixed_in_advance
    )
    expect_not_negative(gradient_lipschitz=gradient_lipschitz)
    expect_count(parameters=parameters, repeats=repeats, depth=depth)
    expect_positive(scale=scale)
    expect(0 < failure < 1, f"failure = {failure} is not between 0 and 1; ρ is a probability, far below δ")
    expect(
        scale >= damping + gradient_lipschitz,
        f"scale = {scale:g} is below damping + gradient_lipschitz = {damping:g} + {gradient_lipschitz:g}; "
        "LiSSA's bound needs H_t + λI ≼ hI for every mini-batch, so raise the scale to their sum",
    )
    needed = lissa_depth(scale, damping, smallest_eigenvalue)
    expect(
        depth >= needed,
        f"depth = {depth} is too small for LiSSA's bound: with κ = h/(λ + λ_min) = "
        f"{scale / (damping + smallest_eigenvalue):.4g} it needs at least {needed}, 2κ ln 4κ",
    )
    spread, tail = _lissa_terms(form, parameters / failure, scale)
    factor = 16 * math.sqrt(spread / repeats) / (damping + smallest_eigenvalue) + tail
    return Bound(
        value=newton.value + (2 * gradient_lipschitz * radius + gradient_norm) * factor,
        name=f"{newton.name} with LiSSA ({form})",
        constants={
            **newton.constants,
            "gradient_lipschitz": gradient_lipschitz,
            "parameters": parameters,
            "repeats": repeats,
            "depth": depth,
            "scale": scale,
        },
        fixed_in_advance=fixed_in_advance,
        failure=failure,
        assumptions=(
            *(text for text in newton.assumptions if text != EXACT_SOLVE),
            "the gradient of every mini-batch loss is L-Lipschitz over the ball (no ReLU network's is)",
            "0 ≺ H_t + λI ≼ hI for every mini-batch that LiSSA draws, not only for their mean",
        ),
        reference=newton.reference,
        covers=newton.covers,
    )


def _lissa_terms(form: LissaForm, ratio: float, scale: float) -> tuple[float, float]:
    """The numerator under the root in r, and t; ``ratio`` is d/ρ."""
    terms = {
        "printed, logarithm": (math.log(ratio), 1 / 16),
        "printed, square root": (ratio, 1 / 16),
        "derived": (math.log(ratio), 1 / (16 * scale)),
    }
    expect(form in terms, f"form = '{form}' is unknown; choose one of {', '.join(map(repr, terms))}")
    return terms[form]
