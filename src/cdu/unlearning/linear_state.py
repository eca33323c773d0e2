"""The folder of a linear model that answers requests: its settings, its ledger, and what was released.

- ``settings.json``: what must stay the same, sealed (:mod:`cdu.unlearning.sealed`);
- ``ledger/``: a :class:`~cdu.unlearning.ledger.Ledger`, whose entry N is release N;
- ``releases/N/weights.safetensors``: what was handed out.

Weights are written to ``releases/N.part`` first. Then the entry is written: from here on the release counts. Then the
folder gets its name. A process that ends in between leaves a folder that :class:`LinearState` finishes or removes when
it is opened. The folder never holds a model that was not released.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock
from torch import Tensor

from cdu.certification.certificate import Certificate
from cdu.checks import expect
from cdu.errors import CduError
from cdu.storage import read_tensors, write_tensors
from cdu.unlearning.ledger import Ledger
from cdu.unlearning.ledger_entries import Entry, weights_hash
from cdu.unlearning.sealed import REMEDY, Sealed, read_sealed, sync, write_durably

SETTINGS, LEDGER, RELEASES, WEIGHTS, LOCK = "settings.json", "ledger", "releases", "weights.safetensors", ".lock"


class LinearSettings(Sealed):
    """What a linear model was begun with.

    Attributes:
        features: Features of a row.
        classes: K.
        loss: "softmax" or "squared".
        l2: Weight of (l2/2)‖w‖².
        budget: Δ.
    """

    features: int
    classes: int
    loss: Literal["softmax", "squared"]
    l2: float
    budget: float


def settings_in(folder: str | os.PathLike[str]) -> LinearSettings | None:
    """The settings of a folder; None where none was begun.

    Raises:
        CduError: The folder holds something else, or the settings were changed.
    """
    path = Path(folder)
    if (path / SETTINGS).exists():
        return read_sealed(LinearSettings, path / SETTINGS)
    # The ledger is begun before the settings are written.
    others = sorted(one.name for one in path.iterdir() if one.name not in (LEDGER, LOCK)) if path.is_dir() else []
    expect(
        not others and (path.is_dir() or not path.exists()),
        f"{path} holds no model's state, but {', '.join(others) or 'is a file'}; give another folder, or an empty one",
    )
    return None


class LinearState:
    """A model's folder, whole: what a process left unfinished is finished or removed.

    Args:
        folder: The folder; a state is begun where there is none.
        settings: What the model is to have; a state that is there must have the same.
        cap: The budget of all releases together, for the ledger.

    Raises:
        CduError: The settings are others, or a file is missing or was changed.
    """

    def __init__(
        self, folder: str | os.PathLike[str], settings: LinearSettings, cap: tuple[float, float] | None = None
    ) -> None:
        self.folder = Path(folder)
        held = settings_in(self.folder)
        if held is None:
            self.ledger = Ledger(self.folder / LEDGER, cap)
            write_durably(self.folder / SETTINGS, settings.sealed()[1])
        else:
            _expect_same(self.folder, held, settings)
            Ledger.existing(self.folder / LEDGER)
            self.ledger = Ledger(self.folder / LEDGER, cap)
        with self.locked():
            self._recover()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time."""
        with FileLock(self.folder / LOCK):
            yield

    def weights(self) -> Tensor | None:
        """The last release, shape (p,); None before the first.

        Raises:
            CduError: It is missing, or is not the one that the ledger's entry names.
        """
        entries = self.ledger.entries()
        if not entries:
            return None
        w = _read(self._release(len(entries)))
        expect(
            weights_hash(w) == entries[-1].after,
            f"{self._release(len(entries)) / WEIGHTS} does not hold the weights of entry {len(entries)}; {REMEDY}",
        )
        return w

    def commit(
        self,
        number: int,
        ids: Sequence[str],
        method: str,
        before: Tensor,
        after: Tensor,
        certificate: Certificate,
        classes: int,
    ) -> Entry:
        """Keep a release and write its entry; only when this returns may the release leave.

        Args:
            number: The release's number: one more than there are entries.
            ids: Whom the request names.
            method: The method's name.
            before: The weights before, shape (p,).
            after: The weights that are to be released, shape (p,).
            certificate: Their certificate.
            classes: K.

        Raises:
            CduError: As for :meth:`Ledger.record <cdu.unlearning.ledger.Ledger.record>`.
        """
        staged = self._staged(number)
        try:
            shutil.rmtree(staged, ignore_errors=True)
            parts = {"weights": after[:-classes].view(classes, -1), "bias": after[-classes:]}
            write_tensors(staged / WEIGHTS, parts)
            for folder in (staged, staged.parent, self.folder):
                sync(folder)
        except OSError as error:
            raise CduError(
                f"release {number} cannot be written to {staged} ({error}); make room and ask again"
            ) from error
        entry = self.ledger.record(ids, method, before, after, certificate)
        self._finish(number)
        return entry

    def _recover(self) -> None:
        """Name the last entry's weights, where a process ended before that, and remove weights that have no entry."""
        count = len(self.ledger.entries())
        if count and not self._release(count).exists() and self._staged(count).exists():
            self._finish(count)
        for staged in self.folder.glob(f"{RELEASES}/*.part"):
            shutil.rmtree(staged)
        self.weights()

    def _finish(self, number: int) -> None:
        self._staged(number).rename(self._release(number))
        sync(self.folder / RELEASES)

    def _release(self, number: int) -> Path:
        return self.folder / RELEASES / f"{number:04d}"

    def _staged(self, number: int) -> Path:
        return self.folder / RELEASES / f"{number:04d}.part"


def _read(folder: Path) -> Tensor:
    expect((folder / WEIGHTS).exists(), f"{folder / WEIGHTS} is missing; {REMEDY}")
    parts, _ = read_tensors(folder / WEIGHTS, "and bring the folder back from a copy")
    return torch.cat([parts["weights"].reshape(-1), parts["bias"]])


def _expect_same(folder: Path, held: LinearSettings, wanted: LinearSettings) -> None:
    for name in ("features", "classes", "loss", "l2", "budget"):
        expect(
            getattr(held, name) == getattr(wanted, name),
            f"{folder} was begun with {name} = {getattr(held, name)}, not {getattr(wanted, name)}; give the same, or "
            "begin another folder",
        )
