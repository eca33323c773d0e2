"""Are the means over seeds of two batches those of one distribution? For all numbers of trained networks at once.

Three seeds tell almost nothing about one number's spread, but thousands of numbers tell each other's. The variance of a
series (one number over seeds) is moderated, as in Smyth (2004, *Linear models and empirical Bayes methods for assessing
differential expression in microarray experiments*): with s² on d degrees of freedom from within both batches and the
further seeds of :mod:`cdu.verification.spreads`, and the mean variance s₀² of its family without the run, which
counts as d₀ more,

    s̃² = (d₀ s₀² + d s²)/(d₀ + d),    t = (mean of the run − mean of the reference)/(s̃ √(1/n₁ + 1/n₂)),

and t is judged by Student's distribution with d₀ + d degrees of freedom, :data:`MOST` at most, at the level α/N for
each of N series (Bonferroni; Holm 1979 rejects the same smallest p: both raise an alarm in the same cases). Smyth
estimates d₀ from the variances; here most are either tiny or large, the estimate is below one, and alarms are frequent.
With :data:`PRIOR` and the arithmetic mean, which the large ones dominate, ``python -m cdu.verification.false_alarms``
finds the stated rate held between disjoint sets of seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cdu.experiments import metrics
from cdu.experiments.metrics import MetricKind
from cdu.verification.kinds import Key

Array = NDArray[np.float64]

#: d₀: the degrees of freedom that the mean variance of the family counts for.
PRIOR = 3.0

#: The most degrees of freedom that a variance counts for, however many seeds it is from: numbers of seeds have heavier
#: tails than normal ones, and the quantile for more degrees would cut them off.
MOST = 8.0

#: The smallest number of series in a family; the series of smaller ones join wider families.
FAMILY = 5

#: Metrics that are compared as they are: shares in steps of a sample, epochs in steps of one.
STEPPED = frozenset({MetricKind.SHARE, MetricKind.EPOCHS})

#: The smallest relative standard deviation: no reader sees a smaller move. The spread of numbers that a projection
#: fixes, for example, is rounding alone.
SMALLEST = 1e-3


class Series(NamedTuple):
    """One number, over all seeds."""

    dataset: str
    section: str
    key: Key


@dataclass(frozen=True)
class Shifts:
    """The shift of the mean between two batches, for every series.

    Attributes:
        reference: Its mean in the reference; geometric where ``logarithmic``.
        run: The same in the run.
        shift: Their difference; of logarithms where ``logarithmic``.
        scale: Its standard error s̃ √(1/n₁ + 1/n₂).
        freedom: Degrees of freedom; 0 where a side has fewer than two values and there is no test.
        logarithmic: Whether the series is positive and no share.
    """

    reference: Array
    run: Array
    shift: Array
    scale: Array
    freedom: Array
    logarithmic: NDArray[np.bool_]

    def allowed(self, level: float) -> Array:
        """The largest shift that a test of ``level`` allows, two-sided; infinite without a test."""
        tested = self.freedom > 0
        quantile = stats.t.isf(level / 2, np.where(tested, self.freedom, 1.0))
        return np.where(tested, quantile * self.scale, np.inf)


@dataclass(frozen=True)
class Families:
    """Which series lend each other their spread, and what is known of it beforehand.

    Attributes:
        share: Whether a series is of shares or epochs, which are compared as they are, in steps.
        levels: Families as numbers, from wide to narrow: all of a section on a logarithmic scale; a metric in all
            sections; a metric in its section; a metric and split in its section.
        step: The smallest difference between two values of a metric and split, such as 0.01 for 100 samples.
    """

    share: NDArray[np.bool_]
    levels: tuple[NDArray[np.int64], ...]
    step: Array

    @classmethod
    def of(cls, series: list[Series], values: Array) -> "Families":
        """The families of series whose ``values`` have the shape (series, seeds)."""
        share = np.array([metrics.kind(one.key.metric) in STEPPED for one in series], dtype=bool)
        levels = (
            _numbered([one[:2] for one in series]),
            _numbered([(one.dataset, one.key.metric) for one in series]),
            _numbered([(*one[:2], one.key.metric) for one in series]),
            _numbered([(*one[:2], one.key.metric, one.key.split.partition(",")[0]) for one in series]),
        )
        order = np.argsort(levels[-1], kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(levels[-1][order])) + 1)
        step = np.zeros(len(series))
        for rows in parts:
            step[rows] = _step(values[rows])
        return cls(share, levels, np.where(share, step, 0.0))


def _numbered(names: Sequence[object]) -> NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def _step(values: Array) -> float:
    """The smallest difference between two values, rounding aside."""
    gaps = np.diff(np.unique(np.round(values[np.isfinite(values)], 9)))
    return float(gaps.min(initial=np.inf)) if len(gaps) else 0.0


def shifts(reference: Array, run: Array, families: Families, others: Array | None = None) -> Shifts:
    """How far means lie apart, with moderated standard errors.

    Args:
        reference: Values of the shape (series, seeds), NaN where there is none.
        run: The same; the seeds need be neither the same nor as many.
        families: Which series lend each other their spread.
        others: The values of further seeds, where there are any, from which the spread is estimated too.
    """
    others = np.full((len(reference), 0), np.nan) if others is None else others
    both = np.concatenate([reference, run], axis=1)
    positive = ~(np.concatenate([both, others], axis=1) <= 0).any(axis=1)
    logarithmic = ~families.share & positive & np.isfinite(both).any(axis=1)
    found = [_moments(_scaled(values, logarithmic)) for values in (run, reference, others)]
    (count, mean, _), (known, usual, _), _ = found
    freedom = sum((np.maximum(one[0] - 1, 0) for one in found), np.zeros(len(both)))
    squares = sum((one[2] for one in found), np.zeros(len(both)))
    tested = (count > 1) & (known > 1)
    size = np.nanmax(np.abs(both), axis=1, initial=0.0)
    floor = np.where(logarithmic, SMALLEST, np.where(families.share, families.step, SMALLEST * size))
    floor = np.maximum(floor, np.where(families.share, SMALLEST, 1e-9))
    variance = np.maximum(squares / np.maximum(freedom, 1), floor**2)
    # Series that never vary would make their families look quieter than the others are.
    varies = tested & (np.nanmax(both, axis=1, initial=-np.inf) > np.nanmin(both, axis=1, initial=np.inf))
    # Not from the run: an error that scatters its numbers would widen what it is judged by.
    before = [np.maximum(found[side][0] - 1, 0) for side in (1, 2)]
    usually = np.maximum((found[1][2] + found[2][2]) / np.maximum(before[0] + before[1], 1), floor**2)
    prior, weight = _prior(usually, varies & (before[0] + before[1] > 0), families, logarithmic)
    moderated = (weight * prior + freedom * variance) / np.maximum(weight + freedom, 1)
    scale = np.sqrt(moderated * (1 / np.maximum(count, 1) + 1 / np.maximum(known, 1)))
    back = [np.where(logarithmic, np.exp(np.where(logarithmic, one, 0.0)), one) for one in (usual, mean)]
    return Shifts(
        back[0], back[1], mean - usual, scale, np.where(tested, np.minimum(weight + freedom, MOST), 0.0), logarithmic
    )


def _scaled(values: Array, logarithmic: NDArray[np.bool_]) -> Array:
    chosen = np.where(logarithmic[:, None] & np.isfinite(values), values, 1.0)
    return np.where(logarithmic[:, None] & np.isfinite(values), np.log(chosen), values)


def _moments(values: Array) -> tuple[Array, Array, Array]:
    """For every series the number of values, their mean, and the sum of squares about it."""
    there = np.isfinite(values)
    count = there.sum(axis=1).astype(float)
    filled = np.where(there, values, 0.0)
    mean = filled.sum(axis=1) / np.maximum(count, 1)
    return count, mean, (np.where(there, values - mean[:, None], 0.0) ** 2).sum(axis=1)


def _prior(
    variance: Array, varies: NDArray[np.bool_], families: Families, logarithmic: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """s₀² and d₀ of every series, from the narrowest of its families that is large enough; 0 where none is.

    Variances of logarithms are comparable between all metrics, variances of shares within one metric. All others have a
    unit and a size, and are comparable only within one metric of one section.
    """
    prior, weight = np.zeros(len(variance)), np.zeros(len(variance))
    kind = np.where(families.share, 2, logarithmic)
    section, metric, *narrow = families.levels
    for numbers, comparable in ((section, kind == 1), (metric, kind > 0), *((one, kind >= 0) for one in narrow)):
        label = 3 * numbers + kind
        chosen = varies & comparable
        counts = np.bincount(label[chosen], minlength=label.max(initial=-1) + 1)
        sums = np.bincount(label[chosen], variance[chosen], minlength=len(counts))
        large = comparable & (counts[label] >= FAMILY)
        prior = np.where(large, sums[label] / np.maximum(counts[label], 1), prior)
        weight = np.where(large, PRIOR, weight)
    return prior, weight
