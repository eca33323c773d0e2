import math

import mpmath
import pytest
from dp_accounting import dp_event, get_sigma_gaussian
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st

from cdu import certification as c
from cdu.errors import CduError

epsilons = st.floats(1e-3, 1e6)
deltas = st.floats(1e-12, 0.4)
sensitivities = st.floats(1e-2, 1e3)


def exact_delta(epsilon, sigma, sensitivity):
    """Balle & Wang's closed form in 400 digits."""
    with mpmath.workdps(400):
        mu = mpmath.mpf(sensitivity) / mpmath.mpf(sigma)
        e = mpmath.mpf(epsilon)
        return float(mpmath.ncdf(mu / 2 - e / mu) - mpmath.exp(e) * mpmath.ncdf(-mu / 2 - e / mu))


@pytest.mark.parametrize("epsilon", [0, 0.01, 0.5, 1, 10, 100])
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1, 5])
def test_delta_equals_the_closed_form_in_many_digits(epsilon, sigma):
    expected = exact_delta(epsilon, sigma, 1.0)
    assert c.gaussian_delta(epsilon, sigma, 1.0) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1, 10, 100, 1000])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-10])
def test_sigma_agrees_with_dp_accounting(epsilon, delta):
    assert c.gaussian_sigma(epsilon, delta, 1.0) == pytest.approx(get_sigma_gaussian(epsilon, delta), rel=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_epsilon_agrees_with_the_privacy_loss_accountant(sigma):
    accountant = PLDAccountant().compose(dp_event.GaussianDpEvent(sigma))
    assert c.gaussian_epsilon(sigma, 1e-5, 1.0) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)


def test_known_values():
    # The sensitivity 40 of C = 20: figures that a critical reader will recompute.
    assert c.gaussian_sigma(1, 1e-5, 40) == pytest.approx(149, abs=0.5)
    assert c.gaussian_sigma(1000, 1e-5, 40) == pytest.approx(0.98, abs=0.005)
    assert c.gaussian_epsilon(0.001, 1e-5, 40) == pytest.approx(8e8, rel=0.01)


@given(epsilon=epsilons, delta=deltas, sensitivity=sensitivities)
def test_sigma_and_epsilon_are_inverse(epsilon, delta, sensitivity):
    sigma = c.gaussian_sigma(epsilon, delta, sensitivity)
    assert c.gaussian_epsilon(sigma, delta, sensitivity) == pytest.approx(epsilon, rel=1e-6)
    assert c.gaussian_delta(epsilon, sigma, sensitivity) == pytest.approx(delta, rel=1e-6)


@given(epsilon=epsilons, delta=deltas, sensitivity=sensitivities, factor=st.floats(1.01, 10))
def test_more_privacy_or_distance_needs_more_noise(epsilon, delta, sensitivity, factor):
    sigma = c.gaussian_sigma(epsilon, delta, sensitivity)
    assert c.gaussian_sigma(epsilon / factor, delta, sensitivity) > sigma
    assert c.gaussian_sigma(epsilon, delta / factor, sensitivity) > sigma
    assert c.gaussian_sigma(epsilon, delta, sensitivity * factor) == pytest.approx(factor * sigma, rel=1e-9)


@given(delta=st.floats(1e-10, 1e-2), sensitivity=sensitivities, epsilon=st.floats(1e-3, 1))
def test_the_classical_formula_suffices_up_to_one(epsilon, delta, sensitivity):
    assert c.classical_sigma(epsilon, delta, sensitivity) >= c.gaussian_sigma(epsilon, delta, sensitivity)


def test_the_classical_formula_is_too_small_for_large_epsilon():
    assert c.classical_sigma(8, 1e-5, 1) > c.gaussian_sigma(8, 1e-5, 1)
    assert c.classical_sigma(10, 1e-5, 1) < c.gaussian_sigma(10, 1e-5, 1)


def test_enough_noise_gives_epsilon_zero():
    assert c.gaussian_epsilon(1e6, 1e-3, 1.0) == 0.0


@pytest.mark.parametrize("radius", [1.0, 20.0])
@pytest.mark.parametrize("lipschitz", [0.0, 0.01, 3.0])
@pytest.mark.parametrize("smallest", [-0.5, 0.02, 2.0])
@pytest.mark.parametrize("damping", [1.0, 10.0, 1e4])
def test_theorem_beats_the_trivial_bound_exactly_when_mc_is_below_lambda_min(radius, lipschitz, smallest, damping):
    bound = c.newton_bound(radius, lipschitz, damping, smallest)
    assert (bound < c.trivial_bound(radius)) == (lipschitz * radius < smallest)


def test_gradient_norm_enters_over_the_smallest_damped_eigenvalue():
    assert c.newton_bound(1, 0, 1, 1, gradient_norm=3) - c.newton_bound(1, 0, 1, 1) == pytest.approx(1.5)


def test_the_bound_refuses_an_indefinite_hessian():
    with pytest.raises(CduError, match=r"λ \+ λ_min = -0.09; choose λ > 0.1"):
        c.newton_bound(10, 1, 0.01, -0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: c.gaussian_sigma(1, 0, 1), "delta = 0 is not between 0 and 1"),
        (lambda: c.gaussian_sigma(-1, 1e-5, 1), "epsilon = -1"),
        (lambda: c.gaussian_epsilon(0, 1e-5, 1), "sigma = 0 is not a positive"),
        (lambda: c.gaussian_delta(1, 1, math.inf), "sensitivity = inf"),
        (lambda: c.trivial_bound(-2), "radius = -2"),
    ],
)
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(CduError, match=message):
        call()


def test_a_certificate_names_its_terms_and_survives_json():
    certificate = c.certify_by_projection(0.01, 1e-5, 10)
    assert certificate.worth == "vacuous"
    assert c.Certificate.model_validate_json(certificate.model_dump_json()) == certificate
    text = str(certificate)
    for part in ("reference: retraining", "BatchNorm's running statistics", "2C by projection", "vacuous"):
        assert part in text
    assert c.certify_by_projection(c.gaussian_sigma(1, 1e-5, 20), 1e-5, 10).epsilon == pytest.approx(1)
    assert c.certify_by_projection(1000, 1e-5, 10).worth == "meaningful"
