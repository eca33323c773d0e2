"""Files that a reader sees whole or not at all, and results that are computed once and kept.

Nothing here imports PyTorch before a tensor is read or written: records and tables need none.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cdu.errors import DamagedFileError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Result = TypeVar("Result")

#: The key of a tensor file's header below which everything but tensors is kept, as JSON.
HEADER = "content"


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file in one step: a temporary file beside it, fsync, rename. A reader sees the old file or the new one.

    Args:
        path: The file; its folder is made where it is absent.
        save: Writes the content to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write a text in UTF-8 in one step."""
    write(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write plain values as JSON in one step."""
    write_text(path, json.dumps(content))


def read_json(path: Path, remedy: str) -> Any:
    """Plain values from a JSON file.

    Raises:
        CduError: The file cannot be read; ``remedy`` says what to delete it for.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(path, error, remedy) from error


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], content: Any = None) -> None:
    """Write named tensors, and plain values beside them, as a safetensors file in one step."""
    write(path, lambda temporary: temporary.write_bytes(tensor_bytes(tensors, content)))


def tensor_bytes(tensors: Mapping[str, "Tensor"], content: Any = None) -> bytes:
    """What :func:`write_tensors` would write."""
    from safetensors.torch import save

    on_cpu = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    return save(on_cpu, metadata={HEADER: json.dumps(content)})


def read_tensors(path: Path, remedy: str, device: "torch.device | str" = "cpu") -> "tuple[dict[str, Tensor], Any]":
    """Named tensors and the plain values beside them.

    Raises:
        CduError: The file cannot be read; ``remedy`` says what to delete it for.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            content = json.loads(file.metadata()[HEADER])
            return {name: file.get_tensor(name) for name in file.keys()}, content  # noqa: SIM118 (not a mapping)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise unreadable(path, error, remedy) from error


def tensor_names(path: Path, remedy: str) -> set[str]:
    """The names of the tensors in a file.

    Raises:
        CduError: The file cannot be read; ``remedy`` says what to delete it for.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error, remedy) from error


def unreadable(path: Path, error: Exception, remedy: str) -> DamagedFileError:
    """The error for a kept file that is damaged, whose deletion is the remedy, as in "to train again"."""
    return DamagedFileError(f"{path} cannot be read ({error}); delete it {remedy}")


def kept(
    path: Path, compute: Callable[[], Result], save: Callable[[Path, Result], None], load: Callable[[Path], Result]
) -> Result:
    """What a file holds, or what ``compute`` gives, kept there in one step.

    What was just computed is read again too, so that everybody sees what the file holds.

    Args:
        path: The file.
        compute: Makes the result where the file is absent.
        save: Writes it, by one of the functions above.
        load: Reads it; raises :class:`~cdu.errors.CduError` for a file that cannot be read.
    """
    if not path.exists():
        save(path, compute())
    return load(path)


def kept_tensors(path: Path, compute: "Callable[[], dict[str, Tensor]]") -> "dict[str, Tensor]":
    """Named tensors from a file, or computed and kept there.

    Raises:
        CduError: The file cannot be read.
    """
    return kept(path, compute, write_tensors, lambda file: read_tensors(file, "to compute it again")[0])
