"""Does a batch give the committed numbers again? Bit for bit on the same platform, within tolerances elsewhere."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cdu.config import REVISIONS, Experiment, section_hash
from cdu.errors import CduError
from cdu.records import Record, is_current, read_record, record_path

#: Never compared: times and rates. They measure the machine and what else it does, not the method.
TIMES = frozenset({"seconds", "training_seconds", "images_per_second", "matrix_rate", "matrix_share"})

#: Counts and yes-or-no answers: exactly. The next value of one is another answer.
EXACT = frozenset({
    "batch_condition", "certified", "contradicted", "converged", "default_exceeds_norm", "fallback",
    "gradient_samples", "hvp_samples", "members", "trials",
})  # fmt: skip

#: Formulas of the settings alone, and the settings: they need no training, so that only libraries' rounding differs.
CLOSED_FORMS = frozenset({
    "certified_epsilon", "control_sigma", "crossover", "default_damping", "delta", "detectable", "epsilon",
    "epsilon_classical", "epsilon_wanted", "failure", "gaussian_detectable", "known_hessian_lipschitz",
    "known_lipschitz", "sensitivity", "sigma", "sigma_needed", "sigma_ratio", "trivial_bound",
})  # fmt: skip

#: Closed forms, relatively: a thousand times the rounding of the searches behind them, 1e-12.
CLOSED_TOLERANCE = 1e-9

#: Shares of samples, and sums of gaps between them. Seeds can agree in one by chance.
SHARES = frozenset({
    "accuracy", "attack_accuracy", "attack_auc", "attack_tpr", "auc", "auc_half", "chosen_gap", "final_projected",
    "later_accuracy", "projected", "tpr", "tpr_high", "tpr_low", "trial_gap",
})  # fmt: skip

#: Shares: three of the hundred samples of D_u on digits, the smallest set that one is taken of.
SHARE_FLOOR = 0.03

#: A share that moves farther is another result, however much it varies between seeds.
SHARE_CEILING = 0.15

#: Estimates from trials, by half of their own interval: where the best threshold lies is up to the last digit.
INTERVAL = ("mu_low", "mu_high")
ESTIMATES = frozenset({"mu", *INTERVAL})

#: Lower bounds on ε from trials: whether one contradicts its certificate is compared exactly.
LOWER_BOUNDS = frozenset({"audit_epsilon", "audit_gaussian"})

#: Theirs: half of the ε that the audited releases are certified for.
LOWER_BOUND_FLOOR = 0.5

#: Everything else of trained networks: rounding, amplified by 50 epochs, moves a number as another seed would at most.
DEVIATIONS = 3.0

#: The same relatively, since three seeds can lie close together by chance.
TRAINED_FLOOR = 0.05

#: The same where fewer than :data:`ENOUGH` seeds have the number, so that they tell no spread.
ALONE_FLOOR = 0.25

#: Eigenvalues from ARPACK, and what is computed from them. Its rounding changes from call to call within one process,
#: and products in float32 amplify that; the largest difference seen was 7e-7 of the number on digits and 2e-7 of the
#: largest eigenvalue on MNIST.
ITERATED = frozenset({
    "batch_lambda_max", "batch_lambda_min", "bound", "gradient_lipschitz", "hessian_lipschitz", "lambda_max",
    "lambda_min", "lissa_bound", "lissa_term",
})  # fmt: skip

#: Theirs, relatively (to the largest eigenvalue for the smallest), on the same platform too.
ITERATED_TOLERANCE = 1e-5

#: The residual that Lanczos stopped at, and the eigenvalue that it belongs to.
RESIDUAL, EIGENVALUE = "lambda_min_error", "lambda_min"

#: The residual, relatively to its eigenvalue: ten times the accuracy that is asked of ARPACK.
RESIDUAL_TOLERANCE = 1e-2

#: Seeds that a spread needs.
ENOUGH = 3

#: Below this a difference is the rounding of numbers of order one: residuals of exact solutions differ by all they are.
ROUNDING = 1e-9

BITWISE = "bit for bit"

#: How many excesses are printed at most, and of what lies within its tolerance. A file holds all.
PRINTED, CLOSEST = 200, 10

#: What to do about a reference, and about a run, that cannot be compared.
REMADE = "'make reference' after a batch makes new ones"
RERUN = "run the batch to its end"


class Key(NamedTuple):
    """What tells a number from the others of its record."""

    metric: str
    method: str
    split: str
    axis: str
    point: float | None

    @property
    def words(self) -> str:
        """The key as it is printed."""
        where = "" if self.point is None else f"{self.axis} {self.point:g}"
        return ", ".join(filter(None, (self.metric, self.method, self.split, where)))


Numbers = Mapping[Key, float | None]


@dataclass(frozen=True)
class Difference:
    """One number of one run beside the reference's.

    Attributes:
        run: Dataset, seed and section.
        key: Which number.
        reference: The committed value; None where it has none.
        value: The run's; None where it has none.
        tolerance: The largest difference allowed; None where the number is not compared.
        rule: Why it is that.
        excess: Whether the difference exceeds it, or one side lacks the number.
    """

    run: str
    key: Key
    reference: float | None
    value: float | None
    tolerance: float | None
    rule: str
    excess: bool

    @property
    def size(self) -> float:
        """How far apart the values are: 0 where neither is there, infinite where one is not."""
        return _distance(self.reference, self.value)

    @property
    def used(self) -> float:
        """Which share of the tolerance the difference takes."""
        if not self.size or self.tolerance in (None, math.inf):
            return 0.0
        return self.size / self.tolerance if self.tolerance else math.inf


@dataclass(frozen=True)
class Verification:
    """An experiment's runs beside its references.

    Attributes:
        platforms: For every run compared, which comparison applies and why.
        problems: Sentences about runs that could not be compared.
        differences: All numbers of the others.
    """

    platforms: dict[str, str]
    problems: list[str]
    differences: list[Difference]

    @property
    def passed(self) -> bool:
        """Whether every run was compared and nothing exceeds its tolerance."""
        return not self.problems and not any(one.excess for one in self.differences)

    @property
    def summary(self) -> str:
        """One line: how many numbers were compared how, and the largest difference."""
        compared = [one for one in self.differences if one.tolerance is not None]
        exact = sum(one.rule == BITWISE for one in compared)
        equal = sum(one.size == 0 and not one.excess for one in compared)
        excess = sum(one.excess for one in self.differences)
        parts = [
            f"{len(self.platforms)} runs, {len(compared):,} metrics",
            f"{exact:,} compared bit for bit, {len(compared) - exact:,} within tolerances",
            f"{equal:,} are equal",
            _largest(compared),
            f"{len(self.differences) - len(compared):,} times are not compared",
            f"{excess:,} exceed their tolerance",
            f"{len(self.problems)} runs could not be compared",
        ]
        return "; ".join(parts)

    @property
    def table(self) -> pd.DataFrame:
        """Excesses, and of what differs within its tolerance the numbers that take the largest share of it."""
        within = [one for one in self.differences if one.used and not one.excess]
        within.sort(key=lambda one: one.used, reverse=True)
        return frame([*(one for one in self.differences if one.excess)][:PRINTED] + within[:CLOSEST])

    @property
    def text(self) -> str:
        """What is printed: how each run was compared, what could not be, the table, the summary in the last line."""
        lines = [f"{run}: {comparison}" for run, comparison in self.platforms.items()]
        lines += [f"not compared: {problem}" for problem in self.problems]
        if not self.table.empty:
            digits = ("", "", ".9g", ".9g", ".3g", ".3g")
            lines += ["", str(self.table.to_markdown(index=False, floatfmt=digits, missingval="—")), ""]
        if any(one.excess and one.rule == BITWISE for one in self.differences):
            lines.append(
                "numbers differ although the platform is called the same: in a virtual machine another processor can "
                "bear the same name, which --elsewhere allows for; otherwise the code computes something else"
            )
        return "\n".join([*lines, self.summary])


def frame(differences: Sequence[Difference]) -> pd.DataFrame:
    """Differences as a table, one a row: run, number, both values, how far apart, the tolerance and its rule."""
    columns = ["run", "metric", "reference", "here", "difference", "tolerance", "rule", "excess"]
    rows = [
        [one.run, one.key.words, one.reference, one.value, one.size, one.tolerance, one.rule, one.excess]
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
    hashes = {
        (dataset, section): (section_hash(experiment.settings(dataset), dataset, section), REVISIONS[section])
        for dataset, section in {(dataset, section) for dataset, _, section in experiment.jobs()}
    }
    for dataset, seed, section in experiment.jobs():
        name, made = f"{dataset}, seed {seed}, {section}", hashes[dataset, section]
        paths = [
            record_path(results, experiment.name, dataset, number, section) for number in experiment.seeds_of(section)
        ]
        try:
            reference = _read(record_path(results, experiment.name, dataset, seed, section), made, "reference", REMADE)
            run = _read(record_path(runs, experiment.name, dataset, seed, section), made, "run", RERUN)
            if run.split_hash != reference.split_hash:
                raise CduError("other samples are forgotten than in the reference: the hashes of their splits differ")
            reason = "as asked for" if elsewhere else platform_change(run, reference)
            seeds = [numbers(read_record(path)) for path in paths if is_current(path, *made)]
            differences += compare(name, numbers(run), numbers(reference), seeds, bool(reason))
            platforms[name] = f"within tolerances: {reason}" if reason else f"{BITWISE}: on the reference's platform"
        except CduError as error:
            problems.append(f"{name}: {error}")
    return Verification(platforms, problems, differences)


def _read(path: Path, made: tuple[str, int], what: str, remedy: str) -> Record:
    """A record of today's settings and revision, which are ``made``."""
    if not path.exists():
        raise CduError(f"the {what} {path} is missing; {remedy}")
    record = read_record(path)
    if record.config_hash != made[0]:
        raise CduError(f"the {what} {path} was made with other settings than those here; {remedy}")
    if record.revision != made[1]:
        raise CduError(f"the {what} {path} is of revision {record.revision} of its numbers, not {made[1]}; {remedy}")
    return record


def platform_change(run: Record, reference: Record) -> str:
    """What differs between the platforms of two records, of all that can change a rounding; empty if nothing does.

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
        "threads": str(machine.threads),
        "system": system if system != "Linux" else " ".join([system, *rest.split("-")[-3:]]),
        "Python": machine.python,
        **record.packages,
    }


def numbers(record: Record) -> dict[Key, float | None]:
    """A record's numbers by what tells them apart.

    Raises:
        CduError: Two cannot be told apart, so that neither could be compared.
    """
    found: dict[Key, float | None] = {}
    for one in record.metrics:
        key = Key(one.metric, one.method, one.split, one.axis, one.point)
        if key in found:
            raise CduError(f"'{key.words}' was logged twice; give the numbers keys that tell them apart")
        found[key] = one.value
    return found


def compare(name: str, run: Numbers, reference: Numbers, seeds: Sequence[Numbers], elsewhere: bool) -> list[Difference]:
    """All numbers of a run beside its reference's.

    Args:
        name: The run's.
        run: Its numbers.
        reference: Those of the same seed's reference.
        seeds: Those of all seeds' references, this one's among them.
        elsewhere: Whether the platform is another, so that tolerances apply.
    """
    unsettled = set(_unsettled(seeds)) if elsewhere else set()
    found = []
    for key in dict.fromkeys([*reference, *run]):
        known, value = reference.get(key), run.get(key)
        if key.metric in TIMES:
            excess = key not in run or key not in reference or (known is None) != (value is None)
            found.append(Difference(name, key, known, value, None, "a time, not compared", excess))
            continue
        tolerance, rule = allowed(key, reference, seeds) if elsewhere else repeated(key, reference)
        if key not in run or key not in reference or known is None or value is None:
            lacking = (key in run) != (key in reference) or (known is None) != (value is None)
            if lacking and _series(key) in unsettled:
                tolerance, rule, lacking = math.inf, "not at every seed of the reference either", False
            elif lacking and elsewhere and key.metric in INTERVAL:
                tolerance, rule, lacking = math.inf, "infinite where all trials are on one side", False
            found.append(Difference(name, key, known, value, tolerance, rule, lacking))
            continue
        found.append(Difference(name, key, known, value, tolerance, rule, not _distance(known, value) <= tolerance))
    return found


def repeated(key: Key, reference: Numbers) -> tuple[float, str]:
    """By how much a number may differ on the same platform, and why: not at all, but for what ARPACK computes.

    Args:
        key: Which number.
        reference: The committed numbers of the same seed.
    """
    if key.metric == RESIDUAL:
        return _residual(key, reference)
    if key.metric in ITERATED:
        # The smallest eigenvalue is known as well as the largest is, and can be much smaller.
        largest = key._replace(metric=key.metric.replace("lambda_min", "lambda_max"))
        size = max(abs(reference.get(one) or 0.0) for one in (key, largest))
        return ITERATED_TOLERANCE * size, f"by Lanczos, {ITERATED_TOLERANCE:g} of it or of the largest eigenvalue"
    return 0.0, BITWISE


def _residual(key: Key, reference: Numbers) -> tuple[float, str]:
    eigenvalue = reference.get(key._replace(metric=EIGENVALUE)) or 0.0
    return RESIDUAL_TOLERANCE * abs(eigenvalue), f"a residual, {RESIDUAL_TOLERANCE:g} of its eigenvalue"


def allowed(key: Key, reference: Numbers, seeds: Sequence[Numbers]) -> tuple[float, str]:
    """By how much a number may differ on another platform, and why.

    Args:
        key: Which number.
        reference: The committed numbers of the same seed.
        seeds: Those of all seeds.
    """
    metric, value = key.metric, reference.get(key) or 0.0
    if metric == RESIDUAL:
        return _residual(key, reference)
    known = [found for one in seeds if (found := one.get(key)) is not None]
    size = abs(value)
    closed = CLOSED_TOLERANCE * size
    # Of a formula or count that is computed from a trained model, the seeds' own differences tell.
    agree = all(abs(one - value) <= closed for one in known)
    if metric in EXACT and agree:
        return 0.0, "a count, exactly"
    if metric in CLOSED_FORMS and agree:
        return closed, f"closed form, relative {CLOSED_TOLERANCE:g}"
    low, high = (reference.get(key._replace(metric=end)) for end in INTERVAL)
    if metric in ESTIMATES and low is not None and high is not None:
        return (high - low) / 2, "half of its own interval"
    if len(known) < ENOUGH:
        spread, why = ALONE_FLOOR * size, f"fewer than {ENOUGH} seeds, relative {ALONE_FLOOR:g}"
    else:
        spread, why = DEVIATIONS * statistics.stdev(known), f"{DEVIATIONS:g} deviations over {len(known)} seeds"
    if metric in SHARES and spread > SHARE_CEILING:
        return SHARE_CEILING, f"at most {SHARE_CEILING:g} for a share"
    floor, least = max(TRAINED_FLOOR * size, ROUNDING), f"at least relative {TRAINED_FLOOR:g}"
    if metric in SHARES:
        floor, least = SHARE_FLOOR, f"at least {SHARE_FLOOR:g} for a share"
    if metric in LOWER_BOUNDS:
        floor, least = LOWER_BOUND_FLOOR, f"at least {LOWER_BOUND_FLOOR:g} for a lower bound from trials"
    return max(spread, floor), why if spread > floor else least


def _series(key: Key) -> tuple[str, str, str, str]:
    return key.metric, key.method, key.split, key.axis


def _unsettled(seeds: Sequence[Numbers]) -> Iterator[tuple[str, str, str, str]]:
    """Series that have a number at some seeds and none at others: where an epoch count ends, say, is up to training."""
    for key in {key for one in seeds for key in one}:
        if len({one.get(key) is None for one in seeds}) > 1:
            yield _series(key)


def _distance(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    return abs(one - other)


def _largest(compared: Sequence[Difference]) -> str:
    worst = max(compared, key=lambda one: (one.excess, one.used), default=None)
    if worst is None or not (worst.used or worst.excess):
        return "no difference"
    where = f"{worst.run}, {worst.key.words}"
    return f"the largest difference beside its tolerance is {worst.size:.3g} beside {worst.tolerance:.3g} ({where})"
