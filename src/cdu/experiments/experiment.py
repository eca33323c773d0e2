"""Experiments: what is run, on what, with which constants. Read from YAML and validated."""

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from cdu.data.registry import dataset_named
from cdu.errors import CduError
from cdu.experiments.repository import repository
from cdu.experiments.sections import BENCHMARKS, BY_HAND, OPTIONAL, SECTIONS
from cdu.experiments.settings import DatasetSettings
from cdu.settings import Positive, Settings


def _registered(name: str) -> str:
    try:
        return dataset_named(name).name
    except CduError as error:
        # What pydantic takes for a refusal.
        raise ValueError(str(error)) from error


#: The name of a registered dataset.
DatasetName = Annotated[str, AfterValidator(_registered)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
#: A run: dataset, seed, section.
Job = tuple[DatasetName, int, str]


class Loader(yaml.SafeLoader):
    """YAML with the numbers of its version 1.2, in which 1e-4 is one, and without a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A block; a key that was given before is an error."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


class Experiment(Settings):
    """A named set of runs: datasets × seeds × sections.

    Attributes:
        name: The file's name.
        description: One sentence.
        seeds: Seeds of every section.
        section_seeds: Sections that are run with other seeds.
        sections: Sections that a batch runs, the most valuable first; all when empty.
        seeds_together: Whether a batch runs all seeds of a section in one process, one after another: worth it where
            starting a process takes as long as a section.
        expected_seconds: By section, about how many seconds one seed takes on the machine that the experiment is made
            for. ``cdu paper`` says with them beforehand how far a given time will reach.
        datasets: Settings by dataset.
    """

    name: str
    description: str
    seeds: Seeds
    section_seeds: dict[str, Seeds] = Field(default_factory=dict)
    sections: tuple[str, ...] = ()
    seeds_together: bool = False
    expected_seconds: dict[str, Positive] = Field(default_factory=dict)
    datasets: dict[DatasetName, DatasetSettings]

    @field_validator("name", mode="before")
    @classmethod
    def _name_of_digits(cls, name: object) -> object:
        """A name such as 2024, which YAML reads as a number."""
        return str(name) if isinstance(name, int | float) else name

    @model_validator(mode="after")
    def _seeds_are_different(self) -> "Experiment":
        for seeds in (self.seeds, *self.section_seeds.values()):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"a seed is listed twice in {list(seeds)}; the same run would count twice")
        return self

    @model_validator(mode="after")
    def _sections_are_known(self) -> "Experiment":
        named = {
            "section_seeds": self.section_seeds,
            "sections": self.sections,
            "expected_seconds": self.expected_seconds,
        }
        for field, names in ((field, set(names)) for field, names in named.items()):
            unknown = sorted(names - set(SECTIONS))
            if unknown:
                raise ValueError(f"{field} names no section of ours: {unknown}; known are {', '.join(SECTIONS)}")
        return self

    def seeds_of(self, section: str) -> tuple[int, ...]:
        """The seeds of a section; by default only the first where no batch runs it, since that run repeats itself."""
        alone = section in BENCHMARKS or section in BY_HAND
        return self.section_seeds.get(section, self.seeds[:1] if alone else self.seeds)

    def jobs(self, datasets: Sequence[str] = (), sections: Sequence[str] = ()) -> list[Job]:
        """Every run of a batch: dataset, seed, section.

        Args:
            datasets: These alone; all when empty.
            sections: These alone, those that no batch runs by itself among them; all that a batch runs when empty.
        """
        return [
            job
            for job in self._all_jobs()
            if job[0] in (datasets or self.datasets)
            and (job[2] in sections if sections else job[2] not in (*BENCHMARKS, *BY_HAND))
        ]

    def batches(self, jobs: Sequence[Job]) -> list[tuple[DatasetName, tuple[int, ...], str]]:
        """Runs grouped by the process that makes them: dataset, seeds, section."""
        if not self.seeds_together:
            return [(dataset, (seed,), section) for dataset, seed, section in jobs]
        return [
            (dataset, tuple(seed for other, seed, name in jobs if (other, name) == (dataset, section)), section)
            for dataset, section in dict.fromkeys((dataset, section) for dataset, _, section in jobs)
        ]

    def benchmarks(self) -> list[Job]:
        """Every run that needs the machine to itself, since it times programs: dataset, seed, section."""
        return [job for job in self._all_jobs() if job[2] in BENCHMARKS]

    def by_hand(self) -> list[Job]:
        """Every run that takes too long for a batch: dataset, seed, section."""
        return [job for job in self._all_jobs() if job[2] in BY_HAND]

    def _all_jobs(self) -> list[Job]:
        return [
            (dataset, seed, section)
            for dataset, settings in self.datasets.items()
            for section in self.sections or SECTIONS
            if section not in OPTIONAL or getattr(settings, OPTIONAL[section]) is not None
            for seed in self.seeds_of(section)
        ]

    def settings(self, dataset: str) -> DatasetSettings:
        """The settings of one dataset; raises :class:`CduError` when the experiment has none for it."""
        for name, settings in self.datasets.items():
            if name == dataset:
                return settings
        raise CduError(
            f"experiment '{self.name}' has no dataset '{dataset}': it has {', '.join(self.datasets)}; "
            f"the experiment made for '{dataset}' is '{dataset_named(dataset).experiment or 'none'}'"
        )


def default_experiment(dataset: object) -> str:
    """Name or file of the experiment that a notebook run on a dataset without one belongs to.

    Raises:
        CduError: No such dataset, or it is registered without an experiment.
    """
    registered = dataset_named(dataset)
    if not registered.experiment:
        raise CduError(f"dataset '{registered.name}' has no experiment of its own; name one, or the file of one")
    return registered.experiment


def available_experiments() -> list[str]:
    """Names of the experiments that ``experiments/`` holds, sorted."""
    return sorted(path.stem for path in (repository() / "experiments").glob("*.yaml"))


def load_experiment(name_or_path: str) -> Experiment:
    """Read and validate an experiment.

    Args:
        name_or_path: A name in ``experiments/``, or the path of a YAML file elsewhere. A top-level block
            ``defaults`` is merged under every dataset's own settings.

    Raises:
        CduError: No such experiment, not valid YAML, or settings that do not fit, naming the field.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = repository() / "experiments" / f"{name_or_path}.yaml"
    if not path.is_file():
        raise CduError(
            f"there is no experiment '{name_or_path}': {path.name} was not found; "
            f"known are {', '.join(available_experiments())}, or give the path of a .yaml file"
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
        content = _block(content, path.name, "the file")
        defaults = _block(content.pop("defaults", {}), path.name, "defaults")
        datasets = _block(content.get("datasets"), path.name, "datasets")
        content["datasets"] = {
            name: merged(defaults, _block(own or {}, path.name, f"datasets.{name}")) for name, own in datasets.items()
        }
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CduError(f"{path.name}: {where}: {first['msg']} (found {first['input']!r})") from error
    except yaml.YAMLError as error:
        raise CduError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from error
    if experiment.name != path.stem:
        raise CduError(f"{path.name}: its name is '{experiment.name}'; it must equal the file's, '{path.stem}'")
    return experiment


def _block(content: Any, file: str, where: str) -> dict[str, Any]:
    """``content``, which must be a block of named settings."""
    if not isinstance(content, dict):
        raise CduError(
            f"{file}: {where}: a block of named settings is needed, as in experiments/quick.yaml (found {content!r})"
        )
    return content


def merged(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``override`` in place of its own, block by block."""
    found = dict(base)
    for key, value in override.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        found[key] = merged(base[key], value) if nested else value
    return found
