"""The page on provenance: which commit, machine and revision every record is from."""

import pandas as pd

from cdu.data.registry import known_datasets
from cdu.experiments import reproduced
from cdu.experiments.records import Record
from cdu.experiments.reproduced import Reproduction
from cdu.experiments.sections import REVISIONS
from cdu.report.collection import Results, outdated
from cdu.report.markup import machine_in_words, markdown_table
from cdu.report.tables import rounded


def _revision(record: Record) -> str:
    """The revision of a record's numbers, and the code's where that is another."""
    now = REVISIONS[record.section]
    return str(record.revision) + ("" if record.revision == now else f" (now {now})")


def _reproduced(records: list[Record], known: list[Reproduction]) -> str:
    """On which platform the records of a section were last computed again, and how many numbers were equal."""
    latest: dict[str, list[reproduced.Run]] = {}
    for record in records:
        runs = [
            (one, run)
            for one in known
            for run in one.runs
            if (one.experiment, run.dataset, run.seed, run.section, run.config_hash, run.revision)
            == (
                *(record.experiment, record.dataset, record.seed, record.section),
                *(record.config_hash, record.revision),
            )
        ]
        if runs:
            one, run = runs[-1]
            latest.setdefault(f"{one.commit[:10]}, {one.platform}", []).append(run)
    words = []
    for place, found in latest.items():
        total, equal = sum(run.numbers for run in found), sum(run.equal for run in found)
        exactly = "to the bit" if total == equal else f"{equal:,} of {total:,} numbers to the bit"
        seeds = f"{len(found)} of {len(records)} seeds, " if len(found) < len(records) else ""
        words.append(f"{place}: {seeds}{exactly}")
    return "; ".join(words) or "—"


def platforms_table(known: list[Reproduction]) -> str:
    """How far numbers move on other processors, by experiment, platform and section, and which verdicts change."""
    rows, changes = [], []
    for one in known:
        for section in dict.fromkeys(run.section for run in one.runs):
            runs = [run for run in one.runs if run.section == section]
            total, equal = sum(run.numbers for run in runs), sum(run.equal for run in runs)
            rows.append(
                {
                    "experiment": one.experiment,
                    "on": one.platform,
                    "section": section,
                    "seeds": str(len(runs)),
                    "numbers": f"{total:,}",
                    "equal to the bit (%)": f"{100 * equal / total:.1f}",
                    "largest relative move": rounded(max(run.largest_move for run in runs)),
                }
            )
        said = "; ".join(one.changed) or "no verdict changed its word"
        changes.append(f"- {one.experiment} on {one.platform}, commit {one.commit[:10]}: {said}.")
    if not rows:
        return "Nothing was computed again since the records were made."
    return markdown_table(pd.DataFrame(rows)) + "\n\n" + "\n".join(changes)


def provenance_tables(setups: list[Results], known: list[Reproduction]) -> str:
    """Every section of every set-up with the source, commit, revision and machine of its records."""
    rows = []
    for setup in setups:
        for section, shown in setup.sections.items():
            records = [loaded.record for loaded in shown.records]
            rows.append(
                {
                    "set-up": setup.title,
                    "section": section,
                    "seeds": f"{len(records)}",
                    "source": ", ".join(sorted({"run" if loaded.run else "committed" for loaded in shown.records})),
                    "commit": ", ".join(sorted({record.commit[:10] for record in records})),
                    "settings": records[0].config_hash + (" (other than now)" if outdated(records[0]) else ""),
                    "revision": ", ".join(sorted({_revision(record) for record in records})),
                    "machine": "; ".join(sorted({machine_in_words(record) for record in records})),
                    "last reproduced": _reproduced(records, known),
                    "torch": ", ".join(sorted({record.packages["torch"] for record in records})),
                    "made": max(record.started for record in records)[:10],
                    "time (s), sum": f"{sum(record.duration for record in records):,.0f}",
                }
            )
    return markdown_table(pd.DataFrame(rows))


def datasets_table() -> str:
    """Every dataset, what it holds and where it comes from."""
    rows = [{"name": name, "what": one.holds, "source": one.source} for name, one in known_datasets().items()]
    return markdown_table(pd.DataFrame(rows))
