"""The results of one section on one set-up: verdicts, figure, tables and links."""

from pathlib import Path
from typing import Any

import pandas as pd

from cdu.experiments import changelog
from cdu.experiments.records import UNREACHED, Record
from cdu.experiments.repository import repository
from cdu.experiments.sections import BENCHMARKS, REVISIONS, STAND_INS
from cdu.report import evidence, theory_claims
from cdu.report.chapters import PAGES, figure, shows_verdicts, tables
from cdu.report.claims import CLAIMS, Claim
from cdu.report.collection import Results, Shown, outdated
from cdu.report.markup import LOOKS, machine_in_words, markdown_table, page_name, plain_text, seeds_in_words, svg
from cdu.report.query import select
from cdu.report.tables import plus_minus
from cdu.report.theory_page import theory_claims_of
from cdu.unlearning.names import title

#: Epochs that the paper trains for.
PAPER_EPOCHS = 50


def paper_table(frame: pd.DataFrame, dataset: str) -> pd.DataFrame | None:
    """The paper's own numbers beside ours, from ``results/paper.csv``; None where it holds none of this section's.

    The file has columns ``metric, dataset, method, split, value, source``, names and units as in our records. It is
    empty until a reader who has the paper fills it in: no cell of the paper's tables was available to us.
    """
    known = pd.read_csv(repository() / "results" / "paper.csv", keep_default_na=False)
    known = known[(known["dataset"] == dataset) & known["metric"].isin(frame["metric"])]
    rows = []
    for cell in known.itertuples():
        ours = select(frame, metric=str(cell.metric), method=str(cell.method), split=str(cell.split))["value"]
        rows.append(
            {
                "number": " ".join(filter(None, map(str, (cell.metric, cell.method, cell.split)))),
                "paper": str(cell.value),
                "here": plus_minus(ours),
                "source": str(cell.source),
            }
        )
    return pd.DataFrame(rows) if rows else None


def reasons(frame: pd.DataFrame) -> list[str]:
    """Every missing number: of what, in how many seeds, and the reason that the first of them gives."""
    absent = frame[frame["value"].isna()]
    lines = []
    unreached = absent["note"].str.startswith(UNREACHED)
    keys = [absent["method"], absent["axis"], absent["point"], unreached]
    for (method, axis, point, _), rows in absent.groupby(keys, dropna=False, sort=False):
        where = title(str(method)) + (f", {axis} = {point:g}" if axis else "")
        lines.append(
            f"**{where}** ({rows['seed'].nunique()} of {frame['seed'].nunique()} seeds): {rows['note'].iloc[0]}"
        )
    return lines


def section_fragment(
    setup: Results, name: str, files: dict[Path, bytes], book: Path, pages: dict[str, bytes]
) -> str | None:
    """The results of one section, or of one part of it, on one set-up, as Markdown.

    Args:
        setup: The set-up.
        name: The section, or ``section-part``.
        files: Receives the files beside the text: the figure and all numbers.
        book: The book's folder.
        pages: The pages of executed notebooks that exist.

    Returns:
        Verdicts, figure, tables, missing numbers and links; None where the set-up has no records of the section.
    """
    section, _, part = name.partition("-")
    shown = setup.sections.get(section)
    if shown is None:
        return None
    stem = f"{name}-{setup.experiment}-{setup.dataset}"
    frame = shown.frame
    if PAGES[name].marker and PAGES[name].marker not in set(frame["metric"]):
        return (
            f"## Results: {setup.title}\n\n{_source_line(setup, shown)}\n\nThese records were made before this check "
            f"existed: `make batch EXPERIMENT={setup.experiment}` runs it."
        )
    on_gpu = {loaded.record.seed for loaded in shown.records if loaded.record.machine.device != "cpu"}
    files[book / "_generated" / f"{stem}.svg"] = svg(figure(name)(frame))
    files[book / "_generated" / f"{stem}.csv"] = frame.to_csv(index=False).encode()
    lines = [f"## Results: {setup.title}", "", _source_line(setup, shown), ""]
    for identifier, claim in CLAIMS.items():
        verdict = setup.decided[identifier]
        if _shows(setup, name, claim, verdict):
            lines += [
                f":::{{admonition}} {identifier}: {verdict.words}",
                f":class: {LOOKS[verdict.word]}",
                "",
                claim.quoted + (f" Here: {claim.part}." if claim.part else ""),
                "",
                plain_text(verdict.evidence),
                ":::",
                "",
            ]
    lines += theory_claims_of(setup, part) if section == theory_claims.SECTION else []
    caption = _caption(name, len(shown.records))
    alternative = f"{PAGES[name].title} on {setup.title}. {caption}"
    image = [f"```{{image}} _generated/{stem}.svg", f":alt: {alternative}", ":width: 100%", "```"]
    lines += ["::::{div} chart", *image, "::::", ""]
    lines += [f"*{caption}{shortened(shown, ' Shortened: ', '.')}*", ""]
    for heading, content in tables(name, frame, on_gpu).items():
        lines += [
            f"**{heading}** ({_spread(shown)})",
            "",
            markdown_table(content),
            "",
        ]
    quoted = paper_table(frame, setup.dataset)
    if quoted is not None:
        lines += ["**The paper's numbers**", "", markdown_table(quoted), ""]
    explained = reasons(frame)
    if explained and part in {"", "bound", "peers", "table"}:
        lines += [":::{admonition} Numbers that could not be had", ":class: dropdown", ""]
        lines += [*(f"- {reason}" for reason in explained), ":::", ""]
    links = [f"{{download}}`all numbers (CSV) <_generated/{stem}.csv>`"]
    links.append(f"{{download}}`the notebook's source <../notebooks/{section}.py>`")
    for loaded in shown.records:
        page = page_name(loaded)
        if page in pages:
            links.append(f"[executed notebook, seed {loaded.record.seed}](runs/{page})")
    lines.append(" · ".join(links[:6]))
    return "\n".join(lines)


def _shows(setup: Results, name: str, claim: Claim, verdict: evidence.Verdict) -> bool:
    """Whether a verdict stands on a page: its chapter's, or that of the large network's bound if that decides it."""
    if name != "11_bound":
        return shows_verdicts(claim.chapter) == name
    alone = STAND_INS.get(claim.chapter) == ("11_bound",) and claim.chapter not in setup.sections
    return alone and verdict.word != "not yet tested"


def _spread(shown: Shown) -> str:
    """What the numbers of a table are means of, and over how many seeds."""
    seeds = seeds_in_words(len(shown.records))
    if shown.section not in BENCHMARKS:
        words = seeds if len(shown.records) == 1 else f"mean ± standard deviation over {seeds}"
        return words + shortened(shown, "; ")
    count = select(shown.frame, metric="repetitions")["value"].min()
    return f"times are medians of {count:.0f} runs where the shortest and longest stand beside, else of one; {seeds}"


def shortened(shown: Shown, before: str, after: str = "") -> str:
    """What was shortened against the paper's setting, in words between two others; empty where nothing was.

    Args:
        shown: The records.
        before: What stands before the words.
        after: What stands after them.
    """
    settings = shown.records[0].record.settings
    epochs = settings["training"]["epochs"]
    scale: dict[str, Any] = next((settings[name] for name in ("scale", "bound", "sweeps") if settings.get(name)), {})
    words = [] if epochs >= PAPER_EPOCHS else [f"{epochs} of {PAPER_EPOCHS} epochs"]
    if scale.get("hessian_samples"):
        words.append(f"Hessian on {scale['hessian_samples']:,} samples")
    if scale.get("judged"):
        words.append(f"accuracy on {scale['judged']:,} retained and test samples")
    if scale.get("recalibrated"):
        words.append(f"statistics of D_r over {scale['recalibrated']:,} samples")
    return before + ", ".join(words) + after if words else ""


def cut_in_words(setup: Results) -> str:
    """What a set-up shortened against the paper's setting, in brackets; empty where nothing was."""
    first = next(iter(setup.sections.values()))
    return shortened(setup.sections.get("11_scale", first), " (", ")")


def _source_line(setup: Results, shown: Shown) -> str:
    """Where the numbers come from: runs or committed records, seeds, machine, commit, and whether they are current."""
    parts = []
    for run, words in ((True, "this machine's runs"), (False, "committed results")):
        seeds = [str(loaded.record.seed) for loaded in shown.records if loaded.run == run]
        if seeds:
            parts.append(f"{words}, seeds {', '.join(seeds)}" if len(seeds) > 1 else f"{words}, seed {seeds[0]}")
    records = [loaded.record for loaded in shown.records]
    commits = sorted({record.commit[:10] + (" with uncommitted changes" if record.dirty else "") for record in records})
    machines = sorted({machine_in_words(record) for record in records})
    experiment = f"experiment `{setup.experiment}`"
    line = f"*Source: {'; '.join(parts)} · {experiment} · commit {', '.join(commits)} · {'; '.join(machines)}.*"
    if outdated(records[0]):
        line += f"\n\n:::{{warning}}\n{_what_changed(setup, records[0])}\n:::"
    return line


def _what_changed(setup: Results, record: Record) -> str:
    """Why a record is outdated, with what the changelog says of every later revision."""
    now = REVISIONS[record.section]
    if record.revision == now:
        return f"These records were made with other settings than `{setup.experiment}.yaml` has now."
    known = changelog.entries()
    later = {number: known.get((record.section, number)) for number in range(record.revision + 1, now + 1)}
    since = [f"Revision {number}: {entry.text}" for number, entry in later.items() if entry is not None]
    return " ".join([f"These records are of revision {record.revision} of this section's numbers.", *since])


def _caption(name: str, seeds: int) -> str:
    words = " ".join((figure(name).__doc__ or "").split())
    if name.partition("-")[0] in BENCHMARKS:
        return f"{words} Times as in the tables."
    if seeds == 1:
        return f"{words} One seed."
    return f"{words} Means over seeds; bars and bands are one standard deviation."
