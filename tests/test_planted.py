"""Does a batch with an error in it fail on another platform?

``tests/planted`` holds numbers that the notebooks gave with one line of the code changed, which every file names, on an
Intel processor; the references are from an AMD processor. Where an error changes recorded numbers in a known way, the
references with that change stand for the run.
"""

import json
from functools import cache
from pathlib import Path

import pytest

from cdu.certification import classical_sigma
from cdu.experiments.experiment import load_experiment
from cdu.experiments.records import read_record, record_path
from cdu.experiments.repository import repository
from cdu.verification.comparison import MEAN, Batch, Place, compare, means, numbers, undefined
from cdu.verification.kinds import Key, Kind
from cdu.verification.spreads import read_spread

RESULTS = repository() / "results"
PLANTED = Path(__file__).parent / "planted"


@cache
def committed(experiment):
    """The records of an experiment on digits, by section and seed."""
    found = {}
    for dataset, seed, section in load_experiment(experiment).jobs():
        if dataset == "digits":
            found.setdefault(section, {})[seed] = read_record(record_path(RESULTS, experiment, dataset, seed, section))
    return found


@cache
def known_numbers(experiment, section):
    """Those records' numbers, in the order of the seeds."""
    return [numbers(one) for one in committed(experiment)[section].values()]


def caught(experiment, section, changes):
    """By which kinds of comparison, and by which metrics, a run is caught that differs from the references.

    Args:
        experiment: The experiment; all of its sections are compared, since that sets the level of every test.
        section: The section that differs.
        changes: By seed the numbers that differ.
    """
    spread = read_spread(RESULTS, experiment, "digits")
    found, batches = set(), {}
    for name, records in committed(experiment).items():
        references = known_numbers(experiment, name)
        runs = [
            {**known, **(changes.get(seed, {}) if name == section else {})}
            for seed, known in zip(records, references, strict=True)
        ]
        batches["digits", name] = Batch(runs, references, spread.get(name, []))
        if section not in ("", name):
            continue  # equal, number by number
        for (seed, record), run, known in zip(records.items(), runs, references, strict=True):
            place = Place(experiment, "digits", seed, name)
            samples = load_experiment(experiment).settings("digits").forget.size
            found |= {
                (one.kind, one.key.metric)
                for one in compare(place, run, known, references, True, samples, undefined(record))
                if one.excess
            }
    return found | {(MEAN, one.key.metric) for one in means(experiment, batches) if one.excess}


def planted(name):
    """The experiment and section of a planted error, and by seed what the notebooks gave."""
    content = json.loads((PLANTED / f"{name}.json").read_text(encoding="utf-8"))
    changes = {seed: {} for seed in range(3)}
    for *key, first, second, third in content["rows"]:
        for seed, value in enumerate((first, second, third)):
            changes[seed][Key(*key)] = value
    return content["experiment"], content["section"], changes


def changed(section, rule):
    """By seed the reference's numbers of ``quick`` for which ``rule`` gives others."""
    return {
        seed: {key: rule(key, value) for key, value in numbers(record).items() if rule(key, value) is not None}
        for seed, record in committed("quick")[section].items()
    }


@pytest.mark.parametrize("experiment", ["quick", "batchnorm"])
def test_nothing_is_found_where_nothing_is_wrong(experiment):
    assert caught(experiment, "", {}) == set()


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("swap", {(MEAN, "hvp_samples"), (MEAN, "distance_to_original")}),
        ("lambda10", {(Kind.EXACT, "converged"), (MEAN, "distance_to_original"), (MEAN, "residual")}),
        ("nonoise", {(Kind.CONTINUOUS, "distance_to_original"), (MEAN, "accuracy"), (MEAN, "distance_to_original")}),
        ("attackfit", {(MEAN, "attack_auc")}),
        ("batchnorm", {(Kind.CHAOTIC, "auc"), (MEAN, "distance_to_original")}),
    ],
)
def test_a_run_with_a_planted_error_fails(name, rules):
    found = caught(*planted(name))
    assert rules <= found, found


def test_accuracies_of_forget_and_retain_that_change_places_are_found():
    """By the forget set's samples: a share of 1,397 is no whole number of hundredths."""
    other = {"forget": "retain", "retain": "forget"}
    changes = {}
    for seed, record in committed("quick")["03_methods"].items():
        known = numbers(record)
        own = [key for key in known if key[:2] == ("accuracy", "fine-tuning") and key.split in other]
        changes[seed] = {key: known[key._replace(split=other[key.split])] for key in own}
    assert (Kind.CHAOTIC, "accuracy") in caught("quick", "03_methods", changes)


def test_a_doubled_sigma_is_found_where_it_is_recorded():
    doubled = changed("03_unlearning", lambda key, value: 2 * value if key.metric == "sigma" else None)
    assert caught("quick", "03_unlearning", doubled) == {(Kind.EXACT, "sigma")}


def test_a_doubled_sigma_is_found_where_only_the_draw_shows_it():
    def rule(key, value):
        noisy = key.metric == "distance_to_original" and key.method.startswith("original + noise")
        return 2 * value if noisy else None

    assert caught("quick", "03_unlearning", changed("03_unlearning", rule)) == {
        (Kind.CONTINUOUS, "distance_to_original")
    }


def test_the_classical_sigma_in_place_of_the_exact_one_is_found():
    chosen = load_experiment("quick").settings("digits")
    noise = chosen.unlearning
    classical = classical_sigma(noise.epsilon, noise.delta, 2 * chosen.training.radius)

    def rule(key, value):
        return classical if key.metric == "sigma_needed" else None

    assert caught("quick", "03_unlearning", changed("03_unlearning", rule)) == {(Kind.EXACT, "sigma_needed")}
