"""What Snakemake sees of a batch, and that nothing done is lost."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cdu.experiments.execution import cells_hash
from cdu.experiments.experiment import load_experiment
from cdu.experiments.records import mark_current, mark_path, read_record, record_path, write_record
from cdu.experiments.repository import repository
from cdu.experiments.sections import REVISIONS, section_hash
from conftest import batch_command
from test_records import record

pytestmark = pytest.mark.slow

#: A name with all that breaks shells, YAML and URLs.
NAME = "2024 ü & mehr"


@pytest.fixture
def experiment(tmp_path):
    """A canary's experiment under a difficult name and path, one section long."""
    content = yaml.safe_load((repository() / "tests" / "canaries" / "mlp.yaml").read_text())
    content.update(name=NAME, sections=["02_training"])
    path = tmp_path / "mit Platz" / f"{NAME}.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def stale(experiment, tmp_path):
    """The record of other settings that an earlier batch left, with its mark."""
    path = record_path(tmp_path / "läufe hier", NAME, "digits", 0, "02_training")
    write_record(record().model_copy(update={"experiment": NAME}), path)
    mark_current(mark_path(path, "a" * 12, 1, "b" * 12))
    path.with_suffix(".ipynb").write_text("an executed copy")
    return path


def wanted(experiment, record, revision=REVISIONS["02_training"], cells=None):
    """The mark that a record is to have."""
    settings = section_hash(load_experiment(str(experiment)).settings("digits"), "digits", "02_training")
    return mark_path(record, settings, revision, cells or cells_hash("02_training"))


def batch(experiment, output, *options, **variables):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
    return subprocess.run(
        [*batch_command(experiment, output), *options],
        cwd=repository(),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def tree(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_changes_no_file_and_says_why_a_job_would_run(experiment, stale, tmp_path):
    before = tree(tmp_path)
    done = batch(experiment, tmp_path / "läufe hier", "--dry-run")
    assert done.returncode == 0, done.stdout
    assert f"reason: Missing output files: {wanted(experiment, stale)}" in done.stdout
    assert "digits_02_training_seed_0" in done.stdout
    assert tree(tmp_path) == before


def test_a_failed_run_leaves_the_stale_record(experiment, stale, tmp_path):
    before = stale.read_bytes()
    content = yaml.safe_load(experiment.read_text())
    content["datasets"]["digits"]["training"]["learning_rate"] = 1.0e30
    experiment.write_text(yaml.safe_dump(content))
    done = batch(experiment, tmp_path / "läufe hier")
    assert done.returncode != 0
    assert "training diverged" in done.stdout
    assert stale.read_bytes() == before


def test_a_finished_run_replaces_it_whatever_kernels_and_startup_files_there_are(experiment, stale, tmp_path):
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text('{"argv": ["false"], "display_name": "x", "language": "python"}')
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "00.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("histfile = 'x'; epochs = 7; seed = 5")
    variables = {
        "JUPYTER_PATH": str(tmp_path / "jupyter"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PYTHONSTARTUP": str(startup),
    }
    output = tmp_path / "läufe hier"
    done = batch(experiment, output, **variables)
    assert done.returncode == 0, done.stdout
    assert read_record(stale).seed == 0
    assert len(read_record(stale).metrics) > 20
    assert len([*stale.parent.glob(".02_training.settings-*")]) == 1
    before = tree(output)
    again = batch(experiment, output, "--dry-run")
    assert "Nothing to be done" in again.stdout
    assert tree(output) == before


def test_another_revision_and_another_notebook_are_reasons(experiment, stale, tmp_path):
    output = tmp_path / "läufe hier"
    mark = wanted(experiment, stale)
    mark_current(mark)
    assert "Nothing to be done" in batch(experiment, output, "--dry-run").stdout
    for other in (wanted(experiment, stale, cells="f" * 12), wanted(experiment, stale, REVISIONS["02_training"] + 1)):
        mark_current(other)
        assert f"Missing output files: {mark}" in batch(experiment, output, "--dry-run").stdout


def test_a_record_that_was_deleted_is_made_again(experiment, stale, tmp_path):
    mark_current(wanted(experiment, stale))
    stale.unlink()
    done = batch(experiment, tmp_path / "läufe hier")
    assert done.returncode == 0, done.stdout
    assert len(read_record(stale).metrics) > 20


def test_one_seed_s_failure_undoes_no_other_s(experiment, tmp_path):
    content = yaml.safe_load(experiment.read_text())
    content.update(seeds=[0, 1], seeds_together=True)
    experiment.write_text(yaml.safe_dump(content))
    output = tmp_path / "läufe hier"
    # Where the record of seed 1 is to be written there is a folder.
    blocked = record_path(output, NAME, "digits", 1, "02_training")
    (blocked / "something").mkdir(parents=True)
    done = batch(experiment, output)
    assert done.returncode != 0
    kept = record_path(output, NAME, "digits", 0, "02_training")
    before = kept.read_bytes()
    assert "loss" in kept.with_suffix(".ipynb").read_text()
    shutil.rmtree(blocked)
    again = batch(experiment, output)
    assert again.returncode == 0, again.stdout
    assert kept.read_bytes() == before
    assert read_record(blocked).seed == 1


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_quotes_the_experiment(experiment, tmp_path):
    command = ["make", "--dry-run", "batch", f"EXPERIMENT={experiment}"]
    done = subprocess.run(command, cwd=repository(), capture_output=True, text=True, check=True)
    assert f'cdu batch "{experiment}"' in done.stdout
