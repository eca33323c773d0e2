"""Rules of C3 and C4: the time of LiSSA beside the exact inverse, and of unlearning beside retraining."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from cdu.report.claims import FAST, SMALLEST_EFFECT, SMALLEST_SPEEDUP, SOLVED_RESIDUAL
from cdu.report.evidence import (
    NOTHING_MEASURED,
    STEP,
    Evidence,
    MarginTest,
    Verdict,
    as_text,
    not_recorded,
    percent,
    share_removed,
)
from cdu.report.intervals import Interval, interval
from cdu.report.query import select
from cdu.unlearning.names import AUTHORS


def c3(evidence: Evidence) -> Verdict:
    """C3: LiSSA solves the system at a fraction of the exact inverse's time."""
    section, exact, stochastic = "08_efficiency", "exact inverse", "lissa"
    seconds = {name: evidence.values(section, "claim_seconds", method=name) for name in (exact, stochastic)}
    ratio = seconds[exact] / seconds[stochastic]
    if ratio.dropna().empty:
        return Verdict("not yet tested", "No run has both the exact inverse and LiSSA.")
    residual = evidence.values(section, "claim_residual", method=stochastic)
    text = (
        f"Exact inverse {as_text(seconds[exact].mean())} s, LiSSA {as_text(seconds[stochastic].mean())} s: "
        f"{as_text(ratio.mean())}× at a relative residual of {as_text(residual.max())}."
    )
    for rival in ("conjugate gradient", "preconditioned"):
        other = evidence.values(section, "claim_seconds", method=f"{rival}, same residual")
        if not other.dropna().empty:
            text += f" To the same residual: {rival} {as_text(other.mean())} s."
    used, available = (evidence.values(section, metric).min() for metric in ("claim_samples", "samples"))
    if used < available:
        text += f" All on {used:,.0f} of {available:,.0f} samples; only the exact inverse's time grows with them."
    held = ratio.min() >= SMALLEST_SPEEDUP and residual.max() <= SOLVED_RESIDUAL
    return Verdict("holds" if held else "does not hold", text, seeds=int(ratio.notna().sum()))


def _share_of_time(share: Interval, removed: Interval, how: str) -> Verdict:
    """The verdict on a step by its share of retraining's time, over seeds."""
    text = (
        f"The step {how} takes {share.mean:.1%} ± {share.half:.1%} of retraining's time "
        f"({1 / share.mean:.2g} times as fast) and removes {percent(removed.mean)} of the distance that doing nothing "
        "leaves."
    )
    effect = f"a difference of {share.detectable:.1%} of retraining's time"
    test = MarginTest(share.p_below(FAST), share.p_above(FAST), [(share, FAST)])
    return test.verdict(text, effect, share.seeds, empty=not removed.low >= SMALLEST_EFFECT)


def _retraining_time(evidence: Evidence) -> "pd.Series[float]":
    return evidence.values("03_unlearning", "seconds", method="retrain")


def c4_authors(evidence: Evidence) -> Verdict:
    """C4a: LiSSA with the authors' constants takes a small share of retraining's time."""
    seconds = evidence.values("03_unlearning", "seconds", method=AUTHORS)
    if seconds.dropna().empty:
        return _diverged(evidence) or not_recorded("LiSSA with the authors' constants")
    # Of one record: those of two sections may be of models that two machines trained.
    beside = not evidence.values("03_unlearning", "timed_alone", method=AUTHORS).dropna().empty
    section = "08_efficiency" if beside else "03_unlearning"
    share = interval(seconds / evidence.values(section, "seconds", method="retrain"))
    if share.seeds < 2:
        return NOTHING_MEASURED
    residual = evidence.values("03_unlearning", "residual", method=AUTHORS)
    return _share_of_time(
        share, share_removed(evidence, AUTHORS, section), f"(relative residual up to {as_text(residual.max())})"
    )


def _in_a_batch(share: Interval, removed: Interval, residual: float) -> Verdict:
    """The verdict on a solver that was timed once in every seed, on a machine that was not idle."""
    if share.seeds < 2:
        return NOTHING_MEASURED
    how = f"by this solver, without its gradient and to a relative residual of at most {as_text(residual)},"
    found = _share_of_time(share, removed, how)
    return replace(found, evidence=f"{found.evidence} Timed once, in a batch, and not on an idle machine.")


def _diverged(evidence: Evidence) -> Verdict | None:
    """The verdict where LiSSA with the authors' constants was tried and gave no step in any seed; else None."""
    rows = select(evidence.metrics, section="03_unlearning", metric="seconds", method=AUTHORS)
    if rows.empty:
        return None
    first = rows.iloc[0]
    text = (
        f"In none of {len(rows)} seeds does LiSSA with the authors' constants give a step. Seed {first['seed']}: "
        f"{first['note']}."
    )
    return Verdict("assumption violated", text, seeds=len(rows))


def c4_to_residual(solver: str, method: str) -> Callable[[Evidence], Verdict]:
    """The rule of C4b and C4c: one solver of the system that LiSSA solves. It says so if the machine was not idle.

    Args:
        solver: The solver's name in the section on efficiency.
        method: The step whose distance to the retrained model counts, where the solver has none of its own.
    """

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
        removed = share_removed(evidence, solver, section) if beside else share_removed(evidence, method)
        if (evidence.values(section, "timed_alone", method=solver) == 0).any():
            return _in_a_batch(interval(share), removed, residual.max())
        text = (
            f"The system is solved in {as_text(seconds.mean())} s to a relative residual of {as_text(residual.max())}; "
            f"retraining takes {as_text(full.mean())} s, so that this is {percent(share.max())} of it. The step "
            f"removes {percent(removed.mean)} of the distance that doing nothing leaves."
        )
        effect = "unknown: timed in one seed" if len(share) == 1 else "none: every seed must pass"
        if share.max() >= FAST:
            return Verdict("does not hold", text, effect, len(share))
        empty = not removed.low >= SMALLEST_EFFECT
        return Verdict("holds but says nothing" if empty else "holds", text, effect, len(share))

    return rule


def c4_whole(evidence: Evidence) -> Verdict:
    """C4d: the step by conjugate gradient, with H over all of D_r."""
    seconds, how = evidence.values("03_unlearning", "seconds", method=STEP), "with H over all of D_r"
    part = evidence.values("11_scale", "hessian_samples")
    if not part.dropna().empty:
        # There the step's only gradient is over D_u, so that its samples are the forgotten ones.
        gone = evidence.values("03_unlearning", "gradient_samples", method=STEP)
        missing = (evidence.values("11_scale", "train_samples") - gone) / part
        if (missing > 1).any():
            how = f"with H over all of D_r ({as_text(missing.mean())} times the time of that over {part.mean():,.0f})"
            seconds = seconds * missing
    share = interval(seconds / _retraining_time(evidence))
    if share.seeds < 2:
        return NOTHING_MEASURED
    return _share_of_time(share, share_removed(evidence), how)
