"""The rules that decide the :mod:`claims <cdu.claims>`; the claims' page prints the hash of both.

A verdict is one of seven words. *Holds but says nothing* is for a claim whose test is passed, but would also be passed
by something worthless: a bound above the trivial one, or a model on which nothing was done, unless that is seen to
fail. *Does not hold* needs the whole interval beyond the threshold. Where the interval contains it the word is *not
testable here*, with the reason: the interval is too wide, or it is narrow enough and the effect lies on the margin. The
same word, with *other set-up* as reason, is for a claim about a set-up that this is not: the test is looked at there,
and judges nothing.

*Assumption violated* is for a claim about the step or its release where no seed's step is defined, *no certificate*
for a release that no certificate covers, and *not yet tested* for a test whose section was not run. ``CHANGELOG.md``
tells how the rules came about.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from cdu.certification import gaussian_epsilon, trivial_bound
from cdu.claims import (
    AUTHORS_SIGMA,
    CLAIMS,
    CLOSE_ACCURACY,
    CLOSE_AUC,
    CLOSE_EPOCHS,
    FAST,
    LARGEST_EPSILON,
    SMALLEST_EFFECT,
    SMALLEST_SPEEDUP,
    SOLVED_RESIDUAL,
    Place,
)
from cdu.intervals import LEVEL, Interval, all_of, any_of, holm, interval
from cdu.records import UNREACHED

Word = Literal[
    "holds", "holds but says nothing", "does not hold", "assumption violated", "no certificate", "not testable here",
    "not yet tested",
]  # fmt: skip

#: Why a claim that was looked at is not decided.
Reason = Literal["", "interval too wide", "effect on the margin", "other set-up"]

#: Differences of counts whose interval is narrower are the same in every seed, up to rounding.
TIE = 1e-12

#: The released model of the paper's method, and the yardstick that did nothing but received the same noise.
RELEASED, NOTHING = "newton + noise", "original + noise"

#: The step by conjugate gradient at the experiment's λ, by LiSSA there, and by LiSSA with the authors' constants.
STEP, LISSA, AUTHORS = "newton", "newton, lissa", "newton, λ code, lissa"

#: The network of an experiment, and its twin with a smooth activation, in the theory section.
NETWORK, SMOOTH = "network", "smooth network"

#: How the names of a step or network end where the step has the gradient over D_u, and where BatchNorm's statistics
#: were taken anew over D_r first.
FORGET_FORM, ANEW = ", forget gradient", ", statistics of D_r first"


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


def rules_hash() -> str:
    """The first 12 hexadecimal digits of SHA-256 over claims, rules, their statistics and the theory's statements."""
    files = [Path(__file__).with_name(f"{name}.py") for name in ("claims", "verdicts", "intervals", "statements")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def _percent(share: float) -> str:
    """A share in percent with two significant digits, so that a small one is not printed as zero."""
    return f"{float(f'{100 * share:.2g}'):.10g} %"


def _plain(value: float) -> str:
    """A number with three significant digits, large ones in full instead of as a power of ten."""
    return f"{float(f'{value:.3g}'):,.10g}"


def decide(claim: str, metrics: pd.DataFrame, place: Place) -> Verdict:
    """The verdict on one claim for one set-up.

    Args:
        claim: One of :data:`cdu.claims.CLAIMS`.
        metrics: Long-form metrics of one dataset and experiment with columns ``section``, ``seed``, ``metric``,
            ``value``, ``method``, ``split``, ``axis``, ``point``.
        place: The set-up.
    """
    found = _RULES[claim](Evidence(metrics))
    about = CLAIMS[claim].about
    if about is None or about == place or found.word == "not yet tested":
        return found
    text = f"{found.evidence} The claim is about {CLAIMS[claim].setting}; of that, this would read '{found.words}'."
    return replace(found, word="not testable here", reason="other set-up", evidence=text, p=None)


def decide_all(metrics: pd.DataFrame, place: Place, consistent: bool = True) -> dict[str, Verdict]:
    """The verdict on every claim for one dataset and experiment, with Holm's p-values.

    Args:
        metrics: As for :func:`decide`.
        place: The set-up.
        consistent: Whether all sections were made with the same shared settings, so that they decide together.
    """
    if not consistent:
        mixed = Verdict("not yet tested", "The sections shown were made with different settings; run them again.")
        return dict.fromkeys(CLAIMS, mixed)
    tested = set(metrics["section"])
    undefined = undefined_step(metrics)
    found = {}
    for identifier, claim in CLAIMS.items():
        if claim.chapter not in tested:
            found[identifier] = Verdict("not yet tested", "The section that tests this was not run on this set-up.")
            continue
        verdict = decide(identifier, metrics, place)
        missing = undefined is not None and verdict.word == "not yet tested" and claim.needs_step
        found[identifier] = undefined if missing and undefined is not None else verdict
    adjusted = holm({name: one.p for name, one in found.items() if one.p is not None})
    return {name: replace(one, adjusted=adjusted.get(name)) for name, one in found.items()}


def together(found: Mapping[str, Verdict]) -> str:
    """What is left of the words of a set-up when all its tests are taken together, in words."""
    family = {name: one for name, one in found.items() if one.adjusted is not None}
    alone = [name for name, one in family.items() if one.p is not None and one.p < LEVEL]
    single = [name for name in alone if family[name].single]
    if not family:
        return "no verdict rests on an interval over seeds."
    text = (
        f"{len(family)} tests rest on intervals; decided one by one: {len(alone)}; when all are taken together: "
        f"{len(alone) - len(single)}"
    )
    return f"{text} (not then: {', '.join(single)})." if single else f"{text}."


def undefined_step(metrics: pd.DataFrame) -> Verdict | None:
    """What a set-up says of the claims about a release where no seed's Newton step could be taken; else None."""
    evidence, rows = Evidence(metrics), metrics
    rows = rows[(rows["section"] == "03_unlearning") & (rows["metric"] == "accuracy") & (rows["method"] == STEP)]
    rows = rows[~rows["note"].str.startswith(UNREACHED)]
    if rows.empty or rows["value"].notna().any():
        return None
    first = rows.iloc[0]
    text = f"On none of {len(rows)} seeds could the Newton step be taken. Seed {first['seed']}: {first['note']}."
    usual = evidence.values("03_unlearning", "epsilon", method=NOTHING)
    needed = evidence.values("03_unlearning", "sigma_needed", method=NOTHING)
    if not usual.empty:
        text += (
            f" Whatever lies in the ball is certified alike: the σ used in practice for ε = {usual.mean():.3g}, and a "
            f"meaningful ε needs σ = {needed.mean():.3g}."
        )
    return Verdict("assumption violated", text, seeds=len(rows))


@dataclass(frozen=True)
class Evidence:
    """Metrics of one dataset, looked up seed by seed."""

    metrics: pd.DataFrame

    def values(self, section: str, metric: str, **keys: str | float) -> "pd.Series[float]":
        """Values by seed of the one metric that ``keys`` select."""
        rows = self.metrics
        for column, wanted in {"section": section, "metric": metric, **keys}.items():
            rows = rows[rows[column] == wanted]
        return rows.set_index("seed")["value"].astype(float)

    def points(self, section: str, metric: str, axis: str, method: str | None = None) -> list[float]:
        """The points of an axis at which a metric was measured, for one method or any, ascending."""
        rows = self.metrics
        rows = rows[(rows["section"] == section) & (rows["metric"] == metric) & (rows["axis"] == axis)]
        rows = rows if method is None else rows[rows["method"] == method]
        return sorted(float(point) for point in rows["point"].dropna().unique())


_NOTHING_MEASURED = Verdict("not yet tested", "At least two seeds are needed; fewer are recorded.")


def _not_recorded(what: str) -> Verdict:
    return Verdict("not yet tested", f"{what} was not run on this set-up.")


@dataclass(frozen=True)
class _Test:
    """A passed test, a failed one, or neither, by p-values.

    Attributes:
        passed: The p-value of "the claim's condition is met".
        failed: The p-value of "it is not met".
        margins: Every interval that does not pass, with the smallest effect that it should have told from none.
    """

    passed: float
    failed: float
    margins: Sequence[tuple[Interval, float]]

    def verdict(self, text: str, effect: str, seeds: int, empty: bool) -> Verdict:
        """The verdict; ``empty`` says that something worthless passes as well."""
        if self.failed < LEVEL:
            return Verdict("does not hold", text, effect, seeds, p=self.failed)
        if self.passed < LEVEL:
            word: Word = "holds but says nothing" if empty else "holds"
            return Verdict(word, text, effect, seeds, p=self.passed)
        narrow = all(gap.detectable <= margin for gap, margin in self.margins)
        reason: Reason = "effect on the margin" if narrow else "interval too wide"
        p = min(self.passed, self.failed)
        return Verdict("not testable here", text, effect, seeds, reason, p)


def _close(gaps: Sequence[Interval], margin: float) -> _Test:
    """Are all of several differences within a margin?"""
    return _Test(
        passed=all_of([gap.p_within(margin) for gap in gaps]),
        failed=any_of([gap.p_beyond(margin) for gap in gaps]),
        margins=[(gap, margin) for gap in gaps if gap.p_within(margin) >= LEVEL],
    )


def _assumption_grid(evidence: Evidence) -> list[float]:
    """The dampings above every seed's λ_max, ascending."""
    largest = evidence.values("01_theory", "lambda_max", method=NETWORK).max()
    return [point for point in evidence.points("01_theory", "bound", "damping", NETWORK) if point > largest]


def _of_a_part(evidence: Evidence) -> str:
    """What has to be said of a network's constants that the section on large networks measured; empty elsewhere."""
    part = evidence.values("01_theory", "spectrum_samples", method=NETWORK)
    if part.dropna().empty:
        return ""
    text = f" The constants are over {part.mean():,.0f} retained samples, and known from inside or from below alone."
    if evidence.values("01_theory", "relu", method=NETWORK).any():
        text += " A ReLU network has no finite M: its bound is a number put into the formula."
    return text


def _removed(evidence: Evidence, method: str = STEP, section: str = "03_unlearning") -> Interval:
    """Share of the do-nothing distance to the retrained model that a step removes."""
    step = evidence.values(section, "distance_to_retrained", method=method)
    nothing = evidence.values(section, "distance_to_retrained", method="original")
    return interval(1 - step / nothing)


def _c1_close(evidence: Evidence) -> Verdict:
    removed = _removed(evidence)
    if removed.seeds < 2:
        return _NOTHING_MEASURED
    nothing, second = (
        evidence.values("03_unlearning", "distance_to_retrained", method=method)
        for method in ("original", "second retraining")
    )
    text = (
        f"The step removes {_percent(removed.mean)} ± {_percent(removed.half)} of the {nothing.mean():.2f} that lie "
        "between the original and the retrained model"
    )
    text += "." if second.dropna().empty else f"; a second retraining is {second.mean():.2f} away."
    test = _Test(removed.p_above(SMALLEST_EFFECT), removed.p_below(SMALLEST_EFFECT), [(removed, SMALLEST_EFFECT)])
    return test.verdict(text, f"a reduction by {removed.detectable:.2g} of the distance", removed.seeds, empty=False)


def _c1_bound(evidence: Evidence) -> Verdict:
    grid = _assumption_grid(evidence)
    if not grid:
        return _NOTHING_MEASURED
    where: dict[str, str | float] = {"method": NETWORK, "axis": "damping", "point": grid[0]}
    bound = evidence.values("01_theory", "bound", **where)
    error = evidence.values("01_theory", "distance", **where)
    if len(bound) < 2:
        return _NOTHING_MEASURED
    trivial = evidence.values("01_theory", "trivial_bound", method=NETWORK).mean()
    text = (
        f"At λ = {grid[0]:g} the error is {error.mean():.2f} and the bound {bound.mean():.3g}, against 2C = "
        f"{trivial:g}."
    )
    text += _of_a_part(evidence)
    effect = "none: a bound is broken or not, seed by seed"
    if (error > bound).any():
        return Verdict("does not hold", text, effect, len(bound))
    return Verdict("holds but says nothing" if (bound >= trivial).any() else "holds", text, effect, len(bound))


def _c2(evidence: Evidence) -> Verdict:
    grid = _assumption_grid(evidence)
    if len(grid) < 2:
        return _NOTHING_MEASURED
    bounds, errors = (
        [
            evidence.values("01_theory", metric, method=NETWORK, axis="damping", point=point)
            for point in (grid[0], grid[-1])
        ]
        for metric in ("bound", "distance")
    )
    change = interval(errors[1] / errors[0] - 1)
    if change.seeds < 2:
        return _NOTHING_MEASURED
    trivial = evidence.values("01_theory", "trivial_bound", method=NETWORK).mean()
    text = (
        f"From λ = {grid[0]:g} to {grid[-1]:g} the bound goes from {bounds[0].mean():.3g} to {bounds[1].mean():.3g} "
        f"(2C = {trivial:g}) and the error {'rises' if change.mean > 0 else 'falls'} by {_percent(abs(change.mean))} ± "
        f"{_percent(change.half)} of itself."
    )
    text += _of_a_part(evidence)
    effect = f"a change of the error by {change.detectable:.2g} of it"
    if (bounds[1] >= bounds[0]).any():
        return Verdict("does not hold", text, effect, change.seeds)
    test = _Test(change.p_below(SMALLEST_EFFECT), change.p_above(SMALLEST_EFFECT), [(change, SMALLEST_EFFECT)])
    empty = bool((bounds[1] >= trivial).any()) or change.p_below(-SMALLEST_EFFECT) >= LEVEL
    return test.verdict(text, effect, change.seeds, empty)


def _c3(evidence: Evidence) -> Verdict:
    section, exact, stochastic = "08_efficiency", "exact inverse", "lissa"
    seconds = {name: evidence.values(section, "claim_seconds", method=name) for name in (exact, stochastic)}
    ratio = seconds[exact] / seconds[stochastic]
    if ratio.dropna().empty:
        return Verdict("not yet tested", "No run has both the exact inverse and LiSSA.")
    residual = evidence.values(section, "claim_residual", method=stochastic)
    text = (
        f"Exact inverse {_plain(seconds[exact].mean())} s, LiSSA {_plain(seconds[stochastic].mean())} s: "
        f"{_plain(ratio.mean())}× at a relative residual of {_plain(residual.max())}."
    )
    for rival in ("conjugate gradient", "preconditioned"):
        other = evidence.values(section, "claim_seconds", method=f"{rival}, same residual")
        if not other.dropna().empty:
            text += f" To the same residual: {rival} {_plain(other.mean())} s."
    used, available = (evidence.values(section, metric).min() for metric in ("claim_samples", "samples"))
    if used < available:
        text += f" All on {used:,.0f} of {available:,.0f} samples; only the exact inverse's time grows with them."
    held = ratio.min() >= SMALLEST_SPEEDUP and residual.max() <= SOLVED_RESIDUAL
    return Verdict("holds" if held else "does not hold", text, seeds=int(ratio.notna().sum()))


def _share_of_time(share: Interval, removed: Interval, how: str) -> Verdict:
    """The verdict on a step that takes some share of retraining's time, over seeds."""
    text = (
        f"The step {how} takes {share.mean:.1%} ± {share.half:.1%} of retraining's time "
        f"({1 / share.mean:.2g} times as fast) and removes {_percent(removed.mean)} of the distance that doing nothing "
        "leaves."
    )
    effect = f"a difference of {share.detectable:.1%} of retraining's time"
    test = _Test(share.p_below(FAST), share.p_above(FAST), [(share, FAST)])
    return test.verdict(text, effect, share.seeds, empty=not removed.low >= SMALLEST_EFFECT)


def _retraining_time(evidence: Evidence) -> "pd.Series[float]":
    return evidence.values("03_unlearning", "seconds", method="retrain")


def _c4_authors(evidence: Evidence) -> Verdict:
    seconds = evidence.values("03_unlearning", "seconds", method=AUTHORS)
    if seconds.dropna().empty:
        return _diverged(evidence) or _not_recorded("LiSSA with the authors' constants")
    # Of one record: those of two sections may be of models that two machines trained.
    beside = not evidence.values("03_unlearning", "timed_alone", method=AUTHORS).dropna().empty
    section = "08_efficiency" if beside else "03_unlearning"
    share = interval(seconds / evidence.values(section, "seconds", method="retrain"))
    if share.seeds < 2:
        return _NOTHING_MEASURED
    residual = evidence.values("03_unlearning", "residual", method=AUTHORS)
    return _share_of_time(
        share, _removed(evidence, AUTHORS, section), f"(relative residual up to {_plain(residual.max())})"
    )


def _in_a_batch(share: Interval, removed: Interval, residual: float) -> Verdict:
    """The verdict on a solver that was timed once in every seed, beside whatever else the machine did."""
    if share.seeds < 2:
        return _NOTHING_MEASURED
    how = f"by this solver, without its gradient and to a relative residual of at most {_plain(residual)},"
    found = _share_of_time(share, removed, how)
    return replace(found, evidence=f"{found.evidence} Timed once, in a batch, and not on an idle machine.")


def _diverged(evidence: Evidence) -> Verdict | None:
    """What to say where LiSSA with the authors' constants was tried and gave no step in any seed; else None."""
    rows = evidence.metrics
    rows = rows[(rows["section"] == "03_unlearning") & (rows["metric"] == "seconds") & (rows["method"] == AUTHORS)]
    if rows.empty:
        return None
    first = rows.iloc[0]
    text = (
        f"In none of {len(rows)} seeds does LiSSA with the authors' constants give a step. Seed {first['seed']}: "
        f"{first['note']}."
    )
    return Verdict("assumption violated", text, seeds=len(rows))


def _c4_to_residual(solver: str, method: str) -> Callable[[Evidence], Verdict]:
    """The rule for one solver of the system that LiSSA solved, timed on an idle machine or, if not, saying so."""

    def rule(evidence: Evidence) -> Verdict:
        section = "08_efficiency"
        seconds = evidence.values(section, "claim_seconds", method=solver)
        full = evidence.values(section, "seconds", method="retraining in full", split="unlearning")
        share = (seconds / full).dropna()
        if share.empty:
            return Verdict("not yet tested", "No run has both the solver and retraining.")
        residual = evidence.values(section, "claim_residual", method=solver)
        # The section on large networks has each solver's own step beside its time.
        beside = not evidence.values(section, "distance_to_retrained", method=solver).dropna().empty
        removed = _removed(evidence, solver, section) if beside else _removed(evidence, method)
        if (evidence.values(section, "timed_alone", method=solver) == 0).any():
            return _in_a_batch(interval(share), removed, residual.max())
        text = (
            f"The system is solved in {_plain(seconds.mean())} s to a relative residual of {_plain(residual.max())}; "
            f"retraining takes {_plain(full.mean())} s, so that this is {_percent(share.max())} of it. The step "
            f"removes {_percent(removed.mean)} of the distance that doing nothing leaves."
        )
        effect = "unknown: timed in one seed" if len(share) == 1 else "none: every seed must pass"
        if share.max() >= FAST:
            return Verdict("does not hold", text, effect, len(share))
        empty = not removed.low >= SMALLEST_EFFECT
        return Verdict("holds but says nothing" if empty else "holds", text, effect, len(share))

    return rule


def _c4_whole(evidence: Evidence) -> Verdict:
    seconds, how = evidence.values("03_unlearning", "seconds", method=STEP), "with H over all of D_r"
    part = evidence.values("11_scale", "hessian_samples")
    if not part.dropna().empty:
        # There the step's only gradient is over D_u, so that its samples are the forgotten ones.
        gone = evidence.values("03_unlearning", "gradient_samples", method=STEP)
        missing = (evidence.values("11_scale", "train_samples") - gone) / part
        if (missing > 1).any():
            how = f"with H over all of D_r ({_plain(missing.mean())} times the time of that over {part.mean():,.0f})"
            seconds = seconds * missing
    share = interval(seconds / _retraining_time(evidence))
    if share.seeds < 2:
        return _NOTHING_MEASURED
    return _share_of_time(share, _removed(evidence), how)


def _gap(
    evidence: Evidence, section: str, metric: str, method: str, reference: str = "retrain", **keys: str | float
) -> Interval:
    """Difference in a metric between a method and retraining, over seeds."""
    own = evidence.values(section, metric, method=method, **keys)
    return _counted(own - evidence.values(section, metric, method=reference, **keys))


def _counted(differences: "pd.Series[float]") -> Interval:
    """The interval of differences of counts.

    Accuracies and epochs are counted, so that few seeds can agree to the last sample: then their spread is unknown, not
    zero, and the interval has no end.
    """
    found = interval(differences)
    return found if found.half > TIE else replace(found, half=math.inf)


def _difference(gap: Interval, digits: int, factor: float = 1.0) -> str:
    """A difference with its interval."""
    half = "unknown (the same in every seed)" if math.isinf(gap.half) else f"{factor * gap.half:.{digits}f}"
    return f"{factor * gap.mean:+.{digits}f} ± {half}"


def _detectable(gaps: Sequence[Interval], digits: int, unit: str, factor: float = 1.0) -> str:
    """The smallest effect that every one of several intervals would find."""
    largest = max(gap.detectable for gap in gaps)
    return "unknown" if math.isinf(largest) else f"{factor * largest:.{digits}f} {unit}"


#: Where utility is measured.
_UTILITY = ("retain", "test")


def _says_nothing(idle: Sequence[Interval], margin: float) -> bool:
    """Whether doing nothing is not seen to fail where a release passes: then the pass is no merit of the release."""
    return _close(idle, margin).failed >= LEVEL


def _c5(released: str, nothing: str, noun: str) -> Callable[[Evidence], Verdict]:
    """The rule for a release and the yardstick on which nothing was done."""

    def rule(evidence: Evidence) -> Verdict:
        retain, test = own = [_gap(evidence, "03_unlearning", "accuracy", released, split=s) for s in _UTILITY]
        if test.seeds < 2:
            return _NOTHING_MEASURED
        idle = [_gap(evidence, "03_unlearning", "accuracy", nothing, split=split) for split in _UTILITY]
        text = (
            f"{noun} minus retrained: {_difference(retain, 2, 100)} points on the retained set, "
            f"{_difference(test, 2, 100)} on the test set; {nothing}: {_difference(idle[1], 2, 100)} on the test set."
        )
        anew, base = (
            evidence.values("03_unlearning", "recalibrated_accuracy", method=method, split="test")
            for method in (released, "retrain")
        )
        if not anew.dropna().empty:
            text += f" Both with statistics taken anew: {_difference(_counted(anew - base), 2, 100)} on the test set."
        effect = _detectable(own, 2, "points", 100)
        return _close(own, CLOSE_ACCURACY).verdict(text, effect, test.seeds, _says_nothing(idle, CLOSE_ACCURACY))

    return rule


def _c5_authors(evidence: Evidence) -> Verdict:
    where: dict[str, Any] = {"axis": "sigma", "point": AUTHORS_SIGMA, "split": "test"}
    # Of the same record, and so beside models that were trained on the same machine, where it is in there.
    retrained = evidence.values("06_ablations", "accuracy", method=_REFERENCE, split="test, no noise")
    if retrained.dropna().empty:
        retrained = evidence.values("03_unlearning", "accuracy", method="retrain", split="test")
    own, idle = (
        _counted(evidence.values("06_ablations", "accuracy", method=method, **where) - retrained)
        for method in (RELEASED, NOTHING)
    )
    if own.seeds < 2:
        return _NOTHING_MEASURED
    text = (
        f"With σ = {AUTHORS_SIGMA:g}, released minus retrained: {_difference(own, 2, 100)} points on the test set; "
        f"{NOTHING}: {_difference(idle, 2, 100)}."
    )
    anew, base = (
        evidence.values("06_ablations", "recalibrated_accuracy", **keys)
        for keys in ({"method": RELEASED, **where}, {"method": _REFERENCE, "split": "test, no noise"})
    )
    if not anew.dropna().empty:
        text += f" Both with statistics taken anew: {_difference(_counted(anew - base), 2, 100)}."
    empty = _says_nothing([idle], CLOSE_ACCURACY)
    return _close([own], CLOSE_ACCURACY).verdict(text, _detectable([own], 2, "points", 100), own.seeds, empty)


#: The retrained model with the noise of the release, which is what a certificate compares with.
_REFERENCE = "retrain + noise"
#: Which samples the attack by shadow models has to tell the forgotten ones from.
_NEVER = "never trained"


def shadow_area(evidence: Evidence, method: str) -> Interval:
    """The AUC of the attack by shadow models: over seeds, or of the one seed that has some, by its own interval."""
    area, low, high = (
        evidence.values("04_shadows", metric, method=method, split=_NEVER)
        for metric in ("lira_auc", "lira_auc_low", "lira_auc_high")
    )
    if area.notna().sum() != 1:
        return interval(area)
    return Interval(float(area.iloc[0]), float((high - low).iloc[0]) / 2, 1, math.inf)


def _shadow_gap(evidence: Evidence, method: str) -> Interval:
    """Difference in the AUC to the retrained model with the same noise; of one seed as if both were independent."""
    own, reference = (shadow_area(evidence, one) for one in (method, _REFERENCE))
    if own.seeds == 1 and reference.seeds == 1:
        return Interval(own.mean - reference.mean, math.hypot(own.half, reference.half), 1, math.inf)
    return _gap(evidence, "04_shadows", "lira_auc", method, _REFERENCE, split=_NEVER)


def _c6_membership(evidence: Evidence) -> Verdict:
    gaps = {method: [_gap(evidence, "04_attacks", "auc", method)] for method in (RELEASED, NOTHING)}
    seeds = gaps[RELEASED][0].seeds
    if seeds < 2:
        return _NOTHING_MEASURED
    text = (
        f"Population attack, AUC minus the retrained model's: {_difference(gaps[RELEASED][0], 3)} ({NOTHING}: "
        f"{_difference(gaps[NOTHING][0], 3)})."
    )
    if math.isnan(shadow_area(evidence, RELEASED).mean):
        text += " No shadow models were trained here."
    else:
        for method in gaps:
            gaps[method].append(_shadow_gap(evidence, method))
        text += f" {shadows(evidence)}"
    effect = _detectable(gaps[RELEASED], 3, "in AUC")
    return _close(gaps[RELEASED], CLOSE_AUC).verdict(text, effect, seeds, _says_nothing(gaps[NOTHING], CLOSE_AUC))


def shadows(evidence: Evidence) -> str:
    """What the attack by shadow models finds in the release and in its reference, as a sentence; empty without one."""
    areas = {method: shadow_area(evidence, method) for method in (RELEASED, _REFERENCE, NOTHING)}
    if math.isnan(areas[RELEASED].mean):
        return ""
    words = [f"{name} {area.mean:.3f} [{area.low:.3f}, {area.high:.3f}]" for name, area in areas.items()]
    seeds = areas[RELEASED].seeds
    count = "one seed" if seeds == 1 else f"{seeds} seeds"
    return (
        f"Shadow models ({count}), AUC: {', '.join(words)}; released minus reference "
        f"{_difference(_shadow_gap(evidence, RELEASED), 3)}."
    )


def _c6_relearning(evidence: Evidence) -> Verdict:
    own, idle = (_gap(evidence, "05_relearn", "epochs", method) for method in (RELEASED, NOTHING))
    if own.seeds < 2:
        return _NOTHING_MEASURED
    text = (
        f"Relearn time minus the retrained model's: {_difference(own, 1)} epochs ({NOTHING}: {_difference(idle, 1)})."
    )
    empty = _says_nothing([idle], CLOSE_EPOCHS)
    return _close([own], CLOSE_EPOCHS).verdict(text, _detectable([own], 1, "epochs"), own.seeds, empty)


def _c7(evidence: Evidence) -> Verdict:
    requests = evidence.points("07_sequential", "accuracy", "request", RELEASED)
    if not requests:
        return _NOTHING_MEASURED
    last = requests[-1]
    where: dict[str, Any] = {"axis": "request", "point": last}
    own, idle = (
        [_gap(evidence, "07_sequential", "accuracy", method, split=split, **where) for split in _UTILITY]
        for method in (RELEASED, NOTHING)
    )
    retain, test = own
    if test.seeds < 2:
        return _NOTHING_MEASURED
    jointly, alone = (
        evidence.values("07_sequential", "epsilon", method=method, axis="releases", point=last)
        for method in ("together", "each alone")
    )
    nothing = idle[1]
    text = _weights_alone(evidence, "these releases", "their") + (
        f"{last:g} releases together certify ε = {_plain(jointly.mean())}, each alone {_plain(alone.mean())}. After "
        f"the last, released minus retrained: {_difference(retain, 2, 100)} points on the "
        f"retained set, {_difference(test, 2, 100)} on the test set; the original with the same "
        f"noise: {_difference(nothing, 2, 100)} on the test set."
    )
    effect = _detectable(own, 2, "points", 100)
    if jointly.max() > LARGEST_EPSILON:
        return Verdict("does not hold", text, effect, test.seeds)
    if _has_statistics(evidence):
        # The ε is then about the weights alone, and there is no guarantee to be kept.
        return Verdict("no certificate", text, effect, test.seeds)
    # Doing nothing has the same certificate: what tells the two apart is accuracy alone.
    return _close(own, CLOSE_ACCURACY).verdict(text, effect, test.seeds, _says_nothing(idle, CLOSE_ACCURACY))


def _c8(evidence: Evidence) -> Verdict:
    section = "07_sequential"
    epochs = evidence.points(section, "bound", "epochs", "newton")
    if not epochs:
        return _NOTHING_MEASURED
    found = {
        metric: pd.DataFrame(
            {point: evidence.values(section, metric, method="newton", axis="epochs", point=point) for point in epochs}
        )
        for metric in ("bound", "distance_to_retrained")
    }
    bound, error = found["bound"], found["distance_to_retrained"]
    if len(bound) < 2:
        return _NOTHING_MEASURED
    trivial = float(evidence.values(section, "trivial_bound").mean())
    missing = int((bound.isna() | error.isna()).sum().sum())
    text = (
        f"From {epochs[0]:g} to {epochs[-1]:g} epochs the largest error is {_plain(error.max().max())} and the bound "
        f"at least {_plain(bound.min().min())} and at most {_plain(bound.max().max())}, against 2C = {trivial:g}."
    )
    if not evidence.values(section, "hessian_samples").dropna().empty:
        text += (
            " The step has the gradient over D_u, and the theorem is about the one over D_r: the two agree where "
            "∇L(w*, D) = 0."
        )
    if _has_statistics(evidence):
        text += " Running statistics make two functions of the two models; the theorem is about two points of one."
    if missing:
        text += f" {missing} of {bound.size} steps or bounds could not be had: there H + λI is indefinite."
    effect = "none: a bound is broken or not, seed by seed"
    if (error > bound).any().any():
        return Verdict("does not hold", text, effect, len(bound))
    if missing:
        return Verdict("not testable here", text, effect, len(bound))
    empty = (bound >= trivial).any().any()
    return Verdict("holds but says nothing" if empty else "holds", text, effect, len(bound))


def _certified(evidence: Evidence) -> Verdict:
    """What the σ used in practice certifies."""
    epsilon, needed, sigma, wanted = (
        evidence.values("03_unlearning", metric, method=RELEASED)
        for metric in ("epsilon", "sigma_needed", "sigma", "epsilon_wanted")
    )
    if epsilon.empty:
        return Verdict("not yet tested", "No run certifies a release yet.")
    text = (
        f"σ = {sigma.mean():g} certifies ε = {_plain(epsilon.mean())}; "
        f"ε = {wanted.mean():g} needs σ = {needed.mean():.3g}."
    )
    word: Word = "holds" if epsilon.max() <= LARGEST_EPSILON else "holds but says nothing"
    return Verdict(word, text, "none: ε follows from σ, δ and C without sampling", len(epsilon))


def _has_statistics(evidence: Evidence) -> bool:
    """Whether the network has running statistics, seen by what was measured after they were taken anew."""
    rows = evidence.metrics
    return bool(rows[rows["metric"] == "recalibrated_accuracy"]["value"].notna().any())


def _weights_alone(evidence: Evidence, what: str, whose: str) -> str:
    """What an ε of a network with running statistics is about, before it is told; empty for other networks."""
    if not _has_statistics(evidence):
        return ""
    return (
        "BatchNorm's running statistics are functions of the forgotten samples and receive no noise: no certificate "
        f"covers {what}. For {whose} weights alone: "
    )


def _c9_released(evidence: Evidence) -> Verdict:
    found = _certified(evidence)
    if found.word == "not yet tested" or not _has_statistics(evidence):
        return found
    text = _weights_alone(evidence, "this release", "its") + found.evidence
    return replace(found, word="no certificate", evidence=text)


def _c9_recalibrated(evidence: Evidence) -> Verdict:
    found = _certified(evidence)
    if found.word == "not yet tested" or _has_statistics(evidence):
        return found
    text = "The network has no running statistics: its release is certified as it is."
    return Verdict("not testable here", text, seeds=found.seeds, reason="other set-up")


def _c10(evidence: Evidence) -> Verdict:
    grid = evidence.points("06_ablations", "accuracy", "radius")
    if len(grid) < 2:
        return _NOTHING_MEASURED
    low, high = (
        evidence.values("06_ablations", "accuracy", axis="radius", point=point, method="original", split="test")
        for point in (grid[0], grid[-1])
    )
    cost = interval(high - low)
    if cost.seeds < 2:
        return _NOTHING_MEASURED
    sigma = float(evidence.values("06_ablations", "sigma").mean())
    delta = float(evidence.values("06_ablations", "delta").mean())
    epsilon = gaussian_epsilon(sigma, delta, trivial_bound(grid[0]).value)
    text = (
        f"From C = {grid[-1]:g} to {grid[0]:g} test accuracy falls by {100 * cost.mean:.2f} ± {100 * cost.half:.2f} "
        f"points; at C = {grid[0]:g}, σ = {sigma:g} certifies ε = {_plain(epsilon)}."
    )
    if _has_statistics(evidence):
        low, high = (
            evidence.values("06_ablations", "recalibrated_accuracy", axis="radius", point=point, split="test")
            for point in (grid[0], grid[-1])
        )
        anew = interval(high - low)
        text += (
            " That ε is about the weights alone: BatchNorm's running statistics are functions of the forgotten samples "
            f"and receive no noise. With statistics taken anew accuracy falls by {100 * anew.mean:.2f} ± "
            f"{100 * anew.half:.2f} points."
        )
    effect = f"{100 * cost.detectable:.2f} points"
    test = _Test(cost.p_above(CLOSE_ACCURACY), cost.p_below(CLOSE_ACCURACY), [(cost, CLOSE_ACCURACY)])
    return test.verdict(text, effect, cost.seeds, empty=epsilon > LARGEST_EPSILON)


_RULES: dict[str, Callable[[Evidence], Verdict]] = {
    "C1a": _c1_close,
    "C1b": _c1_bound,
    "C2": _c2,
    "C3": _c3,
    "C4a": _c4_authors,
    "C4b": _c4_to_residual("lissa", LISSA),
    "C4c": _c4_to_residual("conjugate gradient, same residual", STEP),
    "C4d": _c4_whole,
    "C5a": _c5(RELEASED, NOTHING, "Released"),
    "C5b": _c5_authors,
    "C5c": _c5(STEP, "original", "The step"),
    "C6a": _c6_membership,
    "C6b": _c6_relearning,
    "C7": _c7,
    "C8": _c8,
    "C9a": _c9_released,
    "C9b": _c9_recalibrated,
    "C10": _c10,
}
