"""Is every metric registered once, with a kind that its committed numbers bear out?"""

import csv
import re
from collections import defaultdict

import pytest

from cdu.experiments import metrics
from cdu.experiments.metrics import QUANTITIES, UNREAD, MetricKind, kind, quantity
from cdu.experiments.records import read_record
from cdu.experiments.repository import repository

ROOT = repository()


@pytest.fixture(scope="module")
def committed():
    """All values of every metric in the committed records."""
    found = defaultdict(list)
    for folder in ("results", "tests/canaries"):
        for path in (ROOT / folder).glob("*/*/seed-*/*.json"):
            for one in read_record(path).metrics:
                found[one.metric].append(one.value)
    return {name: [value for value in values if value is not None] for name, values in found.items()}


def test_a_name_is_registered_once():
    assert len(metrics._ALL) == len(QUANTITIES)


def test_the_committed_records_hold_registered_metrics_and_all_of_them(committed):
    assert set(committed) == set(QUANTITIES)


def test_the_values_of_further_seeds_are_of_registered_metrics():
    for path in (ROOT / "results" / "spread").glob("*/*.csv"):
        with path.open(encoding="utf-8", newline="") as stream:
            assert {row["metric"] for row in csv.DictReader(stream)} <= set(QUANTITIES)


def test_counts_are_whole_numbers_and_shares_are_no_larger_than_their_sum(committed):
    for name, values in committed.items():
        what = kind(name)
        if what in {MetricKind.COUNT, MetricKind.WORK, MetricKind.EPOCHS}:
            assert all(value == int(value) >= 0 for value in values), name
        if what in {MetricKind.SHARE, MetricKind.PAIRS}:
            assert all(0 <= value <= (3 if name.endswith("_gap") else 1) for value in values), name
        if what is MetricKind.TIME:
            assert all(value >= 0 for value in values), name


def test_what_is_called_after_seconds_is_a_time():
    timed = {MetricKind.TIME, MetricKind.BENCHMARK}
    assert all(kind(name) in timed for name in QUANTITIES if "second" in name)


def test_units_and_factors():
    assert (quantity("accuracy").title, quantity("accuracy").factor) == ("accuracy (%)", 100)
    assert (quantity("seconds").title, quantity("seconds").factor) == ("time (s)", 1)
    assert (quantity("memory").factor * 2**20, quantity("auc").title) == (1, "AUC")
    assert set(metrics.FACTORS) <= {one.unit for one in QUANTITIES.values()}


def test_only_what_is_said_to_be_unread_is_unread():
    """By its name in the report's sources; ends of intervals are read by the name that they are the ends of."""
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "cdu" / "report").rglob("*.py"))
    words = set(re.findall(r"[\"'](\w+)(?=[\"', ])", text))
    ends = re.compile("_(low|high|error)$")
    unread = {name for name in QUANTITIES if not {name, ends.sub("", name)} & words}
    # These are also names of axes, settings and chapters' parts.
    assert unread | {"batches", "depth", "requests"} == UNREAD
