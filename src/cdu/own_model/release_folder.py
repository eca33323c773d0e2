"""The folder of one release: how it is completed once its entry is written, and how it is checked."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cdu.checks import expect
from cdu.own_model.release_certificate import ReleaseCertificate, describe
from cdu.own_model.release_page import page
from cdu.own_model.state_files import CERTIFICATE, PAGE, PREPARED, WEIGHTS, Prepared, read_weights
from cdu.unlearning.ledger_entries import Entry, weights_hash
from cdu.unlearning.ledger_files import Cap
from cdu.unlearning.sealed import REMEDY, read_bytes, read_sealed, sync, write_durably

if TYPE_CHECKING:
    from torch import Tensor


def complete(part: Path, folder: Path, entries: Sequence[Entry], cap: Cap | None, delta: float) -> None:
    """Write certificate and page of a release beside its weights, and give its folder the name that it keeps.

    Whatever process ended while it did this, the next one can do it again.

    Args:
        part: The folder as it was prepared.
        folder: What it is to be called.
        entries: The ledger's entries up to that of the release.
        cap: The ledger's budget.
        delta: δ of all releases together where there is no budget.

    Raises:
        CduError: A file of the folder was changed.
        OSError: A file cannot be written.
    """
    _, file = read_verified(part, entries[-1].after)
    # Without it certificate and page are written already.
    if (part / PREPARED).exists():
        prepared = read_sealed(Prepared, part / PREPARED)
        found = describe(entries, file, prepared.request.options, prepared.facts, cap, delta)
        text = page(found).encode()
        write_durably(part / PAGE, text)
        found = found.model_copy(update={"page": hashlib.sha256(text).hexdigest()})
        write_durably(part / CERTIFICATE, found.sealed()[1])
    for path in part.iterdir():
        if path.name not in (WEIGHTS, CERTIFICATE, PAGE):
            path.unlink()
    part.chmod(0o755)
    part.rename(folder)
    sync(folder.parent)


def read_verified(folder: Path, expected: str) -> "tuple[dict[str, Tensor], str]":
    """The weights of a release, which must have the expected hash, and the hash of their file.

    Raises:
        CduError: The file was changed.
    """
    tensors, file = read_weights(folder / WEIGHTS)
    expect(
        weights_hash(tensors) == expected,
        f"{folder / WEIGHTS} was changed: it does not hold the weights that were recorded; {REMEDY}",
    )
    return tensors, file


def check_release(folder: Path, entries: Sequence[Entry], cap: Cap | None, delta: float) -> None:
    """Check the files of a release against the ledger, and against one another.

    Args:
        folder: The release's folder.
        entries: The ledger's entries up to that of the release.
        cap: The ledger's budget.
        delta: δ of all releases together where there is no budget.

    Raises:
        CduError: A file is missing or was changed.
    """
    _, file = read_verified(folder, entries[-1].after)
    found = read_sealed(ReleaseCertificate, folder / CERTIFICATE)
    made = describe(entries, file, found.options, found.facts, cap, delta)
    for name in type(found).model_fields:
        expect(
            name in ("hash", "page") or getattr(found, name) == getattr(made, name),
            f"{folder / CERTIFICATE} was changed: '{name}' is not what the ledger and the weights say; {REMEDY}",
        )
    expect(
        hashlib.sha256(read_bytes(folder / PAGE)).hexdigest() == found.page,
        f"{folder / PAGE} was changed: it is not the page that {CERTIFICATE} names; {REMEDY}",
    )
