"""Records → tables, figures and pages of the book. Reads records and nothing else, and imports no torch."""

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from matplotlib.figure import Figure

from cdu import figures, verdicts
from cdu.config import DEFAULT_EXPERIMENT, SECTIONS, code_hash, load_experiment, repository, section_hash
from cdu.errors import CduError
from cdu.figures import select
from cdu.records import Record, read_record

TITLES = {"digits": "digits", "mnist": "MNIST", "cifar10": "CIFAR-10", "svhn": "SVHN"}

#: Chapters of the book by section.
CHAPTERS = {
    "01_theory": ("theory", "Theory sanity checks"),
    "02_training": ("training", "Training"),
    "03_unlearning": ("unlearning", "Unlearning"),
    "04_attacks": ("attacks", "Membership inference"),
    "05_relearn": ("relearn", "Relearn time"),
    "06_ablations": ("ablations", "Ablations"),
}

BADGES: dict[str, str] = {
    "holds": "bdg-success",
    "holds but says nothing": "bdg-warning",
    "does not hold": "bdg-danger",
    "not testable here": "bdg-dark",
    "not yet tested": "bdg-light",
}

LOOKS: dict[str, str] = {
    "holds": "tip",
    "holds but says nothing": "warning",
    "does not hold": "danger",
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

    @property
    def frame(self) -> pd.DataFrame:
        """All metrics in long form, with columns ``section``, ``dataset`` and ``seed``."""
        rows = [
            {**metric.model_dump(), "seed": loaded.record.seed, "dataset": loaded.record.dataset}
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
    def consistent(self) -> bool:
        """Whether all sections were made with the same shared settings, so that verdicts may combine them."""
        blocks: dict[str, Any] = {}
        for shown in self.sections.values():
            for name, block in shown.records[0].record.settings.items():
                if blocks.setdefault(name, block) != block:
                    return False
        return True

    @property
    def metrics(self) -> pd.DataFrame:
        """All sections' metrics in long form."""
        frames = [shown.frame for shown in self.sections.values()]
        return pd.concat(frames, ignore_index=True)


def collect(root: Path) -> list[Setup]:
    """Read the records below ``runs/`` and ``results/`` and choose which to show.

    Per section those count that were made with the settings that the experiment has now; where there are none, those
    made with the settings of the latest run, or else of the latest reference. Among them a run replaces the reference
    of the same seed.
    """
    found: dict[tuple[str, str], dict[str, list[Loaded]]] = {}
    for folder, run in (("results", False), ("runs", True)):
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
    same = [loaded for loaded in candidates if loaded.record.config_hash == latest.record.config_hash]
    by_seed = {loaded.record.seed: loaded for loaded in sorted(same, key=lambda loaded: loaded.run)}
    return Shown(section, [by_seed[seed] for seed in sorted(by_seed)])


# --- tables --------------------------------------------------------------------------------------------------------


def plus_minus(values: "pd.Series[float]", factor: float = 1.0) -> str:
    """``mean ± standard deviation`` over seeds, with the digits that the deviation warrants."""
    known = values.dropna().astype(float) * factor
    if known.empty:
        return "—"
    mean = float(known.mean())
    deviation = float(known.std()) if len(known) > 1 else 0.0
    if deviation <= 1e-5 * abs(mean):
        return _number(mean)
    largest = max(abs(mean), deviation)
    if largest >= 1e6 or largest < 1e-2:
        exponent = math.floor(math.log10(largest))
        scaled = (mean / 10**exponent, deviation / 10**exponent)
        places = max(1, min(3, 1 - math.floor(math.log10(scaled[1]))))
        return f"({scaled[0]:.{places}f} ± {scaled[1]:.{places}f})·10{_superscript(exponent)}"
    places = max(0, min(6, 1 - math.floor(math.log10(deviation))))
    return f"{mean:,.{places}f} ± {deviation:,.{places}f}"


def _number(value: float) -> str:
    if value != 0 and not 1e-2 <= abs(value) < 1e6:
        exponent = math.floor(math.log10(abs(value)))
        return f"{value / 10**exponent:.2f}·10{_superscript(exponent)}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


@dataclass(frozen=True)
class Column:
    """A column of a table: which metric, and the factor to the unit in the header."""

    header: str
    metric: str
    keys: dict[str, str] = field(default_factory=dict)
    factor: float = 1.0


def table(frame: pd.DataFrame, row: str, header: str, columns: Sequence[Column]) -> pd.DataFrame:
    """One row per value of the column ``row``, in order of appearance; cells are :func:`plus_minus`."""
    wanted = frame[frame["metric"].isin([column.metric for column in columns])]
    names = list(dict.fromkeys(wanted[row].dropna()))
    seeds = frame["seed"].nunique()
    rows = []
    for name in names:
        cells: dict[str, str] = {header: name if isinstance(name, str) else f"{name:g}"}
        for column in columns:
            chosen = select(frame, metric=column.metric, **{row: name}, **column.keys)
            cells[column.header] = plus_minus(chosen["value"], column.factor) + _share(chosen, seeds)
        rows.append(cells)
    return pd.DataFrame(rows)


def _share(chosen: pd.DataFrame, seeds: int) -> str:
    """Says so when a mean is over fewer seeds than the others, and must not be compared with them."""
    known = int(chosen["value"].notna().sum())
    return f" ({known} of {seeds} seeds)" if 0 < known < seeds else ""


def _with_reduction(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the metric ``reduction``: the share of the do-nothing distance to the retrained model that is removed.

    It is formed seed by seed, since distances vary far more between seeds than a step changes them.
    """
    keys = ["seed", "axis", "point"]
    distance = select(frame, metric="distance_to_retrained")
    nothing = select(distance, method="original").set_index(keys)["value"]
    base = nothing.reindex(pd.MultiIndex.from_frame(distance[keys])).to_numpy()
    return pd.concat(
        [frame, distance.assign(metric="reduction", value=1 - distance["value"] / base)], ignore_index=True
    )


def _accuracies(*splits: str) -> list[Column]:
    titles = {"forget": "forget set (%)", "retain": "retained set (%)", "test": "test set (%)"}
    return [Column(titles[split], "accuracy", {"split": split}, 100) for split in splits]


def _axis(frame: pd.DataFrame, axis: str) -> pd.DataFrame:
    return frame[frame["axis"] == axis].sort_values("point", kind="stable")


def _theory_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    names = {
        "lambda_min": "λ_min of H",
        "lambda_max": "λ_max of H",
        "hessian_lipschitz": "M, from below, along w\\*–w̃\\*",
        "gradient_original": "‖∇L(w\\*, D)‖",
        "gradient_retrained": "G = ‖∇L(w̃\\*, D_r)‖",
        "distance_original": "‖w\\* − w̃\\*‖",
        "trivial_bound": "2C",
        "default_exceeds_lambda_max": "share of seeds whose λ_max is below the default λ",
        "step_cosine": "cosine of the two forms of the step",
        "ridge_distance": "ridge regression: relative distance before the step",
        "ridge_error": "ridge regression: relative distance after the step",
    }
    constants = pd.DataFrame(
        [
            {"quantity": text, "mean ± sd": plus_minus(select(frame, metric=name)["value"])}
            for name, text in names.items()
        ]
    )
    bound = table(
        _axis(frame, "damping"),
        "point",
        "λ",
        [Column("bound of Theorem 3.4", "bound"), Column("measured error", "distance")],
    )
    return {"Measured constants (indications, not certificates)": constants, "Bound and error": bound}


def _training_tables(shown: Shown) -> dict[str, pd.DataFrame]:
    frame = shown.frame
    on_gpu = {loaded.record.seed for loaded in shown.records if loaded.record.machine.device != "cpu"}
    marked = frame.assign(split=frame["split"].where(frame["metric"] != "images_per_second", "cpu"))
    gpu = (marked["metric"] == "images_per_second") & marked["seed"].isin(on_gpu)
    marked.loc[gpu, "split"] = "gpu"
    columns = [
        *_accuracies("forget", "retain", "test"),
        Column("last epoch's steps projected (%)", "final_projected", factor=100),
        Column("time (s)", "seconds"),
        Column("images/s, CPU", "images_per_second", {"split": "cpu"}),
        Column("images/s, GPU", "images_per_second", {"split": "gpu"}),
    ]
    result = table(marked, "method", "model", columns)
    if not on_gpu:
        result["images/s, GPU"] = "not recorded"
    return {"Models, accuracy (= micro-F1) and speed": result}


def _unlearning_tables(shown: pd.DataFrame) -> dict[str, pd.DataFrame]:
    frame = _with_reduction(figures.without_useless_noise(shown))
    quality = [
        *_accuracies("forget", "retain", "test"),
        Column("distance to retrained", "distance_to_retrained"),
        Column("closer than doing nothing by (%)", "reduction", factor=100),
        Column("distance to original", "distance_to_original"),
    ]
    cost = [
        Column("time (s)", "seconds"),
        Column("per-sample Hessian products", "hvp_samples"),
        Column("per-sample gradients", "gradient_samples"),
        Column("relative residual", "residual"),
        Column("seeds converged (%)", "converged", factor=100),
    ]
    noise = [
        Column("σ", "sigma"),
        Column("ε certified", "epsilon"),
        Column("ε, classical formula", "epsilon_classical"),
        *_accuracies("retain", "test"),
    ]
    noised = shown[shown["method"].isin(select(shown, metric="epsilon")["method"])]
    return {
        "Accuracy (= micro-F1) and distances": table(frame, "method", "model", quality),
        "Cost": table(frame, "method", "method", cost),
        "Noise and certificate (Δ = 2C)": table(noised, "method", "release", noise),
    }


def _relearn_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    result = table(frame, "method", "model", [Column("epochs, mean ± sd", "epochs"), Column("time (s)", "seconds")])
    means = [select(frame, metric="epochs", method=name)["value"].mean() for name in result["model"]]
    result["epochs, rounded mean"] = [f"{mean:.0f}" for mean in means]
    censored = [(select(frame, metric="epochs", method=name)["note"] != "").sum() for name in result["model"]]
    result["seeds censored"] = [str(count) for count in censored]
    return {"Relearn time": result}


def _ablation_tables(shown: pd.DataFrame) -> dict[str, pd.DataFrame]:
    frame = _with_reduction(shown)
    distance = [
        Column("distance to retrained, after the step", "distance_to_retrained", {"method": "newton"}),
        Column("closer than doing nothing by (%)", "reduction", {"method": "newton"}, 100),
        Column("test set, after the step (%)", "accuracy", {"method": "newton", "split": "test"}, 100),
    ]
    noise = [
        Column("ε certified", "epsilon"),
        Column("test set, after the step (%)", "accuracy", {"method": "newton + noise"}, 100),
        Column("doing nothing (%)", "accuracy", {"method": "original + noise"}, 100),
    ]
    radius = [
        *distance,
        Column("doing nothing (%)", "accuracy", {"method": "original", "split": "test"}, 100),
        Column("‖w\\*‖", "norm"),
        Column("steps projected (%)", "projected", factor=100),
    ]
    depth = [Column(f"relative residual, {name}", "residual", {"method": name}) for name in ("batch 10", "batch 128")]
    return {
        "Damping": table(_axis(frame, "damping"), "point", "λ", distance),
        "Noise": table(_axis(frame, "sigma"), "point", "σ", noise),
        "Radius": table(_axis(frame, "radius"), "point", "C", radius),
        "LiSSA's depth": table(_axis(frame, "depth"), "point", "s₂", depth),
    }


def tables(shown: Shown) -> dict[str, pd.DataFrame]:
    """The tables of a section, by title."""
    attack = [Column("AUC", "auc"), Column("accuracy", "attack_accuracy"), Column("time (s)", "seconds")]
    makers: dict[str, Callable[[], dict[str, pd.DataFrame]]] = {
        "01_theory": partial(_theory_tables, shown.frame),
        "02_training": partial(_training_tables, shown),
        "03_unlearning": partial(_unlearning_tables, shown.frame),
        "04_attacks": lambda: {"Attack on held-out rows": table(shown.frame, "method", "model", attack)},
        "05_relearn": partial(_relearn_tables, shown.frame),
        "06_ablations": partial(_ablation_tables, shown.frame),
    }
    return makers[shown.section]()


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
    for (method, axis, point), rows in absent.groupby(["method", "axis", "point"], dropna=False, sort=False):
        where = method if not axis else f"{method}, {axis} = {point:g}"
        lines.append(
            f"**{where}** ({rows['seed'].nunique()} of {frame['seed'].nunique()} seeds): {rows['note'].iloc[0]}"
        )
    return lines


# --- pages ---------------------------------------------------------------------------------------------------------


def build(book: Path) -> None:
    """Write everything that the book includes: ``_generated/`` and the executed notebooks under ``runs/``.

    Files whose content did not change are left alone, so that the book is rebuilt incrementally.

    Args:
        book: The book's folder.
    """
    setups = collect(repository())
    if not setups:
        raise CduError("there are no records under results/ or runs/; run 'make report', which makes some")
    files: dict[Path, bytes] = {}
    pages = {page: content for setup in setups for page, content in _run_pages(setup).items()}
    files |= {book / "runs" / page: content for page, content in pages.items()}
    for section in SECTIONS:
        fragments = [_section_fragment(setup, section, files, book, pages) for setup in setups]
        files[book / "_generated" / f"{section}.md"] = "\n\n".join(filter(None, fragments)).encode()
    decided = {setup.title: _decide(setup) for setup in setups}
    files[book / "_generated" / "claims-table.md"] = _claims_table(decided).encode()
    files[book / "_generated" / "claims-detail.md"] = _claims_detail(decided).encode()
    files[book / "_generated" / "worth.md"] = "\n".join(filter(None, map(_worth, setups))).encode()
    files[book / "_generated" / "provenance.md"] = _provenance(setups).encode()
    _synchronise(files, [book / "_generated", book / "runs"])


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
    setup: Setup, section: str, files: dict[Path, bytes], book: Path, pages: dict[str, bytes]
) -> str | None:
    """Verdicts, figure, tables, reasons and links of one section for one set-up."""
    shown = setup.sections.get(section)
    if shown is None:
        return None
    stem = f"{section}-{setup.experiment}-{setup.dataset}"
    frame = shown.frame
    files[book / "_generated" / f"{stem}.svg"] = _svg(figures.FIGURES[section](frame))
    files[book / "_generated" / f"{stem}.csv"] = frame.to_csv(index=False).encode()
    lines = [f"## Results: {setup.title}", "", _source_line(setup, shown), ""]
    for identifier, claim in verdicts.CLAIMS.items():
        if claim.chapter == section:
            verdict = _decide(setup)[identifier]
            lines += [
                f":::{{admonition}} {identifier}: {verdict.word}",
                f":class: {LOOKS[verdict.word]}",
                "",
                claim.text,
                "",
                verdict.evidence,
                ":::",
                "",
            ]
    image = [f"```{{image}} _generated/{stem}.svg", f":alt: {_alt(section, setup)}", ":width: 100%", "```"]
    lines += ["::::{div} chart", *image, "::::", ""]
    lines += [f"*{_caption(section)}*", ""]
    for title, content in tables(shown).items():
        lines += [
            f"**{title}** (mean ± standard deviation over {_seeds(len(shown.records))})",
            "",
            _markdown(content),
            "",
        ]
    quoted = paper_table(frame, setup.dataset)
    if quoted is not None:
        lines += ["**The paper's numbers**", "", _markdown(quoted), ""]
    explained = reasons(frame)
    if explained:
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
        line += (
            f"\n\n:::{{warning}}\nThese records were made with other settings than `{setup.experiment}.yaml` has "
            "now.\n:::"
        )
    return line


def outdated(record: Record) -> bool:
    """Whether a record was made with other settings than its experiment has now, or the experiment is gone."""
    try:
        current = load_experiment(record.experiment).settings(record.dataset)
    except CduError:
        return True
    return section_hash(current, record.dataset, record.section) != record.config_hash


def _machine(record: Record) -> str:
    machine = record.machine
    place = machine.cpu if machine.device == "cpu" else machine.device
    return f"{place}, {machine.threads} thread{'s' if machine.threads > 1 else ''} per run"


def _alt(section: str, setup: Setup) -> str:
    return f"{CHAPTERS[section][1]} on {setup.title}. {_caption(section)}"


def _caption(section: str) -> str:
    function = figures.FIGURES[section]
    return f"{(function.__doc__ or '').strip()} Means over seeds; bars and bands are one standard deviation."


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with figures.style():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


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
    metrics = setup.metrics
    if not setup.consistent:
        mixed = verdicts.Verdict(
            "not yet tested", "The sections shown were made with different settings; run them again."
        )
        return dict.fromkeys(verdicts.CLAIMS, mixed)
    return {identifier: verdicts.decide(identifier, metrics) for identifier in verdicts.CLAIMS}


def _badge(verdict: verdicts.Verdict) -> str:
    return f"{{{BADGES[verdict.word]}}}`{verdict.word}`"


def _chapter_link(section: str) -> str:
    return f"[{CHAPTERS[section][1]}]({CHAPTERS[section][0]}.md)" if section in CHAPTERS else "planned"


def _claims_table(decided: dict[str, dict[str, verdicts.Verdict]]) -> str:
    rows = []
    for identifier, claim in verdicts.CLAIMS.items():
        row = {"": f"[{identifier}](#claim-{identifier.lower()})", "The paper claims": claim.text}
        for title, found in decided.items():
            row[title] = _badge(found[identifier])
        row["chapter"] = _chapter_link(claim.chapter)
        rows.append(row)
    return _markdown(pd.DataFrame(rows))


def _claims_detail(decided: dict[str, dict[str, verdicts.Verdict]]) -> str:
    lines = []
    for identifier, claim in verdicts.CLAIMS.items():
        lines += [f"(claim-{identifier.lower()})=", f"## {identifier}", "", f"> {claim.text}", ""]
        lines += [f"**Test.** {claim.test}", "", f"**Chapter.** {_chapter_link(claim.chapter)}", ""]
        rows = []
        for title, found in decided.items():
            verdict = found[identifier]
            rows.append(
                {
                    "set-up": title,
                    "verdict": _badge(verdict),
                    "evidence": verdict.evidence,
                    "smallest effect it would find": verdict.smallest_effect or "—",
                    "seeds": str(verdict.seeds or "—"),
                }
            )
        lines += [_markdown(pd.DataFrame(rows)), ""]
    lines.append(f"Hash of the rules (`src/cdu/verdicts.py`): `{verdicts.rules_hash()}`.")
    return "\n".join(lines)


def _worth(setup: Setup) -> str | None:
    """The one-minute answer to what a certificate is worth, from the records."""
    shown = setup.sections.get("03_unlearning")
    if shown is None:
        return None
    frame = shown.frame
    first = shown.records[0].record.settings
    wanted = f"newton + noise for ε = {first['unlearning']['epsilon']:g}"

    def mean(metric: str, method: str, **keys: str) -> float:
        return float(select(frame, metric=metric, method=method, **keys)["value"].mean())

    usual = "newton + noise"
    return (
        f"- **{setup.title}**: the noise used in practice, σ = {mean('sigma', usual):g}, certifies "
        f"ε = {_number(mean('epsilon', usual))} at δ = {_number(first['unlearning']['delta'])}. A meaningful "
        f"ε = {first['unlearning']['epsilon']:g} needs σ = {mean('sigma', wanted):.1f}, and leaves a test accuracy of "
        f"{100 * mean('accuracy', wanted, split='test'):.1f} % (without noise: "
        f"{100 * mean('accuracy', 'newton', split='test'):.1f} %; guessing: about 10 %)."
    )


def _provenance(setups: list[Setup]) -> str:
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
                    "settings": records[0].config_hash + (" (not current)" if outdated(records[0]) else ""),
                    "code": ", ".join(sorted({record.code_hash for record in records}))
                    + ("" if all(record.code_hash == code_hash(section) for record in records) else " (not current)"),
                    "rules": ", ".join(sorted({record.verdicts_hash for record in records}))
                    + (
                        ""
                        if all(record.verdicts_hash == verdicts.rules_hash() for record in records)
                        else " (not current)"
                    ),
                    "machine": "; ".join(sorted({_machine(record) for record in records})),
                    "torch": ", ".join(sorted({record.packages["torch"] for record in records})),
                    "made": max(record.started for record in records)[:10],
                    "time (s), sum": f"{sum(record.duration for record in records):,.0f}",
                }
            )
    return _markdown(pd.DataFrame(rows))
