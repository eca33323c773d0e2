"""Experiments: a batch, a section, the paper's plan, benchmarks, notebooks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdu import clock
from cdu.cli.application import DONE, command
from cdu.errors import CduError
from cdu.extras import require_report

if TYPE_CHECKING:
    from cdu.experiments.execution import Kernel


@command("experiments", report=True)
def list_experiments() -> None:
    """List the experiments."""
    from cdu.experiments.experiment import available_experiments, load_experiment

    for name in available_experiments():
        typer.echo(f"{name:10s} {load_experiment(name).description}")


@command(kept=DONE, report=True)
def section(
    name: Annotated[str, typer.Argument(help="01_theory, 02_training, ...")],
    dataset: Annotated[str, typer.Option(help="one that 'cdu data status' lists")] = "digits",
    seeds: Annotated[
        list[int] | None,
        typer.Option("--seed", min=0, help="seed of split, weights, batches and noise; 0 if none; may be repeated"),
    ] = None,
    experiment: Annotated[str, typer.Option(help="empty: the one made for the dataset")] = "",
    output: Annotated[Path, typer.Option(help="folder of all runs")] = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    official: Annotated[str, typer.Option(help="a clone of the authors' repository, for 09_official_code")] = "",
) -> None:
    """Run one section's notebook through papermill, unless its record is there, of today's settings and revision.

    Several seeds run one after another in one process. One that fails does not stop the others.
    """
    from cdu.experiments.execution import Kernel

    failed = []
    with Kernel() as kernel:
        for seed in seeds or [0]:
            try:
                run_section(name, dataset, seed, experiment, output, device, kernel, official)
            except CduError as error:
                failed.append(str(error))
    if failed:
        raise CduError("\ncdu: ".join(failed))


def run_section(
    name: str, dataset: str, seed: int, experiment: str, output: Path, device: str, kernel: "Kernel", official: str = ""
) -> Path:
    """Execute one section for one seed; returns the record's path.

    A lock held by the process keeps two batches from computing the same record: the second waits, then finds it done.
    With a clone of the authors' code a record that is there is made again, since it may be without.

    Raises:
        CduError: Unknown section, dataset or experiment, a clone without its code or for a section that takes none, or
            the notebook failed (its executed copy is kept).
        OutOfTime: The batch's time is up.
    """
    from filelock import FileLock

    from cdu.experiments.execution import cells_hash, execute
    from cdu.experiments.experiment import default_experiment, load_experiment
    from cdu.experiments.records import is_current, mark_current, mark_path, record_path
    from cdu.experiments.repository import repository
    from cdu.experiments.sections import REVISIONS, SECTIONS, section_hash

    if name not in SECTIONS:
        raise CduError(f"unknown section '{name}': known are {', '.join(SECTIONS)}")
    _require_clone(official)
    if official and name != "09_official_code":
        raise CduError(f"section '{name}' takes no --official; it is for 09_official_code, and for 'cdu bench'")
    loaded = load_experiment(experiment or default_experiment(dataset))
    wanted = section_hash(loaded.settings(dataset), dataset, name)
    record = record_path(repository() / output, loaded.name, dataset, seed, name)
    record.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(record.with_suffix(".lock")):
        mark = mark_path(record, wanted, REVISIONS[name], cells_hash(name))
        if is_current(record, wanted, REVISIONS[name]) and mark.exists() and not official:
            # Snakemake wants to see an output that is newer than its start.
            mark_current(mark)
            typer.echo(f"{record} is there already, of the same settings, revision and notebook")
            return record
        parameters: dict[str, object] = {
            "dataset": dataset,
            "seed": seed,
            "experiment": experiment or loaded.name,
            "output": str(output),
            "device": device,
        }
        if official:
            parameters["official"] = str(Path(official).resolve())
        clock.require(f"{name} of {dataset}, seed {seed}")
        execute(name, record.with_suffix(".ipynb"), parameters, kernel)
        mark_current(mark)
    return record


@command(kept=DONE, report=True)
def bench(
    experiment: Annotated[str, typer.Argument(help="the experiment whose benchmarks are run")] = "quick",
    official: Annotated[str, typer.Option(help="a clone of the authors' repository, to be timed beside ours")] = "",
    output: Annotated[Path, typer.Option(help="folder of all runs")] = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Time our solvers against each other and against peers, anew. Leave the machine alone meanwhile."""
    from filelock import FileLock

    from cdu.experiments.execution import Kernel, execute
    from cdu.experiments.experiment import load_experiment
    from cdu.experiments.records import record_path
    from cdu.experiments.repository import repository

    loaded = load_experiment(experiment)
    _require_clone(official)
    for dataset, seed, name in loaded.benchmarks():
        record = record_path(repository() / output, loaded.name, dataset, seed, name)
        record.parent.mkdir(parents=True, exist_ok=True)
        parameters: dict[str, object] = {
            "dataset": dataset,
            "seed": seed,
            "experiment": experiment,
            "output": str(output),
            "device": device,
            "official": str(Path(official).resolve()) if official else "",
        }
        with FileLock(record.with_suffix(".lock")), Kernel() as kernel:
            execute(name, record.with_suffix(".ipynb"), parameters, kernel)
        typer.echo(f"{record}")


def _require_clone(official: str) -> None:
    """Raise unless ``official`` is empty or the folder of a clone of the authors' repository."""
    if official and not (Path(official) / "unlearn.py").is_file():
        raise CduError(f"{official} holds no unlearn.py; give the folder of a clone of the authors' repository")


@command("batch", kept=DONE, report=True)
def run_batch(
    experiment: Annotated[str, typer.Argument(help="name or file of the experiment")] = "quick",
    output: Annotated[Path, typer.Option(help="folder of all runs")] = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    cores: Annotated[str, typer.Option(help="runs at a time; 'all' for as many as there are cores")] = "all",
) -> None:
    """Run an experiment. What is done is kept, and the same command goes on after an interruption."""
    from cdu.experiments import batch

    require_report("'cdu batch'", "snakemake")
    file = Path(experiment)
    line = batch.command(str(file.resolve()) if file.is_file() else experiment, output, device, cores)
    if not batch.run(line):
        raise SystemExit(1)


@command(kept=DONE, report=True)
def paper(
    minutes: Annotated[
        float, typer.Option(min=0, help="how long; what is done is kept, the same command goes on")
    ] = 12,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="every step, cut to seconds on a CPU")] = False,
    output: Annotated[Path | None, typer.Option(help="folder of all runs; runs or runs/rehearsal if not given")] = None,
    results: Annotated[Path | None, typer.Option(help="folder to leave what was reached in; OUTPUT/results")] = None,
    earlier: Annotated[Path | None, typer.Option(help="what an earlier run left: go on from there")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    cores: Annotated[str, typer.Option(help="runs at a time")] = "3",
) -> None:
    """The paper's networks on CIFAR-10 and SVHN: as much as the time allows, the most valuable first."""
    from cdu.experiments import bundle, rehearsal
    from cdu.experiments import paper as plan
    from cdu.experiments.repository import repository
    from cdu.report.collection import verdicts_in_words

    runs = repository() / (output or Path("runs/rehearsal" if rehearse else "runs"))
    files = [rehearsal.rehearsal(file, runs) if rehearse else file for file in plan.EXPERIMENTS]
    if earlier is not None:
        bundle.unpack(earlier, runs)
    stages, absent = plan.stages(files)
    typer.echo("\n".join([plan.plan(stages, runs, minutes), *absent]))
    if not stages:
        raise CduError("no data set of the plan is at hand, so that nothing can be run; fetch one, or rehearse")
    folder = results or runs / "results"

    def pack() -> list[Path]:
        return bundle.pack(stages, runs, folder, absent, verdicts_in_words(runs))

    ended_early = plan.run(stages, runs, minutes, device, cores, pack)
    for path in pack():
        typer.echo(f"{path} ({path.stat().st_size:,} bytes)")
    ended = plan.outcomes(stages, runs)
    typer.echo(f"{sum(one.state == plan.DONE for one in ended)} of {len(ended)} runs are done")
    # A rehearsal that does not come to its end shows nothing. Else what is left when the time is up is no failure.
    left = [one for one in ended if one.state != plan.DONE]
    failed = left if rehearse or not ended_early else [one for one in left if one.failed]
    if failed:
        raise CduError("\ncdu: ".join(f"{one.name}: {one.state}" for one in failed))


@command(report=True)
def notebooks() -> None:
    """Write the .ipynb beside each Jupytext script, for papermill and Jupyter, and register their kernel."""
    from cdu.experiments.execution import install_kernel, write_notebook
    from cdu.experiments.repository import repository
    from cdu.experiments.sections import SECTIONS

    kernel = install_kernel()
    for section in SECTIONS:
        target = repository() / "notebooks" / f"{section}.ipynb"
        write_notebook(section, target, kernel)
        typer.echo(str(target.relative_to(repository())))
