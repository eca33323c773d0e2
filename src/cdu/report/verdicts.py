"""The verdicts on all claims for one set-up."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from cdu.experiments.records import UNREACHED
from cdu.report.claim_rules.bound import c1_bound, c1_close, c2
from cdu.report.claim_rules.certificates import c9_recalibrated, c9_released, c10
from cdu.report.claim_rules.forgetting import c6_membership, c6_relearning
from cdu.report.claim_rules.requests import c7, c8
from cdu.report.claim_rules.time import c3, c4_authors, c4_to_residual, c4_whole
from cdu.report.claim_rules.utility import c5, c5_authors
from cdu.report.claims import CLAIMS, Place
from cdu.report.evidence import LISSA, NOTHING, RELEASED, STEP, Evidence, Verdict
from cdu.report.intervals import LEVEL, holm
from cdu.report.query import select


def rules_hash() -> str:
    """The first 12 hexadecimal digits of SHA-256 over claims, rules, statistics and theory claims."""
    here = Path(__file__).parent
    files = [here / f"{name}.py" for name in ("claims", "evidence", "query", "verdicts", "intervals", "theory_claims")]
    files += sorted((here / "claim_rules").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def decide(claim: str, metrics: pd.DataFrame, place: Place) -> Verdict:
    """The verdict on one claim for one set-up.

    Args:
        claim: One of :data:`cdu.report.claims.CLAIMS`.
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
        consistent: Whether all sections were made with the same shared settings, so that they may be combined.
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
    """How many verdicts of a set-up stand when all its tests are taken together, as a sentence.

    Args:
        found: The verdicts of :func:`decide_all`.
    """
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
    """The verdict on claims about the step where no seed could take the Newton step; None where one could."""
    evidence = Evidence(metrics)
    rows = select(metrics, section="03_unlearning", metric="accuracy", method=STEP)
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


_RULES: dict[str, Callable[[Evidence], Verdict]] = {
    "C1a": c1_close,
    "C1b": c1_bound,
    "C2": c2,
    "C3": c3,
    "C4a": c4_authors,
    "C4b": c4_to_residual("lissa", LISSA),
    "C4c": c4_to_residual("conjugate gradient, same residual", STEP),
    "C4d": c4_whole,
    "C5a": c5(RELEASED, NOTHING, "Released"),
    "C5b": c5_authors,
    "C5c": c5(STEP, "original", "The step"),
    "C6a": c6_membership,
    "C6b": c6_relearning,
    "C7": c7,
    "C8": c8,
    "C9a": c9_released,
    "C9b": c9_recalibrated,
    "C10": c10,
}
