"""The platforms on which the committed results were reproduced."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cdu.errors import CduError

#: The file, below ``results``.
FILE = "reproduced.json"


class Run(BaseModel):
    """One run compared with its committed record.

    Attributes:
        dataset: The dataset.
        seed: The seed.
        section: The section.
        config_hash: Hash of the settings.
        revision: Revision of the section's numbers.
        numbers: How many numbers were compared.
        equal: How many were equal to the last bit.
        largest_move: The largest difference, relative to the larger of the two numbers.
        excesses: How many exceeded what :mod:`cdu.verification.verify` allows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    seed: int
    section: str
    config_hash: str
    revision: int
    numbers: int
    equal: int
    largest_move: float
    excesses: int


class Reproduction(BaseModel):
    """A batch that was run again on some machine.

    Attributes:
        experiment: The experiment.
        commit: The commit of the code that ran.
        date: The day, UTC.
        processor: The processor's name.
        emulation: What made libraries round like those of another processor; empty if nothing did.
        changed: Verdicts that came out in another word, in words.
        runs: Its runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: str
    commit: str
    date: str
    processor: str
    emulation: str
    changed: list[str]
    runs: list[Run]

    @property
    def platform(self) -> str:
        """The processor, and that it was made to round like another."""
        return self.processor + (", rounding as an older kind" if self.emulation else "")


_FILE = TypeAdapter(list[Reproduction])


def read(results: Path) -> list[Reproduction]:
    """All reproductions that are noted, the latest last.

    Raises:
        CduError: The file cannot be read.
    """
    path = results / FILE
    if not path.exists():
        return []
    try:
        return sorted(_FILE.validate_json(path.read_bytes()), key=lambda one: one.date)
    except (OSError, ValidationError) as error:
        raise CduError(f"{path} cannot be read ({error}); restore it from git") from error
