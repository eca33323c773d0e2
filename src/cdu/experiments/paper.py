"""The paper's networks in an order of value, as far as a given time reaches: ``cdu paper``.

The runs are those of two experiments' batches; a clock (:mod:`cdu.clock`) ends them between two points. What is done is
kept, and the same command goes on from there.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdu import clock
from cdu.data import download
from cdu.experiments import batch
from cdu.experiments.execution import cells_hash
from cdu.experiments.experiment import Experiment, Job, load_experiment
from cdu.experiments.records import Record, is_current, mark_path, read_record, record_path
from cdu.experiments.sections import BY_HAND, REVISIONS, section_hash

#: The experiments, the more valuable one first.
EXPERIMENTS = ("paper", "paper-resnet18")


@dataclass(frozen=True)
class Stage:
    """Runs that are started together.

    Attributes:
        file: Name or file of their experiment.
        experiment: The experiment.
        jobs: The runs, the most valuable first.
    """

    file: str
    experiment: Experiment
    jobs: Sequence[Job]

    def expected(self, section: str) -> float | None:
        """Seconds that one run is expected to take on the machine that the experiment is made for."""
        return self.experiment.expected_seconds.get(section)

    def record(self, output: Path, job: Job) -> Path:
        """Where a run's record lies."""
        return record_path(output, self.experiment.name, *job)


def stages(files: Sequence[str] = EXPERIMENTS) -> tuple[list[Stage], list[str]]:
    """The plan, and in words which of its datasets are not at hand.

    Args:
        files: Names or files of experiments, the more valuable first. What no batch runs by itself comes at the end.
    """
    experiments = [(file, load_experiment(file)) for file in files]
    absent = []
    planned = []
    for file, experiment in experiments:
        present = [name for name in experiment.datasets if download.at_hand(name)]
        absent += [
            f"{experiment.name}: the files of {name} are not at hand; 'cdu data fetch {name}' downloads them, and the "
            "same command then runs it"
            for name in experiment.datasets
            if name not in present
        ]
        planned.append((file, experiment, present))
    found = [Stage(file, experiment, experiment.jobs(present)) for file, experiment, present in planned if present]
    for file, experiment, present in planned:
        named = [section for section in experiment.sections if section in BY_HAND]
        if present and named:
            found.append(Stage(file, experiment, experiment.jobs(present, named)))
    return found, absent


# --- before --------------------------------------------------------------------------------------------------------


def plan(found: Iterable[Stage], output: Path, minutes: float) -> str:
    """What is to be run in which order, and how far the time is expected to reach, as text.

    Expected seconds are those of one run after another. Runs that share a device end sooner.
    """
    rows, sum_, unknown = [("", "run", "seconds", "at")], 0.0, 0
    for stage in found:
        for dataset, seed, section in stage.jobs:
            done = _current(stage, output, (dataset, seed, section))
            expected = stage.expected(section)
            sum_ += 0.0 if done else expected or 0.0
            unknown += expected is None and not done
            reached = "done" if done else "yes" if sum_ <= 60 * minutes else "perhaps not"
            seconds = "?" if expected is None else f"{expected:.0f}"
            run = f"{stage.experiment.name}, {dataset}, seed {seed}, {section}"
            rows.append((reached, run, "-" if done else seconds, "-" if done else f"{sum_:.0f}"))
    text = _table(rows)
    if unknown:
        text += f"\n{unknown} runs have no expected time; they count as 0"
    return f"{text}\n{sum_:.0f} s expected in all, one run after another; the time ends after {60 * minutes:.0f} s"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _current(stage: Stage, output: Path, job: Job) -> bool:
    dataset, _, section = job
    path = stage.record(output, job)
    wanted = section_hash(stage.experiment.settings(dataset), dataset, section)
    mark = mark_path(path, wanted, REVISIONS[section], cells_hash(section))
    return mark.exists() and is_current(path, wanted, REVISIONS[section])


# --- running -------------------------------------------------------------------------------------------------------


def run(
    found: Sequence[Stage],
    output: Path,
    minutes: float,
    device: str,
    cores: str,
    after: Callable[[], object] = lambda: None,
) -> bool:
    """Run the stages one after another until all is done or the time is up; returns whether it was up.

    Args:
        found: The stages.
        output: Folder of all runs.
        minutes: The time, from now.
        device: As for a section.
        cores: Runs at a time.
        after: Called after every stage, so that what is reached is saved whatever comes next.
    """
    os.environ[clock.VARIABLE] = f"{time.time() + 60 * minutes:.0f}"
    try:
        for stage in found:
            if clock.remaining() <= 0:
                return True
            datasets, _, sections = ([*dict.fromkeys(names)] for names in zip(*stage.jobs, strict=True))
            batch.run(batch.command(stage.file, output, device, cores, datasets, sections))
            after()
        return clock.remaining() <= 0
    finally:
        del os.environ[clock.VARIABLE]


# --- after ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        name: The run, in words.
        state: ``done``, ``the time was up``, ``not begun``, or the error that ended it.
        seconds: What it took; None where it is not done.
        expected: What it was expected to take.
    """

    name: str
    state: str
    seconds: float | None
    expected: float | None

    @property
    def failed(self) -> bool:
        """Whether an error ended it."""
        return self.state not in (DONE, UNDER_WAY, NOT_BEGUN)


DONE, UNDER_WAY, NOT_BEGUN = "done", "the time was up", "not begun"


def outcomes(found: Iterable[Stage], output: Path) -> list[Outcome]:
    """What became of every run."""
    return [_outcome(stage, output, job) for stage in found for job in stage.jobs]


def _outcome(stage: Stage, output: Path, job: Job) -> Outcome:
    path = stage.record(output, job)
    name = f"{stage.experiment.name}, {job[0]}, seed {job[1]}, {job[2]}"
    if _current(stage, output, job):
        return Outcome(name, DONE, read_record(path).duration, stage.expected(job[2]))
    return Outcome(name, _error(path.with_suffix(".ipynb")), None, stage.expected(job[2]))


def _error(executed: Path) -> str:
    """How an executed notebook ended that left no record."""
    if not executed.is_file():
        return NOT_BEGUN
    import nbformat

    try:
        cells = nbformat.read(executed, as_version=4).cells
    except ValueError:
        return "the executed notebook cannot be read"
    for cell in cells:
        for one in cell.get("outputs", []):
            if one.get("output_type") == "error":
                return UNDER_WAY if one["ename"] == clock.OutOfTime.__name__ else f"{one['ename']}: {one['evalue']}"
    return UNDER_WAY


def summary(found: Sequence[Stage], output: Path, absent: Sequence[str], verdicts: Sequence[str] = ()) -> str:
    """What was reached, in Markdown: the runs with their seconds and those expected, speeds, the verdicts.

    Args:
        found: The stages.
        output: Folder of the runs.
        absent: What cannot be run, in words.
        verdicts: The verdicts, one line for each set-up.
    """
    ended = outcomes(found, output)
    reached = sum(one.state == DONE for one in ended)
    head = ["| run | state | seconds | expected |", "|---|---|---|---|"]
    lines = [f"# {reached} of {len(ended)} runs are done", "", *head]
    lines += [f"| {one.name} | {one.state} | {_seconds(one.seconds)} | {_seconds(one.expected)} |" for one in ended]
    lines += ["", *absent, "", *_speeds(found, output), "", *verdicts]
    return "\n".join(lines).strip() + "\n"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _done(found: Iterable[Stage], output: Path) -> Iterator[Record]:
    for stage in found:
        for job in stage.jobs:
            if _current(stage, output, job):
                yield read_record(stage.record(output, job))


def _speeds(found: Iterable[Stage], output: Path) -> list[str]:
    lines = []
    for record in _done(found, output):
        if record.section == "02_training":
            speeds = [f"{one.value:,.0f}" for one in record.metrics if one.metric == "images_per_second" and one.value]
            where = f"{record.experiment}, {record.dataset}, seed {record.seed}"
            how = f"{record.machine.device}, {record.machine.arithmetic}"
            lines.append(f"- {where}: {', '.join(speeds)} images/s ({how})")
    return lines
