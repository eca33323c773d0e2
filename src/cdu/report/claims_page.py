"""The page on the claims: a table, and every claim in detail."""

import pandas as pd

from cdu.report import evidence, verdicts
from cdu.report.claim_rules import forgetting
from cdu.report.claims import CLAIMS, Claim
from cdu.report.collection import Results
from cdu.report.markup import badge, chapter_link, markdown_table, p_value, plain_text
from cdu.report.section_results import cut_in_words


def claims_table(setups: list[Results]) -> str:
    """Claims by set-up. What was shortened stands below the table, since the head of a column has no room for it."""
    cut = {setup.title: cut_in_words(setup) for setup in setups}
    decided = {setup.title + (r"\*" if cut[setup.title] else ""): setup.decided for setup in setups}
    rows, quoted = [], ""
    for identifier, claim in CLAIMS.items():
        words = [claim.quoted if claim.quoted != quoted else "", f"*{claim.part}*" if claim.part else ""]
        quoted = claim.quoted
        row = {
            "": f"[{identifier}](#claim-{identifier.lower()})",
            "The paper claims": " ".join(filter(None, [*words, f"({chapter_link(claim.chapter)})"])),
        }
        for title, found in decided.items():
            row[title] = badge(found[identifier])
        rows.append(row)
    lines = [markdown_table(pd.DataFrame(rows))]
    shortened = "; ".join(f"*{title}*{words}" for title, words in cut.items() if words)
    lines += [f"\\* shortened: {shortened}."] if shortened else []
    if any(verdict.single for found in decided.values() for verdict in found.values()):
        lines.append("† not once [all tests of a set-up are taken together](#all-tests-together).")
    return "\n\n".join(lines)


def _rule(claim: Claim) -> list[str]:
    """How a claim is decided: set-up, test, smallest effect, yardstick, and the reason for the threshold."""
    parts = {
        "Set-up": claim.setting,
        "Test": claim.test,
        "Smallest effect that matters": claim.smallest_effect,
        "Yardstick": claim.yardstick,
        "Why this threshold": claim.why,
        "Chapter": chapter_link(claim.chapter),
    }
    return [f"- **{name}.** {text}" for name, text in parts.items()]


def claims_detail(setups: list[Results]) -> str:
    """Every claim in detail: quotation, rule, and verdicts with their evidence."""
    decided = {setup.title + cut_in_words(setup): setup.decided for setup in setups}
    lines = []
    for identifier, claim in CLAIMS.items():
        title = f"{identifier}: {claim.part}" if claim.part else identifier
        lines += [f"(claim-{identifier.lower()})=", f"## {title}", "", f"> {claim.quoted}", "", *_rule(claim), ""]
        rows = []
        for title, found in decided.items():
            verdict = found[identifier]
            rows.append(
                {
                    "set-up": title,
                    "verdict": badge(verdict),
                    "evidence": plain_text(verdict.evidence),
                    "smallest effect it would find": plain_text(verdict.smallest_effect) or "—",
                    "seeds": str(verdict.seeds or "—"),
                    "p (Holm's)": p_value(verdict),
                }
            )
        lines += [markdown_table(pd.DataFrame(rows)), ""]
    lines.append(
        "Hash of the rules (`src/cdu/report/claims.py`, `src/cdu/report/claim_rules/` and what they need): "
        f"`{verdicts.rules_hash()}`."
    )
    return "\n".join(lines)


def family_in_words(setups: list[Results]) -> str:
    """How many verdicts of each set-up stand when all its tests are taken together (Holm's correction)."""
    return "\n".join(f"- **{setup.title}**: {verdicts.together(setup.decided)}" for setup in setups)


def shadowed_in_words(setup: Results) -> str | None:
    """What the attack with shadow models finds in the release and in its reference; None where there are none."""
    words = forgetting.shadows(evidence.Evidence(setup.metrics))
    return f"- **{setup.title}**. {words}" if words else None
