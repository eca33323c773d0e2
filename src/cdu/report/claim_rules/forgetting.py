"""Rules of C6: membership inference and relearn time, beside the retrained model's."""

import math

from cdu.report.claims import CLOSE_AUC, CLOSE_EPOCHS
from cdu.report.evidence import (
    NEVER,
    NOTHING,
    NOTHING_MEASURED,
    REFERENCE,
    RELEASED,
    Evidence,
    Verdict,
    closeness_test,
    detectable_difference,
    difference,
    gap_of,
    says_nothing,
    shadow_area,
)
from cdu.report.intervals import Interval


def _shadow_gap(evidence: Evidence, method: str) -> Interval:
    """Difference in the AUC to the retrained model with the same noise; of one seed as if both were independent."""
    own, reference = (shadow_area(evidence, one) for one in (method, REFERENCE))
    if own.seeds == 1 and reference.seeds == 1:
        return Interval(own.mean - reference.mean, math.hypot(own.half, reference.half), 1, math.inf)
    return gap_of(evidence, "04_shadows", "lira_auc", method, REFERENCE, split=NEVER)


def c6_membership(evidence: Evidence) -> Verdict:
    """C6a: both attacks do as well on the release as on the retrained model."""
    gaps = {method: [gap_of(evidence, "04_attacks", "auc", method)] for method in (RELEASED, NOTHING)}
    seeds = gaps[RELEASED][0].seeds
    if seeds < 2:
        return NOTHING_MEASURED
    text = (
        f"Population attack, AUC minus the retrained model's: {difference(gaps[RELEASED][0], 3)} ({NOTHING}: "
        f"{difference(gaps[NOTHING][0], 3)})."
    )
    if math.isnan(shadow_area(evidence, RELEASED).mean):
        text += " No shadow models were trained here."
    else:
        for method in gaps:
            gaps[method].append(_shadow_gap(evidence, method))
        text += f" {shadows(evidence)}"
    effect = detectable_difference(gaps[RELEASED], 3, "in AUC")
    return closeness_test(gaps[RELEASED], CLOSE_AUC).verdict(
        text, effect, seeds, says_nothing(gaps[NOTHING], CLOSE_AUC)
    )


def shadows(evidence: Evidence) -> str:
    """What the attack with shadow models finds in the release and in its reference, as a sentence; empty without it."""
    areas = {method: shadow_area(evidence, method) for method in (RELEASED, REFERENCE, NOTHING)}
    if math.isnan(areas[RELEASED].mean):
        return ""
    words = [f"{name} {area.mean:.3f} [{area.low:.3f}, {area.high:.3f}]" for name, area in areas.items()]
    seeds = areas[RELEASED].seeds
    count = "one seed" if seeds == 1 else f"{seeds} seeds"
    return (
        f"Shadow models ({count}), AUC: {', '.join(words)}; released minus reference "
        f"{difference(_shadow_gap(evidence, RELEASED), 3)}."
    )


def c6_relearning(evidence: Evidence) -> Verdict:
    """C6b: the release takes as many epochs to relearn the forget set as the retrained model."""
    own, idle = (gap_of(evidence, "05_relearn", "epochs", method) for method in (RELEASED, NOTHING))
    if own.seeds < 2:
        return NOTHING_MEASURED
    text = f"Relearn time minus the retrained model's: {difference(own, 1)} epochs ({NOTHING}: {difference(idle, 1)})."
    empty = says_nothing([idle], CLOSE_EPOCHS)
    return closeness_test([own], CLOSE_EPOCHS).verdict(
        text, detectable_difference([own], 1, "epochs"), own.seeds, empty
    )
