"""Which records are shown: runs of this machine before committed records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from cdu.data.registry import dataset_named, known_datasets
from cdu.errors import CduError
from cdu.experiments.experiment import load_experiment
from cdu.experiments.records import Record, read_record
from cdu.experiments.sections import REVISIONS, SECTIONS, STAND_INS, section_hash
from cdu.experiments.settings import DatasetSettings
from cdu.report import evidence, verdicts
from cdu.report.claims import CLAIMS, Place

#: The columns that identify a number among the records of a section.
_KEYS = ["seed", "metric", "method", "split", "axis", "point"]

#: Folders of records, and whether they hold runs of this machine.
FOLDERS = {"results": False, "runs": True}


@dataclass(frozen=True)
class Loaded:
    """A record, the file that it was read from, and whether it is a run of this machine or a committed record."""

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
class Results:
    """One dataset of one experiment, with the records shown for each section."""

    experiment: str
    dataset: str
    sections: dict[str, Shown] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The dataset's name, with the experiment's where it is not the one made for that dataset."""
        dataset = dataset_named(self.dataset)
        # A dataset of another package may name the file of its experiment.
        usual = Path(dataset.experiment).stem == self.experiment
        return dataset.title + ("" if usual else f" ({self.experiment})")

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
        return Place(
            self.dataset, network_in_words(next(iter(self.sections.values())).records[0].record.settings["model"])
        )

    @cached_property
    def decided(self) -> dict[str, evidence.Verdict]:
        """The verdict on every claim."""
        return verdicts.decide_all(self.metrics, self.place, self.consistent)


def collect(root: Path, folders: Mapping[str, bool] = FOLDERS) -> list[Results]:
    """Read the records below ``runs/`` and ``results/`` and choose which to show.

    Per section those count that were made with the settings that the experiment has now; where there are none, those
    made with the settings of the latest run, or else of the latest committed record. Among them a run replaces the
    committed record of the same seed.

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
    known = known_datasets()
    order = [*(name for name in known if known[name].in_the_paper), *known]
    setups = [
        Results(experiment, dataset, {name: _choose(name, sections[name]) for name in SECTIONS if name in sections})
        for (experiment, dataset), sections in found.items()
    ]
    return sorted(setups, key=lambda setup: (order.index(dataset_named(setup.dataset).name), setup.experiment))


def _choose(section: str, candidates: list[Loaded]) -> Shown:
    latest = max(candidates, key=lambda one: (not outdated(one.record), one.run, one.record.started))
    kind = (latest.record.config_hash, latest.record.revision)
    same = [loaded for loaded in candidates if (loaded.record.config_hash, loaded.record.revision) == kind]
    by_seed = {loaded.record.seed: loaded for loaded in sorted(same, key=lambda loaded: loaded.run)}
    return Shown(section, [by_seed[seed] for seed in sorted(by_seed)])


def outdated(record: Record) -> bool:
    """Whether a record is of another revision or of other settings than now, or of an experiment that is gone."""
    current = _current_settings(record.experiment, record.dataset)
    if current is None:
        return True
    settings = section_hash(current, record.dataset, record.section)
    return (record.config_hash, record.revision) != (settings, REVISIONS[record.section])


@cache
def _current_settings(experiment: str, dataset: str) -> DatasetSettings | None:
    """An experiment's settings as they are now; None where it is gone. Cached, since every record asks for them."""
    try:
        return load_experiment(experiment).settings(dataset)
    except CduError:
        return None


def network_in_words(model: dict[str, Any]) -> str:
    """A network in words."""
    if model["name"] == "mlp":
        return f"MLP, hidden layers of {' and '.join(map(str, model['hidden']))}, {model['activation']}"
    names = {"allcnn": "AllCNN", "resnet18": "ResNet-18, pre-activation", "logistic": "logistic regression"}
    width = "" if model["width"] == 1 else f", width × {model['width']:g}"
    return names[model["name"]] + width


def verdicts_in_words(runs: Path) -> list[str]:
    """The verdicts on all claims for every set-up of one folder of runs, a line each."""
    return [
        f"- {setup.title}: " + ", ".join(f"{claim} {verdict.words}" for claim, verdict in setup.decided.items())
        for setup in collect(runs.parent, {runs.name: True})
    ]
