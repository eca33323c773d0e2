import re
import subprocess
import sys
from dataclasses import replace

import nbformat
import pandas as pd
import pytest

from cdu.experiments import changelog, sections
from cdu.experiments.changelog import Entry
from cdu.experiments.records import UNREACHED, Metric, record_path, write_record
from cdu.experiments.repository import repository
from cdu.experiments.sections import STAND_INS
from cdu.report import (
    assumptions,
    build,
    chapters,
    claims_page,
    collection,
    front_page,
    markup,
    query,
    section_results,
    setups_page,
    theory_claims,
    theory_page,
    verdicts,
)
from cdu.report.chapters import tables
from cdu.report.claim_rules import bound as bound_rules
from cdu.report.claims import CLAIMS
from cdu.report.intervals import Interval, interval
from cdu.report.tables import plus_minus
from cdu.unlearning import names
from test_records import record


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([97.1, 97.3, 97.2], "97.20 ± 0.10"),
        ([3.0, 3.0], "3"),
        ([5.0], "5"),
        ([1e6, 3e6], "(2.0 ± 1.4)·10⁶"),
        ([1.0e-4, 1.2e-4], "(1.10 ± 0.14)·10⁻⁴"),
        ([120.0, 130.0], "125.0 ± 7.1"),
        ([None, None], "—"),
        ([12345.0], "12,345"),
    ],
)
def test_numbers_show_the_digits_that_their_deviation_warrants(values, text):
    assert plus_minus(pd.Series(values, dtype=float)) == text


@pytest.mark.slow
def test_the_report_imports_no_torch():
    code = "import sys, cdu.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def made(**changes):
    return record().model_copy(update=changes)


def test_a_run_replaces_the_reference_of_the_same_seed_and_settings(tmp_path):
    for seed in (0, 1):
        write_record(made(seed=seed), record_path(tmp_path / "results", "quick", "digits", seed, "02_training"))
    write_record(made(seed=1), record_path(tmp_path / "runs", "quick", "digits", 1, "02_training"))
    (setup,) = collection.collect(tmp_path)
    shown = setup.sections["02_training"].records
    assert [(loaded.record.seed, loaded.run) for loaded in shown] == [(0, False), (1, True)]


def test_records_of_other_settings_are_never_mixed_in(tmp_path):
    for seed in (0, 1):
        write_record(made(seed=seed), record_path(tmp_path / "results", "quick", "digits", seed, "02_training"))
    changed = made(seed=1, config_hash="e" * 12)
    write_record(changed, record_path(tmp_path / "runs", "quick", "digits", 1, "02_training"))
    (setup,) = collection.collect(tmp_path)
    assert [loaded.record.config_hash for loaded in setup.sections["02_training"].records] == ["e" * 12]


@pytest.fixture(scope="module")
def setups():
    found = collection.collect(repository())
    if not found:
        pytest.skip("no records are here")
    return found


# It draws every figure of the book, since each can fail for one set-up alone.
@pytest.mark.slow
def test_every_section_of_every_record_makes_tables_and_a_figure(setups):
    for setup in setups:
        for name in chapters.drawn():
            draw = chapters.figure(name)
            section = name.partition("-")[0]
            if section not in setup.sections:
                continue
            frame = setup.sections[section].frame
            if chapters.PAGES[name].marker and chapters.PAGES[name].marker not in set(frame["metric"]):
                # A record from before this part existed, which the page says instead.
                continue
            assert tables(name, frame)
            for title, content in tables(name, frame).items():
                assert len(content) > 0, (name, title)
                assert not content.astype(str).isin(["nan", "None"]).any().any()
            assert draw(frame).axes


@pytest.fixture(scope="module")
def built(tmp_path_factory, setups):
    """The generated part of the book, of all records, but with one section's figure: the others have a test above."""
    folder = tmp_path_factory.mktemp("book")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chapters, "PAGES", {"02_training": chapters.PAGES["02_training"]})
        build.build(folder)
    return folder


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A project with two records of one section, and its book's folder."""
    for seed in (0, 1):
        trained = [Metric(metric="seconds", value=1.0 + seed, method="original")]
        one = made(seed=seed, metrics=trained, settings=LARGE)
        write_record(one, record_path(tmp_path / "results", "quick", "digits", seed, "02_training"))
    (tmp_path / "results" / "paper.csv").write_text("metric,dataset,method,split,value,source\n")
    for module in (build, section_results):
        monkeypatch.setattr(module, "repository", lambda: tmp_path)
    return tmp_path


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_building_twice_touches_nothing_and_makes_nothing_again(small, monkeypatch):
    book = small / "book"
    build.build(book)
    before = times(book)
    assert {path.suffix for path in before} == {".md", ".svg", ".csv", ".json"}
    (book / "_generated" / "stale.md").write_text("left over")
    with monkeypatch.context() as patch:
        patch.setattr(collection, "collect", lambda root: pytest.fail("it was made again"))
        build.build(book)
    assert times(book) == before
    # Made again after all, since it is not known what it was made from: the same comes out.
    (book / build._MADE_FROM).unlink()
    build.build(book)
    del before[book / build._MADE_FROM]
    assert before.items() <= times(book).items()


@pytest.mark.parametrize("change", ["a record", "one record more", "an executed notebook", "a page", "no page"])
def test_what_changed_since_the_last_build_is_made_again(small, change):
    book = small / "book"
    build.build(book)
    table = book / "_generated" / "02_training.md"
    before = table.read_text()
    path = record_path(small / "results", "quick", "digits", 1, "02_training")
    other = made(seed=2, metrics=[Metric(metric="seconds", value=9.0, method="original")], settings=LARGE)
    if change == "a record":
        write_record(other.model_copy(update={"seed": 1}), path)
    elif change == "one record more":
        write_record(other, record_path(small / "results", "quick", "digits", 2, "02_training"))
    elif change == "an executed notebook":
        nbformat.write(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Training")]), path.with_suffix(".ipynb")
        )
    elif change == "a page":
        table.write_text("changed by hand")
    else:
        table.unlink()
    build.build(book)
    assert (table.read_text() == before) == change.endswith(" page")
    assert (book / "runs" / "digits-quick-seed-1-02_training.ipynb").exists() == (change == "an executed notebook")


# All committed records are read, and every page of them is made.
@pytest.mark.slow
def test_every_claim_has_a_row_with_a_verdict(built):
    table = (built / "_generated" / "claims-table.md").read_text()
    detail = (built / "_generated" / "claims-detail.md").read_text()
    for identifier, claim in CLAIMS.items():
        assert f"[{identifier}](#claim-{identifier.lower()})" in table
        assert f"(claim-{identifier.lower()})=" in detail
        for part in (claim.quoted, claim.test, claim.smallest_effect, claim.yardstick, claim.why, claim.setting):
            assert part in detail


@pytest.mark.slow
def test_what_shadow_models_find_stands_on_the_first_page(built, setups):
    words = (built / "_generated" / "shadowed.md").read_text().splitlines()
    with_shadows = [setup.title for setup in setups if "04_shadows" in setup.sections]
    assert [line.split("**")[1] for line in words] == with_shadows


def test_the_set_ups_that_claims_are_about_are_named_as_in_the_records(setups):
    """Else a claim would nowhere be judged."""
    places = {setup.place for setup in setups}
    assert {claim.about for claim in CLAIMS.values() if claim.about} <= places


def test_no_word_depends_on_the_smallest_effect_that_is_a_share(setups, monkeypatch):
    """As the claims' page says of 1 % and 10 %."""
    words = [{name: one.word for name, one in setup.decided.items()} for setup in setups]
    for share in (0.01, 0.1):
        monkeypatch.setattr(bound_rules, "SMALLEST_EFFECT", share)
        fresh = [replace(setup) for setup in setups]
        assert [{name: one.word for name, one in setup.decided.items()} for setup in fresh] == words


def test_a_verdict_that_stands_for_its_test_alone_is_marked(setups):
    setup = next(setup for setup in setups if setup.dataset == "digits" and setup.experiment == "quick")
    marked = {name for name, one in setup.decided.items() if one.single}
    table = claims_page.claims_table([setup])
    for line in (line for line in table.splitlines() if line.startswith("| [")):
        assert (markup.ALONE in line) == (line.split("[")[1].split("]")[0] in marked)
    assert ("† not once" in table) == bool(marked)
    steady = replace(setup)
    steady.__dict__["decided"] = {name: replace(one, adjusted=one.p) for name, one in setup.decided.items()}
    assert "†" not in claims_page.claims_table([steady])
    assert "not then" not in claims_page.family_in_words([steady])


@pytest.mark.slow
def test_every_statement_and_assumption_has_a_row(built):
    table = (built / "_generated" / "statements.md").read_text()
    for identifier, statement in theory_claims.THEORY_CLAIMS.items():
        assert f"| {identifier} " in table
        assert f"01_theory-{statement.part}" in chapters.PAGES
    first = (built / "_generated" / "ledger-first.md").read_text()
    for assumption in assumptions.ASSUMPTIONS:
        assert assumption.replace("w̃*", "w̃\\*") in first
    for column in (*assumptions.COLUMNS, "AllCNN (CIFAR-10)", "ResNet-18 (CIFAR-10)"):
        assert f"| {column} " in first


def test_the_ledgers_column_of_a_large_network_is_of_full_width_and_the_papers_own_first(tmp_path):
    def column():
        found = theory_page._network_column(collection.collect(tmp_path), "allcnn", "AllCNN")
        return found[0], found[1]["value"].unique().tolist()

    assert column() == ("AllCNN", [])
    for experiment, dataset, width, value in (
        ("batchnorm", "digits", 0.1, 1.0),
        ("paper-cpu", "cifar10", 1, 2.0),
        ("paper", "cifar10", 1, 3.0),
    ):
        settings = {**LARGE, "model": {**LARGE["model"], "name": "allcnn", "width": width}}
        metrics = [Metric(metric="damping", value=value)]
        record = made(experiment=experiment, dataset=dataset, section="11_scale", settings=settings, metrics=metrics)
        write_record(record, record_path(tmp_path / "results", experiment, dataset, 0, "11_scale"))
        expected = {1.0: ("AllCNN", []), 2.0: ("AllCNN (CIFAR-10)", [2.0]), 3.0: ("AllCNN (CIFAR-10)", [3.0])}
        assert column() == expected[value]


def test_records_from_before_a_part_existed_say_how_to_make_new_ones(tmp_path):
    early = made(section="01_theory", metrics=[Metric(metric="lambda_max", value=9.0)])
    write_record(early, record_path(tmp_path / "results", "quick", "digits", 0, "01_theory"))
    (setup,) = collection.collect(tmp_path)
    text = section_results.section_fragment(setup, "01_theory-bound", {}, tmp_path, {})
    assert "before this check existed: `make batch EXPERIMENT=quick` runs it" in text


def test_records_of_an_earlier_revision_say_what_moved_since(tmp_path, monkeypatch):
    write_record(made(section="03_methods"), record_path(tmp_path / "results", "quick", "digits", 0, "03_methods"))
    (setup,) = collection.collect(tmp_path)
    monkeypatch.setitem(sections.REVISIONS, "03_methods", 3)
    known = {("03_methods", number): Entry(f"change {number}.", False) for number in (1, 2, 3)}
    monkeypatch.setattr(changelog, "entries", lambda: known)
    told = section_results._source_line(setup, setup.sections["03_methods"])
    assert "are of revision 1 of this section's numbers. Revision 2: change 2. Revision 3: change 3." in told


def test_numbers_of_the_paper_stand_beside_ours_once_a_reader_fills_them_in(tmp_path, monkeypatch):
    frame = pd.DataFrame(
        [
            {"metric": "accuracy", "method": "newton", "split": "test", "value": value, "axis": "", "point": None}
            for value in (0.5, 0.7)
        ]
    )
    assert section_results.paper_table(frame, "mnist") is None
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "paper.csv").write_text(
        "metric,dataset,method,split,value,source\naccuracy,mnist,newton,test,0.61,planted for this test\n"
    )
    for module in (build, section_results):
        monkeypatch.setattr(module, "repository", lambda: tmp_path)
    found = section_results.paper_table(frame, "mnist")
    assert found.loc[0, ["paper", "here"]].tolist() == ["0.61", "0.60 ± 0.14"]
    assert section_results.paper_table(frame, "digits") is None


def test_the_committed_file_of_the_papers_numbers_is_empty():
    assert len(pd.read_csv(repository() / "results" / "paper.csv")) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["01_theory-noise", "06_ablations-noise", "06_ablations-lissa"])
def test_only_the_theory_chapters_pages_show_its_statements(setups, name, tmp_path):
    for setup in setups:
        fragment = section_results.section_fragment(setup, name, {}, tmp_path, {})
        if fragment is not None:
            assert ("{div} statements" in fragment) == name.startswith(theory_claims.SECTION), (setup.title, name)


LARGE = {
    "model": {"name": "allcnn", "width": 1.0},
    "forget": {"kind": "random", "size": 1000},
    "training": {"epochs": 2, "radius": 20},
    "scale": {"hessian_samples": 5000, "judged": 2000, "recalibrated": 2560},
}


def large(seed=0):
    noisy = {"method": "newton + noise"}
    found = [
        Metric(metric=metric, value=value, **noisy)
        for metric, value in (("epsilon", 3.2e7), ("sigma", 0.01), ("sigma_needed", 149.0), ("epsilon_wanted", 1.0))
    ]
    accuracies = [
        # Not the same difference in every seed, which would tell no interval.
        Metric(metric="accuracy", value=0.5 + 1e-4 * seed * (method != "retrain"), method=method, split=split)
        for method in ("newton + noise", "original + noise", "retrain")
        for split in ("forget", "retain", "test")
    ]
    return made(
        experiment="paper-cpu", dataset="cifar10", section="11_scale", seed=seed, settings=LARGE,
        metrics=[*found, *accuracies, Metric(metric="auc", value=0.5, method="retrain")],
    )  # fmt: skip


@pytest.fixture
def shortened(tmp_path):
    for seed in (0, 1):
        write_record(large(seed), record_path(tmp_path / "results", "paper-cpu", "cifar10", seed, "11_scale"))
    (setup,) = collection.collect(tmp_path)
    return setup


def test_what_was_cut_of_the_papers_setting_stands_at_every_table_and_figure(shortened, tmp_path):
    text = section_results.section_fragment(shortened, "11_scale", {}, tmp_path, {})
    cut = (
        "2 of 50 epochs, Hessian on 5,000 samples, accuracy on 2,000 retained and test samples, "
        "statistics of D_r over 2,560 samples"
    )
    heads = [line for line in text.splitlines() if "standard deviation over 2 seeds" in line]
    assert len(heads) >= 2
    assert all(cut in line for line in heads)
    assert f"Shortened: {cut}." in text
    assert "| shortened                    | 2 of 50 epochs" in setups_page.setups_table([shortened])
    assert section_results.cut_in_words(shortened) == f" ({cut})"
    table = claims_page.claims_table([shortened]).splitlines()
    assert f" {shortened.title}\\* " in table[0]
    assert table[-1] == f"\\* shortened: *{shortened.title}* ({cut})."


def test_a_set_up_whose_sections_have_different_seeds_says_so(shortened, tmp_path):
    assert setups_page._setup_column(shortened)["seeds"] == "2"
    trained = {"settings": LARGE, "metrics": [Metric(metric="seconds", value=1.0, method="original")]}
    training = made(experiment="paper-cpu", dataset="cifar10", section="02_training", **trained)
    write_record(training, record_path(tmp_path / "results", "paper-cpu", "cifar10", 0, "02_training"))
    (setup,) = collection.collect(tmp_path)
    assert setups_page._setup_column(setup)["seeds"] == "1 to 2, by section"


def test_one_seed_has_neither_mean_nor_deviation(tmp_path):
    write_record(large(), record_path(tmp_path / "results", "paper-cpu", "cifar10", 0, "11_scale"))
    (setup,) = collection.collect(tmp_path)
    text = section_results.section_fragment(setup, "11_scale", {}, tmp_path, {})
    assert "One seed." in text
    assert "** (one seed; 2 of 50 epochs" in text
    assert "deviation" not in text


def test_nothing_is_said_to_be_cut_where_nothing_was(tmp_path):
    settings = {**LARGE, "training": {"epochs": 50, "radius": 20}, "scale": None}
    whole = made(settings=settings, metrics=[Metric(metric="seconds", value=1.0, method="original")])
    write_record(whole, record_path(tmp_path / "results", "quick", "digits", 0, "02_training"))
    (setup,) = collection.collect(tmp_path)
    assert section_results.shortened(setup.sections["02_training"], "; ") == ""
    assert section_results.cut_in_words(setup) == ""
    assert "shortened" not in claims_page.claims_table([setup])


def test_claims_about_a_large_network_are_decided_from_its_one_record(shortened):
    decided = shortened.decided
    assert decided["C9a"].word == "holds but says nothing"
    assert "σ = 0.01 certifies ε = 32,000,000" in decided["C9a"].evidence
    assert (decided["C5a"].word, decided["C5a"].seeds) == ("holds but says nothing", 2)
    assert (decided["C1b"].word, decided["C1b"].evidence) == (
        "not yet tested", "The section that tests this was not run on this set-up.",
    )  # fmt: skip


def refused(seed, low):
    """A record like the others, of a network whose Newton step is undefined."""
    note = f"λ = 10 is at most −λ_min(H), and λ_min(H) ≤ {low}"
    metrics = [
        Metric(metric="accuracy", value=None, method="newton", note=note),
        *(
            Metric(metric=metric, value=value, method="original + noise")
            for metric, value in (("epsilon", 8e6), ("sigma", 0.01), ("sigma_needed", 149.0))
        ),
        Metric(metric="sigma", value=149.0, method="original + noise for ε = 1"),
        *(
            Metric(metric=metric, value=value, method=method, split="test")
            for metric, value in (("accuracy", 0.7), ("recalibrated_accuracy", 0.8))
            for method in ("original", "original + noise", "original + noise for ε = 1")
        ),
    ]
    settings = {**LARGE, "unlearning": {"epsilon": 1, "delta": 1e-5}}
    return large(seed).model_copy(update={"metrics": metrics, "settings": settings})


def test_claims_about_a_step_that_is_undefined_are_not_called_short_of_seeds(tmp_path):
    for seed, low in ((0, -22), (1, -19)):
        write_record(refused(seed, low), record_path(tmp_path / "results", "paper-cpu", "cifar10", seed, "11_scale"))
    (setup,) = collection.collect(tmp_path)
    decided = setup.decided
    for claim in ("C1a", "C4d", "C5a", "C5c", "C6a", "C6b", "C9a", "C9b"):
        assert (decided[claim].word, decided[claim].seeds) == ("assumption violated", 2)
        assert "On none of 2 seeds could the Newton step be taken." in decided[claim].evidence
        assert "λ_min(H) ≤ -22" in decided[claim].evidence
        assert "ε = 8.00·10⁶" in markup.plain_text(decided[claim].evidence)
    assert (decided["C1b"].word, decided["C1b"].evidence[:11]) == ("not yet tested", "The section")
    ablation = made(experiment="paper-cpu", dataset="cifar10", section="06_ablations", settings=LARGE)
    write_record(ablation, record_path(tmp_path / "results", "paper-cpu", "cifar10", 0, "06_ablations"))
    assert collection.collect(tmp_path)[0].decided["C10"].word == "not yet tested"
    words = front_page.worth_table(setup)
    assert "Test accuracy (with BatchNorm's statistics taken anew): without noise 70.0 % (80.0 %); with" in words
    assert "the Newton step is undefined" in words


def test_one_seed_with_a_step_is_enough_to_judge_by_the_rules(tmp_path):
    stepped = large(1)
    step = Metric(metric="accuracy", value=0.5, method="newton", split="test")
    for one in (refused(0, -22), stepped.model_copy(update={"metrics": [*stepped.metrics, step]})):
        write_record(one, record_path(tmp_path / "results", "paper-cpu", "cifar10", one.seed, "11_scale"))
    (setup,) = collection.collect(tmp_path)
    assert verdicts.undefined_step(setup.metrics) is None
    assert "assumption violated" not in {verdict.word for verdict in setup.decided.values()}


ANEW = "newton, λ = 10, statistics of D_r first"


def with_steps(seed, reached):
    """A record of three steps: one taken in every seed, two refused; the last only where the run came to it."""
    whole = large(seed)
    low = -30.0 - seed
    metrics = [
        Metric(metric="damping", value=20000.0),
        Metric(metric="lambda_max", value=7000.0 + seed),
        Metric(metric="lambda_max", value=4000.0 + seed, method="newton, statistics of D_r first"),
        Metric(metric="accuracy", value=0.5, method="newton", split="test"),
        Metric(metric="distance_to_original", value=2e-5, method="newton"),
        Metric(metric="accuracy", value=None, method="newton, λ = 10", note=f"λ_min(H) ≤ {low}"),
        Metric(metric="accuracy", value=None, method=ANEW, note="λ_min ≤ -12" if reached else f"{UNREACHED}: too late"),
    ]
    return whole.model_copy(update={"metrics": [*whole.metrics, *metrics]})


def test_a_step_that_was_refused_is_told_from_one_that_a_run_did_not_come_to(tmp_path):
    for seed in (0, 1, 2):
        record = with_steps(seed, reached=seed == 2)
        write_record(record, record_path(tmp_path / "results", "paper-cpu", "cifar10", seed, "11_scale"))
    (setup,) = collection.collect(tmp_path)
    frame = setup.sections["11_scale"].frame
    steps = tables("11_scale", frame)["The Newton step at every λ"].set_index(["λ", "BatchNorm's statistics"])
    assert steps["seeds with a step"].to_dict() == {
        ("20,000", "as trained"): "3 of 3",
        ("10", "as trained"): "0 of 3",
        ("10", "of D_r"): "0 of 1",
    }
    assert steps.loc[("20,000", "as trained"), "‖step‖"] == "2.00·10⁻⁵"
    assert section_results.reasons(frame) == [
        "**Newton step, λ = 10** (3 of 3 seeds): λ_min(H) ≤ -30.0",
        f"**{ANEW.replace('newton', 'Newton step')}** (2 of 3 seeds): {UNREACHED}: too late",
        f"**{ANEW.replace('newton', 'Newton step')}** (1 of 3 seeds): λ_min ≤ -12",
    ]
    models = tables("11_scale", frame)["Models"]["model"].tolist()
    assert "Newton step, given λ" in models
    assert not [name for name in models if name.startswith(("newton", "Newton step, λ"))]
    labels = [text.get_text() for text in chapters.figure("11_scale")(frame).axes[0].get_yticklabels()]
    assert labels == ["Newton step, given λ + noise", "original + noise", "retrain", "Newton step, given λ"]
    shorter = frame[(frame["seed"] == 0) | (frame["method"] != "retrain")]
    labels = [text.get_text() for text in chapters.figure("11_scale")(shorter).axes[0].get_yticklabels()]
    assert labels == [
        "Newton step, given λ + noise",
        "original + noise",
        "retrain (1 of 3 seeds)",
        "Newton step, given λ",
    ]
    facts = tables("11_scale", frame)["What is computed on what"].set_index("quantity")[""]
    assert facts["λ_max, at least"].startswith("7,001")
    assert facts["λ_max, at least, with statistics of D_r"].startswith("4,001")


def test_a_step_that_no_run_came_to_is_not_called_undefined(tmp_path):
    late = Metric(metric="accuracy", value=None, method="newton", note=f"{UNREACHED}: too late")
    record = large().model_copy(update={"metrics": [late]})
    write_record(record, record_path(tmp_path / "results", "paper-cpu", "cifar10", 0, "11_scale"))
    assert verdicts.undefined_step(collection.collect(tmp_path)[0].metrics) is None


def test_the_noise_that_costs_a_point_and_what_it_certifies_are_of_the_same_seeds(tmp_path):
    for seed, sigma, epsilon in ((0, 0.02, 400_000.0), (1, 0.03, 200_000.0)):
        metrics = [
            Metric(metric=metric, value=value, method="newton + noise")
            for metric, value in (("sigma_one_point", sigma), ("epsilon_one_point", epsilon))
        ]
        ablation = made(section="06_ablations", seed=seed, metrics=metrics)
        write_record(ablation, record_path(tmp_path / "results", "quick", "digits", seed, "06_ablations"))
    (setup,) = collection.collect(tmp_path)
    assert "σ = 0.0250 ± 0.0071, which certifies ε = 300,000 ± 141,421 " in front_page._one_point(setup)


def test_a_section_of_its_own_is_not_overruled_by_the_combined_one(tmp_path):
    write_record(large(), record_path(tmp_path / "results", "paper-cpu", "cifar10", 0, "11_scale"))
    own = large().model_copy(update={"section": "03_unlearning", "metrics": [Metric(metric="epsilon", value=7.0)]})
    write_record(own, record_path(tmp_path / "results", "paper-cpu", "cifar10", 0, "03_unlearning"))
    (setup,) = collection.collect(tmp_path)
    frame = setup.metrics
    assert frame[frame["section"] == "03_unlearning"]["value"].tolist() == [7.0]
    assert len(frame[frame["section"] == "04_attacks"]) == len(frame[frame["section"] == "11_scale"])


BOUND = {
    "model": {"name": "allcnn", "width": 1.0},
    "forget": {"kind": "random", "size": 1000},
    "training": {"epochs": 50, "radius": 20},
    "bound": {"hessian_samples": 5000, "lanczos_steps": 40},
}
DAMPINGS = (10.0, 20000.0, 1e6)
WIGGLE = (0.0, 1.0, -0.4)
RENEWED = f"{names.NETWORK}{names.ANEW}"


def bounded(seed, bounds=(100.0, 90.0, 41.0), errors=(24.0, 24.0, 24.0), spread=1e-5, solved=1.0, authors=None):
    """A record of the bound on a large network: at λ = 10 the system is indefinite, but not with statistics of D_r."""
    wiggle = WIGGLE[seed]
    constants = {
        "damping": 20000.0, "spectrum_samples": 5000.0, "epochs_trained": 50.0, "relu": 1.0,
        "lambda_min": -200.0 - seed,
        "lambda_max": 7000.0 + seed, "gradient_lipschitz": 8000.0, "hessian_lipschitz": 3e4, "gradient_retrained": 30.0,
        "gradient_retrained_own": 28.0, "gradient_original": 27.0, "forms_gap": 28.0, "forms_cosine": -0.97,
        "distance_original": 24.0, "norm": 20.0, "projected": 1.0, "trivial_bound": 40.0, "right_hand_side": 29.0,
    }  # fmt: skip
    found = []
    for method, factor in ((names.NETWORK, 1.0), (RENEWED, 0.5)):
        found += [Metric(metric=metric, value=factor * value, method=method) for metric, value in constants.items()]
    for label, refused in (("", True), (names.ANEW, False)):
        for form in ("", names.FORGET_FORM):
            method = f"{names.NETWORK}{form}{label}"
            for point, bound, error in zip(DAMPINGS, bounds, errors, strict=True):
                keys = {"method": method, "axis": "damping", "point": point}
                found.append(Metric(metric="bound", value=None if refused and point == 10 else bound, **keys))
                if refused and point == 10:
                    found.append(Metric(metric="distance", value=None, note="λ_min(H) ≤ -22", **keys))
                    continue
                steps = {"distance": error + spread * wiggle, "step_norm": 1e-4, "residual": 1e-5, "hvp_samples": 2e4}
                found += [Metric(metric=metric, value=value, **keys) for metric, value in steps.items()]
    found += [
        Metric(metric="distance_to_retrained", value=24.0, method="original"),
        Metric(metric="seconds", value=66.0, method="retrain"),
        Metric(metric="seconds", value=66.0, method="retraining in full", split="unlearning"),
    ]
    for solver, seconds in (("lissa", 2.0), ("conjugate gradient, same residual", solved)):
        seconds *= 1 + 0.01 * wiggle
        values = {"claim_seconds": seconds, "claim_residual": 0.1, "distance_to_retrained": 23.9, "timed_alone": 0.0}
        found += [Metric(metric=metric, value=value, method=solver) for metric, value in values.items()]
    if authors is None:
        found.append(Metric(metric="seconds", value=None, method=names.AUTHORS, note="LiSSA diverges at step 3"))
    else:
        values = {
            "seconds": authors * (1 + 0.01 * wiggle),
            "residual": 0.9,
            "distance_to_retrained": 12.0 + 0.01 * wiggle,
        }
        values["timed_alone"] = 0.0
        found += [Metric(metric=metric, value=value, method=names.AUTHORS) for metric, value in values.items()]
    return made(
        experiment="paper", dataset="cifar10", section="11_bound", seed=seed, settings=BOUND, metrics=found
    )  # fmt: skip


def setup_of(folder, *records):
    for one in records:
        write_record(one, record_path(folder / "results", one.experiment, one.dataset, one.seed, one.section))
    (setup,) = collection.collect(folder)
    return setup


@pytest.mark.parametrize(
    ("bounds", "errors", "spread", "words"),
    [
        # The grid's first λ lies below λ_max: whatever is there is not looked at.
        ((1.0, 90.0, 41.0), (99.0, 24.0, 24.0), 1e-5, ("holds but says nothing", "holds but says nothing")),
        ((90.0, 39.0, 30.0), (24.0, 24.0, 20.0), 1e-5, ("holds", "holds")),
        ((90.0, 23.0, 30.0), (24.0, 24.0, 24.0), 1e-5, ("does not hold", "does not hold")),
        ((90.0, 39.0, 30.0), (24.0, 20.0, 24.0), 1e-5, ("holds", "does not hold")),
        ((90.0, 39.0, 30.0), (24.0, 20.0, 21.0), 1.0, ("holds", "not testable here")),
    ],
)
def test_the_claims_on_the_bound_are_decided_from_the_record_of_a_large_network(
    bounds, errors, spread, words, tmp_path
):
    setup = setup_of(
        tmp_path, *(bounded(seed, bounds, (*errors[:2], errors[2]), spread * (1 + seed)) for seed in range(3))
    )
    decided = setup.decided
    assert (decided["C1b"].word, decided["C2"].word) == words
    for claim in ("C1b", "C2"):
        assert "over 5,000 retained samples" in decided[claim].evidence
        assert "no finite M: its bound is a number put into the formula" in decided[claim].evidence
    assert "At λ = 20000 the error" in decided["C1b"].evidence


def test_one_seed_of_a_large_network_decides_nothing_about_the_bound(tmp_path):
    decided = setup_of(tmp_path, bounded(0)).decided
    assert {decided[claim].word for claim in ("C1a", "C1b", "C2", "C3", "C5a", "C9a")} == {"not yet tested"}


def test_the_bound_on_a_smooth_network_is_no_mere_number(tmp_path):
    def smooth(seed):
        one = bounded(seed)
        metrics = [m.model_copy(update={"value": 0.0}) if m.metric == "relu" else m for m in one.metrics]
        return one.model_copy(update={"metrics": metrics})

    decided = setup_of(tmp_path, *map(smooth, range(3))).decided
    assert "over 5,000 retained samples" in decided["C1b"].evidence
    assert "ReLU" not in decided["C1b"].evidence


def test_solvers_on_a_large_network_are_judged_by_their_own_steps_and_not_called_idle(tmp_path):
    decided = setup_of(tmp_path, *(bounded(seed, solved=7.0) for seed in range(3))).decided
    assert (decided["C4b"].word, decided["C4c"].word) == ("holds but says nothing", "does not hold")
    for claim in ("C4b", "C4c"):
        assert "not on an idle machine" in decided[claim].evidence
        assert "removes 0.42 %" in decided[claim].evidence
    assert (decided["C4a"].word, decided["C4a"].seeds) == ("assumption violated", 3)
    assert "Seed 0: LiSSA diverges at step 3." in decided["C4a"].evidence


@pytest.mark.parametrize(("seconds", "word"), [(3.0, "holds"), (30.0, "does not hold")])
def test_lissa_with_the_authors_constants_is_judged_within_the_record_that_has_it(seconds, word, tmp_path):
    """In the other record the original is as near as this step is, and retraining takes a second."""
    others = [
        large(seed).model_copy(
            update={
                "experiment": "paper",
                "settings": {**LARGE, "training": BOUND["training"]},
                "metrics": [
                    Metric(metric="distance_to_retrained", value=12.0, method="original"),
                    Metric(metric="seconds", value=1.0, method="retrain"),
                ],
            }
        )
        for seed in range(3)
    ]
    one = setup_of(tmp_path, *others, *(bounded(seed, authors=seconds) for seed in range(3))).decided["C4a"]
    assert (one.word, one.seeds) == (word, 3)
    assert "removes 50 %" in one.evidence


def test_of_a_number_that_two_sections_have_the_first_ones_counts_and_their_own_section_before_both(tmp_path):
    combined = large().model_copy(
        update={
            "experiment": "paper",
            "settings": {**LARGE, "training": BOUND["training"]},
            "metrics": [
                Metric(metric="distance_to_retrained", value=25.0, method="original"),
                Metric(metric="distance_to_retrained", value=24.5, method="newton"),
            ],
        }
    )
    setup = setup_of(tmp_path, bounded(0), combined)
    rows = query.select(setup.metrics, section="03_unlearning", metric="distance_to_retrained").set_index("method")
    assert rows.loc["original", "value"] == 25.0
    assert rows.loc["newton", "value"] == 24.5
    assert rows.loc["lissa", "value"] == 23.9
    stood_for = {name for name, others in STAND_INS.items() if others != ("11_sweeps",)}
    assert set(setup.metrics["section"]) == {"11_scale", "11_bound", *stood_for}
    own = combined.model_copy(update={"section": "03_unlearning", "metrics": combined.metrics[1:]})
    rows = setup_of(tmp_path, own).metrics
    rows = query.select(rows, section="03_unlearning", metric="distance_to_retrained")
    assert rows["method"].tolist() == ["newton"]


def test_the_page_of_the_bound_has_the_papers_table_for_each_kind_of_statistics(tmp_path):
    setup = setup_of(tmp_path, *(bounded(seed, errors=(23.0, 18.0, 12.0), spread=0.01) for seed in range(3)))
    frame = setup.sections["11_bound"].frame
    found = tables("11_bound", frame)
    trained = found["Table 3: bound and error, statistics as trained"].set_index("λ")
    renewed = found["Table 3: bound and error, statistics of D_r"].set_index("λ")
    assert trained.index.tolist() == renewed.index.tolist() == ["10", "20,000", "1.00·10⁶"]
    assert trained.loc["10"].unique().tolist() == ["—"]
    assert renewed.loc["10", "D_r form: bound"] == "100"
    assert trained.loc["20,000", "D_u form: bound"] == "90"
    assert renewed.loc["1.00·10⁶", "D_u form: error"] == "12.0020 ± 0.0072"
    assert trained.loc["20,000", "D_r form: removed (%)"] == "24.992 ± 0.030"
    constants = found["Constants (indications, not certificates)"].set_index("quantity")
    assert constants.loc["cosine of the two"].tolist() == ["-0.97", "-0.485"]
    assert constants.loc["λ_max, at least", "statistics as trained"] == "7,001.0 ± 1.0"
    solvers = found["Solvers at the default λ, statistics as trained, not timed on an idle machine"].set_index("solver")
    assert solvers.loc["lissa", ["system (s)", "relative residual"]].tolist() == ["2.004 ± 0.014", "0.1"]
    assert solvers.loc["lissa, λ and constants of the authors' code"].unique().tolist() == ["—"]
    assert "with the gradient (s)" not in solvers
    text = section_results.section_fragment(setup, "11_bound", {}, tmp_path, {})
    assert "Shortened: Hessian on 5,000 samples." in text
    assert "LiSSA diverges at step 3" in text
    shown = [line.split()[1] for line in text.splitlines() if line.startswith(":::{admonition} C")]
    assert shown == ["C1b:", "C2:", "C4b:", "C4c:"]
    axes = chapters.figure("11_bound")(frame).axes
    assert [panel.get_title() for panel in axes] == ["BatchNorm's statistics as trained", "statistics of D_r"]
    labels = axes[0].get_legend_handles_labels()[1]
    assert set(labels) == {
        "D_r form: bound", "D_r form: error", "D_u form: bound", "D_u form: error", "2C", "‖w* − w̃*‖", "λ_max seen",
    }  # fmt: skip


def test_a_network_without_batchnorm_has_one_table_and_one_panel(tmp_path):
    def plain(seed):
        one = bounded(seed)
        return one.model_copy(update={"metrics": [m for m in one.metrics if names.ANEW not in m.method]})

    frame = setup_of(tmp_path, *map(plain, range(3))).sections["11_bound"].frame
    assert [title for title in tables("11_bound", frame) if "Table 3" in title] == ["Table 3: bound and error"]
    assert [panel.get_title() for panel in chapters.figure("11_bound")(frame).axes] == [""]


def test_a_dataset_without_records_has_the_reason_and_the_command(shortened):
    text = setups_page.absent_setups([shortened])
    assert "**SVHN**: its files were not at hand where these results were made, and a GPU is needed." in text
    assert "`cdu data fetch svhn && make paper` fills its rows." in text
    assert "CIFAR-10" not in text
    assert "**CIFAR-10**: not run yet" in setups_page.absent_setups([])


def audited(gaussian):
    keys = {"method": "some method", "split": "random, final"}
    found = (("contradicted", 0.0), ("audit_epsilon", 0.0), ("audit_gaussian", gaussian), ("certified_epsilon", 1.0))
    metrics = [Metric(metric=metric, value=value, **keys) for metric, value in found]
    for kind, caught in (("wrong", 1.0), ("right", 0.0)):
        planted = {"method": f"planted: a method {kind}", "split": "random, final"}
        metrics.append(Metric(metric="contradicted", value=caught, **planted))
    metrics.append(Metric(metric="pair_distance", value=1.0, method="some method", split="random"))
    return made(section="10_audit", metrics=metrics)


@pytest.mark.parametrize(
    ("gaussian", "words"),
    [
        (0.3, "the largest lower bound is ε ≥ 0 from counts and ε ≥ 0.3 by Gaussian differential privacy, where 1 is"),
        (0.0, "no lower bound is above ε = 0, where 1 is certified"),
    ],
)
def test_the_front_page_says_how_far_an_audit_got(tmp_path, gaussian, words):
    write_record(audited(gaussian), record_path(tmp_path / "results", "quick", "digits", 0, "10_audit"))
    text = front_page.audited_table(collection.collect(tmp_path)[0])
    assert words in text
    assert "1 audits of certificates by 1 methods" in text
    assert "Of 1 planted errors, each too little noise, caught: 1 (a method wrong); of 1 with the right" in text


def test_what_the_compute_page_says_of_the_releases_at_the_smallest_epsilon(setups):
    """The sentences below the table are typed by hand: this holds them against the records."""
    like_noise = ("output perturbation", "Newton step", "rewind")
    for setup in (one for one in setups if "03_methods" in one.sections):
        found = front_page.beside_starts(setup.sections["03_methods"].frame)
        for method in like_noise:
            for difference in found[method, "from noise"].values():
                assert abs(difference.mean()) <= (1 / 300 + 1e-9 if setup.dataset == "digits" else 0.0015)
                assert difference.abs().max() <= 0.004
            below = found[method, "from scratch"]
            if setup.dataset == "mnist":
                assert all((below[k].dropna() < 0).all() for k in (1.0, 2.0, 4.0))
                assert below[8.0].mean() < 0
                assert (below[8.0] > 0).any()
                assert method != "Newton step" or interval(below[8.0]).high > 0
        if setup.dataset == "digits":
            above = found["noisy fine-tuning", "from scratch"]
            assert all(above[k].mean() > 0 and len(above[k]) == 3 for k in (1.0, 2.0, 4.0, 8.0))
            assert all((above[k] < 0).sum() == 1 for k in (1.0, 4.0))


def test_the_table_beside_the_starts_has_an_interval_unless_all_seeds_agree(setups):
    assert front_page._points(Interval(0.001, 0.002, 3)) == "+0.10 ± 0.20"
    assert front_page._points(Interval(-0.001, 0.0, 3)) == "-0.10"
    assert front_page._points(Interval(-0.001, float("inf"), 1)) == "-0.10"
    (digits,) = [one for one in setups if one.title == "digits"]
    table = front_page.starts_table(digits)
    assert "| Newton step" in table
    assert "linear" not in table


def test_every_page_that_quotes_what_is_in_no_record_is_listed():
    book = repository() / "book"
    words = ("not in the records", "outside the records", "leaves no record", "a record of the history")
    quoting = {
        page.name
        for page in book.glob("*.md")
        if page.name != "provenance.md" and any(word in page.read_text(encoding="utf-8") for word in words)
    }
    provenance = (book / "provenance.md").read_text(encoding="utf-8")
    listed = provenance.split("## Numbers outside the records")[1].split("\n## ")[0]
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", listed)) == quoting
