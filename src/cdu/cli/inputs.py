"""What an engineer names on the command line: code, weights, ids, a method's options."""

import os
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdu.checks import expect
from cdu.errors import CduError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cdu.settings import Value


def named(reference: str, option: str) -> Any:
    """What ``module:name`` names, with modules of the working directory too.

    An exception that the module itself raises is an error of its author and is not changed.

    Args:
        reference: As it was typed.
        option: The option that it was given to, for the sentence.

    Raises:
        CduError: It is not of that form, or there is no such module or name.
    """
    module, _, name = reference.partition(":")
    expect(
        bool(module) and name.isidentifier(),
        f"{option} {reference} is not of the form module:name, as in shop.model:build",
    )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        # What the module itself fails to import is another matter.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise CduError(
            f"{option} {reference}: there is no module '{error.name}' in {os.getcwd()} or on Python's path; go to its "
            "folder, install it, or set PYTHONPATH"
        ) from error
    if not hasattr(found, name):
        raise CduError(f"{option} {reference}: {found.__file__ or module} has no '{name}'; name one that it has")
    return getattr(found, name)


def model(reference: str) -> "nn.Module":
    """The module that a function gives.

    Raises:
        CduError: There is no such function, or it gives something else.
    """
    from torch import nn

    build = named(reference, "--model")
    expect(
        callable(build), f"--model {reference} is of type {type(build).__name__}; name a function that gives a module"
    )
    built = build if isinstance(build, nn.Module) else build()
    if not isinstance(built, nn.Module):
        raise CduError(
            f"--model {reference} gives something of type {type(built).__name__}; it is to give a torch.nn.Module"
        )
    return built


def data(reference: str) -> Any:
    """The ``Data`` that a name stands for, or that its function gives; anything else is handed to ``as_data``.

    Raises:
        CduError: There is no such name, or ``as_data`` refuses what it stands for.
    """
    from cdu.data.source import Data, as_data

    found = named(reference, "--data")
    given = found() if callable(found) else found
    return given if isinstance(given, Data) else as_data(given)


def task(reference: str) -> Any:
    """The ``Task`` that a name stands for, or that of a loss; cross-entropy of classes where nothing is named.

    Raises:
        CduError: There is no such name, or it is neither of them.
    """
    from torch.nn.functional import cross_entropy

    from cdu.own_model.task import Task

    if not reference:
        return Task(cross_entropy, kind="classes")
    found = named(reference, "--task")
    expect(
        isinstance(found, Task) or callable(found),
        f"--task {reference} is of type {type(found).__name__}; name a cdu.Task or a loss(outputs, targets)",
    )
    return found if isinstance(found, Task) else Task(found)


def load_weights(module: "nn.Module", path: Path) -> None:
    """Load a safetensors file into a module; weights that are tied may stand in it once.

    Nothing else is read: reading a pickle runs the code in it.

    Raises:
        CduError: The file cannot be read, or its names or shapes are not those of the module.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        missing, unexpected = load_model(module, path, strict=False)
    except (OSError, SafetensorError) as error:
        raise CduError(
            f"{path} cannot be read as safetensors ({error}); give a file that safetensors.torch.save_model wrote"
        ) from error
    except RuntimeError as error:
        reasons = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise CduError(f"{path} does not fit the model: {reasons or error}; give the weights of this model") from error
    lacks = [f"lacks {', '.join(sorted(missing))}"] if missing else []
    has = [f"holds {', '.join(sorted(unexpected))}, which the model has not"] if unexpected else []
    expect(not lacks + has, f"{path} does not fit the model: it {' and '.join(lacks + has)}; give this model's weights")


def same_weights(module: "nn.Module", weights: "Mapping[str, Tensor]") -> bool:
    """Whether a module's parameters and buffers are these, to the bit."""
    import torch

    own = module.state_dict()
    return all(name in weights and torch.equal(own[name].cpu(), weights[name].cpu()) for name in own)


def read_ids(source: str) -> list[str]:
    """The ids in a file, one a line; blank lines and lines that begin with # are none.

    Args:
        source: The file's path; - for the standard input. Text in UTF-8.

    Raises:
        CduError: The file cannot be read, is no such text, or names no id.
    """
    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        lines = [line.strip() for line in content.decode("utf-8-sig").split("\n")]
    except OSError as error:
        raise CduError(
            f"--forget {source} cannot be read ({error.strerror}); give a file with one id a line"
        ) from error
    except UnicodeDecodeError as error:
        raise CduError(f"--forget {source} is no text in UTF-8 ({error}); save it as such") from error
    ids = [line for line in lines if line and not line.startswith("#")]
    expect(bool(ids), f"--forget {source} names no id; write one a line")
    return ids


def values(pairs: Iterable[str]) -> "dict[str, Value]":
    """A method's options: ``damping=10`` as a whole number, ``rate=1e-3`` as a decimal one, others as text.

    Raises:
        CduError: One is not of the form name=value, is given twice, or has an option of the command line.
    """
    found: dict[str, Value] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        expect(name.isidentifier() and bool(sign), f"--option {pair} is not of the form name=value, as damping=10")
        expect(name not in found, f"--option {name} is given twice; leave one out")
        expect(name not in ("epsilon", "delta", "method"), f"--option {pair} is not the method's; give --{name}")
        found[name] = _value(text)
    return found


def _value(text: str) -> "Value":
    """A number where the text is one; yes and no are 'true' and 'false'."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
