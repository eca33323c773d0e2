"""Rows of features with labels and ids, read where they lie."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdu.checks import expect
from cdu.data.conversion import as_tensor, expect_same_rows
from cdu.data.ids import is_storable
from cdu.data.samples import Samples, expect_finite


@dataclass(frozen=True)
class Table:
    """Rows of features, each with a label and an id.

    Attributes:
        features: Floats of shape (n, features); they may be in single precision, and are cast a batch at a time.
        labels: Class labels, int64, shape (n,).
        ids: Whose row it is, as text, shape (n,). Several rows may share an id.
    """

    features: Tensor
    labels: Tensor
    ids: NDArray[np.str_]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.labels)

    def named(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each row's id is one of these, shape (n,)."""
        return np.isin(self.ids, np.asarray(ids, dtype=np.str_))

    def samples(self, rows: NDArray[np.int64]) -> Samples:
        """Some rows, ascending, as samples whose batches are in float64; a copy, where they are not all rows."""
        every = len(rows) == len(self)
        chosen = torch.from_numpy(rows).to(self.features.device)
        return Samples(
            self.features if every else self.features[chosen],
            self.labels if every else self.labels[chosen],
            dtype=torch.float64,
            ids=rows,
        )


def as_table(features: Any, labels: Any, ids: Any = None) -> Table:
    """Rows from tensors, NumPy arrays or a pandas frame.

    Floats in tensors and arrays stay where they are and must not be changed meanwhile. A frame, and anything that is no
    float, is copied once.

    Args:
        features: Numbers, shape (n, features).
        labels: Whole numbers from 0, shape (n,).
        ids: Text or whole numbers, shape (n,); for a frame also the name of a column, which is then no feature. When
            None: a frame's index, and else the rows' numbers from 0.

    Raises:
        CduError: They are of other shapes or types, do not belong together, or are not finite.
    """
    expect_same_rows(features, labels)
    framed = hasattr(features, "columns")
    if framed and isinstance(ids, str):
        expect(ids in features.columns, f"the frame has no column '{ids}' of ids; name one, or give a list of ids")
        features, ids = features.drop(columns=ids), features[ids]
    elif framed and ids is None:
        ids = features.index
    rows, numbers = as_rows(features), as_labels(labels)
    expect(
        len(rows) == len(numbers) and len(rows) >= 1,
        f"there are {len(rows)} rows of features and {len(numbers)} labels; every row has one, and there must be some",
    )
    names = range(len(rows)) if ids is None else ids
    table = Table(rows, numbers.to(rows.device), np.asarray(as_ids(names), dtype=np.str_))
    expect(
        len(table.ids) == len(rows),
        f"there are {len(rows)} rows of features and {len(table.ids)} ids; every row has one",
    )
    expect_finite(table.samples(np.arange(len(rows))), "training")
    return table


def as_rows(features: Any) -> Tensor:
    """Features as floats of shape (n, features): floats where they lie, anything else as a copy in float64.

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
    numbers = as_tensor(labels, "labels")
    whole = not (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool)
    expect(
        whole and numbers.ndim == 1,
        f"the labels are of type {numbers.dtype} and shape {tuple(numbers.shape)}; give one whole number for every "
        "row, the number of its class from 0",
    )
    lowest = int(numbers.min()) if len(numbers) else 0
    expect(lowest >= 0, f"a label is {lowest}; number the classes from 0")
    return numbers.long()


def as_ids(ids: Any) -> list[str]:
    """Ids as texts; the number 7 is the text "7".

    Raises:
        CduError: One is neither text nor a whole number, or is empty.
    """
    expect(not isinstance(ids, str | bytes), f"ids is {ids!r}; give a list of ids")
    given = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    for one in given:
        expect(
            isinstance(one, str | Integral) and not isinstance(one, bool) and one != "",
            f"an id is {one!r}; ids are text that is not empty, or whole numbers",
        )
        expect(
            is_storable(str(one)),
            f"an id is {one!r}, with a character that no file holds (NUL or half of a pair); write it without",
        )
    return [str(one) for one in given]
