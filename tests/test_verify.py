"""Are changed numbers caught, and only those? What is compared by means over seeds: test_chaotic, test_planted."""

import math
import shutil
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cdu.cli import app
from cdu.errors import CduError
from cdu.experiments.experiment import load_experiment
from cdu.experiments.metrics import MetricKind, kind
from cdu.experiments.records import Metric, read_record, record_path, write_record
from cdu.experiments.repository import repository
from cdu.experiments.sections import COMMON, REVISIONS, SECTIONS, section_hash
from cdu.verification import kinds, verify
from cdu.verification.comparison import MEAN, Batch, Difference, Place, Undefined, compare, means, numbers, undefined
from cdu.verification.kinds import Key, Kind
from cdu.verification.verify import platform_change
from test_records import record

QUICK = load_experiment("quick")
RESULTS = repository() / "results"
HERE = Place("quick", "digits", 0, "03_unlearning")


@cache
def committed(section):
    """The numbers of all seeds' references."""
    paths = [record_path(RESULTS, "quick", "digits", seed, section) for seed in QUICK.seeds_of(section)]
    return [numbers(read_record(path)) for path in paths]


def excesses(section, changes, elsewhere):
    """What is found, number by number, when a run gives its reference's numbers but for some."""
    seeds = committed(section)
    found = compare(HERE._replace(section=section), {**seeds[0], **changes}, seeds[0], seeds, elsewhere, samples=100)
    return [one for one in found if one.excess]


def shifted(section, changes):
    """What is found, by means over seeds, when every seed of a run differs from its reference by some shifts."""
    seeds = committed(section)
    runs = [
        {key: value + changes.get(key, 0.0) if value is not None else None for key, value in one.items()}
        for one in seeds
    ]
    return [one.key for one in means("quick", {("digits", section): Batch(runs, seeds)}) if one.excess]


BATCHED = sorted({section for _, _, section in QUICK.jobs()})


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("section", BATCHED)
def test_the_references_agree_with_themselves(section, elsewhere):
    assert excesses(section, {}, elsewhere) == []
    assert shifted(section, {}) == []


CHANGES = [
    ("04_attacks", Key("members", "", "test", "", None), 1.0),
    ("03_unlearning", Key("converged", "newton", "", "", None), -1.0),
    ("03_unlearning", Key("gradient_samples", "retrain", "", "", None), 1.0),
    ("03_unlearning", Key("distance_to_original", "original + noise", "", "", None), 0.003),
    ("03_unlearning", Key("accuracy", "newton", "forget", "", None), -0.005),
    ("10_audit", Key("trials", "output perturbation", "random, weights", "", None), 1.0),
    ("10_audit", Key("contradicted", "output perturbation", "random, weights", "", None), 1.0),
    ("01_theory", Key("ridge_distance", "", "", "", None), 1e-6),
    ("01_theory", Key("monte_carlo_z", "σ for ε = 1", "", "epsilon", 1.0), 1e-4),
    ("01_theory", Key("l2_price", "pixels", "", "", None), -0.02),
]


@pytest.mark.parametrize(("section", "key", "shift"), CHANGES)
def test_a_number_that_another_platform_does_not_explain_is_caught(section, key, shift):
    known = committed(section)[0]
    key = next(one for one in known if one[0] == key[0] and one[1].startswith(key[1]) and one.split == key.split)
    assert [one.key for one in excesses(section, {key: known[key] + shift}, elsewhere=True)] == [key]


MOVED = [
    ("03_unlearning", Key("accuracy", "newton", "test", "", None), -0.2),
    ("03_unlearning", Key("distance_to_retrained", "newton", "", "", None), 10.0),
    ("06_ablations", Key("accuracy", "original", "test", "damping", 1.0), -0.2),
    ("04_attacks", Key("auc", "original", "", "", None), 0.5),
    ("05_relearn", Key("target_loss", "", "", "", None), 20.0),
]


@pytest.mark.parametrize(("section", "key", "shift"), MOVED)
def test_a_mean_over_seeds_that_other_seeds_do_not_explain_is_caught(section, key, shift):
    assert shifted(section, {key: shift}) == [key]
    assert shifted(section, {key: shift / 1000}) == []


def test_a_chaotic_number_may_be_another_by_itself():
    key = Key("accuracy", "newton", "test", "", None)
    assert excesses("03_unlearning", {key: 0.1}, elsewhere=True) == []
    assert [one.key for one in excesses("03_unlearning", {key: 0.1}, elsewhere=False)] == [key]


def test_what_arpack_computes_may_move_in_its_last_digits_on_the_same_platform():
    where = {"method": "network", "split": "", "axis": "", "point": None}
    value, error, other = (Key(metric, **where) for metric in ("lambda_min", "lambda_min_error", "accuracy"))
    known = {value: -0.032, error: 8e-6, other: 0.9}

    def found(changes):
        return [one.key for one in compare(HERE, known | changes, known, [known], elsewhere=False) if one.excess]

    assert found({value: -0.032 * (1 + 5e-6), error: 2e-4}) == []
    assert found({value: -0.032 * (1 + 5e-5)}) == [value]
    assert found({error: 5e-4}) == [error]
    assert found({other: 0.9 + 1e-12}) == [other]


def test_an_estimate_from_trials_may_move_within_both_intervals_elsewhere():
    names = ("mu", "mu_low", "mu_high", "audit_epsilon")
    mu, low, high, bound = (Key(metric, "rewind", "random, weights", "", None) for metric in names)
    known = {mu: 0.1, low: -0.2, high: 0.6, bound: 0.0}

    def found(changes):
        batch = Batch([known | changes], [known])
        return [one.key for one in means("quick", {("digits", "10_audit"): batch}) if one.excess]

    # Standard error 0.8/(2·2.05·√2) = 0.138 on either side, and 3.02 of √2 times that at level 0.01/4: 0.588.
    assert found({mu: 0.68, low: 0.38, high: 1.18, bound: 0.4}) == []
    assert found({mu: 0.7, low: 0.4, high: 1.2, bound: 0.6}) == [mu, low, high, bound]


def test_an_end_of_an_interval_may_be_infinite_elsewhere():
    mu, high = (Key(metric, "rewind", "random, weights", "", None) for metric in ("mu", "mu_high"))
    known = {mu: 0.1, high: 0.6}

    def found(changes, elsewhere):
        place = HERE._replace(section="10_audit")
        return [one.key for one in compare(place, known | changes, known, [known], elsewhere) if one.excess]

    assert found({high: None}, elsewhere=True) == []
    assert found({high: None}, elsewhere=False) == [high]
    assert found({mu: None}, elsewhere=True) == [mu]


def test_a_wrong_noise_is_caught_by_the_norm_of_its_draw_alone():
    key = Key("distance_to_original", "original + noise", "", "", None)
    known = committed("03_unlearning")[0][key]
    assert [one.key for one in excesses("03_unlearning", {key: 2 * known}, elsewhere=True)] == [key]


@pytest.mark.parametrize("section", BATCHED)
def test_every_certified_epsilon_and_sigma_that_is_one_percent_off_is_caught(section):
    certified = {
        key: value * 1.01
        for key, value in committed(section)[0].items()
        if key.metric in {"epsilon", "certified_epsilon", "sigma", "sigma_needed", "epsilon_classical"}
        and value
        and kinds.kind_of(section, key, committed(section)[0]) == Kind.EXACT
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
    loose = key.metric == kinds.RESIDUAL or kind(key.metric) in {MetricKind.TIME, MetricKind.ITERATED}
    assert found == ([] if loose else [key])


def test_the_smallest_eigenvalue_may_differ_by_as_much_as_the_largest():
    low, high = (Key(f"lambda_{end}", "ridge", "", "", None) for end in ("min", "max"))
    reference = {low: 0.01, high: 1.4}
    for value, caught in ((0.01 + 1.3e-5, []), (0.01 + 1.5e-5, [low])):
        found = compare(HERE, {low: value, high: 1.4}, reference, [reference], elsewhere=False)
        assert [one.key for one in found if one.excess] == caught


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
@pytest.mark.parametrize("metric", ["accuracy", "epsilon", "seconds"])
def test_what_is_no_number_against_a_number_is_caught(metric, value, elsewhere):
    key = next(key for key, known in committed("03_unlearning")[0].items() if key.metric == metric and known)
    found = [one.key for one in excesses("03_unlearning", {key: value}, elsewhere)]
    assert found == ([] if kind(metric) is MetricKind.TIME and value is not None else [key])


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("metric", ["accuracy", "seconds"])
def test_a_number_on_one_side_alone_is_caught(metric, elsewhere):
    seeds = committed("02_training")
    key = next(key for key in seeds[0] if key.metric == metric)
    less = {other: value for other, value in seeds[0].items() if other != key}
    for run, reference in ((less, seeds[0]), (seeds[0], less)):
        found = compare(HERE, run, reference, [reference, *seeds[1:]] if reference is seeds[0] else [less], elsewhere)
        assert [one.key for one in found if one.excess] == [key]


def test_how_long_a_curve_is_may_differ_elsewhere_where_it_differs_between_seeds():
    points = [Key("relearn_loss", method, "", "epoch", float(epoch)) for method in ("a", "b") for epoch in range(4)]
    full = dict.fromkeys(points, 1.0)
    shorter = {key: 1.0 for key in points if key != points[3]}
    found = compare(HERE, shorter, full, [full, shorter, full], elsewhere=True)
    assert not any(one.excess for one in found)
    assert [one.key for one in compare(HERE, shorter, full, [full, shorter], elsewhere=False) if one.excess] == [
        points[3]
    ]
    cut = {key: 1.0 for key in points if key != points[7]}
    assert [one.key for one in compare(HERE, cut, full, [full, shorter], elsewhere=True) if one.excess] == [points[7]]


def test_a_curve_may_be_as_long_as_its_own_count_of_epochs_elsewhere():
    count = Key("epochs", "rewind", "", "", None)

    def curve(epochs, points):
        return {count: epochs} | {Key("relearn_loss", "rewind", "", "epoch", float(one)): 1.0 for one in range(points)}

    def found(run, elsewhere=True):
        return [one.key for one in compare(HERE, run, curve(3.0, 4), [curve(3.0, 4)] * 3, elsewhere) if one.excess]

    assert found(curve(2.0, 3)) == []
    assert found(curve(5.0, 6)) == []
    assert len(found(curve(3.0, 3))) == 1
    assert len(found(curve(2.0, 3), elsewhere=False)) == 2


def test_a_method_may_be_undefined_elsewhere_where_its_record_says_why():
    note = "conjugate gradient met curvature -0.1 in H + λI, so the Newton step is undefined: λ = 0.1"
    one = record([Metric(metric="accuracy", value=None, method="newton, λ code", note=note)])
    assert undefined(one) == {Undefined("newton, λ code", "", None)}
    assert undefined(record([Metric(metric="accuracy", value=None, method="newton", note="diverged")])) == frozenset()
    key = Key("auc", "newton, λ code", "", "", None)
    for known, missing in ((undefined(one), []), (frozenset(), [key])):
        found = compare(HERE, {}, {key: 0.5}, [{key: 0.5}], True, missing=known)
        assert [one.key for one in found if one.excess] == missing
    at = Undefined("newton", "damping", 0.1)
    assert at.covers(Key("auc", "newton", "", "damping", 0.1))
    assert not at.covers(Key("auc", "newton", "", "damping", 1.0))


def test_shares_and_counts_are_what_they_are_called():
    for section in BATCHED:
        for one in committed(section):
            for key, value in one.items():
                if value is not None and kind(key.metric) is MetricKind.SHARE:
                    assert 0 <= value <= (3 if key.metric.endswith("_gap") else 1), key
                if value is not None and kind(key.metric) in kinds.COUNTS:
                    assert value == int(value), key


@pytest.mark.parametrize("section", BATCHED)
def test_exact_numbers_are_the_same_at_every_seed(section):
    """But for the constants of the theory's convex problems, which follow from the data."""
    first, *others = committed(section)
    for key, value in first.items():
        if kinds.kind_of(section, key, first) == Kind.EXACT and not key.metric.startswith("known_"):
            # Long chains of requests are answered in the first seed alone.
            found = [one[key] for one in others if key in one or section != kinds.LINEAR]
            assert all(one == value or abs(one - value) <= 1e-9 * abs(value) for one in found), key


@given(samples=st.integers(1, 2000), data=st.data())
def test_whole_numbers_of_samples_are_told_from_others(samples, data):
    right = data.draw(st.integers(0, samples))
    assert kinds.whole(right / samples, samples)
    assert not kinds.whole((right + 0.5) / samples, samples)


def test_means_over_draws_of_the_noise_need_be_no_whole_number_of_samples():
    clean, noisy = Key("accuracy", "newton", "forget", "", None), Key("accuracy", "newton", "forget", "sigma", 1.0)
    other = noisy._replace(point=0.1)
    known = {clean: 0.97, noisy: 0.413, other: 0.97}
    assert kinds.gridded([known], 100) == {("accuracy", "forget", "")}
    assert kinds.gridded([known], None) == set()


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


def difference(method, value, excess=False):
    key = Key("distance", method, "", "", None)
    return Difference(HERE, Kind.CONTINUOUS, key, 1.0, value, abs(value - 1), 0.1, "a rule", excess)


def test_the_table_holds_excesses_first_and_then_what_comes_closest_to_its_tolerance():
    found = verify.Verification({"a run": ""}, [], [difference(str(one), 1 + 1e-4 * one) for one in range(300)])
    assert found.passed
    assert list(found.table["metric"]) == [f"distance, {number}" for number in range(299, 289, -1)]
    broken = [*found.differences, difference("a", 2.0, True), difference("b", 2.0, True)]
    found = verify.Verification({"a run": ""}, [], broken)
    assert not found.passed
    assert list(found.table["metric"][:3]) == ["distance, a", "distance, b", "distance, 299"]
    assert "2 exceed their tolerance" in found.summary


def test_runs_are_summed_up_with_the_excesses_of_their_means():
    key = Key("accuracy", "newton", "", "", None)
    mean = Difference(HERE._replace(seed=None), MEAN, key, 1.0, 2.0, 1.0, 0.1, "a rule", True)
    other = Difference(HERE._replace(seed=1), Kind.CHAOTIC, key, 1.0, 1.25, 0.25, None, "a rule", False)
    seconds = Difference(HERE, Kind.TIME, key._replace(metric="seconds"), 1.0, 9.0, 8.0, None, "a time", False)
    found = verify.Verification({}, [], [difference("a", 1.0), difference("b", 1.05), seconds, other, mean])
    assert found.runs.to_dict("records") == [
        {
            **{"experiment": "quick", "dataset": "digits", "seed": 0, "section": "03_unlearning"},
            **{"numbers": 2, "equal": 1, "largest_move": pytest.approx(0.05 / 1.05), "excesses": 1},
        },
        {
            **{"experiment": "quick", "dataset": "digits", "seed": 1, "section": "03_unlearning"},
            **{"numbers": 1, "equal": 0, "largest_move": 0.2, "excesses": 1},
        },
    ]


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
                "settings": chosen.model_dump(mode="json", include={*COMMON, *SECTIONS[section].blocks}),
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
    # The "accuracy" of the theory and of linear models is of no network.
    numbers, averages = 2 * len(QUICK.jobs()), len(set(BATCHED)) - 2
    assert len(rows) == 1 + numbers + averages


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
