"""The claims, and for each the test that decides it; the claims' page prints the hash of this file.

A verdict is one of six words. *Holds but says nothing* is for a claim whose test is passed, but would also be passed
by something worthless: a bound above the trivial one, or a model on which nothing was done. *Does not hold* needs the
whole interval beyond the threshold; where the interval contains it, so many seeds cannot decide, and the word is
*not testable here*.

*Assumption violated* is for a claim about the step or its release where no seed's step is defined, and *not yet
tested* for one whose section was not run. ``CHANGELOG.md`` tells how the rules came about.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from scipy import stats

from cdu.certification import gaussian_epsilon, trivial_bound
from cdu.records import UNREACHED

Word = Literal[
    "holds", "holds but says nothing", "does not hold", "assumption violated", "not testable here", "not yet tested"
]  # fmt: skip

#: Share of the do-nothing distance that the step must remove to count as "closer to the retrained model".
SMALLEST_REDUCTION = 0.05
#: Largest difference in accuracy that counts as "close".
CLOSE_ACCURACY = 0.01
#: Largest difference in the attack's AUC that counts as "close".
CLOSE_AUC = 0.02
#: Largest difference in relearn time, in epochs, that counts as "close".
CLOSE_EPOCHS = 1.0
#: Differences of counts whose interval is narrower are the same in every seed, up to rounding.
TIE = 1e-12
#: Largest share of retraining's time that counts as "more than ten times faster".
FAST = 0.1
#: Smallest ratio of the exact inverse's time to LiSSA's: a tenth of the claim.
SMALLEST_SPEEDUP = 47.0
#: Largest relative residual at which LiSSA counts as having solved the system.
SOLVED_RESIDUAL = 0.1
#: Parameters of the network that claim C3 is about.
MNIST_MLP_PARAMETERS = 26_506
#: Largest ε that still says something: e^10 is about 22,000.
LARGEST_EPSILON = 10.0
#: Confidence of every interval over seeds.
CONFIDENCE = 0.95
#: Probability with which the smallest effect would be found.
POWER = 0.8

#: The released model of the paper's method, and the yardstick that did nothing but received the same noise.
RELEASED, NOTHING = "newton + noise", "original + noise"

#: The network of an experiment, and its twin with a smooth activation, in the theory section.
NETWORK, SMOOTH = "network", "smooth network"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, as secondary sources quote it.

    Attributes:
        text: The claim.
        test: How it is decided here, with its threshold.
        chapter: The chapter that shows it.
    """

    text: str
    test: str
    chapter: str


@dataclass(frozen=True)
class Verdict:
    """What one dataset's records say about one claim.

    Attributes:
        word: The verdict.
        evidence: One sentence with the numbers.
        smallest_effect: The smallest true effect that so many seeds would find with a probability of 80 %, in words;
            empty when nothing was measured.
        seeds: Number of seeds behind it.
    """

    word: Word
    evidence: str
    smallest_effect: str = ""
    seeds: int = 0


CLAIMS: dict[str, Claim] = {
    "C1": Claim(
        "The Newton estimate is close to the retrained model, and the measured error stays under Theorem 3.4's bound.",
        "At the smallest λ of the grid above λ_max: the error must be under the bound for every seed. It says nothing "
        "unless the bound is below the trivial 2C "
        f"and the step removes at least {SMALLEST_REDUCTION:.0%} of the distance that doing nothing leaves (lower end "
        "of the 95 % interval).",
        "01_theory",
    ),
    "C2": Claim(
        "A larger damping λ lowers the bound and slightly lowers the real error.",
        "From the smallest λ above λ_max to the largest of the grid: the bound must fall for every seed and the "
        "error's relative change must not be positive (95 % interval). It says nothing while the bound stays above 2C "
        "or the error's change cannot be told from zero.",
        "01_theory",
    ),
    "C3": Claim(
        "LiSSA replaces the exact inverse at a fraction of the cost: 470× faster on MNIST/MLP.",
        "Time of the exact inverse over LiSSA's on MNIST/MLP, at least 47 (a tenth of the claim), at a relative "
        "residual of at most 0.1.",
        "08_efficiency",
    ),
    "C4": Claim(
        "Unlearning is more than 10× faster than retraining.",
        f"Time of the step over time of retraining below {FAST:g} (upper end of the 95 % interval). It says nothing "
        f"when the lower end of what the step removes is under {SMALLEST_REDUCTION:.0%} of the distance "
        "that doing nothing, at no cost, leaves.",
        "03_unlearning",
    ),
    "C5": Claim(
        "Utility (micro-F1 on the retained and the test set) stays close to the retrained model's.",
        f"95 % intervals of both differences within ±{CLOSE_ACCURACY:g}. It says nothing when the original model "
        "with the same noise passes too.",
        "03_unlearning",
    ),
    "C6": Claim(
        "The unlearned model resists membership inference, and its relearn time is close to the retrained model's.",
        f"95 % intervals of the difference in AUC within ±{CLOSE_AUC:g} and of that in relearn time within "
        f"±{CLOSE_EPOCHS:g} epoch. It says nothing when the original model with the same noise passes too.",
        "04_attacks",
    ),
    "C7": Claim(
        "Sequential requests keep the guarantee and the utility.",
        "ε of the composition over all requests at most ten, accuracy within one point of retraining.",
        "07_sequential",
    ),
    "C8": Claim(
        "The method also covers training that has not converged.",
        "The error must be under the bound with the measured G for every seed and number of epochs; it says nothing "
        "while that bound is above 2C.",
        "07_sequential",
    ),
    "C9": Claim(
        "With noise σ the release is (ε,δ)-certified.",
        f"The ε that the σ used in practice certifies at Δ = 2C. It says nothing above ε = {LARGEST_EPSILON:g}.",
        "03_unlearning",
    ),
    "C10": Claim(
        "The norm bound C trades utility for a smaller error bound.",
        "Test accuracy must be lower at the smallest C than at the largest (95 % interval). It says nothing when the ε "
        f"certified at the smallest C still exceeds {LARGEST_EPSILON:g}.",
        "06_ablations",
    ),
}


def rules_hash() -> str:
    """The first 12 hexadecimal digits of SHA-256 over this file and that of the theory's statements."""
    files = (Path(__file__), Path(__file__).with_name("statements.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def _percent(share: float) -> str:
    """A share in percent with two significant digits, so that a small one is not printed as zero."""
    return f"{float(f'{100 * share:.2g}'):.10g} %"


def _plain(value: float) -> str:
    """A number with three significant digits, large ones in full instead of as a power of ten."""
    return f"{float(f'{value:.3g}'):,.10g}"


def decide(claim: str, metrics: pd.DataFrame) -> Verdict:
    """The verdict on one claim for one dataset.

    Args:
        claim: ``C1`` to ``C10``.
        metrics: Long-form metrics of one dataset and experiment with columns ``section``, ``seed``, ``metric``,
            ``value``, ``method``, ``split``, ``axis``, ``point``.
    """
    rule = _RULES.get(claim)
    if rule is None:
        return Verdict("not yet tested", "No run tests this claim yet.")
    return rule(Evidence(metrics))


#: Claims about the released model, which is not there where no Newton step could be taken.
_ABOUT_THE_STEP = ("C1", "C4", "C5", "C6", "C9")


def decide_all(metrics: pd.DataFrame, consistent: bool = True) -> dict[str, Verdict]:
    """The verdict on every claim for one dataset and experiment.

    Args:
        metrics: As for :func:`decide`.
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
        verdict = decide(identifier, metrics)
        missing = undefined is not None and verdict.word == "not yet tested" and identifier in _ABOUT_THE_STEP
        found[identifier] = undefined if missing and undefined is not None else verdict
    return found


def undefined_step(metrics: pd.DataFrame) -> Verdict | None:
    """What a set-up says of the claims about a release where no seed's Newton step could be taken; else None."""
    evidence, rows = Evidence(metrics), metrics
    rows = rows[(rows["section"] == "03_unlearning") & (rows["metric"] == "accuracy") & (rows["method"] == "newton")]
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
class Interval:
    """A mean over seeds with the half-width of its 95 % t-interval (infinite for fewer than two seeds)."""

    mean: float
    half: float
    seeds: int

    @property
    def detectable(self) -> float:
        """The smallest true effect that an interval of this width would tell from zero with probability 80 %."""
        if self.seeds < 2:
            return math.inf
        quantiles = [float(stats.t.ppf(level, self.seeds - 1)) for level in ((1 + CONFIDENCE) / 2, POWER)]
        return self.half * sum(quantiles) / quantiles[0]

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

    def beyond(self, margin: float) -> bool:
        """Whether the whole interval lies outside ±``margin``."""
        return self.low > margin or self.high < -margin


def interval(values: "pd.Series[float]") -> Interval:
    """The t-interval of the mean over seeds."""
    known = values.dropna()
    if len(known) < 2:
        return Interval(float(known.mean()) if len(known) else math.nan, math.inf, len(known))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1))
    return Interval(float(known.mean()), quantile * float(known.std()) / math.sqrt(len(known)), len(known))


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


def _undecided(text: str, effect: str, seeds: int) -> Verdict:
    return Verdict("not testable here", f"{text} The interval contains the threshold: too few seeds.", effect, seeds)


def _assumption_grid(evidence: Evidence) -> list[float]:
    """The dampings above every seed's λ_max, ascending."""
    largest = evidence.values("01_theory", "lambda_max", method=NETWORK).max()
    return [point for point in evidence.points("01_theory", "bound", "damping", NETWORK) if point > largest]


_NOTHING_MEASURED = Verdict("not yet tested", "At least two seeds are needed; fewer are recorded.")


def _closeness(evidence: Evidence) -> Interval:
    """Share of the do-nothing distance to the retrained model that the step removes."""
    step = evidence.values("03_unlearning", "distance_to_retrained", method="newton")
    nothing = evidence.values("03_unlearning", "distance_to_retrained", method="original")
    return interval(1 - step / nothing)


def _c1(evidence: Evidence) -> Verdict:
    grid = _assumption_grid(evidence)
    reduction = _closeness(evidence)
    if not grid or reduction.seeds < 2:
        return _NOTHING_MEASURED
    where: dict[str, str | float] = {"method": NETWORK, "axis": "damping", "point": grid[0]}
    bound = evidence.values("01_theory", "bound", **where)
    error = evidence.values("01_theory", "distance", **where)
    trivial = evidence.values("01_theory", "trivial_bound", method=NETWORK).mean()
    text = (
        f"At λ = {grid[0]:g} the error is {error.mean():.2f} and the bound {bound.mean():.3g}, against 2C = "
        f"{trivial:g}; the step removes {_percent(reduction.mean)} ± {_percent(reduction.half)} of the distance that "
        f"doing nothing leaves."
    )
    effect = f"a reduction by {reduction.detectable:.2g} of the distance"
    if (error > bound).any():
        return Verdict("does not hold", text, effect, reduction.seeds)
    empty = (bound >= trivial).any() or reduction.low < SMALLEST_REDUCTION
    return Verdict("holds but says nothing" if empty else "holds", text, effect, reduction.seeds)


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
    effect = f"a change of the error by {change.detectable:.2g} of it"
    if (bounds[1] >= bounds[0]).any() or change.low > 0:
        return Verdict("does not hold", text, effect, change.seeds)
    empty = (bounds[1] >= trivial).any() or change.high >= 0
    return Verdict("holds but says nothing" if empty else "holds", text, effect, change.seeds)


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
    seeds = int(ratio.notna().sum())
    if evidence.values(section, "parameters").max() != MNIST_MLP_PARAMETERS:
        return Verdict("not testable here", f"{text} The claim is about MNIST/MLP.", seeds=seeds)
    held = ratio.min() >= SMALLEST_SPEEDUP and residual.max() <= SOLVED_RESIDUAL
    return Verdict("holds" if held else "does not hold", text, seeds=seeds)


def _c4(evidence: Evidence) -> Verdict:
    step = evidence.values("03_unlearning", "seconds", method="newton")
    retraining = evidence.values("03_unlearning", "seconds", method="retrain")
    share, reduction = interval(step / retraining), _closeness(evidence)
    if share.seeds < 2:
        return _NOTHING_MEASURED
    text = (
        f"The step takes {share.mean:.1%} ± {share.half:.1%} of retraining's time ({1 / share.mean:.0f}× faster) "
        f"and removes {_percent(reduction.mean)} of the distance that doing nothing leaves."
    )
    effect = f"a difference of {share.detectable:.1%} of retraining's time"
    if share.low > FAST:
        return Verdict("does not hold", text, effect, share.seeds)
    if share.high >= FAST:
        return _undecided(text, effect, share.seeds)
    empty = reduction.low < SMALLEST_REDUCTION
    return Verdict("holds but says nothing" if empty else "holds", text, effect, share.seeds)


def _gap(
    evidence: Evidence, section: str, metric: str, method: str, reference: str = "retrain", **keys: str | float
) -> Interval:
    """Difference in a metric between a method and retraining, over seeds.

    Accuracies and epochs are counted, so that few seeds can agree to the last sample: then their spread is unknown, not
    zero, and the interval has no end.
    """
    own = evidence.values(section, metric, method=method, **keys)
    found = interval(own - evidence.values(section, metric, method=reference, **keys))
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


def _c5(evidence: Evidence) -> Verdict:
    gaps = {
        method: [_gap(evidence, "03_unlearning", "accuracy", method, split=split) for split in _UTILITY]
        for method in (RELEASED, NOTHING)
    }
    retain, test = gaps[RELEASED]
    if test.seeds < 2:
        return _NOTHING_MEASURED
    nothing = gaps[NOTHING][1]
    text = (
        f"Released minus retrained: {_difference(retain, 2, 100)} points on the retained set, "
        f"{_difference(test, 2, 100)} on the test set; the original with the same noise: "
        f"{_difference(nothing, 2, 100)} on the test set."
    )
    passed = {method: all(gap.within(CLOSE_ACCURACY) for gap in pair) for method, pair in gaps.items()}
    failed = any(gap.beyond(CLOSE_ACCURACY) for gap in gaps[RELEASED])
    effect = _detectable([retain, test], 2, "points", 100)
    return _equivalence(passed, failed, text, effect, test.seeds)


def _c6(evidence: Evidence) -> Verdict:
    auc = {method: _gap(evidence, "04_attacks", "auc", method) for method in (RELEASED, NOTHING)}
    epochs = {method: _gap(evidence, "05_relearn", "epochs", method) for method in (RELEASED, NOTHING)}
    if auc[RELEASED].seeds < 2 or epochs[RELEASED].seeds < 2:
        return _NOTHING_MEASURED
    text = (
        f"AUC minus the retrained model's: {_difference(auc[RELEASED], 3)} (original with the same noise: "
        f"{_difference(auc[NOTHING], 3)}); relearn time minus the retrained model's: "
        f"{_difference(epochs[RELEASED], 1)} epochs ({_difference(epochs[NOTHING], 1)})."
    )
    passed = {m: auc[m].within(CLOSE_AUC) and epochs[m].within(CLOSE_EPOCHS) for m in (RELEASED, NOTHING)}
    failed = auc[RELEASED].beyond(CLOSE_AUC) or epochs[RELEASED].beyond(CLOSE_EPOCHS)
    effect = f"{_detectable([auc[RELEASED]], 3, 'in AUC')}, {_detectable([epochs[RELEASED]], 1, 'epochs')}"
    return _equivalence(passed, failed, text, effect, auc[RELEASED].seeds)


def _equivalence(passed: dict[str, bool], failed: bool, text: str, effect: str, seeds: int) -> Verdict:
    """Holds if the release passes and doing nothing does not; ``failed`` if an interval is wholly beyond its margin."""
    if failed:
        return Verdict("does not hold", text, effect, seeds)
    if not passed[RELEASED]:
        return _undecided(text, effect, seeds)
    return Verdict("holds but says nothing" if passed[NOTHING] else "holds", text, effect, seeds)


def _c7(evidence: Evidence) -> Verdict:
    requests = evidence.points("07_sequential", "accuracy", "request", RELEASED)
    if not requests:
        return _NOTHING_MEASURED
    last = requests[-1]
    where: dict[str, Any] = {"axis": "request", "point": last}
    gaps = {
        method: [_gap(evidence, "07_sequential", "accuracy", method, split=split, **where) for split in _UTILITY]
        for method in (RELEASED, NOTHING)
    }
    retain, test = gaps[RELEASED]
    if test.seeds < 2:
        return _NOTHING_MEASURED
    together, alone = (
        evidence.values("07_sequential", "epsilon", method=method, axis="releases", point=last)
        for method in ("together", "each alone")
    )
    nothing = gaps[NOTHING][1]
    text = (
        f"{last:g} releases together certify ε = {_plain(together.mean())}, each alone {_plain(alone.mean())}. After "
        f"the last, released minus retrained: {_difference(retain, 2, 100)} points on the "
        f"retained set, {_difference(test, 2, 100)} on the test set; the original with the same "
        f"noise: {_difference(nothing, 2, 100)} on the test set."
    )
    # Doing nothing has the same certificate: what tells the two apart is accuracy alone.
    passed = {method: all(gap.within(CLOSE_ACCURACY) for gap in pair) for method, pair in gaps.items()}
    failed = bool(together.max() > LARGEST_EPSILON) or any(gap.beyond(CLOSE_ACCURACY) for gap in gaps[RELEASED])
    effect = _detectable([retain, test], 2, "points", 100)
    return _equivalence(passed, failed, text, effect, test.seeds)


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
    if missing:
        text += f" {missing} of {bound.size} steps or bounds could not be had: there H + λI is indefinite."
    effect = "none: a bound is broken or not, seed by seed"
    if (error > bound).any().any():
        return Verdict("does not hold", text, effect, len(bound))
    if missing:
        return Verdict("not testable here", text, effect, len(bound))
    empty = (bound >= trivial).any().any()
    return Verdict("holds but says nothing" if empty else "holds", text, effect, len(bound))


def _c9(evidence: Evidence) -> Verdict:
    epsilon = evidence.values("03_unlearning", "epsilon", method=RELEASED)
    needed = evidence.values("03_unlearning", "sigma_needed", method=RELEASED)
    sigma = evidence.values("03_unlearning", "sigma", method=RELEASED)
    wanted = evidence.values("03_unlearning", "epsilon_wanted", method=RELEASED)
    if epsilon.empty:
        return Verdict("not yet tested", "No run certifies a release yet.")
    text = (
        f"σ = {sigma.mean():g} certifies ε = {_plain(epsilon.mean())}; "
        f"ε = {wanted.mean():g} needs σ = {needed.mean():.3g}."
    )
    word: Word = "holds" if epsilon.max() <= LARGEST_EPSILON else "holds but says nothing"
    return Verdict(word, text, "none: ε follows from σ, δ and C without sampling", len(epsilon))


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
    effect = f"{100 * cost.detectable:.2f} points"
    if cost.high <= 0:
        return Verdict("does not hold", text, effect, cost.seeds)
    if cost.low <= 0:
        return _undecided(text, effect, cost.seeds)
    word: Word = "holds" if epsilon <= LARGEST_EPSILON else "holds but says nothing"
    return Verdict(word, text, effect, cost.seeds)


_RULES: dict[str, Callable[[Evidence], Verdict]] = {
    "C1": _c1, "C2": _c2, "C3": _c3, "C4": _c4, "C5": _c5, "C6": _c6, "C7": _c7, "C8": _c8, "C9": _c9, "C10": _c10,
}  # fmt: skip
