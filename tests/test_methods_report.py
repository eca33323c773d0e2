import pandas as pd
import pytest

from cdu import figures
from cdu.tables import tables

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
        "original": "none: no noise", "retrain": "none: no noise", "X": "none: no noise", "X, ε = 1": "ε = 1",
        "Z": "could not run",
    }  # fmt: skip


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
    accuracy, share = figures.methods_table(frame()).axes
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
    left, first, _, last = figures.methods_compute(whole).axes
    lines = {line.get_label(): line.get_ydata() for line in left.lines}
    assert list(lines["X"]) == pytest.approx([10, 50, 60])
    assert list(lines["from scratch"]) == pytest.approx([10, 50, 15])
    assert list(first.lines[0].get_xdata()) == [1, 100]
    assert list(first.lines[0].get_ydata()) == pytest.approx([10, 30])
    assert list(last.lines[0].get_ydata()) == pytest.approx([60, 80])


def test_every_trial_is_drawn_and_the_chosen_ones_again():
    (panel,) = figures.methods_tuning(frame()).axes
    trials, winners = (collection.get_offsets().compressed().reshape(-1, 2) for collection in panel.collections)
    assert sorted(point[0] for point in trials) == pytest.approx([10, 10, 50, 50])
    assert [point[0] for point in winners] == pytest.approx([10, 10])
