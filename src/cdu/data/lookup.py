"""Where the rows of a user's data lie, and how some of them are looked up: nothing that is not asked for is read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from cdu.checks import expect
from cdu.data.conversion import as_tensor, copied, expect_map_style, expect_numbers, stacked

Device = torch.device | str


class Lookup(Protocol):
    """Inputs by row number."""

    def __len__(self) -> int:
        """The number of rows."""
        ...

    def fetch(self, rows: Tensor) -> Any:
        """The inputs of some rows in their own types, on the device of ``rows``: a tensor, or a pytree of tensors."""
        ...

    def to(self, device: Device) -> "Lookup":
        """The same with its tensors on another device; what lies on a disk stays there."""
        ...


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """A pytree with a function of every leaf; its nodes are dictionaries, tuples and lists."""
    if isinstance(tree, Mapping):
        return {key: mapped(function, part) for key, part in tree.items()}
    if isinstance(tree, tuple):
        return tuple(mapped(function, part) for part in tree)
    if isinstance(tree, list):
        return [mapped(function, part) for part in tree]
    return function(tree)


def leaves(tree: Any) -> list[Any]:
    """The leaves of a pytree, in order."""
    if isinstance(tree, Mapping):
        return [leaf for part in tree.values() for leaf in leaves(part)]
    if isinstance(tree, tuple | list):
        return [leaf for part in tree for leaf in leaves(part)]
    return [tree]


@dataclass(frozen=True, eq=False)
class Arrays:
    """A pytree of tensors and memory maps, each of which has one row for every sample.

    Attributes:
        tree: A tensor, a memory map, or dictionaries, tuples and lists of them.
    """

    tree: Any

    def __len__(self) -> int:
        """The number of rows."""
        return len(leaves(self.tree)[0])

    def fetch(self, rows: Tensor) -> Any:
        """The rows of every leaf, with memory of their own."""
        return mapped(lambda leaf: _fetched(leaf, rows), self.tree)

    def to(self, device: Device) -> "Arrays":
        """The same with its tensors on another device."""
        return Arrays(mapped(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, self.tree))


@dataclass(frozen=True, eq=False)
class Stored:
    """A map-style dataset, of which a row is read whenever it is asked for.

    Attributes:
        dataset: ``dataset[row]`` is the pair of inputs and target, or the inputs alone.
        pairs: Whether it is the pair.
    """

    dataset: Any
    pairs: bool

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.dataset)

    def fetch(self, rows: Tensor) -> Any:
        """The inputs of some rows, stacked."""
        numbers = _numbers(rows).tolist()
        read = [self.dataset[row] for row in numbers]
        tree = stacked([row[0] for row in read] if self.pairs else read, numbers, "input")
        return mapped(lambda leaf: leaf.to(rows.device), tree)

    def to(self, device: Device) -> "Stored":
        """The same: a dataset's rows go to the device that asks for them."""
        return self


def as_arrays(given: Any, name: str) -> Arrays:
    """Tensors and memory maps as they are, other arrays and frames as tensors.

    Args:
        given: A tensor, an array, a frame, or a pytree of them.
        name: What it is, in the plural.

    Raises:
        CduError: A leaf holds no numbers, there is none, or leaves have different numbers of rows.
    """
    found = Arrays(mapped(lambda leaf: _leaf(leaf, name), given))
    parts = leaves(found.tree)
    sizes = sorted({len(part) if part.ndim else 0 for part in parts})
    expect(
        len(sizes) == 1 and sizes[0] > 0,
        f"the parts of the {name} have {' and '.join(map(str, sizes)) or 'no'} rows; give every part one row for each "
        "sample, and at least one",
    )
    return found


def as_stored(dataset: Any) -> Stored:
    """A map-style dataset; whether its rows are pairs is seen on the first."""
    expect_map_style(dataset)
    first = dataset[0]
    return Stored(dataset, isinstance(first, tuple | list) and len(first) == 2)


def _leaf(given: Any, name: str) -> Any:
    if isinstance(given, Tensor):
        expect(
            given.layout == torch.strided and not given.is_nested,
            f"{name} are a sparse or nested tensor, whose rows cannot be looked up; give to_dense() or padded rows",
        )
        return given.detach()
    if isinstance(given, np.ndarray) and _on_disk(given):
        if given.dtype != np.bool_:
            expect_numbers(given, given, name)
        return given
    if isinstance(given, np.ndarray) and given.dtype == np.bool_:
        # A mask.
        return torch.from_numpy(given.copy())
    return as_tensor(given, name)


def _on_disk(array: Any) -> bool:
    """Whether an array is a memory map, or a view into one."""
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


def _fetched(leaf: Any, rows: Tensor) -> Tensor:
    if isinstance(leaf, Tensor):
        return leaf[rows.to(leaf.device)].to(rows.device)
    found = np.asarray(leaf[_numbers(rows)])
    return torch.from_numpy(found.copy() if found.dtype == np.bool_ else copied(found)).to(rows.device)


def _numbers(rows: Tensor) -> NDArray[np.int64]:
    """Row numbers as an array."""
    if is_functorch_wrapped_tensor(rows):
        # The type that Objective.mapped takes as: one row after the other.
        raise RuntimeError("rows outside PyTorch cannot be looked up in a batch of torch.func.vmap")
    found: NDArray[np.int64] = rows.cpu().numpy()
    return found
