"""What users bring instead of tensors: NumPy arrays and pandas frames are copied, anything else is refused."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cdu.checks import expect


def as_tensor(given: Any, name: str) -> Tensor:
    """A tensor as it is; an array, or a pandas frame or series, as a tensor on the CPU with memory of its own.

    Floats keep their precision. Integers become int64, but bytes stay bytes: they may be images.

    Args:
        given: What a user gave.
        name: What it is, in the plural, for the sentence that refuses it.

    Raises:
        CduError: It is none of these, or holds something else than numbers.
    """
    if isinstance(given, Tensor):
        return given
    kind = type(given).__name__
    expect(
        not isinstance(given, Dataset | DataLoader),
        f"{name} are a {kind}; give Samples tensors, or make them with cdu.data.samples.from_dataset(dataset)",
    )
    expect(
        not isinstance(given, dict | tuple),
        f"{name} are a {kind} of several parts, and a sample has one tensor; concatenate the parts to one tensor, and "
        "wrap the module in one that takes it apart",
    )
    expect(
        isinstance(given, np.ndarray) or hasattr(given, "to_numpy"),
        f"{name} are a {kind}; give a tensor, a NumPy array or a pandas frame",
    )
    array = given if isinstance(given, np.ndarray) else given.to_numpy()
    expect(
        array.dtype.kind in "iuf",
        f"{name} are of type {array.dtype}{_columns(given)}, and are to be numbers; encode them as integers or floats",
    )
    return torch.from_numpy(_copied(array))


def expect_same_rows(inputs: Any, targets: Any) -> None:
    """Refuse two pandas objects whose rows are in different orders: pandas matches rows by their index, tensors do not.

    Args:
        inputs: What a user gave as inputs.
        targets: What a user gave as targets.
    """
    if hasattr(inputs, "to_numpy") and hasattr(targets, "to_numpy"):
        first, second = getattr(inputs, "index", None), getattr(targets, "index", None)
        expect(
            first is None or second is None or len(first) != len(second) or bool((first == second).all()),
            "inputs and targets have different indices, so that a sample would get another one's target; bring them "
            "into one order, e.g. targets.loc[inputs.index]",
        )


def _copied(array: NDArray[Any]) -> NDArray[Any]:
    """A copy in a type and a byte order that PyTorch has."""
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        return np.array(array, dtype=np.int64)
    if array.dtype.itemsize > 8:
        return np.array(array, dtype=np.float64)
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def _columns(given: Any) -> str:
    """Which of a frame's columns hold no numbers, in words; nothing where there are no columns."""
    types: Any = getattr(given, "dtypes", None)
    if not hasattr(types, "items"):
        return ""
    found = [f"'{column}' ({kind})" for column, kind in types.items() if getattr(kind, "kind", "O") not in "iuf"]
    return f" because of the columns {', '.join(found)}" if found else ""
