"""The rules, on planted results of every kind."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cdu.verdicts import CLAIMS, NOTHING, RELEASED, Interval, Word, decide, interval

SEEDS = range(5)
WIGGLE = [-1.0, 0.5, 0.0, 0.7, -0.2]


def rows(section, metric, value, spread=0.0, **keys):
    base = {"section": section, "metric": metric, "method": "", "split": "", "axis": "", "point": None, **keys}
    return [{**base, "seed": seed, "value": value + spread * WIGGLE[seed]} for seed in SEEDS]


def verdict(claim, *parts) -> Word:
    return decide(claim, pd.DataFrame([row for part in parts for row in part])).word


def theory(bounds, errors, trivial=20.0):
    keys = {"method": "network"}
    parts = rows("01_theory", "trivial_bound", trivial, **keys) + rows("01_theory", "lambda_max", 8.0, 1.0, **keys)
    # A damping below λ_max, which the rules must not use; and another set-up, which they must not look at.
    parts += rows("01_theory", "bound", 0.1, axis="damping", point=8.5, **keys)
    parts += rows("01_theory", "distance", 99.0, axis="damping", point=8.5, **keys)
    parts += rows("01_theory", "lambda_max", 500.0, method="ridge")
    parts += rows("01_theory", "trivial_bound", 1e-3, method="smooth network")
    for point, bound, error in zip((10.0, 100.0), bounds, errors, strict=True):
        parts += rows("01_theory", "bound", bound, axis="damping", point=point, **keys)
        parts += rows("01_theory", "distance", error, 1e-4, axis="damping", point=point, **keys)
        parts += rows("01_theory", "bound", 1e-6, axis="damping", point=point, method="softmax")
    return parts


def distances(step, nothing):
    return rows("03_unlearning", "distance_to_retrained", step, 0.01, method="newton") + rows(
        "03_unlearning", "distance_to_retrained", nothing, method="original"
    )


@pytest.mark.parametrize(
    ("bound", "step", "word"),
    [
        (15.0, 2.0, "holds"),
        (15.0, 7.99, "holds but says nothing"),
        (25.0, 2.0, "holds but says nothing"),
        (1.0, 2.0, "does not hold"),
    ],
)
def test_c1(bound, step, word):
    assert verdict("C1", theory((bound, bound), (step, step)), distances(step, 8.0)) == word


@pytest.mark.parametrize(
    ("bounds", "errors", "word"),
    [
        ((15, 12), (8.0, 7.5), "holds"),
        ((25, 22), (8.0, 7.5), "holds but says nothing"),
        ((15, 12), (8.0, 8.0), "holds but says nothing"),
        ((15, 12), (8.0, 8.5), "does not hold"),
        ((12, 15), (8.0, 7.5), "does not hold"),
    ],
)
def test_c2(bounds, errors, word):
    assert verdict("C2", theory(bounds, errors)) == word


@pytest.mark.parametrize(
    ("seconds", "step", "word"),
    [
        (1.0, 2.0, "holds"),
        (1.0, 7.99, "holds but says nothing"),
        (20.0, 2.0, "does not hold"),
        (10.0, 2.0, "not testable here"),
    ],
)
def test_c4(seconds, step, word):
    times = rows("03_unlearning", "seconds", seconds, 0.01, method="newton")
    times += rows("03_unlearning", "seconds", 100.0, method="retrain")
    assert verdict("C4", times, distances(step, 8.0)) == word


def accuracies(released, nothing, spread=1e-4):
    parts = []
    for method, value in {RELEASED: released, NOTHING: nothing, "retrain": 0.95}.items():
        width = 0.0 if method == "retrain" else spread
        for split in ("retain", "test"):
            parts += rows("03_unlearning", "accuracy", value, width, method=method, split=split)
    return parts


@pytest.mark.parametrize(
    ("released", "nothing", "spread", "word"),
    [
        (0.951, 0.90, 1e-4, "holds"),
        (0.951, 0.952, 1e-4, "holds but says nothing"),
        (0.93, 0.952, 1e-4, "does not hold"),
        (0.951, 0.90, 0.03, "not testable here"),
        # The same difference in every seed is no interval of width 0: counts of samples tie.
        (0.93, 0.952, 0.0, "not testable here"),
        (0.951, 0.90, 0.0, "not testable here"),
    ],
)
def test_c5(released, nothing, spread, word):
    assert verdict("C5", accuracies(released, nothing, spread)) == word


def test_a_tie_is_told_as_one():
    found = decide("C5", pd.DataFrame(accuracies(0.93, 0.952, 0.0)))
    assert found.evidence.startswith("Released minus retrained: -2.00 ± unknown (the same in every seed) points")
    assert found.smallest_effect == "unknown"


@pytest.mark.parametrize(
    ("auc", "epochs", "word"),
    [
        ((0.51, 0.60), (5.0, 0.0), "holds"),
        ((0.51, 0.51), (5.0, 5.0), "holds but says nothing"),
        ((0.51, 0.60), (0.0, 0.0), "does not hold"),
        ((0.60, 0.60), (5.0, 0.0), "does not hold"),
    ],
)
def test_c6(auc, epochs, word):
    parts = rows("04_attacks", "auc", 0.5, method="retrain") + rows("05_relearn", "epochs", 5.0, method="retrain")
    for method, a, e in zip((RELEASED, NOTHING), auc, epochs, strict=True):
        parts += rows("04_attacks", "auc", a, 1e-3, method=method)
        parts += rows("05_relearn", "epochs", e, 0.1, method=method)
    assert verdict("C6", parts) == word


@pytest.mark.parametrize(("epsilon", "word"), [(5.0, "holds"), (1e6, "holds but says nothing")])
def test_c9(epsilon, word):
    values = {"epsilon": epsilon, "sigma": 1.0, "sigma_needed": 2.0, "epsilon_wanted": 1.0}
    parts = [rows("03_unlearning", metric, value, method=RELEASED) for metric, value in values.items()]
    assert verdict("C9", *parts) == word


@pytest.mark.parametrize(
    ("low", "sigma", "word"),
    [
        (0.90, 100.0, "holds"),
        (0.90, 0.01, "holds but says nothing"),
        (0.96, 100.0, "does not hold"),
        (0.9499, 100.0, "not testable here"),
    ],
)
def test_c10(low, sigma, word):
    parts = rows("06_ablations", "sigma", sigma) + rows("06_ablations", "delta", 1e-5)
    for point, value, spread in ((5.0, low, 1e-3), (20.0, 0.95, 0.0)):
        parts += rows(
            "06_ablations", "accuracy", value, spread, axis="radius", point=point, method="original", split="test"
        )
    assert verdict("C10", parts) == word


def sequential(epsilon, released, nothing, spread=1e-3):
    last = {"axis": "request", "point": 10.0}
    parts = rows("07_sequential", "epsilon", epsilon, method="together", axis="releases", point=10.0)
    parts += rows("07_sequential", "epsilon", 1.0, method="each alone", axis="releases", point=10.0)
    # The other end of the releases and an early request, which the rule must not look at.
    parts += rows("07_sequential", "epsilon", 1e9, method="together", axis="releases", point=50.0)
    parts += rows("07_sequential", "accuracy", 0.1, method=RELEASED, split="test", axis="request", point=1.0)
    for split in ("retain", "test"):
        parts += rows("07_sequential", "accuracy", released, spread, method=RELEASED, split=split, **last)
        parts += rows("07_sequential", "accuracy", nothing, 1e-3, method=NOTHING, split=split, **last)
        parts += rows("07_sequential", "accuracy", 0.95, method="retrain", split=split, **last)
    return parts


@pytest.mark.parametrize(
    ("epsilon", "released", "nothing", "spread", "word"),
    [
        (9.0, 0.95, 0.9, 1e-3, "holds"),
        (9.0, 0.95, 0.95, 1e-3, "holds but says nothing"),
        (11.0, 0.95, 0.9, 1e-3, "does not hold"),
        (9.0, 0.8, 0.9, 1e-3, "does not hold"),
        (9.0, 0.95, 0.9, 0.02, "not testable here"),
    ],
)
def test_c7(epsilon, released, nothing, spread, word):
    assert verdict("C7", sequential(epsilon, released, nothing, spread)) == word


def stopped(bounds, errors, trivial=20.0):
    parts = rows("07_sequential", "trivial_bound", trivial)
    for epochs, bound, error in zip((1.0, 50.0), bounds, errors, strict=True):
        keys = {"method": "newton", "axis": "epochs", "point": epochs}
        parts += rows("07_sequential", "bound", bound, **keys)
        parts += rows("07_sequential", "distance_to_retrained", error, 0.01, **keys)
        # Doing nothing and the theory's own records are none of this claim's evidence.
        parts += rows("07_sequential", "distance_to_retrained", 99.0, method="original", axis="epochs", point=epochs)
    return parts


@pytest.mark.parametrize(
    ("bounds", "errors", "word"),
    [
        ((15.0, 12.0), (2.0, 3.0), "holds"),
        ((15.0, 25.0), (2.0, 3.0), "holds but says nothing"),
        ((25.0, 12.0), (2.0, 3.0), "holds but says nothing"),
        ((15.0, 12.0), (2.0, 12.0), "does not hold"),
        ((25.0, 2.0), (2.0, 3.0), "does not hold"),
        ((15.0, math.nan), (2.0, 3.0), "not testable here"),
        ((15.0, 12.0), (2.0, math.nan), "not testable here"),
    ],
)
def test_c8(bounds, errors, word):
    assert verdict("C8", stopped(bounds, errors)) == word


def test_a_bound_that_one_seed_breaks_does_not_hold():
    parts = pd.DataFrame(stopped((15.0, 12.0), (2.0, 3.0)))
    broken = (parts["metric"] == "bound") & (parts["seed"] == 3) & (parts["point"] == 50.0)
    assert decide("C8", parts.assign(value=parts["value"].mask(broken, 2.5))).word == "does not hold"


@pytest.mark.parametrize("claim", CLAIMS)
def test_nothing_measured_is_not_yet_tested(claim):
    empty = pd.DataFrame(columns=["section", "seed", "metric", "value", "method", "split", "axis", "point"])
    assert decide(claim, empty).word == "not yet tested"


@pytest.mark.parametrize("claim", [name for name in CLAIMS if name != "C9"])
def test_a_single_seed_decides_nothing(claim):
    parts = theory((15, 12), (8.0, 7.5)) + distances(2.0, 8.0) + accuracies(0.95, 0.9)
    parts += sequential(9.0, 0.95, 0.9) + stopped((15.0, 12.0), (2.0, 3.0))
    one = pd.DataFrame(parts)
    assert decide(claim, one[one["seed"] == 0]).word == "not yet tested"


def test_the_smallest_effect_is_found_with_the_declared_probability():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(2000):
        draw = interval(pd.Series(rng.normal(0.0, 1.0, 10)))
        # The detectable effect of the true standard deviation, not of this draw's.
        exact = Interval(0.0, draw.half / draw_sd(draw) * 1.0, 10).detectable
        shifted = Interval(draw.mean + exact, draw.half, 10)
        found += shifted.low > 0
    assert found / 2000 == pytest.approx(0.8, abs=0.05)


def draw_sd(found):
    """The standard deviation that an interval of ten seeds came from."""
    return found.half * np.sqrt(10) / stats.t.ppf(0.975, 9)


def test_the_interval_is_scipys():
    values = pd.Series([1.0, 2.0, 4.0, 8.0])
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    found = interval(values)
    assert (found.low, found.high) == pytest.approx((low, high))
