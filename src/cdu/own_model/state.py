"""The folder of a model that answers requests to delete, one after another, and survives a crash at any moment.

A state is a folder:

- ``settings.json``: what holds for all requests;
- ``ledger/``: a :class:`~cdu.unlearning.ledger.Ledger`;
- ``request.json``: the request under way; absent when none is;
- ``releases/0000/weights.safetensors``: the model as it came, until release 1 is made: it knows the deleted rows. Where
  no model may be kept that was not released, as of :class:`cdu.convex.Linear`, it is zeros;
- ``releases/0001/``, …: ``weights.safetensors``, ``certificate.json`` and ``release.html``, which are handed out.

A request is on the disk before anything is computed. The weights that answer it are written to a folder whose name ends
in ``.part``, then the ledger's entry is written, and from then on the release counts. What is left to do follows from
files that are on the disk by then, and :meth:`State.open` does it after a crash. So no request is lost, none is counted
twice, and no release is without an entry. What the next request starts from is the release itself.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from cdu.certification.certificate import Certificate
from cdu.checks import expect, expect_delta, expect_positive
from cdu.errors import CduError
from cdu.own_model.release_certificate import Facts
from cdu.own_model.release_folder import complete
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
    held,
    kinds,
    plain,
    remove,
    remove_folder,
    told,
    write_weights,
)
from cdu.own_model.state_reading import KeptState
from cdu.unlearning.ledger import Ledger
from cdu.unlearning.ledger_entries import Entry, weights_hash
from cdu.unlearning.ledger_files import now
from cdu.unlearning.sealed import read_sealed, sync, write_durably

if TYPE_CHECKING:
    from torch import Tensor

_RETRY = "make room or give back the right to write, and do the same again"


class State(KeptState):
    """The folder of a model that answers requests; made by :meth:`begin` or :meth:`open`.

    Attributes:
        folder: The folder.
        settings: What holds for all requests.
        ledger: What was released. Entries are written by :meth:`commit` alone.
    """

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
            settings: What the caller says of the model; what else they hold is filled in.
            tensors: The full state of the module as it came; zeros where the first model must not be kept.
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
        with held(place, FileLock(place / LOCK)) as lock:
            settings = read_sealed(StateSettings, place / SETTINGS)
            state = cls(place, settings, Ledger.existing(place / LEDGER), lock)
            state._recover()
            state.check()
        return state

    @classmethod
    def begin_or_open(
        cls,
        folder: str | os.PathLike[str],
        settings: StateSettings,
        tensors: "Mapping[str, Tensor]",
        cap: tuple[float, float] | None = None,
    ) -> "State":
        """Begin a state where there is none, else open the one that is there, which must be of the same settings.

        Args:
            folder: Where.
            settings: As for :meth:`begin`.
            tensors: The module's state. Where a state is there, their names, shapes and types alone count.
            cap: As for :meth:`begin`; where a state is there, it may be left out.

        Raises:
            CduError: As for :meth:`begin` and :meth:`open`; or the state was begun with something else.
        """
        place = Path(folder)
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            return cls.begin(place, settings, tensors, cap)
        state = cls.open(place)
        for name in ("l2", "radius", "parameters", "fixed_saw_data", "budget", "loss"):
            given, there = getattr(settings, name), getattr(state.settings, name)
            expect(
                given == there,
                f"{place} was begun with {name} = {there}, not {given}: what was promised rests on it; give the same, "
                "or begin another state",
            )
        other = set(settings.chosen) ^ set(state.settings.chosen)
        expect(
            not other,
            f"{place} was begun with other parameters frozen: {len(other)} differ, such as '{min(other, default='')}'; "
            "set requires_grad as it was then, since what is fixed has no noise",
        )
        expect_kinds(tensors, state.settings.tensors)
        # The ledger looks at the budget.
        Ledger(place / LEDGER, cap)
        return state

    def copied_to(self, folder: Path) -> "State":
        """A copy of the state in a folder that is not there.

        Raises:
            CduError: The folder is there already, or cannot be written.
        """
        expect(not folder.exists(), f"{folder} is there already; give a folder that is not")
        with self.locked(), told(f"the state cannot be copied to {folder}", "give a folder that you may write to"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                shutil.copytree(self.folder, made / "state", ignore=shutil.ignore_patterns(LOCK))
                (made / "state").rename(folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        return State.open(folder)

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
                    f"another request is pending in {self.folder} since {pending.begun}: {len(pending.ids)} ids by "
                    f"'{pending.method}'; resume it, or withdraw it",
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
