"""The record: one JSON file per run, the only thing that tables, figures and verdicts are computed from."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, field_validator

from cdu import storage
from cdu.errors import CduError
from cdu.experiments.repository import repository
from cdu.settings import digest

SCHEMA_VERSION = 2

#: Packages whose versions can change a number.
PACKAGES = (
    "cdu",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
    "papermill",
    "jupytext",
)

#: Environment variables that make PyTorch, MKL, oneDNN and OpenBLAS compute as on another processor.
ROUNDING = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE")

#: Prefix of the note on metrics that a run never reached; every other note gives a method's own reason.
UNREACHED = "not computed"


class Metric(BaseModel):
    """One number, in long form.

    Attributes:
        metric: What was measured, such as ``accuracy``.
        value: The number; None where it could not be had, for the reason in ``note``.
        method: Which model or method it belongs to.
        split: On which samples: ``forget``, ``retain``, ``test``.
        axis: The quantity varied, such as ``damping``.
        point: Its value.
        note: In words, where a number needs them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    value: float | None
    method: str = ""
    split: str = ""
    axis: str = ""
    point: float | None = None
    note: str = ""

    @field_validator("value", "point")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{value} is not finite; record None and say why in the note")
        return value


_METRICS = TypeAdapter(list[Metric])


class Machine(BaseModel):
    """Where a run was made.

    Attributes:
        device: ``cpu``, or the GPU's name.
        cpu: The processor's name.
        threads: Threads of PyTorch.
        platform: Operating system and C library.
        python: Version.
        arithmetic: Precision and layout, in words; empty in records made before it was written down, all in float32.
        emulation: The variables that made libraries round like those of another processor; empty where there were none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    cpu: str
    threads: int
    platform: str
    python: str
    arithmetic: str = ""
    emulation: str = ""


class Record(BaseModel):
    """One run of one section, for one dataset and seed.

    Attributes:
        schema_version: Version of this format.
        experiment: Its name.
        dataset: Its name.
        section: The notebook's name.
        seed: Seed of the split, the initial weights, the batches and the noise.
        settings: The blocks of settings that the section's numbers depend on.
        config_hash: Hash of those.
        revision: Revision of the section's numbers (:data:`cdu.experiments.sections.REVISIONS`).
        split_hash: Hash of the forget, retain and test rows.
        lock_hash: Hash of ``requirements.lock``; empty where there was none.
        commit: Commit of the project.
        dirty: Whether the working tree differed from it.
        packages: Versions of the packages that can change a number.
        machine: Where the run was made.
        started: Date and time, UTC.
        duration: Seconds from the opening of the run to its end.
        metrics: All numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    experiment: str
    dataset: str
    section: str
    seed: int
    settings: dict[str, Any]
    config_hash: str
    revision: int
    split_hash: str
    lock_hash: str
    commit: str
    dirty: bool
    packages: dict[str, str]
    machine: Machine
    started: str
    duration: float
    metrics: list[Metric]


def record_path(folder: Path, experiment: str, dataset: str, seed: int, section: str) -> Path:
    """Where a run's record lies below ``folder``."""
    return folder / experiment / dataset / f"seed-{seed}" / f"{section}.json"


def write_record(record: Record, path: Path) -> None:
    """Write in one atomic step: temporary file, fsync, rename. A reader sees the old file or the new one."""
    storage.write_text(path, _compact(record))


def kept_metrics(path: Path, compute: Callable[[], list[Metric]]) -> list[Metric]:
    """Numbers from a file, or computed and kept there in one atomic step.

    Raises:
        CduError: The file cannot be read.
    """

    def save(file: Path, metrics: list[Metric]) -> None:
        storage.write_text(file, _METRICS.dump_json(metrics).decode())

    def load(file: Path) -> list[Metric]:
        try:
            return _METRICS.validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise storage.unreadable(file, error, "to compute its numbers again") from error

    return storage.kept(path, compute, save, load)


def _compact(record: Record) -> str:
    """JSON with one metric per line, unset fields left out: small, and readable in a diff."""
    content = record.model_dump(mode="json")
    metrics = [metric.model_dump(mode="json", exclude_defaults=True) for metric in record.metrics]
    content["metrics"] = []
    head = json.dumps(content, indent=1, ensure_ascii=False)
    lines = ",\n  ".join(json.dumps(metric, ensure_ascii=False) for metric in metrics)
    return head.removesuffix("[]\n}") + f"[\n  {lines}\n ]\n}}\n"


def read_record(path: Path) -> Record:
    """Read and validate a record.

    Raises:
        CduError: The file is not JSON, not of this schema, or of another schema version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("schema_version") if isinstance(content, dict) else None
        if found != SCHEMA_VERSION:
            raise CduError(
                f"{path} has schema version {found}, expected {SCHEMA_VERSION}; make the run again, or delete it"
            )
        return Record.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CduError(f"{path} is not a valid record: {where}: {first['msg']}; make the run again") from error
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise CduError(f"{path} cannot be read as a record ({error}); delete it and make the run again") from error


def is_current(path: Path, config_hash: str, revision: int) -> bool:
    """Whether a readable record is there that was made with these settings, of this revision of the numbers."""
    try:
        record = read_record(path)
    except CduError:
        return False
    return (record.config_hash, record.revision) == (config_hash, revision)


def mark_path(record: Path, config_hash: str, revision: int, cells: str) -> Path:
    """An empty file beside a record, whose name says what the record was made from.

    Snakemake is told of it as the output: where settings, revision or the notebook's code changed, it is missing, and
    the record stays until its successor is written.

    Args:
        record: The record's path.
        config_hash: Hash of the settings.
        revision: Revision of the section's numbers.
        cells: Hash of the notebook's code cells.
    """
    return record.with_name(f".{record.stem}.settings-{config_hash}.revision-{revision}.notebook-{cells}")


def mark_current(mark: Path) -> None:
    """Leave the mark of a record, and remove those of its predecessors."""
    for other in mark.parent.glob(mark.name.split(".settings-")[0] + ".settings-*"):
        if other != mark:
            other.unlink()
    mark.touch()


def lock_hash() -> str:
    """Hash of ``requirements.lock``; empty where there is none."""
    path = repository() / "requirements.lock"
    return digest(path.read_text(encoding="utf-8")) if path.is_file() else ""


def package_versions() -> dict[str, str]:
    """Versions of the packages that can change a number."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def emulation() -> str:
    """The variables of the environment that choose how libraries round, with their values."""
    return ", ".join(f"{name}={os.environ[name]}" for name in ROUNDING if os.environ.get(name))


def git_state() -> tuple[str, bool]:
    """Commit of the project, and whether the working tree differs from it; ("unknown", True) outside git.

    Files that git does not know count where they could change a number: code, notebooks, experiments.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(repository()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        unknown = git("ls-files", "--others", "--exclude-standard", "--", "src", "notebooks", "experiments", "workflow")
        return git("rev-parse", "HEAD"), bool(changed or unknown)
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True
