"""Records → tables, figures and pages of the book. Reads records and nothing else, and imports no torch."""

import hashlib
import json
import math
import multiprocessing
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from matplotlib.figure import Figure

from cdu import changelog, figures, ledger, reproduced, statements, verdicts
from cdu.claims import CLAIMS, Claim, Place
from cdu.config import (
    BENCHMARKS,
    DEFAULT_EXPERIMENT,
    REVISIONS,
    SECTIONS,
    DatasetSettings,
    load_experiment,
    repository,
    section_hash,
)
from cdu.errors import CduError
from cdu.figures import of_seeds, select
from cdu.intervals import Interval, interval
from cdu.kinds import PLANTED
from cdu.records import UNREACHED, Record, read_record
from cdu.reproduced import Reproduction
from cdu.tables import equal_pairs, number, plus_minus, tables

TITLES = {"digits": "digits", "mnist": "MNIST", "cifar10": "CIFAR-10", "svhn": "SVHN"}

#: Page and title of the book's chapters, by section or ``section-part``.
CHAPTERS = {
    "01_theory": ("theory", "Theory sanity checks"),
    "01_theory-noise": ("theory-noise", "Noise"),
    "01_theory-newton": ("theory-newton", "The Newton step"),
    "01_theory-bound": ("theory-bound", "Theorem 3.4"),
    "01_theory-lissa": ("theory-lissa", "LiSSA"),
    "01_theory-requests": ("theory-requests", "Early stopping and requests"),
    "01_theory-control": ("theory-control", "The control experiment"),
    "02_training": ("training", "Training"),
    "03_unlearning": ("unlearning", "Unlearning"),
    "03_methods": ("methods", "All methods"),
    "03_methods-table": ("methods-table", "Table 1"),
    "03_methods-compute": ("methods-compute", "The compute axis"),
    "03_methods-tuning": ("methods-tuning", "Choice of hyper-parameters"),
    "04_attacks": ("attacks", "Membership inference"),
    "04_shadows": ("attacks-shadows", "Shadow models"),
    "05_relearn": ("relearn", "Relearn time"),
    "06_ablations": ("ablations", "Ablations"),
    "06_ablations-noise": ("ablations-noise", "Utility against ε"),
    "06_ablations-setup": ("ablations-setup", "Other deletions, other training"),
    "06_ablations-lissa": ("ablations-lissa", "LiSSA's constants"),
    "07_sequential": ("sequential", "Requests and early stopping"),
    "08_efficiency": ("efficiency", "Efficiency"),
    "08_efficiency-peers": ("efficiency-peers", "Against other programs"),
    "08_efficiency-solvers": ("efficiency-solvers", "Time to an error"),
    "08_efficiency-scaling": ("efficiency-scaling", "Scaling"),
    "08_efficiency-retraining": ("efficiency-retraining", "Unlearning against retraining"),
    "09_official_code": ("official-code", "Paper and code"),
    "10_audit": ("audit", "Audit"),
    "10_audit-power": ("audit-power", "The power of an audit"),
    "11_scale": ("scale", "BatchNorm and large networks"),
    "11_bound": ("scale-bound", "The bound on a large network"),
    "11_sweeps": ("scale-sweeps", "Radius, requests, early stopping and small noise"),
}

#: Sections that are too expensive for large networks, and those that have numbers of theirs under the same names. They
#: stand for them where they were not run; of a number that several have, the first one's counts.
STAND_INS = {
    "01_theory": ("11_bound",),
    "03_unlearning": ("11_scale", "11_bound"),
    "04_attacks": ("11_scale",),
    "05_relearn": ("11_scale",),
    "06_ablations": ("11_sweeps",),
    "07_sequential": ("11_sweeps",),
    "08_efficiency": ("11_bound",),
}

#: What tells a number from the others of a section's records.
_KEYS = ["seed", "metric", "method", "split", "axis", "point"]

#: The paper's set-ups: why one without records has none, and what runs it.
PAPER_SETUPS = {
    "mnist": ("not run yet", "make batch EXPERIMENT=mnist"),
    "cifar10": ("not run yet: a GPU is needed for the paper's 50 epochs", "make paper"),
    "svhn": ("its files were not at hand where these results were made, and a GPU is needed", "make paper"),
}

#: Folders of records, and whether they hold runs of this machine.
FOLDERS = {"results": False, "runs": True}

#: Epochs that the paper trains for.
PAPER_EPOCHS = 50

#: Where a claim's verdict is shown, if not on its chapter's own page.
SHOWN_ON = {"01_theory": "01_theory-bound", "08_efficiency": "08_efficiency-solvers"}

#: A metric that every record of a part has; an older record without it cannot be shown there.
MARKERS = {
    "01_theory-noise": "crossover",
    "01_theory-newton": "step_error",
    "01_theory-bound": "known_lipschitz",
    "01_theory-lissa": "lissa_truncation",
    "01_theory-requests": "certified_distance",
    "01_theory-control": "measured_distance",
    "04_attacks": "attack_auc",
    "06_ablations-setup": "trivial_bound",
    "10_audit-power": "detected",
}

#: Marks a verdict that stands for its test alone, and not once all tests of the set-up are taken together.
ALONE = " †"

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

LOOKS: dict[str, str] = {
    "holds": "tip",
    "holds but says nothing": "warning",
    "does not hold": "danger",
    "assumption violated": "note",
    "no certificate": "danger",
    "not testable here": "note",
    "not yet tested": "note",
}


# --- records -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """A record, where it was read, and whether it is a run of this machine or a committed reference."""

    record: Record
    path: Path
    run: bool

    @property
    def notebook(self) -> Path:
        """The executed notebook beside the record; it need not exist."""
        return self.path.with_suffix(".ipynb")


@dataclass(frozen=True)
class Shown:
    """The records shown for one section of one set-up, one per seed, all made with the same settings."""

    section: str
    records: list[Loaded]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All metrics in long form, with columns ``section``, ``dataset`` and ``seed``; made once, never changed."""
        rows = [
            # A metric is flat, and there are a hundred thousand: its own dictionary is all that a dump would give.
            {**metric.__dict__, "seed": loaded.record.seed, "dataset": loaded.record.dataset}
            for loaded in self.records
            for metric in loaded.record.metrics
        ]
        return pd.DataFrame(rows).assign(section=self.section)


@dataclass(frozen=True)
class Setup:
    """One dataset of one experiment, with the records shown for each section."""

    experiment: str
    dataset: str
    sections: dict[str, Shown] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The dataset's name, with the experiment's where it is not the one made for that dataset."""
        usual = DEFAULT_EXPERIMENT[self.dataset] == self.experiment
        return TITLES[self.dataset] + ("" if usual else f" ({self.experiment})")

    @property
    def seeds(self) -> int:
        """The largest number of seeds of a section that decides claims."""
        deciding = {*(name for names in STAND_INS.values() for name in names), *STAND_INS}
        deciding |= {claim.chapter for claim in CLAIMS.values()}
        return max((len(shown.records) for name, shown in self.sections.items() if name in deciding), default=0)

    @property
    def consistent(self) -> bool:
        """Whether all sections were made with the same shared settings, so that verdicts may combine them."""
        blocks: dict[str, Any] = {}
        for shown in self.sections.values():
            for name, block in shown.records[0].record.settings.items():
                if blocks.setdefault(name, block) != block:
                    return False
        return True

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """All sections' metrics in long form, with those that stand for a section that was not run."""
        frames = [shown.frame for shown in self.sections.values()]
        for name, others in STAND_INS.items():
            standing = [self.sections[other].frame for other in others if other in self.sections]
            if standing and name not in self.sections:
                frames.append(pd.concat(standing).drop_duplicates(_KEYS).assign(section=name))
        return pd.concat(frames, ignore_index=True)

    @property
    def place(self) -> Place:
        """The dataset and the network."""
        return Place(self.dataset, _network(next(iter(self.sections.values())).records[0].record.settings["model"]))

    @cached_property
    def decided(self) -> dict[str, verdicts.Verdict]:
        """The verdict on every claim."""
        return verdicts.decide_all(self.metrics, self.place, self.consistent)


def collect(root: Path, folders: Mapping[str, bool] = FOLDERS) -> list[Setup]:
    """Read the records below ``runs/`` and ``results/`` and choose which to show.

    Per section those count that were made with the settings that the experiment has now; where there are none, those
    made with the settings of the latest run, or else of the latest reference. Among them a run replaces the reference
    of the same seed.

    Args:
        root: Where the folders lie.
        folders: Folders of records, and whether they hold runs of this machine.
    """
    # Since the last collection an experiment may have been changed.
    _current_settings.cache_clear()
    found: dict[tuple[str, str], dict[str, list[Loaded]]] = {}
    for folder, run in folders.items():
        for path in sorted((root / folder).glob("*/*/seed-*/*.json")):
            record = read_record(path)
            sections = found.setdefault((record.experiment, record.dataset), {})
            sections.setdefault(record.section, []).append(Loaded(record, path, run))
    order = list(TITLES)
    setups = [
        Setup(experiment, dataset, {name: _choose(name, sections[name]) for name in SECTIONS if name in sections})
        for (experiment, dataset), sections in found.items()
    ]
    return sorted(setups, key=lambda setup: (setup.dataset == "digits", order.index(setup.dataset), setup.experiment))


def _choose(section: str, candidates: list[Loaded]) -> Shown:
    latest = max(candidates, key=lambda one: (not outdated(one.record), one.run, one.record.started))
    kind = (latest.record.config_hash, latest.record.revision)
    same = [loaded for loaded in candidates if (loaded.record.config_hash, loaded.record.revision) == kind]
    by_seed = {loaded.record.seed: loaded for loaded in sorted(same, key=lambda loaded: loaded.run)}
    return Shown(section, [by_seed[seed] for seed in sorted(by_seed)])


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
    """For every number that could not be had: what, in how many seeds, and the reason of one of them."""
    absent = frame[frame["value"].isna()]
    lines = []
    unreached = absent["note"].str.startswith(UNREACHED)
    keys = [absent["method"], absent["axis"], absent["point"], unreached]
    for (method, axis, point, _), rows in absent.groupby(keys, dropna=False, sort=False):
        where = method if not axis else f"{method}, {axis} = {point:g}"
        lines.append(
            f"**{where}** ({rows['seed'].nunique()} of {frame['seed'].nunique()} seeds): {rows['note'].iloc[0]}"
        )
    return lines


# --- pages ---------------------------------------------------------------------------------------------------------


def build(book: Path) -> None:
    """Write everything that the book includes: ``_generated/`` and the executed notebooks under ``runs/``.

    Files whose content did not change are left alone, so that the book is rebuilt incrementally. Where nothing that
    the files are made from changed since they were written, and neither did they, nothing is made again.

    Args:
        book: The book's folder.
    """
    inputs = _inputs()
    folders = [book / "_generated", book / "runs"]
    if _up_to_date(book, inputs, folders):
        return
    setups = collect(repository())
    if not setups:
        raise CduError("there are no records under results/ or runs/; run 'make report', which makes some")
    files: dict[Path, bytes] = {}
    pages = {page: content for setup in setups for page, content in _run_pages(setup).items()}
    files |= {book / "runs" / page: content for page, content in pages.items()}
    made = iter(_fragments(setups, book, pages))
    for name in figures.FIGURES:
        fragments = []
        for _ in setups:
            fragment, drawn = next(made)
            fragments.append(fragment)
            files |= drawn
        files[book / "_generated" / f"{name}.md"] = "\n\n".join(filter(None, fragments)).encode()
    files[book / "_generated" / "statements.md"] = _statements_table(setups).encode()
    ledgers = _ledgers(setups)
    files[book / "_generated" / "ledger.md"] = "\n".join(ledgers).encode()
    files[book / "_generated" / "ledger-first.md"] = "".join(ledgers[:1]).encode()
    files[book / "_generated" / "control.md"] = "\n".join(filter(None, map(_control, setups))).encode()
    # A column of claims that one seed cannot decide tells nobody anything, unless there is no other.
    judged = [setup for setup in setups if setup.seeds > 1] or setups
    files[book / "_generated" / "claims-table.md"] = _claims_table(judged).encode()
    files[book / "_generated" / "claims-detail.md"] = _claims_detail(judged).encode()
    files[book / "_generated" / "claims-together.md"] = _family(judged).encode()
    files[book / "_generated" / "shadowed.md"] = "\n".join(filter(None, map(_shadowed, setups))).encode()
    files[book / "_generated" / "worth.md"] = "\n".join(filter(None, map(_worth, judged))).encode()
    files[book / "_generated" / "compute.md"] = "\n".join(filter(None, map(_compute, setups))).encode()
    files[book / "_generated" / "compute-beside.md"] = "\n".join(filter(None, map(_beside_starts, setups))).encode()
    files[book / "_generated" / "audited.md"] = "\n".join(filter(None, map(_audited, setups))).encode()
    files[book / "_generated" / "setups.md"] = _setups(setups).encode()
    files[book / "_generated" / "absent.md"] = _absent(setups).encode()
    known = reproduced.read(repository() / "results")
    files[book / "_generated" / "provenance.md"] = _provenance(setups, known).encode()
    files[book / "_generated" / "platforms.md"] = _platforms(known).encode()
    outputs = {str(path.relative_to(book)): _digest(content) for path, content in files.items()}
    files[book / _MADE_FROM] = json.dumps({"inputs": inputs, "outputs": outputs}, indent=1).encode()
    _synchronise(files, folders)


#: What the generated files were made from, and what they were when they were written.
_MADE_FROM = Path("_generated") / "made-from.json"

#: Packages whose versions can change a generated file.
_DRAWING = ("matplotlib", "nbformat", "numpy", "pandas", "scipy", "tabulate")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _inputs() -> str:
    """Hash of all that the generated files depend on: records, executed notebooks, settings, this package, versions.

    Contents count and not times, which a checkout sets anew.
    """
    root, package = repository(), Path(__file__).parent
    found = [root / "results" / name for name in ("paper.csv", reproduced.FILE)]
    for folder in ("results", "runs"):
        for ending in ("json", "ipynb"):
            found += (root / folder).glob(f"*/*/seed-*/*.{ending}")
    for folder, pattern in (("experiments", "*.yaml"), ("notebooks", "*.py"), ("benchmarks", "*.py")):
        found += (root / folder).glob(pattern)
    parts = [f"{path.relative_to(root)} {_digest(path.read_bytes())}" for path in sorted(found) if path.is_file()]
    parts += [f"{path.relative_to(package)} {_digest(path.read_bytes())}" for path in sorted(package.rglob("*.py"))]
    parts += [platform.python_version(), *(f"{name} {version(name)}" for name in _DRAWING)]
    return _digest("\n".join(parts).encode())


def _up_to_date(book: Path, inputs: str, folders: Iterable[Path]) -> bool:
    """Whether the generated files are what these inputs make; if so, files that are not among them are deleted."""
    try:
        known = json.loads((book / _MADE_FROM).read_bytes())
        if known["inputs"] != inputs:
            return False
        contents = {book / name: (book / name).read_bytes() for name in known["outputs"]}
    except (OSError, ValueError, KeyError, TypeError):
        # Never written, or not whole: making all again is always right.
        return False
    if any(_digest(content) != known["outputs"][str(path.relative_to(book))] for path, content in contents.items()):
        return False
    _synchronise(contents | {book / _MADE_FROM: (book / _MADE_FROM).read_bytes()}, folders)
    return True


#: What the processes that draw share with the one that forked them: pickling it would cost more than it saves.
_SHARED: list[tuple[Setup, str, Path, dict[str, bytes]]] = []


def _fragments(setups: list[Setup], book: Path, pages: dict[str, bytes]) -> list[tuple[str | None, dict[Path, bytes]]]:
    """Every section of every set-up with its files, by section, drawn on all cores where processes can be forked."""
    for setup in setups:
        # Once, before the processes divide.
        _ = setup.decided
    _SHARED[:] = [(setup, name, book, pages) for name in figures.FIGURES for setup in setups]
    try:
        # Elsewhere a process that has used the system's libraries cannot be forked safely.
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
        if cores == 1:
            return [_fragment(number) for number in range(len(_SHARED))]
        with multiprocessing.get_context("fork").Pool(cores) as pool:
            return pool.map(_fragment, range(len(_SHARED)), chunksize=1)
    finally:
        _SHARED.clear()


def _fragment(number: int) -> tuple[str | None, dict[Path, bytes]]:
    """One of the shared pieces of work: the text of a section of a set-up, and the files beside it."""
    setup, name, book, pages = _SHARED[number]
    files: dict[Path, bytes] = {}
    return _section_fragment(setup, name, files, book, pages), files


def _synchronise(files: dict[Path, bytes], folders: Iterable[Path]) -> None:
    """Make ``folders`` hold exactly ``files``, touching only what differs."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in {path for path in folder.rglob("*") if path.is_file()} - set(files):
            stale.unlink()
    for path, content in files.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def _markdown(content: pd.DataFrame) -> str:
    return str(content.to_markdown(index=False, disable_numparse=True))


def _section_fragment(
    setup: Setup, name: str, files: dict[Path, bytes], book: Path, pages: dict[str, bytes]
) -> str | None:
    """Verdicts, figure, tables, reasons and links of one section, or one part of it, for one set-up."""
    section, _, part = name.partition("-")
    shown = setup.sections.get(section)
    if shown is None:
        return None
    stem = f"{name}-{setup.experiment}-{setup.dataset}"
    frame = shown.frame
    if name in MARKERS and MARKERS[name] not in set(frame["metric"]):
        return (
            f"## Results: {setup.title}\n\n{_source_line(setup, shown)}\n\nThese records were made before this check "
            f"existed: `make batch EXPERIMENT={setup.experiment}` runs it."
        )
    on_gpu = {loaded.record.seed for loaded in shown.records if loaded.record.machine.device != "cpu"}
    files[book / "_generated" / f"{stem}.svg"] = _svg(figures.FIGURES[name](frame))
    files[book / "_generated" / f"{stem}.csv"] = frame.to_csv(index=False).encode()
    lines = [f"## Results: {setup.title}", "", _source_line(setup, shown), ""]
    for identifier, claim in CLAIMS.items():
        verdict = _decide(setup)[identifier]
        if _shows(setup, name, claim, verdict):
            lines += [
                f":::{{admonition}} {identifier}: {verdict.words}",
                f":class: {LOOKS[verdict.word]}",
                "",
                claim.quoted + (f" Here: {claim.part}." if claim.part else ""),
                "",
                _plain(verdict.evidence),
                ":::",
                "",
            ]
    lines += _statements(setup, part) if section == statements.SECTION else []
    caption = _caption(name, len(shown.records))
    alternative = f"{CHAPTERS[name][1]} on {setup.title}. {caption}"
    image = [f"```{{image}} _generated/{stem}.svg", f":alt: {alternative}", ":width: 100%", "```"]
    lines += ["::::{div} chart", *image, "::::", ""]
    lines += [f"*{caption}{_shortened(shown, ' Shortened: ', '.')}*", ""]
    for title, content in tables(name, frame, on_gpu).items():
        lines += [
            f"**{title}** ({_spread(shown)})",
            "",
            _markdown(content),
            "",
        ]
    quoted = paper_table(frame, setup.dataset)
    if quoted is not None:
        lines += ["**The paper's numbers**", "", _markdown(quoted), ""]
    explained = reasons(frame)
    if explained and part in {"", "bound", "peers", "table"}:
        lines += [":::{admonition} Numbers that could not be had", ":class: dropdown", ""]
        lines += [*(f"- {reason}" for reason in explained), ":::", ""]
    links = [f"{{download}}`all numbers (CSV) <_generated/{stem}.csv>`"]
    links.append(f"{{download}}`the notebook's source <../notebooks/{section}.py>`")
    for loaded in shown.records:
        page = _page_name(loaded)
        if page in pages:
            links.append(f"[executed notebook, seed {loaded.record.seed}](runs/{page})")
    lines.append(" · ".join(links[:6]))
    return "\n".join(lines)


def _shows(setup: Setup, name: str, claim: Claim, verdict: verdicts.Verdict) -> bool:
    """Whether a verdict stands on a part's page: on its chapter's, or where the bound on a large network decides it."""
    if name != "11_bound":
        return SHOWN_ON.get(claim.chapter, claim.chapter) == name
    alone = STAND_INS.get(claim.chapter) == ("11_bound",) and claim.chapter not in setup.sections
    return alone and verdict.word != "not yet tested"


def _spread(shown: Shown) -> str:
    """What the numbers of a table are, and over how many seeds."""
    seeds = _seeds(len(shown.records))
    if shown.section not in BENCHMARKS:
        words = seeds if len(shown.records) == 1 else f"mean ± standard deviation over {seeds}"
        return words + _shortened(shown, "; ")
    count = select(shown.frame, metric="repetitions")["value"].min()
    return f"times are medians of {count:.0f} runs where the shortest and longest stand beside, else of one; {seeds}"


def _shortened(shown: Shown, before: str, after: str = "") -> str:
    """What of the paper's setting was cut, for every figure and table made from it; empty where nothing was."""
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


def _cut(setup: Setup) -> str:
    """What of the paper's setting a set-up cut, in brackets; empty where nothing was."""
    first = next(iter(setup.sections.values()))
    return _shortened(setup.sections.get("11_scale", first), " (", ")")


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _source_line(setup: Setup, shown: Shown) -> str:
    """Where the numbers come from: run or reference, seeds, machine, commit, and whether settings are current."""
    parts = []
    for run, words in ((True, "this machine's runs"), (False, "committed reference results")):
        seeds = [str(loaded.record.seed) for loaded in shown.records if loaded.run == run]
        if seeds:
            parts.append(f"{words}, seeds {', '.join(seeds)}" if len(seeds) > 1 else f"{words}, seed {seeds[0]}")
    records = [loaded.record for loaded in shown.records]
    commits = sorted({record.commit[:10] + (" with uncommitted changes" if record.dirty else "") for record in records})
    machines = sorted({_machine(record) for record in records})
    experiment = f"experiment `{setup.experiment}`"
    line = f"*Source: {'; '.join(parts)} · {experiment} · commit {', '.join(commits)} · {'; '.join(machines)}.*"
    if outdated(records[0]):
        line += f"\n\n:::{{warning}}\n{_what_changed(setup, records[0])}\n:::"
    return line


def _what_changed(setup: Setup, record: Record) -> str:
    """Why a record is outdated, with what its changelog says of every later revision."""
    now = REVISIONS[record.section]
    if record.revision == now:
        return f"These records were made with other settings than `{setup.experiment}.yaml` has now."
    known = changelog.entries()
    later = {number: known.get((record.section, number)) for number in range(record.revision + 1, now + 1)}
    since = [f"Revision {number}: {entry.text}" for number, entry in later.items() if entry is not None]
    return " ".join([f"These records are of revision {record.revision} of this section's numbers.", *since])


def outdated(record: Record) -> bool:
    """Whether a record is of an earlier revision or of other settings than its experiment has now, or that is gone."""
    current = _current_settings(record.experiment, record.dataset)
    if current is None:
        return True
    settings = section_hash(current, record.dataset, record.section)
    return (record.config_hash, record.revision) != (settings, REVISIONS[record.section])


@cache
def _current_settings(experiment: str, dataset: str) -> DatasetSettings | None:
    """An experiment's settings as they are now; None where it is gone. Kept, since every record is asked about."""
    try:
        return load_experiment(experiment).settings(dataset)
    except CduError:
        return None


def _machine(record: Record) -> str:
    machine = record.machine
    place = machine.cpu if machine.device == "cpu" else machine.device
    return f"{place}, {machine.threads} thread{'s' if machine.threads > 1 else ''} per run"


def _caption(name: str, seeds: int) -> str:
    words = " ".join((figures.FIGURES[name].__doc__ or "").split())
    if name.partition("-")[0] in BENCHMARKS:
        return f"{words} Times as in the tables."
    if seeds == 1:
        return f"{words} One seed."
    return f"{words} Means over seeds; bars and bands are one standard deviation."


def _svg(figure: Figure) -> bytes:
    with figures.style():
        return figures.image(figure, format="svg", metadata={"Date": None})


def _page_name(loaded: Loaded) -> str:
    record = loaded.record
    return f"{record.dataset}-{record.experiment}-seed-{record.seed}-{record.section}.ipynb"


def _run_pages(setup: Setup) -> dict[str, bytes]:
    """Executed notebooks as pages, their titles telling dataset, seed and source."""
    pages = {}
    for shown in setup.sections.values():
        for loaded in shown.records:
            if not loaded.notebook.exists():
                continue
            content: Any = nbformat.read(loaded.notebook, as_version=4)
            record = loaded.record
            origin = "run" if loaded.run else "reference"
            for cell in content.cells:
                if cell.cell_type == "markdown":
                    first, *rest = cell.source.split("\n")
                    title = f"{first}: {TITLES[record.dataset]}, seed {record.seed} ({origin})"
                    cell.source = "\n".join([title, *rest])
                    break
            pages[_page_name(loaded)] = nbformat.writes(content).encode()
    return pages


# --- claims --------------------------------------------------------------------------------------------------------


def _decide(setup: Setup) -> dict[str, verdicts.Verdict]:
    return setup.decided


def _plain(text: str) -> str:
    """A sentence whose powers of ten are written as in tables: 1.65e+03 as 1,650 and 3.4e-09 as 3.4·10⁻⁹."""
    return re.sub(r"\b\d(?:\.\d+)?e[+-]\d+", lambda found: number(float(found[0])), text)


def _badge(verdict: verdicts.Verdict) -> str:
    return f"{{{BADGES[verdict.word]}}}`{verdict.words}`" + (ALONE if verdict.single else "")


def _chapter_link(section: str) -> str:
    name = SHOWN_ON.get(section, section)
    return f"[{CHAPTERS[name][1]}]({CHAPTERS[name][0]}.md)" if name in CHAPTERS else "planned"


# --- statements and assumptions ------------------------------------------------------------------------------------


def _statements(setup: Setup, part: str) -> list[str]:
    """The table of the statements that one part of the theory chapter checks, for one set-up."""
    rows = []
    for identifier, statement in statements.STATEMENTS.items():
        if statement.part != part:
            continue
        verdict = statements.decide(identifier, setup.metrics)
        rows.append(
            {
                "": identifier,
                "statement": statement.text,
                "check and tolerance": statement.check,
                "verdict": _badge(verdict),
                "evidence": _plain(verdict.evidence),
                "seeds": str(verdict.seeds or "—"),
            }
        )
    return ["::::{div} statements", _markdown(pd.DataFrame(rows)), "::::", ""] if rows else []


def _statements_table(setups: list[Setup]) -> str:
    """Every statement with its verdict per set-up."""
    with_theory = [setup for setup in setups if statements.SECTION in setup.sections]
    rows = []
    for identifier, statement in statements.STATEMENTS.items():
        row = {"": identifier, "statement": statement.text}
        for setup in with_theory:
            row[setup.title] = _badge(statements.decide(identifier, setup.metrics))
        row["shown in"] = _chapter_link(f"{statements.SECTION}-{statement.part}")
        rows.append(row)
    return _markdown(pd.DataFrame(rows))


def _ledgers(setups: list[Setup]) -> list[str]:
    """The assumption ledger of every set-up whose network is an MLP; convolutional networks get their own columns."""
    others = dict(_network_column(setups, *named) for named in (("allcnn", "AllCNN"), ("resnet18", "ResNet-18")))
    found = []
    for setup in setups:
        shown = setup.sections.get(statements.SECTION)
        if shown is None or setup.dataset in {"cifar10", "svhn"}:
            continue
        columns = ledger.ledger(setup.metrics, others)
        rows = [
            {"assumption": text} | {name: f"{_state(cells[row])} {cells[row].text}" for name, cells in columns.items()}
            for row, text in enumerate(ledger.ASSUMPTIONS)
        ]
        content = _markdown(pd.DataFrame(rows)).replace("w̃*", "w̃\\*")
        lines = [f"**{setup.title}** ({_seeds(len(shown.records))})", "", "::::{div} ledger", content, "::::", ""]
        found.append("\n".join(lines))
    return found


def _network_column(setups: list[Setup], name: str, label: str) -> tuple[str, pd.DataFrame]:
    """Title and metrics of the set-up with a convolutional network at full width, the experiment ``paper`` first."""
    models = [next(iter(setup.sections.values())).records[0].record.settings["model"] for setup in setups]
    with_it = [
        setup for setup, model in zip(setups, models, strict=True) if (model["name"], model["width"]) == (name, 1)
    ]
    if not with_it:
        return label, pd.DataFrame(columns=["section", "metric", "method", "split", "axis", "value"])
    first = min(with_it, key=lambda setup: setup.experiment != "paper")
    return f"{label} ({TITLES[first.dataset]})", first.metrics


def _state(cell: ledger.Cell) -> str:
    return f"{{{BADGES[cell.state]}}}`{cell.state}`"


def _control(setup: Setup) -> str | None:
    """What a certificate costs in the control experiment: its smaller l2, a random forget set, two Newton steps."""
    if statements.SECTION not in setup.sections:
        return None
    rows = select(setup.metrics, section=statements.SECTION, axis="steps", point=2.0)
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


def _claims_table(setups: list[Setup]) -> str:
    """Claims by set-up; what was cut stands below, since a column's head has no room for it."""
    cut = {setup.title: _cut(setup) for setup in setups}
    decided = {setup.title + (r"\*" if cut[setup.title] else ""): _decide(setup) for setup in setups}
    rows, quoted = [], ""
    for identifier, claim in CLAIMS.items():
        words = [claim.quoted if claim.quoted != quoted else "", f"*{claim.part}*" if claim.part else ""]
        quoted = claim.quoted
        row = {
            "": f"[{identifier}](#claim-{identifier.lower()})",
            "The paper claims": " ".join(filter(None, [*words, f"({_chapter_link(claim.chapter)})"])),
        }
        for title, found in decided.items():
            row[title] = _badge(found[identifier])
        rows.append(row)
    lines = [_markdown(pd.DataFrame(rows))]
    shortened = "; ".join(f"*{title}*{words}" for title, words in cut.items() if words)
    lines += [f"\\* shortened: {shortened}."] if shortened else []
    if any(verdict.single for found in decided.values() for verdict in found.values()):
        lines.append("† not once [all tests of a set-up are taken together](#all-tests-together).")
    return "\n\n".join(lines)


def _rule(claim: Claim) -> list[str]:
    """What is tested, against what, and why so."""
    parts = {
        "Set-up": claim.setting,
        "Test": claim.test,
        "Smallest effect that matters": claim.smallest_effect,
        "Yardstick": claim.yardstick,
        "Why this threshold": claim.why,
        "Chapter": _chapter_link(claim.chapter),
    }
    return [f"- **{name}.** {text}" for name, text in parts.items()]


def _p(verdict: verdicts.Verdict) -> str:
    """The p-value of a verdict, and Holm's."""
    if verdict.p is None or verdict.adjusted is None:
        return "—"
    return f"{_probability(verdict.p)} ({_probability(verdict.adjusted)})"


def _probability(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def _claims_detail(setups: list[Setup]) -> str:
    decided = {setup.title + _cut(setup): _decide(setup) for setup in setups}
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
                    "verdict": _badge(verdict),
                    "evidence": _plain(verdict.evidence),
                    "smallest effect it would find": _plain(verdict.smallest_effect) or "—",
                    "seeds": str(verdict.seeds or "—"),
                    "p (Holm's)": _p(verdict),
                }
            )
        lines += [_markdown(pd.DataFrame(rows)), ""]
    lines.append(
        f"Hash of the rules (`src/cdu/claims.py`, `src/cdu/verdicts.py` and what they need): `{verdicts.rules_hash()}`."
    )
    return "\n".join(lines)


def _family(setups: list[Setup]) -> str:
    """What is left of each set-up's words when all its tests are taken together."""
    return "\n".join(f"- **{setup.title}**: {verdicts.together(_decide(setup))}" for setup in setups)


def _shadowed(setup: Setup) -> str | None:
    """What the attack by shadow models finds in the release and in its reference."""
    words = verdicts.shadows(verdicts.Evidence(setup.metrics))
    return f"- **{setup.title}**. {words}" if words else None


def _worth(setup: Setup) -> str | None:
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
        f"- **{setup.title}**{_cut(setup)}: the noise used in practice, σ = {mean('sigma', usual):g}, certifies "
        f"ε = {number(mean('epsilon', usual))} at δ = {number(delta)}. A meaningful ε = {epsilon:g} needs "
        f"σ = {mean('sigma', wanted):.1f}. Test accuracy{brackets}: without noise {test(released)}; with the "
        f"noise used in practice {test(usual)}; with that of ε = {epsilon:g} {test(wanted)}; guessing about 10 %."
    )
    if undefined:
        words += f" All on the original: [the Newton step is undefined]({CHAPTERS['11_scale'][0]}.md) at the usual λ."
    return words + _one_point(setup)


def _one_point(setup: Setup) -> str:
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


def _compute(setup: Setup) -> str | None:
    """What training after the noise makes of a certified network, beside the same training from scratch."""
    shown = setup.sections.get("03_methods")
    if shown is None:
        return None
    rows = select(shown.frame, metric="later_accuracy")
    wanted, last = figures.epsilons(rows)[0], rows["point"].max()

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
    noisy = select(rows, split=f"test, ε = {figures.epsilons(rows)[0]:g}")

    def by_seed(part: pd.DataFrame, method: str, epochs: float) -> "pd.Series[float]":
        return select(part, method=method, point=epochs).set_index("seed")["value"]

    alone = select(rows, split="test, no noise")
    found: dict[tuple[str, str], dict[float, pd.Series[float]]] = {}
    for method in map(str, dict.fromkeys(noisy["method"])):
        later = [float(k) for k in select(noisy, method=method)["point"].unique() if k > 0]
        # Linear models are not trained after the noise.
        for start in STARTS if later else ():
            found[method, start] = {k: by_seed(noisy, method, k) - by_seed(alone, start, k) for k in later}
    return found


def _beside_starts(setup: Setup) -> str | None:
    """:func:`beside_starts` as a table."""
    shown = setup.sections.get("03_methods")
    if shown is None:
        return None
    rows = []
    for (method, start), differences in beside_starts(shown.frame).items():
        cells = {f"k = {k:g}": _points(interval(values)) for k, values in differences.items()}
        seeds = max(int(values.notna().sum()) for values in differences.values())
        rows.append({"release": method, "minus": start, **cells, "seeds": str(seeds)})
    return f"**{setup.title}**\n\n{_markdown(pd.DataFrame(rows))}\n"


def _points(gap: Interval) -> str:
    """A difference in points of accuracy; seeds that agree to the last sample, or one seed, tell no interval."""
    half = 100 * gap.half
    return f"{100 * gap.mean:+.2f}" + (f" ± {half:.2f}" if 1e-9 < half < math.inf else "")


def _audited(setup: Setup) -> str | None:
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
    right = caught.index.get_level_values("method").str.endswith(figures.PLANTED_RIGHT)
    which = dict.fromkeys(caught[~right & (caught > 0)].index.get_level_values("method").map(str))
    named = f" ({', '.join(method.removeprefix(PLANTED) for method in which)})" if which else ""
    found = (
        f"the largest lower bound is ε ≥ {number(float(counted))} from counts and ε ≥ {number(float(gaussian))} by "
        "Gaussian differential privacy"
        if max(counted, gaussian) > 0
        else "no lower bound is above ε = 0"
    )
    return (
        f"- **{setup.title}**: {len(words)} audits of certificates by {words['method'].nunique()} methods "
        f"({alike} of them of a release that equals its reference, both retrained), {words['value'].sum():.0f} "
        f"contradicted; {found}, where {number(float(certified))} is certified. "
        f"Of {(~right).sum()} planted errors, each too little noise, caught: {caught[~right].sum():.0f}{named}; of "
        f"{right.sum()} with the right noise: {caught[right].sum():.0f}."
    )


def _setups(setups: list[Setup]) -> str:
    """Every set-up with its network, sizes, machine, speed and cost; then those of the paper that have no records."""
    # Side by side: there are more quantities than set-ups.
    columns = pd.DataFrame({setup.title: _setup_column(setup) for setup in setups})
    return _markdown(columns.reset_index(names="set-up")) + "\n\n" + _absent(setups)


def _setup_column(setup: Setup) -> dict[str, str]:
    """One set-up: what was trained on what, what was cut, where, how fast, for how long."""
    trained = setup.sections.get("02_training")
    shown = trained or next(iter(setup.sections.values()))
    settings = shown.records[0].record.settings
    everything = [loaded.record for one in setup.sections.values() for loaded in one.records]
    speed = {
        "training a model (s)": ("seconds", 1.0),
        "images/s": ("images_per_second", 1.0),
        "share of the matrix rate (%)": ("matrix_share", 100.0),
    }
    originals = select(shown.frame, method="original")
    counts = [len(one.records) for one in setup.sections.values()]
    return {
        "network": _network(settings["model"]),
        "forgotten": _forgotten(settings["forget"]),
        "epochs": str(settings["training"]["epochs"]),
        "C": f"{settings['training']['radius']:g}",
        "shortened": _shortened(setup.sections.get("11_scale", shown), "") or "no",
        "seeds": f"{min(counts)} to {max(counts)}, by section" if min(counts) < max(counts) else str(counts[0]),
        "machine": "; ".join(sorted({_machine(record) for record in everything})),
        "arithmetic": "; ".join(sorted({record.machine.arithmetic or "float32" for record in everything})),
        **{
            text: plus_minus(select(originals, metric=metric)["value"], factor) if trained else "—"
            for text, (metric, factor) in speed.items()
        },
        "all notebooks (h)": number(sum(record.duration for record in everything) / 3600),
    }


def _network(model: dict[str, Any]) -> str:
    """A network in words."""
    if model["name"] == "mlp":
        return f"MLP, hidden layers of {' and '.join(map(str, model['hidden']))}, {model['activation']}"
    names = {"allcnn": "AllCNN", "resnet18": "ResNet-18, pre-activation", "logistic": "logistic regression"}
    width = "" if model["width"] == 1 else f", width × {model['width']:g}"
    return names[model["name"]] + width


def _forgotten(forget: dict[str, Any]) -> str:
    """Which samples are forgotten, in words."""
    return f"{forget['size']:,}, {forget['kind']}" if forget["size"] else str(forget["kind"])


def _absent(setups: list[Setup]) -> str:
    """The paper's set-ups that have no records, why, and the one command that makes them."""
    present = {setup.dataset for setup in setups}
    lines = [
        f"- **{TITLES[name]}**: {reason}. `cdu data fetch {name} && {command}` fills its rows."
        for name, (reason, command) in PAPER_SETUPS.items()
        if name not in present
    ]
    return "\n".join(lines)


def _revision(record: Record) -> str:
    """The revision of a record's numbers, and today's where that is another."""
    now = REVISIONS[record.section]
    return str(record.revision) + ("" if record.revision == now else f" (now {now})")


def _reproduced(records: list[Record], known: list[Reproduction]) -> str:
    """Where the records of a section were last computed again, and how exactly."""
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


def _platforms(known: list[Reproduction]) -> str:
    """What comes out differently on other processors, by experiment, platform and section."""
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
                    "largest relative move": number(max(run.largest_move for run in runs)),
                }
            )
        said = "; ".join(one.changed) or "no verdict changed its word"
        changes.append(f"- {one.experiment} on {one.platform}, commit {one.commit[:10]}: {said}.")
    if not rows:
        return "Nothing was computed again since the records were made."
    return _markdown(pd.DataFrame(rows)) + "\n\n" + "\n".join(changes)


def _provenance(setups: list[Setup], known: list[Reproduction]) -> str:
    rows = []
    for setup in setups:
        for section, shown in setup.sections.items():
            records = [loaded.record for loaded in shown.records]
            rows.append(
                {
                    "set-up": setup.title,
                    "section": section,
                    "seeds": f"{len(records)}",
                    "source": ", ".join(sorted({"run" if loaded.run else "reference" for loaded in shown.records})),
                    "commit": ", ".join(sorted({record.commit[:10] for record in records})),
                    "settings": records[0].config_hash + (" (other than now)" if outdated(records[0]) else ""),
                    "revision": ", ".join(sorted({_revision(record) for record in records})),
                    "machine": "; ".join(sorted({_machine(record) for record in records})),
                    "last reproduced": _reproduced(records, known),
                    "torch": ", ".join(sorted({record.packages["torch"] for record in records})),
                    "made": max(record.started for record in records)[:10],
                    "time (s), sum": f"{sum(record.duration for record in records):,.0f}",
                }
            )
    return _markdown(pd.DataFrame(rows))
