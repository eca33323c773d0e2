"""Rules of C5: accuracy beside the retrained model's."""

from collections.abc import Callable
from typing import Any

from cdu.report.claims import AUTHORS_SIGMA, CLOSE_ACCURACY
from cdu.report.evidence import (
    NOTHING,
    NOTHING_MEASURED,
    REFERENCE,
    RELEASED,
    UTILITY,
    Evidence,
    Verdict,
    closeness_test,
    counted_seeds,
    detectable_difference,
    difference,
    gap_of,
    says_nothing,
)


def c5(released: str, nothing: str, noun: str) -> Callable[[Evidence], Verdict]:
    """The rule of C5a and C5c.

    Args:
        released: The model that the claim is about.
        nothing: The model on which nothing was done: where it passes too, a pass says nothing.
        noun: What the sentence calls the former.
    """

    def rule(evidence: Evidence) -> Verdict:
        retain, test = own = [gap_of(evidence, "03_unlearning", "accuracy", released, split=s) for s in UTILITY]
        if test.seeds < 2:
            return NOTHING_MEASURED
        idle = [gap_of(evidence, "03_unlearning", "accuracy", nothing, split=split) for split in UTILITY]
        text = (
            f"{noun} minus retrained: {difference(retain, 2, 100)} points on the retained set, "
            f"{difference(test, 2, 100)} on the test set; {nothing}: {difference(idle[1], 2, 100)} on the test set."
        )
        anew, base = (
            evidence.values("03_unlearning", "recalibrated_accuracy", method=method, split="test")
            for method in (released, "retrain")
        )
        if not anew.dropna().empty:
            text += (
                f" Both with statistics taken anew: {difference(counted_seeds(anew - base), 2, 100)} on the test set."
            )
        effect = detectable_difference(own, 2, "points", 100)
        return closeness_test(own, CLOSE_ACCURACY).verdict(text, effect, test.seeds, says_nothing(idle, CLOSE_ACCURACY))

    return rule


def c5_authors(evidence: Evidence) -> Verdict:
    """C5b: with the noise of the authors' code."""
    where: dict[str, Any] = {"axis": "sigma", "point": AUTHORS_SIGMA, "split": "test"}
    # Of the same record, and so beside models that were trained on the same machine, where it is in there.
    retrained = evidence.values("06_ablations", "accuracy", method=REFERENCE, split="test, no noise")
    if retrained.dropna().empty:
        retrained = evidence.values("03_unlearning", "accuracy", method="retrain", split="test")
    own, idle = (
        counted_seeds(evidence.values("06_ablations", "accuracy", method=method, **where) - retrained)
        for method in (RELEASED, NOTHING)
    )
    if own.seeds < 2:
        return NOTHING_MEASURED
    text = (
        f"With σ = {AUTHORS_SIGMA:g}, released minus retrained: {difference(own, 2, 100)} points on the test set; "
        f"{NOTHING}: {difference(idle, 2, 100)}."
    )
    anew, base = (
        evidence.values("06_ablations", "recalibrated_accuracy", **keys)
        for keys in ({"method": RELEASED, **where}, {"method": REFERENCE, "split": "test, no noise"})
    )
    if not anew.dropna().empty:
        text += f" Both with statistics taken anew: {difference(counted_seeds(anew - base), 2, 100)}."
    empty = says_nothing([idle], CLOSE_ACCURACY)
    return closeness_test([own], CLOSE_ACCURACY).verdict(
        text, detectable_difference([own], 2, "points", 100), own.seeds, empty
    )
