"""The command ``cdu``: data, single sections, certificates, reference results."""

import math
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cdu import clock
from cdu.clock import OutOfTime
from cdu.errors import CduError
from cdu.experiments.execution import Kernel, cells_hash, execute, install_kernel, write_notebook
from cdu.experiments.experiment import available_experiments, default_experiment, load_experiment
from cdu.experiments.repository import repository
from cdu.experiments.sections import REVISIONS, SECTIONS, section_hash

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Certified deep unlearning, reproduced.")
data_app = typer.Typer(no_args_is_help=True, help="Datasets: what is here, and fetching what is not.")
app.add_typer(data_app, name="data")


@data_app.command("status")
def data_status() -> None:
    """List every dataset's files: present, absent or damaged."""
    from cdu.data import download

    typer.echo(f"folder: {download.data_root()} (set CDU_DATA to change it)")
    for name, file, state in download.status():
        typer.echo(f"{name:8s} {state:10s} {file}")


@data_app.command("fetch")
def data_fetch(name: Annotated[str, typer.Argument(help="one that 'cdu data status' lists")]) -> None:
    """Download a dataset; files that are there and whole are not fetched again."""
    from cdu.data import download

    typer.echo(f"{name} is complete under {download.fetch(name)}")


@app.command()
def notebooks() -> None:
    """Write the .ipynb beside each Jupytext script, for papermill and Jupyter, and register their kernel."""
    kernel = install_kernel()
    for section in SECTIONS:
        target = repository() / "notebooks" / f"{section}.ipynb"
        write_notebook(section, target, kernel)
        typer.echo(str(target.relative_to(repository())))


@app.command("batch")
def run_batch(
    experiment: Annotated[str, typer.Argument(help="name or file of the experiment")] = "quick",
    output: Annotated[Path, typer.Option(help="folder of all runs")] = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    cores: Annotated[str, typer.Option(help="runs at a time; 'all' for as many as there are cores")] = "all",
) -> None:
    """Run an experiment. What is done is kept, and the same command goes on after an interruption."""
    from cdu.experiments import batch

    file = Path(experiment)
    line = batch.command(str(file.resolve()) if file.is_file() else experiment, output, device, cores)
    if not batch.run(line):
        raise SystemExit(1)


@app.command()
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


@app.command()
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
    name: str, dataset: str, seed: int, experiment: str, output: Path, device: str, kernel: Kernel, official: str = ""
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

    from cdu.experiments.records import is_current, mark_current, mark_path, record_path

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


@app.command()
def bench(
    experiment: Annotated[str, typer.Argument(help="the experiment whose benchmarks are run")] = "quick",
    official: Annotated[str, typer.Option(help="a clone of the authors' repository, to be timed beside ours")] = "",
    output: Annotated[Path, typer.Option(help="folder of all runs")] = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Time our solvers against each other and against peers, anew. Leave the machine alone meanwhile."""
    from filelock import FileLock

    from cdu.experiments.records import record_path

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


@app.command()
def certify(
    radius: Annotated[float | None, typer.Option(help="C, the radius that weights are projected onto: Δ = 2C")] = None,
    budget: Annotated[float | None, typer.Option(help="Δ fixed in advance, with retraining as fallback")] = None,
    delta: Annotated[float, typer.Option(help="δ, for all releases together")] = 1e-5,
    sigma: Annotated[float | None, typer.Option(help="noise per coordinate: prints the certified ε")] = None,
    epsilon: Annotated[float | None, typer.Option(help="ε wanted: prints the necessary noise")] = None,
    releases: Annotated[int, typer.Option(help="k, how many releases ε is for together")] = 1,
    json: Annotated[bool, typer.Option("--json", help="print the certificate as JSON and nothing else")] = False,
) -> None:
    """What a noise certifies, or which noise an ε needs: for weights projected onto a ball, or within a budget.

    An ε of at most 1 is called meaningful and one of at most 10 weak; above, e^ε exceeds 22,000: vacuous.
    """
    from cdu import certification

    if (sigma is None) == (epsilon is None):
        raise CduError("give exactly one of --sigma and --epsilon; the other is computed")
    if radius is not None and budget is None:
        bound = certification.trivial_bound(radius)
    elif budget is not None and radius is None:
        bound = certification.budget_bound(budget)
    else:
        raise CduError("give exactly one of --radius and --budget; it bounds the distance that noise must hide")
    if epsilon is not None:
        sigma = certification.required_sigma(bound, epsilon, delta, releases)
        # What is printed, and typed in again, must certify the ε that was asked for.
        sigma = sigma if json else _rounded_up(sigma)
    assert sigma is not None
    certificate = certification.certify(bound, sigma, delta, releases)
    if json:
        typer.echo(certificate.model_dump_json(indent=2))
        return
    if epsilon is not None:
        together = certification.composed_sensitivity(bound.value, releases)
        # The classical formula has no value at ε = 0.
        classical = certification.classical_sigma(epsilon, delta, together) if epsilon > 0 else float("inf")
        typer.echo(f"σ = {sigma:.6g} (classical formula, proved for ε ≤ 1 only: {classical:.6g})")
    typer.echo(str(certificate))


def _rounded_up(sigma: float) -> float:
    """The least number of six significant digits that is at least ``sigma``."""
    unit = 10.0 ** (math.floor(math.log10(sigma)) - 5)
    return math.ceil(sigma / unit) * unit


@app.command()
def ledger(
    folder: Annotated[Path, typer.Argument(help="the ledger's folder")],
    delta: Annotated[float | None, typer.Option(help="δ; the budget's if not given, 1e-5 without one")] = None,
    identity: Annotated[str, typer.Option("--id", help="only the releases whose request named this id")] = "",
) -> None:
    """What was released when, and what all releases promise together."""
    from cdu.unlearning.ledger import Ledger, summary

    typer.echo(summary(Ledger.existing(folder), delta, identity))


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="the ledger's folder")],
    noted: Annotated[str, typer.Option(help="a hash that 'cdu ledger' printed earlier")] = "",
) -> None:
    """Whether a ledger is as it was written; exit code 1 where it was changed."""
    from cdu.unlearning.ledger import Ledger

    typer.echo(f"{folder} is whole; its last hash is {Ledger.existing(folder).check(noted)}")


@app.command()
def reference(
    experiment: Annotated[str, typer.Argument(help="the experiment to promote")],
    section: Annotated[str, typer.Option(help="promote this section alone")] = "",
    dataset: Annotated[str, typer.Option(help="promote this dataset alone")] = "",
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="promote this seed alone; may be repeated")] = None,
    source: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs"),
) -> None:
    """Promote an experiment's records from runs/ to results/, with each section's first seed as executed exemplar."""
    from cdu.experiments.promotion import promote

    for sentence in promote(load_experiment(experiment), repository() / source, section, dataset, seeds or ()):
        typer.echo(sentence)


@app.command()
def verify(
    experiment: Annotated[str, typer.Argument(help="the experiment whose runs are compared")] = "quick",
    runs: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs"),
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="allow tolerances on the reference's platform too")
    ] = False,
    note: Annotated[bool, typer.Option("--note", help="add the result to results/reproduced.json")] = False,
) -> None:
    """Compare the numbers of a batch that is there with the committed references; exit code 1 where they differ."""
    from cdu.verification import verify as verification

    loaded = load_experiment(experiment)
    found = verification.verify(loaded, repository() / runs, repository() / "results", elsewhere)
    everything = repository() / runs / loaded.name / "differences.csv"
    if found.differences:
        verification.frame(found.differences).to_csv(everything, index=False)
        typer.echo(f"every number beside its reference: {everything}")
    typer.echo(found.text)
    if not found.passed:
        raise SystemExit(1)
    if note:
        noted = verification.note(loaded.name, found, repository() / runs, repository() / "results")
        typer.echo(f"noted: {len(noted.runs)} runs at {noted.commit[:10]} on {noted.platform}")


@app.command()
def canaries(
    sections: Annotated[list[str] | None, typer.Argument(help="sections; all by default")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="commit numbers that moved with their revision")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    jobs: Annotated[int, typer.Option(min=1, help="how many at a time")] = os.cpu_count() or 1,
) -> None:
    """Run every section in seconds and tell whether any number moved; exit code 1 where one did."""
    from cdu.verification import canaries as birds

    if accept and device != "cpu":
        raise CduError(f"--accept with --device {device}: the committed canaries are a CPU's; leave one of them out")
    unknown = sorted(set(sections or ()) - set(SECTIONS))
    if unknown:
        raise CduError(f"unknown section '{unknown[0]}': known are {', '.join(SECTIONS)}")
    chosen = [one for one in birds.all_canaries() if not sections or one.section in sections]
    with tempfile.TemporaryDirectory(prefix="cdu-canaries-") as folder:
        birds.run(chosen, Path(folder), device, jobs)
        findings = birds.judge(chosen, Path(folder))
        if accept:
            accepted = birds.accept(findings, chosen, Path(folder))
            typer.echo(f"accepted: {', '.join(accepted) or 'nothing'}")
            findings = birds.judge(chosen, Path(folder))
    complaints = [
        *filter(None, (finding.complaint for finding in findings)),
        *filter(None, [birds.judge_arithmetic()]),
    ]
    for finding in findings:
        typer.echo(f"{finding.section}: {len(finding.moved)} of {finding.numbers} numbers moved")
    for complaint in complaints:
        typer.echo(f"cdu: {complaint}", err=True)
    if complaints:
        raise SystemExit(1)


@app.command("experiments")
def list_experiments() -> None:
    """List the experiments."""
    for name in available_experiments():
        typer.echo(f"{name:10s} {load_experiment(name).description}")


def main() -> None:
    """Entry point: one clear sentence instead of a traceback for errors the user can mend."""
    try:
        app()
    except (CduError, OutOfTime) as error:
        typer.echo(f"cdu: {error}", err=True)
        raise SystemExit(1) from None
