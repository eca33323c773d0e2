"""The Lanczos process: extreme eigenvalues, norms and spectral densities from products alone."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdu.curvature.hessian import Product
from cdu.errors import CduError


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

    Example:
        >>> matrix = torch.diag(torch.tensor([1.0, 2.0, 5.0, 9.0], dtype=torch.float64))
        >>> like = torch.zeros(4, dtype=torch.float64)
        >>> low, high = extreme_eigenvalues(matrix.matmul, like, torch.Generator().manual_seed(0))
        >>> print(f"{low.value:.4f} {high.value:.4f}")
        1.0000 9.0000
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

    Example:
        >>> matrix = torch.diag(torch.tensor([1.0, 2.0, 5.0, 9.0], dtype=torch.float64))
        >>> norm = spectral_norm(matrix.matmul, torch.zeros(4, dtype=torch.float64), torch.Generator().manual_seed(0))
        >>> print(f"{norm:.4f}")
        9.0000
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
    # Imported here: it takes longer than most of this package, and many requests need no eigenvalue.
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

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


def lanczos(
    product: Product, start: Tensor, steps: int, tolerance: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Lanczos with full reorthogonalisation: an orthonormal basis V of a Krylov space and the tridiagonal VᵀAV.

    It ends early where the space is invariant.

    Args:
        product: v ↦ Av for a symmetric A.
        start: First vector, shape (p,), not zero.
        steps: Largest dimension k.
        tolerance: Where given, it also ends once the Ritz value θ of largest magnitude has a residual ‖Ay − θy‖ of at
            most ``tolerance`` times that magnitude.

    Returns:
        V as rows of shape (k, p), and the diagonal, shape (k,), and off-diagonal, shape (k − 1,), in float64.

    Example:
        >>> matrix = torch.diag(torch.tensor([1.0, 2.0, 5.0, 9.0], dtype=torch.float64))
        >>> start = torch.ones(4, dtype=torch.float64)
        >>> basis, diagonal, off = lanczos(matrix.matmul, start, steps=2)
        >>> print(tuple(basis.shape), f"{diagonal[0]:.4f}")
        (2, 4) 4.2500
    """
    basis = start.new_empty(steps, len(start))
    diagonal: list[float] = []
    off: list[float] = []
    largest = 0.0
    following = start / start.norm()
    for step in range(steps):
        basis[step] = following
        image = product(following)
        diagonal.append(image.dot(following).item())
        largest = max(largest, image.norm().item())
        known = basis[: step + 1]
        # Twice, since once leaves rounding that grows.
        for _ in range(2):
            image = image - known.T @ (known @ image)
        rest = image.norm().item()
        if step + 1 == steps or rest <= 10 * torch.finfo(start.dtype).eps * largest:
            break
        if tolerance is not None and _settled(diagonal, off, rest, tolerance):
            break
        off.append(rest)
        following = image / rest
    count = len(diagonal)
    return (
        basis[:count],
        torch.tensor(diagonal, dtype=torch.float64, device=start.device),
        torch.tensor(off[: count - 1], dtype=torch.float64, device=start.device),
    )


def _settled(diagonal: list[float], off: list[float], rest: float, tolerance: float) -> bool:
    """Whether the Ritz value of largest magnitude has a small residual: β_k times the last entry of its eigenvector."""
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    outer = int(np.abs(values).argmax())
    return bool(rest * abs(vectors[-1, outer]) <= tolerance * abs(values[outer]))


def ritz_values(
    product: Product, like: Tensor, generator: torch.Generator, steps: int, tolerance: float | None = None
) -> Tensor:
    """Ritz values, ascending, of a Lanczos process from a random start, on A's device.

    They lie within the spectrum, and near its ends after few steps.

    Args:
        product: v ↦ Av for a symmetric A.
        like: A vector of A's size, type and device.
        generator: Draws the start.
        steps: Lanczos steps at most, each one product.
        tolerance: As for :func:`lanczos`.

    Returns:
        Shape (k,) with k ≤ ``steps``, in float64.
    """
    start = torch.randn(len(like), generator=generator, dtype=torch.float64).to(like.device, like.dtype)
    _, diagonal, off = lanczos(product, start, min(steps, len(like)), tolerance)
    values: Tensor = torch.linalg.eigvalsh(torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1))
    return values


def ritz_norm(product: Product, like: Tensor, generator: torch.Generator, steps: int, tolerance: float = 1e-2) -> float:
    """Like :func:`spectral_norm`, with every vector on A's device: for networks too large for ARPACK.

    Args:
        product: v ↦ Av for a symmetric A.
        like: A vector of A's size, type and device.
        generator: Draws the start.
        steps: Lanczos steps at most; what is returned is never more than the norm, however few they are.
        tolerance: As for :func:`lanczos`.
    """
    return float(ritz_values(product, like, generator, steps, tolerance).abs().max())


def spectral_density(
    product: Product, like: Tensor, generator: torch.Generator, probes: int = 10, steps: int = 80
) -> tuple[Tensor, Tensor]:
    """Density of a symmetric operator's eigenvalues, by stochastic Lanczos quadrature (Ghorbani et al. 2019).

    Args:
        product: v ↦ Av.
        like: A vector of A's size, type and device.
        generator: Draws the Gaussian probes.
        probes: Random vectors averaged over.
        steps: Lanczos steps for each; the nodes at both ends converge to the extreme eigenvalues.

    Returns:
        Nodes and weights, each of shape (probes · steps,) or less; the weights sum to one, and Σ weights·f(nodes)
        estimates the mean of f over the eigenvalues.
    """
    nodes, weights = [], []
    for _ in range(probes):
        start = torch.randn(len(like), generator=generator, dtype=torch.float64).to(like.device, like.dtype)
        _, diagonal, off = lanczos(product, start, min(steps, len(like)))
        values, vectors = torch.linalg.eigh(torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1))
        nodes.append(values.cpu())
        weights.append(vectors[0].square().cpu() / probes)
    return torch.cat(nodes), torch.cat(weights)
