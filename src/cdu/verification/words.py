"""The verdicts on claims and theory claims of two batches, compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdu.experiments.records import Record
from cdu.report.claims import CLAIMS

#: Claims about times, whose verdicts depend on the machine.
TIMED = tuple(name for name, claim in CLAIMS.items() if claim.timed)

#: Verdicts by which a test passed, and by which it failed. All others leave it undecided.
PASSED = ("holds", "holds but says nothing")
FAILED = ("does not hold", "assumption violated", "no certificate")


@dataclass(frozen=True)
class Changed:
    """A claim or theory claim whose verdict differs.

    Attributes:
        dataset: The dataset.
        identifier: The claim or theory claim, such as ``C1a``.
        reference: The verdict from the committed records.
        here: The verdict from the runs.
    """

    dataset: str
    identifier: str
    reference: str
    here: str

    @property
    def contradicts(self) -> bool:
        """Whether one passes the test and the other fails it.

        Two sets of seeds of the same code can differ in whether a test can be decided, and in whether a pass says
        something: ``python -m cdu.verification.false_alarms`` counts how often. Such changes are shown and raise no
        alarm.
        """
        return any(self.reference in one and self.here in other for one, other in _OPPOSED)

    @property
    def words(self) -> str:
        """As it is printed."""
        alarm = "a contradiction" if self.contradicts else "no contradiction"
        return f"{self.dataset}, {self.identifier}: '{self.here}' here, '{self.reference}' in the reference, {alarm}"


_OPPOSED = ((PASSED, FAILED), (FAILED, PASSED))


def decided(records: Sequence[Record]) -> dict[tuple[str, str], str]:
    """The verdict on every claim that is not about times, and on every theory claim, by dataset and identifier."""
    # Imported here: it loads Matplotlib, which comparing numbers does not need.
    from cdu.report import collection, theory_claims

    sections: dict[tuple[str, str], dict[str, list[collection.Loaded]]] = {}
    for record in sorted(records, key=lambda one: one.seed):
        found = sections.setdefault((record.experiment, record.dataset), {})
        found.setdefault(record.section, []).append(collection.Loaded(record, Path(), run=True))
    words: dict[tuple[str, str], str] = {}
    for (experiment, dataset), found in sections.items():
        shown = {name: collection.Shown(name, loaded) for name, loaded in found.items()}
        setup = collection.Results(experiment, dataset, shown)
        claims = {name: one.word for name, one in setup.decided.items() if name not in TIMED}
        metrics = setup.metrics
        theory = {
            name: theory_claims.decide(name, metrics).word
            for name in theory_claims.THEORY_CLAIMS
            if theory_claims.SECTION in found
        }
        words |= {(dataset, name): word for name, word in {**claims, **theory}.items()}
    return words


def changed(reference: Sequence[Record], run: Sequence[Record]) -> list[Changed]:
    """The verdicts that differ between two batches of the same sections."""
    ours, theirs = decided(run), decided(reference)
    return [
        Changed(*place, theirs[place], ours[place])
        for place in theirs
        if place in ours and theirs[place] != ours[place]
    ]
