"""Amplification by iteration, against other ways to solve its programme and processes for which it is exact."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import norm

from cdu.certification import Bound, certify, gaussian_sigma, required_sigma
from cdu.certification.amplification import amplified_distance, langevin_bound, noisy_fine_tuning_bound
from cdu.errors import CduError

expansions = st.floats(0.0, 2.0)
lengths = st.floats(0.0, 5.0)


def distances(shares, shifts, expansion, start):
    """z_1, …, z_N."""
    found, z = [], start
    for share, shift in zip(shares, shifts, strict=True):
        z = expansion * z + shift - share
        found.append(z)
    return np.array(found)


def by_windows(shifts, expansion, start):
    """The least √Σ a² by trying every choice of the steps after which z = 0."""
    count, best = len(shifts), math.inf
    for ends in itertools.product([False, True], repeat=count - 1):
        shares, first, z = [], 0, start
        for last in [*(step for step, end in enumerate(ends) if end), count - 1]:
            length = last + 1 - first
            powers = expansion ** np.arange(length - 1, -1, -1.0)
            reach = expansion**length * z + powers @ np.array(shifts[first : last + 1])
            shares += list(powers * reach / (powers @ powers))
            first, z = last + 1, 0.0
        path = distances(shares, shifts, expansion, start)
        if path.min() >= -1e-9 * max(1.0, start, *shifts):
            best = min(best, float(np.linalg.norm(shares)))
    return best


def least_square(shifts, expansion, start):
    """The least Σ a² in exact fractions: the best first window, then the best of what is left."""
    best = Fraction(0) if not shifts else None
    for count in range(1, len(shifts) + 1):
        powers = [expansion**power for power in range(count)][::-1]
        reach = powers[0] * expansion * start + sum(p * s for p, s in zip(powers, shifts[:count], strict=True))
        norm = sum(power**2 for power in powers)
        z, below = start, False
        for power, shift in zip(powers, shifts[:count], strict=True):
            z = expansion * z + shift - power * reach / norm
            below = below or z < 0
        rest = None if below else reach**2 / norm + least_square(shifts[count:], expansion, Fraction(0))
        best = rest if best is None else best if rest is None else min(best, rest)
    return best


def by_slsqp(shifts, expansion, start):
    """The least √Σ a² by sequential quadratic programming from a feasible point."""
    count = len(shifts)
    at_once = np.array([shift + (expansion * start if step == 0 else 0.0) for step, shift in enumerate(shifts)])
    found = minimize(
        lambda shares: shares @ shares,
        at_once,
        jac=lambda shares: 2 * shares,
        method="SLSQP",
        bounds=[(0, None)] * count,
        constraints=[
            {"type": "ineq", "fun": lambda shares: distances(shares, shifts, expansion, start)[:-1]},
            {"type": "eq", "fun": lambda shares: distances(shares, shifts, expansion, start)[-1:]},
        ][0 if count > 1 else 1 :],
        options={"ftol": 1e-12, "maxiter": 500},
    )
    # Its own verdict depends on the last digits; a run that went astray would not agree with ours.
    return math.sqrt(found.fun)


@settings(max_examples=150, deadline=None)
@given(st.lists(lengths, min_size=1, max_size=6), expansions, lengths)
def test_the_distance_is_the_least_over_all_choices_of_windows(shifts, expansion, start):
    expected = by_windows(shifts, expansion, start)
    assert amplified_distance(shifts, expansion, start) == pytest.approx(expected, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("seed", range(40))
def test_the_distance_is_rounded_up_and_by_next_to_nothing(seed):
    rng = np.random.default_rng(seed)
    shifts, start = rng.exponential(size=int(rng.integers(1, 7))).tolist(), float(rng.exponential())
    expansion = [1.0, 1 - 2.0**-53, float(rng.uniform(0, 1)), float(rng.uniform(1, 2))][seed % 4]
    exact = least_square([Fraction(shift) for shift in shifts], Fraction(expansion), Fraction(start))
    found = Fraction(amplified_distance(shifts, expansion, start)) ** 2
    assert exact <= found <= exact * (1 + (len(shifts) + 4) * Fraction(2) ** -48)


@pytest.mark.parametrize("seed", range(25))
def test_the_distance_solves_the_quadratic_programme(seed):
    rng = np.random.default_rng(seed)
    count, expansion = int(rng.integers(1, 12)), float(rng.uniform(0.3, 1.7))
    shifts, start = rng.exponential(size=count).tolist(), float(rng.choice([0.0, rng.exponential()]))
    if seed % 2:
        shifts = [shifts[0]] * (count // 2) + [0.0] * (count - count // 2)
    expected = by_slsqp(shifts, expansion, start)
    assert amplified_distance(shifts, expansion, start) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 7, 400])
@pytest.mark.parametrize("expansion", [0.0, 0.5, 0.97, 1.0])
@pytest.mark.parametrize(("start", "shift"), [(2.0, 0.3), (0.0, 1.0), (3.0, 0.0)])
def test_steps_alike_that_contract_are_one_window(steps, expansion, start, shift):
    powers = [expansion**power for power in range(steps)]
    reach = expansion**steps * start + shift * math.fsum(powers)
    expected = reach / math.sqrt(math.fsum(power**2 for power in powers))
    assert amplified_distance([shift] * steps, expansion, start) == pytest.approx(expected, rel=1e-12)


def test_without_contraction_the_start_fades_as_the_root_and_the_shifts_add_as_the_root():
    for steps in (1, 4, 25, 900):
        found = amplified_distance([0.2] * steps, 1.0, 3.0)
        assert found == pytest.approx(3 / math.sqrt(steps) + 0.2 * math.sqrt(steps), rel=1e-12)


@pytest.mark.parametrize("expansion", [1.001, 1.1, 2.0])
@pytest.mark.parametrize(("training", "unlearning"), [(1, 0), (1, 5), (6, 0), (6, 3), (40, 200)])
def test_where_steps_expand_the_early_ones_pay_at_once_and_one_window_ends_the_run(expansion, training, unlearning):
    def cost(paid):
        shares = expansion ** -np.arange(training - paid + unlearning, dtype=float)
        first = shares[: training - paid].sum() / (shares @ shares)
        # A window may only begin where its first share does not exceed what there is to take.
        return paid + first**2 * (shares @ shares) if first <= 1 + 1e-12 else math.inf

    expected = min(cost(paid) for paid in range(training))
    found = amplified_distance([0.7] * training + [0.0] * unlearning, expansion)
    assert found == pytest.approx(0.7 * math.sqrt(expected), rel=1e-9)
    assert found <= 0.7 * math.sqrt(training) * (1 + 1e-12)


@pytest.mark.parametrize("expansion", [1e-3, 0.5, 1.5, 1e3])
def test_many_steps_neither_overflow_nor_lose_the_last_ones(expansion):
    found = amplified_distance([1.0] * 3000, expansion, 1.0)
    assert math.isfinite(found)
    assert found >= 1 / math.sqrt(2)
    faded = amplified_distance([0.0] * 3000, expansion, 1.0)
    # Beyond 1 the start cannot fade below what a window without end leaves of it.
    limit = math.sqrt(max(0.0, expansion**2 - 1))
    assert faded == pytest.approx(limit, rel=1e-11, abs=1e-300)


@settings(max_examples=100, deadline=None)
@given(st.lists(lengths, min_size=1, max_size=8), expansions, lengths, st.integers(0, 7), st.floats(0.0, 2.0))
def test_the_distance_grows_with_every_shift_the_start_and_the_expansion(shifts, expansion, start, where, more):
    base = amplified_distance(shifts, expansion, start)
    larger = list(shifts)
    larger[where % len(shifts)] += more
    slack = 1e-9 * (1 + base)
    assert amplified_distance(larger, expansion, start) >= base - slack
    assert amplified_distance(shifts, expansion, start + more) >= base - slack
    assert amplified_distance(shifts, expansion + more, start) >= base - slack
    assert amplified_distance([*shifts, 0.0], expansion, start) <= base + slack
    assert amplified_distance([3 * shift for shift in shifts], expansion, 3 * start) == pytest.approx(3 * base)


@pytest.mark.parametrize("expansion", [0.6, 0.95, 1.0])
@pytest.mark.parametrize(("training", "unlearning", "start"), [(5, 0, 2.0), (5, 8, 0.0), (30, 20, 1.0)])
def test_linear_processes_with_gaussian_noise_attain_the_bound(expansion, training, unlearning, start):
    shifts, sigma = [0.4] * training + [0.0] * unlearning, 0.3
    mean, variance = start, 0.0
    for shift in shifts:
        mean, variance = expansion * mean + shift, expansion**2 * variance + sigma**2
    assert amplified_distance(shifts, expansion, start) / sigma == pytest.approx(mean / math.sqrt(variance), rel=1e-12)


@pytest.mark.parametrize("decay", [0.0, 20.0])
def test_the_certificate_of_noisy_fine_tuning_is_the_exact_epsilon_of_its_worst_case(decay):
    clip, gradient_clip, rate, steps, delta = 0.5, 2.0, 0.01, 12, 1e-4
    bound = noisy_fine_tuning_bound(clip, gradient_clip, rate, decay, steps)
    sigma = required_sigma(bound, 1.0, delta)
    certificate = certify(bound, sigma, delta)
    assert certificate.epsilon == pytest.approx(1, rel=1e-9)
    assert certificate.epsilon <= 1 + 1e-9
    low, high, variance = -clip, clip, 0.0
    for _ in range(steps):
        low = low - rate * (gradient_clip + decay * low)
        high = high - rate * (-gradient_clip + decay * high)
        variance = (1 - rate * decay) ** 2 * variance + sigma**2
    mu = (high - low) / math.sqrt(variance)
    exact = norm.cdf(mu / 2 - 1 / mu) - math.e * norm.cdf(-mu / 2 - 1 / mu)
    assert exact == pytest.approx(delta, rel=1e-6)


def test_a_simulated_descent_leaks_no_more_than_certified():
    """Clipped gradients of a loss with many valleys: the privacy loss at the certified ε stays below δ."""
    rng = np.random.default_rng(0)
    clip, gradient_clip, rate, steps, delta, draws = 1.0, 1.0, 0.1, 6, 0.05, 500_000
    bound = noisy_fine_tuning_bound(clip, gradient_clip, rate, 1.0, steps)
    sigma = required_sigma(bound, 0.5, delta)

    def run(start):
        w = np.full(draws, start)
        for _ in range(steps):
            gradient = -np.sign(start) * np.clip(1 + 4 * np.cos(w / 3), -1, 1)
            w = w - rate * (gradient + w) + sigma * rng.standard_normal(draws)
        return w

    one, other = (np.sort(run(start)) for start in (1.0, -1.0))
    above = [1 - np.searchsorted(ends, np.linspace(-8, 8, 65)) / draws for ends in (one, other)]
    leaked = (above[0] - math.exp(0.5) * above[1]).max()
    assert delta / 4 < leaked < delta + 5 * (1 + math.exp(0.5)) / 2 / math.sqrt(draws)


@pytest.mark.parametrize("expansion", [0.9, 0.999, 1.0, 1.05])
def test_langevin_takes_the_smaller_of_training_and_diameter(expansion):
    for training, steps, radius in [(3, 2, 50.0), (3000, 2, 1.0), (3000, 40, 1.0), (200, 0, 1.0)]:
        ways = [amplified_distance([0.05] * training + [0.0] * steps, expansion)]
        if steps:
            ways.append(amplified_distance([0.0] * steps, expansion, 2 * radius))
        bound = langevin_bound(0.05, expansion, training, steps, radius)
        assert bound.value == min(ways)
        assert bound.fixed_in_advance
        unbounded = langevin_bound(0.05, expansion, training, steps)
        assert unbounded.value == ways[0]
        # JSON knows no infinite radius.
        assert all(Bound.model_validate_json(one.model_dump_json()) == one for one in (bound, unbounded))


def window(shift, expansion, steps, start=0.0):
    """What steps alike cost that are one window."""
    powers = [expansion**power for power in range(steps)]
    return (expansion**steps * start + shift * math.fsum(powers)) / math.hypot(*powers)


@pytest.mark.parametrize("rounding", [0.01, 3.0])
@pytest.mark.parametrize("decay", [0.0, 2.0, 15.0])
def test_rounding_is_one_more_shift_in_every_step_and_at_the_start(rounding, decay):
    bound = noisy_fine_tuning_bound(1.5, 0.2, 0.1, decay, 7, rounding)
    assert bound.rounding == pytest.approx(window(rounding, abs(1 - 0.1 * decay), 7, rounding), rel=1e-11)
    for radius, steps in [(math.inf, 5), (1e6, 5), (50.0, 0)]:
        # Training counts: all T + K steps round.
        through = langevin_bound(0.4, 0.9, 20, steps, radius, rounding)
        assert through.rounding == pytest.approx(window(rounding, 0.9, 20 + steps), rel=1e-11)
    # The ball counts: K steps round, and so does the projection before them.
    ended = langevin_bound(50.0, 0.9, 20, 5, 1.0, rounding)
    assert ended.value == pytest.approx(window(0.0, 0.9, 5, 2.0), rel=1e-12)
    assert ended.rounding == pytest.approx(window(rounding, 0.9, 5, rounding), rel=1e-11)


def test_training_without_end_is_bounded_and_unlearning_fades_geometrically():
    shift, rho = 0.05, 0.98
    for steps in (1, 50, 400):
        found = langevin_bound(shift, rho, 5000, steps).value
        # s·ρᴷ/(1 − ρ) over √(1/(1 − ρ²)), the stationary standard deviation at σ = 1.
        assert found == pytest.approx(shift * rho**steps / (1 - rho) * math.sqrt(1 - rho**2), rel=1e-9)


def test_more_noise_steps_need_less_noise_up_to_the_authors_number_of_steps():
    sigmas = [required_sigma(noisy_fine_tuning_bound(1.0, 1.0, 0.01, 0.0, n), 1.0, 1e-5) for n in (1, 10, 100, 1000)]
    assert sigmas[0] > sigmas[1] > sigmas[2] < sigmas[3]
    best = min(range(50, 200), key=lambda n: noisy_fine_tuning_bound(1.0, 1.0, 0.01, 0.0, n).value)
    assert best == 100


def test_one_step_without_gradient_or_decay_is_output_perturbation():
    bound = noisy_fine_tuning_bound(3.0, 1e-300, 1.0, 0.0, 1)
    assert required_sigma(bound, 0.7, 1e-5) == pytest.approx(gaussian_sigma(0.7, 1e-5, 6.0), rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: amplified_distance([], 1.0), "0 steps"),
        (lambda: amplified_distance([-0.1, 1.0], 1.0), "shift = -0.1"),
        (lambda: amplified_distance([0.0, math.inf], 1.0), "shift = inf"),
        (lambda: amplified_distance([1.0, math.nan], 1.0), "shift = nan"),
        (lambda: amplified_distance([1.0], -0.5), "expansion = -0.5"),
        (lambda: amplified_distance([1.0], 1.0, math.nan), "start = nan"),
        (lambda: noisy_fine_tuning_bound(0.0, 1.0, 0.1, 0.0, 5), "start_clip = 0.0"),
        (lambda: noisy_fine_tuning_bound(1.0, 1.0, 0.1, -1.0, 5), "decay = -1.0"),
        (lambda: noisy_fine_tuning_bound(1.0, 1.0, 0.1, 0.0, 0), "steps = 0"),
        (lambda: noisy_fine_tuning_bound(1.0, 1.0, 0.1, 0.0, 5, -1e-3), "rounding = -0.001"),
        (lambda: langevin_bound(0.1, 0.9, 5, 1, 1.0, -1e-3), "rounding = -0.001"),
        (lambda: langevin_bound(0.1, 0.9, 5, 1.5), "steps = 1.5"),
        (lambda: langevin_bound(0.1, 0.9, 0, 1), "training_steps = 0"),
        (lambda: langevin_bound(0.1, 0.9, 5, -1), "steps = -1"),
        (lambda: langevin_bound(0.1, 0.9, 5, 1, 0.0), "radius = 0.0"),
    ],
)
def test_what_has_no_bound_is_refused(call, message):
    with pytest.raises(CduError, match=message):
        call()
