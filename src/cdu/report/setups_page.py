"""The page on the set-ups."""

from typing import Any

import pandas as pd

from cdu.data.registry import DatasetSpec, known_datasets
from cdu.experiments import paper
from cdu.report.collection import Results, network_in_words
from cdu.report.markup import machine_in_words, markdown_table
from cdu.report.query import select
from cdu.report.section_results import shortened
from cdu.report.tables import plus_minus, rounded


def setups_table(setups: list[Results]) -> str:
    """All set-ups, one a column; below, those of the paper that have no records."""
    # Side by side: there are more quantities than set-ups.
    columns = pd.DataFrame({setup.title: _setup_column(setup) for setup in setups})
    return markdown_table(columns.reset_index(names="set-up")) + "\n\n" + absent_setups(setups)


def _setup_column(setup: Results) -> dict[str, str]:
    """One set-up: network, forget set and training, what was shortened, machine, speed and hours."""
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
        "network": network_in_words(settings["model"]),
        "forgotten": _forgotten(settings["forget"]),
        "epochs": str(settings["training"]["epochs"]),
        "C": f"{settings['training']['radius']:g}",
        "shortened": shortened(setup.sections.get("11_scale", shown), "") or "no",
        "seeds": f"{min(counts)} to {max(counts)}, by section" if min(counts) < max(counts) else str(counts[0]),
        "machine": "; ".join(sorted({machine_in_words(record) for record in everything})),
        "arithmetic": "; ".join(sorted({record.machine.arithmetic or "float32" for record in everything})),
        **{
            text: plus_minus(select(originals, metric=metric)["value"], factor) if trained else "—"
            for text, (metric, factor) in speed.items()
        },
        "all notebooks (h)": rounded(sum(record.duration for record in everything) / 3600),
    }


def _forgotten(forget: dict[str, Any]) -> str:
    """Which samples are forgotten, in words."""
    return f"{forget['size']:,}, {forget['kind']}" if forget["size"] else str(forget["kind"])


def absent_setups(setups: list[Results]) -> str:
    """The paper's set-ups that have no records, with the reason and the command that makes them."""
    present = {setup.dataset for setup in setups}
    lines = [
        f"- **{dataset.title}**: {dataset.not_run}. `cdu data fetch {name} && {_command(dataset)}` fills its rows."
        for name, dataset in known_datasets().items()
        if dataset.in_the_paper and name not in present
    ]
    return "\n".join(lines)


def _command(dataset: DatasetSpec) -> str:
    """What runs the experiment of a dataset."""
    return "make paper" if dataset.experiment in paper.EXPERIMENTS else f"make batch EXPERIMENT={dataset.experiment}"
