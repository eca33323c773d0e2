"""Promotion of a batch to reference results: all of it, or nothing."""

import shutil

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from cdu.cli import records as cli
from cdu.errors import CduError
from cdu.experiments.experiment import load_experiment
from cdu.experiments.records import read_record, record_path, write_record
from cdu.experiments.repository import repository
from cdu.experiments.sections import BENCHMARKS, BY_HAND, COMMON, OPTIONAL, REVISIONS, SECTIONS, section_hash
from cdu.report import collection
from test_records import record


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """A complete batch of the experiment quick in a project of its own."""
    for folder in ("experiments", "notebooks"):
        (tmp_path / folder).mkdir()
        for path in (repository() / folder).glob("*.[yp]*"):
            if path.suffix in {".yaml", ".py"}:
                shutil.copyfile(path, tmp_path / folder / path.name)
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    loaded = load_experiment("quick")
    settings = loaded.settings("digits")
    for _, seed, section in (*loaded.jobs(), *loaded.benchmarks()):
        path = record_path(tmp_path / "runs", "quick", "digits", seed, section)
        made = record().model_copy(
            update={
                "seed": seed,
                "section": section,
                "settings": settings.model_dump(mode="json", include={*COMMON, *SECTIONS[section].blocks}),
                "config_hash": section_hash(settings, "digits", section),
                "revision": REVISIONS[section],
            }
        )
        write_record(made, path)
        outputs = [new_output("stream", name=name, text=name) for name in ("stdout", "stderr")]
        executed = new_notebook(cells=[new_code_cell("1 + 1", outputs=outputs)])
        executed.metadata["papermill"] = {"input_path": "somewhere"}
        nbformat.write(executed, path.with_suffix(".ipynb"))
    return tmp_path


def test_a_complete_batch_is_promoted_with_exemplars_of_the_first_seed(batch):
    cli.reference("quick")
    jobs = load_experiment("quick").jobs()
    set_up = load_experiment("quick").settings("digits").model_fields_set
    batched = {name for name in SECTIONS if OPTIONAL.get(name) in {None, *set_up}} - {*BENCHMARKS, *BY_HAND}
    assert len(jobs) == sum(len(load_experiment("quick").seeds_of(section)) for section in batched)
    for _, seed, section in jobs:
        target = record_path(batch / "results", "quick", "digits", seed, section)
        assert read_record(target).seed == seed
        assert target.with_suffix(".ipynb").exists() == (seed == 0)
    exemplar = nbformat.read(batch / "results/quick/digits/seed-0/02_training.ipynb", as_version=4)
    assert "papermill" not in exemplar.metadata
    assert [output["name"] for output in exemplar.cells[0].outputs] == ["stdout"]


def test_one_section_can_be_promoted_alone_and_seeds_that_are_gone_are_removed(batch):
    gone = record_path(batch / "results", "quick", "digits", 9, "01_theory")
    other = record_path(batch / "results", "quick", "digits", 9, "02_training")
    for path in (gone, other):
        write_record(record(), path)
    record_path(batch / "runs", "quick", "digits", 1, "03_unlearning").unlink()
    cli.reference("quick", section="01_theory")
    assert not gone.exists()
    assert other.exists()
    assert len(list((batch / "results").rglob("01_theory.json"))) == 5
    assert not list((batch / "results").rglob("03_unlearning.json"))
    with pytest.raises(CduError, match="unknown section '99_magic'"):
        cli.reference("quick", section="99_magic")


def test_what_there_is_of_some_seeds_can_be_promoted_by_naming_them(batch, capsys):
    record_path(batch / "runs", "quick", "digits", 2, "05_relearn").unlink()
    cli.reference("quick", section="05_relearn", dataset="digits", seeds=[0, 1])
    found = sorted((batch / "results").rglob("05_relearn.json"))
    assert [read_record(path).seed for path in found] == [0, 1]
    assert not list((batch / "results").rglob("02_training.json"))
    assert capsys.readouterr().out.count("is as it was") == 0
    cli.reference("quick", section="05_relearn", seeds=[1])
    assert "seed 0 of 05_relearn on digits is as it was, from commit" in capsys.readouterr().out
    with pytest.raises(CduError, match=r"1 of 1 records are missing"):
        cli.reference("quick", section="05_relearn", seeds=[2])
    for nothing in ({"dataset": "svhn"}, {"seeds": [7]}, {"section": "05_relearn", "seeds": [3]}):
        with pytest.raises(CduError, match="'quick' has no run of section"):
            cli.reference("quick", **nothing)


def test_a_benchmark_is_promoted_by_itself_without_the_path_of_a_clone(batch):
    made = record_path(batch / "runs", "quick", "digits", 0, "08_efficiency").with_suffix(".ipynb")
    executed = nbformat.read(made, as_version=4)
    executed.cells[0].source = 'seed = 0\nofficial = "/somewhere/of/mine"\n'
    nbformat.write(executed, made)
    cli.reference("quick")
    target = batch / "results/quick/digits/seed-0/08_efficiency.json"
    assert not target.exists()
    cli.reference("quick", section="08_efficiency")
    assert target.exists()
    promoted = nbformat.read(target.with_suffix(".ipynb"), as_version=4)
    assert promoted.cells[0].source == 'seed = 0\nofficial = ""  # the path of a clone\n'
    cli.reference("quick")
    assert target.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), f"1 of {len(load_experiment('quick').jobs())} records are missing"),
        (lambda path: path.with_suffix(".ipynb").unlink(), "the executed notebook that goes with the record"),
        (lambda path: rewrite(path, dirty=True), "uncommitted changes"),
        (lambda path: rewrite(path, config_hash="0" * 12), "made with other settings"),
        (lambda path: rewrite(path, revision=99), "revision 99 of its numbers, expected 2"),
    ],
)
def test_an_unfit_batch_is_refused_and_nothing_is_promoted(batch, change, message):
    change(record_path(batch / "runs", "quick", "digits", 0, "05_relearn"))
    with pytest.raises(CduError, match=message):
        cli.reference("quick")
    assert list((batch / "results").iterdir()) == []


def rewrite(path, **changes):
    write_record(read_record(path).model_copy(update=changes), path)


def test_sections_of_different_settings_decide_nothing_together(batch):
    (setup,) = collection.collect(batch)
    assert setup.consistent
    path = record_path(batch / "runs", "quick", "digits", 0, "05_relearn")
    settings = read_record(path).settings
    for seed in (0, 1, 2):
        changed = {**settings, "training": {**settings["training"], "radius": 99}}
        rewrite(record_path(batch / "runs", "quick", "digits", seed, "05_relearn"), settings=changed)
    (setup,) = collection.collect(batch)
    assert not setup.consistent
    assert {verdict.word for verdict in setup.decided.values()} == {"not yet tested"}


def test_current_references_are_shown_before_runs_of_other_settings(batch):
    cli.reference("quick")
    for seed in (0, 1, 2):
        rewrite(record_path(batch / "runs", "quick", "digits", seed, "05_relearn"), config_hash="0" * 12)
    (setup,) = collection.collect(batch)
    assert [one.run for one in setup.sections["05_relearn"].records] == [False] * 3
    assert [one.run for one in setup.sections["04_attacks"].records] == [True] * 3


def test_the_chapters_planted_errors_are_caught_and_no_certificate_is_contradicted():
    audited = read_record(record_path(repository() / "results", "quick", "digits", 0, "10_audit"))
    words = {(m.method, m.split): m.value for m in audited.metrics if m.metric == "contradicted"}
    caught = {method for (method, _), value in words.items() if value}
    assert caught >= {"planted: noise ten times too little", "planted: noise on the way ten times too little"}
    assert all(method.startswith("planted: ") and not method.endswith(" right") for method in caught)
    distances = [m.value for m in audited.metrics if m.metric == "planted_distance"]
    assert len(distances) == 2
    assert min(distances) >= 0.4


def accuracies(experiment, dataset, seed, section):
    """Accuracies of the trained models in a committed record, by model and split."""
    found = read_record(record_path(repository() / "results", experiment, dataset, seed, section)).metrics
    models = {"original", "retrain", "second retraining"}
    return {(one.method, one.split): one.value for one in found if one.metric == "accuracy" and one.method in models}


@pytest.mark.parametrize("experiment", ["quick", "mnist"])
def test_the_sections_of_an_experiment_stand_on_the_same_models(experiment):
    (dataset,) = load_experiment(experiment).datasets
    for seed in load_experiment(experiment).seeds:
        training, *others = (
            accuracies(experiment, dataset, seed, section) for section in ("02_training", "03_unlearning", "03_methods")
        )
        assert len(training) == 9
        assert others == [training, training]


@pytest.mark.parametrize(
    ("experiment", "dataset", "seeds"), [("batchnorm", "digits", (0, 1, 2)), ("paper", "cifar10", (0, 1))]
)
def test_the_section_on_large_networks_stands_on_the_models_of_training(experiment, dataset, seeds):
    for seed in seeds:
        training, scale = (accuracies(experiment, dataset, seed, section) for section in ("02_training", "11_scale"))
        assert len(training) == 9
        assert scale == training
