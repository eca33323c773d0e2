"""A batch: the runs of one experiment, ordered by Snakemake."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cdu.experiments.repository import repository


def command(
    experiment: str,
    output: Path,
    device: str = "auto",
    cores: str = "all",
    datasets: Sequence[str] = (),
    sections: Sequence[str] = (),
) -> list[str]:
    """Snakemake's command line; ``workflow/Snakefile`` says what it does.

    Args:
        experiment: Name or file of the experiment.
        output: Folder of all runs.
        device: As for a section.
        cores: Runs at a time, or ``all``.
        datasets: These alone; all when empty.
        sections: These alone; all that a batch runs when empty.
    """
    # Snakemake reads every value as YAML, of which JSON is a part: names such as 2024 stay text.
    settings = {"experiment": experiment, "output": str(output), "device": device}
    settings |= {key: ",".join(names) for key, names in (("datasets", datasets), ("sections", sections)) if names}
    return [
        sys.executable, "-m", "snakemake",
        "--snakefile", str(repository() / "workflow" / "Snakefile"),
        "--config", *(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()),
        "--cores", cores,
        "--nolock", "--ignore-incomplete", "--keep-incomplete", "--rerun-triggers", "mtime", "--scheduler", "greedy",
    ]  # fmt: skip


def run(line: Sequence[str]) -> bool:
    """Run a batch to its end, even if runs fail on the way; returns whether all succeeded.

    Args:
        line: From :func:`command`.
    """
    # The environment's own programs are found first, by the jobs too.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    options = ["--keep-going", "--quiet", "rules", "host"]
    done = subprocess.run([*line, *options], cwd=repository(), env={**os.environ, "PATH": path}, check=False)
    return done.returncode == 0
