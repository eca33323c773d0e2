"""Rows of a matrix that takes long to compute, in memory or in a file, so that an interrupted computation goes on."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdu import storage
from cdu.errors import CduError


class ResumableMatrix:
    """The first rows of a square matrix, as far as they are done.

    Args:
        size: Number of rows and columns.
        dtype: Type of the entries.
        path: A NumPy file; memory alone when None. Beside it lies a note of what it holds and how many rows are done.
        mark: Identifies the matrix, so that the rows of another one are not taken for its own.

    Attributes:
        done: Rows done.
        seconds: Wall time that they took, over all sittings.

    Raises:
        CduError: The file holds rows of another matrix, is damaged, or its note cannot be read.
    """

    def __init__(self, size: int, dtype: torch.dtype, path: Path | None = None, mark: str = "") -> None:
        self.done, self.seconds, self._mark, self._bytes = 0, 0.0, mark, 0
        self._note = None if path is None else path.with_suffix(".json")
        shape, kind = (size, size), torch.empty(0, dtype=dtype).numpy().dtype
        self._array: NDArray[np.generic]
        if path is None or self._note is None:
            self._array = np.empty(shape, kind)
        elif path.exists() and self._note.exists():
            self._array = self._resume(path, self._note, shape)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._array = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
            self._bytes = path.stat().st_size
            self._save()

    def append(self, rows: Tensor, seconds: float) -> None:
        """Add rows of shape (k, p) that took ``seconds``."""
        self._array[self.done : self.done + len(rows)] = rows.cpu().numpy()
        if isinstance(self._array, np.memmap):
            self._array.flush()
        self.done += len(rows)
        self.seconds += seconds
        self._save()

    def matrix(self) -> Tensor:
        """All rows as one tensor, made symmetric by (A + Aᵀ)/2 where rounding did not leave it so; the file is kept."""
        kept = isinstance(self._array, np.memmap)
        return _symmetric(torch.from_numpy(np.array(self._array) if kept else self._array))

    def _resume(self, path: Path, note: Path, shape: tuple[int, int]) -> NDArray[np.generic]:
        """Read the note and open the file."""
        again = "to compute the matrix again"
        content = storage.read_json(note, again)
        try:
            mark, self._bytes = content["mark"], int(content["bytes"])
            self.done, self.seconds = int(content["rows"]), float(content["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise storage.unreadable(note, error, again) from error
        if mark != self._mark:
            raise CduError(f"{note} belongs to another matrix than the one wanted; delete it or give another path")
        # NumPy would fill up a file that was cut off.
        if path.stat().st_size != self._bytes or not 0 <= self.done <= shape[0]:
            raise CduError(f"{path} and {note.name} do not fit together; delete both to compute the matrix again")
        return np.lib.format.open_memmap(path, mode="r+")

    def _save(self) -> None:
        if self._note is None:
            return
        content = {"mark": self._mark, "rows": self.done, "seconds": self.seconds, "bytes": self._bytes}
        storage.write_json(self._note, content)


def _symmetric(matrix: Tensor, block: int = 2048) -> Tensor:
    """(A + Aᵀ)/2 in place, block by block, since memory holds only a few copies of a large matrix."""
    size = len(matrix)
    for first in range(0, size, block):
        rows = slice(first, first + block)
        for second in range(first, size, block):
            columns = slice(second, second + block)
            mean = (matrix[rows, columns] + matrix[columns, rows].T) / 2
            matrix[rows, columns] = mean
            matrix[columns, rows] = mean.T
    return matrix
