"""The folder of a model that answers requests to delete, one after another, and survives a crash at any moment.

A state is a folder:

- ``settings.json``: what holds for all requests;
- ``ledger/``: a :class:`~cdu.unlearning.ledger.Ledger`;
- ``request.json``: the request under way; absent when none is;
- ``releases/0000/weights.safetensors``: the model as it came, until release 1 is made: it knows the deleted rows;
- ``releases/0001/``, …: ``weights.safetensors``, ``certificate.json`` and ``release.html``, which are handed out.

A request is on the disk before anything is computed. The weights that answer it are written to a folder whose name ends
in ``.part``, then the ledger's entry is written, and from then on the release counts. What is left to do follows from
files that are on the disk by then, and :meth:`State.open` does it after a crash. So no request is lost, none is counted
twice, and no release is without an entry. What the next request starts from is the release itself.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from cdu.certification.certificate import Certificate
from cdu.checks import expect, expect_delta, expect_positive
from cdu.errors import CduError
from cdu.own_model.release_certificate import Facts
from cdu.own_model.release_folder import check_release, complete, read_verified
from cdu.own_model.state_files import (
    LEDGER,
    LOCK,
    PART,
    PREPARED,
    RELEASES,
    REQUEST,
    SETTINGS,
    WEIGHTS,
    Prepared,
    Request,
    StateSettings,
    expect_kinds,
    kinds,
    plain,
    remove,
    remove_folder,
    told,
    write_weights,
)
from cdu.unlearning.ledger import Ledger
from cdu.unlearning.ledger_entries import Entry, weights_hash
from cdu.unlearning.ledger_files import now
from cdu.unlearning.sealed import REMEDY, read_sealed, sync, write_durably

if TYPE_CHECKING:
    from torch import Tensor

_RETRY = "make room or give back the right to write, and do the same again"


class State:
    """The folder of a model that answers requests; made by :meth:`begin` or :meth:`open`.

    Attributes:
        folder: The folder.
        settings: What holds for all requests.
        ledger: What was released. Entries are written by :meth:`commit` alone.
    """

    def __init__(self, folder: Path, settings: StateSettings, ledger: Ledger, lock: FileLock) -> None:
        self.folder = folder
        self.settings = settings
        self.ledger = ledger
        self._lock = lock

    @classmethod
    def begin(
        cls,
        folder: str | os.PathLike[str],
        settings: StateSettings,
        tensors: "Mapping[str, Tensor]",
        cap: tuple[float, float] | None = None,
    ) -> "State":
        """Begin a state beside its place and move it there in one step: there is a whole one or none.

        Args:
            folder: Where; absent or empty.
            settings: l2, radius, parameters and δ; what else they hold is filled in.
            tensors: The full state of the module as it came.
            cap: The budget (ε, δ) that all releases together keep to.

        Raises:
            CduError: The folder holds something, it cannot be written, or an argument is unusable.
        """
        place = Path(folder)
        expect(
            not place.exists() or (place.is_dir() and not any(place.iterdir())),
            f"{place} holds something already; open a state that is there with State.open, or give another folder",
        )
        expect_delta(settings.delta)
        found = kinds(tensors)
        with told(f"no state can be begun in {place}", "give an empty folder, or none, where there is room"):
            place.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
            try:
                given = {"tensors": found, "original": weights_hash(tensors), "begun": now(), "version": version("cdu")}
                given["ledger"] = Ledger(made / LEDGER, cap).check()
                first = made / RELEASES / "0000"
                first.mkdir(parents=True)
                write_weights(first / WEIGHTS, tensors, mode=0o600)
                write_durably(made / SETTINGS, settings.model_copy(update=given).sealed()[1])
                sync(made / RELEASES)
                made.chmod(0o755)
                made.rename(place)
                sync(place.parent)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        return cls.open(place)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "State":
        """Open a state, finish or undo what a crash left, and check every file.

        Raises:
            CduError: There is no state, another process works on it, it was changed, or it cannot be written.
        """
        place = Path(folder)
        expect(
            (place / SETTINGS).is_file() and (place / LEDGER).is_dir(),
            f"there is no state in {place}, or a part of it is missing; give its folder, bring it back from a copy, or "
            "begin one with State.begin",
        )
        with _held(place, FileLock(place / LOCK)) as lock:
            settings = read_sealed(StateSettings, place / SETTINGS)
            state = cls(place, settings, Ledger.existing(place / LEDGER), lock)
            state._recover()
            state.check()
        return state

    @property
    def number(self) -> int:
        """The number of the last release; 0 before the first."""
        return len(self.ledger.entries())

    def weights(self) -> "dict[str, Tensor]":
        """The current model's full state: that of the last release, or the model as it came.

        Raises:
            CduError: The file was changed.
        """
        entries = self.ledger.entries()
        return read_verified(self._release(len(entries)), entries[-1].after if entries else self.settings.original)[0]

    def gone(self) -> frozenset[str]:
        """The salted hashes of all ids that requests named which were answered."""
        return frozenset(one for entry in self.ledger.entries() for one in entry.ids)

    def pending(self) -> Request | None:
        """The request under way; None when none is.

        Raises:
            CduError: Its file was changed.
        """
        path = self.folder / REQUEST
        return read_sealed(Request, path) if path.exists() else None

    def begin_request(
        self, ids: Sequence[str | int], method: str, epsilon: float | None, delta: float, options: Mapping[str, Any]
    ) -> Request:
        """Write a request down, before anything is computed for it.

        Args:
            ids: Whom it names.
            method: The method, in words.
            epsilon: ε that is wanted; None where none is.
            delta: δ.
            options: The method's options: numbers, texts and lists.

        Returns:
            The request; the one under way where that is the same.

        Raises:
            CduError: Another one is under way, another process works on the state, or it cannot be written.
        """
        expect_delta(delta)
        if epsilon is not None:
            expect_positive(epsilon=epsilon)
        with self.locked():
            asked, line = Request(
                number=self.number + 1,
                ids=tuple(sorted(self.ledger.hashed(ids))),
                method=method,
                epsilon=epsilon,
                delta=delta,
                options=plain(options),
                begun=now(),
            ).sealed()
            pending = self.pending()
            if pending is not None:
                expect(
                    pending.same(asked),
                    f"{self.folder} answers another request since {pending.begun}: {len(pending.ids)} ids by "
                    f"{pending.method}; ask for the same again, or give that one up with withdraw_request()",
                )
                return pending
            with told(f"the request cannot be written to {self.folder / REQUEST}", _RETRY):
                write_durably(self.folder / REQUEST, line, mode=0o600)
        return asked

    def withdraw_request(self) -> None:
        """Give the request under way up, if there is one. It was not answered: nothing was released or spent.

        Raises:
            CduError: Another process works on the state, or it cannot be written.
        """
        with self.locked():
            self._recover()
            with told(f"{self.folder / REQUEST} cannot be removed", _RETRY):
                remove(self.folder / REQUEST)

    def commit(
        self,
        request: Request,
        tensors: "Mapping[str, Tensor]",
        certificate: Certificate | None,
        reason: str,
        sigma: float,
        retrained: bool,
        facts: Facts,
    ) -> Entry:
        """Answer the request under way: write the release and its entry. Only then may the release leave.

        Args:
            request: The request.
            tensors: The full state of the released module.
            certificate: What the release guarantees.
            reason: Why it guarantees nothing.
            sigma: Noise of a release without a certificate; with one, the certificate says it.
            retrained: Whether the model was trained from scratch without the rows.
            facts: What only the program that computed the release knows.

        Raises:
            CduError: The request is not the one under way, the tensors are another model's, the ledger refuses the
                release, another process works on the state, or a file cannot be written. The sentence says whether
                the release counts.
        """
        with self.locked():
            self._recover()
            pending = self.pending()
            expect(
                pending is not None and pending.hash == request.hash,
                f"request {request.number} is not under way in {self.folder}, whose last release is {self.number}: it "
                "was answered or withdrawn; begin the next one with begin_request",
            )
            expect_kinds(tensors, self.settings.tensors)
            before = self.weights()
            part = self._release(request.number, PART)
            with told(f"release {request.number} cannot be written to {part}, and nothing was recorded", _RETRY):
                part.mkdir(mode=0o700)
                write_weights(part / WEIGHTS, tensors, mode=0o644)
                write_durably(part / PREPARED, Prepared(request=request, facts=facts).sealed()[1])
                sync(part.parent)
            keys: dict[str, Any] = {"sigma": sigma, "retrained": retrained}
            try:
                self.ledger.record_hashed(request.ids, request.method, before, tensors, certificate, reason, **keys)
            except CduError:
                # A disk that was full after the entry was written: the release counts.
                if self.number < request.number:
                    raise
            self._recover()
        return self.ledger.entries()[request.number - 1]

    def check(self, noted: str = "") -> str:
        """Check every file and return the hash of the last entry, or of the ledger's settings where there is none.

        Args:
            noted: A hash that this returned before and that was kept elsewhere: it must still be in the chain.

        Raises:
            CduError: A file was changed or is missing, a release has no entry or an entry no release, or the chain does
                not hold the noted hash.
        """
        with self.locked():
            expect(
                read_sealed(StateSettings, self.folder / SETTINGS) == self.settings,
                f"{self.folder / SETTINGS} was exchanged since the state was opened; {REMEDY}",
            )
            last = self.ledger.check(noted)
            self.ledger.check(self.settings.ledger)
            entries = self.ledger.entries()
            self._expect_folders(len(entries))
            self.pending()
            if not entries:
                read_verified(self._release(0), self.settings.original)
            promised = self.ledger.cap, self.settings.delta
            before = self.settings.original
            for number, entry in enumerate(entries, start=1):
                expect(
                    entry.before == before,
                    f"entry {number} of {self.ledger.folder} starts from other weights than the release before it has; "
                    f"{REMEDY}",
                )
                check_release(self._release(number), entries[:number], *promised)
                before = entry.after
        return last

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes away, such as while a request is answered; may be nested.

        Raises:
            CduError: Another process works on the state, or the folder cannot be written.
        """
        with _held(self.folder, self._lock):
            yield

    def _release(self, number: int, ending: str = "") -> Path:
        return self.folder / RELEASES / f"{number:04d}{ending}"

    def _expect_folders(self, count: int) -> None:
        """Refuse a release without an entry, and a model that came and should be gone."""
        expected = {f"{number:04d}" for number in range(min(count, 1), count + 1)}
        there = {path.name for path in self._folders() if re.fullmatch(r"\d+", path.name)}
        for missing in sorted(expected - there):
            expect(False, f"{self.folder / RELEASES / missing} is missing; {REMEDY}")
        for extra in sorted(there - expected):
            expect(False, f"{self.folder / RELEASES / extra} has no entry in the ledger; {REMEDY}")

    def _folders(self) -> list[Path]:
        folder = self.folder / RELEASES
        expect(folder.is_dir(), f"{folder} is missing; {REMEDY}")
        return sorted(folder.iterdir())

    def _recover(self) -> None:
        """Finish a release whose entry is written, and remove what no entry speaks of."""
        entries = self.ledger.entries()
        count = len(entries)
        tried = f"what the last process left in {self.folder} cannot be put in order"
        if count and not self._release(count).exists():
            tried = f"release {count} is recorded in {self.ledger.folder}, but its files cannot be completed"
        with told(tried, "make room or give back the right to write, and open the state again, which goes on"):
            for path in self._folders():
                if path.name == f"{count:04d}{PART}" and count > 0:
                    complete(path, self._release(count), entries, self.ledger.cap, self.settings.delta)
                elif path.name == f"{count + 1:04d}{PART}":
                    remove_folder(path)
            if count > 0:
                remove_folder(self._release(0))
            pending = self.pending()
            if pending is not None and pending.number <= count:
                remove(self.folder / REQUEST)
            for left in self.folder.glob(".*.tmp"):
                left.unlink()


@contextmanager
def _held(folder: Path, lock: FileLock) -> Iterator[FileLock]:
    """Hold a state's lock, at once or not at all."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CduError(f"another process works on {folder}; wait until it has ended, and do the same again") from None
    except OSError as error:
        raise CduError(
            f"{folder} cannot be locked ({error}); give a state's folder, or a copy that you may write to"
        ) from error
    try:
        yield lock
    finally:
        lock.release()
