"""``cdu data``: the datasets' files."""

from typing import Annotated

import typer

from cdu.cli.application import command, data_app


@command("status", of=data_app)
def data_status() -> None:
    """List every dataset's files: present, absent or damaged."""
    from cdu.data import download

    typer.echo(f"folder: {download.data_root()} (set CDU_DATA to change it)")
    for name, file, state in download.status():
        typer.echo(f"{name:8s} {state:10s} {file}")


@command("fetch", of=data_app, kept="no file was left half-written; the same command fetches what is missing")
def data_fetch(name: Annotated[str, typer.Argument(help="one that 'cdu data status' lists")]) -> None:
    """Download a dataset; files that are there and whole are not fetched again."""
    from cdu.data import download

    typer.echo(f"{name} is complete under {download.fetch(name)}")
