"""The Gaussian mechanism against its closed form in many digits and against dp-accounting."""

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from dp_accounting import dp_event, get_sigma_gaussian
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st

from cdu import certification
from cdu.errors import CduError

EPSILONS = [0, 1e-12, 1e-6, 1e-3, 0.017, 0.3, 1, 3.7, 25, 1e3, 4.2e4, 1e6, 3e7, 1e9]
DELTAS = [1e-15, 3e-13, 1e-10, 1e-5, 1e-2, 0.1, 0.5]

epsilons = st.floats(1e-3, 1e9)
deltas = st.floats(1e-15, 0.5)
sensitivities = st.floats(1e-2, 1e3)
factors = st.floats(1.01, 10)


def exact_delta(epsilon, sigma, sensitivity):
    """Balle & Wang's closed form in 60 digits, of exactly these doubles."""
    with mpmath.workdps(60):
        mu = mpmath.mpf(sensitivity) / mpmath.mpf(sigma)
        e = mpmath.mpf(epsilon)
        return mpmath.ncdf(mu / 2 - e / mu) - mpmath.exp(e) * mpmath.ncdf(-mu / 2 - e / mu)


def accuracy(epsilon):
    """Relative accuracy asked for: at ε = 1e9 one rounding of μ = 4.5e4 moves δ by 1e-11 already."""
    return 1e-9 if epsilon <= 1e3 else 1e-6


@pytest.mark.parametrize("epsilon", [0, 0.01, 0.5, 1, 10, 100])
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1, 5])
def test_delta_equals_the_closed_form_in_many_digits(epsilon, sigma):
    expected = float(exact_delta(epsilon, sigma, 1.0))
    assert certification.gaussian_delta(epsilon, sigma, 1.0) == pytest.approx(expected, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("delta", DELTAS)
def test_sigma_is_never_too_small_and_hardly_too_large(epsilon, delta):
    sigma = certification.gaussian_sigma(epsilon, delta, 40.0)
    assert exact_delta(epsilon, sigma, 40.0) <= delta
    assert exact_delta(epsilon, sigma * (1 - 1e-11), 40.0) > delta
    # A millionth more or less noise: δ must be right away from the solution too.
    for near in (sigma, sigma * (1 - 1e-6), sigma * (1 + 1e-6), sigma * 1.01):
        expected = float(exact_delta(epsilon, near, 40.0))
        assert certification.gaussian_delta(epsilon, near, 40.0) == pytest.approx(
            expected, rel=accuracy(epsilon), abs=1e-300
        )


@pytest.mark.parametrize("epsilon", [e for e in EPSILONS if e >= 1e-3])
@pytest.mark.parametrize("delta", DELTAS)
def test_epsilon_is_never_too_small_and_hardly_too_large(epsilon, delta):
    # Noise from somewhere else than gaussian_sigma: the sixth digit is cut off.
    sigma = float(f"{certification.gaussian_sigma(epsilon, delta, 1.0) * (1 - 1e-5):.6g}")
    certified = certification.gaussian_epsilon(sigma, delta, 1.0)
    assert exact_delta(certified, sigma, 1.0) <= delta
    assert exact_delta(certified * (1 - accuracy(epsilon)), sigma, 1.0) > delta


@pytest.mark.parametrize("sigma", [1e-14, 1e-17, 1e-20, 1e-100])
@pytest.mark.parametrize("delta", [1e-15, 1e-5, 0.9])
def test_epsilon_is_found_where_the_first_guess_is_lost_in_rounding(sigma, delta):
    # μ²/2 + μ·√(2 ln(1/δ)) is enough, but its second term is below the last digit of the first.
    certified = certification.gaussian_epsilon(sigma, delta, 1.0)
    assert exact_delta(certified, sigma, 1.0) <= delta < exact_delta(certified * (1 - 1e-12), sigma, 1.0)


def test_sigma_and_epsilon_are_never_too_small_in_the_last_digit():
    rng = np.random.default_rng(0)
    epsilons = 10 ** rng.uniform(-6, 9, 600)
    deltas = np.concatenate([10 ** rng.uniform(-15, -0.3, 300), 1 - 10 ** rng.uniform(-9, -0.3, 300)])
    for epsilon, delta in zip(epsilons.tolist(), deltas.tolist(), strict=True):
        sigma = certification.gaussian_sigma(epsilon, delta, 1.0)
        assert exact_delta(epsilon, sigma, 1.0) <= delta
        assert exact_delta(certification.gaussian_epsilon(sigma, delta, 1.0), sigma, 1.0) <= delta


@pytest.mark.parametrize("delta", [1e-250, 1e-100, 1e-15, 0.5, 0.9, 1 - 1e-9])
def test_total_variation_alone_is_handled_in_both_directions(delta):
    sigma = certification.gaussian_sigma(0, delta, 1.0)
    assert exact_delta(0, sigma, 1.0) <= delta
    # (0, δ) is erf(μ/√8) = δ.
    with mpmath.workdps(30):
        assert sigma == pytest.approx(float(1 / (mpmath.sqrt(8) * mpmath.erfinv(mpmath.mpf(delta)))), rel=1e-6)
    assert certification.gaussian_epsilon(sigma, delta, 1.0) == 0
    assert certification.gaussian_epsilon(sigma * (1 - 1e-6), delta, 1.0) > 0


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1, 10, 100, 1000])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-10])
def test_sigma_agrees_with_dp_accounting(epsilon, delta):
    assert certification.gaussian_sigma(epsilon, delta, 1.0) == pytest.approx(
        get_sigma_gaussian(epsilon, delta), rel=1e-6
    )


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_epsilon_agrees_with_the_privacy_loss_accountant(sigma):
    accountant = PLDAccountant().compose(dp_event.GaussianDpEvent(sigma))
    assert certification.gaussian_epsilon(sigma, 1e-5, 1.0) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)


def test_known_values():
    # The sensitivity 40 of C = 20: figures that a critical reader will recompute.
    assert certification.gaussian_sigma(1, 1e-5, 40) == pytest.approx(149, abs=0.5)
    assert certification.gaussian_sigma(1000, 1e-5, 40) == pytest.approx(0.98, abs=0.005)
    assert certification.gaussian_epsilon(0.001, 1e-5, 40) == pytest.approx(8e8, rel=0.01)


@given(epsilon=epsilons, delta=deltas, sensitivity=sensitivities)
def test_sigma_epsilon_and_delta_are_inverse(epsilon, delta, sensitivity):
    sigma = certification.gaussian_sigma(epsilon, delta, sensitivity)
    assert certification.gaussian_epsilon(sigma, delta, sensitivity) == pytest.approx(epsilon, rel=1e-9)
    assert certification.gaussian_delta(epsilon, sigma, sensitivity) == pytest.approx(delta, rel=accuracy(epsilon))
    assert certification.gaussian_delta(epsilon, sigma, sensitivity) <= delta


@given(epsilon=epsilons, sigma=st.floats(0.05, 50))
def test_delta_and_back(epsilon, sigma):
    delta = certification.gaussian_delta(epsilon, sigma, 1.0)
    if 1e-15 <= delta <= 0.5:
        assert certification.gaussian_sigma(epsilon, delta, 1.0) == pytest.approx(sigma, rel=1e-9)
        assert certification.gaussian_epsilon(sigma, delta, 1.0) == pytest.approx(epsilon, rel=1e-9)


@given(epsilon=epsilons, delta=deltas, sensitivity=sensitivities, factor=factors)
def test_more_privacy_or_distance_needs_more_noise(epsilon, delta, sensitivity, factor):
    sigma = certification.gaussian_sigma(epsilon, delta, sensitivity)
    assert certification.gaussian_sigma(epsilon / factor, delta, sensitivity) > sigma
    assert certification.gaussian_sigma(epsilon, delta / factor, sensitivity) > sigma
    assert certification.gaussian_sigma(epsilon, delta, sensitivity * factor) == pytest.approx(
        factor * sigma, rel=1e-12
    )


@given(sigma=st.floats(1e-3, 10), delta=deltas, sensitivity=st.floats(0.5, 1e2), factor=factors)
def test_epsilon_falls_with_noise_and_delta_and_grows_with_distance(sigma, delta, sensitivity, factor):
    epsilon = certification.gaussian_epsilon(sigma, delta, sensitivity)
    less = [
        certification.gaussian_epsilon(sigma * factor, delta, sensitivity),
        certification.gaussian_epsilon(sigma, min(delta * factor, 0.99), sensitivity),
        certification.gaussian_epsilon(sigma, delta, sensitivity / factor),
    ]
    assert all(value < epsilon or value == epsilon == 0 for value in less)


@given(epsilon=st.floats(0, 1e3), mu=st.floats(0.02, 50), factor=factors)
def test_delta_falls_with_epsilon_and_noise_and_grows_with_distance(epsilon, mu, factor):
    delta = certification.gaussian_delta(epsilon, 1.0, mu)
    if 1e-280 < delta < 0.999:
        assert certification.gaussian_delta(epsilon * factor + 0.01, 1.0, mu) < delta
        assert certification.gaussian_delta(epsilon, factor, mu) < delta
        assert certification.gaussian_delta(epsilon, 1.0, mu * factor) > delta


@given(delta=st.floats(1e-10, 1e-2), sensitivity=sensitivities, epsilon=st.floats(1e-3, 1))
def test_the_classical_formula_suffices_up_to_one(epsilon, delta, sensitivity):
    sigma = certification.classical_sigma(epsilon, delta, sensitivity)
    assert sigma >= certification.gaussian_sigma(epsilon, delta, sensitivity)
    assert certification.classical_epsilon(sigma, delta, sensitivity) == pytest.approx(epsilon)


def test_the_classical_formula_is_too_small_for_large_epsilon():
    assert certification.classical_sigma(8, 1e-5, 1) > certification.gaussian_sigma(8, 1e-5, 1)
    assert certification.classical_sigma(10, 1e-5, 1) < certification.gaussian_sigma(10, 1e-5, 1)


def test_enough_noise_gives_epsilon_zero():
    assert certification.gaussian_epsilon(1e6, 1e-3, 1.0) == 0.0
    assert certification.gaussian_epsilon(1e200, 1e-15, 1.0) == 0.0


@pytest.mark.parametrize(("sigma", "releases"), [(2.0, 4), (5.0, 30), (10.0, 10)])
def test_composition_agrees_with_dp_accounting(sigma, releases):
    event = dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(sigma), releases)
    composed = certification.gaussian_epsilon(sigma, 1e-5, certification.composed_sensitivity(1.0, releases))
    assert composed == pytest.approx(PLDAccountant().compose(event).get_epsilon(1e-5), rel=1e-3)
    # RDP, and adding up guarantees, are valid but looser.
    assert (
        composed
        < RdpAccountant().compose(event).get_epsilon(1e-5)
        < certification.naive_epsilon(sigma, 1e-5, 1.0, releases)
    )


@given(sigma=st.floats(0.05, 20), delta=st.floats(1e-12, 1e-2))
def test_composed_releases_cost_more_than_one_and_less_than_their_sum(sigma, delta):
    counts = (1, 2, 5, 20)
    together = [
        certification.gaussian_epsilon(sigma, delta, certification.composed_sensitivity(1.0, k)) for k in counts
    ]
    assert all(a < b or a == b == 0 for a, b in pairwise(together))
    naive = [certification.naive_epsilon(sigma, delta, 1.0, k) for k in counts]
    assert naive[0] == together[0]
    assert all(a < b or b == 0 for a, b in zip(together[1:], naive[1:], strict=True))


@pytest.mark.parametrize("releases", [1, 2, 7])
def test_guarantees_that_are_added_up_share_delta(releases):
    found = certification.naive_epsilon(1.5, 1e-5, 1.0, releases)
    assert float(exact_delta(found / releases, 1.5, 1.0)) == pytest.approx(1e-5 / releases, rel=1e-9)


def test_composition_is_the_root_of_the_number_of_releases():
    assert certification.composed_sensitivity(3.0, 1) == 3
    assert certification.composed_sensitivity(3.0, 100) == 30


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: certification.gaussian_sigma(1, 0, 1), "delta = 0 is not between 0 and 1"),
        (lambda: certification.gaussian_sigma(1, 1e-310, 1), "delta = 1e-310 is below what double precision resolves"),
        (lambda: certification.gaussian_sigma(-1, 1e-5, 1), "epsilon = -1"),
        (lambda: certification.gaussian_sigma(math.inf, 1e-5, 1), "epsilon = inf"),
        (lambda: certification.gaussian_sigma(0, 1e-200, 1e200), "no noise within double precision"),
        (lambda: certification.gaussian_epsilon(0, 1e-5, 1), "sigma = 0 is not a positive"),
        (
            lambda: certification.gaussian_epsilon(1e-200, 1e-5, 1),
            "sensitivity/sigma = 1/1e-200 is beyond double precision",
        ),
        (lambda: certification.gaussian_delta(1, 1, math.inf), "sensitivity = inf"),
        (lambda: certification.gaussian_delta(math.nan, 1, 1), "epsilon = nan"),
        (lambda: certification.classical_sigma(0, 1e-5, 1), "epsilon = 0 is not a positive"),
        (lambda: certification.classical_sigma(1, 1, 1), "delta = 1 is not between"),
        (lambda: certification.classical_epsilon(1, 1, 1), "delta = 1 is not between"),
        (lambda: certification.classical_epsilon(0, 1e-5, 1), "sigma = 0 is not a positive"),
        (lambda: certification.gaussian_epsilon(1, 1, 1), "delta = 1 is not between"),
        (lambda: certification.gaussian_sigma(1, 1e-5, 0), "sensitivity = 0 is not a positive"),
        (lambda: certification.composed_sensitivity(-1.0, 3), "sensitivity = -1.0 is not a positive"),
        (lambda: certification.composed_sensitivity(1.0, 0), "releases = 0 is not a whole number of at least 1"),
        (lambda: certification.composed_sensitivity(1.0, 2.5), "releases = 2.5 is not a whole number"),
        (lambda: certification.naive_epsilon(1, 1e-5, 1, -3), "releases = -3"),
        (lambda: certification.naive_epsilon(1, 1.5, 1, 3), "delta = 1.5 is not between"),
    ],
)
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(CduError, match=message):
        call()
