"""What ``CHANGELOG.md`` says of the revisions of the sections' numbers."""

import re
from dataclasses import dataclass

from cdu.experiments.repository import repository


@dataclass(frozen=True)
class Entry:
    """A line on a revision: ``- `section`, revision N: text``.

    Attributes:
        text: What moved, and by how much.
        unseen: Whether it says that no canary can see the change.
    """

    text: str
    unseen: bool


def entries() -> dict[tuple[str, int], Entry]:
    """The entries by section and revision; none where the file is missing."""
    path = repository() / "CHANGELOG.md"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = (re.match(r"- `(\w+)`, revision (\d+): (\(unseen\))?\s*(\S.*)", line) for line in lines)
    return {(one[1], int(one[2])): Entry(one[4], one[3] is not None) for one in found if one}
