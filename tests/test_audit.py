import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest, norm

from cdu.certification import gaussian_epsilon, gaussian_sigma, required_sigma, trivial_bound
from cdu.errors import CduError
from cdu.evaluation.audit import (
    STRATEGIES,
    STRATEGY,
    Audit,
    audit,
    clopper_pearson,
    detectable_epsilons,
    power,
    proportions,
    separating_direction,
)

#: Of 200 audits at 95 %, so many must keep below the true ε: the 0.1 % quantile of the binomial distribution.
ENOUGH = 179


def gaussians(mu, trials, seed, dimensions=1):
    """Trials of N(μe₁, I) and N(0, I)."""
    generator = torch.Generator().manual_seed(seed)
    pair = [torch.randn(trials, dimensions, generator=generator) for _ in range(2)]
    pair[0][:, 0] += mu
    return pair


@pytest.mark.parametrize("trials", [1, 20, 1000])
@pytest.mark.parametrize("confidence", [0.9, 0.975])
def test_clopper_pearson_is_scipys_one_sided_interval(trials, confidence):
    counts = np.unique(np.linspace(0, trials, 7).astype(int))
    low, high = clopper_pearson(counts, trials, confidence)
    for count, below, above in zip(counts, low, high, strict=True):
        least = binomtest(int(count), trials, alternative="greater").proportion_ci(confidence, "exact").low
        most = binomtest(int(count), trials, alternative="less").proportion_ci(confidence, "exact").high
        assert (below, above) == (pytest.approx(least, abs=1e-12), pytest.approx(most, abs=1e-12))


@pytest.mark.parametrize(("trials", "delta"), [(90, 1e-9), (1800, 1e-5), (18_000, 1e-3)])
def test_no_audit_shows_more_than_is_detectable_and_perfect_guessing_shows_just_that(trials, delta):
    """Nine tenths of the trials judge; the middle threshold spends 80 % of 5 %, half of it on either proportion."""
    apart = audit(torch.ones(trials * 10 // 9, 1), torch.zeros(trials * 10 // 9, 1), delta)
    miss = 0.02 ** (1 / trials)  # Clopper-Pearson's lower bound when all trials succeed
    assert apart.detectable == pytest.approx(math.log((miss - delta) / (1 - miss)), rel=1e-9)
    assert apart.epsilon == pytest.approx(apart.detectable, rel=1e-6)
    assert apart.trials == trials
    assert detectable_epsilons(trials, delta) == (apart.detectable, apart.gaussian_detectable)
    assert apart.gaussian_epsilon == pytest.approx(apart.gaussian_detectable, rel=1e-6)
    assert apart.gaussian_detectable == pytest.approx(gaussian_epsilon(1.0, delta, 2 * norm.ppf(miss)))


def test_equal_distributions_show_nothing():
    shown = [audit(*gaussians(0.0, 400, seed, 3), 1e-5) for seed in range(50)]
    assert sum(one.epsilon == 0 for one in shown) >= 44
    assert sum(one.mu_low <= 0 == one.gaussian_epsilon for one in shown) >= 44


@pytest.mark.parametrize("epsilon", [0.5, pytest.param(2.0, marks=pytest.mark.slow)])
def test_a_gaussian_mechanism_of_known_epsilon_is_audited_at_no_more(epsilon):
    delta = 1e-5
    mu = 1 / gaussian_sigma(epsilon, delta, 1.0)
    shown = [audit(*gaussians(mu, 2000, seed), delta) for seed in range(200)]
    assert sum(one.epsilon <= epsilon for one in shown) >= ENOUGH
    assert sum(one.gaussian_epsilon <= epsilon for one in shown) >= ENOUGH
    assert sum(one.mu_low <= mu for one in shown) >= ENOUGH


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("mu", [0.0, 0.4, 2.0])
def test_the_bounds_at_all_thresholds_hold_together(name, mu):
    """Every bound of a true- and of a false-positive rate, in 1000 audits; all that an audit says rests on these."""
    rows, trials, draws = 1000, 500, np.random.default_rng(0)
    strategy = STRATEGIES[name]
    pilot = round(strategy.pilot * trials)
    release, reference = draws.standard_normal((rows, trials)) + mu, draws.standard_normal((rows, trials))
    thresholds, shares = strategy.place(release[:, :pilot], reference[:, :pilot], 1e-5)
    assert shares.sum() == pytest.approx(1)
    true, false = (
        (values[:, pilot:, None] >= thresholds[:, None]).sum(axis=1, dtype=float) for values in (release, reference)
    )
    true_low, false_high = proportions(true, false, trials - pilot, shares)
    held = (true_low <= norm.sf(thresholds - mu)) & (norm.sf(thresholds) <= false_high)
    together = int(held.all(axis=1).sum())
    # At least 95 %, the 0.1 % quantile of the binomial distribution; and not by bounds that are wider than need be.
    assert binom.ppf(0.001, rows, 0.95) <= together <= 0.992 * rows


@pytest.mark.parametrize("rest", [0.0, 0.6])
def test_an_epsilon_attained_in_both_directions_is_passed_in_five_percent_of_audits_at_most(rest):
    """Of three outcomes the first says "reference" and the last "release", either by a factor e^ε = 3."""
    chances, wrong = (1 - rest) * np.array([0.25, 0.0, 0.75]) + [0, rest, 0], 0
    for seed in range(200):
        draw = np.random.default_rng(seed)
        outcomes = [draw.choice(3, size=(300, 1), p=given) for given in (chances, chances[::-1])]
        wrong += audit(*(torch.tensor(one).double() for one in outcomes), 1e-9).epsilon > math.log(3)
    assert wrong <= binom.ppf(0.999, 200, 0.05)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("mu", [0.2, 1.0])
def test_right_certificates_without_slack_are_contradicted_in_five_percent_of_audits_at_most(name, mu):
    certified = gaussian_epsilon(1.0, 1e-5, mu)
    found = power(STRATEGIES[name], mu, 1000, certified, 1e-5, 400, np.random.default_rng(0))
    assert found.counted <= found.detected <= binom.ppf(0.999, 400, 0.05)
    assert found.seeds == 400


def test_power_is_what_audits_of_the_same_trials_show():
    certified, mu, trials, rows = 1.0, 0.45, 1500, 40
    release, reference = np.random.default_rng(5).standard_normal((2, rows, trials))
    release += mu
    pairs = zip(release, reference, strict=True)
    shown = [audit(torch.tensor(one)[:, None], torch.tensor(other)[:, None], 1e-5) for one, other in pairs]
    found = power(STRATEGY, mu, trials, certified, 1e-5, rows, np.random.default_rng(5))
    assert found.detected == sum(one.contradicts(certified) for one in shown)
    assert found.counted == sum(one.epsilon > certified for one in shown)
    assert 0 < found.detected < rows


def test_the_audits_thresholds_find_more_than_the_alternatives_or_as_much():
    """Noise 1.5 times too small at the distance Δ, 2,500 trials; and by counts alone noise three times too small."""
    mu, draws = 1 / gaussian_sigma(1.0, 1e-5, 1.0), np.random.default_rng(0)
    little = {name: power(one, 1.5 * mu, 2500, 1.0, 1e-5, 60, draws).detected for name, one in STRATEGIES.items()}
    much = {name: power(one, 3 * mu, 2500, 1.0, 1e-5, 60, draws).counted for name, one in STRATEGIES.items()}
    chosen, alike, alone, *halves = STRATEGIES
    assert little[chosen] > little[alike] + 3
    assert all(little[chosen] > little[one] + 15 for one in halves)
    assert much[chosen] > 30 > 0 == much[alone]


@pytest.mark.parametrize("epsilon", [0.3, 1.5])
def test_randomised_response_of_known_epsilon_is_audited_at_no_more_and_nearly_found(epsilon):
    """A mechanism that is no Gaussian: it tells the truth with probability e^ε/(1 + e^ε)."""
    truth, shown = 1 / (1 + math.exp(-epsilon)), []
    for seed in range(200):
        draw = np.random.default_rng(seed)
        pair = [torch.tensor(draw.random((4000, 1)) < share).float() for share in (truth, 1 - truth)]
        shown.append(audit(*pair, 1e-9).epsilon)
    assert sum(one <= epsilon for one in shown) >= ENOUGH
    assert np.median(shown) > 0.6 * epsilon


@pytest.mark.parametrize("seed", range(5))
def test_many_trials_come_near_the_truth(seed):
    mu, delta = 1.5, 1e-2
    result = audit(*gaussians(mu, 60_000, seed), delta)
    assert mu - 0.1 < result.mu_low <= result.mu <= result.mu_high
    truth = gaussian_epsilon(1.0, delta, mu)
    assert 0.9 * truth < result.gaussian_epsilon <= truth
    assert 0.6 * truth < result.epsilon <= truth


def release(distance, sigma, trials, seed, dimensions=60):
    """Trials of N(w̃, σ²I) and of N(w̃*, σ²I) for weights that lie ``distance`` apart."""
    generator = torch.Generator().manual_seed(seed)
    between = torch.randn(dimensions, generator=generator)
    between *= distance / between.norm()
    noise = [sigma * torch.randn(trials, dimensions, generator=generator) for _ in range(2)]
    return noise[0] + between, noise[1]


@pytest.mark.parametrize("seed", range(5))
def test_a_wrong_certificate_is_caught_and_a_right_one_is_not(seed):
    """Noise ten times too small, on a pair that is 0.4 Δ apart."""
    epsilon, delta, bound = 1.0, 1e-5, trivial_bound(10.0)
    sigma = required_sigma(bound, epsilon, delta)
    wrong = audit(*release(0.4 * bound.value, sigma / 10, 10_000, seed), delta)
    right = audit(*release(0.4 * bound.value, sigma, 10_000, seed), delta)
    assert wrong.contradicts(epsilon)
    assert wrong.epsilon > epsilon
    assert wrong.gaussian_epsilon > epsilon
    assert not right.contradicts(epsilon)


def test_noise_that_leaves_a_coordinate_out_is_caught():
    first, second = release(0.01, 1.0, 1000, 0)
    first[:, 7], second[:, 7] = 0.01, 0.0
    assert audit(first, second, 1e-5).epsilon > 4


@pytest.mark.parametrize("seed", range(3))
def test_the_direction_is_fishers_for_independent_coordinates(seed):
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(5, generator=generator, dtype=torch.float64) + 0.5
    pair = [spread * torch.randn(50, 5, generator=generator, dtype=torch.float64) + shift for shift in (0.3, 0.0)]
    within = (np.cov(pair[0].numpy().T) + np.cov(pair[1].numpy().T)) / 2
    expected = (pair[0].mean(0) - pair[1].mean(0)).numpy() / np.diag(within)
    np.testing.assert_allclose(separating_direction(*pair).numpy(), expected / np.linalg.norm(expected), rtol=1e-9)


def test_the_direction_of_equal_trials_is_none():
    same = torch.ones(30, 4)
    assert separating_direction(same, same).tolist() == [0, 0, 0, 0]
    assert audit(same, same, 1e-5).epsilon == 0


@pytest.mark.parametrize("swapped", [False, True])
def test_the_reverse_of_a_test_counts_too(swapped):
    """An output that one gives half the time and the other nearly always: t/f is at most 2, (1 − f)/(1 − t) 500."""
    draw = np.random.default_rng(0)
    pair = [torch.tensor(draw.random((20_000, 1)) < share).float() for share in (0.5, 0.999)]
    result = audit(*(reversed(pair) if swapped else pair), 1e-9)
    assert 4 < result.epsilon <= math.log(500)


@pytest.mark.parametrize("trials", [100, 400])
def test_more_coordinates_than_trials_do_not_hide_what_is_there(trials):
    """A direction separates the trials that it was estimated on whatever they are; thresholds need others."""
    assert audit(*release(40.0, 1.0, trials, 0, dimensions=5000), 1e-5).epsilon > 0.9 * math.log(trials / 2 / 4)
    shown = [audit(*release(0.0, 1.0, trials, seed, dimensions=5000), 1e-5).epsilon for seed in range(20)]
    assert sum(one == 0 for one in shown) >= 17


@pytest.mark.parametrize(("shown", "gaussian", "word"), [(0.9, 1.1, True), (1.1, 0.0, True), (0.9, 0.9, False)])
def test_either_bound_contradicts(shown, gaussian, word):
    result = Audit(shown, 0.0, 0.0, 0.0, gaussian, 5.0, 9.0, 100)
    assert result.contradicts(1.0) is word


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (torch.zeros(10, 2), torch.zeros(10, 2), "at least 20"),
        (torch.zeros(30, 2), torch.zeros(31, 2), "as many trials"),
        (torch.zeros(30), torch.zeros(30), "in rows"),
        (torch.full((30, 2), torch.nan), torch.zeros(30, 2), "not finite"),
    ],
)
def test_trials_that_cannot_be_audited_are_refused(first, second, message):
    with pytest.raises(CduError, match=message):
        audit(first, second, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(200, 1), (200, 3)])
def test_trials_without_noise_are_not_taken_for_trials_without_a_difference(shape, dtype):
    """The direction of a difference without spread overflows: that must not read as ε ≥ 0."""
    with pytest.raises(CduError, match="either no noise was added"):
        audit(100 * torch.ones(shape, dtype=dtype), torch.zeros(shape, dtype=dtype), 1e-5)


def test_trials_beyond_the_range_of_their_type_are_refused():
    first, second = (trials.float() for trials in gaussians(8.0, 400, 0))
    assert audit(first, second, 1e-5).epsilon > 3
    with pytest.raises(CduError, match="scaled to numbers of order one"):
        audit(1e20 * first, 1e20 * second, 1e-5)
    with pytest.raises(CduError, match=r"types torch.float16 and torch.float16; give both in float32"):
        audit(first.half(), second.half(), 1e-5)


@pytest.mark.parametrize("certified", [math.nan, -1.0])
def test_nothing_is_compared_with_an_epsilon_that_is_none(certified):
    with pytest.raises(CduError, match=f"a certified ε of {certified}"):
        audit(*gaussians(8.0, 400, 0), 1e-5).contradicts(certified)


def test_the_gaussian_interval_covers_the_thresholds_own_mu():
    covered = 0
    for seed in range(100):
        result = audit(*gaussians(1.0, 1000, seed), 1e-5)
        covered += result.mu_low <= norm.ppf(0.5) + 1.0 <= result.mu_high
    assert covered >= 95
