"""The page on the theory: theory claims, assumptions, and the control experiment."""

import pandas as pd

from cdu.data.registry import dataset_named
from cdu.report import assumptions, theory_claims
from cdu.report.collection import Results
from cdu.report.markup import badge, chapter_link, markdown_table, plain_text, seeds_in_words, state_badge
from cdu.report.query import select
from cdu.report.tables import plus_minus


def theory_claims_of(setup: Results, part: str) -> list[str]:
    """The table of the theory claims that one part of the theory chapter checks, for one set-up."""
    rows = []
    for identifier, claim in theory_claims.THEORY_CLAIMS.items():
        if claim.part != part:
            continue
        verdict = theory_claims.decide(identifier, setup.metrics)
        rows.append(
            {
                "": identifier,
                "statement": claim.text,
                "check and tolerance": claim.check,
                "verdict": badge(verdict),
                "evidence": plain_text(verdict.evidence),
                "seeds": str(verdict.seeds or "—"),
            }
        )
    return ["::::{div} statements", markdown_table(pd.DataFrame(rows)), "::::", ""] if rows else []


def theory_claims_table(setups: list[Results]) -> str:
    """Every theory claim with its verdict on each set-up."""
    with_theory = [setup for setup in setups if theory_claims.SECTION in setup.sections]
    rows = []
    for identifier, claim in theory_claims.THEORY_CLAIMS.items():
        row = {"": identifier, "statement": claim.text}
        for setup in with_theory:
            row[setup.title] = badge(theory_claims.decide(identifier, setup.metrics))
        row["shown in"] = chapter_link(f"{theory_claims.SECTION}-{claim.part}")
        rows.append(row)
    return markdown_table(pd.DataFrame(rows))


def ledger_tables(setups: list[Results]) -> list[str]:
    """The assumption ledger of every set-up whose network is an MLP; convolutional networks get their own columns."""
    convolutional = {"allcnn": "AllCNN", "resnet18": "ResNet-18"}
    others = dict(_network_column(setups, *named) for named in convolutional.items())
    found = []
    for setup in setups:
        shown = setup.sections.get(theory_claims.SECTION)
        if shown is None or shown.records[0].record.settings["model"]["name"] in convolutional:
            continue
        columns = assumptions.ledger(setup.metrics, others)
        rows = [
            {"assumption": text}
            | {name: f"{state_badge(cells[row])} {cells[row].text}" for name, cells in columns.items()}
            for row, text in enumerate(assumptions.ASSUMPTIONS)
        ]
        content = markdown_table(pd.DataFrame(rows)).replace("w̃*", "w̃\\*")
        lines = [
            f"**{setup.title}** ({seeds_in_words(len(shown.records))})",
            "",
            "::::{div} ledger",
            content,
            "::::",
            "",
        ]
        found.append("\n".join(lines))
    return found


def _network_column(setups: list[Results], name: str, label: str) -> tuple[str, pd.DataFrame]:
    """Title and metrics of the set-up with a convolutional network at full width, the experiment ``paper`` first."""
    models = [next(iter(setup.sections.values())).records[0].record.settings["model"] for setup in setups]
    with_it = [
        setup for setup, model in zip(setups, models, strict=True) if (model["name"], model["width"]) == (name, 1)
    ]
    if not with_it:
        return label, pd.DataFrame(columns=["section", "metric", "method", "split", "axis", "value"])
    first = min(with_it, key=lambda setup: setup.experiment != "paper")
    return f"{label} ({dataset_named(first.dataset).title})", first.metrics


def control_table(setup: Results) -> str | None:
    """What a certificate costs in the control experiment, at its smaller l2 values after two Newton steps."""
    if theory_claims.SECTION not in setup.sections:
        return None
    rows = select(setup.metrics, section=theory_claims.SECTION, axis="steps", point=2.0)
    names = [str(name) for name in dict.fromkeys(rows["method"]) if str(name).endswith(", random")]
    smallest = sorted(names, key=lambda name: float(name.split("l2 = ")[1].split(",")[0]))[: len(names) // 2]
    lines = []
    for name in smallest:
        chosen = select(rows, method=name)
        noiseless, noisy = (
            plus_minus(select(chosen, metric="accuracy", split=split)["value"], 100)
            for split in ("test", "test, ε = 1")
        )
        features = name.removesuffix(", random")
        retrained, one_class = (
            100 * select(rows, metric="fallback", method=f"{features}, {kind}")["value"].mean()
            for kind in ("random", "one class")
        )
        lines.append(
            f"- **{setup.title}**, {features}: test accuracy {noiseless} % without noise, {noisy} % with the noise of "
            f"ε = 1. Of the requests to delete random samples {retrained:.0f} % had to be answered by retraining, of "
            f"those to delete samples of one class {one_class:.0f} %."
            + (
                " Since all of the former were, this is retraining's accuracy, not a step's."
                if retrained == 100
                else ""
            )
        )
    return "\n".join(lines)
