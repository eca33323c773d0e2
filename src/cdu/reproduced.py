"""Where committed records were last reproduced: on which commit and processor, and how exactly.

A record says where it was made. That the present code still gives its numbers is seen when they are computed again,
which `cdu verify --note` writes into a committed file; the chapter on provenance shows it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cdu import storage
from cdu.errors import CduError
from cdu.records import read_record, record_path

if TYPE_CHECKING:
    from cdu.verify import Verification

#: The file, below ``results``.
FILE = "reproduced.json"


class Run(BaseModel):
    """One run beside its reference.

    Attributes:
        dataset: The dataset.
        seed: The seed.
        section: The section.
        config_hash: Hash of the settings.
        revision: Revision of the section's numbers.
        numbers: How many numbers were compared.
        equal: How many were equal to the last bit.
        largest_move: The largest difference, relative to the larger of the two numbers.
        excesses: How many exceeded what :mod:`cdu.verify` allows.
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


def note(experiment: str, verification: "Verification", runs: Path, results: Path) -> Reproduction:
    """Add a batch that was compared to the file, in place of an earlier one of the same experiment and platform.

    Args:
        experiment: The experiment.
        verification: The comparison.
        runs: Folder of the runs that were compared.
        results: Folder of the references, which holds the file.

    Raises:
        CduError: Runs of several commits, platforms or of a tree with uncommitted changes, which name no code; or
            numbers that exceed their tolerance: they are no reproduction.
    """
    if not verification.passed:
        raise CduError("the comparison failed, so that nothing was reproduced; nothing was noted")
    rows = verification.runs.drop(columns="experiment").to_dict("records")
    records = [read_record(record_path(runs, experiment, row["dataset"], row["seed"], row["section"])) for row in rows]
    found = [
        Run.model_validate({**row, "config_hash": record.config_hash, "revision": record.revision})
        for row, record in zip(rows, records, strict=True)
    ]
    made = {(one.commit, one.dirty, one.machine.cpu, one.machine.emulation) for one in records}
    if len(made) != 1 or any(dirty for _, dirty, _, _ in made):
        raise CduError(
            f"the runs under {runs} are of {len(made)} kinds (commit, uncommitted changes, processor, emulation): "
            f"{sorted(made)}; run the whole batch anew from one clean commit; nothing was noted"
        )
    ((commit, _, processor, emulation),) = made
    new = Reproduction(
        experiment=experiment,
        commit=commit,
        date=max(one.started for one in records)[:10],
        processor=processor,
        emulation=emulation,
        changed=[one.words for one in verification.changed],
        runs=found,
    )
    others = [one for one in read(results) if _place(one) != _place(new)]
    lines = ",\n".join(_lines(one) for one in [*others, new])
    storage.write_text(results / FILE, f"[\n{lines}\n]\n")
    return new


def _place(one: Reproduction) -> tuple[str, str, str]:
    return one.experiment, one.processor, one.emulation


def _lines(one: Reproduction) -> str:
    """JSON with one run a line, readable in a diff."""
    head = one.model_copy(update={"runs": []}).model_dump_json()
    runs = ",\n  ".join(run.model_dump_json() for run in one.runs)
    return head.removesuffix("[]}") + f"[\n  {runs}\n ]}}"
