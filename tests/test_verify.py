"""Are changed numbers caught, and only those?"""

import math
import shutil
import subprocess
import sys
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cdu import verify
from cdu.cli import app
from cdu.config import REVISIONS, SECTIONS, load_experiment, repository, section_hash
from cdu.errors import CduError
from cdu.records import Metric, read_record, record_path, write_record
from cdu.verify import Key, allowed, compare, numbers, platform_change
from test_records import record

QUICK = load_experiment("quick")
RESULTS = repository() / "results"


@cache
def committed(section):
    """The numbers of all seeds' references."""
    paths = [record_path(RESULTS, "quick", "digits", seed, section) for seed in QUICK.seeds_of(section)]
    return [numbers(read_record(path)) for path in paths]


def excesses(section, changes, elsewhere):
    """What is found when a run gives its reference's numbers but for some."""
    seeds = committed(section)
    return [one for one in compare("a run", {**seeds[0], **changes}, seeds[0], seeds, elsewhere) if one.excess]


BATCHED = sorted({section for _, _, section in QUICK.jobs()})


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("section", BATCHED)
def test_the_references_agree_with_themselves(section, elsewhere):
    assert excesses(section, {}, elsewhere) == []


CHANGES = [
    ("03_unlearning", Key("accuracy", "newton", "test", "", None), 0.05),
    ("06_ablations", Key("accuracy", "original", "test", "damping", 1.0), -0.05),
    ("03_unlearning", Key("distance_to_original", "newton + noise", "", "", None), 0.3),
    ("03_methods", Key("accuracy", "original", "retain", "", None), -0.05),
    ("02_training", Key("projected", "original", "", "epoch", 50.0), -0.05),
    ("04_attacks", Key("auc", "original", "", "", None), 0.2),
    ("04_attacks", Key("members", "", "test", "", None), 1.0),
    ("03_unlearning", Key("converged", "newton", "", "", None), -1.0),
    ("10_audit", Key("trials", "output perturbation", "random, weights", "", None), 1.0),
    ("10_audit", Key("contradicted", "output perturbation", "random, weights", "", None), 1.0),
]


@pytest.mark.parametrize(("section", "key", "shift"), CHANGES)
def test_a_number_that_another_platform_does_not_explain_is_caught(section, key, shift):
    known = committed(section)[0][key]
    assert [one.key for one in excesses(section, {key: known + shift}, elsewhere=True)] == [key]


def test_what_arpack_computes_may_move_in_its_last_digits_on_the_same_platform():
    where = {"method": "network", "split": "", "axis": "", "point": None}
    value, error, other = (Key(metric, **where) for metric in ("lambda_min", "lambda_min_error", "accuracy"))
    known = {value: -0.032, error: 8e-6, other: 0.9}

    def found(changes):
        return [one.key for one in compare("a run", known | changes, known, [known], elsewhere=False) if one.excess]

    assert found({value: -0.032 * (1 + 5e-6), error: 2e-4}) == []
    assert found({value: -0.032 * (1 + 5e-5)}) == [value]
    assert found({error: 5e-4}) == [error]
    assert found({other: 0.9 + 1e-12}) == [other]


def test_an_estimate_from_trials_may_move_within_its_interval_elsewhere():
    names = ("mu", "mu_low", "mu_high", "audit_epsilon")
    mu, low, high, bound = (Key(metric, "rewind", "random, weights", "", None) for metric in names)
    known = {mu: 0.1, low: -0.2, high: 0.6, bound: 0.0}

    def found(changes, elsewhere):
        return [one.key for one in compare("a run", known | changes, known, [known], elsewhere) if one.excess]

    assert found({mu: 0.45, low: -0.5, high: 0.9, bound: 0.4}, elsewhere=True) == []
    assert found({mu: 0.55, low: -0.7, high: 1.1, bound: 0.6}, elsewhere=True) == [mu, low, high, bound]
    assert found({mu: 0.45}, elsewhere=False) == [mu]
    # An end of the interval is infinite, and not recorded, where all trials lie on one side of the threshold.
    assert found({high: None}, elsewhere=True) == []
    assert found({high: None}, elsewhere=False) == [high]
    assert found({mu: None}, elsewhere=True) == [mu]


def test_every_auc_that_is_two_tenths_off_is_caught():
    known = committed("04_attacks")[0]
    for shift in (-0.2, 0.2):
        changed = {key: value + shift for key, value in known.items() if key.metric in {"auc", "attack_auc"}}
        assert {one.key for one in excesses("04_attacks", changed, elsewhere=True)} == set(changed)


@pytest.mark.parametrize("section", BATCHED)
def test_every_certified_epsilon_that_is_one_percent_off_is_caught(section):
    certified = {
        key: value * 1.01
        for key, value in committed(section)[0].items()
        if key.metric in {"epsilon", "certified_epsilon", "sigma_needed", "epsilon_classical"} and value
    }
    assert {one.key for one in excesses(section, certified, elsewhere=True)} == set(certified)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_on_the_same_platform_the_last_bit_counts(data):
    section = data.draw(st.sampled_from(["02_training", "03_unlearning", "06_ablations"]))
    known = committed(section)[0]
    key = data.draw(st.sampled_from([key for key, value in known.items() if value is not None]))
    changed = {key: math.nextafter(known[key], math.inf)}
    found = [one.key for one in excesses(section, changed, elsewhere=False)]
    loose = {*verify.TIMES, *verify.ITERATED, verify.RESIDUAL}
    assert found == ([] if key.metric in loose else [key])


def test_the_smallest_eigenvalue_may_differ_by_as_much_as_the_largest():
    low, high = (Key(f"lambda_{end}", "ridge", "", "", None) for end in ("min", "max"))
    reference = {low: 0.01, high: 1.4}
    for value, caught in ((0.01 + 1.3e-5, []), (0.01 + 1.5e-5, [low])):
        found = compare("a run", {low: value, high: 1.4}, reference, [reference], elsewhere=False)
        assert [one.key for one in found if one.excess] == caught


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
@pytest.mark.parametrize("metric", ["accuracy", "epsilon", "seconds"])
def test_what_is_no_number_against_a_number_is_caught(metric, value, elsewhere):
    key = next(key for key, known in committed("03_unlearning")[0].items() if key.metric == metric and known)
    found = [one.key for one in excesses("03_unlearning", {key: value}, elsewhere)]
    assert found == ([] if metric in verify.TIMES and value is not None else [key])


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("metric", ["accuracy", "seconds"])
def test_a_number_on_one_side_alone_is_caught(metric, elsewhere):
    seeds = committed("02_training")
    key = next(key for key in seeds[0] if key.metric == metric)
    less = {other: value for other, value in seeds[0].items() if other != key}
    for run, reference in ((less, seeds[0]), (seeds[0], less)):
        found = compare(
            "a run", run, reference, [reference, *seeds[1:]] if reference is seeds[0] else [less], elsewhere
        )
        assert [one.key for one in found if one.excess] == [key]


def test_how_long_a_curve_is_may_differ_elsewhere_where_it_differs_between_seeds():
    points = [Key("relearn_loss", method, "", "epoch", float(epoch)) for method in ("a", "b") for epoch in range(4)]
    full = dict.fromkeys(points, 1.0)
    shorter = {key: 1.0 for key in points if key != points[3]}
    found = compare("a run", shorter, full, [full, shorter, full], elsewhere=True)
    assert not any(one.excess for one in found)
    assert [one.key for one in compare("a run", shorter, full, [full, shorter], elsewhere=False) if one.excess] == [
        points[3]
    ]
    cut = {key: 1.0 for key in points if key != points[7]}
    assert [one.key for one in compare("a run", cut, full, [full, shorter], elsewhere=True) if one.excess] == [
        points[7]
    ]


values = st.floats(min_value=-1e6, max_value=1e6)


@settings(max_examples=60, deadline=None)
@given(
    metric=st.sampled_from(["distance", "accuracy", "epsilon", "trials"]),
    seeds=st.lists(values, min_size=3, max_size=5),
)
def test_tolerances_grow_with_the_spread_and_never_with_the_difference(metric, seeds):
    key = Key(metric, "", "", "", None)
    tolerance, rule = allowed(key, {key: seeds[0]}, [{key: value} for value in seeds])
    assert tolerance >= 0
    assert rule
    spread = math.sqrt(sum((value - sum(seeds) / len(seeds)) ** 2 for value in seeds) / (len(seeds) - 1))
    settled = max(seeds) - min(seeds) <= 1e-9 * abs(seeds[0])
    if metric in {"epsilon", "trials"} and settled:
        assert tolerance <= 1e-9 * abs(seeds[0])
    elif metric == "accuracy":
        assert 0.03 <= tolerance <= 0.15
    else:
        assert tolerance >= 3 * spread * (1 - 1e-9)


def test_seconds_are_found_in_every_record_and_names_of_rules_are_those_of_metrics():
    metrics = {key.metric for section in BATCHED for one in committed(section) for key in one}
    assert {name for name in metrics if "second" in name or name.startswith("matrix_")} == verify.TIMES
    rules = [
        verify.TIMES,
        verify.EXACT,
        verify.CLOSED_FORMS,
        verify.SHARES,
        verify.ESTIMATES,
        verify.LOWER_BOUNDS,
    ]
    assert sum(map(len, rules)) == len(frozenset().union(*rules))
    assert frozenset().union(*rules) <= metrics


def test_shares_and_flags_are_what_they_are_called():
    for section in BATCHED:
        for one in committed(section):
            for key, value in one.items():
                if value is not None and key.metric in verify.SHARES:
                    assert 0 <= value <= (3 if key.metric.endswith("_gap") else 1), key
                if value is not None and key.metric in verify.EXACT:
                    assert value == int(value), key


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("threads", 2, "threads 2, reference 1"),
        ("cpu", "Xeon", "processor Xeon, reference x"),
        ("device", "H100", "device H100, reference cpu"),
        ("python", "3.13", "Python 3.13, reference 3"),
    ],
)
def test_what_makes_another_platform_is_named(field, value, words):
    ours = record().model_copy(update={"machine": record().machine.model_copy(update={field: value})})
    assert platform_change(ours, record()) == words
    assert platform_change(record(), record()) == ""


def test_versions_and_the_c_library_make_another_platform_and_the_kernel_does_not():
    newer = record().model_copy(update={"packages": {"torch": "3"}})
    assert platform_change(newer, record()) == "torch 3, reference 2"

    def on(platform):
        return record().model_copy(update={"machine": record().machine.model_copy(update={"platform": platform})})

    one, other = on("Linux-6.1.0-9-x86_64-with-glibc2.36"), on("Linux-6.18.44-fc-v782-x86_64-with-glibc2.36")
    assert platform_change(one, other) == ""
    assert "glibc2.41" in platform_change(on("Linux-6.1.0-x86_64-with-glibc2.41"), other)
    assert "aarch64" in platform_change(on("Linux-6.1.0-aarch64-with-glibc2.36"), other)
    assert platform_change(on("macOS-14.5-arm64-arm-64bit"), on("macOS-15.0-arm64-arm-64bit")) != "macOS"


def test_the_table_holds_excesses_first_and_then_what_comes_closest_to_its_tolerance():
    known = {Key("distance", str(number), "", "", None): 1.0 for number in range(300)}
    slightly = {key: value + 1e-4 * number for number, (key, value) in enumerate(known.items())}
    found = verify.Verification({"a run": ""}, [], compare("a run", slightly, known, [known], elsewhere=True))
    assert found.passed
    assert list(found.table["metric"]) == [f"distance, {number}" for number in range(299, 289, -1)]
    broken = {key: value + 1.0 if key.method in {"7", "8"} else value for key, value in slightly.items()}
    found = verify.Verification({"a run": ""}, [], compare("a run", broken, known, [known], elsewhere=True))
    assert not found.passed
    assert list(found.table["metric"][:3]) == ["distance, 7", "distance, 8", "distance, 299"]
    assert "2 exceed their tolerance" in found.summary


def test_comparing_needs_no_torch():
    code = "import sys, cdu.verify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_two_numbers_that_cannot_be_told_apart_are_refused():
    twice = [Metric(metric="accuracy", value=0.5, method="newton")] * 2
    with pytest.raises(CduError, match="'accuracy, newton' was logged twice"):
        numbers(record(twice))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose runs are its references."""
    for folder in ("experiments", "notebooks"):
        shutil.copytree(repository() / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.ipynb"))
    monkeypatch.chdir(tmp_path)
    chosen = QUICK.settings("digits")
    for _, seed, section in QUICK.jobs():
        made = record([Metric(metric="accuracy", value=0.9 + 0.01 * seed), Metric(metric="seconds", value=1.0)])
        made = made.model_copy(
            update={
                "seed": seed,
                "section": section,
                "settings": chosen.model_dump(mode="json", include=set(SECTIONS[section])),
                "config_hash": section_hash(chosen, "digits", section),
                "revision": REVISIONS[section],
            }
        )
        for folder in ("runs", "results"):
            write_record(made, record_path(tmp_path / folder, "quick", "digits", seed, section))
    return tmp_path


def change(project, folder, update, seed=1, section="02_training"):
    path = record_path(project / folder, "quick", "digits", seed, section)
    write_record(read_record(path).model_copy(update=update), path)


def verified(*arguments):
    return CliRunner().invoke(app, ["verify", *arguments])


def test_a_batch_that_gives_the_references_again_passes(project):
    done = verified()
    jobs = len(QUICK.jobs())
    assert done.exit_code == 0, done.output
    assert f"{jobs} runs, {jobs} metrics; {jobs} compared bit for bit, 0 within tolerances" in done.output
    assert "no difference" in done.output
    assert "digits, seed 2, 03_methods: bit for bit" in done.output
    assert verified("--elsewhere").exit_code == 0


def test_a_changed_number_is_shown_and_fails(project):
    change(project, "runs", {"metrics": [Metric(metric="accuracy", value=0.911), Metric(metric="seconds", value=9.0)]})
    done = verified()
    assert done.exit_code == 1
    assert "1 exceed their tolerance" in done.output
    assert "0.001 beside 0 (digits, seed 1, 02_training, accuracy)" in done.output
    assert "another processor can bear the same name" in done.output
    row = next(line for line in done.output.splitlines() if line.startswith("| digits, seed 1, 02_training"))
    assert "0.91 " in row
    assert "0.911" in row
    assert verified("--elsewhere").exit_code == 0
    rows = (project / "runs" / "quick" / "differences.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * len(QUICK.jobs())


def test_a_run_on_more_threads_is_compared_within_tolerances_and_says_so(project):
    threads = record().machine.model_copy(update={"threads": 2})
    change(project, "runs", {"machine": threads, "metrics": [Metric(metric="accuracy", value=0.9)]})
    done = verified()
    assert "digits, seed 1, 02_training: within tolerances: threads 2, reference 1" in done.output
    assert done.exit_code == 1  # its seconds are missing
    change(project, "runs", {"metrics": [Metric(metric="accuracy", value=0.9), Metric(metric="seconds", value=3.0)]})
    assert verified().exit_code == 0


@pytest.mark.parametrize(
    ("folder", "update", "message"),
    [
        ("runs", {"revision": 99}, "is of revision 99 of its numbers, not 1; run the batch"),
        ("results", {"revision": 99}, "is of revision 99 of its numbers, not 1; 'make reference'"),
        ("results", {"config_hash": "0" * 12}, "was made with other settings than those here; 'make reference'"),
        ("runs", {"split_hash": "0" * 12}, "other samples are forgotten"),
    ],
)
def test_records_of_other_code_or_settings_fail_and_are_named(project, folder, update, message):
    change(project, folder, update)
    done = verified()
    assert done.exit_code == 1
    assert message in done.output
    assert "not compared: digits, seed 1, 02_training" in done.output
    assert "1 runs could not be compared" in done.output


@pytest.mark.parametrize("folder", ["runs", "results"])
def test_a_missing_record_fails(project, folder):
    record_path(project / folder, "quick", "digits", 1, "02_training").unlink()
    done = verified()
    assert done.exit_code == 1
    assert "is missing" in done.output
