"""Records: promoting them to references, comparing a batch with references, and the canaries."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cdu.cli.application import command
from cdu.errors import CduError


@command(report=True)
def reference(
    experiment: Annotated[str, typer.Argument(help="the experiment to promote")],
    section: Annotated[str, typer.Option(help="promote this section alone")] = "",
    dataset: Annotated[str, typer.Option(help="promote this dataset alone")] = "",
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="promote this seed alone; may be repeated")] = None,
    source: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs"),
) -> None:
    """Promote an experiment's records from runs/ to results/, with each section's first seed as executed exemplar."""
    from cdu.experiments.experiment import load_experiment
    from cdu.experiments.promotion import promote
    from cdu.experiments.repository import repository

    for sentence in promote(load_experiment(experiment), repository() / source, section, dataset, seeds or ()):
        typer.echo(sentence)


@command(report=True)
def verify(
    experiment: Annotated[str, typer.Argument(help="the experiment whose runs are compared")] = "quick",
    runs: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs"),
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="allow tolerances on the reference's platform too")
    ] = False,
    note: Annotated[bool, typer.Option("--note", help="add the result to results/reproduced.json")] = False,
) -> None:
    """Compare the numbers of a batch that is there with the committed references; exit code 1 where they differ."""
    from cdu.experiments.experiment import load_experiment
    from cdu.experiments.repository import repository
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


@command(report=True)
def canaries(
    sections: Annotated[list[str] | None, typer.Argument(help="sections; all by default")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="commit numbers that moved with their revision")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    jobs: Annotated[int, typer.Option(min=1, help="how many at a time")] = os.cpu_count() or 1,
) -> None:
    """Run every section in seconds and tell whether any number moved; exit code 1 where one did."""
    from cdu.experiments.sections import SECTIONS
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
