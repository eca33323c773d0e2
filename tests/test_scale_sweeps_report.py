"""The section on sweeps: what claims read from it, and its page, from made-up records."""

import math
from pathlib import Path

import pytest

from cdu.certification import gaussian_epsilon
from cdu.experiments.records import Metric, read_record, record_path
from cdu.experiments.repository import repository
from cdu.report import chapters, collection, section_results, verdicts
from cdu.report.chapters import tables
from test_records import record

SEEDS = range(5)
WIGGLE = [-1.0, 0.5, 0.0, 0.7, -0.2]
SHARED = {
    "model": {"name": "allcnn", "width": 1.0},
    "forget": {"kind": "random", "size": 1000},
    "training": {"epochs": 50, "radius": 20},
    "unlearning": {"sigma": 0.01},
}
SWEEPS = {"hessian_samples": 5000, "judged": 2000}
SPLITS = ("retain", "test")
CLAIMS_SWEPT = ("C5b", "C7", "C8", "C10")


class Made:
    """Metrics of one record, with a small spread over seeds, without which an interval has no end."""

    def __init__(self, seed, statistics=True):
        self.wiggle = WIGGLE[seed]
        self.statistics = statistics
        self.metrics = []

    def log(self, metric, value, spread=0.0, **keys):
        number = None if value is None or math.isnan(value) else value + spread * self.wiggle
        self.metrics.append(Metric(metric=metric, value=number, **keys))

    def accuracies(self, method, value, spread=1e-3, split="", **keys):
        """With the statistics of training; with those of D_r it is half of what is missing better."""
        for name in SPLITS:
            self.log("accuracy", value, spread, method=method, split=name + split, **keys)
            if self.statistics:
                better = (1 + value) / 2
                self.log("recalibrated_accuracy", better, spread, method=method, split=name + split, **keys)


def swept(
    seed, released=0.95, nothing=0.9, spread=1e-3, epsilon=9.0, low=0.9, sigma=100.0, bounds=(15.0, 12.0),
    errors=(2.0, 3.0), statistics=True,
):  # fmt: skip
    """A record of the section."""
    made = Made(seed, statistics)
    facts = {"hessian_samples": 5000.0, "sigma": sigma, "delta": 1e-5, "trivial_bound": 40.0, "damping": 10.0}
    for metric, value in facts.items():
        made.log(metric, value)
    for split in SPLITS:
        made.log("judged_samples", 2000.0, split=split)
    for method, value in (("newton", released), ("original", nothing), ("retrain", 0.95)):
        made.accuracies(f"{method} + noise", 0.95, 0.0, split=", no noise")
        for point in (0.001, 0.01):
            # The larger noise is none of C5b's evidence.
            axis = {"axis": "sigma", "point": point}
            made.accuracies(f"{method} + noise", value if point == 0.001 else 0.1, spread, **axis)
    for point in (0.001, 0.01):
        made.log("epsilon", 1e3 / point, axis="sigma", point=point)
    for point, value in ((10.0, low), (20.0, 0.94), (40.0, 0.95)):
        made.accuracies("original", value, 1e-3 * (point == 10), axis="radius", point=point)
        made.log("norm", point, axis="radius", point=point)
    for point in (1.0, 2.0):
        made.log("epsilon", epsilon if point == 2 else 1.0, method="together", axis="releases", point=point)
        made.log("epsilon", 1.0, method="each alone", axis="releases", point=point)
        made.log("sigma_needed", 100.0 * point, axis="releases", point=point)
        made.log("step", 0.1 * point, method="newton", axis="request", point=point)
    last = {"axis": "request", "point": 2.0}
    for method, value in (("newton + noise", released), ("original + noise", nothing), ("retrain", 0.95)):
        made.accuracies(method, value, spread if method == "newton + noise" else 1e-3 * (method != "retrain"), **last)
    made.log("distance_to_retrained", 7.0, method="newton", **last)
    for point, bound, error in zip((1.0, 50.0), bounds, errors, strict=True):
        early = {"axis": "epochs", "point": point}
        note = "H + λI is indefinite" if math.isnan(bound) else ""
        made.log("bound", bound, method="newton", note=note, **early)
        made.log("distance_to_retrained", error, 0.01, method="newton", **early)
        made.log("distance_to_retrained", 39.0, method="original", **early)
        made.log("lambda_min", -1.5, method="original", **early)
        made.accuracies("newton", 0.5, **early)
    return made.metrics


def scale(seed, statistics=True):
    """A record of the section on large networks, with other models than the sweeps': C5b must not mix them."""
    made = Made(seed, statistics)
    made.accuracies("retrain", 0.7, 0.0)
    return made.metrics


def shown(section, metrics, block):
    """The records of a section, one a seed."""
    records = []
    for seed in SEEDS:
        changes = {"experiment": "made-up", "dataset": "cifar10", "section": section, "seed": seed}
        changes |= {"settings": {**SHARED, block: SWEEPS} if block else SHARED, "metrics": metrics(seed)}
        records.append(collection.Loaded(record().model_copy(update=changes), Path("made-up.json"), run=False))
    return collection.Shown(section, records)


def setup(statistics=True, **values):
    sections = {
        "11_scale": shown("11_scale", lambda seed: scale(seed, statistics), "scale"),
        "11_sweeps": shown("11_sweeps", lambda seed: swept(seed, statistics=statistics, **values), "sweeps"),
    }
    return collection.Results("paper", "cifar10", sections)


def verdict(claim, **values):
    found = setup(**values)
    return verdicts.decide(claim, found.metrics, found.place)


@pytest.mark.parametrize(
    ("claim", "values", "word"),
    [
        ("C5b", {}, "holds"),
        ("C5b", {"nothing": 0.95}, "holds but says nothing"),
        ("C5b", {"released": 0.8}, "does not hold"),
        ("C5b", {"spread": 0.02}, "not testable here"),
        ("C7", {}, "no certificate"),
        ("C7", {"released": 0.8}, "no certificate"),
        ("C7", {"epsilon": 10.1}, "does not hold"),
        ("C7", {"statistics": False}, "holds"),
        ("C7", {"statistics": False, "nothing": 0.95}, "holds but says nothing"),
        ("C7", {"statistics": False, "released": 0.8}, "does not hold"),
        ("C7", {"statistics": False, "spread": 0.02}, "not testable here"),
        ("C8", {}, "holds"),
        ("C8", {"bounds": (15.0, 45.0)}, "holds but says nothing"),
        ("C8", {"errors": (2.0, 12.5)}, "does not hold"),
        ("C8", {"bounds": (15.0, math.nan)}, "not testable here"),
        ("C10", {}, "holds"),
        ("C10", {"sigma": 0.01}, "holds but says nothing"),
        ("C10", {"low": 0.95}, "does not hold"),
        ("C10", {"low": 0.94}, "not testable here"),
    ],
)
def test_the_claims_that_the_sweeps_decide_can_read_every_word(claim, values, word):
    found = verdict(claim, **values)
    assert found.word == word
    assert found.seeds == len(SEEDS)


def test_every_epsilon_of_a_network_with_running_statistics_is_said_to_be_about_the_weights():
    decided = {claim: verdict(claim) for claim in CLAIMS_SWEPT}
    assert decided["C7"].evidence.startswith(
        "BatchNorm's running statistics are functions of the forgotten samples and receive no noise: no certificate "
        "covers these releases. For their weights alone: 2 releases together certify ε = 9, each alone 1."
    )
    epsilon = gaussian_epsilon(100.0, 1e-5, 20.0)
    assert (
        f"at C = 10, σ = 100 certifies ε = {epsilon:.3g}. That ε is about the weights alone" in decided["C10"].evidence
    )
    # From 0.95 to 0.9 accuracy falls by five points, with half of what is missing added by half of that.
    assert "accuracy falls by 5.00 ± 0." in decided["C10"].evidence
    assert "With statistics taken anew accuracy falls by 2.50 ± 0." in decided["C10"].evidence
    assert "Running statistics make two functions of the two models" in decided["C8"].evidence
    assert "Both with statistics taken anew: +0.00 ± " in decided["C5b"].evidence


def test_of_a_network_without_running_statistics_nothing_of_that_is_said():
    decided = {claim: verdict(claim, statistics=False) for claim in CLAIMS_SWEPT}
    for claim in CLAIMS_SWEPT:
        assert "statistics" not in decided[claim].evidence
    assert "The step has the gradient over D_u" in decided["C8"].evidence


def test_sections_of_their_own_are_not_overruled_by_the_sweeps():
    found = setup()
    found.sections["06_ablations"] = shown("06_ablations", lambda seed: [Metric(metric="sigma", value=7.0)], "")
    metrics = found.metrics
    ablations = metrics[metrics["section"] == "06_ablations"]
    assert ablations["value"].unique().tolist() == [7.0]
    assert set(metrics[metrics["section"] == "07_sequential"]["axis"]) >= {"request", "releases", "epochs"}
    assert "03_unlearning" in set(metrics["section"])


@pytest.fixture
def frame():
    return setup().sections["11_sweeps"].frame


def test_the_tables_hold_what_was_swept(frame):
    found = tables("11_sweeps", frame)
    assert list(found) == [
        "Noise, test set", "Noise, retained set", "Radius", "After the last request", "Every request",
        "What k releases certify at the σ in use", "Training stopped early", "What is computed on what",
    ]  # fmt: skip
    noise = found["Noise, test set"].set_index("σ")
    assert noise.index.tolist() == ["0", "0.001", "0.01"]
    assert noise["ε certified"].tolist() == ["—", "1.00·10⁶", "100,000"]
    assert noise["nothing, test set (%)"].str.split(" ").str[0].tolist() == ["95", "90.000", "10.000"]
    assert noise["step, test set, statistics of D_r (%)"].str.split(" ").str[0].tolist() == [
        "97.5",
        "97.500",
        "55.000",
    ]
    radius = found["Radius"].set_index("C")
    assert radius["test set (%)"].str.split(" ").str[0].tolist() == ["90.000", "94", "95"]
    after = found["After the last request"].set_index("model")
    assert after.loc["retrain", "test set (%)"] == "95"
    assert after.loc["Newton step, given λ", "distance to retrained"] == "7"
    assert found["Every request"]["noiseless, ‖step‖"].tolist() == ["0.1", "0.2"]
    assert found["What k releases certify at the σ in use"]["ε together"].tolist() == ["1", "9"]
    early = found["Training stopped early"].set_index("epochs")
    assert early["bound"].tolist() == ["15", "12"]
    assert early["doing nothing"].tolist() == ["39", "39"]
    facts = found["What is computed on what"].set_index("quantity")[""]
    assert facts["samples of a step's Hessian"] == "5,000"
    assert facts["2C"] == "40"
    assert facts["samples behind accuracy, test"] == "2,000"


def test_the_figure_has_four_panels_and_a_line_for_every_model(frame):
    figure = chapters.figure("11_sweeps")(frame)
    noise, radius, requests, early = figure.axes
    assert [line.get_label() for line in noise.lines] == [
        "doing nothing", "after the step", "retrained", "after the step, taken anew",
    ]  # fmt: skip
    assert noise.lines[0].get_ydata() == pytest.approx([90.0, 10.0])
    assert radius.lines[1].get_ydata() == pytest.approx([95.0, 97.0, 97.5])
    assert requests.get_yticklabels()[0].get_text() == "step + noise"
    assert early.lines[1].get_ydata() == pytest.approx([2.0 / 40, 3.0 / 40])
    assert max(figure.get_size_inches()) <= 7.5


def test_without_running_statistics_nothing_is_taken_anew():
    plain = setup(statistics=False).sections["11_sweeps"].frame
    noise, radius, _, _ = chapters.figure("11_sweeps")(plain).axes
    assert len(noise.lines) == 3
    assert len(radius.lines) == 1


def test_what_was_cut_and_what_could_not_be_had_is_told():
    shown = setup(bounds=(15.0, math.nan)).sections["11_sweeps"]
    assert (
        section_results.shortened(shown, "") == "Hessian on 5,000 samples, accuracy on 2,000 retained and test samples"
    )
    (reason,) = section_results.reasons(shown.frame)
    assert reason == "**Newton step, given λ, epochs = 50** (5 of 5 seeds): H + λI is indefinite"
    assert chapters.PAGES["11_sweeps"].file == "scale-sweeps"


@pytest.mark.parametrize("claim", CLAIMS_SWEPT)
def test_the_notebooks_numbers_have_the_names_that_the_rules_read(claim):
    """On the committed records of a narrow network, which has running statistics."""
    sections = {}
    for name in ("11_scale", "11_sweeps"):
        paths = [record_path(repository() / "results", "batchnorm", "digits", seed, name) for seed in range(3)]
        sections[name] = collection.Shown(
            name, [collection.Loaded(read_record(path), path, run=False) for path in paths]
        )
    committed = collection.Results("batchnorm", "digits", sections)
    assert committed.consistent
    found = verdicts.decide(claim, committed.metrics, committed.place)
    assert found.word != "not yet tested"
    assert found.seeds == 3
    assert "nan" not in found.evidence
    assert "statistics" in found.evidence
