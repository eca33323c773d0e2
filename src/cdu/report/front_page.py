"""The front page: what a certificate is worth, what methods cost, and what audits find."""

import math

import pandas as pd

from cdu.evaluation.settings import PLANTED
from cdu.report import verdicts
from cdu.report.chapters import PAGES, audit, methods
from cdu.report.chapters.audit import equal_pairs
from cdu.report.collection import Results
from cdu.report.intervals import Interval, interval
from cdu.report.markup import markdown_table
from cdu.report.query import by_seed, select
from cdu.report.section_results import cut_in_words
from cdu.report.tables import of_seeds, plus_minus, rounded
from cdu.unlearning.names import title


def worth_table(setup: Results) -> str | None:
    """The one-minute answer to what a certificate is worth, from the records."""
    shown = setup.sections.get("03_unlearning") or setup.sections.get("11_scale")
    if shown is None:
        return None
    frame = shown.frame
    first = shown.records[0].record.settings
    epsilon, delta = first["unlearning"]["epsilon"], first["unlearning"]["delta"]
    # Where the Newton step is undefined the original stands in: the certificate is the same.
    undefined = verdicts.undefined_step(setup.metrics) is not None
    released = "original" if undefined else "newton"

    def mean(metric: str, method: str) -> float:
        return float(select(frame, metric=metric, method=method)["value"].mean())

    def test(method: str) -> str:
        rows = select(frame, method=method, split="test")
        anew = select(rows, metric="recalibrated_accuracy")["value"]
        remedy = "" if anew.empty else f" ({100 * anew.mean():.1f} %)"
        return f"{100 * select(rows, metric='accuracy')['value'].mean():.1f} %{remedy}"

    brackets = " (with BatchNorm's statistics taken anew)" if "recalibrated_accuracy" in set(frame["metric"]) else ""
    usual, wanted = f"{released} + noise", f"{released} + noise for ε = {epsilon:g}"
    words = (
        f"- **{setup.title}**{cut_in_words(setup)}: the noise used in practice, σ = {mean('sigma', usual):g}, "
        f"certifies ε = {rounded(mean('epsilon', usual))} at δ = {rounded(delta)}. A meaningful ε = {epsilon:g} needs "
        f"σ = {mean('sigma', wanted):.1f}. Test accuracy{brackets}: without noise {test(released)}; with the "
        f"noise used in practice {test(usual)}; with that of ε = {epsilon:g} {test(wanted)}; guessing about 10 %."
    )
    if undefined:
        words += f" All on the original: [the Newton step is undefined]({PAGES['11_scale'].file}.md) at the usual λ."
    return words + _one_point(setup)


def _one_point(setup: Results) -> str:
    """Which ε one point of accuracy buys, as a sentence; empty where no sweep over σ says so."""
    shown = setup.sections.get("06_ablations")
    if shown is None:
        return ""
    sigma, epsilon = (
        select(shown.frame, metric=metric, method="newton + noise")["value"].dropna()
        for metric in ("sigma_one_point", "epsilon_one_point")
    )
    if epsilon.empty:
        return ""
    return (
        f" One point of accuracy is lost at σ = {plus_minus(sigma)}, which certifies ε = {plus_minus(epsilon)} "
        "([utility against ε](ablations-noise.md))."
    )


def compute_table(setup: Results) -> str | None:
    """What training after the noise makes of a certified network, beside the same training from scratch."""
    shown = setup.sections.get("03_methods")
    if shown is None:
        return None
    rows = select(shown.frame, metric="later_accuracy")
    wanted, last = methods.epsilons(rows)[0], rows["point"].max()

    def after(method: str, split: str) -> str:
        values = select(rows, method=method, split=split, point=last)["value"]
        return f"{plus_minus(values, 100)} %{of_seeds(values, rows['seed'].nunique())}"

    noisy = f"test, ε = {wanted:g}"
    return (
        f"- **{setup.title}**, {last:g} epochs on the retained set: {after('output perturbation', noisy)} after the "
        f"noise of ε = {wanted:g} on the original, {after('Newton step', noisy)} after the same noise on the Newton "
        f"step, {after('from scratch', 'test, no noise')} from scratch, whose ε is 0."
    )


#: What the releases of networks are compared with after training on the retained set.
STARTS = ("from noise", "from scratch")


def beside_starts(frame: pd.DataFrame) -> dict[tuple[str, str], dict[float, "pd.Series[float]"]]:
    """What a certified network has beyond the same training without it, after the noise of the smallest ε.

    Returns:
        Differences in test accuracy by seed: by method and start, then by the epochs on the retained set.
    """
    rows = select(frame, metric="later_accuracy")
    noisy = select(rows, split=f"test, ε = {methods.epsilons(rows)[0]:g}")
    alone = select(rows, split="test, no noise")
    found: dict[tuple[str, str], dict[float, pd.Series[float]]] = {}
    for method in map(str, dict.fromkeys(noisy["method"])):
        own = select(noisy, method=method)
        later = [float(k) for k in own["point"].unique() if k > 0]
        # Linear models are not trained after the noise.
        for start in STARTS if later else ():
            found[method, start] = {k: by_seed(own, point=k) - by_seed(alone, method=start, point=k) for k in later}
    return found


def starts_table(setup: Results) -> str | None:
    """:func:`beside_starts` as a table."""
    shown = setup.sections.get("03_methods")
    if shown is None:
        return None
    rows = []
    for (method, start), differences in beside_starts(shown.frame).items():
        cells = {f"k = {k:g}": _points(interval(values)) for k, values in differences.items()}
        seeds = max(int(values.notna().sum()) for values in differences.values())
        rows.append({"release": title(method), "minus": start, **cells, "seeds": str(seeds)})
    return f"**{setup.title}**\n\n{markdown_table(pd.DataFrame(rows))}\n"


def _points(gap: Interval) -> str:
    """A difference in points of accuracy; seeds that agree to the last sample, or one seed, tell no interval."""
    half = 100 * gap.half
    return f"{100 * gap.mean:+.2f}" + (f" ± {half:.2f}" if 1e-9 < half < math.inf else "")


def audited_table(setup: Results) -> str | None:
    """How many audits contradict a certificate, and which planted errors were caught."""
    shown = setup.sections.get("10_audit")
    if shown is None:
        return None
    frame = shown.frame
    planted = frame["method"].str.startswith(PLANTED)
    own, tried = frame[~planted], select(frame[planted], metric="contradicted")
    words = select(own, metric="contradicted")
    counted, gaussian = (select(own, metric=metric)["value"].max() for metric in ("audit_epsilon", "audit_gaussian"))
    certified = select(own, metric="certified_epsilon")["value"].max()
    equal = equal_pairs(own)
    alike = sum((one.method, str(one.split).partition(", ")[0]) in equal for one in words.itertuples())
    caught = tried.groupby(["method", "seed"])["value"].max()
    right = caught.index.get_level_values("method").str.endswith(audit.PLANTED_RIGHT)
    which = dict.fromkeys(caught[~right & (caught > 0)].index.get_level_values("method").map(str))
    named = f" ({', '.join(method.removeprefix(PLANTED) for method in which)})" if which else ""
    found = (
        f"the largest lower bound is ε ≥ {rounded(float(counted))} from counts and ε ≥ {rounded(float(gaussian))} by "
        "Gaussian differential privacy"
        if max(counted, gaussian) > 0
        else "no lower bound is above ε = 0"
    )
    return (
        f"- **{setup.title}**: {len(words)} audits of certificates by {words['method'].nunique()} methods "
        f"({alike} of them of a release that equals its reference, both retrained), {words['value'].sum():.0f} "
        f"contradicted; {found}, where {rounded(float(certified))} is certified. "
        f"Of {(~right).sum()} planted errors, each too little noise, caught: {caught[~right].sum():.0f}{named}; of "
        f"{right.sum()} with the right noise: {caught[right].sum():.0f}."
    )
