"""The files of a ledger: their names, what they hold, and how a ledger is begun."""

import hashlib
import secrets
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cdu.errors import CduError
from cdu.unlearning.sealed import Sealed, sync, write_durably

ENTRIES, HEAD, SETTINGS, SALT, LOCK = "entries.jsonl", "head.json", "settings.json", "salt", ".lock"


class Cap(BaseModel):
    """A budget: all releases together keep to (ε, δ)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epsilon: float
    delta: float


class LedgerSettings(Sealed):
    """What holds for all entries.

    Attributes:
        begun: When the ledger was begun, UTC.
        cap: The budget; None without.
        salt_hash: SHA-256 of the salt.
    """

    begun: str
    cap: Cap | None
    salt_hash: str


class Head(Sealed):
    """Where the entries end.

    Attributes:
        count: How many there are.
        last: The hash of the last one; of the settings where there is none.
    """

    count: int
    last: str


def begin(folder: Path, cap: Cap | None) -> None:
    """Make a ledger beside its place and move it there in one step: there is a whole one or none."""
    salt = secrets.token_bytes(32)
    settings, line = LedgerSettings(begun=now(), cap=cap, salt_hash=hashlib.sha256(salt).hexdigest()).sealed()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise CduError(f"no ledger can be begun in {folder} ({error}); give a folder that you may write to") from error
    try:
        write_durably(made / SALT, salt, mode=0o600)
        write_durably(made / SETTINGS, line)
        write_durably(made / ENTRIES, b"")
        write_durably(made / HEAD, Head(count=0, last=settings.hash).sealed()[1])
        made.rename(folder)
        sync(folder.parent)
    except OSError as error:
        # Another process may have been first; then its ledger is read.
        if not (folder / SETTINGS).exists():
            raise CduError(f"no ledger can be begun in {folder} ({error}); give an empty folder, or none") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def in_words(cap: Cap | None) -> str:
    """A budget in a few words."""
    return "no budget" if cap is None else f"the budget ε = {cap.epsilon:g} at δ = {cap.delta:g}"


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
