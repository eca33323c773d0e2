"""What DP-SGD promises to a group: against closed forms, dp-accounting, and the general bound for groups."""

import math

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_mixture_gaussian_mechanism
from scipy.stats import binom, norm

from cdu.certification.gaussian import gaussian_epsilon
from cdu.errors import CduError
from cdu.models.group_privacy import GroupLoss, group_epsilon

DELTA = 1e-5


@pytest.mark.parametrize(("size", "sigma"), [(1, 1.0), (3, 4.0)])
def test_one_step_on_all_rows_is_the_gaussian_mechanism(size, sigma):
    # The bound includes the error of 0.01 that it allows for.
    exact = gaussian_epsilon(sigma, DELTA, size)
    assert exact < group_epsilon(sigma, 1.0, 1, size, DELTA) < exact + 0.013


def test_steps_on_all_rows_are_one_step_with_less_noise():
    assert group_epsilon(6.0, 1.0, 9, 2, DELTA) == pytest.approx(group_epsilon(2.0, 1.0, 1, 2, DELTA), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_dp_accounting_agrees(size):
    """Slow: dp-accounting takes seconds for one group."""
    sigma, rate, steps = 3.0, 0.1, 100
    counts = np.arange(size + 1.0)
    probabilities = binom.pmf(counts, size, rate)
    theirs = from_mixture_gaussian_mechanism(
        sigma, counts.tolist(), probabilities.tolist(), value_discretization_interval=2e-3
    )
    expected = theirs.self_compose(steps).get_epsilon_for_delta(DELTA)
    # Ours adds the error of 0.01 that it allows for.
    assert group_epsilon(sigma, rate, steps, size, DELTA) == pytest.approx(expected + 0.01, abs=3e-3)


@pytest.mark.parametrize("removed", [True, False])
def test_the_distribution_of_the_loss(removed):
    """Against the loss of a hundred thousand outputs drawn from the mechanism itself."""
    sigma, rate, size = 0.8, 0.3, 4
    rng = np.random.default_rng(0)
    taken = rng.binomial(size, rate, 100_000) if removed else np.zeros(100_000)
    outputs = taken + sigma * rng.standard_normal(100_000)
    mixture = sum(binom.pmf(j, size, rate) * norm.pdf(outputs, j, sigma) for j in range(size + 1))
    losses = np.log(mixture / norm.pdf(outputs, 0, sigma)) * (1 if removed else -1)
    for t in (-1.5, -1.0, -0.5, 0.0, 1.0, 3.0):
        assert GroupLoss(sigma, rate, size, removed).cdf(t) == pytest.approx((losses <= t).mean(), abs=6e-3)


@pytest.mark.parametrize(("rate", "size", "order"), [(0.2, 1, 2), (0.2, 3, 2), (0.05, 5, 3)])
def test_the_divergence_is_a_binomial_sum_for_whole_orders(rate, size, order):
    """E_Q (P/Q)^α is a mean of exp(Σ_{a<b} j_a j_b/σ²) over α independent draws of how many are taken."""
    sigma = 1.5
    counts = np.arange(size + 1)
    weights = binom.pmf(counts, size, rate)
    total = 0.0
    for chosen in np.ndindex(*[size + 1] * order):
        cross = (sum(chosen) ** 2 - sum(j * j for j in chosen)) / 2
        total += math.prod(weights[j] for j in chosen) * math.exp(cross / sigma**2)
    assert GroupLoss(sigma, rate, size).divergence(order) == pytest.approx(math.log(total) / (order - 1), rel=1e-9)


def test_the_bound_by_divergences_is_above_the_composed_loss():
    bound = max(GroupLoss(2.0, 0.05, 2, removed).rdp_epsilon(200, DELTA) for removed in (True, False))
    assert 0.8 * bound < group_epsilon(2.0, 0.05, 200, 2, DELTA) < bound


def test_a_group_gets_less_than_the_general_bound_takes():
    """(ε, δ) for one gives (kε, δ (e^{kε} − 1)/(e^ε − 1)) for k, whatever the mechanism (Vadhan 2017, lemma 2.2)."""
    sigma, rate, steps, size, small = 4.0, 0.1, 50, 3, 1e-7
    one = group_epsilon(sigma, rate, steps, 1, small)
    assert small * math.expm1(size * one) / math.expm1(one) <= DELTA
    assert group_epsilon(sigma, rate, steps, size, DELTA) < size * one


def test_a_vacuous_promise_is_a_number_too():
    assert 50 < group_epsilon(1.5, 0.02, 2000, 100, DELTA) < math.inf


def test_unusable_arguments():
    with pytest.raises(CduError, match="sampling_rate = 2 is a probability"):
        group_epsilon(1.0, 2, 1, 1, DELTA)
    with pytest.raises(CduError, match="size = 0"):
        group_epsilon(1.0, 0.5, 1, 0, DELTA)
    with pytest.raises(CduError, match=r"delta = 1\.0"):
        group_epsilon(1.0, 0.5, 1, 1, 1.0)
