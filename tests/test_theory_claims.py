"""The rules of the theory's statements, on planted results of every kind."""

import pandas as pd
import pytest

from cdu.report.theory_claims import (
    DELETIONS,
    SAME_STEP,
    SECTION,
    SIMULATION,
    THEORY_CLAIMS,
    UNBIASED,
    USEFUL_LOSS,
    decide,
)
from cdu.unlearning.names import NETWORK, SMOOTH

SEEDS = range(5)
WIGGLE = [-1.0, 0.5, 0.0, 0.7, -0.2]
COLUMNS = ["section", "seed", "metric", "value", "method", "split", "axis", "point", "note"]


def rows(metric, value, spread=0.0, seeds=SEEDS, **keys):
    base = {"section": SECTION, "metric": metric, "method": "", "split": "", "axis": "", "point": None, "note": ""}
    return [{**base, **keys, "seed": seed, "value": value + spread * WIGGLE[seed % 5]} for seed in seeds]


def verdict(identifier, *parts):
    return decide(identifier, pd.DataFrame([row for part in parts for row in part], columns=COLUMNS))


def word(identifier, *parts):
    return verdict(identifier, *parts).word


def simulated(z):
    return [*rows("monte_carlo_z", 0.1, 1.0, axis="epsilon", point=1.0), *rows("monte_carlo_z", z, axis="epsilon")]


def ratios(small, large):
    """σ over the exact one, for ε of at most one and for larger ε."""
    parts = rows("crossover", 6.0, method="δ = 1e-05")
    for point, value in ((0.1, small), (1.0, small), (100.0, large)):
        parts += rows("sigma_ratio", value, method="δ = 1e-05", axis="epsilon", point=point)
    return parts


def ridge(error):
    return rows("ridge_error", error) + rows("ridge_distance", 0.1)


def slopes(**values):
    names = {"fixed": "one fixed set", "random": "random", "one_class": "one class"}
    return [row for key, value in values.items() for row in rows("slope", value, 0.05, method=names[key])]


def forms(optimum, unexplained):
    parts = []
    for point, value in ((1e-11, optimum), (1e-3, 0.1), (1e-1, 3.0)):
        keys = {"method": "softmax", "axis": "gradient norm", "point": point}
        parts += rows("forms_difference", value, **keys) + rows("forms_unexplained", unexplained, **keys)
    return parts


def bounds(method, axis, *pairs, trivial=10.0):
    """Pairs of an error and its bound, at one point each; 2C is ten."""
    parts = rows("trivial_bound", trivial, method=method)
    for point, (error, bound) in enumerate(pairs, start=1):
        keys = {"method": method, "axis": axis, "point": float(point)}
        parts += rows("distance", error, **keys) + rows("bound", bound, **keys)
    return parts


def biases(p):
    keys = {"axis": "depth", "point": 5.0}
    parts = rows("lissa_bias_p", 0.5, **keys) + rows("lissa_bias", 0.01, **keys)
    parts += rows("lissa_bias_noise", 0.01, **keys)
    return parts + rows("lissa_bias_p", p, seeds=[0], axis="depth", point=20.0)


def batches(split, share, method=NETWORK):
    keys = {"method": method, "split": split}
    return (
        rows("batch_condition", 1.0, seeds=[0, 1, 2, 3], **keys)
        + rows("batch_condition", share, seeds=[4], **keys)
        + rows("batch_lambda_min", -0.1, **keys)
        + rows("batch_lambda_max", 3.0, **keys)
    )


def lissa(added, term, bound):
    parts = rows("lissa_added", added) + rows("failure", 1e-6) + rows("trivial_bound", 10.0, method=NETWORK)
    parts += rows("lissa_bound", bound - term, method="exact")
    for form, factor in (("printed, logarithm", 1.0), ("derived", 1.5)):
        parts += rows("lissa_term", factor * term, method=form) + rows("lissa_bound", bound + term, method=form)
    return parts


def control(ratio, deletions=DELETIONS, seeds=SEEDS):
    parts = []
    for number in range(deletions // len(seeds)):
        for steps in (0.0, 1.0, 2.0):
            keys = {"method": f"row {number}", "axis": "steps", "point": steps}
            parts += rows("ratio", ratio if steps == 2 else 0.3, seeds=seeds, **keys)
            parts += rows("fallback", float(steps == 0), seeds=seeds, **keys)
    return parts


def noisy(*losses, spread=0.0):
    parts = []
    for number, loss in enumerate(losses):
        keys = {"method": f"row {number}", "axis": "steps", "point": 2.0}
        parts += rows("accuracy", 0.9, split="test", **keys)
        parts += rows("accuracy", 0.9 - loss, spread, split="test, ε = 1", **keys)
        # Other noise and other steps, at which nothing is left, must not matter.
        parts += rows("accuracy", 0.1, split="test, ε = 0.1", **keys)
        parts += rows("accuracy", 0.1, split="test, ε = 1", **{**keys, "point": 0.0})
    return parts


HELD, FAILED, EMPTY = "holds", "does not hold", "holds but says nothing"

CASES = [
    ("T1", HELD, simulated(SIMULATION)),
    ("T1", FAILED, simulated(SIMULATION + 0.01)),
    ("T1", FAILED, simulated(-SIMULATION - 0.01)),
    ("T2", HELD, ratios(1.0, 0.5)),
    ("T2", FAILED, ratios(0.999, 2.0)),
    ("T3", HELD, ratios(1.2, 1.0)),
    ("T3", FAILED, ratios(1.2, 0.999)),
    ("T4", HELD, ridge(1e-8)),
    ("T4", FAILED, ridge(1.1e-8)),
    ("T5", HELD, slopes(fixed=1.9)),
    ("T5", FAILED, slopes(fixed=1.8)),
    ("T5", FAILED, slopes(fixed=2.2)),
    ("T6", HELD, slopes(random=1.25, one_class=1.75)),
    ("T6", FAILED, slopes(random=1.35, one_class=2.0)),
    ("T6", FAILED, slopes(random=1.0, one_class=1.65)),
    ("T7", HELD, forms(SAME_STEP, SAME_STEP)),
    ("T7", FAILED, forms(1.1 * SAME_STEP, 0.0)),
    ("T7", FAILED, forms(0.0, 1.1 * SAME_STEP)),
    ("T13", HELD, batches("batch 128", 1.0) + batches("batch 10", 0.0)),
    ("T13", FAILED, batches("batch 128", 0.95) + batches("batch 10", 1.0)),
    ("T13", HELD, batches("batch 128", 1.0) + batches("batch 128", 0.0, SMOOTH)),
    ("T14", HELD, batches("batch 10", 1.0) + batches("batch 128", 0.0)),
    ("T14", FAILED, batches("batch 10", 0.95) + batches("batch 128", 1.0)),
    ("T12", HELD, biases(1.1 * UNBIASED / 6)),
    ("T12", FAILED, biases(0.9 * UNBIASED / 6)),
    ("T15", HELD, lissa(0.1, 0.1, 5.0)),
    ("T15", EMPTY, lissa(0.1, 0.2, 50.0)),
    ("T15", FAILED, lissa(0.1, 0.09, 5.0)),
    ("T15", FAILED, lissa(0.1, 0.09, 50.0)),
    ("T18", HELD, control(1.0)),
    ("T18", FAILED, control(1.01)),
    ("T18", "not testable here", control(0.5, DELETIONS - len(SEEDS))),
    ("T18", "not testable here", control(1.5, DELETIONS - len(SEEDS))),
    ("T19", HELD, noisy(USEFUL_LOSS / 2, -0.01, spread=1e-4)),
    ("T19", FAILED, noisy(0.0, 2 * USEFUL_LOSS, spread=1e-4)),
    ("T19", "not testable here", noisy(0.0, USEFUL_LOSS, spread=1e-3)),
]

BOUNDS = {"T8": ("damping", ["ridge"]), "T9": ("damping", ["softmax"]), "T10": ("damping", [SMOOTH])}
BOUNDS |= {"T16": ("epochs", [SMOOTH]), "T17": ("request", ["softmax", SMOOTH])}
PLANTED = {
    HELD: [(1.0, 1.0), (5.0, 20.0)],
    FAILED: [(1.0, 2.0), (2.001, 2.0)],
    EMPTY: [(1.0, 10.0), (5.0, 20.0)],
}
CASES += [
    (identifier, expected, [row for method in methods for row in bounds(method, axis, *pairs)])
    for identifier, (axis, methods) in BOUNDS.items()
    for expected, pairs in PLANTED.items()
]
RELU = "assumption violated"
CASES += [("T11", RELU, bounds(NETWORK, "damping", *pairs)) for pairs in PLANTED.values()]


@pytest.mark.parametrize(("identifier", "expected", "parts"), CASES)
def test_a_rule_says_what_the_planted_results_say(identifier, expected, parts):
    found = verdict(identifier, parts)
    assert found.word == expected
    assert found.evidence
    assert "nan" not in found.evidence
    assert found.seeds == len(SEEDS)


@pytest.mark.parametrize(("identifier", "expected", "parts"), CASES)
def test_results_of_other_sections_decide_nothing(identifier, expected, parts):
    elsewhere = [{**row, "section": "03_unlearning"} for row in parts]
    assert word(identifier, elsewhere) == "not yet tested"
    assert word(identifier, elsewhere, parts) == expected


@pytest.mark.parametrize(("identifier", "expected", "parts"), CASES)
def test_what_could_not_be_had_decides_nothing(identifier, expected, parts):
    missing = [{**row, "value": None, "note": "no bound"} for row in parts]
    assert word(identifier, missing) == "not yet tested"


@pytest.mark.parametrize("identifier", THEORY_CLAIMS)
def test_nothing_measured_is_not_yet_tested(identifier):
    found = verdict(identifier)
    assert found.word == "not yet tested"
    assert found.seeds == 0


@pytest.mark.parametrize("identifier", THEORY_CLAIMS)
def test_every_statement_has_a_text_a_check_a_part_and_planted_results(identifier):
    statement = THEORY_CLAIMS[identifier]
    assert statement.text.endswith(".")
    assert statement.check.endswith(".")
    assert statement.part in {"noise", "newton", "bound", "lissa", "requests", "control"}
    planted = {expected for name, expected, _ in CASES if name == identifier}
    assert planted >= ({RELU} if identifier == "T11" else {HELD, FAILED})


def test_statements_are_numbered_in_order():
    assert list(THEORY_CLAIMS) == [f"T{number}" for number in range(1, 20)]


@pytest.mark.parametrize("identifier", BOUNDS)
def test_one_seed_above_the_bound_is_enough_to_fail(identifier):
    axis, methods = BOUNDS[identifier]
    parts = [row for method in methods for row in bounds(method, axis, (1.0, 2.0), (1.0, 3.0))]
    assert word(identifier, parts) == HELD
    for row in parts:
        if row["metric"] == "distance" and row["seed"] == 3 and row["point"] == 2 and row["method"] == methods[-1]:
            row["value"] = 3.1
    assert word(identifier, parts) == FAILED


def test_a_distance_is_compared_with_the_bound_of_its_own_point_and_seed():
    parts = bounds("softmax", "damping", (1.0, 2.0), (5.0, 6.0))
    assert word("T9", parts) == HELD
    swapped = [{**row, "point": 3 - row["point"]} if row["metric"] == "bound" else row for row in parts]
    assert word("T9", swapped) == FAILED
    # The bound of another axis, and of another method, is not its bound.
    assert word("T9", parts, bounds("softmax", "request", (9.0, 1.0)), bounds("ridge", "damping", (9.0, 1.0))) == HELD


def test_rounding_in_a_distance_at_its_bound_is_forgiven():
    assert word("T8", bounds("ridge", "damping", (1 + 1e-10, 1.0))) == HELD
    assert word("T8", bounds("ridge", "damping", (1 + 1e-8, 1.0))) == FAILED


def test_requests_need_both_set_ups():
    softmax, smooth = (bounds(method, "request", (1.0, 2.0)) for method in ("softmax", SMOOTH))
    assert word("T17", softmax) == "not yet tested"
    assert word("T17", smooth) == "not yet tested"
    assert word("T17", softmax, smooth) == HELD
    assert word("T17", softmax, bounds(SMOOTH, "request", (1.0, 0.5))) == FAILED


@pytest.mark.parametrize("identifier", ["T5", "T6", "T19"])
def test_means_over_seeds_need_two_of_them(identifier):
    parts = slopes(fixed=2.0, random=1.0, one_class=2.0) + noisy(0.0)
    assert word(identifier, parts) == HELD
    assert word(identifier, [row for row in parts if row["seed"] == 0]) == "not yet tested"


def test_both_slopes_in_the_number_of_samples_are_needed():
    assert word("T6", slopes(random=1.0)) == "not yet tested"
    assert word("T6", slopes(one_class=2.0)) == "not yet tested"


def test_a_deletion_counts_once_however_many_steps_it_is_looked_at():
    # 60 rows of 20 deletions: five seeds of four rows.
    assert len([row for row in control(0.5) if row["metric"] == "ratio"]) == 3 * DELETIONS
    assert verdict("T18", control(0.5)).evidence.startswith(f"{DELETIONS} deletions")
    assert "20 of 60 fell back" in verdict("T18", control(0.5)).evidence


def test_the_worst_ratio_is_quoted():
    text = verdict("T8", bounds("ridge", "damping", (1.0, 4.0), (1.5, 2.0))).evidence
    assert "at most 0.75 of the bound" in text
    assert "between 0.2 and 0.4 times 2C" in text
