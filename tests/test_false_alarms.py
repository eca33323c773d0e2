"""Are false alarms between seeds counted as they are, and do the committed seeds of MNIST raise none?"""

import json

import pytest

from cdu.errors import CduError
from cdu.experiments.repository import repository
from cdu.verification import false_alarms
from cdu.verification.comparison import ERROR, numbers
from cdu.verification.spreads import read_spread, spread_path, write_spread
from cdu.verification.words import Changed

RESULTS = repository() / "results"


@pytest.fixture(scope="module")
def every():
    """The ten seeds of the sections with the fewest numbers; the program takes all."""
    return false_alarms.read([RESULTS / "mnist" / "mnist"], ["02_training", "03_unlearning"])


def test_sides_are_disjoint_and_of_three_seeds():
    for reference, run, others in false_alarms.disjoint(range(10), draws=5):
        assert len(reference) == len(run) == 3
        assert sorted([*reference, *run, *others]) == list(range(10))


@pytest.mark.parametrize("spread", [False, True])
def test_other_seeds_raise_no_alarm(every, spread):
    for reference, run, others in false_alarms.disjoint(every.seeds, draws=5):
        assert not false_alarms.alarms(every, reference, run, others if spread else (), verdicts=False)


def test_verdicts_of_other_seeds_do_not_contradict_each_other(every):
    found = false_alarms.alarms(every, [0, 1, 2], [3, 4, 5])
    assert all(rule.startswith(false_alarms.CHANGED) for rule in found)


def test_a_side_that_is_another_method_raises_alarms(every):
    wrong = false_alarms.read([RESULTS / "mnist" / "mnist"], ["03_unlearning"])
    for seed in (3, 4, 5):
        record = wrong.records["03_unlearning"][seed]
        metrics = [
            one.model_copy(update={"value": 100 * one.value}) if one.metric.startswith("distance") else one
            for one in record.metrics
        ]
        wrong.records["03_unlearning"][seed] = record.model_copy(update={"metrics": metrics})
    found = false_alarms.alarms(wrong, [0, 1, 2], [3, 4, 5], verdicts=False)
    assert any("distance_to_retrained" in rule for rule in found)


def test_too_few_seeds_are_refused():
    with pytest.raises(CduError, match="no section has 6 seeds"):
        false_alarms.read([RESULTS / "batchnorm" / "digits"])


def test_the_committed_counts_hold_the_stated_rate():
    counts = json.loads((RESULTS / "false_alarms.json").read_text(encoding="utf-8"))
    assert {one["dataset"] for one in counts} == {"mnist", "digits"}
    assert sum(one["alarms"] for one in counts) <= ERROR * sum(one["comparisons"] for one in counts)


@pytest.mark.parametrize(
    ("reference", "here", "alarm"),
    [
        ("holds", "does not hold", True),
        ("does not hold", "holds but says nothing", True),
        ("holds", "not testable here", False),
        ("not testable here", "does not hold", False),
        ("holds", "holds but says nothing", False),
    ],
)
def test_only_contradictions_are_alarms(reference, here, alarm):
    change = Changed("digits", "C5", reference, here)
    assert change.contradicts == alarm
    assert f"'{here}' here, '{reference}' in the reference" in change.words


def test_further_seeds_are_kept_to_four_digits(every, tmp_path):
    seeds = {"03_unlearning": [numbers(every.records["03_unlearning"][seed]) for seed in (3, 4)]}
    write_spread(seeds, [3, 4], spread_path(tmp_path, "mnist", "mnist"))
    found = read_spread(tmp_path, "mnist", "mnist")["03_unlearning"]
    for kept, known in zip(found, seeds["03_unlearning"], strict=True):
        assert len(kept) > 50
        for key, value in kept.items():
            assert value == pytest.approx(known[key], rel=1e-3)
    assert read_spread(tmp_path, "quick", "digits") == {}
