"""A user's data with an id for every row, used where they lie: :func:`as_data` makes them of whatever he has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler, default_collate, default_convert

from cdu.checks import expect, expect_count
from cdu.data.conversion import (
    as_labels,
    as_pair,
    as_rows,
    as_tensor,
    expect_float,
    expect_map_style,
    expect_same_rows,
    stacked,
)
from cdu.data.ids import as_text
from cdu.data.lookup import Arrays, Device, Lookup, Stored, as_arrays, as_stored, leaves, mapped
from cdu.data.samples import TOKENS, Samples, row_hashes, rows_not_finite

#: Bytes of inputs that a pass over the data holds at once.
CHUNK_BYTES = 2**26


@dataclass(frozen=True, eq=False)
class Data:
    """Some rows of a user's data. Made by :func:`as_data`; parts of it share what they were made of.

    Example:
        >>> data = as_data(torch.eye(3), [0, 1, 1], ids=[7, 8, 9])
        >>> for inputs, targets in data.batches(2):
        ...     print(tuple(inputs.shape), targets.tolist())
        (2, 3) [0, 1]
        (1, 3) [1]

    Attributes:
        ids: One id a row, as text; several rows may have one, such as those of one user.
        lookup: Where the inputs of all rows lie, those outside this part included.
        answers: The targets of all rows of ``lookup``, as they were given; None where a row's inputs hold all.
        rows: The numbers in ``lookup`` of the rows that are this part, int64, ascending or in any other order.
        dtype: Floating-point type of batches: inputs and targets that are floats are cast to it.
        device: Where samples and batches lie.
    """

    ids: NDArray[Any]
    lookup: Lookup
    answers: Tensor | None
    rows: NDArray[np.int64]
    dtype: torch.dtype
    device: torch.device

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Data":
        """The data themselves: they never change, and modules that hold them are copied by many methods."""
        return self

    @cached_property
    def targets(self) -> Tensor | None:
        """The targets of these rows, shape (n, ...); None where a row's inputs hold all."""
        if self.answers is None:
            return None
        return self._cast(self.answers[torch.from_numpy(self.rows).to(self.answers.device)])

    def rows_of(self, ids: Sequence[str | int]) -> NDArray[np.int64]:
        """The places 0 … n − 1 of all rows that have one of some ids, ascending.

        Raises:
            CduError: An id is in no row.
        """
        asked = as_text(ids)
        found = np.flatnonzero(np.isin(self.ids, asked))
        known = set(self.ids[found].tolist())
        unknown = [one for one in asked.tolist() if one not in known]
        expect(
            not unknown,
            f"{len(unknown)} of {len(asked)} ids are in no row: {', '.join(map(repr, unknown[:5]))}"
            f"{', …' if len(unknown) > 5 else ''}; give ids of the data, which are such as '{self._example()}'",
        )
        return found

    def subset(self, rows: NDArray[np.int64] | Tensor | Sequence[int]) -> "Data":
        """The rows at some places 0 … n − 1, in that order. Their numbers in :attr:`rows` stay what they were."""
        places = np.asarray(torch.as_tensor(rows).cpu(), dtype=np.int64)
        return replace(self, ids=self.ids[places], rows=self.rows[places])

    def without(self, ids: Sequence[str | int]) -> "Data":
        """All rows but those of some ids.

        Raises:
            CduError: An id is in no row.
        """
        left = np.ones(len(self), dtype=np.bool_)
        left[self.rows_of(ids)] = False
        return self.subset(np.flatnonzero(left))

    @property
    def is_plain(self) -> bool:
        """Whether the inputs are one tensor of floats or tokens, which :class:`Samples` hold as they are.

        Bytes are not: samples would take them for images and scale them.
        """
        tree = self.lookup.tree if isinstance(self.lookup, Arrays) else None
        return isinstance(tree, Tensor) and (tree.is_floating_point() or tree.dtype in TOKENS)

    def samples(self, numbered: bool = False) -> Samples:
        """What methods take.

        The inputs themselves where they are one tensor (:attr:`is_plain`) with targets, else the row numbers, which the
        module of :meth:`cdu.own_model.task.Task.objective` looks up. Ids of the samples are the row numbers either way,
        so that parts of the same data can be compared.

        Args:
            numbered: Row numbers in any case.
        """
        numbers = torch.from_numpy(self.rows).to(self.device)
        targets = self.targets
        if targets is None:
            # Samples have targets; no loss looks at these.
            targets = torch.zeros(len(self), dtype=torch.int64, device=self.device)
        elif self.is_plain and not numbered:
            whole = len(self) == len(self.lookup) and bool((self.rows == np.arange(len(self))).all())
            inputs = self.lookup.tree if whole and isinstance(self.lookup, Arrays) else self.lookup.fetch(numbers)
            return Samples(inputs, targets, dtype=self.dtype, ids=self.rows)
        return Samples(numbers, targets, dtype=self.dtype, ids=self.rows)

    def batch(self, rows: Tensor | NDArray[np.int64]) -> Any:
        """All that the data hold at some places 0 … n − 1: the inputs, or the pair of inputs and targets.

        Args:
            rows: Places within these data, shape (k,), such as from ``torch.randperm(len(data))``.

        Raises:
            CduError: A place is outside 0 … n − 1.
        """
        places = torch.as_tensor(rows).cpu().numpy()
        expect(
            bool(((places >= 0) & (places < len(self))).all()),
            f"the places {places.min() if len(places) else 0} to {places.max() if len(places) else 0} were asked for, "
            f"and the data have 0 to {len(self) - 1}; give places within these data, not row numbers of all data",
        )
        return self.numbered_batch(torch.from_numpy(self.rows[places]).to(self.device))

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Any]:
        """All rows once, ``size`` at a time, as :meth:`batch` gives them: what a training loop takes.

        Args:
            size: Rows of a batch; the last may have fewer.
            generator: Draws the order; ascending when None.
        """
        expect_count(size=size)
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        for places in order.split(size):
            yield self.batch(places)

    def numbered_inputs(self, numbers: Tensor, dtype: torch.dtype | None = None) -> Any:
        """The inputs of some rows by their numbers in :attr:`rows`, on the device of ``numbers``.

        Args:
            numbers: Row numbers, shape (k,); inside ``torch.func.vmap`` only where all data are tensors.
            dtype: The type that floats are cast to; :attr:`dtype` when None.

        Returns:
            A tensor, or a pytree of tensors, each of shape (k, ...).
        """
        return mapped(lambda leaf: self._cast(leaf, dtype), self.lookup.fetch(numbers))

    def numbered_batch(self, numbers: Tensor, dtype: torch.dtype | None = None) -> Any:
        """As :meth:`numbered_inputs`, with the targets where there are any."""
        inputs = self.numbered_inputs(numbers, dtype)
        if self.answers is None:
            return inputs
        return inputs, self._cast(self.answers[numbers.to(self.answers.device)].to(numbers.device), dtype)

    def to(self, device: Device | None = None, dtype: torch.dtype | None = None) -> "Data":
        """The same data giving batches on another device, or of another floating-point type."""
        target = self.device if device is None else torch.device(device)
        answers = None if self.answers is None else self.answers.to(target)
        dtype = self.dtype if dtype is None else dtype
        expect_float(dtype)
        return replace(self, lookup=self.lookup.to(target), answers=answers, device=target, dtype=dtype)

    def expect_finite(self, name: str = "data") -> None:
        """Refuse rows with NaN or infinite numbers, as batches have them; what is looked up is read once.

        Args:
            name: What these rows are called in the sentence.

        Raises:
            CduError: There is such a row, or rows do not fit together.
        """
        bad = [torch.stack([rows_not_finite(part) for part in parts]).any(0) for parts in self._chunks()]
        places = torch.cat([torch.zeros(0, dtype=torch.bool), *bad]).nonzero()
        first = int(places[0]) if len(places) else 0
        expect(
            len(places) == 0,
            f"{len(places):,} rows of the {name} hold NaN or infinite numbers as {self.dtype}, the first is row "
            f"{first} (id '{self.ids[first] if len(self) else ''}'); mend or remove them before the model is trained",
        )

    def identities(self) -> NDArray[np.int64]:
        """A number for every row by what it holds: rows alike to the bit, targets included, have the same."""
        return np.concatenate([np.empty(0, dtype=np.int64), *(row_hashes(parts) for parts in self._chunks())])

    def _chunks(self) -> Iterator[list[Tensor]]:
        """All tensors of these rows on the CPU, so many rows at once as :data:`CHUNK_BYTES` hold."""
        if len(self) == 0:
            return
        numbers = torch.from_numpy(self.rows)
        one = leaves(self.numbered_batch(numbers[:1]))
        size = max(1, CHUNK_BYTES // max(1, sum(leaf.nbytes for leaf in one)))
        for rows in numbers.split(size):
            yield leaves(self.numbered_batch(rows))

    def _cast(self, leaf: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return leaf.to(self.dtype if dtype is None else dtype) if leaf.is_floating_point() else leaf

    def _example(self) -> str:
        return str(self.ids[0]) if len(self) else ""


def as_data(source: Any, targets: Any = None, *, ids: Any = None, dtype: torch.dtype | None = None) -> Data:
    """Data of whatever a user has. Memory maps and datasets are used where they lie; their inputs are never copied.

    Example:
        >>> data = as_data(torch.eye(4), [0, 1, 0, 1], ids=["ann", "bob", "ann", "eve"])
        >>> data.rows_of(["ann"]).tolist(), len(data.without(["ann"]))
        ([0, 2], 2)

    Args:
        source: One of

            - a tensor, an array, a memory map or a pandas frame with a row for every sample;
            - a pytree of them, for a module with several inputs: a dictionary (``model(**inputs)``), a tuple or a list
              (``model(*inputs)``);
            - the pair ``(inputs, targets)``, where ``targets`` is None;
            - a map-style ``Dataset``, or a ``DataLoader`` for its dataset. A row that is a pair is (inputs, target),
              any other row is inputs. Rows are read whenever they are used, and so must be the same each time.
        targets: One target a row: a tensor, an array, a series or a list; for a frame also the name of its column. A
            dataset of pairs is read once for its targets when this is None.
        ids: One id a row: texts or whole numbers, in a list, an array or a series; for a frame also the name of its
            column, which then is no feature. When None: a frame's index, else "0", "1", ….
        dtype: Floating-point type of batches; that of the inputs when they are float32 or float64, else float32.

    Raises:
        CduError: The source has no rows by number, holds something else than numbers, targets or ids are of another
            number, labels are text, or an id is missing.
    """
    source = _dataset_of(source)
    if isinstance(source, tuple) and len(source) == 2 and targets is None:
        source, targets = source
    if hasattr(source, "iloc"):
        source, targets, ids = _columns_taken(source, targets, ids)
    for name in (targets, ids):
        expect(
            not isinstance(name, str),
            f"'{name}' names a column, and a {type(source).__name__} has none by name; give a pandas frame, or the "
            "targets and the ids themselves",
        )
    lookup = as_stored(source) if _is_dataset(source) else as_arrays(source, "inputs")
    answers = _answers(lookup, source, targets)
    expect(
        answers is None or (answers.ndim > 0 and len(answers) == len(lookup)),
        f"there are {len(lookup)} inputs and {0 if answers is None or not answers.ndim else len(answers)} targets; "
        "every sample has one of each",
    )
    if ids is not None:
        expect_same_rows(source, ids, "ids")
    texts = as_text(np.arange(len(lookup)) if ids is None else ids)
    expect(len(texts) == len(lookup), f"there are {len(lookup)} rows and {len(texts)} ids; give one id a row")
    parts = [leaf for leaf in leaves(lookup.fetch(torch.zeros(1, dtype=torch.int64))) if leaf.is_floating_point()]
    kinds = {part.dtype for part in parts}
    if dtype is None:
        dtype = kinds.pop() if len(kinds) == 1 and kinds <= {torch.float32, torch.float64} else torch.float32
    expect_float(dtype)
    texts.setflags(write=False)
    rows = np.arange(len(lookup), dtype=np.int64)
    return Data(texts, lookup, answers, rows, dtype, _device(lookup, answers))


def as_features(features: Any, labels: Any, ids: Any = None) -> Data:
    """Data of rows of features with a class each, whose batches are in float64: a linear model's.

    Floats in tensors, arrays and memory maps are read where they lie, in their own precision, and must not be changed
    meanwhile. A frame, and anything that is no float, is copied once.

    Args:
        features: Numbers, shape (n, features).
        labels: Whole numbers from 0, shape (n,); for a frame also the name of their column.
        ids: As for :func:`as_data`.

    Raises:
        CduError: They are of other shapes or types, do not belong together, or are not finite.
    """
    framed = hasattr(features, "iloc")
    rows = features if framed else as_rows(features)
    data = as_data(rows, labels if framed else as_labels(labels).to(rows.device), ids=ids, dtype=torch.float64)
    assert isinstance(data.lookup, Arrays)
    data = replace(data, lookup=Arrays(as_rows(data.lookup.tree)), answers=as_labels(data.answers))
    data.expect_finite("training set")
    return data


def _dataset_of(source: Any) -> Any:
    """The dataset of a loader, all else as it is."""
    if not isinstance(source, DataLoader):
        return source
    expect_map_style(source.dataset)
    expect(
        type(source.sampler) is SequentialSampler or _shuffles(source.sampler),
        f"the DataLoader draws its rows by a {type(source.sampler).__name__}, which leaves rows out or draws some more "
        "often, and every row of its dataset would count once; give the Dataset that the model was trained on, such "
        "as torch.utils.data.Subset(dataset, rows)",
    )
    expect(
        source.collate_fn in (default_collate, default_convert),
        "the DataLoader has a collate_fn of its own, which rows looked up by number would not go through; give a "
        "Dataset whose rows are what the model takes, padded to one shape",
    )
    return source.dataset


def _shuffles(sampler: Any) -> bool:
    """Whether a sampler draws every row once, in random order."""
    rows = isinstance(sampler, RandomSampler) and len(sampler.data_source)
    return isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples == rows


def _is_dataset(source: Any) -> bool:
    known = isinstance(source, Tensor | np.ndarray | dict | tuple | list) or hasattr(source, "to_numpy")
    return isinstance(source, Dataset) or (not known and hasattr(source, "__getitem__") and not hasattr(source, "keys"))


def _columns_taken(frame: Any, targets: Any, ids: Any) -> tuple[Any, Any, Any]:
    """A pandas object without the columns that targets and ids name, and what those hold."""
    answers, owners = _named(frame, targets), _named(frame, ids)
    inputs = frame.drop(columns=answers + owners) if answers + owners else frame
    return (
        inputs,
        frame[targets] if answers else targets,
        frame[ids] if owners else frame.index if ids is None else ids,
    )


def _named(frame: Any, given: Any) -> list[str]:
    """The columns that a name, or a list of names, stands for; none where something else was given."""
    columns = list(getattr(frame, "columns", []))
    if isinstance(given, str):
        expect(given in columns, f"the data have no column '{given}'; their columns are {columns}")
        return [given]
    # Numbers in a list are targets or ids, also where the columns are numbered.
    names = isinstance(given, list) and given and all(isinstance(one, str) and one in columns for one in given)
    return given if names else []


def _answers(lookup: Lookup, source: Any, targets: Any) -> Tensor | None:
    """All targets as one tensor; those of a dataset of pairs are read, unless they were given."""
    if targets is None:
        if not (isinstance(lookup, Stored) and lookup.pairs):
            return None
        rows = list(range(len(lookup)))
        given: Any = stacked([as_pair(source[row], row)[1] for row in rows], rows, "target")
    else:
        given = np.asarray(targets) if isinstance(targets, list) else targets
        expect_same_rows(source, given)
    answers = as_tensor(given, "targets").detach()
    return answers if answers.is_floating_point() or isinstance(given, Tensor) else answers.to(torch.int64)


def _device(lookup: Lookup, answers: Tensor | None) -> torch.device:
    """Where the tensors lie, which is one place; the CPU where there are none."""
    tree = lookup.tree if isinstance(lookup, Arrays) else None
    tensors = [leaf for leaf in [*leaves(tree), answers] if isinstance(leaf, Tensor)]
    places = sorted({str(tensor.device) for tensor in tensors})
    expect(len(places) <= 1, f"inputs and targets are on {' and '.join(places)}; move all to one device")
    return torch.device(places[0] if places else "cpu")
