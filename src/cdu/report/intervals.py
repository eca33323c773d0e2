"""Means over seeds with their 95 % intervals, and tests of such a mean against a threshold.

Every p-value here is twice a one-sided one, so that it is below 5 % exactly where the 95 % interval lies wholly on one
side of the threshold.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from scipy import stats

#: Confidence of every interval over seeds.
CONFIDENCE = 0.95
#: Level of every test, and of all tests of a set-up together.
LEVEL = 1 - CONFIDENCE
#: Probability with which the smallest effect would be found.
POWER = 0.8


@dataclass(frozen=True)
class Interval:
    """A mean with the half-width of its 95 % interval, which is infinite where nothing tells the spread.

    Attributes:
        mean: The mean.
        half: Half the interval's width.
        seeds: From how many seeds.
        degrees: Degrees of freedom of the t-distribution; one less than the seeds unless given.
    """

    mean: float
    half: float
    seeds: int
    degrees: float | None = None

    @property
    def _degrees(self) -> float:
        return max(self.seeds - 1, 1) if self.degrees is None else self.degrees

    @property
    def _quantile(self) -> float:
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, self._degrees))

    @property
    def detectable(self) -> float:
        """The smallest true effect that an interval of this width would tell from zero with probability 80 %."""
        if math.isinf(self.half):
            return math.inf
        return self.half * (1 + float(stats.t.ppf(POWER, self._degrees)) / self._quantile)

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half

    def within(self, margin: float) -> bool:
        """Whether the whole interval lies within ±``margin``."""
        return -margin <= self.low and self.high <= margin

    def p_above(self, threshold: float) -> float:
        """The p-value of "the mean is above the threshold"."""
        distance = self.mean - threshold
        if math.isnan(distance) or math.isinf(self.half) or distance <= 0:
            return 1.0
        if self.half == 0:
            return 0.0
        return min(1.0, 2 * float(stats.t.sf(distance * self._quantile / self.half, self._degrees)))

    def p_below(self, threshold: float) -> float:
        """The p-value of "the mean is below the threshold"."""
        return Interval(-self.mean, self.half, self.seeds, self.degrees).p_above(-threshold)

    def p_within(self, margin: float) -> float:
        """The p-value of "the mean is within ±``margin``", by two one-sided tests."""
        return max(self.p_above(-margin), self.p_below(margin))

    def p_beyond(self, margin: float) -> float:
        """The p-value of "the mean is outside ±``margin``"."""
        return min(self.p_above(margin), self.p_below(-margin))


def interval(values: "pd.Series[float]") -> Interval:
    """The t-interval of the mean over seeds."""
    known = values.dropna()
    if len(known) < 2:
        return Interval(float(known.mean()) if len(known) else math.nan, math.inf, len(known))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1))
    return Interval(float(known.mean()), quantile * float(known.std()) / math.sqrt(len(known)), len(known))


def all_of(values: list[float]) -> float:
    """The p-value of "all of several conditions are met", from the p-value of each: the largest."""
    return max(values)


def any_of(values: list[float]) -> float:
    """The p-value of "at least one of several conditions is met": the smallest, times their number (Bonferroni)."""
    return min(1.0, len(values) * min(values))


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: those below a level are significant with a family-wise error of at most that level."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (name, value) in enumerate(sorted(values.items(), key=lambda pair: pair[1])):
        largest = max(largest, min(1.0, (len(values) - rank) * value))
        adjusted[name] = largest
    return {name: adjusted[name] for name in values}
