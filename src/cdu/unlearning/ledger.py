"""A ledger of releases: which model was handed out when, what it promised, and what all releases promise together.

A ledger is a folder of four files:

- ``entries.jsonl``: one JSON object a line, one line a release; lines are only ever added;
- ``head.json``: how many lines there are and the hash of the last one, so that a missing tail is found;
- ``settings.json``: the budget, and the hash of the salt;
- ``salt``: 32 random bytes, readable by the owner alone, with which the ids of deleted samples are hashed.

Every object ends in the SHA-256 of the text before it, and every line holds the hash of the line before it. So any
accident to a file is found, and so is whoever edits one. Whoever writes all files anew, or puts older ones back, is
found only by a hash that was noted elsewhere: ``cdu ledger`` prints the last one.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from cdu.certification.certificate import Certificate
from cdu.checks import expect, expect_delta, expect_not_negative, expect_positive
from cdu.errors import CduError
from cdu.unlearning.ledger_entries import (
    Entry,
    Foreseen,
    Spent,
    chain,
    composed,
    expect_composable,
    expect_hashed,
    hashed_ids,
    weights_hash,
)
from cdu.unlearning.ledger_files import (
    ENTRIES,
    HEAD,
    LOCK,
    SALT,
    SETTINGS,
    Cap,
    Head,
    LedgerSettings,
    begin,
    in_words,
    now,
)
from cdu.unlearning.sealed import REMEDY, read_bytes, read_sealed, write_durably

if TYPE_CHECKING:
    from cdu.unlearning.ledger_entries import Weights


class Ledger:
    """A folder that says which releases were made and what they promise together.

    Example:
        >>> import torch
        >>> from cdu.certification import certify, trivial_bound
        >>> ledger = Ledger("ledger", cap=(1.0, 1e-5))  # begun where there is none
        >>> certificate = certify(trivial_bound(10), sigma=100, delta=1e-5)
        >>> before, after = torch.zeros(3), torch.ones(3)
        >>> entry = ledger.record(["user 17", "user 23"], "Newton step", before, after, certificate)
        >>> print(ledger.spent(1e-5))
        ε = 0.7255 at δ = 1e-05 (μ = 0.2, ρ = 0)
        >>> weaker = certify(trivial_bound(10), sigma=20, delta=1e-5)
        >>> ledger.record(["user 5"], "Newton step", before, after, weaker)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        cdu.errors.CduError: ledger has the budget ε = 1 at δ = 1e-05, of which ε = 0.7255 is spent, and this ...

    An entry is written before its release may leave: a crash between the two counts as spent.

    Args:
        folder: The ledger's folder. Where it is absent or empty a ledger is begun; :meth:`existing` begins none.
        cap: The budget (ε, δ) that all releases together keep to. It is fixed when the ledger is begun; later it may be
            left out.

    Raises:
        CduError: The folder holds something else, the ledger was changed, or its budget is another one.
    """

    def __init__(self, folder: str | os.PathLike[str], cap: tuple[float, float] | None = None) -> None:
        self.folder = Path(folder)
        if cap is not None:
            expect_positive(epsilon=cap[0])
            expect_delta(cap[1])
        wanted = None if cap is None else Cap(epsilon=cap[0], delta=cap[1])
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            begin(self.folder, wanted)
        with self._locked():
            self.cap = self._read().settings.cap
        expect(
            wanted is None or wanted == self.cap,
            f"{self.folder} was begun with {in_words(self.cap)}, not with {in_words(wanted)}; leave the cap out, or "
            "begin another ledger",
        )

    @classmethod
    def existing(cls, folder: str | os.PathLike[str]) -> "Ledger":
        """A ledger that is there: with a wrong path none is begun, which would have the whole budget again.

        Raises:
            CduError: There is none, or it was changed.
        """
        path = Path(folder)
        expect(
            path.is_dir() and any(path.iterdir()),
            f"there is no ledger in {path}; give its folder, or begin one with cdu.Ledger",
        )
        return cls(path)

    def entries(self) -> tuple[Entry, ...]:
        """All entries, after the whole ledger was checked.

        Raises:
            CduError: A file was changed; the sentence names it, and the line.
        """
        with self._locked():
            return self._read().entries

    def check(self, noted: str = "") -> str:
        """Check every file and return the hash of the last entry, or of the settings where there is none.

        Args:
            noted: A hash that this returned before and that was kept elsewhere: it must still be in the chain.

        Raises:
            CduError: A file was changed, or the chain does not hold the noted hash.
        """
        with self._locked():
            state = self._read()
        hashes = [state.settings.hash, *(entry.hash for entry in state.entries)]
        expect(
            not noted or noted in hashes,
            f"no entry of {self.folder} has the noted hash {noted}: the ledger was written anew, or an older one was "
            f"put back; {REMEDY}",
        )
        return hashes[-1]

    def spent(self, delta: float) -> Spent:
        """What all releases promise together at δ; see :func:`composed`.

        Raises:
            CduError: The ledger was changed, or δ is no probability between 0 and 1.
        """
        return composed(self.entries(), delta)

    def hashed(self, ids: Sequence[str | int]) -> tuple[str, ...]:
        """Ids as they stand in entries: HMAC-SHA256 with the ledger's salt; the number 7 is the text "7".

        Raises:
            CduError: There is no id, one is empty or listed twice, or the ledger was changed.
        """
        with self._locked():
            return hashed_ids(self._read().salt, ids)

    def about(self, identity: str | int) -> tuple[Entry, ...]:
        """The entries whose request named an id.

        Raises:
            CduError: The id is empty, or the ledger was changed.
        """
        (wanted,) = self.hashed([identity])
        return tuple(entry for entry in self.entries() if wanted in entry.ids)

    def expect_room(self, mu: float | None, failure: float = 0.0, *, retraining: str | float = "") -> None:
        """Say, before hours are spent, whether a release would fit into the budget; nothing is recorded.

        Another process may use the room up meanwhile, so that :meth:`record` looks again.

        Args:
            mu: μ = Δ/σ of the release, or the least that it can be; 0 for a retrained model, which always fits; None
                for a release without a certificate, which fits into no budget.
            failure: ρ, the probability that Δ fails.
            retraining: What retraining would take, in words or in seconds, for the sentence of the refusal.

        Raises:
            CduError: The release would exceed the budget, μ or ρ is no finite number of at least 0, or the ledger was
                changed.
        """
        expect_not_negative(mu=mu or 0.0, failure=failure)
        takes = f"about {retraining:.3g} seconds" if isinstance(retraining, int | float) else retraining
        with self._locked():
            state = self._read()
        foreseen = Foreseen(len(state.entries) + 1, mu, failure, "no certificate is foreseen")
        _expect_within(self.folder, state.settings.cap, state.entries, foreseen, takes)

    def record(
        self,
        ids: Sequence[str | int],
        method: str,
        before: "Weights",
        after: "Weights",
        certificate: Certificate | None,
        reason: str = "",
        *,
        sigma: float = 0.0,
        retrained: bool = False,
    ) -> Entry:
        """Write an entry for a release, and return when it is on the disk. Only then may the release leave.

        Args:
            ids: The ids that the request names.
            method: The method's name.
            before: The weights before the request: a vector, or all named tensors of a model, its buffers too.
            after: The weights that are to be released, given in the same way.
            certificate: The release's certificate, as :func:`~cdu.certification.certificate.certify` makes it.
            reason: Why there is none.
            sigma: Noise of a release without a certificate; with one, the certificate says it.
            retrained: Whether the model was trained from scratch without the samples. Such a release spends nothing.

        Raises:
            CduError: The release would exceed the budget, the ledger was changed, an argument is unusable, or the entry
                cannot be written. The release must not leave then.
        """
        keys: dict[str, Any] = {"sigma": sigma, "retrained": retrained}
        return self.record_hashed(self.hashed(ids), method, before, after, certificate, reason, **keys)

    def record_hashed(
        self,
        hashes: Sequence[str],
        method: str,
        before: "Weights",
        after: "Weights",
        certificate: Certificate | None,
        reason: str = "",
        *,
        sigma: float = 0.0,
        retrained: bool = False,
    ) -> Entry:
        """Like :meth:`record`, for a request of which only :meth:`hashed` ids were kept.

        Raises:
            CduError: A hash is none that :meth:`hashed` gives, or as for :meth:`record`.
        """
        expect_hashed(hashes)
        expect_not_negative(sigma=sigma)
        expect_composable(certificate, reason)
        weights = weights_hash(before), weights_hash(after)
        with self._locked():
            state = self._read()
            entry, line = Entry(
                number=len(state.entries) + 1,
                time=now(),
                ids=tuple(hashes),
                method=method,
                retrained=retrained,
                **_guarantee(certificate, sigma, retrained),
                reason=reason,
                before=weights[0],
                after=weights[1],
                version=version("cdu"),
                previous=state.last,
            ).sealed()
            _expect_within(self.folder, state.settings.cap, state.entries, entry)
            try:
                self._sweep()
                if state.behind:
                    self._write_head(len(state.entries), state.last)
                write_durably(self.folder / ENTRIES, state.lines + line)
                self._write_head(entry.number, entry.hash)
            except OSError as error:
                raise CduError(
                    f"entry {entry.number} of {self.folder} cannot be written ({error}); release nothing, make room, "
                    "and try again"
                ) from error
        return entry

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time; readers too, since an entry is two files."""
        expect(
            (self.folder / SETTINGS).exists(),
            f"{self.folder / SETTINGS} is missing: the folder holds no ledger, or one that was changed; give another "
            "folder, or bring the ledger back from a copy",
        )
        try:
            lock = FileLock(self.folder / LOCK)
            lock.acquire()
        except OSError as error:
            raise CduError(
                f"{self.folder} cannot be locked ({error}); give a ledger's folder, or a copy that you may write to"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _read(self) -> "_State":
        """Read and check every file."""
        settings = read_sealed(LedgerSettings, self.folder / SETTINGS)
        salt = read_bytes(self.folder / SALT)
        expect(
            hashlib.sha256(salt).hexdigest() == settings.salt_hash,
            f"{self.folder / SALT} is not the salt that the ledger was begun with; {REMEDY}",
        )
        lines = read_bytes(self.folder / ENTRIES)
        entries = chain(self.folder / ENTRIES, lines, settings.hash)
        head = read_sealed(Head, self.folder / HEAD)
        hashes = [settings.hash, *(entry.hash for entry in entries)]
        # A process that ended between its two writes leaves an entry that the head does not count: it is spent.
        behind = (head.count, head.last) == (len(entries) - 1, hashes[-2] if entries else "")
        expect(
            behind or head.count <= len(entries),
            f"{self.folder / ENTRIES}, line {len(entries) + 1}: it is missing, and so are all up to line {head.count} "
            f"that {HEAD} counts; {REMEDY}",
        )
        expect(
            behind or (head.count, head.last) == (len(entries), hashes[-1]),
            f"{self.folder / HEAD} counts {head.count} entries, and the last of the {len(entries)} that are there is "
            f"not the one it names: line {min(head.count + 1, len(entries))} was added or exchanged; {REMEDY}",
        )
        return _State(settings, salt, lines, entries, hashes[-1], behind)

    def _sweep(self) -> None:
        """Remove the temporary files of processes that were killed."""
        for left in self.folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)

    def _write_head(self, count: int, last: str) -> None:
        write_durably(self.folder / HEAD, Head(count=count, last=last).sealed()[1])


def summary(ledger: Ledger, delta: float | None = None, identity: str = "") -> str:
    """A ledger in plain text: a line for every release, then what they promise together, the budget, the last hash.

    Args:
        ledger: The ledger.
        delta: δ of all releases together; the budget's when None, 1e-5 without one.
        identity: List only the releases whose request named this id; all are counted nevertheless.

    Raises:
        CduError: The ledger was changed, or δ is no probability between 0 and 1.
    """
    if delta is None:
        delta = 1e-5 if ledger.cap is None else ledger.cap.delta
    shown = ledger.about(identity) if identity else ledger.entries()
    lines = [
        f"{entry.number}  {entry.time}  {entry.method}, ids: {len(entry.ids)}, σ = {entry.sigma:g}; {entry.promise}"
        for entry in shown
    ]
    spent = ledger.spent(delta)
    return "\n".join(
        [*lines, f"all releases, {spent.releases}: {spent}", in_words(ledger.cap), f"last hash: {ledger.check()}"]
    )


@dataclass(frozen=True)
class _State:
    """A ledger as it was read: ``behind`` where the head does not count the last entry."""

    settings: LedgerSettings
    salt: bytes
    lines: bytes
    entries: tuple[Entry, ...]
    last: str
    behind: bool


def _guarantee(certificate: Certificate | None, sigma: float, retrained: bool) -> dict[str, Any]:
    """The values of an entry that say what is promised."""
    if certificate is None:
        absent = dict.fromkeys(("sensitivity", "delta", "certificate"))
        return {**absent, "sigma": sigma, "failure": 0.0, "mu": 0.0 if retrained else None}
    return {
        "sigma": certificate.sigma,
        "sensitivity": certificate.sensitivity,
        "delta": certificate.delta,
        "failure": 0.0 if retrained else certificate.failure,
        "mu": 0.0 if retrained else certificate.sensitivity / certificate.sigma,
        "certificate": certificate.model_dump(mode="json"),
    }


def _expect_within(
    folder: Path, cap: Cap | None, entries: tuple[Entry, ...], entry: Entry | Foreseen, retraining: str = ""
) -> None:
    """Refuse a release that would exceed the budget."""
    if cap is None or entry.mu == 0:
        return
    spent, then = composed(entries, cap.delta), composed((*entries, entry), cap.delta)
    adds = f"bring that to ε = {then.epsilon:.4g}" if not then.reason else f"make that unbounded, since {then.reason}"
    takes = f" and takes {retraining}" if retraining else ""
    expect(
        then.epsilon <= cap.epsilon,
        f"{folder} has {in_words(cap)}, of which ε = {spent.epsilon:.4g} is spent, and this release would {adds}; "
        f"nothing was recorded: release nothing, take more noise, or retrain, which costs no budget{takes}",
    )
