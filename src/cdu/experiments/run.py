"""What a notebook's first and last cells call: check the parameters, open the run, write its record."""

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor

from cdu import clock
from cdu.certification import Bound
from cdu.data.registry import dataset_named
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.evaluation.accuracy import accuracy
from cdu.evaluation.readings import Reading, Refusal, outcome
from cdu.experiments.device import prepare
from cdu.experiments.experiment import default_experiment, load_experiment
from cdu.experiments.metrics import quantity
from cdu.experiments.parameters import parameters
from cdu.experiments.records import (
    SCHEMA_VERSION,
    Machine,
    Metric,
    Record,
    cpu_name,
    emulation,
    git_state,
    kept_metrics,
    lock_hash,
    package_versions,
    record_path,
    write_record,
)
from cdu.experiments.repository import repository
from cdu.experiments.sections import REVISIONS, section_hash, section_settings
from cdu.experiments.setup import Setup
from cdu.models.precision import pick_device
from cdu.progress import Progress
from cdu.seeding import generator
from cdu.settings import digest
from cdu.unlearning.problem import Method, Problem, UnlearningResult
from cdu.unlearning.release import Release

Result = TypeVar("Result")


@dataclass
class Run:
    """A run under way: its setup, and the metrics logged so far.

    Attributes:
        section: The notebook's name.
        setup: Data, models and problem.
        output: Folder that holds all runs.
        metrics: What was logged.
        started: When the run was opened.
        commit: The commit at that moment, and whether the working tree differed from it.
        revision: Revision of the section's numbers at that moment.
        arithmetic: Precision and layout, in words.
        clock: When the run was opened, on the clock that durations are read from.
    """

    section: str
    setup: Setup
    output: Path
    metrics: list[Metric] = field(default_factory=list)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    commit: tuple[str, bool] = field(default_factory=git_state)
    revision: int = 1
    arithmetic: str = ""
    clock: float = field(default_factory=time.perf_counter)

    def log(
        self,
        metric: str,
        value: float | None,
        *,
        method: str = "",
        split: str = "",
        axis: str = "",
        point: float | None = None,
        note: str = "",
    ) -> None:
        """Log one number; see :class:`cdu.experiments.records.Metric` for the keys.

        Raises:
            CduError: No metric has this name in :mod:`cdu.experiments.metrics`.
        """
        quantity(metric)
        number = None if value is None else float(value)
        where = None if point is None else float(point)
        self.metrics.append(
            Metric(metric=metric, value=number, method=method, split=split, axis=axis, point=where, note=note)
        )

    def values(self, metric: str, **keys: Any) -> list[float | None]:
        """The values logged so far of a metric, with the keys of :meth:`log` that are given."""
        wanted = {"metric": metric, **keys}
        return [one.value for one in self.metrics if all(getattr(one, key) == own for key, own in wanted.items())]

    def log_values(self, values: Mapping[str, float | Tensor | None], *, told: bool = False, **keys: Any) -> None:
        """Log several numbers that share their keys.

        Args:
            values: By metric, in the order in which they are logged.
            told: Whether to print them, in one line.
            keys: As for :meth:`log`.
        """
        numbers = {metric: None if value is None else float(value) for metric, value in values.items()}
        for metric, value in numbers.items():
            self.log(metric, value, **keys)
        if told:
            words = [f"{metric} = {'none' if value is None else f'{value:.4g}'}" for metric, value in numbers.items()]
            print(": ".join(filter(None, [_where(keys), ", ".join(words), keys.get("note", "")])))

    def log_accuracy(
        self, name: str, draws: Sequence[Release], sets: Mapping[str, Samples], metric: str = "accuracy", **keys: Any
    ) -> None:
        """Log the mean accuracy of several draws of one release, on every set of samples.

        Args:
            name: The method's name.
            draws: Releases that differ in their noise alone; one is enough.
            sets: What accuracy is taken on, by the name of the split.
            metric: The number's name.
            keys: As for :meth:`log`.
        """
        for split, samples in sets.items():
            mean = sum(accuracy(one.objective, one.w, samples) for one in draws) / len(draws)
            self.log(metric, mean, method=name, split=split, **keys)

    def log_release(
        self,
        name: str,
        release: Release,
        sets: Mapping[str, Samples],
        distances: Mapping[str, Tensor] | None = None,
        **keys: Any,
    ) -> None:
        """Log the accuracy of a release on every set of samples, then its distances ‖w − w′‖₂ to other models.

        Args:
            name: The method's name.
            release: What was handed out.
            sets: As for :meth:`log_accuracy`.
            distances: Weights w′ by the name of the number. Weights of another network have no distance and are
                passed over.
            keys: As for :meth:`log`.
        """
        self.log_accuracy(name, [release], sets, **keys)
        for metric, other in (distances or {}).items():
            if release.w.shape == other.shape:
                self.log(metric, (release.w - other).norm(), method=name, **keys)

    def log_costs(self, name: str, update: UnlearningResult, *metrics: str, note: str = "", **keys: Any) -> None:
        """Log what an update cost.

        Args:
            name: The method's name.
            update: What the method returned.
            metrics: Numbers of :class:`~cdu.unlearning.problem.UnlearningResult`, such as ``seconds``; one that the
                method does not have, such as the residual of a method that solves no system, is passed over.
            note: Stands beside the first of them.
            keys: As for :meth:`log`.
        """
        for metric in metrics:
            value = getattr(update, metric)
            if value is not None:
                self.log(metric, value, method=name, note=note if metric == metrics[0] else "", **keys)

    def log_each(self, readings: Iterable[Reading], *, quiet: bool = False, **keys: Any) -> None:
        """Log what a check yields, as it comes.

        Args:
            readings: Numbers and the keys that tell them apart.
            quiet: Print nothing, as for the many points of a curve that is drawn.
            keys: Keys that all of them share.
        """
        for numbers, own in readings:
            self.log_values(numbers, told=not quiet, **keys, **own)

    def attempt(
        self,
        name: str,
        method: Method,
        problem: Problem,
        metric: str = "accuracy",
        axis: str = "",
        point: float | None = None,
    ) -> UnlearningResult | None:
        """Run a method on a problem; where it cannot run, log the reason for ``metric`` and go on."""
        return self.outcome(
            name, lambda: method(problem, generator(self.setup.seed, name)), metric, axis=axis, point=point
        )

    def outcome(self, name: str, compute: Callable[[], Result], metric: str, **keys: Any) -> Result | None:
        """What ``compute`` gives; where a method refuses, log the reason for ``metric`` and go on.

        Args:
            name: The method's name.
            compute: What to run.
            metric: The number that is then missing.
            keys: As for :meth:`log`.
        """
        found = outcome(compute)
        if isinstance(found, Refusal):
            print(f"{name}: {found.reason}")
            self.log(metric, None, method=name, note=found.reason, **keys)
            return None
        return found

    def bound(self, metric: str, compute: Callable[..., Bound], *arguments: object, **keys: Any) -> Bound | None:
        """Log a bound and say what it is; where its assumptions exclude the arguments, log the reason and go on.

        Args:
            metric: Its name.
            compute: One of :mod:`cdu.certification.bounds`, or :func:`~cdu.certification.lissa.lissa_bound`.
            arguments: What it is computed from.
            keys: As for :meth:`log`.
        """
        try:
            found = compute(*arguments)
        except CduError as error:
            print(f"no bound: {error}")
            self.log(metric, None, note=str(error), **keys)
            return None
        print(f"{metric} ({_where(keys)}): {found.value:.4g}, {found.name}, {found.kind}")
        self.log(metric, found.value, **keys)
        return found

    def point(self, name: str, compute: Callable[[], None]) -> None:
        """One point of a sweep: run ``compute``, and keep what it logs; logged again if it was computed before.

        Args:
            name: Of the point, unique in the section.
            compute: Calls :meth:`log` and what is built on it.

        Raises:
            OutOfTime: The batch's time is up, and the point was not computed before.
        """

        def logged() -> list[Metric]:
            clock.require(f"{self.section}, {name}")
            start = len(self.metrics)
            compute()
            found = self.metrics[start:]
            del self.metrics[start:]
            return found

        setup = self.setup
        made_by = [self.section, section_hash(setup.settings, setup.name, self.section), self.revision]
        origin = [setup.origin(), torch.get_num_threads(), name]
        path = setup.checkpoints / "points" / f"{setup.name}-{setup.seed}-{digest([*made_by, *origin])}.json"
        self.metrics += kept_metrics(path, logged)

    def sweep(self, axis: str, points: Iterable[Any], compute: Callable[[Any], None]) -> None:
        """All points of an axis, each kept as soon as it is computed; see :meth:`point`.

        Args:
            axis: What is varied.
            points: Its values.
            compute: Logs what belongs to one of them.
        """
        for point in Progress(points, desc=axis, unit="point"):
            self.point(f"{axis} = {point}", partial(compute, point))

    def frame(self) -> pd.DataFrame:
        """The metrics so far, with the columns that :mod:`cdu.report` draws from."""
        frame = pd.DataFrame([metric.model_dump() for metric in self.metrics])
        return frame.assign(section=self.section, seed=self.setup.seed, dataset=self.setup.name)

    def finish(self) -> None:
        """Write the record, atomically, and say where it is."""
        setup = self.setup
        commit, dirty = self.commit
        device = torch.cuda.get_device_name() if setup.device.type == "cuda" else "cpu"
        record = Record(
            schema_version=SCHEMA_VERSION,
            experiment=setup.experiment.name,
            dataset=setup.name,
            section=self.section,
            seed=setup.seed,
            settings=section_settings(setup.settings, self.section),
            config_hash=section_hash(setup.settings, setup.name, self.section),
            revision=self.revision,
            split_hash=setup.split.hash,
            lock_hash=lock_hash(),
            commit=commit,
            dirty=dirty,
            packages=package_versions(),
            machine=Machine(
                device=device,
                cpu=cpu_name(),
                threads=torch.get_num_threads(),
                platform=platform.platform(),
                python=platform.python_version(),
                arithmetic=self.arithmetic,
                emulation=emulation(),
            ),
            started=self.started.isoformat(timespec="seconds"),
            duration=round(time.perf_counter() - self.clock, 3),
            metrics=self.metrics,
        )
        path = record_path(self.output, record.experiment, record.dataset, record.seed, record.section)
        write_record(record, path)
        print(f"recorded {len(record.metrics)} numbers in {path.relative_to(self.output.parent)}")


def begin(section: str, namespace: Mapping[str, Any], extra: tuple[str, ...] = ()) -> Run:
    """Open a run from a notebook's parameters.

    Args:
        section: The notebook's name, such as ``03_unlearning``.
        namespace: The notebook's ``globals()``, read right after the parameters cell.
        extra: Parameters that this notebook takes beside those that all take.

    Raises:
        CduError: An unknown parameter, dataset, experiment or device; a seed that is no whole number of at least 0; a
            dataset that the experiment does not have.
    """
    given = parameters(namespace, extra)
    dataset, seed = dataset_named(given["dataset"]).name, given["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise CduError(f"seed = {seed!r} is not a whole number of at least 0")
    experiment = load_experiment(str(given.get("experiment") or default_experiment(dataset)))
    experiment.settings(dataset)
    output = repository() / str(given.get("output") or "runs")
    device = pick_device(str(given.get("device") or "auto"))
    # Sums over several threads round differently: a model trained with two is not the one that a batch would train.
    checkpoints = output / "checkpoints" / f"threads-{torch.get_num_threads()}"
    setup = Setup(experiment, dataset, seed, checkpoints, device)
    return Run(section, setup, output, revision=REVISIONS[section], arithmetic=prepare(setup))


def _where(keys: Mapping[str, Any]) -> str:
    """What a number is of, in words: the method, the split, and the point on its axis."""
    words = [str(keys[key]) for key in ("method", "split") if keys.get(key)]
    if keys.get("axis"):
        words.append(f"{keys['axis']} {keys['point']:.6g}")
    return ", ".join(words)
