"""The Hessian as an operator that can be damped, and its extreme eigenvalues."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from cdu.data import Samples
from cdu.errors import CduError
from cdu.objective import Objective

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Hessian:
    """H + λI with H = ∇²L(w, S), as an operator: ``(Hessian(objective, w, samples) + damping) @ vector``.

    Attributes:
        objective: L.
        w: The point, shape (p,).
        samples: S.
        damping: λ.
    """

    objective: Objective
    w: Tensor
    samples: Samples
    damping: float = 0.0

    def __add__(self, damping: float) -> "Hessian":
        """The operator with ``damping`` more on its diagonal."""
        return replace(self, damping=self.damping + damping)

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Product with a vector of shape (p,), or with several as rows of shape (k, p)."""
        return self.objective.hvp(self.w, self.samples, vector).add(vector, alpha=self.damping)

    @property
    def size(self) -> int:
        """The number of parameters p."""
        return len(self.w)

    def dense(self, block: int = 16) -> Tensor:
        """The matrix, shape (p, p), built ``block`` rows at a time and made exactly symmetric."""
        identity = torch.eye(self.size, dtype=self.w.dtype, device=self.w.device)
        matrix = torch.cat([self @ rows for rows in identity.split(block)])
        return (matrix + matrix.T) / 2


@dataclass(frozen=True)
class Eigenvalue:
    """An eigenvalue estimate and the norm of its residual, ‖Av − θv‖ for a unit vector v.

    For a symmetric A some eigenvalue lies within ``error`` of ``value``.
    """

    value: float
    error: float


def extreme_eigenvalues(
    product: Product,
    like: Tensor,
    generator: torch.Generator,
    tolerance: float = 1e-3,
    subspace: int = 40,
) -> tuple[Eigenvalue, Eigenvalue]:
    """Smallest and largest eigenvalue of a symmetric operator, by implicitly restarted Lanczos (ARPACK).

    Args:
        product: v ↦ Av.
        like: A vector of A's size, type and device.
        generator: Draws the starting vector.
        tolerance: Relative accuracy asked of ARPACK.
        subspace: Lanczos vectors between restarts; the smallest number of products.

    Raises:
        CduError: Lanczos did not converge.
    """
    low, high = _lanczos(product, like, generator, tolerance, subspace, 2, "BE")
    return low, high


def spectral_norm(product: Product, like: Tensor, generator: torch.Generator, tolerance: float = 1e-2) -> float:
    """The largest eigenvalue in absolute value of a symmetric operator, by Lanczos: never more than the true one.

    Args:
        product: v ↦ Av.
        like: A vector of A's size, type and device.
        generator: Draws the starting vector.
        tolerance: Relative accuracy asked of ARPACK.

    Raises:
        CduError: Lanczos did not converge.
    """
    (found,) = _lanczos(product, like, generator, tolerance, 12, 1, "LM")
    return abs(found.value)


def _lanczos(
    product: Product,
    like: Tensor,
    generator: torch.Generator,
    tolerance: float,
    subspace: int,
    count: int,
    which: Literal["BE", "LM"],
) -> list[Eigenvalue]:
    """``count`` eigenvalues, ascending, at both ends or of largest magnitude."""
    size = len(like)

    def matvec(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        moved = torch.from_numpy(np.ascontiguousarray(vector.reshape(size))).to(like.device, like.dtype)
        return product(moved).double().cpu().numpy()

    start = torch.randn(size, generator=generator, dtype=torch.float64).numpy()
    if not matvec(start).any():
        # ARPACK gives up on the zero operator, whose eigenvalues are known.
        return [Eigenvalue(0.0, 0.0)] * count
    if size <= count + 1:
        raise CduError(f"Lanczos needs an operator of at least {count + 2} rows; this one has {size}")
    operator = LinearOperator((size, size), matvec=matvec, dtype=np.float64)
    try:
        values, vectors = eigsh(operator, k=count, which=which, v0=start, tol=tolerance, ncv=min(size, subspace))
    except ArpackNoConvergence as error:
        raise CduError(
            f"Lanczos did not converge to the extreme eigenvalues within a relative tolerance of {tolerance:g}; "
            "raise the tolerance"
        ) from error
    found = []
    for value, vector in zip(values, vectors.T, strict=True):
        residual = float(np.linalg.norm(matvec(vector) - value * vector))
        found.append(Eigenvalue(float(value), residual))
    return found
