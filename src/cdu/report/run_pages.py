"""The pages of executed notebooks."""

from typing import Any

import nbformat

from cdu.data.registry import dataset_named
from cdu.report.collection import Results
from cdu.report.markup import page_name


def run_pages(setup: Results) -> dict[str, bytes]:
    """Executed notebooks by the names of their pages; a title says the dataset, the seed and the source."""
    pages = {}
    for shown in setup.sections.values():
        for loaded in shown.records:
            if not loaded.notebook.exists():
                continue
            content: Any = nbformat.read(loaded.notebook, as_version=4)
            record = loaded.record
            origin = "run" if loaded.run else "committed record"
            for cell in content.cells:
                if cell.cell_type == "markdown":
                    first, *rest = cell.source.split("\n")
                    title = f"{first}: {dataset_named(record.dataset).title}, seed {record.seed} ({origin})"
                    cell.source = "\n".join([title, *rest])
                    break
            pages[page_name(loaded)] = nbformat.writes(content).encode()
    return pages
