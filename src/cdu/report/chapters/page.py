"""What a page of the book shows of a section's records."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Page:
    """A section of the report on one page, or one part of it on a page of its own.

    Attributes:
        name: The section, which is the notebook's name, or ``section-part``.
        file: The page in ``book/``, without its suffix.
        title: The page's title.
        figure: Draws the metrics in long form; its docstring is the caption. None for a page without results.
        tables: Makes the tables by title from the same metrics.
        marker: A metric without which a record cannot be shown on the page; empty if every record can.
        verdicts: Whether the verdicts on the section's claims stand here; they always do on a section's only page.
        by_device: Whether ``tables`` also takes ``on_gpu``, the seeds whose runs were made on a GPU.
    """

    name: str
    file: str
    title: str
    figure: Callable[[pd.DataFrame], Figure] | None = None
    tables: Callable[..., dict[str, pd.DataFrame]] | None = None
    marker: str = ""
    verdicts: bool = False
    by_device: bool = False

    @property
    def section(self) -> str:
        """The notebook's name."""
        return self.name.partition("-")[0]

    @property
    def part(self) -> str:
        """The part of the section; empty for a section's own page."""
        return self.name.partition("-")[2]
