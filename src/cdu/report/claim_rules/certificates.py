"""Rules of C9 and C10: the certificate, and the radius."""

from dataclasses import replace

from cdu.certification import gaussian_epsilon, trivial_bound
from cdu.report.claims import CLOSE_ACCURACY, LARGEST_EPSILON
from cdu.report.evidence import (
    NOTHING_MEASURED,
    RELEASED,
    Evidence,
    MarginTest,
    Verdict,
    Word,
    as_text,
    has_statistics,
    weights_alone,
)
from cdu.report.intervals import interval


def _certified(evidence: Evidence) -> Verdict:
    """What the σ used in practice certifies."""
    epsilon, needed, sigma, wanted = (
        evidence.values("03_unlearning", metric, method=RELEASED)
        for metric in ("epsilon", "sigma_needed", "sigma", "epsilon_wanted")
    )
    if epsilon.empty:
        return Verdict("not yet tested", "No run certifies a release yet.")
    text = (
        f"σ = {sigma.mean():g} certifies ε = {as_text(epsilon.mean())}; "
        f"ε = {wanted.mean():g} needs σ = {needed.mean():.3g}."
    )
    word: Word = "holds" if epsilon.max() <= LARGEST_EPSILON else "holds but says nothing"
    return Verdict(word, text, "none: ε follows from σ, δ and C without sampling", len(epsilon))


def c9_released(evidence: Evidence) -> Verdict:
    """C9a: the noise used in practice certifies a meaningful ε of the model as it is released."""
    found = _certified(evidence)
    if found.word == "not yet tested" or not has_statistics(evidence):
        return found
    text = weights_alone(evidence, "this release", "its") + found.evidence
    return replace(found, word="no certificate", evidence=text)


def c9_recalibrated(evidence: Evidence) -> Verdict:
    """C9b: so it does after BatchNorm's statistics were taken anew over D_r."""
    found = _certified(evidence)
    if found.word == "not yet tested" or has_statistics(evidence):
        return found
    text = "The network has no running statistics: its release is certified as it is."
    return Verdict("not testable here", text, seeds=found.seeds, reason="other set-up")


def c10(evidence: Evidence) -> Verdict:
    """C10: the smallest radius C costs test accuracy, and certifies a meaningful ε."""
    grid = evidence.points("06_ablations", "accuracy", "radius")
    if len(grid) < 2:
        return NOTHING_MEASURED
    low, high = (
        evidence.values("06_ablations", "accuracy", axis="radius", point=point, method="original", split="test")
        for point in (grid[0], grid[-1])
    )
    cost = interval(high - low)
    if cost.seeds < 2:
        return NOTHING_MEASURED
    sigma = float(evidence.values("06_ablations", "sigma").mean())
    delta = float(evidence.values("06_ablations", "delta").mean())
    epsilon = gaussian_epsilon(sigma, delta, trivial_bound(grid[0]).value)
    text = (
        f"From C = {grid[-1]:g} to {grid[0]:g} test accuracy falls by {100 * cost.mean:.2f} ± {100 * cost.half:.2f} "
        f"points; at C = {grid[0]:g}, σ = {sigma:g} certifies ε = {as_text(epsilon)}."
    )
    if has_statistics(evidence):
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
    test = MarginTest(cost.p_above(CLOSE_ACCURACY), cost.p_below(CLOSE_ACCURACY), [(cost, CLOSE_ACCURACY)])
    return test.verdict(text, effect, cost.seeds, empty=epsilon > LARGEST_EPSILON)
