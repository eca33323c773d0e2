"""Canaries: small runs of every section with committed numbers, which tell whether a change of the code moves any.

A record stays valid while the code gives the same numbers. The canaries show that, and not the text of the code. A
change that moves no number of a canary is free. One that is meant to move some needs another revision of the section
(:data:`cdu.experiments.sections.REVISIONS`), a line in ``CHANGELOG.md`` that says what moved and by how much, and
new canaries (``cdu canaries --accept``). The canaries train for three epochs at most, in which rounding has no time to
grow: their numbers agree on every processor within the tolerances below.
"""

import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from cdu.errors import CduError
from cdu.experiments import changelog, metrics
from cdu.experiments.experiment import Experiment, load_experiment
from cdu.experiments.metrics import MetricKind
from cdu.experiments.records import Record, read_record, record_path, write_record
from cdu.experiments.repository import repository
from cdu.experiments.sections import BENCHMARKS, REVISIONS, SECTIONS
from cdu.verification import kinds
from cdu.verification.comparison import numbers
from cdu.verification.kinds import Key, Numbers

#: Where the canaries' experiments lie, and their records beside them.
FOLDER = Path("tests") / "canaries"

#: Metrics of the theory by whose names benchmarks call what they measure of the machine.
ALSO_MEASURED = frozenset({"ratio", "slope"})

#: The relative difference up to which a number is the same. Between the rounding of two processors, numbers of the MLP
#: differ by 1e-6 at most, those of the network with BatchNorm, which divides by small deviations, by 3e-2.
TOLERANCE, BATCHNORM_TOLERANCE = 1e-4, 3e-2

#: Networks with BatchNorm.
BATCHNORM = ("allcnn", "resnet18")

#: The same for numbers around 0, relative to the largest number of the same metric.
FLOOR = 1e-9

#: Shares of samples: a few of a hundred may change sides. So may pairs of scores with BatchNorm, where rounding moves
#: the scores and two that are close may change places.
SHARE_TOLERANCE = 0.02

#: Methods on the random features of the theory section, whose convolutions are in single precision.
FEATURES, FEATURES_TOLERANCE = "random features", 3e-3

#: An iteration more or less of a solver.
WORK_TOLERANCE = 0.2

#: The most moved numbers that a sentence names.
NAMED = 5


@dataclass(frozen=True)
class Canary:
    """One section of one small experiment.

    Attributes:
        file: The experiment's file.
        experiment: The experiment.
        dataset: The dataset.
        seed: The seed.
        section: The section.
    """

    file: Path
    experiment: Experiment
    dataset: str
    seed: int
    section: str

    def record(self, folder: Path) -> Path:
        """Where its record lies below a folder."""
        return record_path(folder, self.experiment.name, self.dataset, self.seed, self.section)


def all_canaries() -> list[Canary]:
    """Every canary, in the order of sections."""
    found = []
    for file in sorted((repository() / FOLDER).glob("*.yaml")):
        experiment = load_experiment(str(file))
        for job in (*experiment.jobs(), *experiment.benchmarks(), *experiment.by_hand()):
            found.append(Canary(file, experiment, *job))
    return sorted(found, key=lambda one: list(SECTIONS).index(one.section))


# --- running -------------------------------------------------------------------------------------------------------


def run(canaries: Sequence[Canary], output: Path, device: str = "cpu", jobs: int = 1) -> None:
    """Run canaries, each in a process of its own that starts with everything imported.

    Args:
        canaries: The canaries.
        output: An empty folder, so that nothing is reused that other code has left.
        device: As for a section.
        jobs: How many run at a time, each on one thread.

    Raises:
        CduError: One failed; the sentence names the file with what it printed.
    """
    import torch

    torch.set_num_threads(1)
    _import_everything()
    start: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    output.mkdir(parents=True, exist_ok=True)

    def one(canary: Canary) -> None:
        log = output / f"{canary.experiment.name}-{canary.section}.log"
        child = start.Process(target=_run_here, args=(canary, output, device, log))
        child.start()
        child.join()
        if child.exitcode != 0:
            last = log.read_text(encoding="utf-8").strip().splitlines()[-1:] or ["it printed nothing"]
            raise CduError(f"the canary {canary.experiment.name}, {canary.section} failed: {last[0]} (see {log})")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, canaries))


def _import_everything() -> None:
    """Import what sections import, so that forked processes need not."""
    rooms = ("certification.convex", "evaluation", "experiments.run", "report.chapters")
    for name in (
        "IPython.display",
        "jupytext",
        "sklearn.linear_model",
        "sklearn.tree",
        *(f"cdu.{one}" for one in rooms),
    ):
        package = import_module(name)
        if name == "cdu.evaluation":
            for module in iter_modules(package.__path__):
                import_module(f"{name}.{module.name}")


def _run_here(canary: Canary, output: Path, device: str, log: Path) -> None:
    """Run a canary in this process, and write what it prints to a file."""
    from cdu.experiments.execution import execute_here

    with log.open("w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    parameters: dict[str, object] = {
        "dataset": canary.dataset,
        "seed": canary.seed,
        "experiment": str(canary.file),
        "output": str(output),
        "device": device,
    }
    failed = False
    try:
        execute_here(canary.section, parameters)
    except BaseException:
        traceback.print_exc()
        failed = True
    sys.stdout.flush()
    sys.stderr.flush()
    # A forked process must not run what its parent has planned for the end.
    os._exit(failed)


# --- comparing -----------------------------------------------------------------------------------------------------


def arithmetic() -> dict[str, str]:
    """The arithmetic of every type of device, in words; a GPU's is known without one."""
    from cdu.models.objective import CHUNK_BYTES
    from cdu.models.precision import ARITHMETIC, configure

    try:
        return {device: f"{configure(device)}, chunks of {CHUNK_BYTES[device]:,} bytes" for device in ARITHMETIC}
    finally:
        configure("cpu")


def moves(section: str, found: Numbers, committed: Numbers, tolerance: float = TOLERANCE) -> list[str]:
    """The numbers that differ from the committed ones, in words, the largest move first.

    Args:
        section: The section; a benchmark's times are left out.
        found: A canary's numbers.
        committed: Its committed numbers.
        tolerance: By how much most numbers may differ, relatively.
    """
    largest = _largest(committed)
    moved = []
    for key in dict.fromkeys([*committed, *found]):
        if not _compared(section, key):
            continue
        new, old = found.get(key), committed.get(key)
        if key not in found or key not in committed or (new is None) != (old is None):
            moved.append((float("inf"), key, old, new))
        elif new is not None and old is not None:
            used = abs(new - old) / _allowed(key, old, largest, tolerance)
            if not used <= 1:
                moved.append((used, key, old, new))
    moved.sort(key=lambda one: -one[0])
    return [f"{key.words}: {_number(old)} → {_number(new)}" for _, key, old, new in moved]


def _compared(section: str, key: Key) -> bool:
    """Whether a number is compared: times, and what a benchmark measures of the machine, are not."""
    if metrics.kind(key.metric) in {MetricKind.TIME, MetricKind.BENCHMARK}:
        return False
    return section not in BENCHMARKS or key.metric not in ALSO_MEASURED


def _largest(numbers: Numbers) -> Mapping[str, float]:
    """The largest absolute value of every metric."""
    found: dict[str, float] = {}
    for key, value in numbers.items():
        found[key.metric] = max(found.get(key.metric, 0.0), abs(value or 0.0))
    return found


def _allowed(key: Key, value: float, largest: Mapping[str, float], tolerance: float) -> float:
    what = metrics.kind(key.metric)
    if what is MetricKind.REMAINDER:
        # Up to three times as much is the same.
        return 2 * abs(value) + 1e-9
    if what is MetricKind.WORK:
        return WORK_TOLERANCE * abs(value) + 1e-9
    if what is MetricKind.COUNT:
        return 1e-12
    if what is MetricKind.CLOSED_FORM:
        return kinds.CLOSED_TOLERANCE * abs(value) + 1e-15
    if what is MetricKind.SHARE or (what is MetricKind.PAIRS and tolerance >= BATCHNORM_TOLERANCE):
        return SHARE_TOLERANCE
    tolerance = max(tolerance, FEATURES_TOLERANCE if FEATURES in key.method else 0.0)
    return tolerance * abs(value) + FLOOR * largest[key.metric] + 1e-12


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


# --- judging -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """The result of the canaries of one section.

    Attributes:
        section: The section.
        numbers: How many numbers were compared.
        moved: The numbers that moved, in words.
        before: The committed revision; None where a canary is not committed yet.
        now: The revision in the code.
        noted: Whether ``CHANGELOG.md`` has a line on that revision.
        unseen: Whether that line says that no canary can see the change.
    """

    section: str
    numbers: int
    moved: list[str]
    before: int | None
    now: int
    noted: bool
    unseen: bool = False

    @property
    def complaint(self) -> str:
        """What is wrong, and what to do; empty if nothing is."""
        accept = "run 'cdu canaries --accept' and commit the canaries"
        if self.before is None and not self.moved:
            return f"{self.section} has a canary that is not committed; {accept}"
        if self.before is not None and self.now < self.before:
            return f"the revision of {self.section} is {self.now}, but {self.before} is committed; it only rises"
        raised = self.before is not None and self.now > self.before
        if self.moved and not raised:
            return (
                f"{len(self.moved)} of {self.numbers} numbers of {self.section} moved: {self._named}. Undo that; or, "
                f"if they are meant to move, set REVISIONS['{self.section}'] to {self.now + 1}, say in CHANGELOG.md "
                f"what moved and by how much, and {accept}"
            )
        if raised and not self.moved and not self.unseen:
            return (
                f"the revision of {self.section} was raised from {self.before} to {self.now}, but none of its "
                f"{self.numbers} numbers moved; set it back: the records are valid as they are. If no canary can see "
                "what changed, say so in CHANGELOG.md, with '(unseen)' after the colon of its line"
            )
        if not self.noted:
            return (
                f"CHANGELOG.md has no line on {self.section}, revision {self.now}; add '- `{self.section}`, revision "
                f"{self.now}: ...' with what moved and by how much"
            )
        if raised:
            return f"{self.section} is of revision {self.now} now, and its numbers moved ({self._named}); {accept}"
        return ""

    @property
    def acceptable(self) -> bool:
        """Whether the new numbers may be committed: they moved and the revision was raised, or they are the first."""
        if self.before is None:
            return not self.moved
        return self.now > self.before and (bool(self.moved) or self.unseen) and self.noted

    @property
    def _named(self) -> str:
        more = len(self.moved) - NAMED
        return "; ".join(self.moved[:NAMED]) + (f"; and {more} others" if more > 0 else "")


def judge(canaries: Sequence[Canary], output: Path, committed: Path | None = None) -> list[Finding]:
    """Compare the canaries that were run with the committed ones, section by section.

    Args:
        canaries: Which were run.
        output: Where.
        committed: The committed records' folder.
    """
    folder = repository() / FOLDER if committed is None else committed
    changes = changelog.entries()
    found = []
    for section in dict.fromkeys(canary.section for canary in canaries):
        own = [canary for canary in canaries if canary.section == section]
        pairs = [(read_record(one.record(output)), _committed(one.record(folder))) for one in own]
        known = [(new, old) for new, old in pairs if old is not None]
        loose = {one.experiment.name for one in own if one.experiment.settings(one.dataset).model.name in BATCHNORM}
        now = REVISIONS[section]
        found.append(
            Finding(
                section=section,
                numbers=sum(_compared(section, key) for new, _ in pairs for key in numbers(new)),
                moved=[
                    f"{new.experiment}, {one}"
                    for new, old in known
                    for one in moves(
                        section,
                        numbers(new),
                        numbers(old),
                        BATCHNORM_TOLERANCE if new.experiment in loose else TOLERANCE,
                    )
                ],
                before=min((old.revision for _, old in known), default=None) if len(known) == len(pairs) else None,
                now=now,
                noted=now == 1 or (section, now) in changes,
                unseen=(section, now) in changes and changes[section, now].unseen,
            )
        )
    return found


def judge_arithmetic() -> str:
    """A complaint about a changed arithmetic of a device, which only a GPU's numbers would show; empty if none did."""
    path = repository() / FOLDER / "arithmetic.json"
    now, known = arithmetic(), json.loads(path.read_text(encoding="utf-8"))
    changed = [device for device in now | known if now.get(device) != known.get(device)]
    changes = [f"{device}: {known.get(device)} → {now.get(device)}" for device in changed]
    if not changes:
        return ""
    return (
        f"the arithmetic of a device changed ({'; '.join(changes)}); undo that, or write the new words into {path} and "
        "raise the revision of every section that has records from such a device"
    )


def accept(findings: Iterable[Finding], canaries: Sequence[Canary], output: Path) -> list[str]:
    """Commit what may be committed to the canaries' folder; returns the sections."""
    accepted = [finding.section for finding in findings if finding.acceptable]
    for canary in canaries:
        if canary.section in accepted:
            record = read_record(canary.record(output))
            write_record(record, canary.record(repository() / FOLDER))
    return accepted


def _committed(path: Path) -> Record | None:
    return read_record(path) if path.exists() else None
