"""The command ``cdu``: unlearning from a model of one's own, certificates, data, experiments and their records.

Exit codes: 0 when a command did what it says; 1 when it refused or failed, with one sentence on stderr; 2 for a wrong
command line; 130 after Ctrl-C, with a sentence that says what is kept. Any other exception is an error of this program
and stays a traceback. Modules here import what a command needs when it runs, so that ``cdu --help`` is quick.
"""

from typing import Annotated

import typer

import cdu
from cdu.cli import data as data
from cdu.cli import experiments as experiments
from cdu.cli import own_model as own_model
from cdu.cli import records as records
from cdu.cli.application import Interrupted, app
from cdu.clock import OutOfTime
from cdu.errors import CduError

__all__ = ["app", "main"]

INTERRUPTED = 130


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cdu {cdu.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Certified deep unlearning: delete rows from a model of your own, and reproduce the paper."""


def main() -> None:
    """Entry point: one clear sentence instead of a traceback for errors the user can mend."""
    try:
        app()
    except Interrupted as stop:
        typer.echo(f"\ncdu: {stop}", err=True)
        raise SystemExit(INTERRUPTED) from None
    except (CduError, OutOfTime) as error:
        typer.echo(f"cdu: {error}", err=True)
        raise SystemExit(1) from None
