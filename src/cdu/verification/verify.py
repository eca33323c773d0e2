"""Does a batch give the committed numbers again? Bit for bit on the same platform; elsewhere by kinds of numbers.

On another platform numbers are of three kinds (:mod:`cdu.verification.kinds`). Exact and continuous ones are compared
one by one. Chaotic ones are compared as a reader uses them: by their means over seeds
(:mod:`cdu.verification.chaotic`), all of an experiment together. A batch in which nothing is wrong then raises an alarm
at most once in a hundred times, even if its platform moves every trained network as far as another seed would. The
verdicts are compared too (:mod:`cdu.verification.words`). ``python -m cdu.verification.false_alarms`` counts the alarms
between sets of seeds.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from cdu import storage
from cdu.errors import CduError
from cdu.experiments.experiment import Experiment
from cdu.experiments.records import Record, is_current, read_record, record_path
from cdu.experiments.reproduced import FILE, Reproduction, Run, read
from cdu.experiments.sections import REVISIONS, section_hash
from cdu.verification import words
from cdu.verification.comparison import ERROR, MEAN, Batch, Difference, Place, compare, means, numbers, undefined
from cdu.verification.kinds import BITWISE, Kind, Numbers
from cdu.verification.spreads import read_spread

#: The most excesses that are printed, and the most numbers within their tolerance. A file holds all.
PRINTED, CLOSEST = 200, 10

#: What to do about a reference and about a run that cannot be compared.
REMADE = "'make reference' after a batch makes new ones"
RERUN = "run the batch to its end"


@dataclass(frozen=True)
class Verification:
    """The runs of an experiment compared with its references.

    Attributes:
        platforms: Which comparison applies to every run, and why.
        problems: Sentences about runs that could not be compared.
        differences: All numbers of the runs that could be compared; means over seeds where the platform is another.
        changed: Verdicts that differ.
    """

    platforms: dict[str, str]
    problems: list[str]
    differences: list[Difference]
    changed: list[words.Changed] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every run was compared, nothing exceeds its tolerance, and no verdict contradicts the reference's."""
        alarms = any(one.excess for one in self.differences) or any(one.contradicts for one in self.changed)
        return not self.problems and not alarms

    @property
    def numbers(self) -> list[Difference]:
        """All but the means over seeds."""
        return [one for one in self.differences if one.kind != MEAN]

    @property
    def summary(self) -> str:
        """One line: how many numbers were compared in which way, and the largest difference."""
        compared = [one for one in self.numbers if one.kind != Kind.TIME]
        bitwise = sum(one.kind == BITWISE for one in compared)
        excess = sum(one.excess for one in self.differences)
        parts = [
            f"{len(self.platforms)} runs, {len(compared):,} metrics",
            f"{bitwise:,} compared bit for bit, {len(compared) - bitwise:,} within tolerances",
            f"{sum(_equal(one) for one in compared):,} are equal",
            _largest(self.differences),
            f"{len(self.numbers) - len(compared):,} times are not compared",
            f"{excess:,} exceed their tolerance",
            f"{sum(one.contradicts for one in self.changed)} verdicts contradict the reference's",
            f"{len(self.problems)} runs could not be compared",
        ]
        return "; ".join(parts)

    @property
    def kinds(self) -> pd.DataFrame:
        """For every kind the count of numbers, how many are equal to the bit, and the largest move."""
        rows = []
        for kind in dict.fromkeys(one.kind for one in self.differences if one.kind != Kind.TIME):
            found = [one for one in self.differences if one.kind == kind]
            excess = sum(one.excess for one in found)
            largest = "compared by their means" if kind == Kind.CHAOTIC and not excess else _largest(found)
            rows.append([str(kind), len(found), sum(map(_equal, found)), excess, largest])
        return pd.DataFrame(rows, columns=["kind", "numbers", "equal", "excesses", "largest move"])

    @property
    def runs(self) -> pd.DataFrame:
        """Per run: numbers compared, equal to the bit, the largest relative move, and excesses.

        A move is relative to the larger of the two numbers. A mean over seeds that exceeds its tolerance counts in
        every run that it is of.
        """
        means = Counter(one.place[:2] + one.place[3:] for one in self.differences if one.kind == MEAN and one.excess)
        found: dict[Place, list[Difference]] = {}
        for one in self.numbers:
            if one.kind != Kind.TIME:
                found.setdefault(one.place, []).append(one)
        rows = [
            {
                **place._asdict(),
                "numbers": len(rows),
                "equal": sum(map(_equal, rows)),
                "largest_move": max(one.relative for one in rows),
                "excesses": sum(one.excess for one in rows) + means[place[:2] + place[3:]],
            }
            for place, rows in found.items()
        ]
        return pd.DataFrame(rows)

    @property
    def table(self) -> pd.DataFrame:
        """The numbers that exceed their tolerance, and those that come closest to it."""
        within = [one for one in self.differences if one.used and not one.excess]
        within.sort(key=lambda one: one.used, reverse=True)
        return frame([*(one for one in self.differences if one.excess)][:PRINTED] + within[:CLOSEST])

    @property
    def text(self) -> str:
        """What is printed: how each run was compared, what could not be, the tables, and the summary at the end."""
        lines = [f"{run}: {comparison}" for run, comparison in self.platforms.items()]
        lines += [f"not compared: {problem}" for problem in self.problems]
        if not self.table.empty:
            digits = ("", "", "", ".9g", ".9g", ".3g", ".3g")
            lines += ["", str(self.table.to_markdown(index=False, floatfmt=digits, missingval="—")), ""]
        if not self.kinds.empty:
            lines += ["", str(self.kinds.to_markdown(index=False, intfmt=",")), ""]
        lines += [f"verdict changed: {one.words}" for one in self.changed]
        if any(one.kind == MEAN for one in self.differences):
            lines.append(
                f"means over seeds: all tests together raise an alarm in {ERROR:g} of comparisons in which nothing is "
                "wrong, or fewer, if another platform moves a trained network no farther than another seed does"
            )
        if any(one.excess and one.kind == BITWISE for one in self.differences):
            lines.append(
                "numbers differ although the platform is called the same: in a virtual machine another processor can "
                "bear the same name, which --elsewhere allows for; otherwise the code computes something else"
            )
        return "\n".join([*lines, self.summary])


def frame(differences: Sequence[Difference]) -> pd.DataFrame:
    """Differences as a table, one a row: run, number, both values, their difference, the tolerance and its rule."""
    columns = ["run", "kind", "metric", "reference", "here", "difference", "tolerance", "rule", "excess"]
    rows = [
        [
            *(one.place.words, str(one.kind), one.key.words, one.reference, one.value),
            *(one.size, one.tolerance, one.rule, one.excess),
        ]
        for one in differences
    ]
    return pd.DataFrame(rows, columns=columns)


def verify(experiment: Experiment, runs: Path, results: Path, elsewhere: bool = False) -> Verification:
    """Compare every run of an experiment's batch with its reference.

    Args:
        experiment: The experiment; what no batch runs (benchmarks, sections by hand) is not compared.
        runs: Folder of the runs.
        results: Folder of the references.
        elsewhere: Whether to allow tolerances on the reference's platform too. A record holds the name of the
            processor, and virtual machines give processors with other instructions the same name.

    Raises:
        CduError: There is not one run to compare.
    """
    if not any(record_path(runs, experiment.name, *job).exists() for job in experiment.jobs()):
        raise CduError(f"there are no runs of '{experiment.name}' under {runs}; 'make batch' makes them")
    platforms: dict[str, str] = {}
    problems: list[str] = []
    differences: list[Difference] = []
    batches: dict[tuple[str, str], Batch] = {}
    apart: set[tuple[str, str]] = set()
    records: list[tuple[Record, Record]] = []
    for dataset, seed, section in experiment.jobs():
        place, made = Place(experiment.name, dataset, seed, section), _made(experiment, dataset, section)
        try:
            reference = _read(record_path(results, experiment.name, dataset, seed, section), made, "reference", REMADE)
            run = _read(record_path(runs, experiment.name, dataset, seed, section), made, "run", RERUN)
            if run.split_hash != reference.split_hash:
                raise CduError("other samples are forgotten than in the reference: the hashes of their splits differ")
            reason = "as asked for" if elsewhere else platform_change(run, reference)
            known = _known(experiment, results, dataset, section)
            samples = experiment.settings(dataset).forget.size
            missing = undefined(run) | undefined(reference)
            differences += compare(place, numbers(run), numbers(reference), known, bool(reason), samples, missing)
        except CduError as error:
            problems.append(f"{place.words}: {error}")
            continue
        platforms[place.words] = f"within tolerances: {reason}" if reason else f"{BITWISE}: on the reference's platform"
        if (dataset, section) not in batches:
            others = read_spread(results, experiment.name, dataset).get(section, [])
            batches[dataset, section] = Batch(others=others)
        batch = batches[dataset, section]
        batch.runs.append(numbers(run))
        batch.references.append(numbers(reference))
        records.append((reference, run))
        if reason:
            apart.add((dataset, section))
    if not apart:
        return Verification(platforms, problems, differences)
    differences += means(experiment.name, {place: batch for place, batch in batches.items() if place in apart})
    changed = words.changed([reference for reference, _ in records], [run for _, run in records])
    return Verification(platforms, problems, differences, changed)


def _made(experiment: Experiment, dataset: str, section: str) -> tuple[str, int]:
    """The hash of the settings and the revision that a current record has."""
    return section_hash(experiment.settings(dataset), dataset, section), REVISIONS[section]


def _read(path: Path, made: tuple[str, int], what: str, remedy: str) -> Record:
    """A current record: one with the hash and revision ``made``."""
    if not path.exists():
        raise CduError(f"the {what} {path} is missing; {remedy}")
    record = read_record(path)
    if record.config_hash != made[0]:
        raise CduError(f"the {what} {path} was made with other settings than those here; {remedy}")
    if record.revision != made[1]:
        raise CduError(f"the {what} {path} is of revision {record.revision} of its numbers, not {made[1]}; {remedy}")
    return record


def _known(experiment: Experiment, results: Path, dataset: str, section: str) -> list[Numbers]:
    """The numbers of the current references of a section, of all seeds."""
    made = _made(experiment, dataset, section)
    paths = [record_path(results, experiment.name, dataset, number, section) for number in experiment.seeds_of(section)]
    return [numbers(read_record(path)) for path in paths if is_current(path, *made)]


def platform_change(run: Record, reference: Record) -> str:
    """The differences between the platforms of two records that can change a rounding; empty if there are none.

    The device, the processor, the number of threads (sums are cut into as many parts), the C library's functions, and
    the versions of Python and of the packages. The kernel's version computes nothing.
    """
    ours, theirs = _platform(run), _platform(reference)
    changes = [
        f"{name} {ours.get(name, 'absent')}, reference {theirs.get(name, 'absent')}"
        for name in sorted(ours | theirs)
        if ours.get(name) != theirs.get(name)
    ]
    return "; ".join(changes)


def _platform(record: Record) -> dict[str, str]:
    machine = record.machine
    system, _, rest = machine.platform.partition("-")
    return {
        "device": machine.device,
        "processor": machine.cpu,
        "emulation": machine.emulation or "none",
        "threads": str(machine.threads),
        "system": system if system != "Linux" else " ".join([system, *rest.split("-")[-3:]]),
        "Python": machine.python,
        **record.packages,
    }


def _equal(one: Difference) -> bool:
    return one.reference == one.value and not one.excess


def _largest(compared: Sequence[Difference]) -> str:
    tested = [one for one in compared if one.tolerance is not None or one.excess]
    worst = max(tested, key=lambda one: (one.excess, one.used), default=None)
    if worst is None or not (worst.used or worst.excess):
        return "no difference"
    where = f"{worst.place.words}, {worst.key.words}"
    tolerance = math.nan if worst.tolerance is None else worst.tolerance
    return f"the largest difference beside its tolerance is {worst.size:.3g} beside {tolerance:.3g} ({where})"


def note(experiment: str, verification: "Verification", runs: Path, results: Path) -> Reproduction:
    """Note in the file that a batch reproduced the references, in place of an earlier one on the same platform.

    Args:
        experiment: The experiment.
        verification: The comparison.
        runs: Folder of the runs that were compared.
        results: Folder of the references, which holds the file.

    Raises:
        CduError: Runs of several commits, platforms or of a tree with uncommitted changes, which name no code; or
            numbers that exceed their tolerance: they are no reproduction.
    """
    if not verification.passed:
        raise CduError("the comparison failed, so that nothing was reproduced; nothing was noted")
    rows = verification.runs.drop(columns="experiment").to_dict("records")
    records = [read_record(record_path(runs, experiment, row["dataset"], row["seed"], row["section"])) for row in rows]
    found = [
        Run.model_validate({**row, "config_hash": record.config_hash, "revision": record.revision})
        for row, record in zip(rows, records, strict=True)
    ]
    made = {(one.commit, one.dirty, one.machine.cpu, one.machine.emulation) for one in records}
    if len(made) != 1 or any(dirty for _, dirty, _, _ in made):
        raise CduError(
            f"the runs under {runs} are of {len(made)} kinds (commit, uncommitted changes, processor, emulation): "
            f"{sorted(made)}; run the whole batch anew from one clean commit; nothing was noted"
        )
    ((commit, _, processor, emulation),) = made
    new = Reproduction(
        experiment=experiment,
        commit=commit,
        date=max(one.started for one in records)[:10],
        processor=processor,
        emulation=emulation,
        changed=[one.words for one in verification.changed],
        runs=found,
    )
    others = [one for one in read(results) if _place(one) != _place(new)]
    lines = ",\n".join(_lines(one) for one in [*others, new])
    storage.write_text(results / FILE, f"[\n{lines}\n]\n")
    return new


def _place(one: Reproduction) -> tuple[str, str, str]:
    return one.experiment, one.processor, one.emulation


def _lines(one: Reproduction) -> str:
    """JSON with one run a line, readable in a diff."""
    head = one.model_copy(update={"runs": []}).model_dump_json()
    runs = ",\n  ".join(run.model_dump_json() for run in one.runs)
    return head.removesuffix("[]}") + f"[\n  {runs}\n ]}}"
