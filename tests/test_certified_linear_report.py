"""The chapters on certified linear models and on what else deletes: what stands in their tables and figures."""

from pathlib import Path

import pandas as pd
import pytest

from cdu.experiments.records import Metric, record_path, write_record
from cdu.experiments.repository import repository
from cdu.report import advice, chapters, collection
from cdu.report.chapters import alternatives, certified_linear, tables
from cdu.report.collection import Loaded, Results, Shown
from cdu.report.query import select
from cdu.unlearning.names import title
from test_records import record

LINEAR, ALTERNATIVES = "12_certified_linear", "13_alternatives"


def linear(seed):
    """A record with two l2 and two budgets; seed 1 has another fallback, and no long chain."""
    found = []

    def log(method, split="", axis="", point=None, **values):
        keys = {"method": method, "split": split, "axis": axis, "point": point}
        found.extend(Metric(metric=metric, value=float(value), **keys) for metric, value in values.items())

    log("", train_samples=1000, features=144, parameters=1450, delta=1e-5)
    for l2 in ("0.01", "0.1"):
        log(f"training, l2 = {l2}", seconds=2)
        log(f"training, l2 = {l2}", "test", accuracy=0.9)
    for l2, budget, kinds in (
        ("0.01", "0.1", ("1 at random", "1,000 at random", "1,000 hardest")),
        ("0.1", "0.1", ("1,000 at random",)),
        ("0.01", "0.2", ("1,000 at random",)),
    ):
        for kind in kinds:
            method = f"l2 = {l2}, Δ = {budget}, {kind}"
            log(method, axis="steps", point=0, remaining_bound=7, seconds=99)
            log(method, fallback=seed, newton_steps=2, seconds=5, remaining_distance=0.01, remaining_bound=0.08)
            log(method, remaining_ratio=0.125)
            log(method, "test", accuracy=0.8 + 0.1 * (l2 == "0.01"))
            log(method, "test, retrained", accuracy=0.85)
            log(method, "forget", accuracy=0.7)
            for epsilon in (0.1, 1.0) if kind == "1,000 at random" else (1.0,):
                log(method, "test", "epsilon", epsilon, accuracy=0.5 + 0.1 * (epsilon == 1.0) + 0.1 * (budget == "0.1"))
            for count in (1, 1000) if kind == "1,000 at random" else ():
                log(method, "test", "requests", count, accuracy=0.6 - count / 10_000 + 0.1 * (budget == "0.1"))
    chains = ("5 requests of 20", "50 requests of 2")[: 2 - seed]
    for chain in chains:
        log(chain, seconds=0.5, newton_steps=1.5, fallback=0, sigma=0.3, ratio=0.1)
        log(chain, "test", accuracy=0.77)
    log("training anew, l2 = 0.01", seconds=3)
    for name, shown in (("release", 0), ("budget ignored", 6)):
        log(f"audit: {name}", certified_epsilon=1, audit_epsilon=shown, audit_gaussian=0, trials=100)
        log(f"audit: {name}", contradicted=shown > 0)
    return record(found).model_copy(update={"section": LINEAR, "seed": seed})


#: Method, accuracy, ε of the forget set and of a row, seconds of the forget set and of a row.
COMPETITORS = (
    ("original", 0.98, None, None, 0.0, 0.0),
    ("retraining", 0.97, 0.0, 0.0, 60.0, 60.0),
    ("SISA, 5 shards, 1 slices", 0.95, 0.0, 0.0, 50.0, 11.0),
    ("head, public share 0.5", 0.96, 1.0, 1.0, 2.0, 1.0),
    ("DP-SGD, network", 0.80, 700.0, 1.0, 0.0, 0.0),
    ("newton + noise", 0.91, 2e6, 2e6, 3.0, 2.0),
    ("noisy fine-tuning + 4 epochs", 0.90, 1.0, 1.0, 9.0, 9.0),
    ("Hessian-free", 0.94, None, None, 0.1, 0.01),
)


def competing(seed):
    found = []
    for method, accuracy, epsilon, single, seconds, one in COMPETITORS:
        found += [
            Metric(metric="accuracy", value=accuracy - 0.01 * seed, method=method, split="test"),
            Metric(metric="accuracy", value=0.5, method=method, split="forget"),
            Metric(metric="certified_epsilon", value=epsilon, method=method, note="" if epsilon == 1.0 else "a reason"),
            Metric(metric="epsilon_single", value=single, method=method),
            Metric(metric="training_seconds", value=100.0, method=method),
            Metric(metric="seconds", value=seconds, method=method),
            Metric(metric="seconds", value=one, method=method, split=alternatives.ONE_ROW),
        ]
    for split, share in (("", 1.0), (alternatives.ONE_ROW, 0.2)):
        found.append(Metric(metric="retrained_share", value=share, method="SISA, 5 shards, 1 slices", split=split))
    return record(found).model_copy(update={"section": ALTERNATIVES, "seed": seed})


@pytest.fixture(scope="module")
def setup():
    made = {LINEAR: linear, ALTERNATIVES: competing}
    shown = {
        section: Shown(section, [Loaded(make(seed), Path("nowhere"), False) for seed in (0, 1)])
        for section, make in made.items()
    }
    return Results("quick", "digits", shown)


@pytest.fixture
def frames(setup):
    return {section: setup.sections[section].frame for section in (LINEAR, ALTERNATIVES)}


def test_the_forget_sets_have_the_numbers_after_the_last_step_at_the_first_l2_and_budget(frames):
    (heading, *_), found = [*tables(LINEAR, frames[LINEAR])], tables(LINEAR, frames[LINEAR])
    assert heading == "Forget sets, l2 = 0.01, Δ = 0.1"
    rows = found[heading].set_index("forget set")
    assert list(rows.index) == ["1 at random", "1,000 at random", "1,000 hardest"]
    one = rows.loc["1,000 at random"]
    assert (one["time (s)"], one["certified distance"], one["answered by training (%)"]) == ("5", "0.08", "50 ± 71")
    assert (one["without noise (%)"], one["retrained (%)"], one["ε = 1 (%)"]) == ("90", "85", "70")


def test_accuracy_stands_against_epsilon_and_requests_for_every_l2_and_budget(frames):
    found = tables(LINEAR, frames[LINEAR])
    by_epsilon = found["Test accuracy against ε, 1,000 at random"].set_index("l2, budget")
    assert list(by_epsilon.index) == ["l2 = 0.01, Δ = 0.1", "l2 = 0.1, Δ = 0.1", "l2 = 0.01, Δ = 0.2"]
    assert list(by_epsilon.columns) == ["without noise (%)", "ε = 0.1 (%)", "ε = 1 (%)"]
    assert list(by_epsilon.loc["l2 = 0.01, Δ = 0.2"]) == ["90", "50", "60"]
    by_requests = found["Test accuracy where k requests are (1, δ)-certified together"].set_index("l2, budget")
    assert list(by_requests.loc["l2 = 0.1, Δ = 0.1"]) == ["80", "69.99", "60"]


def test_chains_training_and_audits_have_their_tables(frames):
    found = tables(LINEAR, frames[LINEAR])
    chains = found["Requests that were answered one after another; distances after the last"].set_index("requests")
    assert chains.loc["50 requests of 2", "time of a request (s)"] == "0.5 (1 of 2 seeds)"
    assert chains.loc["5 requests of 20", "released, ε = 1 together (%)"] == "77"
    trained = found["What is computed before any request, and training anew"]
    assert list(trained["what"]) == ["training, l2 = 0.01", "training, l2 = 0.1", "training anew, l2 = 0.01"]
    audits = found["Audits, and audits of planted errors"].set_index("what is released")
    assert list(audits["contradicted"]) == ["0", "1"]
    assert list(audits.index) == ["release", "budget ignored"]


def test_the_figure_has_a_line_for_every_setting_and_the_limit_without_noise(frames):
    for panel in chapters.figure(LINEAR)(frames[LINEAR]).axes:
        *lines, limit = panel.lines
        assert [line.get_label() for line in lines] == ["l2 = 0.01, Δ = 0.1", "l2 = 0.1, Δ = 0.1", "l2 = 0.01, Δ = 0.2"]
        assert list(limit.get_ydata()) == [90, 90]
    single, many = chapters.figure(LINEAR)(frames[LINEAR]).axes
    assert list(single.lines[0].get_xdata()) == [0.1, 1]
    assert list(many.lines[0].get_xdata()) == [1, 1000]


def test_the_alternatives_say_who_guarantees_what_and_what_to_decide_before(frames):
    found = tables(ALTERNATIVES, frames[ALTERNATIVES])
    rows = found["What deletes, and what it costs"].set_index("method")
    assert list(rows.index) == [title(method) for method, *_ in COMPETITORS]
    assert list(rows["who guarantees it"]) == [
        "nobody", "exact by construction", "exact by construction", "a theorem, for any data set",
        "a theorem, for any data set", "a theorem, for any data set: the ball's diameter",
        "a theorem, for any data set", "nobody",
    ]  # fmt: skip
    assert rows.loc["DP-SGD, network", "to be decided before training"] == "ε for the model's whole life"
    assert list(rows["ε, forget set"])[:5] == ["—", "0", "0", "1", "700"]
    assert rows.loc["SISA, 5 shards, 1 slices", ["request, forget set (s)", "request, one row (s)"]].tolist() == [
        "50", "11",
    ]  # fmt: skip
    shares = found["More of the same"].set_index("method").loc["SISA, 5 shards, 1 slices"]
    assert shares[["passes repeated, forget set (%)", "passes repeated, one row (%)"]].tolist() == ["100", "20"]


def test_every_kind_of_method_has_its_terms_and_none_is_made_up():
    assert alternatives.terms("something new") == alternatives.Terms("—", "—")
    assert alternatives.terms("Hessian-free, original").before == "nothing"
    assert "vector" in alternatives.terms("Hessian-free").before


def test_exact_ways_stand_at_the_left_edge_and_those_without_a_certificate_at_the_right(frames):
    (panel,) = chapters.figure(ALTERNATIVES)(frames[ALTERNATIVES]).axes
    places = {
        bars.get_label(): float(bars.lines[0].get_xdata()[0]) for bars in panel.containers if bars.get_label()[0] != "_"
    }
    heights = {bars.get_label(): float(bars.lines[0].get_ydata()[0]) for bars in panel.containers}
    assert places["head, public share 0.5"] == 1
    assert places["DP-SGD, network"] == 700
    assert max(places["retraining"], places["SISA, 5 shards, 1 slices"]) < 1
    assert min(places["original"], places["Hessian-free"]) > 2e6
    assert len(set(places.values())) == len(places)
    assert heights["retraining"] == pytest.approx(96.5)
    labels = [label.get_text() for label in panel.get_xticklabels()]
    assert (labels[0], labels[-1]) == ("exact", "none")


def test_every_leaf_has_a_table_from_the_records(setup):
    told = advice.advice([setup])
    assert "| digits | retraining" in told["exact"]
    assert "| digits | SISA, 5 shards, 1 slices" in told["exact"]
    assert "DP-SGD" not in told["exact"]
    assert "| digits | head, public share 0.5" in told["public"]
    assert "| digits | DP-SGD, network" in told["private"]
    lines = [line.split("|")[2].strip() for line in told["linear"].splitlines()[2:]]
    assert lines == ["Δ = 0.1", "Δ = 0.2"]
    assert "ε = 1, 1,000 requests together (%)" in told["linear"]
    assert told["neither"] == advice.ABSENT


def test_a_leaf_without_records_says_so_and_two_datasets_share_a_table(setup):
    assert set(advice.advice([]).values()) == {advice.ABSENT}
    assert advice.advice([setup, setup])["exact"].count("| digits | retraining") == 2


def test_the_papers_releases_stand_beside_retraining(tmp_path):
    found = [
        Metric(metric="accuracy", value=value, method=method, split="test")
        for method, value in (("retrain", 0.97), ("newton", 0.98), ("newton + noise for ε = 1", 0.1), ("other", 0.5))
    ]
    found.append(Metric(metric="epsilon", value=1.0, method="newton + noise for ε = 1"))
    one = record(found).model_copy(update={"section": "03_unlearning"})
    write_record(one, record_path(tmp_path / "results", "quick", "digits", 0, "03_unlearning"))
    (setup,) = collection.collect(tmp_path)
    rows = pd.DataFrame([line.split("|") for line in advice.advice([setup])["neither"].splitlines()[2:]])
    assert [name.strip() for name in rows[2]] == [
        "retrain", "Newton step, given λ", "Newton step, given λ + noise for ε = 1",
    ]  # fmt: skip
    assert [value.strip() for value in rows[3]] == ["97", "98", "10"]


def test_the_usual_forget_set_is_the_one_with_composed_releases(frames):
    found = certified_linear.usual(frames[LINEAR])
    assert set(found["kind"]) == {"1,000 at random"}
    assert certified_linear.first(found) == ("l2 = 0.01", "Δ = 0.1")


# All committed records are read.
@pytest.mark.slow
def test_what_the_page_says_of_distances_noise_and_audits_holds_in_every_record():
    """The sentences below the tables are typed by hand: this holds them against the records."""
    shown = [one.sections[LINEAR].frame for one in collection.collect(repository()) if LINEAR in one.sections]
    for frame in shown:
        assert select(frame, metric="remaining_ratio")["value"].max() <= 0.5
        found = certified_linear.usual(frame)
        l2, _ = certified_linear.first(found)
        smallest = min(found["budget"], key=lambda budget: float(budget.removeprefix("Δ = ")))
        accuracy = select(found, metric="accuracy", split="test", l2=l2, budget=smallest).set_index("axis")
        noisy = select(accuracy.reset_index(), axis="epsilon", point=1.0)["value"].mean()
        assert abs(accuracy.loc["", "value"].mean() - noisy) < 0.002
        told = select(frame, metric="contradicted").groupby("method")["value"].max()
        assert (told.drop("audit: release") == 1).all()
        assert told["audit: release"] == 0
