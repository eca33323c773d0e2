"""Files that show whether they were changed: JSON objects that end in the hash of their text, written to the disk."""

import hashlib
import os
import re
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cdu.errors import CduError
from cdu.storage import write

#: A JSON object with the hash of its text, as :meth:`Sealed.sealed` writes it, without the end of line.
_SEAL = re.compile(rb'(\{.*),"hash":"([0-9a-f]{64})"\}', re.DOTALL)

#: What to do about a file that was changed.
REMEDY = "find out what changed it, and bring the folder back from a copy"

Kind = TypeVar("Kind", bound="Sealed")


class Sealed(BaseModel):
    """A JSON object that ends in the SHA-256 of the text before it.

    Attributes:
        format: Version of the format.
        hash: SHA-256 of the object's JSON without this value; empty before it is written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    hash: str = ""

    def sealed(self: Kind) -> tuple[Kind, bytes]:
        """The object with its hash, and its line."""
        content = self.model_dump_json(exclude={"hash"}).encode()
        found = hashlib.sha256(content).hexdigest()
        return self.model_copy(update={"hash": found}), content[:-1] + f',"hash":"{found}"}}\n'.encode()


def unsealed(kind: type[Kind], text: bytes, where: str) -> Kind:
    """An object from its line.

    Args:
        kind: Its type.
        text: The line, without its end.
        where: The file and the line, for errors.

    Raises:
        CduError: Text and hash do not belong together, or the values are of another format.
    """
    match = _SEAL.fullmatch(text)
    if match is None or hashlib.sha256(match[1] + b"}").hexdigest() != match[2].decode():
        raise CduError(f"{where}: it was changed, its text and its hash do not belong together; {REMEDY}")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        fields = ", ".join(".".join(str(part) for part in one["loc"]) for one in error.errors())
        raise CduError(
            f"{where}: its values are of another format ({fields}); read it with the version of cdu that wrote it"
        ) from None


def read_sealed(kind: type[Kind], path: Path) -> Kind:
    """The object that is a file's one line.

    Raises:
        CduError: As for :func:`unsealed`, or the file cannot be read.
    """
    text = read_bytes(path)
    # The end of line is outside the hash.
    return unsealed(kind, text[:-1] if text.endswith(b"\n") else b"", f"{path}, line 1")


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        CduError: It is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CduError(f"{path} is missing; {REMEDY}") from None
    except OSError as error:
        raise CduError(f"{path} cannot be read ({error}); {REMEDY}") from error


def write_durably(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file in one step, on the disk when this returns, its name too."""

    def save(temporary: Path) -> None:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as stream:
            stream.write(content)

    write(path, save)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Bring a folder's names to the disk: a file that was renamed could else have its old name after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
