"""The program ``cdu``, how a function becomes one of its commands, and what ends a command."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any, TypeVar

import typer

from cdu.extras import needs_report

Function = TypeVar("Function", bound=Callable[..., Any])

#: What Ctrl-C leaves of a command that only reads, or that can be given again.
NOTHING = "nothing was left half-written, and the same command can be given again"

#: What Ctrl-C leaves of a command that computes for long.
DONE = "what is done is kept, and the same command goes on from there"

#: The two parts of ``cdu --help``.
OWN, PAPER = "A model of your own", "The paper's experiments: they need the extra 'report'"

# Tracebacks are of errors of this program: they are printed as Python prints them.
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Certified deep unlearning: delete rows from a model of your own, and reproduce the paper.",
)
data_app = typer.Typer(no_args_is_help=True, help="Datasets: what is here, and fetching what is not.")
app.add_typer(data_app, name="data", rich_help_panel=PAPER)


class Interrupted(Exception):
    """Ctrl-C stopped a command. The message says what is kept."""


def command(
    name: str | None = None, *, of: typer.Typer = app, kept: str = NOTHING, report: bool = False
) -> Callable[[Function], Function]:
    """Make a function a command of ``cdu``; the function itself stays as it is.

    Args:
        name: The command's name; the function's if not given.
        of: The program, or the group of commands, that gets it.
        kept: What Ctrl-C leaves, in words.
        report: Whether it needs the packages of the extra ``report``.
    """

    def register(function: Function) -> Function:
        label = name or function.__name__

        @wraps(function)
        def run(*arguments: Any, **options: Any) -> None:
            try:
                with needs_report(f"'cdu {label}'") if report else nullcontext():
                    function(*arguments, **options)
            except KeyboardInterrupt:
                raise Interrupted(f"stopped; {kept}") from None

        of.command(name, rich_help_panel=PAPER if report else OWN)(run)
        return function

    return register
