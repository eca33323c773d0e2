"""Newton's method for convex objectives."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.linear_hessian import LinearHessian, has_closed_form, probabilities, split
from cdu.curvature.solution import Preconditioner
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models.losses import squared_error
from cdu.models.objective import Objective
from cdu.seeding import generator


@dataclass(frozen=True)
class Minimum:
    """What :func:`minimise` found.

    Attributes:
        w: The weights, shape (p,).
        gradient_norm: ‖∇L(w, S)‖; over the strong convexity it bounds the distance to the true minimiser.
        steps: Newton steps taken.
        seconds: Wall time.
    """

    w: Tensor
    gradient_norm: float
    steps: int
    seconds: float


def minimise(
    objective: Objective,
    samples: Samples,
    start: Tensor,
    tolerance: float = 1e-12,
    preconditioner: Preconditioner | None = None,
    max_steps: int = 50,
    frugal: bool = False,
) -> Minimum:
    """Minimise a strongly convex objective by Newton's method with conjugate gradient inside.

    The step is halved until the gradient's norm falls, which for a convex L it does along the Newton direction. The
    minimiser is unique, so that ``start`` changes the time and not the result.

    Args:
        objective: L, in float64 for tolerances below 1e-6.
        samples: S.
        start: Starting weights, shape (p,).
        tolerance: ‖∇L‖ at which to stop.
        preconditioner: For conjugate gradient.
        max_steps: Newton steps after which it gives up.
        frugal: Whether a step's linear system is solved no more accurately than the step before was worth: to
            0.9·(‖∇L‖/‖∇L before‖)² of its right-hand side (Eisenstat & Walker 1996, choice 2). That saves a fifth of
            the products, and comes less far below the tolerance.

    Raises:
        CduError: The tolerance was not reached.
    """
    begin = time.perf_counter()
    w, gradient, before = start, objective.gradient(start, samples), math.inf
    for step in range(max_steps + 1):
        size = gradient.norm().item()
        if size <= tolerance:
            return Minimum(w, size, step, time.perf_counter() - begin)
        if step == max_steps:
            break
        if frugal:
            accuracy = max(min(0.1, 0.9 * (size / before) ** 2), 0.3 * tolerance / size)
        else:
            accuracy = max(min(0.1, size), 0.1 * tolerance / size)
        direction = newton_direction(objective, w, samples, gradient, accuracy, preconditioner)
        shrink = 1.0
        while True:
            moved = w - shrink * direction
            slope = objective.gradient(moved, samples)
            if slope.norm().item() <= (1 - 1e-4 * shrink) * size:
                break
            shrink /= 2
            if shrink < 1e-8:
                raise CduError(
                    f"minimisation stopped at ‖∇L‖ = {size:.3g}, above the tolerance {tolerance:g}: no step lowers the "
                    "gradient; use float64 or a larger tolerance"
                )
        w, gradient, before = moved, slope, size
    raise CduError(
        f"minimisation reached ‖∇L‖ = {size:.3g} after {max_steps} Newton steps, above the tolerance {tolerance:g}; "
        "raise l2 or the tolerance"
    )


def newton_direction(
    objective: Objective,
    w: Tensor,
    samples: Samples,
    gradient: Tensor,
    accuracy: float,
    preconditioner: Preconditioner | None = None,
) -> Tensor:
    """H⁻¹∇L to a relative residual of ``accuracy``, by conjugate gradient without damping."""
    operator = LinearHessian if has_closed_form(objective, samples) else Hessian
    hessian = operator(objective, w, samples)
    return conjugate_gradient(hessian, gradient, accuracy, max_steps=5000, preconditioner=preconditioner).x


@dataclass(frozen=True)
class FeatureMoments:
    """Eigenpairs of A = mean of x̃x̃ᵀ over samples, x̃ = (x, 1): all, or the leading ones.

    Attributes:
        values: Eigenvalues, shape (r,) with r ≤ features + 1.
        vectors: Eigenvectors as columns, shape (features + 1, r).
    """

    values: Tensor
    vectors: Tensor


def feature_moments(samples: Samples, block: int | None = None) -> FeatureMoments:
    """A of a linear model's features, decomposed. It takes time of the order of n·d² and of d³.

    Features in single precision are decomposed in single precision, which suffices for a preconditioner.

    Args:
        samples: Rows of shape (n, features).
        block: Rows of which a copy with a column of ones is made at once; all when None, which needs rows of the type
            of ``samples.dtype`` already.
    """
    count = len(samples)
    if samples.inputs.dtype == torch.float32:
        # One product for all rows: blocks of it are slower.
        rows, sums = samples.inputs, samples.inputs.sum(dim=0)
        corner = torch.full((1,), float(count), device=sums.device)
        last = torch.cat([sums, corner]).unsqueeze(1)
        moments = torch.cat([torch.cat([rows.T @ rows, sums.unsqueeze(0)]), last], dim=1) / count
    elif block is None:
        moments = _products(samples.inputs) / count
    else:
        moments = torch.zeros((), dtype=samples.dtype, device=samples.device)
        for inputs, _ in samples.batches(block):
            moments = moments + _products(inputs) / count
    return FeatureMoments(*torch.linalg.eigh(moments))


def leading_moments(samples: Samples, rank: int) -> FeatureMoments:
    """Leading eigenpairs of A, from its image of ``rank`` random vectors: three products with the features, and no A.

    Halko, Martinsson & Tropp (2011). The vectors are the same each time: a preconditioner needs no luck.

    Args:
        samples: Rows of shape (n, features), float32.
        rank: Eigenpairs.
    """
    rows, size = samples.inputs, samples.inputs.shape[1] + 1
    sketch = torch.randn(size, rank, generator=generator(0, "moments"), dtype=rows.dtype).to(rows.device)
    image = torch.addmm(sketch[-1], rows, sketch[:-1])
    basis = torch.linalg.qr(torch.cat([rows.T @ image, image.sum(dim=0, keepdim=True)])).Q
    seen = torch.addmm(basis[-1], rows, basis[:-1])
    values, rotation = torch.linalg.eigh(seen.T @ seen / len(samples))
    return FeatureMoments(values, basis @ rotation)


def kronecker_preconditioner(
    objective: Objective,
    w: Tensor,
    samples: Samples,
    block: int | None = None,
    moments: FeatureMoments | None = None,
) -> Preconditioner:
    """An approximate inverse Hessian of a linear model: (S ⊗ A + l2·I)⁻¹.

    A = mean of x̃x̃ᵀ over the samples, of which the leading eigenpairs are enough (Frangella et al. 2023). For softmax
    regression S = mean of diag(p) − ppᵀ, and the inverse is exact if p does not depend on x; for the squared error S =
    I, and it is exact. It must stay the same during one solve and may be kept over several.

    Args:
        objective: L of a :class:`~cdu.models.architectures.LogisticRegression`.
        w: Where the probabilities are taken.
        samples: Rows of shape (n, features).
        block: As for :func:`feature_moments`.
        moments: A of these samples, or of nearly the same; computed when None.
    """
    known = feature_moments(samples, block) if moments is None else moments
    spread = _spread(objective, w, samples).to(known.values.dtype)
    a, right = known.values, known.vectors
    s, left = torch.linalg.eigh(spread)
    inverse = 1 / (torch.outer(s.clamp(min=0), a.clamp(min=0)) + objective.l2)
    # Across the leading eigenvectors the least of their eigenvalues stands in place of all others.
    rest = (1 / (s.clamp(min=0) * a.clamp(min=0).min() + objective.l2)).unsqueeze(1)
    features, whole = len(right) - 1, right.shape[0] == right.shape[1]

    def apply(vector: Tensor) -> Tensor:
        weights, bias = split(vector.to(a.dtype), features)
        turned = left.T @ torch.cat([weights, bias.unsqueeze(1)], dim=1)
        if whole:
            image = left @ ((turned @ right) * inverse) @ right.T
        else:
            image = left @ (rest * turned + ((turned @ right) * (inverse - rest)) @ right.T)
        return torch.cat([image[:, :-1].reshape(-1), image[:, -1]]).to(vector.dtype)

    return apply


def _spread(objective: Objective, w: Tensor, samples: Samples) -> Tensor:
    """S of the preconditioner, shape (K, K)."""
    classes = len(w) // (samples.inputs.shape[1] + 1)
    if objective.loss_function is squared_error:
        return torch.eye(classes, dtype=w.dtype, device=w.device)
    if has_closed_form(objective, samples):
        found = probabilities(w, samples)
    else:
        found = torch.softmax(objective.outputs(w, samples), dim=1)
    return torch.diag(found.mean(dim=0)) - found.T @ found / len(samples)


def _products(inputs: Tensor) -> Tensor:
    """The sum of x̃x̃ᵀ over the rows x̃ = (x, 1)."""
    rows = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
    return rows.T @ rows
