"""What stands beside a released model in ``certificate.json``: what was deleted, what is promised, and how to check it.

The file is sealed, as a ledger's are (:mod:`cdu.unlearning.sealed`), and everything in it but the facts follows from
the ledger, so that :meth:`cdu.own_model.state.State.check` makes it anew and compares. Its JSON schema lies beside this
module and is written by ``python -m cdu.own_model.release_certificate``.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue
from scipy.special import ndtr

from cdu.certification.certificate import FAILURE_MARGIN, Certificate
from cdu.certification.gaussian import gaussian_epsilon, gaussian_sigma
from cdu.unlearning.ledger_entries import Entry, composed
from cdu.unlearning.ledger_files import Cap
from cdu.unlearning.sealed import Sealed

SCHEMA = Path(__file__).with_name("certificate.schema.json")

#: What no release covers, whatever the method.
BEYOND_THE_WEIGHTS = "copies of the data or of earlier weights elsewhere: backups, logs, caches, outputs"

#: The beginning of the sentence on requests that were answered without a certificate; their numbers follow.
EARLIER = "the rows of earlier requests for whoever has their releases"

#: What a certificate says whose proof is about a start that was trained on all rows.
_OTHER_START = (
    "the rows of those earlier requests in this release too, unless the method's own bound holds whatever its start "
    "has learned"
)

#: Bounds that hold whatever the start has learned.
_ANY_START = ("2C by projection", "amplification by iteration", "budget with fallback")

#: What a retrained model does not cover.
_NOT_COVERED_BY_RETRAINING = (
    "models, checkpoints or outputs published before the request",
    "anything that was tuned on the forget set",
    BEYOND_THE_WEIGHTS,
)


class Part(BaseModel):
    """A part of a file's content."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, json_schema_serialization_defaults_required=True
    )


class Facts(Part):
    """What only the program that computed the release knows.

    Attributes:
        rows_deleted: How many rows of the data the ids name.
        rows_retained: How many rows are left.
        seconds: What the method took; None where it was not measured.
        note: What else a reader should know, in words.
    """

    rows_deleted: int
    rows_retained: int
    seconds: float | None = None
    note: str = ""


class WeightsHashes(Part):
    """Hashes of the released weights.

    Attributes:
        file: SHA-256 of the file ``weights.safetensors``.
        tensors: What the ledger's entry holds: SHA-256 of names, types, shapes and bytes, see
            :func:`~cdu.unlearning.ledger_entries.weights_hash`.
    """

    file: str
    tensors: str


class Guarantee(Part):
    """An (ε, δ) guarantee; the values are those of :class:`~cdu.certification.certificate.Certificate`.

    Attributes:
        mu: μ = Δ/σ of Gaussian differential privacy.
        chance: The probability Φ(μ/2) + ρ that bounds how often the best test is right, between the release and its
            reference, if both are equally likely beforehand.
    """

    epsilon: float
    delta: float
    sigma: float
    sensitivity: float
    mu: float
    failure: float
    chance: float
    worth: str
    bound: str
    rounding: float
    arithmetic: str
    reference: str
    threat_model: str
    covers: str
    assumptions: tuple[str, ...]


class Together(Part):
    """What this release and all before it promise together, about the rows of the first request.

    About the rows of a later request the releases from that one on promise no less. Those before it were made while its
    rows were in use, and the promise is silent on them.

    Attributes:
        releases: How many they are.
        mu: √(Σ μ_i²); None where a release has no certificate.
        failure: Σ ρ_i.
        delta: δ at which ε is quoted.
        epsilon: ε; None where it is unbounded.
        chance: As for :class:`Guarantee`; 1 where ε is unbounded.
        reason: Why ε is unbounded; empty otherwise.
    """

    releases: int
    mu: float | None
    failure: float
    delta: float
    epsilon: float | None
    chance: float
    reason: str


class Budget(Part):
    """What all releases together may spend.

    Attributes:
        epsilon: ε.
        delta: δ.
        room: ε at δ of one more release that would use up what is left; budgets are no sums, so that it is not the
            difference of two ε.
    """

    epsilon: float
    delta: float
    room: float


class LedgerEntry(Part):
    """The release's entry in the ledger.

    Attributes:
        number: Its number, that of the release too.
        hash: Its hash.
    """

    number: int
    hash: str


class ReleaseCertificate(Sealed):
    """The content of ``certificate.json``.

    Attributes:
        date: When the entry was written, UTC.
        weights: Hashes of the released weights.
        method: The method, in words.
        options: Its options.
        ids: The ids that the request names, each as HMAC-SHA256 with the ledger's salt.
        ids_count: How many they are.
        facts: What only the program that computed the release knows.
        retrained: Whether the model was trained from scratch without the rows, which is exact.
        guarantee: What is promised; None without a certificate.
        reason: Why there is no certificate; empty where there is one.
        not_covered: What the release does not cover; empty where nothing is promised at all.
        together: What this release and all before it promise together.
        budget: What all releases together may spend; None where there is no budget.
        entry: The release's entry in the ledger.
        page: SHA-256 of the file ``release.html``.
        version: The version of cdu.
    """

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    date: str
    weights: WeightsHashes
    method: str
    options: dict[str, JsonValue]
    ids: tuple[str, ...]
    ids_count: int
    facts: Facts
    retrained: bool
    guarantee: Guarantee | None
    reason: str
    not_covered: tuple[str, ...]
    together: Together
    budget: Budget | None
    entry: LedgerEntry
    page: str
    version: str


def describe(
    entries: Sequence[Entry],
    file: str,
    options: dict[str, JsonValue],
    facts: Facts,
    cap: Cap | None,
    delta: float,
) -> ReleaseCertificate:
    """The certificate of the last of the releases, without the page's hash and without its own.

    Args:
        entries: The ledger's entries up to that of the release.
        file: SHA-256 of the file of its weights.
        options: The method's options.
        facts: What the ledger does not know.
        cap: The ledger's budget.
        delta: δ of all releases together where there is no budget.
    """
    entry = entries[-1]
    return ReleaseCertificate(
        date=entry.time,
        weights=WeightsHashes(file=file, tensors=entry.after),
        method=entry.method,
        options=options,
        ids=entry.ids,
        ids_count=len(entry.ids),
        facts=facts,
        retrained=entry.retrained,
        guarantee=_guarantee(entry),
        reason=entry.reason,
        not_covered=_not_covered(entries),
        together=_together(entries, delta if cap is None else cap.delta),
        budget=None if cap is None else _budget(entries, cap),
        entry=LedgerEntry(number=entry.number, hash=entry.hash),
        page="",
        version=entry.version,
    )


def chance(mu: float, failure: float = 0.0) -> float:
    """How often the best test is right at most that tells two equally likely models apart: Φ(μ/2) + ρ.

    Between N(0, 1) and N(μ, 1) the likelihood ratio decides at μ/2, and is right with probability Φ(μ/2); whatever is
    μ-GDP is no easier to tell (Dong, Roth & Su 2022, Definition 4). Where Δ fails, with probability ρ, the test may
    always be right.

    Args:
        mu: μ ≥ 0, infinite where nothing is promised.
        failure: ρ.
    """
    return min(1.0, float(ndtr(mu / 2)) + failure)


def schema() -> str:
    """The JSON schema of ``certificate.json``."""
    return json.dumps(ReleaseCertificate.model_json_schema(mode="serialization"), indent=1, ensure_ascii=False) + "\n"


def _guarantee(entry: Entry) -> Guarantee | None:
    if entry.certificate is None or entry.mu is None:
        return None
    # A retrained model spends nothing, but the noise that was added to it may be certified nevertheless.
    certificate: dict[str, Any] = {name: entry.certificate[name] for name in _SHARED if name in entry.certificate}
    worth = Certificate.model_validate(entry.certificate).worth
    return Guarantee(**certificate, mu=entry.mu, chance=chance(entry.mu, entry.failure), worth=worth)


_SHARED = tuple(name for name in Guarantee.model_fields if name in Certificate.model_fields)


def _not_covered(entries: Sequence[Entry]) -> tuple[str, ...]:
    *earlier, entry = entries
    if entry.certificate is None and not entry.retrained:
        return ()
    own = _NOT_COVERED_BY_RETRAINING if entry.retrained else (*_certified(entry)["not_covered"], BEYOND_THE_WEIGHTS)
    open_ = [str(one.number) for one in earlier if one.certificate is None and not one.retrained]
    if open_:
        own = (*own, f"{EARLIER}, which releases {', '.join(open_)} answered without a certificate")
    # A bound of a method's own speaks of a start that was trained on D; that of the projection of any start.
    if open_ and not entry.retrained and not _certified(entry)["bound"].startswith(_ANY_START):
        own = (*own, _OTHER_START)
    return own


def _certified(entry: Entry) -> dict[str, Any]:
    assert entry.certificate is not None
    return entry.certificate


def _together(entries: Sequence[Entry], delta: float) -> Together:
    spent = composed(entries, delta)
    unbounded = bool(spent.reason)
    return Together(
        releases=spent.releases,
        mu=None if math.isinf(spent.mu) else spent.mu,
        failure=spent.failure,
        delta=delta,
        epsilon=None if unbounded else spent.epsilon,
        chance=1.0 if unbounded else chance(spent.mu, spent.failure),
        reason=spent.reason,
    )


def _budget(entries: Sequence[Entry], cap: Cap) -> Budget:
    spent = composed(entries, cap.delta)
    left = cap.delta - spent.failure * FAILURE_MARGIN
    room = 0.0
    if left > 0 and not spent.reason:
        allowed = 1 / gaussian_sigma(cap.epsilon, left, 1.0)
        mu = math.sqrt(max(0.0, (allowed - spent.mu) * (allowed + spent.mu)))
        # What is left may be a rounding of nothing.
        room = gaussian_epsilon(1.0, cap.delta, mu) if mu > 1e-100 else 0.0
    return Budget(epsilon=cap.epsilon, delta=cap.delta, room=room)


if __name__ == "__main__":
    SCHEMA.write_text(schema(), encoding="utf-8")
