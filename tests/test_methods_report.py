import pandas as pd
import pytest

from cdu.report import drawing
from cdu.report.chapters import audit, methods, relearn, tables
from cdu.report.chapters.attacks import closeness
from cdu.report.chapters.audit import equal_pairs
from cdu.unlearning.names import PAPERS, YARDSTICKS, title
from cdu.unlearning.registration import REGISTERED
from cdu.unlearning.registry import certified_among

SPLITS = ("forget", "retain", "test")


def frame():
    """Two seeds; X is a point above retraining on every set, Z could not run."""
    rows = []

    def log(seed, metric, value, method, split="", axis="", point=None, note=""):
        rows.append(
            {
                "seed": seed, "metric": metric, "value": value, "method": method, "split": split, "axis": axis,
                "point": point, "note": note, "dataset": "digits", "section": "03_methods",
            }
        )  # fmt: skip

    for seed, level in ((0, 0.90), (1, 0.80)):
        shifts = {"original": 0.02, "retrain": 0.0, "X": 0.01, "X, ε = 1": -0.5}
        for method, shift in shifts.items():
            for split in SPLITS:
                log(seed, "accuracy", level + shift, method, split)
            log(seed, "seconds", {"original": 0.0, "retrain": 20.0}.get(method, 2.0 + 2 * seed), method)
            log(seed, "training_seconds", 0.0, method)
            log(seed, "gradient_samples", 100, method)
            log(seed, "certified", float("ε" in method), method, note="ε = 1" if "ε" in method else "none: no noise")
        log(seed, "accuracy", None, "Z", note="too many parameters")
        for number, gap in enumerate((0.5, 0.1, None)):
            log(seed, "trial_gap", gap, "X", axis="trial", point=number, note=f"rate = {number}")
        log(seed, "chosen_gap", 0.1, "X", note="rate = 1")
        for epochs in (0, 2):
            for label, value in (("ε = 1", 0.1), ("ε = 100", 0.3)):
                log(seed, "later_accuracy", value + epochs / 4, "X", f"test, {label}", "epochs", epochs)
            for method, value in (("from scratch", 0.1), ("from noise", 0.2), ("original", 0.9)):
                log(seed, "later_accuracy", value + epochs / 40, method, "test, no noise", "epochs", epochs)
    return pd.DataFrame(rows)


def test_the_gap_and_the_share_of_time_are_formed_seed_by_seed():
    found = tables("03_methods-table", frame())["Table 1: accuracy (= micro-F1), gap, time and certificate"]
    rows = found.set_index("method")
    assert rows["gap to retrain (points)"].to_dict() == {
        "original": "2", "retrain": "0", "X": "1", "X, ε = 1": "50", "Z": "—",
    }  # fmt: skip
    assert rows.loc["X", "of retraining (%)"] == "15.0 ± 7.1"
    assert rows.loc["X", "test set (%)"] == "86.0 ± 7.1"


def test_a_method_that_could_not_run_keeps_its_row_and_the_certificate_is_told():
    found = tables("03_methods-table", frame())["Table 1: accuracy (= micro-F1), gap, time and certificate"]
    assert found.set_index("method")["certificate"].to_dict() == {
        "original": "none: no noise", "retrain": "needs none: never saw D_u, so that ε = 0", "X": "none: no noise",
        "X, ε = 1": "ε = 1", "Z": "could not run",
    }  # fmt: skip


def linear_frame(with_distances):
    rows = []
    for name in ("rewind, linear", "rewind, linear, l2 in advance", "certified removal, linear"):
        for seed in (0, 1):
            key = {"seed": seed, "axis": "", "point": None, "split": "", "note": ""}
            rows.append({**key, "metric": "accuracy", "value": 0.9, "method": f"{name}, ε = 1", "split": "test"})
            rows.append({**key, "metric": "seconds", "value": 1.0, "method": f"{name}, ε = 1"})
            rows.append({**key, "metric": "certified", "value": 1, "method": f"{name}, ε = 1", "note": "ε = 1"})
            if "in advance" not in name:
                rows.append({**key, "metric": "chosen_gap", "value": 0, "method": name, "note": "steps = 4, l2 = 0.1"})
            if with_distances:
                for metric, value in (
                    ("measured_distance", 2e-8 * (1 + seed)), ("certified_distance", 4e-8), ("rounding", 1e-9),
                    ("distance_ratio", (1 + seed) / 2),
                ):  # fmt: skip
                    rows.append({**key, "metric": metric, "value": value, "method": name, "note": "float64"})
    return pd.DataFrame(rows)


def test_a_searched_l2_is_told_and_a_certificate_without_room_for_rounding_is_void():
    title = "Table 1: accuracy (= micro-F1), gap, time and certificate"
    told = tables("03_methods-table", linear_frame(True))[title].set_index("method")["certificate"].to_dict()
    assert told == {
        "rewind, linear, ε = 1": "ε = 1; l2 searched for this request",
        "rewind, linear, l2 in advance, ε = 1": "ε = 1",
        "certified removal, linear, ε = 1": "ε = 1; l2 searched for this request",
    }
    told = tables("03_methods-table", linear_frame(False))[title].set_index("method")["certificate"].to_dict()
    assert told["rewind, linear, ε = 1"].startswith("void: computed in single precision")
    assert told["certified removal, linear, ε = 1"].startswith("ε = 1")


def test_the_worst_seed_of_measured_against_certified_is_shown():
    found = tables("03_methods-table", linear_frame(True))
    shown = found["Distance to the reference, measured and certified"].set_index("method")
    assert shown.loc["rewind, linear", "largest ratio of a seed"] == "1"
    assert shown.loc["rewind, linear", "computed in"] == "float64"
    assert "Distance to the reference, measured and certified" not in tables("03_methods-table", linear_frame(False))


def test_the_compute_axis_has_a_table_for_every_epsilon_with_both_unnoised_lines():
    found = tables("03_methods-compute", frame())
    assert [title.rsplit(" = ", 1)[1] for title in found] == ["1", "100"]
    for content, start in zip(found.values(), ("10", "30"), strict=True):
        assert list(content["start"]) == ["X", "from scratch", "from noise", "original"]
        assert list(content["k = 0 (%)"]) == [start, "10", "20", "90"]
        assert list(content["k = 2 (%)"])[1:] == ["15", "25", "95"]


def test_trials_and_choice_are_counted():
    (content,) = tables("03_methods-tuning", frame()).values()
    assert content.to_dict("records") == [
        {
            "method": "X", "trials": "3", "of them without result (%)": "33", "gap, all trials (points)": "30 ± 23",
            "gap, chosen (points)": "10", "chosen (seeds)": "rate = 1 (2)",
        }
    ]  # fmt: skip


def test_the_figure_shows_differences_to_the_retrained_model_of_the_same_seed():
    accuracy, share = methods.methods_table(frame()).axes
    drawn = dict(
        zip(
            [label.get_text() for label in accuracy.get_yticklabels()],
            accuracy.containers[0].lines[0].get_xdata(),
            strict=True,
        )
    )
    assert drawn == pytest.approx({"original": 2.0, "X": 1.0, "X, ε = 1": -50.0})
    assert list(share.containers[0].lines[0].get_xdata())[1:] == pytest.approx([15.0, 15.0])


def test_the_frontier_is_drawn_against_epochs_and_against_epsilon():
    whole = frame()
    middle = whole[(whole["metric"] == "later_accuracy") & (whole["point"] == 0)].assign(point=1, value=0.5)
    whole = pd.concat([whole, middle], ignore_index=True)
    left, first, _, last = methods.methods_compute(whole).axes
    lines = {line.get_label(): line.get_ydata() for line in left.lines}
    assert list(lines["X"]) == pytest.approx([10, 50, 60])
    assert list(lines["from scratch"]) == pytest.approx([10, 50, 15])
    assert list(first.lines[0].get_xdata()) == [1, 100]
    assert list(first.lines[0].get_ydata()) == pytest.approx([10, 30])
    assert list(last.lines[0].get_ydata()) == pytest.approx([60, 80])


def test_every_trial_is_drawn_and_the_chosen_ones_again():
    (panel,) = methods.methods_tuning(frame()).axes
    trials, winners = (collection.get_offsets().compressed().reshape(-1, 2) for collection in panel.collections)
    assert sorted(point[0] for point in trials) == pytest.approx([10, 10, 50, 50])
    assert [point[0] for point in winners] == pytest.approx([10, 10])


def test_a_method_belongs_to_the_family_that_its_releases_show():
    yardsticks, papers, certified, heuristics = relearn.FAMILIES
    words = {
        "original + noise": yardsticks,
        "newton + noise": papers,
        "newton, lissa": papers,
        "Newton step": papers,
        "Newton step, ε = 1": certified,
        "rewind": certified,
        "rewind, ε = 1": certified,
        "rewind, Adam": heuristics,
        "Langevin, Adam": heuristics,
        "Langevin, linear, ε = 1": certified,
        "SCRUB": heuristics,
        "a method of a reader's": certified,
        "a method of a reader's, ε = 0.5": certified,
    }
    assert {name: relearn.family(name, words) for name in words} == words
    assert relearn.family("a method of a reader's", ["a method of a reader's"]) == heuristics


def test_the_fixed_names_are_those_of_methods():
    assert set(PAPERS) - {"newton", "newton, lissa"} <= set(REGISTERED)
    assert not set(YARDSTICKS) & set(REGISTERED)
    assert certified_among(REGISTERED)[0] == "output perturbation"


def test_the_two_newton_steps_have_titles_that_tell_them_apart():
    words = {
        "newton": "Newton step, given λ",
        "newton + noise": "Newton step, given λ + noise",
        "newton, lissa": "Newton step, given λ, lissa",
        "newton, λ code, lissa": "Newton step, λ code, lissa",
        "Newton step": "Newton step, tuned λ",
        "Newton step, ε = 1": "Newton step, tuned λ, ε = 1",
        "newtonian": "newtonian",
        "SCRUB": "SCRUB",
    }
    assert {name: title(name) for name in words} == words


def test_tables_and_figures_call_methods_by_their_titles():
    renamed = frame().replace({"method": {"X": "newton", "X, ε = 1": "Newton step, ε = 1"}})
    found = tables("03_methods-table", renamed)["Table 1: accuracy (= micro-F1), gap, time and certificate"]
    wanted = ["original", "Newton step, given λ", "Newton step, tuned λ, ε = 1"]
    assert [name for name in found["method"] if name not in {"retrain", "Z"}] == wanted
    assert [label.get_text() for label in methods.methods_table(renamed).axes[0].get_yticklabels()] == wanted
    (tuning,) = tables("03_methods-tuning", renamed).values()
    assert list(tuning["method"]) == [wanted[1]]
    (panel,) = methods.methods_tuning(renamed).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == [wanted[1]]


@pytest.mark.parametrize(
    ("gaps", "word"),
    [
        ((0.001, -0.001, 0.002), "as retrained"),
        ((0.1, 0.11, 0.09), "gives more away"),
        ((-0.1, -0.11, -0.09), "over-unlearned"),
        ((0.2, -0.2, 0.0), "undecided"),
        ((0.0,), "one seed"),
    ],
)
def test_a_gap_is_judged_by_its_interval(gaps, word):
    assert closeness(pd.Series(gaps), 0.02) == word


def attacked(gaps):
    """One seed a row; a column an attack: areas of X, beside a retrained model at 0.5."""
    rows = []
    for seed, own in enumerate(gaps):
        for attack, gap in own.items():
            for method, value in (("retrain", 0.5), ("X", 0.5 + gap)):
                row = {"metric": "attack_auc", "method": method, "split": f"test: {attack}", "value": value}
                rows.append({**row, "seed": seed, "axis": "", "point": None, "note": ""})
        for method in ("retrain", "X"):
            for metric, value in (("auc", 0.5), ("auc_half", 0.1), ("attack_accuracy", 0.5)):
                rows.append({"metric": metric, "method": method, "split": "", "value": value, "seed": seed, "axis": "",
                             "point": None, "note": ""})  # fmt: skip
            for metric, value in (("tpr", 0.02), ("tpr_low", 0.0), ("tpr_high", 0.1)):
                rows.append({"metric": metric, "method": method, "split": "", "value": value, "seed": seed,
                             "axis": "fpr", "point": 0.01, "note": ""})  # fmt: skip
    return pd.DataFrame(rows)


def test_no_seed_both_chooses_the_strongest_attack_and_counts():
    """Each attack is lucky on one seed: chosen on the others, none is found to be strong."""
    first, second, third = ("L2 distance, MLP", "L2 distance, random forest", "direct difference, MLP")
    lucky = [{name: 0.3 * (number == seed) for number, name in enumerate((first, second, third))} for seed in range(3)]
    found = tables("04_attacks", attacked(lucky))["The strongest of them, chosen on the other seeds"]
    assert found["AUC − retrained"].tolist() == ["0"]
    strong = [{first: 0.2, second: 0.0, third: 0.1}] * 3
    (row,) = tables("04_attacks", attacked(strong))["The strongest of them, chosen on the other seeds"].to_dict(
        "records"
    )
    assert row["attack chosen most often"] == f"{first} (3 of 3)"
    assert row["AUC − retrained"] == "0.2"
    assert row["beside retraining"] == "gives more away"


def test_the_attack_table_has_rates_with_their_intervals():
    title = "The paper's attack (logistic regression, sorted concatenation) on held-out rows"
    row = tables("04_attacks", attacked([{"L2 distance, MLP": 0.0}] * 2))[title].to_dict("records")[0]
    assert row["TPR at 1 % FPR (%)"] == "2"
    assert row["its 95 % interval in a run, 1 %"] == "0.0 to 10.0"
    assert row["beside retraining"] == "as retrained"


def audited(contradicted):
    rows = []
    for method, split, word in (("X", "random, weights", contradicted), ("Y", "random", None)):
        common = {"method": method, "split": split, "seed": 0, "axis": "", "point": None, "note": ""}
        rows.append({**common, "metric": "audit_epsilon", "value": None if word is None else 1.5, "note": "why not"})
        if word is not None:
            values = {"audit_gaussian": 0.0, "mu": 0.5, "mu_low": -0.1, "certified_epsilon": 1.0, "contradicted": word,
                      "detectable": 5.0, "gaussian_detectable": 9.0, "trials": 100.0}  # fmt: skip
            rows += [{**common, "metric": metric, "value": value} for metric, value in values.items()]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("contradicted", "word"), [(1.0, "contradicted (1 of 1 seeds)"), (0.0, "consistent")])
def test_an_audit_that_could_not_run_keeps_its_row_and_an_open_interval_its_infinity(contradicted, word):
    rows = tables("10_audit", audited(contradicted))["Certificates and what trials show"].to_dict("records")
    assert [row["verdict"] for row in rows] == [word, "could not run"]
    assert rows[0]["μ [its interval]"] == "0.5 [-0.1, ∞]"
    assert rows[0]["adversary sees"] == "weights"


def powers():
    """Two simulated points of a curve and one other strategy, of two seeds."""
    rows, common = [], {"axis": "times too little", "note": "", "dataset": "digits", "section": "10_audit"}
    values = {
        ("simulated", "Δ/2", 2.0): {"simulated_epsilon": 1.0, "simulated_trials": 2500.0, "detected": 0.01},
        ("simulated", "Δ", 2.0): {"simulated_epsilon": 2.155, "simulated_trials": 2500.0, "detected": 0.9},
        ("simulated: halves", "Δ", 1.5): {"detected": 0.3},
        ("simulated: halves", "Δ", 3.0): {"counted": 0.5},
    }
    for (method, split, point), metrics in values.items():
        for metric, value in metrics.items():
            ends = {"": 0.0, "_low": -0.01, "_high": 0.02} if metric in {"detected", "counted"} else {"": 0.0}
            for seed, shift in ((0, 0.0), (1, 0.02)):
                where = {"method": method, "split": split, "point": point, "seed": seed}
                shifted = value + shift * (len(ends) > 1)
                rows += [{**where, **common, "metric": metric + end, "value": shifted + by} for end, by in ends.items()]
    return pd.DataFrame(rows)


def test_the_power_of_an_audit_stands_in_tables_by_distance_and_by_strategy():
    curve, strategies = tables("10_audit-power", powers()).values()
    assert curve.to_dict("records") == [
        {
            "pair at a distance of": distance,
            "noise so many times too small": "2",
            "ε of the pair, exactly": epsilon,
            "audits that contradict (%) [95 %]": share,
            "trials": "2,500",
        }
        for distance, epsilon, share in (("Δ/2", "1", "2.0 [1.0, 4.0]"), ("Δ", "2.155", "91.0 [90.0, 93.0]"))
    ]
    assert strategies.to_dict("records") == [
        {
            "thresholds": "halves",
            "noise 1.5 times too small, found by either bound (%)": "31.0 [30.0, 33.0]",
            "noise 3 times too small, found by counts alone (%)": "51.0 [50.0, 53.0]",
        }
    ]


def test_the_power_of_an_audit_is_a_line_with_intervals_for_each_distance():
    (axes,) = audit.audit_power(powers()).axes
    assert axes.get_legend_handles_labels()[1] == [f"pair at a distance of {distance}" for distance in ("Δ/2", "Δ")]
    assert [line.get_ydata().tolist() for line in axes.lines if line.get_marker() in drawing.MARKERS] == [
        pytest.approx([2.0]), pytest.approx([91.0]),
    ]  # fmt: skip
    bars = [container.lines[2][0].get_segments()[0][:, 1].tolist() for container in axes.containers]
    assert bars == [pytest.approx([1.0, 4.0]), pytest.approx([90.0, 93.0])]


def test_retraining_is_not_free_in_a_table_of_costs():
    found = tables("03_methods-table", frame())["What a method computes"].set_index("method")
    assert found["per-sample gradients"].to_dict() == {
        "original": "100", "retrain": "a whole training", "X": "100", "X, ε = 1": "100",
    }  # fmt: skip


@pytest.mark.parametrize(("second", "equal"), [(0.0, {("Y", "outliers")}), (0.1, set())])
def test_a_pair_is_equal_where_it_is_in_every_seed(second, equal):
    rows = [
        {"metric": "pair_distance", "method": "Y", "split": kind, "seed": seed, "value": value}
        for kind, values in (("outliers", (0.0, second)), ("random", (0.3, 0.2)))
        for seed, value in enumerate(values)
    ]
    assert equal_pairs(pd.DataFrame(rows)) == equal
