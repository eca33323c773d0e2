"""What is in a state's folder, and whether it is as it was written."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from cdu.checks import expect
from cdu.own_model.release_folder import check_release, read_verified
from cdu.own_model.state_files import (
    RELEASES,
    REQUEST,
    SETTINGS,
    Request,
    StateSettings,
    held,
)
from cdu.unlearning.ledger import Ledger
from cdu.unlearning.ledger_entries import Entry
from cdu.unlearning.sealed import REMEDY, read_sealed

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
        return read_verified(self._release(len(entries)), entries[-1].after if entries else self.settings.original)[0]

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
        with held(self.folder, self._lock):
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
