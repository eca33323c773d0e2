"""Two batches compared: number by number, and by means over seeds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cdu.errors import CduError
from cdu.experiments.records import Record
from cdu.verification import chaotic, kinds
from cdu.verification.kinds import BITWISE, Key, Kind, Numbers

#: The probability of a false alarm in the comparison of an experiment.
ERROR = 0.01

#: The kind of a difference of means over seeds.
MEAN = "mean over seeds"


class Place(NamedTuple):
    """Where a number was found."""

    experiment: str
    dataset: str
    seed: int | None
    section: str

    @property
    def words(self) -> str:
        """As it is printed."""
        return f"{self.dataset}, {'all seeds' if self.seed is None else f'seed {self.seed}'}, {self.section}"


@dataclass(frozen=True)
class Difference:
    """One number of one run, or a mean over seeds, beside the reference's.

    Attributes:
        place: The run.
        kind: How it is compared: a :class:`cdu.verification.kinds.Kind`, :data:`cdu.verification.kinds.BITWISE` or
            :data:`MEAN`.
        key: Which number.
        reference: The committed value; None where it has none.
        value: The run's; None where it has none.
        size: How far apart they are, on the scale of the tolerance: infinite where one is not there.
        tolerance: The largest difference allowed; None where the number is not compared by itself.
        rule: The reason for the tolerance.
        excess: Whether the difference exceeds it, or one side lacks the number.
    """

    place: Place
    kind: str
    key: Key
    reference: float | None
    value: float | None
    size: float
    tolerance: float | None
    rule: str
    excess: bool

    @property
    def used(self) -> float:
        """The difference as a share of the tolerance."""
        if not self.size or self.tolerance in (None, math.inf):
            return 0.0
        return self.size / self.tolerance if self.tolerance else math.inf

    @property
    def relative(self) -> float:
        """The difference relative to the larger value: 0 where they are equal, at most 2."""
        if self.reference is None or self.value is None or self.reference == self.value:
            return 0.0
        return abs(self.value - self.reference) / max(abs(self.value), abs(self.reference))


#: Parts of the note on a Newton step or bound that does not exist since H + λI is not positive definite.
INDEFINITE = ("so the Newton step is undefined", "needs H + λI positive definite")


class Undefined(NamedTuple):
    """A method without a number, at one point of an axis or everywhere."""

    method: str
    axis: str
    point: float | None

    def covers(self, key: Key) -> bool:
        """Whether a number is of this method, or of a release made from it."""
        there = not self.axis or (self.axis, self.point) == (key.axis, key.point)
        return there and bool(self.method) and key.method.startswith(self.method)


@dataclass(frozen=True)
class Batch:
    """The numbers of one section of one dataset in two batches, seed by seed.

    Attributes:
        runs: The run's.
        references: The reference's.
        others: Those of further seeds, for the spread alone.
    """

    runs: list[Numbers] = field(default_factory=list)
    references: list[Numbers] = field(default_factory=list)
    others: list[Numbers] = field(default_factory=list)


def numbers(record: Record) -> dict[Key, float | None]:
    """The numbers of a record by key.

    Raises:
        CduError: Two numbers have the same key, so that neither could be compared.
    """
    found: dict[Key, float | None] = {}
    for one in record.metrics:
        key = Key(one.metric, one.method, one.split, one.axis, one.point)
        if key in found:
            raise CduError(f"'{key.words}' was logged twice; give the numbers keys that tell them apart")
        found[key] = one.value
    return found


def undefined(record: Record) -> frozenset[Undefined]:
    """The methods without a Newton step or bound, since H + λI is indefinite, as the notes of the record say."""
    return frozenset(
        Undefined(one.method, one.axis, one.point)
        for one in record.metrics
        if one.value is None and any(reason in one.note for reason in INDEFINITE)
    )


def compare(
    place: Place,
    run: Numbers,
    reference: Numbers,
    seeds: Sequence[Numbers],
    elsewhere: bool,
    samples: int | None = None,
    missing: frozenset[Undefined] = frozenset(),
) -> list[Difference]:
    """All numbers of a run compared with those of its reference, except for what only means over seeds can tell.

    Args:
        place: The run's.
        run: Its numbers.
        reference: Those of the same seed's reference.
        seeds: Those of all seeds' references, this one's among them.
        elsewhere: Whether the platform is another, so that tolerances apply.
        samples: How many samples are forgotten, where that is known.
        missing: What was undefined in the run or in the reference (:func:`undefined`).
    """
    unsettled = set(_unsettled(seeds)) if elsewhere else set()
    grid = kinds.gridded(seeds, samples) if elsewhere else set()
    found = []
    for key in dict.fromkeys([*reference, *run]):
        known, value = reference.get(key), run.get(key)
        kind: str = kinds.kind_of(place.section, key, reference)
        if kind != Kind.TIME and not elsewhere:
            kind = BITWISE
        tolerance, rule = _allowed(kind, key, reference)
        size = _distance(known, value)
        if known is None or value is None:
            excess = (key in run) != (key in reference) or (known is None) != (value is None)
            reason = _absence(key, run, reference, missing, unsettled) if excess and elsewhere else ""
            if reason:
                tolerance, rule, excess = math.inf, reason, False
        elif (key.metric, key.split, key.axis) in grid and not kinds.whole(value, samples or 1):
            tolerance, rule, excess = 0.0, f"a whole number of the {samples} forgotten samples", True
        else:
            excess = kind != Kind.TIME and not (size <= tolerance if tolerance is not None else math.isfinite(value))
        found.append(Difference(place, kind, key, known, value, size, tolerance, rule, excess))
    return found


def _absence(
    key: Key,
    run: Numbers,
    reference: Numbers,
    missing: frozenset[Undefined],
    unsettled: set[tuple[str, str, str, str]],
) -> str:
    """The reason why one side may lack a number on another platform; empty where there is none."""
    if _series(key) in unsettled:
        return "not at every seed of the reference either"
    if key.metric in kinds.INTERVAL:
        return "infinite where all trials are on one side"
    if any(one.covers(key) for one in missing):
        return "on one side H + λI is indefinite, as its record says"
    if all(_ends(key, numbers) for numbers in (run, reference)):
        return "a curve as long as its own count of epochs"
    return ""


def _ends(key: Key, numbers: Numbers) -> bool:
    """Whether a curve over epochs is as long as its own record's count of epochs says."""
    epochs = numbers.get(Key("epochs", key.method, "", "", None))
    return key.axis == "epoch" and epochs is not None and (key in numbers) == ((key.point or 0.0) <= epochs)


def _allowed(kind: str, key: Key, reference: Numbers) -> tuple[float | None, str]:
    if kind == BITWISE:
        return kinds.repeated(key, reference)
    if kind == Kind.EXACT:
        return kinds.exact(key, reference)
    if kind == Kind.CONTINUOUS:
        return kinds.continuous(key, reference)
    return None, "a time, not compared" if kind == Kind.TIME else f"chaotic, by its {MEAN}"


def means(experiment: str, batches: Mapping[tuple[str, str], Batch]) -> list[Difference]:
    """All chaotic numbers of a batch compared with the references, by means over seeds where there are two or more.

    Args:
        experiment: Its name.
        batches: By dataset and section.
    """
    series = [chaotic.Series(*place, key) for place, batch in batches.items() for key in _chaotic(place[1], batch)]
    level = ERROR / max(len(series), 1)
    references = _values(series, {place: batch.references for place, batch in batches.items()})
    runs = _values(series, {place: batch.runs for place, batch in batches.items()})
    others = _values(series, {place: batch.others for place, batch in batches.items()})
    found = chaotic.shifts(references, runs, chaotic.Families.of(series, references), others)
    allowed = found.allowed(level)
    differences = []
    for row, one in enumerate(series):
        place, batch = Place(experiment, one.dataset, None, one.section), batches[one[:2]]
        if not found.freedom[row]:
            differences += _alone(place, one.key, batch, level)
            continue
        scale = "by logarithms" if found.logarithmic[row] else "as it is"
        rule = f"{found.freedom[row]:g} degrees of freedom, level {level:.1g}, {scale}"
        pair, size = (float(found.reference[row]), float(found.run[row])), abs(float(found.shift[row]))
        tolerance = float(allowed[row])
        differences.append(Difference(place, MEAN, one.key, *pair, size, tolerance, rule, not size <= tolerance))
    return differences


def _alone(place: Place, key: Key, batch: Batch, level: float) -> list[Difference]:
    """A chaotic number of a section with one seed.

    Nothing where there are several seeds and fewer than two have it on a side: whether those may lack it is decided
    number by number.
    """
    known, run = batch.references[0].get(key), batch.runs[0].get(key)
    if len(batch.references) > 1 or known is None or run is None:
        return []
    tolerance, rule = kinds.alone(key, batch.runs[0], batch.references[0], level)
    size = _distance(known, run)
    return [Difference(place, MEAN, key, known, run, size, tolerance, rule, not size <= tolerance)]


def _chaotic(section: str, batch: Batch) -> list[Key]:
    """The keys of chaotic numbers, in the references' order."""
    keys = {
        key: None
        for known in batch.references
        for key, value in known.items()
        if value is not None and kinds.kind_of(section, key, known) == Kind.CHAOTIC
    }
    return list(keys)


def _values(series: Sequence[chaotic.Series], sides: Mapping[tuple[str, str], Sequence[Numbers]]) -> chaotic.Array:
    """The numbers of all series, of the shape (series, seeds); NaN where there is none."""
    width = max((len(one) for one in sides.values()), default=0)
    values = np.full((len(series), width), np.nan)
    for row, one in enumerate(series):
        for column, known in enumerate(sides[one[:2]]):
            value = known.get(one.key)
            values[row, column] = math.nan if value is None else value
    return values


def _series(key: Key) -> tuple[str, str, str, str]:
    return key.metric, key.method, key.split, key.axis


def _unsettled(seeds: Sequence[Numbers]) -> Iterator[tuple[str, str, str, str]]:
    """Series with a number at some seeds and none at others, such as a curve whose length depends on training."""
    for key in {key for one in seeds for key in one}:
        if len({one.get(key) is None for one in seeds}) > 1:
            yield _series(key)


def _distance(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    return abs(one - other)
