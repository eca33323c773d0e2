"""Bounds on the distance to the retrained model: values, order, what they refuse."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cdu import certification
from cdu.errors import CduError

PRINTED = "printed, logarithm"
ROOT = "printed, square root"
DERIVED = "derived"

#: LiSSA's constants at which every form is defined: κ = 50/(9 − 0.1) and 2κ ln 4κ = 35.03.
LISSA = {
    "radius": 10,
    "gradient_lipschitz": 5,
    "hessian_lipschitz": 0.3,
    "damping": 9,
    "smallest_eigenvalue": -0.1,
    "gradient_norm": 0.2,
    "parameters": 1000,
    "repeats": 10,
    "depth": 36,
    "scale": 50,
    "failure": 1e-6,
    "form": DERIVED,
}


def lissa(**changes):
    return certification.lissa_bound(**{**LISSA, **changes})


positive = st.floats(1e-3, 1e3)
factors = st.floats(1.01, 10)


def test_two_points_of_the_ball():
    bound = certification.trivial_bound(20)
    assert bound.value == 40
    assert bound.name == "2C by projection"
    assert bound.kind == "certificate"
    assert bound.constants == {"radius": 20}


def test_without_projection_the_step_is_added_and_nothing_is_certified():
    bound = certification.unprojected_bound(10, 0.24)
    assert bound.value == pytest.approx(20.24)
    assert bound.kind == "indication"
    assert certification.unprojected_bound(10, 0).value == certification.trivial_bound(10).value


@pytest.mark.parametrize("radius", [1.0, 20.0])
@pytest.mark.parametrize("lipschitz", [0.0, 0.01, 3.0])
@pytest.mark.parametrize("smallest", [-0.5, 0.02, 2.0])
@pytest.mark.parametrize("damping", [1.0, 10.0, 1e4])
def test_theorem_beats_the_trivial_bound_exactly_when_mc_is_below_lambda_min(radius, lipschitz, smallest, damping):
    bound = certification.newton_bound(radius, lipschitz, damping, smallest)
    assert (bound.value < certification.trivial_bound(radius).value) == (lipschitz * radius < smallest)


def test_gradient_norm_enters_over_the_smallest_damped_eigenvalue():
    stationary, running = (
        certification.newton_bound(1, 0, 1, 1),
        certification.newton_bound(1, 0, 1, 1, gradient_norm=3),
    )
    assert running.value - stationary.value == pytest.approx(1.5)
    assert (stationary.name, running.name) == ("Theorem 3.4", "Theorem 3.4, not converged")
    assert any("stationary" in text for text in stationary.assumptions)
    assert any("≤ G" in text for text in running.assumptions)
    # What has not converged is compared with retraining by the same recipe, not with a point where the gradient is 0.
    assert "stationary point" in stationary.reference
    assert "by the same recipe" in running.reference


def test_the_theorem_is_exact_for_ridge_regression():
    assert certification.newton_bound(5, 0, 0, 0.1).value == 0


def test_the_theorem_holds_for_a_cubic_loss_in_one_dimension():
    # L(w) = l/2·(w − t)² + M/6·w³, whose Hessian l + M·w is M-Lipschitz: the retrained minimiser moves with t.
    radius, curvature, lipschitz = 1.0, 3.0, 0.5
    largest = 0.0
    for original in np.linspace(-1, 1, 21):
        for retrained in np.linspace(-1, 1, 21):
            t = retrained + lipschitz / 2 * retrained**2 / curvature
            gradient = curvature * (original - t) + lipschitz / 2 * original**2
            hessian = curvature + lipschitz * original
            for damping in (0.0, 0.5, 5.0):
                step = original - gradient / (hessian + damping)
                bound = certification.newton_bound(radius, lipschitz, damping, hessian).value
                assert abs(step - retrained) <= bound + 1e-12
                largest = max(largest, abs(step - retrained) / bound)
    assert largest > 0.5


@given(radius=positive, lipschitz=positive, damping=positive, smallest=positive, gradient=positive, factor=factors)
def test_the_theorem_moves_with_every_constant(radius, lipschitz, damping, smallest, gradient, factor):
    def value(r=radius, m=lipschitz, lam=damping, low=smallest, g=gradient):
        return certification.newton_bound(r, m, lam, low, g).value

    assert value(r=radius * factor) > value()
    assert value(m=lipschitz * factor) > value()
    assert value(g=gradient * factor) > value()
    assert value(low=smallest * factor) < value()
    # In λ it grows exactly where it is below 2C.
    beats_trivial = lipschitz * radius + gradient / (2 * radius) < smallest
    if abs(lipschitz * radius + gradient / (2 * radius) - smallest) > 1e-6 * smallest:
        assert (value(lam=damping * factor) > value()) == beats_trivial


def test_constants_known_in_advance_make_a_certificate():
    assert certification.newton_bound(1, 0, 1, 1).kind == "indication"
    assert certification.newton_bound(1, 0, 1, 1, fixed_in_advance=True).kind == "certificate"
    assert lissa().kind == "indication"
    assert lissa(fixed_in_advance=True).kind == "certificate"


@pytest.mark.parametrize("gradient_norm", [0.0, 0.2])
def test_lissa_terms_as_printed_and_as_derived(gradient_norm):
    newton = certification.newton_bound(10, 0.3, 9, -0.1, gradient_norm).value
    gradient = 2 * 5 * 10 + gradient_norm
    logarithm = 16 * math.sqrt(math.log(1000 / 1e-6) / 10) / 8.9
    root = 16 * math.sqrt(1000 / 1e-6) / math.sqrt(10) / 8.9
    expected = {
        PRINTED: newton + gradient * (logarithm + 1 / 16),
        ROOT: newton + gradient * (root + 1 / 16),
        DERIVED: newton + gradient * (logarithm + 1 / 800),
    }
    for form, value in expected.items():
        bound = lissa(gradient_norm=gradient_norm, form=form)
        assert bound.value == pytest.approx(value, rel=1e-12)
        assert bound.name == f"Theorem 3.4{', not converged' if gradient_norm else ''} with LiSSA ({form})"
        assert bound.failure == 1e-6
        assert any("every mini-batch" in text for text in bound.assumptions)
        assert not any("exactly" in text for text in bound.assumptions)


@given(factor=factors)
def test_lissa_moves_with_every_constant(factor):
    larger = [
        lissa(radius=10 * factor),
        lissa(gradient_lipschitz=5 * min(factor, 8)),
        lissa(hessian_lipschitz=0.3 * factor),
        lissa(gradient_norm=0.2 * factor),
        lissa(parameters=math.ceil(1000 * factor)),
        lissa(failure=1e-6 / factor),
    ]
    assert all(bound.value > lissa().value for bound in larger)
    smaller = [
        lissa(repeats=math.ceil(10 * factor)),
        lissa(smallest_eigenvalue=0.1 * factor),
        lissa(scale=50 * factor, depth=10_000),
    ]
    assert all(bound.value < lissa().value for bound in smaller)


def test_lissas_scale_may_be_just_the_damping_and_the_lipschitz_constant():
    # H_t + λI ≼ (λ + L)I is all that the theorem asks for: h = 9 + 5 is allowed and 16h divides the tail.
    newton = certification.newton_bound(10, 0.3, 9, -0.1, 0.2).value
    factor = 16 * math.sqrt(math.log(1000 / 1e-6) / 10) / 8.9 + 1 / (16 * 14)
    assert lissa(scale=14).value == pytest.approx(newton + (2 * 5 * 10 + 0.2) * factor, rel=1e-12)


def test_lissa_needs_a_depth_that_makes_its_tail_small():
    depth = certification.lissa_depth(50, 9, -0.1)
    assert depth == math.ceil(2 * (50 / 8.9) * math.log(4 * 50 / 8.9)) == 35
    lissa(depth=35)
    with pytest.raises(CduError, match=r"depth = 34 is too small .* κ = h/\(λ \+ λ_min\) = 5.618 it needs at least 35"):
        lissa(depth=34)


@given(condition=st.floats(1, 1e4))
def test_the_depth_leaves_a_sixteenth(condition):
    # ‖(I − (H + λI)/h)^s₂‖·κ, the part of the series that is cut off, times h.
    assert (1 - 1 / condition) ** certification.lissa_depth(condition, 0.5, 0.5) * condition <= 1 / 16


def test_residual_over_strong_convexity_bounds_the_distance_of_quadratics():
    rng = np.random.default_rng(0)
    for _ in range(50):
        basis = rng.normal(size=(4, 4))
        hessian = basis @ basis.T + 0.1 * np.eye(4)
        smallest = float(np.linalg.eigvalsh(hessian)[0])
        step, retrained = rng.normal(size=4), rng.normal(size=4) * 1e-2
        bound = certification.residual_bound(
            np.linalg.norm(hessian @ step), smallest, np.linalg.norm(hessian @ retrained)
        )
        assert np.linalg.norm(step - retrained) <= bound.value
    assert certification.residual_bound(2, 0.1, 1).value == pytest.approx(30)
    assert certification.residual_bound(2, 0.1).kind == "indication"
    assert "exact minimiser" in certification.residual_bound(2, 0.1).reference
    assert "ŵ" in certification.residual_bound(2, 0.1, 1).reference


@given(residual=positive, convexity=positive, other=positive, factor=factors)
def test_the_residual_bound_moves_with_every_argument(residual, convexity, other, factor):
    value = certification.residual_bound(residual, convexity, other).value
    assert certification.residual_bound(residual * factor, convexity, other).value > value
    assert certification.residual_bound(residual, convexity, other * factor).value > value
    assert certification.residual_bound(residual, convexity * factor, other).value < value


def test_a_budget_is_fixed_in_advance():
    bound = certification.budget_bound(1e-3)
    assert (bound.value, bound.kind) == (1e-3, "certificate")
    assert "exact minimiser" in bound.reference
    assert any("retraining replaces it" in text for text in bound.assumptions)


@pytest.mark.parametrize("length", [1e-320, 1e-151, 1e151, 1e308])
def test_lengths_whose_square_is_no_number_are_refused(length):
    for bound in (
        certification.trivial_bound,
        certification.budget_bound,
        lambda radius: certification.unprojected_bound(radius, 1.0),
    ):
        with pytest.raises(CduError, match="beyond which its square is no double precision number; measure weights in"):
            bound(length)
    for within in (1e-150, 1e150):
        sigma = certification.required_sigma(certification.trivial_bound(within), 1.0, 1e-5)
        assert certification.certify(certification.trivial_bound(within), sigma, 1e-5).epsilon <= 1.0


def test_a_sequence_is_as_good_as_its_worst_step():
    steps = [certification.newton_bound(1, m, 1, 1, fixed_in_advance=True) for m in (0.1, 0.7, 0.3)]
    bound = certification.sequential_bound(steps)
    assert bound.value == steps[1].value
    assert bound.constants == steps[1].constants
    assert bound.requests == 3
    assert bound.name == "Theorem 3.4, the largest of 3 requests"
    assert bound.kind == "certificate"
    assert any("every iterate is projected" in text for text in bound.assumptions)
    assert len(set(bound.assumptions)) == len(bound.assumptions)
    assert certification.sequential_bound([*steps, certification.newton_bound(1, 0, 1, 1)]).kind == "indication"
    assert certification.sequential_bound([bound, bound]).requests == 6


def test_a_budget_needs_no_ball_between_the_requests():
    bound = certification.sequential_bound([certification.budget_bound(0.1)] * 2)
    assert bound.value == 0.1
    assert not any("ball" in text for text in bound.assumptions)
    # One step whose proof needs the ball is enough to ask for the projection.
    mixed = certification.sequential_bound(
        [certification.budget_bound(0.1), certification.newton_bound(1, 0, 1, 1, fixed_in_advance=True)]
    )
    assert any("every iterate is projected onto the ball" in text for text in mixed.assumptions)


def test_failures_of_a_sequence_add_up():
    assert (
        certification.sequential_bound(
            [lissa(failure=1e-6), certification.trivial_bound(10), lissa(failure=2e-6)]
        ).failure
        == 3e-6
    )
    with pytest.raises(CduError, match="of 2 requests add up to 1, which is not below 1"):
        certification.sequential_bound([lissa(failure=0.5)] * 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: certification.trivial_bound(-2), "radius = -2 is not a positive finite number"),
        (lambda: certification.unprojected_bound(0, 1), "radius = 0"),
        (lambda: certification.unprojected_bound(1, -1), "step_norm = -1 is not a finite number of at least 0"),
        (lambda: certification.newton_bound(0, 1, 1, 1), "radius = 0 is not a positive finite number"),
        (lambda: certification.newton_bound(10, 1, 0.01, -0.1), r"λ \+ λ_min = -0.09; choose λ > 0.1"),
        (lambda: certification.newton_bound(10, 1, 0, 0), r"λ \+ λ_min = 0; choose λ > 0$"),
        (lambda: certification.newton_bound(10, 1, -1, 2), "damping = -1 is not a finite number of at least 0"),
        (lambda: certification.newton_bound(10, -1, 1, 1), "hessian_lipschitz = -1 is negative; M is at least 0"),
        (lambda: certification.newton_bound(10, math.inf, 1, 1), "hessian_lipschitz = inf is not a finite number"),
        (lambda: certification.newton_bound(10, 1, 1, 1, -1), "gradient_norm = -1 is negative; G is at least 0"),
        (lambda: certification.newton_bound(10, 1, 1, math.inf), "smallest_eigenvalue = inf is not a finite number"),
        (lambda: certification.newton_bound(10, 1, 1, math.nan), "positive definite"),
        (lambda: lissa(gradient_lipschitz=-1), "gradient_lipschitz = -1"),
        (lambda: lissa(scale=13.9), r"scale = 13.9 is below damping \+ gradient_lipschitz = 9 \+ 5"),
        (lambda: lissa(failure=0), "failure = 0 is not between 0 and 1"),
        (lambda: lissa(failure=1), "failure = 1 is not between 0 and 1"),
        (lambda: lissa(form="typeset"), "form = 'typeset' is unknown; choose one of 'printed, logarithm', 'printed, s"),
        (lambda: lissa(repeats=0), "repeats = 0 is not a whole number of at least 1"),
        (lambda: lissa(parameters=0), "parameters = 0"),
        (lambda: lissa(depth=1.5), "depth = 1.5"),
        (lambda: lissa(damping=0.01), "positive definite"),
        (lambda: certification.lissa_depth(1, 1, 1), r"scale = 1 is below λ \+ λ_min = 2"),
        (lambda: certification.lissa_depth(0, 1, 1), "scale = 0 is not a positive finite number"),
        (lambda: certification.lissa_depth(math.inf, 1, 1), "scale = inf is not a positive finite number"),
        (lambda: certification.lissa_depth(5, -1, 2), "damping = -1 is not a finite number of at least 0"),
        (lambda: certification.residual_bound(-1, 1), "residual_norm = -1"),
        (lambda: certification.residual_bound(1, 0), "strong_convexity = 0 is not a positive"),
        (lambda: certification.residual_bound(1, 1, math.inf), "retrained_residual_norm = inf"),
        (lambda: certification.budget_bound(0), "budget = 0 is not a positive"),
        (lambda: certification.sequential_bound([]), "0 steps; give one bound for each request"),
    ],
)
def test_arguments_outside_the_assumptions_are_refused(call, message):
    with pytest.raises(CduError, match=message):
        call()


@given(value=st.floats(0, 1e300), rounding=st.floats(0, 1e300))
def test_noise_must_hide_the_exact_sum_of_distance_and_rounding(value, rounding):
    bound = certification.budget_bound(1).model_copy(update={"value": value, "rounding": rounding})
    exact = Fraction(value) + Fraction(rounding)
    assert exact <= Fraction(bound.sensitivity) <= exact * (1 + Fraction(2) ** -51) + Fraction(2) ** -1073


@pytest.mark.parametrize(
    "bound",
    [
        certification.trivial_bound(3),
        lissa(),
        certification.sequential_bound([lissa(), certification.trivial_bound(1)]),
    ],
)
def test_a_bound_survives_json_and_cannot_be_changed(bound):
    assert certification.Bound.model_validate_json(bound.model_dump_json()) == bound
    with pytest.raises(ValidationError):
        bound.value = 0.0
