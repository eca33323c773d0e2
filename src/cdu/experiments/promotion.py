"""Promotion: the records of a batch become reference results, all of them or none."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdu.errors import CduError
from cdu.experiments.experiment import Experiment, Job
from cdu.experiments.records import read_record, record_path
from cdu.experiments.repository import repository
from cdu.experiments.sections import REVISIONS, SECTIONS, section_hash


def promote(
    experiment: Experiment, source: Path, section: str = "", dataset: str = "", seeds: Sequence[int] = ()
) -> list[str]:
    """Copy records into ``results/``, with each section's first seed as executed exemplar.

    References of seeds that the experiment no longer has are deleted: they would be counted among the others.

    Args:
        experiment: Whose records.
        source: Folder of the runs.
        section: This section alone; all that a batch runs when empty.
        dataset: This dataset alone; all when empty.
        seeds: These seeds alone; all when empty.

    Returns:
        What was done, in sentences.

    Raises:
        CduError: There are no such runs, or one of their records is missing, not current, or made from a working tree
            with uncommitted changes. Nothing was promoted then.
    """
    everything = [*experiment.jobs(), *experiment.benchmarks(), *experiment.by_hand()]
    jobs = _chosen(experiment, everything, section, dataset, seeds)
    paths = {job: record_path(source, experiment.name, *job) for job in jobs}
    missing = [path for path in paths.values() if not path.exists()]
    if missing:
        raise CduError(
            f"{len(missing)} of {len(paths)} records are missing, the first is {missing[0]}; "
            f"run 'make batch EXPERIMENT={experiment.name}' to its end; nothing was promoted"
        )
    for job, path in paths.items():
        _expect_fit(experiment, job, path)
    results = repository() / "results"
    wanted = {record_path(results, experiment.name, *job) for job in everything}
    for old in (results / experiment.name).glob(f"{dataset or '*'}/seed-*/{section or '*'}.json"):
        if old not in wanted:
            old.unlink()
            old.with_suffix(".ipynb").unlink(missing_ok=True)
    for job, path in paths.items():
        target = record_path(results, experiment.name, *job)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if _is_exemplar(experiment, job):
            _write_exemplar(path.with_suffix(".ipynb"), target.with_suffix(".ipynb"))
    done = f"{len(paths)} records of '{experiment.name}' are now under results/{experiment.name}"
    return [done, *_left_as_they_were(experiment, everything, paths)]


def _chosen(
    experiment: Experiment, everything: Sequence[Job], section: str, dataset: str, seeds: Sequence[int]
) -> list[Job]:
    if section and section not in SECTIONS:
        raise CduError(f"unknown section '{section}': known are {', '.join(SECTIONS)}")
    jobs = [job for job in everything if section == job[2]] if section else experiment.jobs()
    jobs = [job for job in jobs if dataset in ("", job[0]) and (not seeds or job[1] in seeds)]
    if not jobs:
        raise CduError(
            f"'{experiment.name}' has no run of section '{section or 'any'}', dataset '{dataset or 'any'}' and seed "
            f"{', '.join(map(str, seeds)) or 'any'}; its datasets are {', '.join(experiment.datasets)}"
        )
    return jobs


def _expect_fit(experiment: Experiment, job: Job, path: Path) -> None:
    """Refuse a record that is no reference."""
    dataset, _, section = job
    record = read_record(path)
    if _is_exemplar(experiment, job) and not path.with_suffix(".ipynb").exists():
        raise CduError(
            f"{path.with_suffix('.ipynb')} is missing, the executed notebook that goes with the record; delete the "
            "record and run the batch again; nothing was promoted"
        )
    if record.revision != REVISIONS[section]:
        raise CduError(
            f"{path} is of revision {record.revision} of its numbers, expected {REVISIONS[section]}; run the batch "
            "again; nothing was promoted"
        )
    if record.config_hash != section_hash(experiment.settings(dataset), dataset, section):
        raise CduError(f"{path} was made with other settings; run the batch again; nothing was promoted")
    if record.dirty:
        raise CduError(
            f"{path} was made from a working tree with uncommitted changes; commit, delete it and run the batch "
            "again; nothing was promoted"
        )


def _is_exemplar(experiment: Experiment, job: Job) -> bool:
    """Whether the executed notebook goes with the record: that of the section's first seed does."""
    _, seed, section = job
    return seed == experiment.seeds_of(section)[0]


def _left_as_they_were(experiment: Experiment, everything: Sequence[Job], paths: Mapping[Job, Path]) -> list[str]:
    """Sentences on the references of other seeds, of the same sections and datasets, which were not replaced."""
    beside = {(dataset, section) for dataset, _, section in paths}
    found = []
    for job in everything:
        dataset, seed, section = job
        kept = record_path(repository() / "results", experiment.name, *job)
        if job not in paths and (dataset, section) in beside and kept.exists():
            commit = read_record(kept).commit[:10]
            found.append(f"seed {seed} of {section} on {dataset} is as it was, from commit {commit}")
    return found


def _write_exemplar(executed: Path, target: Path) -> None:
    """Copy an executed notebook without its progress bars and without the machine's paths."""
    import nbformat

    content: Any = nbformat.read(executed, as_version=4)
    content.metadata.pop("papermill", None)
    for cell in content.cells:
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "code":
            cell.source = re.sub(r"(?m)^official = .+$", 'official = ""  # the path of a clone', cell.source)
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(content, target)
