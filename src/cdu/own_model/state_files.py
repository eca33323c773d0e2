"""The files of a state: their names, what they hold, and how they are read and written."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, JsonValue

from cdu.checks import expect
from cdu.errors import CduError
from cdu.own_model.release_certificate import Facts
from cdu.storage import tensor_bytes
from cdu.unlearning.sealed import REMEDY, Sealed, read_bytes, read_sealed, sync, write_durably

if TYPE_CHECKING:
    from torch import Tensor

SETTINGS, LEDGER, REQUEST, RELEASES, LOCK = "settings.json", "ledger", "request.json", "releases", ".lock"
WEIGHTS, CERTIFICATE, PAGE, PREPARED = "weights.safetensors", "certificate.json", "release.html", "prepared.json"

#: Ending of a release's folder until the release is whole.
PART = ".part"


class TensorKind(BaseModel):
    """What a tensor is beside its numbers.

    Attributes:
        name: Its name in the module's state.
        shape: Its shape.
        dtype: Its type, such as "float32".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shape: tuple[int, ...]
    dtype: str


class StateSettings(Sealed):
    """What holds for all requests. Who begins a state gives those up to ``loss``; the others are filled in then.

    Attributes:
        l2: The weight of the l2 term that training used.
        radius: C, the ball that training projected onto; None for none.
        parameters: Which parameters are unlearned, as patterns such as "head.*".
        fixed_saw_data: Whether the other parameters were ever trained on the data; None where there are none.
        chosen: The names of the parameters that these patterns choose among those not frozen, ascending.
        delta: δ of every release, and of all together where there is no budget.
        budget: Δ, the distance to the exact minimiser that every release keeps before its noise; None where no release
            is checked against one.
        loss: The loss by its name; empty where it is the caller's own function.
        tensors: The kinds of all tensors of the module's state, in the order of their names.
        original: The hash of the model as it came.
        ledger: The hash of the ledger's own settings, with which its chain begins.
        begun: When the state was begun, UTC.
        version: The version of cdu that began it.
    """

    l2: float
    radius: float | None
    parameters: tuple[str, ...] = ("*",)
    fixed_saw_data: bool | None = None
    chosen: tuple[str, ...] = ()
    delta: float
    budget: float | None = None
    loss: str = ""
    tensors: tuple[TensorKind, ...] = ()
    original: str = ""
    ledger: str = ""
    begun: str = ""
    version: str = ""


def settings_in(folder: Path) -> StateSettings | None:
    """The settings of the state in a folder; None where there is none.

    Raises:
        CduError: They were changed.
    """
    return read_sealed(StateSettings, folder / SETTINGS) if (folder / SETTINGS).is_file() else None


class Request(Sealed):
    """A request under way.

    Attributes:
        number: k, that of the release that will answer it.
        ids: The ids that it names, each as HMAC-SHA256 with the ledger's salt, in ascending order.
        method: The method, in words.
        epsilon: ε that is wanted; None where none is.
        delta: δ.
        options: The method's options.
        begun: When it was written, UTC.
    """

    number: int
    ids: tuple[str, ...]
    method: str
    epsilon: float | None
    delta: float
    options: dict[str, JsonValue]
    begun: str

    def same(self, other: "Request") -> bool:
        """Whether both ask for the same, whenever they were begun."""
        left = {"hash", "begun"}
        return self.model_dump(exclude=left) == other.model_dump(exclude=left)


class Prepared(Sealed):
    """What a release's folder holds until the release is whole: what its certificate needs beside the ledger.

    Attributes:
        request: The request that it answers.
        facts: What the program that computed it knows.
    """

    request: Request
    facts: Facts


def kinds(tensors: "Mapping[str, Tensor]") -> tuple[TensorKind, ...]:
    """The kinds of tensors, in the order of their names.

    Raises:
        CduError: There is none, or something else is among them.
    """
    import torch

    expect(len(tensors) > 0, "the model's state holds no tensor; give module.state_dict()")
    for name, tensor in tensors.items():
        expect(
            isinstance(tensor, torch.Tensor),
            f"'{name}' in the model's state is of the type {type(tensor).__name__}; only tensors can be kept",
        )
    return tuple(
        TensorKind(name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
        for name, tensor in sorted(tensors.items())
    )


def expect_kinds(tensors: "Mapping[str, Tensor]", expected: tuple[TensorKind, ...]) -> None:
    """Refuse tensors of another model.

    Raises:
        CduError: A name, shape or type is another one; the sentence names the first.
    """
    found, wanted = ({kind.name: kind for kind in some} for some in (kinds(tensors), expected))
    for name in sorted({*found, *wanted}):
        one, other = found.get(name), wanted.get(name)
        expect(
            one == other,
            f"the tensor '{name}' is {_in_words(one)}, and the state was begun with {_in_words(other)}; give the state "
            "of the same module",
        )


def write_weights(path: Path, tensors: "Mapping[str, Tensor]", mode: int) -> None:
    """Write named tensors as a safetensors file, on the disk when this returns."""
    # Copies: tied weights share their memory, which the format does not have.
    write_durably(path, tensor_bytes({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}), mode)


def read_weights(path: Path) -> "tuple[dict[str, Tensor], str]":
    """Named tensors, and the SHA-256 of their file.

    Raises:
        CduError: The file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = read_bytes(path)
    try:
        return load(content), hashlib.sha256(content).hexdigest()
    except (SafetensorError, ValueError, KeyError) as error:
        raise CduError(f"{path} holds no tensors ({error}); {REMEDY}") from error


def plain(options: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Options as JSON keeps them.

    Raises:
        CduError: A value is none that JSON has.
    """
    try:
        found: dict[str, JsonValue] = json.loads(json.dumps(dict(options), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise CduError(
            f"the options {dict(options)!r} cannot be kept ({error}); give finite numbers, texts and lists"
        ) from None
    return found


def remove(path: Path) -> None:
    """Remove a file, if it is there, and bring that to the disk."""
    path.unlink(missing_ok=True)
    sync(path.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder of files, if it is there, and bring that to the disk."""
    if folder.exists():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        sync(folder.parent)


@contextmanager
def told(failed: str, remedy: str) -> Iterator[None]:
    """Turn what the operating system refuses, such as a full disk, into one sentence.

    Args:
        failed: What could not be done.
        remedy: What to do.
    """
    try:
        yield
    except OSError as error:
        raise CduError(f"{failed} ({os.strerror(error.errno) if error.errno else error}); {remedy}") from error


def _in_words(kind: TensorKind | None) -> str:
    return "absent" if kind is None else f"{kind.dtype} of shape {kind.shape}"


@contextmanager
def held(folder: Path, lock: FileLock) -> Iterator[FileLock]:
    """Hold a state's lock, at once or not at all."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CduError(f"another process works on {folder}; wait until it has ended, and do the same again") from None
    except RuntimeError as error:
        # filelock's word for a lock that came along in a fork.
        raise CduError(
            f"{folder} was opened before this process was forked; open it anew here, such as by Unlearner.load"
        ) from error
    except OSError as error:
        raise CduError(
            f"{folder} cannot be locked ({error}); give a state's folder, or a copy that you may write to"
        ) from error
    try:
        yield lock
    finally:
        lock.release()
