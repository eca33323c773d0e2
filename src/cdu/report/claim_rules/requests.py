"""Rules of C7 and C8: many requests, and training that was stopped early."""

from typing import Any

import pandas as pd

from cdu.report.claims import CLOSE_ACCURACY, LARGEST_EPSILON
from cdu.report.evidence import (
    NOTHING,
    NOTHING_MEASURED,
    RELEASED,
    UTILITY,
    Evidence,
    Verdict,
    as_text,
    closeness_test,
    detectable_difference,
    difference,
    gap_of,
    has_statistics,
    says_nothing,
    weights_alone,
)


def c7(evidence: Evidence) -> Verdict:
    """C7: after several requests the composed ε is meaningful, and utility is that of the retrained model."""
    requests = evidence.points("07_sequential", "accuracy", "request", RELEASED)
    if not requests:
        return NOTHING_MEASURED
    last = requests[-1]
    where: dict[str, Any] = {"axis": "request", "point": last}
    own, idle = (
        [gap_of(evidence, "07_sequential", "accuracy", method, split=split, **where) for split in UTILITY]
        for method in (RELEASED, NOTHING)
    )
    retain, test = own
    if test.seeds < 2:
        return NOTHING_MEASURED
    jointly, alone = (
        evidence.values("07_sequential", "epsilon", method=method, axis="releases", point=last)
        for method in ("together", "each alone")
    )
    nothing = idle[1]
    text = weights_alone(evidence, "these releases", "their") + (
        f"{last:g} releases together certify ε = {as_text(jointly.mean())}, each alone {as_text(alone.mean())}. After "
        f"the last, released minus retrained: {difference(retain, 2, 100)} points on the "
        f"retained set, {difference(test, 2, 100)} on the test set; the original with the same "
        f"noise: {difference(nothing, 2, 100)} on the test set."
    )
    effect = detectable_difference(own, 2, "points", 100)
    if jointly.max() > LARGEST_EPSILON:
        return Verdict("does not hold", text, effect, test.seeds)
    if has_statistics(evidence):
        # The ε is then about the weights alone, and there is no guarantee to be kept.
        return Verdict("no certificate", text, effect, test.seeds)
    # Doing nothing has the same certificate: what tells the two apart is accuracy alone.
    return closeness_test(own, CLOSE_ACCURACY).verdict(text, effect, test.seeds, says_nothing(idle, CLOSE_ACCURACY))


def c8(evidence: Evidence) -> Verdict:
    """C8: the bound with the measured G covers the error at every number of epochs."""
    section = "07_sequential"
    epochs = evidence.points(section, "bound", "epochs", "newton")
    if not epochs:
        return NOTHING_MEASURED
    found = {
        metric: pd.DataFrame(
            {point: evidence.values(section, metric, method="newton", axis="epochs", point=point) for point in epochs}
        )
        for metric in ("bound", "distance_to_retrained")
    }
    bound, error = found["bound"], found["distance_to_retrained"]
    if len(bound) < 2:
        return NOTHING_MEASURED
    trivial = float(evidence.values(section, "trivial_bound").mean())
    missing = int((bound.isna() | error.isna()).sum().sum())
    text = (
        f"From {epochs[0]:g} to {epochs[-1]:g} epochs the largest error is {as_text(error.max().max())} and the bound "
        f"at least {as_text(bound.min().min())} and at most {as_text(bound.max().max())}, against 2C = {trivial:g}."
    )
    if not evidence.values(section, "hessian_samples").dropna().empty:
        text += (
            " The step has the gradient over D_u, and the theorem is about the one over D_r: the two agree where "
            "∇L(w*, D) = 0."
        )
    if has_statistics(evidence):
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
