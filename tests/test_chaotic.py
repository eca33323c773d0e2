"""Are means over seeds judged at the level that is asked for, and by what the families know?"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cdu.verification import chaotic
from cdu.verification.chaotic import Families, Series, shifts
from cdu.verification.kinds import Key


def series(count, metric="distance", section="03_unlearning"):
    return [Series("digits", section, Key(metric, str(number), "", "", None)) for number in range(count)]


def judged(reference, run, metric="distance", others=None):
    names = series(len(reference), metric)
    return shifts(np.array(reference), np.array(run), Families.of(names, np.array(reference)), others)


def test_the_moderated_standard_error_is_smyths():
    logs = np.random.default_rng(0).normal(size=(12, 6))
    found = judged(np.exp(logs[:, :3]), np.exp(logs[:, 3:]))
    within = (logs[:, :3].var(axis=1, ddof=1) + logs[:, 3:].var(axis=1, ddof=1)) / 2
    prior = logs[:, :3].var(axis=1, ddof=1).mean()
    moderated = (chaotic.PRIOR * prior + 4 * within) / (chaotic.PRIOR + 4)
    assert found.logarithmic.all()
    assert found.scale == pytest.approx(np.sqrt(moderated * 2 / 3))
    assert found.shift == pytest.approx(logs[:, 3:].mean(axis=1) - logs[:, :3].mean(axis=1))
    assert found.freedom == pytest.approx(chaotic.PRIOR + 4)
    assert found.allowed(0.01) == pytest.approx(stats.t.ppf(0.995, chaotic.PRIOR + 4) * found.scale)


def test_of_normal_numbers_no_more_than_the_level_exceed():
    logs = np.random.default_rng(1).normal(size=(20_000, 6))
    found = judged(np.exp(logs[:, :3]), np.exp(logs[:, 3:]))
    assert (abs(found.shift) > found.allowed(0.05)).mean() < 0.05


def test_a_scatter_of_the_run_does_not_widen_what_others_are_judged_by():
    logs = np.random.default_rng(2).normal(size=(12, 6))
    usual = judged(np.exp(logs[:, :3]), np.exp(logs[:, 3:]))
    logs[0, 3:] += [0.0, 50.0, 100.0]
    scattered = judged(np.exp(logs[:, :3]), np.exp(logs[:, 3:]))
    assert scattered.scale[1:] == pytest.approx(usual.scale[1:])


def test_further_seeds_tell_the_spread_and_no_mean():
    logs = np.random.default_rng(3).normal(size=(12, 6))
    others = np.exp(10 * np.random.default_rng(4).normal(size=(12, 5)))
    reference, run = np.exp(logs[:, :3]), np.exp(logs[:, 3:])
    alone, more = judged(reference, run), judged(reference, run, others=others)
    assert more.shift == pytest.approx(alone.shift)
    assert more.scale.min() > alone.scale.max()
    assert (more.freedom == chaotic.MOST).all()


def test_shares_are_no_surer_than_one_sample():
    same = [[0.97, 0.97, 0.97]] * 5 + [[0.96, 0.97, 0.98]]
    found = judged(same, same, "accuracy")
    assert not found.logarithmic.any()
    assert (found.scale**2 * 3 / 2 >= 0.01**2 * 4 / (4 + chaotic.PRIOR) - 1e-12).all()


def test_a_series_without_two_numbers_on_both_sides_is_not_tested():
    found = judged([[1.0, np.nan, np.nan], [1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0], [2.0, 3.0, np.nan]])
    assert found.freedom[0] == 0
    assert found.freedom[1] > 0
    assert np.isinf(found.allowed(0.01)[0])


positive = st.floats(1e-3, 1e3)


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.tuples(*[positive] * 6), min_size=1, max_size=8),
    factor=st.floats(1e-3, 1e3),
)
def test_units_do_not_matter_to_positive_numbers_nor_sides_to_the_shift(values, factor):
    both = np.array(values)
    one, other = judged(both[:, :3], both[:, 3:]), judged(both[:, 3:], both[:, :3])
    scaled = judged(factor * both[:, :3], factor * both[:, 3:])
    assert scaled.shift == pytest.approx(one.shift, abs=1e-9)
    assert scaled.scale == pytest.approx(one.scale, rel=1e-6)
    assert other.shift == pytest.approx(-one.shift, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.tuples(*[st.floats(0, 1)] * 6), min_size=1, max_size=8))
def test_what_is_equal_never_exceeds_and_every_limit_is_positive(values):
    both = np.array(values)
    found = judged(both[:, :3], both[:, :3], "accuracy")
    assert (found.shift == 0).all()
    assert (found.allowed(1e-6) > 0).all()
