"""The Hessian of an objective as an operator."""

import copy
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cdu.curvature.resumable_matrix import ResumableMatrix
from cdu.data.samples import Samples
from cdu.models.objective import Linearised, Objective
from cdu.progress import Progress

Product = Callable[[Tensor], Tensor]


class Hessian:
    """H + λI with H = ∇²L(w, S), as an operator: ``(Hessian(objective, w, samples) + damping) @ vector``.

    Operators that differ in the damping alone share what is kept between products.

    Args:
        objective: L.
        w: The point, shape (p,).
        samples: S.
        damping: λ.
        kept_bytes: Memory that may be kept between products, what the device has room for when None; see
            :class:`~cdu.models.objective.Linearised`.

    Example:
        The mean of (w − y)² over targets y has the second derivative 2:

        >>> from torch import nn
        >>> from torch.nn.functional import mse_loss
        >>> objective = Objective(nn.Linear(1, 1, bias=False), mse_loss)
        >>> samples = Samples(torch.ones(2, 1), torch.tensor([[1.0], [3.0]]))
        >>> (Hessian(objective, torch.tensor([5.0]), samples) + 0.5) @ torch.tensor([4.0])
        tensor([10.])
    """

    def __init__(
        self, objective: Objective, w: Tensor, samples: Samples, damping: float = 0.0, kept_bytes: int | None = None
    ) -> None:
        self.objective = objective
        self.w = w
        self.samples = samples
        self.damping = damping
        self._linearised = Linearised(objective, w, samples, kept_bytes)

    def __add__(self, damping: float) -> "Hessian":
        """The operator with ``damping`` more on its diagonal."""
        sum_ = copy.copy(self)
        sum_.damping += damping
        return sum_

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Product with a vector of shape (p,), or with several as rows of shape (k, p)."""
        return self._linearised.product(vector).add(vector, alpha=self.damping)

    @property
    def size(self) -> int:
        """The number of parameters p."""
        return len(self.w)

    def dense(self) -> Tensor:
        """The matrix, shape (p, p), exactly symmetric."""
        return self.timed_dense()[0]

    def timed_dense(self, path: Path | None = None, block: int = 64) -> tuple[Tensor, float]:
        """The matrix and the wall time that its rows took.

        Args:
            path: A file in which the rows of H are kept, so that an interrupted computation goes on and a finished one
                is loaded; the time then includes that of earlier sittings.
            block: Rows computed before the file is saved again.

        Raises:
            CduError: ``path`` holds the Hessian of another point, data set or objective.
        """
        rows = ResumableMatrix(self.size, self.w.dtype, path, "" if path is None else self._fingerprint())
        # Show the progress bar only where the computation takes long.
        with Progress(
            total=self.size, initial=rows.done, desc="Hessian", unit="row", disable=self.size < 5000
        ) as progress:
            while rows.done < self.size:
                began, first = time.perf_counter(), rows.done
                count = min(block, self.size - first)
                unit = torch.zeros(count, self.size, dtype=self.w.dtype, device=self.w.device)
                unit[range(count), range(first, first + count)] = 1.0
                rows.append(self._linearised.product(unit), time.perf_counter() - began)
                progress.update(count)
        matrix = rows.matrix().to(self.w.device)
        matrix.diagonal().add_(self.damping)
        return matrix, rows.seconds

    def _fingerprint(self) -> str:
        """Hash of all that determines H: module and buffers, loss, l2 weight, point and samples."""
        objective, samples = self.objective, self.samples
        loss = getattr(objective.loss_function, "__qualname__", repr(objective.loss_function))
        words = (str(objective.model), loss, objective.l2, samples.mean, samples.std, samples.maximum)
        hashed = hashlib.sha256(repr((*words, samples.inputs.shape, samples.dtype, self.w.dtype)).encode())
        for part in (self.w, samples.inputs, samples.targets, *objective.model.buffers()):
            hashed.update(part.detach().contiguous().cpu().numpy().tobytes())
        return hashed.hexdigest()[:12]
