"""The theory's claims, and for each the numeric check that decides it. Written before the results.

:mod:`cdu.report.verdicts` asks whether the paper's claims hold of its method. This module asks whether the paper's
formulas hold at all: on problems whose constants are known, on a network with a smooth activation, and on the ReLU
network. This file is part of the hash that the page of the claims shows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from cdu.report.evidence import Evidence, Verdict, Word
from cdu.report.intervals import interval
from cdu.report.query import beside, minus, select
from cdu.unlearning.names import NETWORK, SMOOTH

#: Largest distance between simulation and formula, in standard errors.
SIMULATION = 4.5
#: Largest relative distance between the Newton step on a quadratic and retraining.
EXACT = 1e-8
#: Slope of the error in the share t that is down-weighted, and what it may differ by.
SHARE_SLOPE = (2.0, 0.15)
#: Slopes of the error in n_u for random and one-class forget sets, and what they may differ by.
SIZE_SLOPES = {"random": 1.0, "one class": 2.0}
SIZE_MARGIN = 0.3
#: Largest relative difference of the two forms of the step that counts as none.
SAME_STEP = 1e-6
#: Smallest p-value, times the number of tests, at which LiSSA's mean counts as that of the series.
UNBIASED = 1e-3
#: The smallest number of deletions that decides the control experiment.
DELETIONS = 20
#: The largest loss of accuracy at which a certificate is useful.
USEFUL_LOSS = 0.01
#: Rounding allowed in a comparison of a distance with its bound, relative to the bound.
ROUNDING = 1e-9

SECTION = "01_theory"


@dataclass(frozen=True)
class TheoryClaim:
    """One claim of the theory.

    Attributes:
        text: What it says.
        check: How it is checked, with its tolerance.
        part: The part of the theory chapter that shows it.
        rule: From metrics to a verdict.
    """

    text: str
    check: str
    part: str
    rule: Callable[[Evidence], Verdict]


_UNTESTED = Verdict("not yet tested", "No run checks this yet.")


def decide(identifier: str, metrics: pd.DataFrame) -> Verdict:
    """The verdict on one theory claim for one dataset; metrics as for :func:`cdu.report.verdicts.decide`."""
    return THEORY_CLAIMS[identifier].rule(Evidence(metrics))


def _rows(evidence: Evidence, metric: str, **keys: str | float) -> pd.DataFrame:
    """The theory section's rows of one metric that ``keys`` select, but for those without a value."""
    return evidence.rows(SECTION, metric, **keys)


def _with_bounds(evidence: Evidence, axis: str, method: str) -> pd.DataFrame:
    """Errors along an axis that have a bound, with the bound as column ``bound`` and their ratio as ``ratio``."""
    errors, bounds = (_rows(evidence, metric, axis=axis, method=method) for metric in ("distance", "bound"))
    found = errors.assign(bound=beside(errors, bounds, "seed", "split", "point")).dropna(subset=["bound"])
    return found.assign(ratio=found["value"] / found["bound"])


def _seeds(rows: pd.DataFrame) -> int:
    return int(rows["seed"].nunique())


def _profile(evidence: Evidence) -> Verdict:
    rows = _rows(evidence, "monte_carlo_z")
    if rows.empty:
        return _UNTESTED
    worst = rows["value"].abs().max()
    word: Word = "holds" if worst <= SIMULATION else "does not hold"
    text = f"{len(rows)} comparisons; the largest is {worst:.1f} standard errors off."
    return Verdict(word, text, seeds=_seeds(rows))


def _classical(limit: float) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        rows = _rows(evidence, "sigma_ratio")
        rows = rows[rows["point"] <= limit]
        if rows.empty:
            return _UNTESTED
        least = rows.sort_values("value").iloc[0]
        ends = _rows(evidence, "crossover").groupby("method")["value"].mean()
        where = ", ".join(f"ε = {value:.2f} at {name}" for name, value in ends.items())
        text = f"Smallest ratio to the exact σ: {least['value']:.3f}, at ε = {least['point']:.3g}, {least['method']}."
        if limit > 1:
            text += f" Too little noise from {where} on."
        word: Word = "holds" if least["value"] >= 1 else "does not hold"
        return Verdict(word, text, seeds=_seeds(rows))

    return rule


def _ridge(evidence: Evidence) -> Verdict:
    rows, before = _rows(evidence, "ridge_error"), _rows(evidence, "ridge_distance")
    if rows.empty:
        return _UNTESTED
    word: Word = "holds" if rows["value"].max() <= EXACT else "does not hold"
    text = (
        f"Relative distance to retraining: {before['value'].mean():.2g} before the step, at most "
        f"{rows['value'].max():.1e} after it."
    )
    return Verdict(word, text, seeds=_seeds(rows))


def _slopes(wanted: dict[str, float], margin: float) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        found = {name: interval(_rows(evidence, "slope", method=name)["value"]) for name in wanted}
        seeds = min(one.seeds for one in found.values())
        if seeds < 2:
            return _UNTESTED
        text = "; ".join(f"{name}: {one.mean:.2f} ± {one.half:.2f}" for name, one in found.items())
        missed = [abs(one.mean - wanted[name]) > margin for name, one in found.items()]
        return Verdict("does not hold" if any(missed) else "holds", f"Fitted slope, {text}.", seeds=seeds)

    return rule


def _forms(evidence: Evidence) -> Verdict:
    rows, rest = (_rows(evidence, metric, method="softmax") for metric in ("forms_difference", "forms_unexplained"))
    if rows.empty or rest.empty:
        return _UNTESTED
    optimum = rows[rows["point"] == rows["point"].min()]["value"].max()
    early = rows[rows["point"] == rows["point"].max()]["value"].mean()
    text = (
        f"At the optimum the forms differ by {optimum:.1e} of the step, at ‖∇L(w*)‖ = {rows['point'].max():g} by "
        f"{early:.2g} of it; at most {rest['value'].max():.1e} of the step is not explained by ∇L(w*)."
    )
    word: Word = "holds" if max(optimum, rest["value"].max()) <= SAME_STEP else "does not hold"
    return Verdict(word, text, seeds=_seeds(rows))


def _bound(axis: str, *methods: str, violated: bool = False) -> Callable[[Evidence], Verdict]:
    """Error under the bound for every seed and point; it says nothing where the bound is above 2C."""

    def rule(evidence: Evidence) -> Verdict:
        ratios = pd.concat([_with_bounds(evidence, axis, name) for name in methods])
        if ratios.empty or set(ratios["method"]) != set(methods):
            return _UNTESTED
        trivial = {name: _rows(evidence, "trivial_bound", method=name)["value"].mean() for name in methods}
        ratios = ratios.assign(trivial=ratios["bound"] / ratios["method"].map(trivial))
        text = " ".join(
            f"{name}: the error is at most {rows['ratio'].max():.2g} of the bound, the bound between "
            f"{rows['trivial'].min():.3g} and {rows['trivial'].max():.3g} times 2C."
            for name, rows in ratios.groupby("method", sort=False)
        )
        seeds = _seeds(ratios)
        if violated:
            return Verdict(
                "assumption violated", f"L and M do not exist. With numbers in their place, {text}", seeds=seeds
            )
        if (ratios["ratio"] > 1 + ROUNDING).any():
            return Verdict("does not hold", text, seeds=seeds)
        empty = (ratios["trivial"] >= 1).all()
        return Verdict("holds but says nothing" if empty else "holds", text, seeds=seeds)

    return rule


def _lissa_mean(evidence: Evidence) -> Verdict:
    rows = _rows(evidence, "lissa_bias_p")
    if rows.empty:
        return _UNTESTED
    least = rows["value"].min()
    word: Word = "holds" if least * len(rows) >= UNBIASED else "does not hold"
    off, noise = (_rows(evidence, metric)["value"].mean() for metric in ("lissa_bias", "lissa_bias_noise"))
    text = (
        f"The mean of the draws is {off:.2g} of the series off it, {noise:.2g} expected from sampling alone; the "
        f"smallest p of {len(rows)} tests is {least:.2g}."
    )
    return Verdict(word, text, seeds=_seeds(rows))


def _lissa_condition(batch: str) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        rows = _rows(evidence, "batch_condition", method=NETWORK, split=batch)
        if rows.empty:
            return _UNTESTED
        low = _rows(evidence, "batch_lambda_min", method=NETWORK, split=batch)["value"].min()
        high = _rows(evidence, "batch_lambda_max", method=NETWORK, split=batch)["value"].max()
        share = rows["value"].mean()
        text = f"{share:.0%} of the mini-batches obey it; their eigenvalues reach from {low:.3g} to {high:.3g}."
        return Verdict("holds" if rows["value"].min() == 1 else "does not hold", text, seeds=_seeds(rows))

    return rule


def _lissa_bound(evidence: Evidence) -> Verdict:
    terms, added, bounds = (_rows(evidence, metric) for metric in ("lissa_term", "lissa_added", "lissa_bound"))
    bounds = bounds[bounds["method"] != "exact"]
    if terms.empty or added.empty or bounds.empty:
        return _UNTESTED
    means = terms.groupby("method", sort=False)["value"].mean()
    worst = added["value"].max()
    text = f"LiSSA adds {worst:.2g}; its term in the bound is " + ", ".join(
        f"{value:.3g} ({name})" for name, value in means.items()
    )
    trivial = _rows(evidence, "trivial_bound", method=NETWORK)["value"].mean()
    text += f"; 2C = {trivial:g}. ρ = {_rows(evidence, 'failure')['value'].mean():g} has to be added to δ."
    smallest = terms.groupby("seed")["value"].min()
    if (added.set_index("seed")["value"] > smallest).any():
        return Verdict("does not hold", text, seeds=_seeds(added))
    empty = (bounds["value"] >= trivial).all()
    return Verdict("holds but says nothing" if empty else "holds", text, seeds=_seeds(added))


def _control(evidence: Evidence) -> Verdict:
    rows, fallbacks = _rows(evidence, "ratio", axis="steps"), _rows(evidence, "fallback", axis="steps")["value"]
    if rows.empty or fallbacks.empty:
        return _UNTESTED
    deletions = len(rows.drop_duplicates(["seed", "method"]))
    text = (
        f"{deletions} deletions, each with 0, 1 and 2 steps: the measured distance is at most "
        f"{rows['value'].max():.2g} of the certified one; {fallbacks.sum():.0f} of {len(fallbacks)} fell back to "
        "retraining."
    )
    if deletions < DELETIONS:
        return Verdict("not testable here", f"{text} At least {DELETIONS} deletions are needed.", seeds=_seeds(rows))
    return Verdict("holds" if rows["value"].max() <= 1 else "does not hold", text, seeds=_seeds(rows))


def _useful(evidence: Evidence) -> Verdict:
    rows = _rows(evidence, "accuracy", axis="steps", point=2.0)
    costs = minus(select(rows, split="test"), select(rows, split="test, ε = 1"), "method", "seed")
    losses = {str(name): interval(own["value"]) for name, own in costs.groupby("method")}
    if not losses or min(one.seeds for one in losses.values()) < 2:
        return _UNTESTED
    passed = [name for name, one in losses.items() if one.high <= USEFUL_LOSS]
    worst = max(losses.values(), key=lambda one: one.mean)
    text = (
        f"{len(passed)} of {len(losses)} rows lose at most one point at ε = 1; the largest loss is "
        f"{100 * worst.mean:.2f} ± {100 * worst.half:.2f} points."
    )
    word: Word = "holds" if len(passed) == len(losses) else "does not hold"
    if word != "holds" and not any(one.low > USEFUL_LOSS for one in losses.values()):
        word = "not testable here"
    return Verdict(word, text, seeds=worst.seeds)


#: Every theory claim, in the order of the chapter.
THEORY_CLAIMS: dict[str, TheoryClaim] = {
    "T1": TheoryClaim(
        "The closed form of Balle & Wang is the privacy profile of Gaussian noise at distance Δ.",
        f"Simulated releases agree within {SIMULATION} standard errors at every ε.",
        "noise",
        _profile,
    ),
    "T2": TheoryClaim(
        "The classical σ of the paper's Theorem 2.3 suffices for ε ≤ 1.",
        "At least the exact σ at every ε ≤ 1 and δ of the grid.",
        "noise",
        _classical(1.0),
    ),
    "T3": TheoryClaim(
        "It suffices for every ε, as it is used.",
        "At least the exact σ at every ε up to 10⁴ and δ of the grid.",
        "noise",
        _classical(1e9),
    ),
    "T4": TheoryClaim(
        "The Newton step is exact on a quadratic.",
        f"Ridge regression equals retraining to {EXACT:g}, relative.",
        "newton",
        _ridge,
    ),
    "T5": TheoryClaim(
        "Its error is of second order in the weight of what is forgotten.",
        f"Slope in t of {SHARE_SLOPE[0]:g} ± {SHARE_SLOPE[1]:g} for one fixed set (mean over seeds).",
        "newton",
        _slopes({"one fixed set": SHARE_SLOPE[0]}, SHARE_SLOPE[1]),
    ),
    "T6": TheoryClaim(
        "Against n_u the error grows linearly for random and quadratically for one-class forget sets.",
        f"Slopes within ±{SIZE_MARGIN:g} of 1 and of 2 (mean over seeds).",
        "newton",
        _slopes(SIZE_SLOPES, SIZE_MARGIN),
    ),
    "T7": TheoryClaim(
        "The D_r and the D_u form of the step coincide at an optimum, and part by n/n_r·(H + λI)⁻¹∇L(w*, D) before it.",
        f"To {SAME_STEP:g} of the step.",
        "newton",
        _forms,
    ),
    "T8": TheoryClaim(
        "Theorem 3.4 on ridge regression, constants fixed in advance.",
        "Error under the bound for every seed and λ.",
        "bound",
        _bound("damping", "ridge"),
    ),
    "T9": TheoryClaim(
        "Theorem 3.4 on softmax regression, constants fixed in advance.",
        "Error under the bound for every seed and λ.",
        "bound",
        _bound("damping", "softmax"),
    ),
    "T10": TheoryClaim(
        "Theorem 3.4 on the smooth network, constants measured (an indication).",
        "Error under the bound for every seed and λ.",
        "bound",
        _bound("damping", SMOOTH),
    ),
    "T11": TheoryClaim(
        "Theorem 3.4 on the ReLU network.",
        "None: a ReLU network has no L and no M.",
        "bound",
        _bound("damping", NETWORK, violated=True),
    ),
    "T12": TheoryClaim(
        "LiSSA's mean is the truncated Neumann series of the mean matrix, at every depth.",
        f"No bias found: smallest p times the number of tests at least {UNBIASED:g}.",
        "lissa",
        _lissa_mean,
    ),
    "T13": TheoryClaim(
        "0 ≺ H_t + λI ≼ hI for every mini-batch of the default settings.",
        "All sampled mini-batches of all seeds.",
        "lissa",
        _lissa_condition("batch 128"),
    ),
    "T14": TheoryClaim(
        "The same for mini-batches of 10, as in the authors' code.",
        "All sampled mini-batches of all seeds.",
        "lissa",
        _lissa_condition("batch 10"),
    ),
    "T15": TheoryClaim(
        "The bound with LiSSA covers the error that LiSSA adds (measured constants).",
        "Added error under the smallest of the three forms of the term, for every seed.",
        "lissa",
        _lissa_bound,
    ),
    "T16": TheoryClaim(
        "The bound for training that has not converged, on the smooth network.",
        "Error under the bound with the measured G, for every seed and number of epochs.",
        "requests",
        _bound("epochs", SMOOTH),
    ),
    "T17": TheoryClaim(
        "The same bound holds at every one of several requests, with projection at every step.",
        "Error under the bound for every seed and request, on softmax regression and on the smooth network.",
        "requests",
        _bound("request", "softmax", SMOOTH),
    ),
    "T18": TheoryClaim(
        "For l2-regularised softmax regression ‖w̃ − w̃*‖ ≤ (‖∇L(w̃, D_r)‖ + the retrained model's residual)/l2.",
        f"Against true retraining in float64, for every seed and at least {DELETIONS} deletions.",
        "control",
        _control,
    ),
    "T19": TheoryClaim(
        "There a certificate is useful: ε = 1 costs less than one point of accuracy after two steps.",
        "95 % interval over seeds of the loss against the noiseless model of the same l2, in every row.",
        "control",
        _useful,
    ),
}  # fmt: skip
