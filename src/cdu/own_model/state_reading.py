"""What is in a state's folder, and whether it is as it was written."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from cdu.checks import expect
from cdu.own_model.release_certificate import ReleaseCertificate, describe
from cdu.own_model.release_page import page
from cdu.own_model.state_files import (
    CERTIFICATE,
    PAGE,
    RELEASES,
    REQUEST,
    SETTINGS,
    WEIGHTS,
    Prepared,
    Request,
    StateSettings,
    held,
    read_weights,
)
from cdu.unlearning.ledger import Ledger
from cdu.unlearning.ledger_entries import Entry, weights_hash
from cdu.unlearning.sealed import REMEDY, read_bytes, read_sealed

if TYPE_CHECKING:
    from torch import Tensor


class KeptState:
    """The folder of a model that answers requests, as it is read; :class:`~cdu.own_model.state.State` writes it.

    Attributes:
        folder: The folder.
        settings: What holds for all requests.
        ledger: What was released.
    """

    def __init__(self, folder: Path, settings: StateSettings, ledger: Ledger, lock: FileLock) -> None:
        self.folder = folder
        self.settings = settings
        self.ledger = ledger
        self._lock = lock

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
        return self._verified(len(entries), entries[-1].after if entries else self.settings.original)[0]

    def gone(self) -> frozenset[str]:
        """The salted hashes of all ids that requests named which were answered."""
        return frozenset(one for entry in self.ledger.entries() for one in entry.ids)

    def answered(self, ids: Sequence[str | int]) -> Entry | None:
        """The last entry, where its request named these ids and no others."""
        entries = self.ledger.entries()
        return entries[-1] if entries and set(entries[-1].ids) == set(self.ledger.hashed(ids)) else None

    def release_folder(self, number: int) -> Path:
        """Where the weights, the certificate and the page of a release lie."""
        return self._release(number)

    def pending(self) -> Request | None:
        """The request under way; None when none is.

        Raises:
            CduError: Its file was changed.
        """
        path = self.folder / REQUEST
        return read_sealed(Request, path) if path.exists() else None

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
                self._verified(0, self.settings.original)
            before = self.settings.original
            for number, entry in enumerate(entries, start=1):
                expect(
                    entry.before == before,
                    f"entry {number} of {self.ledger.folder} starts from other weights than the release before it has; "
                    f"{REMEDY}",
                )
                self._check_release(entries[:number])
                before = entry.after
        return last

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes away, such as while a request is answered; may be nested.

        Raises:
            CduError: Another process works on the state, or the folder cannot be written.
        """
        with held(self.folder, self._lock):
            yield

    def _release(self, number: int, ending: str = "") -> Path:
        return self.folder / RELEASES / f"{number:04d}{ending}"

    def _verified(self, number: int, expected: str) -> "tuple[dict[str, Tensor], str]":
        """The weights of a release, which must have the expected hash, and the hash of their file."""
        path = self._release(number) / WEIGHTS
        tensors, file = read_weights(path)
        expect(
            weights_hash(tensors) == expected,
            f"{path} was changed: it does not hold the weights that were {'recorded' if number else 'given'}; {REMEDY}",
        )
        return tensors, file

    def _describe(self, entries: Sequence[Entry], file: str, prepared: Prepared) -> tuple[bytes, bytes]:
        """Certificate and page of the last of the entries' releases."""
        keys = (prepared.request.options, prepared.facts, self.ledger.cap, self.settings.delta)
        found = describe(entries, file, *keys)
        text = page(found).encode()
        return found.model_copy(update={"page": hashlib.sha256(text).hexdigest()}).sealed()[1], text

    def _check_release(self, entries: Sequence[Entry]) -> None:
        """Check the files of the last of the entries' releases."""
        entry = entries[-1]
        folder = self._release(entry.number)
        _, file = self._verified(entry.number, entry.after)
        found = read_sealed(ReleaseCertificate, folder / CERTIFICATE)
        made = describe(entries, file, found.options, found.facts, self.ledger.cap, self.settings.delta)
        for name in type(found).model_fields:
            expect(
                name in ("hash", "page") or getattr(found, name) == getattr(made, name),
                f"{folder / CERTIFICATE} was changed: '{name}' is not what the ledger and the weights say; {REMEDY}",
            )
        expect(
            hashlib.sha256(read_bytes(folder / PAGE)).hexdigest() == found.page,
            f"{folder / PAGE} was changed: it is not the page that {CERTIFICATE} names; {REMEDY}",
        )

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
