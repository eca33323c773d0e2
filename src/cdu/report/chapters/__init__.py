"""One module for each chapter: its figures, captions, tables and pages. All modules of this folder are found."""

from collections.abc import Callable, Collection
from importlib import import_module
from pkgutil import iter_modules

import pandas as pd
from matplotlib.figure import Figure

from cdu.report import drawing
from cdu.report.chapters.page import Page
from cdu.unlearning.names import title

__all__ = ["PAGES", "Page", "drawn", "figure", "show", "shows_verdicts", "tables"]


def _found() -> dict[str, Page]:
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    pages: list[Page] = [page for module in modules for page in getattr(module, "PAGES", ())]
    return {page.name: page for page in sorted(pages, key=lambda page: page.section)}


#: All pages by name, in the order of their sections.
PAGES = _found()


def drawn() -> list[str]:
    """Names of the pages that have a figure."""
    return [page.name for page in PAGES.values() if page.figure is not None]


def figure(name: str) -> Callable[[pd.DataFrame], Figure]:
    """The function that draws the figure of a section, or of one of its parts.

    Args:
        name: The section, or ``section-part``.
    """
    drawn = PAGES[name].figure
    if drawn is None:
        raise KeyError(name)
    return drawn


def show(name: str, frame: pd.DataFrame) -> None:
    """Display the figure of a section, or of one of its parts, below a notebook's cell.

    Args:
        name: The section, or ``section-part``.
        frame: The section's metrics in long form.
    """
    drawing.show(figure(name)(frame))


def tables(name: str, frame: pd.DataFrame, on_gpu: Collection[int] = ()) -> dict[str, pd.DataFrame]:
    """The tables of a section or of one of its parts, by heading; one that would be empty is left out.

    Args:
        name: The section, or ``section-part``.
        frame: The section's metrics in long form.
        on_gpu: Seeds whose runs were made on a GPU.
    """
    page = PAGES[name]
    if page.tables is None:
        raise KeyError(name)
    made = page.tables(frame, on_gpu=on_gpu) if page.by_device else page.tables(frame)
    return {heading: _titled(content) for heading, content in made.items() if len(content)}


#: Columns of tables that hold methods, their releases, or what training after the noise starts from.
_OF_METHODS = ("method", "model", "start")


def _titled(content: pd.DataFrame) -> pd.DataFrame:
    """A table in which methods are called by their titles."""
    columns = [column for column in _OF_METHODS if column in content]
    return content.assign(**{column: content[column].map(title) for column in columns})


def shows_verdicts(section: str) -> str:
    """The name of the page on which the verdicts on a section's claims stand."""
    return next((page.name for page in PAGES.values() if page.section == section and page.verdicts), section)
