"""Do tables and baselines hold the numbers that plain Python gives, in the units of their heads?"""

import math

import numpy as np
import pandas as pd
import pytest

from cdu.errors import CduError
from cdu.report.query import beside, by_seed, minus, over, points, select
from cdu.report.tables import Column, plus_minus, quantities, table, with_reduction


def long(*rows):
    """Rows of metrics in long form: metric, method, split, seed, value."""
    frame = pd.DataFrame(rows, columns=["metric", "method", "split", "seed", "value"])
    return frame.assign(axis="", point=math.nan, note="")


@pytest.fixture(params=[0, 1, 2])
def accuracies(request):
    """Accuracies of three methods on two splits and three seeds, shuffled; and the same as a dictionary."""
    draw = np.random.default_rng(request.param)
    known = {
        (method, split, seed): draw.uniform()
        for method in ("newton", "original", "retrain")
        for split in ("test", "forget")
        for seed in range(3)
    }
    frame = long(*(("accuracy", *key, value) for key, value in known.items()))
    return frame.sample(frac=1.0, random_state=request.param), known


def test_a_baseline_is_of_the_same_seed_and_split(accuracies):
    frame, known = accuracies
    base = select(frame, method="retrain")
    for combine, expected in ((minus, lambda a, b: a - b), (over, lambda a, b: a / b)):
        found = combine(frame, base, "seed", "split")
        for one in found.itertuples():
            own, other = (known[method, one.split, one.seed] for method in (one.method, "retrain"))
            assert one.value == expected(own, other)
        tested = combine(select(frame, split="test"), select(base, split="test"))
        assert by_seed(tested, method="retrain").to_list() == [combine is over] * 3


def test_a_row_without_a_baseline_has_no_value(accuracies):
    frame, _ = accuracies
    base = frame[(frame["method"] == "retrain") & (frame["seed"] != 1)]
    lacking = minus(frame, base, "seed", "split")
    assert lacking["value"].isna().eq(frame["seed"] == 1).all()


def test_two_baselines_for_one_row_are_refused(accuracies):
    frame, _ = accuracies
    with pytest.raises(ValueError, match="duplicate"):
        beside(frame, select(frame, method="retrain"))


def test_the_reduction_is_the_share_of_the_do_nothing_distance_of_the_same_seed():
    frame = long(
        ("distance_to_retrained", "newton", "", 0, 1.0),
        ("distance_to_retrained", "newton", "", 1, 6.0),
        ("distance_to_retrained", "original", "", 1, 8.0),
        ("distance_to_retrained", "original", "", 0, 4.0),
    )
    found = select(with_reduction(frame), metric="reduction")
    assert by_seed(found, method="newton").to_dict() == {0: 0.75, 1: 0.25}
    assert by_seed(found, method="original").to_dict() == {0: 0.0, 1: 0.0}


def test_a_column_has_the_label_and_the_unit_of_its_metric(accuracies):
    frame, known = accuracies
    column = Column("accuracy", split="test")
    assert (column.header, Column("accuracy", "test set").header) == ("accuracy (%)", "test set (%)")
    values = pd.Series([100 * known["newton", "test", seed] for seed in range(3)])
    assert column.cell(select(frame, method="newton")) == plus_minus(values)
    assert Column("accuracy", "share", unit="", split="test").cell(select(frame, method="newton")) == plus_minus(
        values / 100
    )
    with pytest.raises(CduError, match="unknown metric 'acuracy'"):
        Column("acuracy")


def test_rows_that_are_named_are_there_even_without_numbers(accuracies):
    frame, _ = accuracies
    found = table(frame, "method", "model", [Column("accuracy", split="test")], {"retrain": "retrained", "x": "none"})
    assert found["model"].to_list() == ["retrained", "none"]
    assert found["accuracy (%)"][1] == "—"
    every = table(frame, "method", "model", [Column("accuracy", split="test")])
    assert every["model"].to_list() == list(dict.fromkeys(frame["method"]))


def test_a_mean_over_fewer_seeds_says_so(accuracies):
    frame, _ = accuracies
    lacking = frame[~((frame["method"] == "newton") & (frame["seed"] == 2))]
    found = table(lacking, "method", "model", [Column("accuracy", split="test")]).set_index("model")["accuracy (%)"]
    assert found["newton"].endswith(" (2 of 3 seeds)")
    assert "of" not in found["retrain"]


def test_a_table_on_its_side_has_a_row_per_quantity(accuracies):
    frame, known = accuracies
    sides = {"step": {"method": "newton"}, "retrained": {"method": "retrain"}}
    found = quantities(frame, [Column("accuracy", split=split) for split in ("test", "forget")], sides)
    assert list(found) == ["quantity", "step", "retrained"]
    values = pd.Series([100 * known["retrain", "forget", seed] for seed in range(3)])
    assert found["retrained"][1] == plus_minus(values)


def test_points_are_ascending_and_without_those_that_are_none():
    frame = long(*(("bound", "newton", "", 0, 1.0) for _ in range(4))).assign(point=[3.0, math.nan, 1.0, 3.0])
    assert points(frame, metric="bound") == [1.0, 3.0]
