"""The paper's networks within a given time: the clock, the plan, what is left behind, the rehearsal."""

import math
import os
import tarfile
import time
from pathlib import Path

import nbformat
import pytest
import torch
import yaml

from cdu import clock, storage
from cdu.errors import CduError
from cdu.experiments import bundle, paper, rehearsal
from cdu.experiments.execution import cells_hash, execute_here
from cdu.experiments.experiment import load_experiment
from cdu.experiments.records import Metric, mark_current, mark_path, record_path, write_record
from cdu.experiments.repository import repository
from cdu.experiments.sections import REVISIONS, SECTIONS, section_hash, section_settings
from cdu.report.collection import verdicts_in_words
from test_records import record


@pytest.fixture(autouse=True)
def no_end(monkeypatch):
    monkeypatch.delenv(clock.VARIABLE, raising=False)


def ends_in(monkeypatch, seconds):
    monkeypatch.setenv(clock.VARIABLE, str(time.time() + seconds))


def test_without_an_end_there_is_time(monkeypatch):
    assert clock.remaining() == math.inf
    clock.require("anything")
    ends_in(monkeypatch, 100)
    assert 90 < clock.remaining() <= 100
    clock.require("anything")


def test_after_the_end_nothing_is_begun(monkeypatch):
    ends_in(monkeypatch, -1)
    with pytest.raises(clock.OutOfTime, match=r"the time is up before seed 3; what is done is kept"):
        clock.require("seed 3")
    monkeypatch.setenv(clock.VARIABLE, "noon")
    with pytest.raises(CduError, match="= 'noon' is not a number of seconds"):
        clock.require("seed 3")


def test_the_end_is_no_refusal_of_a_method():
    # Where a method refuses, the reason is logged as its result; the end of the time is no result.
    assert not issubclass(clock.OutOfTime, CduError)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An experiment of one section and two seeds, with a rehearsal's sizes, and its folder of runs."""
    monkeypatch.setenv("CDU_DATA", str(tmp_path / "no data"))
    content = yaml.safe_load((repository() / "tests" / "canaries" / "batchnorm.yaml").read_text())
    content.update(name="small", seeds=[0, 1], sections=["02_training"], expected_seconds={"02_training": 50})
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path), tmp_path / "runs"


def done(output, experiment, seed, section="02_training"):
    """The record of a run, as if it had been made."""
    settings = experiment.settings("digits")
    changes = {
        "experiment": experiment.name,
        "dataset": "digits",
        "seed": seed,
        "section": section,
        "revision": REVISIONS[section],
        "settings": section_settings(settings, section),
        "config_hash": section_hash(settings, "digits", section),
        "duration": 7.0,
        "metrics": [Metric(metric="images_per_second", value=1234.0, method="original")],
    }
    path = record_path(output, experiment.name, "digits", seed, section)
    write_record(record().model_copy(update=changes), path)
    mark_current(mark_path(path, changes["config_hash"], REVISIONS[section], cells_hash(section)))
    return path


def test_the_plan_says_how_far_the_time_reaches(small):
    file, output = small
    stages, absent = paper.stages([file])
    assert not absent
    lines = paper.plan(stages, output, minutes=1).splitlines()
    assert lines[1].split() == ["yes", "small,", "digits,", "seed", "0,", "02_training", "50", "50"]
    assert lines[2].split()[:2] == ["perhaps", "not"]
    assert lines[-1] == "100 s expected in all, one run after another; the time ends after 60 s"
    done(output, stages[0].experiment, 0)
    lines = paper.plan(stages, output, minutes=1).splitlines()
    assert lines[1].startswith("done ")
    assert lines[2].split()[0] == "yes"
    assert lines[-1].startswith("50 s expected")


def test_the_papers_plan_has_every_section_of_its_experiments_in_their_order(monkeypatch, tmp_path):
    monkeypatch.setattr("cdu.data.download.at_hand", lambda name: True)
    stages, absent = paper.stages()
    assert not absent
    for file in paper.EXPERIMENTS:
        own = [job[2] for stage in stages for job in stage.jobs if stage.file == file]
        assert list(dict.fromkeys(own)) == list(load_experiment(file).sections)
    monkeypatch.setattr("cdu.data.download.at_hand", lambda name: name != "svhn")
    stages, absent = paper.stages()
    assert "svhn" not in {job[0] for stage in stages for job in stage.jobs}
    assert absent == [
        "paper-resnet18: the files of svhn are not at hand; 'cdu data fetch svhn' downloads them, and the same command "
        "then runs it"
    ]


def test_every_section_of_the_paper_has_an_expected_time():
    for file in paper.EXPERIMENTS:
        experiment = load_experiment(file)
        assert set(experiment.expected_seconds) == set(experiment.sections)


def executed(path, outputs):
    cells = [nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("error", **one) for one in outputs])]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def test_what_became_of_every_run_is_said(small):
    file, output = small
    stages, _ = paper.stages([file])
    assert [one.state for one in paper.outcomes(stages, output)] == ["not begun", "not begun"]
    done(output, stages[0].experiment, 0)
    later = record_path(output, "small", "digits", 1, "02_training").with_suffix(".ipynb")
    executed(later, [{"ename": "OutOfTime", "evalue": "the time is up", "traceback": []}])
    first, second = paper.outcomes(stages, output)
    assert (first.state, first.seconds, first.expected) == ("done", 7.0, 50)
    assert (second.state, second.failed) == ("the time was up", False)
    executed(later, [{"ename": "RuntimeError", "evalue": "no memory", "traceback": []}])
    _, second = paper.outcomes(stages, output)
    assert (second.state, second.failed) == ("RuntimeError: no memory", True)
    text = paper.summary(stages, output, ["svhn is missing"], verdicts_in_words(output))
    assert "# 1 of 2 runs are done" in text
    assert "| small, digits, seed 0, 02_training | done | 7 | 50 |" in text
    assert "svhn is missing" in text
    assert "- small, digits, seed 0: 1,234 images/s (" in text
    assert ": C1a not yet tested, C1b not yet tested, " in text


def model(path, size, when):
    tensors = {"w": torch.full((size,), float(when)), "adam.exp_avg": torch.zeros(size), "buffer.mean": torch.ones(3)}
    storage.write_tensors(path, tensors, [{"epoch": 1.0}])
    os.utime(path, (when, when))


def test_what_was_reached_fits_into_a_folder_and_goes_on_elsewhere(small, tmp_path, monkeypatch):
    file, output = small
    stages, _ = paper.stages([file])
    path = done(output, stages[0].experiment, 0)
    executed(path.with_suffix(".ipynb"), [])
    storage.write_json(output / "checkpoints" / "threads-1" / "points" / "a.json", [1])
    for number, name in enumerate("cab", start=1):
        model(output / "checkpoints" / "threads-1" / f"{name}.safetensors", 100_000, number)
    # Two models fit into a file, and one file more may be written.
    monkeypatch.setattr(bundle, "FILE_BYTES", 900_000)
    monkeypatch.setattr(bundle, "FILES", 5)
    files = bundle.pack(stages, output, tmp_path / "results", [])
    names = ["summary.md", "records.tar.gz", "notebooks.tar.gz", "points.tar.gz", "models-1.tar"]
    assert [file.name for file in files] == names
    assert all(file.stat().st_size <= 900_000 for file in files)
    elsewhere = tmp_path / "elsewhere"
    bundle.unpack(tmp_path / "results", elsewhere)
    assert (elsewhere / path.relative_to(output)).read_bytes() == path.read_bytes()
    assert [one.state for one in paper.outcomes(stages, elsewhere)] == ["done", "not begun"]
    kept = sorted((elsewhere / "checkpoints" / "threads-1").glob("*.safetensors"))
    assert [one.stem for one in kept] == ["a", "c"]
    tensors, history = storage.read_tensors(kept[1], "")
    assert set(tensors) == {"w", "buffer.mean"}
    assert history == [{"epoch": 1.0}]
    assert tensors["w"][0] == 1


def names_in(path):
    with tarfile.open(path) as archive:
        return len(archive.getnames())


def test_models_take_as_many_files_as_there_is_room_for(small, tmp_path, monkeypatch):
    file, output = small
    stages, _ = paper.stages([file])
    for number in range(6):
        model(output / "checkpoints" / "threads-1" / f"{number}.safetensors", 100_000, number + 1)
    monkeypatch.setattr(bundle, "FILE_BYTES", 900_000)
    for room, files, kept in ((10_000_000, 3, 6), (2_000_000, 2, 4), (500_000, 1, 1)):
        monkeypatch.setattr(bundle, "ALL_BYTES", room)
        folder = tmp_path / str(room)
        written = bundle.pack(stages, output, folder, [])
        assert sum(path.stat().st_size for path in written) <= room
        archives = [path for path in written if path.name.startswith("models")]
        assert len(archives) == files
        assert sum(names_in(path) for path in archives) == kept


def test_a_file_that_is_too_large_is_named(small, tmp_path, monkeypatch):
    file, output = small
    stages, _ = paper.stages([file])
    monkeypatch.setattr(bundle, "FILE_BYTES", 50)
    with pytest.raises(CduError, match=r"summary.md has \d+ bytes, more than the 50"):
        bundle.pack(stages, output, tmp_path / "results", [])


def test_unpacking_stays_inside_its_folder_and_overwrites_nothing(tmp_path):
    folder, output = tmp_path / "results", tmp_path / "runs"
    folder.mkdir()
    with pytest.raises(CduError, match="holds no archives"):
        bundle.unpack(folder, output)
    (tmp_path / "x.json").write_text("packed")
    with tarfile.open(folder / "records.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "x.json", "x.json")
    output.mkdir()
    (output / "x.json").write_text("newer")
    bundle.unpack(folder, output)
    assert (output / "x.json").read_text() == "newer"
    whole = (folder / "records.tar.gz").read_bytes()
    (folder / "records.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CduError, match="cannot be unpacked"):
        bundle.unpack(folder, tmp_path / "other")
    with tarfile.open(folder / "records.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "x.json", "../outside.json")
    with pytest.raises(CduError, match="cannot be unpacked"):
        bundle.unpack(folder, output)
    assert not (tmp_path / "outside.json").exists()


@pytest.mark.parametrize("file", paper.EXPERIMENTS)
def test_a_rehearsal_has_every_section_and_every_name_of_its_experiment(file, tmp_path, monkeypatch):
    monkeypatch.setenv("CDU_DATA", str(tmp_path / "no data"))
    real, small = load_experiment(file), load_experiment(rehearsal.rehearsal(file, tmp_path))
    assert small.sections == real.sections
    assert set(small.datasets) == {"digits"}
    settings, wanted = small.settings("digits"), real.settings("cifar10")
    assert settings.samples == 500
    assert set(settings.unlearning.dampings) == {*wanted.unlearning.dampings, "code"}
    assert settings.scale is not None
    assert wanted.scale is not None
    assert set(settings.scale.methods) == set(wanted.scale.methods)
    for section in real.sections:
        assert {name for name in SECTIONS[section].blocks if getattr(settings, name) is None} == set()


@pytest.mark.slow  # It runs a batch twice.
def test_the_time_ends_a_batch_between_two_points_and_it_goes_on(small, monkeypatch):
    file, output = small
    content = yaml.safe_load(Path(file).read_text())
    content.update(seeds=[0], sections=["11_scale"])
    Path(file).write_text(yaml.safe_dump(content))
    stages, _ = paper.stages([file])
    assert paper.run(stages, output, minutes=0, device="cpu", cores="1")
    assert [one.state for one in paper.outcomes(stages, output)] == ["not begun"]
    assert clock.VARIABLE not in os.environ
    begun = []

    def end_at_the_third(what):
        begun.append(what)
        if sum(one.startswith("11_scale") for one in begun) == 3:
            raise clock.OutOfTime(what)

    torch.set_num_threads(1)
    parameters = {"dataset": "digits", "seed": 0, "experiment": file, "output": str(output), "device": "cpu"}
    with monkeypatch.context() as patch:
        patch.setattr(clock, "require", end_at_the_third)
        with pytest.raises(clock.OutOfTime):
            execute_here("11_scale", parameters)
    points = {path: path.stat().st_mtime_ns for path in (output / "checkpoints").rglob("points/*.json")}
    assert len(points) == 2
    left = []
    assert not paper.run(stages, output, minutes=10, device="cpu", cores="1", after=lambda: left.append(1))
    assert left == [1]
    assert [one.state for one in paper.outcomes(stages, output)] == ["done"]
    assert points == {path: path.stat().st_mtime_ns for path in points}
