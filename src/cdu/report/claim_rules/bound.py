"""Rules of C1 and C2: the step comes close to the retrained model, and the bound covers its error."""

from cdu.report.claims import SMALLEST_EFFECT
from cdu.report.evidence import NOTHING_MEASURED, Evidence, MarginTest, Verdict, percent, share_removed
from cdu.report.intervals import LEVEL, interval
from cdu.unlearning.names import NETWORK


def _assumption_grid(evidence: Evidence) -> list[float]:
    """The λ of the grid above every seed's λ_max, ascending: there the theorem's assumption holds."""
    largest = evidence.values("01_theory", "lambda_max", method=NETWORK).max()
    return [point for point in evidence.points("01_theory", "bound", "damping", NETWORK) if point > largest]


def _of_a_part(evidence: Evidence) -> str:
    """A reservation about constants that were measured on a part of the data; empty where they were not."""
    part = evidence.values("01_theory", "spectrum_samples", method=NETWORK)
    if part.dropna().empty:
        return ""
    text = f" The constants are over {part.mean():,.0f} retained samples, and known from inside or from below alone."
    if evidence.values("01_theory", "relu", method=NETWORK).any():
        text += " A ReLU network has no finite M: its bound is a number put into the formula."
    return text


def c1_close(evidence: Evidence) -> Verdict:
    """C1a: the step removes at least the smallest effect of the distance to the retrained model."""
    removed = share_removed(evidence)
    if removed.seeds < 2:
        return NOTHING_MEASURED
    nothing, second = (
        evidence.values("03_unlearning", "distance_to_retrained", method=method)
        for method in ("original", "second retraining")
    )
    text = (
        f"The step removes {percent(removed.mean)} ± {percent(removed.half)} of the {nothing.mean():.2f} that lie "
        "between the original and the retrained model"
    )
    text += "." if second.dropna().empty else f"; a second retraining is {second.mean():.2f} away."
    test = MarginTest(removed.p_above(SMALLEST_EFFECT), removed.p_below(SMALLEST_EFFECT), [(removed, SMALLEST_EFFECT)])
    return test.verdict(text, f"a reduction by {removed.detectable:.2g} of the distance", removed.seeds, empty=False)


def c1_bound(evidence: Evidence) -> Verdict:
    """C1b: the bound covers the error at the smallest λ of the grid above λ_max."""
    grid = _assumption_grid(evidence)
    if not grid:
        return NOTHING_MEASURED
    where: dict[str, str | float] = {"method": NETWORK, "axis": "damping", "point": grid[0]}
    bound = evidence.values("01_theory", "bound", **where)
    error = evidence.values("01_theory", "distance", **where)
    if len(bound) < 2:
        return NOTHING_MEASURED
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


def c2(evidence: Evidence) -> Verdict:
    """C2: a larger λ lowers the bound and does not raise the error."""
    grid = _assumption_grid(evidence)
    if len(grid) < 2:
        return NOTHING_MEASURED
    bounds, errors = (
        [
            evidence.values("01_theory", metric, method=NETWORK, axis="damping", point=point)
            for point in (grid[0], grid[-1])
        ]
        for metric in ("bound", "distance")
    )
    change = interval(errors[1] / errors[0] - 1)
    if change.seeds < 2:
        return NOTHING_MEASURED
    trivial = evidence.values("01_theory", "trivial_bound", method=NETWORK).mean()
    text = (
        f"From λ = {grid[0]:g} to {grid[-1]:g} the bound goes from {bounds[0].mean():.3g} to {bounds[1].mean():.3g} "
        f"(2C = {trivial:g}) and the error {'rises' if change.mean > 0 else 'falls'} by {percent(abs(change.mean))} ± "
        f"{percent(change.half)} of itself."
    )
    text += _of_a_part(evidence)
    effect = f"a change of the error by {change.detectable:.2g} of it"
    if (bounds[1] >= bounds[0]).any():
        return Verdict("does not hold", text, effect, change.seeds)
    test = MarginTest(change.p_below(SMALLEST_EFFECT), change.p_above(SMALLEST_EFFECT), [(change, SMALLEST_EFFECT)])
    empty = bool((bounds[1] >= trivial).any()) or change.p_below(-SMALLEST_EFFECT) >= LEVEL
    return test.verdict(text, effect, change.seeds, empty)
