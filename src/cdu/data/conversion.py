"""What users bring instead of tensors: arrays and frames are copied, datasets' rows stacked, anything else refused."""

import warnings
from collections.abc import Mapping
from numbers import Number
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

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
    expect_numbers(array, given, name)
    return torch.from_numpy(copied(array))


def as_rows(features: Any) -> Tensor:
    """Features as floats of shape (n, features): floats where they lie, anything else as a copy in float64.

    Args:
        features: A tensor, an array, a memory map or a frame. Floats must not be changed while the result is in use.

    Raises:
        CduError: They are no numbers, or have another shape.
    """
    if isinstance(features, np.ndarray) and features.dtype in (np.float32, np.float64) and features.dtype.isnative:
        with warnings.catch_warnings():
            # PyTorch warns that it could write to an array that is read-only; nothing here writes.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            rows = torch.from_numpy(np.ascontiguousarray(features))
    else:
        rows = as_tensor(features, "features")
    expect(
        rows.ndim == 2 and rows.shape[1] >= 1,
        f"the features have the shape {tuple(rows.shape)}; give a row of numbers for every sample, (n, features)",
    )
    return rows.detach() if rows.is_floating_point() else rows.double()


def as_labels(labels: Any) -> Tensor:
    """Class labels as int64 of shape (n,).

    Raises:
        CduError: They are no whole numbers from 0, or have another shape.
    """
    numbers = as_tensor(np.asarray(labels) if isinstance(labels, list) else labels, "labels")
    whole = not (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool)
    expect(
        whole and numbers.ndim == 1,
        f"the labels are of type {numbers.dtype} and shape {tuple(numbers.shape)}; give one whole number for every "
        "row, the number of its class from 0",
    )
    lowest = int(numbers.min()) if len(numbers) else 0
    expect(lowest >= 0, f"a label is {lowest}; number the classes from 0")
    return numbers.long()


def expect_numbers(array: NDArray[Any], given: Any, name: str) -> None:
    """Refuse an array of anything else than numbers.

    Args:
        array: The array.
        given: What a user gave, from which it was made.
        name: What it is, in the plural.
    """
    labels = array.ndim == 1 and array.dtype.kind in "OUST"
    expect(
        array.dtype.kind in "iuf",
        f"{name} are of type {array.dtype}{_columns(given)}, and are to be numbers; encode them as integers or floats"
        f"{', text labels by numpy.unique(labels, return_inverse=True)[1]' if labels else ''}",
    )


def expect_same_rows(inputs: Any, targets: Any, name: str = "targets") -> None:
    """Refuse two pandas objects whose rows are in different orders: pandas matches rows by their index, tensors do not.

    Args:
        inputs: What a user gave as inputs.
        targets: What a user gave as targets, or whatever else there is one of for every sample.
        name: What that is, in the plural.
    """
    if hasattr(inputs, "to_numpy") and hasattr(targets, "to_numpy"):
        first, second = getattr(inputs, "index", None), getattr(targets, "index", None)
        expect(
            first is None or second is None or len(first) != len(second) or bool((first == second).all()),
            f"inputs and {name} have different indices, so that a sample would get another one's; bring them into one "
            f"order, e.g. {name}.loc[inputs.index]",
        )


def copied(array: NDArray[Any]) -> NDArray[Any]:
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


def expect_float(dtype: torch.dtype) -> None:
    """Refuse a type of batches that has no gradient."""
    expect(dtype.is_floating_point, f"batches of type {dtype} have no gradient; dtype is a float type")


def expect_map_style(dataset: Any) -> None:
    """Refuse a dataset that has no rows by number, or none at all."""
    kind = type(dataset).__name__
    expect(
        hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset),
        f"a {kind} has no rows by number; give a map-style dataset, such as the dataset of a DataLoader, or stack the "
        "samples yourself",
    )
    expect(len(dataset) > 0, f"the {kind} has no rows; give one that has")


def as_pair(sample: Any, row: int) -> tuple[Any, Any]:
    """A row of a dataset as the pair of an input and a target."""
    expect(
        isinstance(sample, tuple | list) and len(sample) == 2,
        f"row {row} of the dataset is a {type(sample).__name__}; a row is a pair (input, target)",
    )
    return sample[0], sample[1]


def stacked(values: list[Any], rows: list[int], name: str) -> Any:
    """One tensor of the values that some rows of a dataset have; of dictionaries, tuples and lists, part by part.

    Args:
        values: What the rows hold, of one structure: tensors, arrays or numbers of one shape.
        rows: Their numbers.
        name: What a value is, for the sentence that refuses it.
    """
    first = values[0]
    if isinstance(first, Mapping):
        for row, value in zip(rows, values, strict=True):
            expect(
                isinstance(value, Mapping) and value.keys() == first.keys(),
                f"the {name} of row {row} is {_structure(value)}, that of row {rows[0]} {_structure(first)}; give all "
                "rows the same parts",
            )
        return {key: stacked([value[key] for value in values], rows, f"{name}['{key}']") for key in first}
    if isinstance(first, tuple | list) and not all(isinstance(part, Number) for part in first):
        for row, value in zip(rows, values, strict=True):
            expect(
                isinstance(value, tuple | list) and len(value) == len(first),
                f"the {name} of row {row} is {_structure(value)}, that of row {rows[0]} {_structure(first)}; give all "
                "rows the same parts",
            )
        return tuple(stacked([value[k] for value in values], rows, f"{name}[{k}]") for k in range(len(first)))
    tensors = [_value(value, row, name) for row, value in zip(rows, values, strict=True)]
    for row, tensor in zip(rows, tensors, strict=True):
        expect(
            tensor.shape == tensors[0].shape,
            f"row {row} of the dataset has an {name} of shape {tuple(tensor.shape)}, row {rows[0]} one of shape "
            f"{tuple(tensors[0].shape)}; pad or crop them to one shape",
        )
    return torch.stack(tensors)


def _value(value: Any, row: int, name: str) -> Tensor:
    """A tensor, an array or a number of one row as a tensor."""
    expect(
        isinstance(value, Tensor | np.ndarray | np.generic | Number),
        f"the {name} of row {row} is a {type(value).__name__}; let the dataset's transform make it a tensor",
    )
    return torch.as_tensor(value)


def _structure(value: Any) -> str:
    """A row's value in words: its type and its parts' names or number."""
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {sorted(value)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
