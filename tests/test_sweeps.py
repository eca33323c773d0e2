"""Where a sweep falls to a level, and points that are kept."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdu.errors import CduError
from cdu.evaluation.sweeps import crossing
from cdu.experiments.records import Metric, kept_metrics


@given(st.floats(1e-3, 1e3), st.floats(1.5, 100), st.floats(0.01, 0.99))
def test_a_straight_line_in_the_logarithm_is_crossed_where_it_says(start, ratio, share):
    points = [start, start * ratio]
    found = crossing(points, [1.0, 0.0], 1 - share)
    assert found == pytest.approx(start * ratio**share)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.floats(0.01, 0.99))
def test_the_crossing_is_the_first_one_and_between_neighbours(values, level):
    values = [1.0, *values]
    points = [10.0**number for number in range(len(values))]
    found = crossing(points, values, level)
    below = [number for number, value in enumerate(values) if value <= level]
    if not below:
        assert found == math.inf
    else:
        assert points[below[0] - 1] < found <= points[below[0]] * (1 + 1e-12)


@pytest.mark.parametrize(
    ("points", "values", "words"),
    [
        ([1, 2], [1.0], "1 values"),
        ([2, 1], [1.0, 0.5], "ascending"),
        ([1, 1], [1.0, 0.5], "ascending"),
        ([0, 1], [1.0, 0.5], "positive"),
        ([1, 2], [0.4, 0.3], "smaller point"),
    ],
)
def test_bad_sweeps_are_refused(points, values, words):
    with pytest.raises(CduError, match=words):
        crossing(points, values, 0.5)


def test_a_point_is_computed_once_and_the_same_when_read_again(tmp_path):
    path, calls = tmp_path / "points" / "one.json", []

    def compute():
        calls.append(1)
        return [
            Metric(metric="accuracy", value=0.1 + 0.2, method="newton", axis="radius", point=5),
            Metric(metric="x", value=None, note="no"),
        ]

    first = kept_metrics(path, compute)
    assert kept_metrics(path, compute) == first
    assert len(calls) == 1
    assert [one.name for one in path.parent.iterdir()] == ["one.json"]


def test_a_damaged_point_is_refused_and_an_interrupted_one_leaves_nothing(tmp_path):
    path = tmp_path / "one.json"

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_metrics(path, interrupted)
    assert not list(tmp_path.iterdir())
    path.write_text('[{"metric": "accuracy"')
    with pytest.raises(CduError, match="delete it"):
        kept_metrics(path, list)
