"""Samples as tensors on a device: batches, subsets, identities, and what is refused of them.

There is no ``DataLoader``: images stay uint8 on the device and are normalised batch by batch.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdu.checks import expect
from cdu.data.conversion import as_pair, as_tensor, expect_float, expect_map_style, expect_same_rows, stacked
from cdu.settings import digest

#: Types of tokens: the module gets such inputs as they are.
TOKENS = (torch.int64, torch.int32)


@dataclass(frozen=True)
class Samples:
    """A set S of samples on a device.

    NumPy arrays and pandas frames are copied to tensors (:func:`~cdu.data.conversion.as_tensor`); a ``Dataset`` is read
    by :func:`from_dataset`.

    Attributes:
        inputs: Tensor of shape (n, ...): floats, which are only cast to ``dtype`` when a batch is taken; tokens (int64
            or int32), which stay integers; or uint8 images of shape (n, channels, height, width), which are normalised.
        targets: Class labels (int64) of shape (n,), or any other targets of shape (n, ...), as the loss takes them. An
            array's floats are cast to ``dtype``.
        mean: Per-channel mean of the pixels in [0, 1].
        std: Per-channel standard deviation of the pixels in [0, 1].
        maximum: The largest pixel value.
        dtype: Floating-point type of the batches.
        ids: A number for every sample by which it is known, shape (n,), int64. None where its own bits tell it from all
            others: two that are alike then count as one.

    Raises:
        CduError: Inputs and targets do not belong together, are no numbers, inputs are neither floats nor tokens nor
            images of bytes, or there is another number of ids.

    Example:
        >>> import torch
        >>> samples = Samples(torch.rand(5, 3), torch.tensor([0, 1, 0, 1, 1]))
        >>> print(len(samples), len(samples.subset(torch.tensor([4, 0]))))
        5 2
    """

    inputs: Tensor
    # A default, so that a Dataset that is given alone meets the sentence about it.
    targets: Tensor = None  # type: ignore[assignment]  # refused when the object is made
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    maximum: float = 255.0
    dtype: torch.dtype = torch.float32
    ids: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        """Convert arrays and frames, and refuse what would be cast or broadcast into something else than was meant."""
        self._convert()
        expect(
            len(self.inputs) == len(self.targets),
            f"there are {len(self.inputs)} inputs and {len(self.targets)} targets; every sample has one of each",
        )
        expect(
            self.inputs.device == self.targets.device,
            f"inputs are on {self.inputs.device}, targets on {self.targets.device}; move both to one device",
        )
        expect(
            self.inputs.is_floating_point() or self.inputs.dtype in (torch.uint8, *TOKENS),
            f"inputs are of type {self.inputs.dtype}; give floats, tokens as torch.int64, or images as torch.uint8",
        )
        expect(
            self.inputs.dtype != torch.uint8 or self.inputs.ndim == 4,
            f"inputs of bytes are images of shape (n, channels, height, width), found {tuple(self.inputs.shape)}; "
            "give tokens as torch.int64, and anything else as floats",
        )
        expect(
            self.ids is None
            or (isinstance(self.ids, np.ndarray) and self.ids.dtype == np.int64 and self.ids.shape == (len(self),)),
            f"the ids of {len(self)} samples are {_kind(self.ids)}; give an array of int64 with one id a sample",
        )

    def _convert(self) -> None:
        """Replace arrays and frames by tensors."""
        expect_float(self.dtype)
        if isinstance(self.inputs, Tensor) and isinstance(self.targets, Tensor):
            return
        expect_same_rows(self.inputs, self.targets)
        inputs, targets = as_tensor(self.inputs, "inputs"), as_tensor(self.targets, "targets")
        if not isinstance(self.targets, Tensor):
            targets = targets.to(self.dtype if targets.is_floating_point() else torch.int64)
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "targets", targets)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.targets)

    @property
    def device(self) -> torch.device:
        """Where the samples lie."""
        return self.inputs.device

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor]:
        std = torch.tensor(self.std, dtype=torch.float64)
        mean = torch.tensor(self.mean, dtype=torch.float64)
        scale, offset = 1 / (self.maximum * std), -mean / std

        def shaped(values: Tensor) -> Tensor:
            return values.view(-1, 1, 1).to(self.device, self.dtype)

        return shaped(scale), shaped(offset)

    def normalised(self, inputs: Tensor) -> Tensor:
        """Raw ``inputs`` as the network sees them: images of shape (..., C, H, W) normalised, floats cast."""
        if inputs.dtype in TOKENS:
            return inputs
        if inputs.dtype != torch.uint8:
            return inputs.to(self.dtype)
        scale, offset = self._affine
        return torch.addcmul(offset, inputs.to(self.dtype), scale)

    def identities(self) -> NDArray[np.int64]:
        """A number for every sample, by which it is told from others: its id, or a hash (:func:`row_hashes`)."""
        return row_hashes([self.inputs, self.targets]) if self.ids is None else self.ids

    def batch(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Normalised inputs and targets of some rows."""
        return self.normalised(self.inputs[rows]), self.targets[rows]

    def batches(self, size: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples from row ``start`` on, in order, ``size`` at a time."""
        for row in range(start, len(self), size):
            yield self.batch(slice(row, row + size))

    def subset(self, indices: NDArray[np.int64] | Tensor) -> "Samples":
        """The samples at ``indices``, in that order."""
        rows = torch.as_tensor(indices, device=self.device)
        ids = None if self.ids is None else self.ids[rows.cpu().numpy()]
        return replace(self, inputs=self.inputs[rows], targets=self.targets[rows], ids=ids)

    def joined(self, other: "Samples") -> "Samples":
        """These samples followed by others of the same kind (:func:`expect_alike`)."""
        expect_alike(self, other)
        return replace(
            self,
            inputs=torch.cat([self.inputs, other.inputs]),
            targets=torch.cat([self.targets, other.targets]),
            ids=None if self.ids is None or other.ids is None else np.concatenate([self.ids, other.ids]),
        )

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples once, in random order, ``size`` at a time."""
        for rows in torch.randperm(len(self), generator=generator).to(self.device).split(size):
            yield self.batch(rows)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Samples":
        """The same samples on another device, or giving batches of another floating-point type."""
        target = self.device if device is None else device
        return replace(
            self,
            inputs=self.inputs.to(target),
            targets=self.targets.to(target),
            dtype=self.dtype if dtype is None else dtype,
        )


def row_hashes(parts: Sequence[Tensor]) -> NDArray[np.int64]:
    """A number for every row of tensors that belong together, such as inputs and targets.

    It is a sum of the row's bytes with fixed random odd weights, modulo 2⁶⁴. Rows that are alike to the bit have the
    same; two that differ have the same with a probability of about 2⁻⁵⁶.
    """
    count = len(parts[0])
    found = np.zeros(count, dtype=np.int64)
    if count == 0:
        return found
    for part in parts:
        # Bytes before NumPy sees them: it does not know every type of PyTorch.
        rows = part.detach().cpu().reshape(count, -1).contiguous().view(torch.uint8).numpy()
        weights = np.random.default_rng(rows.shape[1]).integers(-(2**62), 2**62, rows.shape[1]) * 2 + 1
        found = found * 1_000_003 + np.concatenate([block.astype(np.int64) @ weights for block in _blocks(rows)])
    return found


def _kind(ids: object) -> str:
    """What was given as ids, in words."""
    if isinstance(ids, np.ndarray):
        return f"an array of {ids.dtype} of shape {ids.shape}"
    return f"a {type(ids).__name__}"


def _blocks(rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Rows in blocks of a few megabytes: each is widened to eight times its size."""
    size = max(1, 2**22 // max(1, rows.shape[1]))
    for start in range(0, max(1, len(rows)), size):
        yield rows[start : start + size]


@dataclass(frozen=True)
class Dataset:
    """A dataset's training and test samples."""

    name: str
    train: Samples
    test: Samples
    classes: int = 10

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image: (channels, height, width)."""
        return tuple(self.train.inputs.shape[1:])

    def first(self, size: int) -> "Dataset":
        """The first images of the training set and of the test set, ``size`` of each or as many as there are."""
        train, test = (part.subset(torch.arange(min(size, len(part)))) for part in (self.train, self.test))
        return replace(self, train=train, test=test)


def from_dataset(dataset: Any, limit: int | None = None, dtype: torch.dtype = torch.float32) -> Samples:
    """The samples of a map-style dataset, such as those of ``torch.utils.data`` and torchvision, read once and stacked.

    A transform that draws at random is drawn once for every sample.

    Args:
        dataset: ``dataset[row]`` is the pair of an input and a target, ``len(dataset)`` the number of rows.
        limit: How many of the first rows are read; all when None.
        dtype: Floating-point type of the batches, and of targets that are floats.

    Raises:
        CduError: The dataset has no rows by number, or they are no pairs of tensors of one shape.

    Example:
        >>> import torch
        >>> samples = from_dataset([(torch.rand(3), 0), (torch.rand(3), 1)])
        >>> print(tuple(samples.inputs.shape), samples.targets.tolist())
        (2, 3) [0, 1]
    """
    expect_map_style(dataset)
    expect(limit is None or limit >= 1, f"limit = {limit} is below 1; give None for all rows")
    rows = list(range(len(dataset) if limit is None else min(limit, len(dataset))))
    pairs = [as_pair(dataset[row], row) for row in rows]
    inputs, labels = (
        stacked([pair[part] for pair in pairs], rows, name) for part, name in enumerate(("input", "target"))
    )
    targets = as_tensor(labels, "targets")
    return Samples(inputs, targets.to(dtype if targets.is_floating_point() else torch.int64), dtype=dtype)


def expect_alike(first: Samples, second: Samples) -> None:
    """Refuse two sets that cannot be parts of one: of other shapes or types, or normalised otherwise."""
    for words, one, other in (
        ("inputs of the shape", tuple(first.inputs.shape[1:]), tuple(second.inputs.shape[1:])),
        ("inputs of the type", first.inputs.dtype, second.inputs.dtype),
        ("targets of the shape", tuple(first.targets.shape[1:]), tuple(second.targets.shape[1:])),
        ("batches of the type", first.dtype, second.dtype),
        ("pixels of mean, deviation and maximum", _scales(first), _scales(second)),
    ):
        expect(one == other, f"two parts of one data set have {words} {one} and {other}; make both alike")


def _scales(samples: Samples) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    return samples.mean, samples.std, samples.maximum


def expect_disjoint(retain: Samples, forget: Samples) -> None:
    """Refuse sets of which a sample is in both, or several times in the forget set: nothing would be deleted, or twice.

    Args:
        retain: D_r.
        forget: D_u.
    """
    remedy = "if they are different samples that are alike, give both sets Samples(..., ids=...)"
    expect(
        (retain.ids is None) == (forget.ids is None),
        f"only the {'forget' if retain.ids is None else 'retain'} set has ids, so that they cannot be compared; give "
        "both sets ids, or neither",
    )
    gone, left = forget.identities(), retain.identities()
    both = np.flatnonzero(np.isin(gone, left))
    expect(
        len(both) == 0,
        f"{len(both):,} of the {len(gone):,} samples to forget are still in the retain set, the first is forget row "
        f"{both[0] if len(both) else 0}: nothing would be deleted; take them out, or {remedy}",
    )
    expect(
        len(np.unique(gone)) == len(gone),
        f"the forget set's {len(gone):,} rows hold {len(np.unique(gone)):,} different samples; list every one once, or "
        f"{remedy}",
    )
    expect(
        len(gone) <= len(left),
        f"the forget set has {len(gone):,} samples and the retain set {len(left):,}; are they exchanged? Where more is "
        "to be forgotten than kept, train a new model",
    )


def expect_finite(samples: Samples, name: str) -> None:
    """Refuse samples with numbers that are not finite, which would make every weight NaN."""
    for part in (samples.inputs, samples.targets):
        bad = rows_not_finite(part).nonzero()
        expect(
            len(bad) == 0,
            f"{len(bad):,} rows of the {name} set hold NaN or infinite numbers, the first is row "
            f"{int(bad[0]) if len(bad) else 0}; mend or remove them before the model is trained",
        )


def rows_not_finite(part: Tensor) -> Tensor:
    """Which rows of a tensor hold a NaN or an infinite number, shape (n,); integers never do."""
    if not part.is_floating_point():
        return torch.zeros(len(part), dtype=torch.bool, device=part.device)
    # The sum of a row with such a number is no finite number either; the few rows whose sum is none are looked at.
    rows = part.flatten(1) if part.ndim > 1 else part.unsqueeze(1)
    bad = ~rows.sum(dim=1).isfinite()
    places = bad.nonzero().squeeze(1)
    bad[places] = (~rows[places].isfinite()).any(dim=1)
    return bad


def part_of(samples: Samples, size: int | None, generator: torch.Generator) -> Samples:
    """``size`` random samples without replacement, in their order; all when None or not fewer."""
    if size is None or size >= len(samples):
        return samples
    return samples.subset(torch.randperm(len(samples), generator=generator)[:size].sort().values)


def fingerprint(samples: Samples) -> str:
    """Hash of the images and labels that a model is trained on, and of how they are normalised."""
    parts = [samples.inputs, samples.targets]
    contents = [hashlib.sha256(part.contiguous().cpu().numpy().tobytes()).hexdigest() for part in parts]
    return digest([*contents, samples.mean, samples.std, samples.maximum, str(samples.dtype)])
