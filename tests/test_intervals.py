"""Intervals over seeds, the p-values that go with them, and Holm's."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cdu.report.intervals import LEVEL, Interval, all_of, any_of, holm, interval

numbers = st.floats(-10, 10).map(lambda value: round(value, 3))
samples = st.lists(numbers, min_size=3, max_size=10).filter(lambda values: len(set(values)) > 1)


def test_the_interval_is_scipys():
    values = pd.Series([1.0, 2.0, 4.0, 8.0])
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    found = interval(values)
    assert (found.low, found.high) == pytest.approx((low, high))


@given(samples, numbers)
def test_the_p_value_is_scipys(values, threshold):
    found = interval(pd.Series(values))
    expected = stats.ttest_1samp(values, threshold)
    above, below = found.p_above(threshold), found.p_below(threshold)
    assert min(above, below) == pytest.approx(expected.pvalue, abs=1e-9)
    assert max(above, below) == 1 or expected.statistic == 0


@given(samples, numbers, st.floats(0.01, 20))
def test_a_p_value_is_small_where_the_interval_excludes_the_threshold(values, threshold, margin):
    found = interval(pd.Series(values))
    nearest = min(abs(end - edge) for end in (found.low, found.high) for edge in (threshold, margin, -margin))
    if nearest < 1e-9:
        return
    assert (found.p_above(threshold) < LEVEL) == (found.low > threshold)
    assert (found.p_below(threshold) < LEVEL) == (found.high < threshold)
    assert (found.p_within(margin) < LEVEL) == found.within(margin)
    assert (found.p_beyond(margin) < LEVEL) == (found.low > margin or found.high < -margin)


def test_an_interval_without_end_decides_nothing():
    for found in (interval(pd.Series([1.0])), interval(pd.Series([], dtype=float)), Interval(1.0, math.inf, 3)):
        assert (found.p_above(0.0), found.p_below(9.0), found.p_within(9.0)) == (1.0, 1.0, 1.0)
        assert found.detectable == math.inf


def test_an_interval_of_known_width_is_normal():
    found = Interval(1.0, 1.0, 1, math.inf)
    assert found.p_above(0.0) == pytest.approx(LEVEL)
    assert found.detectable == pytest.approx((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / stats.norm.ppf(0.975))


def test_the_smallest_effect_is_found_with_the_declared_probability():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(800):
        draw = interval(pd.Series(rng.normal(0.0, 1.0, 10)))
        deviation = draw.half * np.sqrt(10) / stats.t.ppf(0.975, 9)
        # The detectable effect of the true standard deviation, not of this draw's.
        exact = Interval(0.0, draw.half / deviation, 10).detectable
        found += Interval(draw.mean + exact, draw.half, 10).low > 0
    assert found / 800 == pytest.approx(0.8, abs=0.05)


def test_all_and_any():
    assert all_of([0.01, 0.04]) == 0.04
    assert any_of([0.01, 0.04]) == 0.02
    assert any_of([0.9, 0.8]) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_steps_down(values):
    """Against the definition: rejected in ascending order while p ≤ level / (tests that are left)."""
    adjusted = holm({str(index): value for index, value in enumerate(values)})
    level = 0.05
    rejected, left = set(), len(values)
    for index in sorted(range(len(values)), key=lambda one: values[one]):
        if values[index] * left >= level:
            break
        rejected.add(str(index))
        left -= 1
    assert {name for name, value in adjusted.items() if value < level} == rejected


def test_holm_errs_in_few_families():
    """Of families of five true null hypotheses at most one in twenty has a test that is called significant."""
    draws = np.random.default_rng(0).uniform(size=(2000, 5))
    errors = [min(holm(dict(enumerate(map(float, draw)))).values()) < LEVEL for draw in draws]
    assert np.mean(errors) == pytest.approx(LEVEL, abs=0.015)
