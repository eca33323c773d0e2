"""Markdown of the pages: tables, badges, links and names of files."""

import re

import pandas as pd
from matplotlib.figure import Figure

from cdu.experiments.records import Record
from cdu.report import assumptions, drawing, evidence
from cdu.report.chapters import PAGES, shows_verdicts
from cdu.report.collection import Loaded
from cdu.report.tables import rounded

#: Marks a verdict that stands by its own test, but not when all tests of the set-up are taken together.
ALONE = " †"

#: The badge's class of every verdict and of every state of an assumption.
BADGES: dict[str, str] = {
    "holds": "bdg-success",
    "holds but says nothing": "bdg-warning",
    "does not hold": "bdg-danger",
    "assumption violated": "bdg-info",
    "no certificate": "bdg-danger",
    "violated": "bdg-danger",
    "unknown": "bdg-light",
    "not testable here": "bdg-dark",
    "not yet tested": "bdg-light",
}

#: The admonition's class of every verdict.
LOOKS: dict[str, str] = {
    "holds": "tip",
    "holds but says nothing": "warning",
    "does not hold": "danger",
    "assumption violated": "note",
    "no certificate": "danger",
    "not testable here": "note",
    "not yet tested": "note",
}


def markdown_table(content: pd.DataFrame) -> str:
    """A table in Markdown, its cells as they are."""
    return str(content.to_markdown(index=False, disable_numparse=True))


def seeds_in_words(count: int) -> str:
    """A number of seeds in words, such as "3 seeds"."""
    return "one seed" if count == 1 else f"{count} seeds"


def machine_in_words(record: Record) -> str:
    """The processor or GPU of a record, with the number of threads."""
    machine = record.machine
    place = machine.cpu if machine.device == "cpu" else machine.device
    return f"{place}, {machine.threads} thread{'s' if machine.threads > 1 else ''} per run"


def svg(figure: Figure) -> bytes:
    """A figure as SVG; the same numbers give the same bytes."""
    with drawing.style():
        return drawing.image(figure, format="svg", metadata={"Date": None})


def page_name(loaded: Loaded) -> str:
    """The file of the page of a run's executed notebook."""
    record = loaded.record
    return f"{record.dataset}-{record.experiment}-seed-{record.seed}-{record.section}.ipynb"


def plain_text(text: str) -> str:
    """A sentence whose powers of ten are written as in tables: 1.65e+03 as 1,650 and 3.4e-09 as 3.4·10⁻⁹."""
    return re.sub(r"\b\d(?:\.\d+)?e[+-]\d+", lambda found: rounded(float(found[0])), text)


def badge(verdict: evidence.Verdict) -> str:
    """A claim's verdict as a coloured badge."""
    return f"{{{BADGES[verdict.word]}}}`{verdict.words}`" + (ALONE if verdict.single else "")


def chapter_link(section: str) -> str:
    """A link to the page that shows a section's verdicts."""
    name = shows_verdicts(section)
    return f"[{PAGES[name].title}]({PAGES[name].file}.md)" if name in PAGES else "planned"


def state_badge(cell: assumptions.Cell) -> str:
    """The state of an assumption as a coloured badge."""
    return f"{{{BADGES[cell.state]}}}`{cell.state}`"


def p_value(verdict: evidence.Verdict) -> str:
    """The p-value of a verdict, with Holm's in brackets; a dash where no sampling is involved."""
    if verdict.p is None or verdict.adjusted is None:
        return "—"
    return f"{_probability(verdict.p)} ({_probability(verdict.adjusted)})"


def _probability(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"
