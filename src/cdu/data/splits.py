"""Which training rows are forgotten, retained and held out."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cdu.data.settings import ForgetSettings
from cdu.errors import CduError
from cdu.seeding import seed_for


@dataclass(frozen=True)
class Split:
    """Which training rows are forgotten, retained, held out; and which test rows are used.

    Attributes:
        forget: D_u, in ascending order like all parts.
        retain: D_r.
        test: Test rows.
        size: Number of training rows.
        validation: Training rows held out for tuning.

    Raises:
        CduError: The forget, retain and validation rows overlap, or do not cover the training set.
    """

    forget: NDArray[np.int64]
    retain: NDArray[np.int64]
    test: NDArray[np.int64]
    size: int
    validation: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        """Refuse parts that are not disjoint and complete."""
        parts = np.concatenate([self.forget, self.retain, self.validation])
        if not np.array_equal(np.sort(parts), np.arange(self.size)):
            raise CduError(
                f"the split is not disjoint and complete: its {len(parts)} rows hold {len(np.unique(parts))} distinct "
                f"ones of {self.size}; every training row must be in exactly one part"
            )

    @property
    def train(self) -> NDArray[np.int64]:
        """The rows the original model is trained on: retain and forget, in ascending order."""
        return np.sort(np.concatenate([self.retain, self.forget]))

    @property
    def hash(self) -> str:
        """The first 12 hexadecimal digits of SHA-256 over the four parts."""
        parts = (self.forget, self.retain, self.validation, self.test)
        content = b"|".join(np.ascontiguousarray(part, dtype="<i8").tobytes() for part in parts)
        return hashlib.sha256(content).hexdigest()[:12]


def make_split(
    labels: NDArray[np.int64], test_size: int, forget: ForgetSettings, seed: int, validation_size: int = 0
) -> Split:
    """Cut the training rows into forget, retain and validation.

    Args:
        labels: Class labels of the training rows, shape (n,).
        test_size: Number of test rows, all of which are used.
        forget: Which rows to forget.
        seed: Seed of the draw.
        validation_size: Rows held out for tuning; results are made with none.

    Raises:
        CduError: More rows are asked for than there are; an index is out of range, held out or given twice; no row
            has the class; or nothing is left to retain.
    """
    count = len(labels)
    rng = np.random.default_rng(seed_for(seed, "split"))
    shuffled = rng.permutation(count)
    validation, rest = shuffled[:validation_size], shuffled[validation_size:]
    if forget.kind == "indices":
        chosen = np.asarray(forget.indices, dtype=np.int64)
        wrong = chosen[(chosen < 0) | (chosen >= count)]
        if len(wrong):
            raise CduError(f"forget index {wrong[0]} is out of range: the training set has rows 0 to {count - 1}")
        if len(np.unique(chosen)) < len(chosen):
            raise CduError("a forget index is listed twice; list every index once")
        held_out = np.intersect1d(chosen, validation)
        if len(held_out):
            raise CduError(f"forget index {held_out[0]} is held out for validation; choose a training row")
    else:
        candidates = rest if forget.kind == "random" else rest[labels[rest] == forget.label]
        size = len(candidates) if forget.size is None else forget.size
        if len(candidates) == 0:
            raise CduError(f"no training row has class {forget.label}; classes are {sorted(set(labels.tolist()))}")
        if size > len(candidates):
            raise CduError(f"a forget set of {size} rows was asked for, but only {len(candidates)} qualify")
        chosen = candidates[:size]
    retain = np.setdiff1d(rest, chosen)
    if len(retain) == 0:
        raise CduError("the forget set is the whole training set: nothing is left to retain; forget fewer rows")
    return Split(np.sort(chosen), retain, np.arange(test_size), count, np.sort(validation))
