"""Evidence for a claim: values by seed, tests of their means, and the verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from cdu.report.intervals import LEVEL, Interval, all_of, any_of, interval
from cdu.report.query import by_seed, points, select

Word = Literal[
    "holds", "holds but says nothing", "does not hold", "assumption violated", "no certificate", "not testable here",
    "not yet tested",
]  # fmt: skip

#: Why a claim that was looked at is not decided.
Reason = Literal["", "interval too wide", "effect on the margin", "other set-up"]

#: Differences of counts are equal in every seed, up to rounding, if their interval is narrower than this.
TIE = 1e-12

#: The released model of the paper's method, and the original model with the same noise.
RELEASED, NOTHING = "newton + noise", "original + noise"

#: The step by conjugate gradient at the experiment's λ, and by LiSSA there.
STEP, LISSA = "newton", "newton, lissa"


@dataclass(frozen=True)
class Verdict:
    """What one set-up's records say about one claim.

    Attributes:
        word: The verdict.
        evidence: One sentence with the numbers.
        smallest_effect: The smallest true effect that so many seeds would find with a probability of 80 %, in words;
            empty when nothing was measured.
        seeds: Number of seeds behind it.
        reason: Why it is not decided; empty if it is, or if nothing was measured.
        p: The p-value of the test behind the word; None where no sampling is involved.
        adjusted: Holm's p-value among all tests of the set-up.
    """

    word: Word
    evidence: str
    smallest_effect: str = ""
    seeds: int = 0
    reason: Reason = ""
    p: float | None = None
    adjusted: float | None = None

    @property
    def words(self) -> str:
        """The verdict, with the reason of one that is not decided."""
        return f"{self.word}: {self.reason}" if self.reason else self.word

    @property
    def single(self) -> bool:
        """Whether the word stands for this test alone, and not once all tests of the set-up are taken together."""
        if self.p is None or self.adjusted is None:
            return False
        return self.p < LEVEL <= self.adjusted


def percent(share: float) -> str:
    """A share in percent with two significant digits, so that a small one is not printed as zero."""
    return f"{float(f'{100 * share:.2g}'):.10g} %"


def as_text(value: float) -> str:
    """A number with three significant digits, large ones in full instead of as a power of ten."""
    return f"{float(f'{value:.3g}'):,.10g}"


@dataclass(frozen=True)
class Evidence:
    """The metrics of one set-up, from which rules choose by section.

    Attributes:
        metrics: All metrics in long form, with columns ``section`` and ``seed``.
    """

    metrics: pd.DataFrame

    def rows(self, section: str, metric: str, **keys: str | float) -> pd.DataFrame:
        """All rows of one metric that ``keys`` select, but for those without a value."""
        return select(self.metrics, section=section, metric=metric, **keys).dropna(subset=["value"])

    def values(self, section: str, metric: str, **keys: str | float) -> "pd.Series[float]":
        """The values of one metric by seed; ``keys`` must leave one row a seed."""
        return by_seed(self.metrics, section=section, metric=metric, **keys)

    def points(self, section: str, metric: str, axis: str, method: str | None = None) -> list[float]:
        """The points of an axis at which a metric was measured, for one method or any, ascending."""
        keys = {} if method is None else {"method": method}
        return points(self.metrics, section=section, metric=metric, axis=axis, **keys)


NOTHING_MEASURED = Verdict("not yet tested", "At least two seeds are needed; fewer are recorded.")


def not_recorded(what: str) -> Verdict:
    """The verdict where no record has the numbers that a rule needs.

    Args:
        what: What was not run, as the subject of a sentence.
    """
    return Verdict("not yet tested", f"{what} was not run on this set-up.")


@dataclass(frozen=True)
class MarginTest:
    """A test that passed, failed or did neither, by its p-values.

    Attributes:
        passed: The p-value of "the claim's condition is met".
        failed: The p-value of "it is not met".
        margins: Every interval that does not pass, with the smallest effect that it should detect.
    """

    passed: float
    failed: float
    margins: Sequence[tuple[Interval, float]]

    def verdict(self, text: str, effect: str, seeds: int, empty: bool) -> Verdict:
        """The verdict.

        Args:
            text: The evidence in one sentence.
            effect: The smallest true effect that so many seeds would find, in words.
            seeds: Number of seeds.
            empty: Whether a pass says nothing, since something worthless passes as well.
        """
        if self.failed < LEVEL:
            return Verdict("does not hold", text, effect, seeds, p=self.failed)
        if self.passed < LEVEL:
            word: Word = "holds but says nothing" if empty else "holds"
            return Verdict(word, text, effect, seeds, p=self.passed)
        narrow = all(gap.detectable <= margin for gap, margin in self.margins)
        reason: Reason = "effect on the margin" if narrow else "interval too wide"
        p = min(self.passed, self.failed)
        return Verdict("not testable here", text, effect, seeds, reason, p)


def closeness_test(gaps: Sequence[Interval], margin: float) -> MarginTest:
    """The test of whether all of several differences are within a margin."""
    return MarginTest(
        passed=all_of([gap.p_within(margin) for gap in gaps]),
        failed=any_of([gap.p_beyond(margin) for gap in gaps]),
        margins=[(gap, margin) for gap in gaps if gap.p_within(margin) >= LEVEL],
    )


def share_removed(evidence: Evidence, method: str = STEP, section: str = "03_unlearning") -> Interval:
    """Share of the do-nothing distance to the retrained model that a step removes."""
    step = evidence.values(section, "distance_to_retrained", method=method)
    nothing = evidence.values(section, "distance_to_retrained", method="original")
    return interval(1 - step / nothing)


def gap_of(
    evidence: Evidence, section: str, metric: str, method: str, reference: str = "retrain", **keys: str | float
) -> Interval:
    """Difference in a metric between a method and retraining, over seeds."""
    own = evidence.values(section, metric, method=method, **keys)
    return counted_seeds(own - evidence.values(section, metric, method=reference, **keys))


def counted_seeds(differences: "pd.Series[float]") -> Interval:
    """The interval of differences of counts, such as accuracies or epochs.

    A few seeds can agree to the last sample. Then their spread is unknown, not zero, and the interval is infinite.
    """
    found = interval(differences)
    return found if found.half > TIE else replace(found, half=math.inf)


def difference(gap: Interval, digits: int, factor: float = 1.0) -> str:
    """A difference with its interval, as text.

    Args:
        gap: The interval.
        digits: Digits after the point.
        factor: By what values are multiplied, such as 100 for points.
    """
    half = "unknown (the same in every seed)" if math.isinf(gap.half) else f"{factor * gap.half:.{digits}f}"
    return f"{factor * gap.mean:+.{digits}f} ± {half}"


def detectable_difference(gaps: Sequence[Interval], digits: int, unit: str, factor: float = 1.0) -> str:
    """The smallest effect that each of several intervals would detect, as text; arguments as for :func:`difference`."""
    largest = max(gap.detectable for gap in gaps)
    return "unknown" if math.isinf(largest) else f"{factor * largest:.{digits}f} {unit}"


#: The splits on which utility is measured.
UTILITY = ("retain", "test")


def says_nothing(idle: Sequence[Interval], margin: float) -> bool:
    """Whether a pass says nothing, since the test does not show that doing nothing fails.

    Args:
        idle: The intervals of the model on which nothing was done.
        margin: The margin of the test.
    """
    return closeness_test(idle, margin).failed >= LEVEL


#: The retrained model with the noise of the release, which is what a certificate compares with.
REFERENCE = "retrain + noise"
#: The samples from which the attack with shadow models has to tell the forgotten ones.
NEVER = "never trained"


def shadow_area(evidence: Evidence, method: str) -> Interval:
    """The AUC of the attack with shadow models, over seeds; of a single seed with the interval of its own bootstrap."""
    area, low, high = (
        evidence.values("04_shadows", metric, method=method, split=NEVER)
        for metric in ("lira_auc", "lira_auc_low", "lira_auc_high")
    )
    if area.notna().sum() != 1:
        return interval(area)
    return Interval(float(area.iloc[0]), float((high - low).iloc[0]) / 2, 1, math.inf)


def has_statistics(evidence: Evidence) -> bool:
    """Whether the network has running statistics: only then is accuracy measured after they were taken anew."""
    return bool(select(evidence.metrics, metric="recalibrated_accuracy")["value"].notna().any())


def weights_alone(evidence: Evidence, what: str, whose: str) -> str:
    """A sentence that limits an ε to the weights, for a network with running statistics; empty for other networks.

    Args:
        evidence: The metrics.
        what: What no certificate covers, such as "this release".
        whose: Whose weights are certified, such as "its".
    """
    if not has_statistics(evidence):
        return ""
    return (
        "BatchNorm's running statistics are functions of the forgotten samples and receive no noise: no certificate "
        f"covers {what}. For {whose} weights alone: "
    )
