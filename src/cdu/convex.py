"""Convex problems whose constants are known before the data are seen: softmax and ridge regression.

They are the control experiment: here every assumption of the theory can be met, a deletion can be checked against
true retraining in float64, and a certificate is worth something.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d, one_hot

from cdu.certification.rounding import UNIT, norm_rounding, softmax_gradient_rounding, squared_gradient_rounding
from cdu.curvature import Hessian
from cdu.data import Samples
from cdu.errors import CduError
from cdu.expectations import expect, expect_disjoint, expect_finite, expect_mean
from cdu.models import LogisticRegression
from cdu.objective import Objective
from cdu.seeding import generator
from cdu.solvers import conjugate_gradient

Preconditioner = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Constants:
    """What the theory asks for, fixed by the inputs' norm and l2 alone.

    Attributes:
        radius: C, which every minimiser obeys without projection: (l2/2)‖w‖² ≤ L(w) ≤ L(0).
        gradient_lipschitz: L.
        hessian_lipschitz: M.
        strong_convexity: A lower bound on λ_min over the whole space: l2.
    """

    radius: float
    gradient_lipschitz: float
    hessian_lipschitz: float
    strong_convexity: float


def softmax_constants(input_norm: float, l2: float, classes: int) -> Constants:
    """Constants of l2-regularised softmax regression with a bias on inputs of ‖x‖₂ ≤ ``input_norm``.

    With x̃ = (x, 1) and B = ‖x̃‖: the Hessian of log-sum-exp has eigenvalues of at most 1/2, so L = B²/2 + l2. Its
    third derivative along a unit vector is the third central moment of a variable of range at most √2, hence at most
    (√2)³/(6√3) = √2/(3√3), so M = B³·√2/(3√3). L(0) = ln K gives C = √(2 ln K / l2).

    Args:
        input_norm: Largest ‖x‖₂, enforced by :func:`clipped`.
        l2: Weight of (l2/2)‖w‖².
        classes: K.
    """
    reach = math.hypot(input_norm, 1.0)
    return Constants(
        radius=math.sqrt(2 * math.log(classes) / l2),
        gradient_lipschitz=reach**2 / 2 + l2,
        hessian_lipschitz=reach**3 * math.sqrt(2) / (3 * math.sqrt(3)),
        strong_convexity=l2,
    )


def ridge_constants(input_norm: float, l2: float) -> Constants:
    """Constants of ridge regression on one-hot targets: L = B² + l2, M = 0, and L(0) = 1/2 gives C = 1/√l2."""
    reach = math.hypot(input_norm, 1.0)
    return Constants(
        radius=1 / math.sqrt(l2), gradient_lipschitz=reach**2 + l2, hessian_lipschitz=0.0, strong_convexity=l2
    )


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance to the one-hot target, averaged over the batch."""
    return (outputs - one_hot(targets, outputs.shape[1])).square().sum(dim=1).mean() / 2


def weighted_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in which every sample has a weight; targets have the columns label and weight.

    The sum is divided by the number of samples, so that weights of mean one leave a mean.
    """
    losses = nn.functional.cross_entropy(outputs, targets[:, 0].long(), reduction="none")
    return (losses * targets[:, 1]).mean()


# --- inputs --------------------------------------------------------------------------------------------------------


def flat_pixels(samples: Samples) -> Samples:
    """The samples as float64 rows of pixels in [0, 1]: a scaling that does not look at the data."""
    return _rows(samples, samples.inputs.flatten(1).double() / samples.maximum)


def clipped(samples: Samples, norm: float) -> Samples:
    """Float64 rows of pixels in [0, 1], scaled down to ‖x‖₂ ≤ ``norm`` where they are longer."""
    rows = samples.inputs.flatten(1).double() / samples.maximum
    lengths = rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    return _rows(samples, rows * (norm / lengths).clamp(max=1.0))


def random_features(samples: Samples, filters: int = 16, size: int = 5, cells: int = 4, chunk: int = 2048) -> Samples:
    """Float64 features of random convolutions: filter, ReLU, average over a grid of cells.

    Filters are Gaussian from a fixed seed and nothing is fitted, centred or scaled on the data: the features of one
    image depend on that image alone, so that deleting another leaves them as they are.

    Args:
        samples: Images, shape (n, channels, height, width).
        filters: Number of filters; the features are ``filters · cells²`` many.
        size: Height and width of a filter.
        cells: The image is averaged over ``cells × cells`` regions.
        chunk: Images processed at once.
    """
    channels = samples.inputs.shape[1]
    normal = generator(0, "random features", filters, size)
    kernels = torch.randn(filters, channels, size, size, generator=normal, dtype=torch.float64)
    kernels = (kernels - kernels.mean(dim=(1, 2, 3), keepdim=True)).to(samples.device)
    parts = []
    for images in samples.inputs.split(chunk):
        maps = torch.relu(conv2d(images.double() / samples.maximum, kernels, padding=size // 2))
        parts.append(adaptive_avg_pool2d(maps, cells).flatten(1))
    return _rows(samples, torch.cat(parts))


def downweighted(retain: Samples, forget: Samples, share: float) -> Samples:
    """D with the forget set's weight lowered by ``share``: 0 is D itself, 1 is D_r. For :func:`weighted_cross_entropy`.

    Weights are scaled to a mean of one over all samples.
    """
    labels = torch.cat([retain.targets, forget.targets]).double()
    parts = [(len(retain), 1.0), (len(forget), 1.0 - share)]
    weights = torch.cat([torch.full((count,), weight, dtype=torch.float64) for count, weight in parts])
    weights = weights.to(labels.device)
    targets = torch.stack([labels, weights * (len(weights) / weights.sum())], dim=1)
    return replace(retain, inputs=torch.cat([retain.inputs, forget.inputs]), targets=targets)


def _rows(samples: Samples, rows: Tensor) -> Samples:
    return Samples(rows, samples.targets, dtype=torch.float64)


# --- minimisation --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Minimum:
    """A minimiser found.

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

    Raises:
        CduError: The tolerance was not reached.
    """
    begin = time.perf_counter()
    w, gradient = start, objective.gradient(start, samples)
    for step in range(max_steps + 1):
        size = gradient.norm().item()
        if size <= tolerance:
            return Minimum(w, size, step, time.perf_counter() - begin)
        if step == max_steps:
            break
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
        w, gradient = moved, slope
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
    hessian = Hessian(objective, w, samples)
    return conjugate_gradient(hessian, gradient, accuracy, max_steps=5000, preconditioner=preconditioner).x


def kronecker_preconditioner(objective: Objective, w: Tensor, samples: Samples) -> Preconditioner:
    """An approximate inverse Hessian of softmax regression: (S ⊗ A + l2·I)⁻¹.

    S = mean of diag(p) − ppᵀ over the samples and A = mean of x̃x̃ᵀ; exact if p did not depend on x. It must stay the
    same during one solve and may be kept over several.

    Args:
        objective: L of a :class:`~cdu.models.LogisticRegression`.
        w: Where the probabilities are taken.
        samples: Rows of shape (n, features).
    """
    probabilities = torch.softmax(objective.outputs(w, samples), dim=1)
    classes, count = probabilities.shape[1], len(samples)
    spread = torch.diag(probabilities.mean(dim=0)) - probabilities.T @ probabilities / count
    rows = torch.cat([samples.inputs, torch.ones_like(samples.inputs[:, :1])], dim=1)
    moments = rows.T @ rows / count
    (s, left), (a, right) = torch.linalg.eigh(spread), torch.linalg.eigh(moments)
    inverse = 1 / (torch.outer(s.clamp(min=0), a.clamp(min=0)) + objective.l2)
    features = rows.shape[1] - 1

    def apply(vector: Tensor) -> Tensor:
        weights, bias = vector.split([classes * features, classes])
        matrix = torch.cat([weights.view(classes, features), bias.unsqueeze(1)], dim=1)
        image = left @ ((left.T @ matrix @ right) * inverse) @ right.T
        return torch.cat([image[:, :-1].reshape(-1), image[:, -1]])

    return apply


def gradient_rounding(objective: Objective, w: Tensor, samples: Samples) -> float:
    """By how much ∇L(w, S) of a linear model may be off as computed: see :mod:`cdu.certification.rounding`.

    Args:
        objective: L of a :class:`~cdu.models.LogisticRegression`: cross-entropy, weighted or not, or squared error.
        w: The weights, shape (p,).
        samples: S, rows of shape (n, features).

    Raises:
        CduError: The model is not linear, or its loss is another one.
    """
    expect(
        isinstance(objective.model, LogisticRegression),
        f"the model is a {type(objective.model).__name__}, which is not known to be convex; give a LogisticRegression "
        "on features, without which no residual bounds a distance",
    )
    expect(
        objective.loss_of in (nn.functional.cross_entropy, squared_error, weighted_cross_entropy),
        f"the loss {getattr(objective.loss_of, '__name__', objective.loss_of)} is not one whose rounding is known; "
        "give cross_entropy, squared_error or weighted_cross_entropy",
    )
    count, features = samples.inputs.shape
    norms = (samples.inputs.norm(dim=1).max().item() * (1 + norm_rounding(features)), w.norm().item())
    unit = UNIT["float64"]
    if objective.loss_of is squared_error:
        return squared_gradient_rounding(*norms, objective.l2, features, count, unit)
    heaviest = samples.targets[:, 1].max().item() if objective.loss_of is weighted_cross_entropy else 1.0
    return max(1.0, heaviest) * softmax_gradient_rounding(
        *norms, objective.l2, features, len(w) // (features + 1), count, unit
    )


# --- deletion ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deletion:
    """A deletion by Newton steps, checked against a budget.

    Attributes:
        steps: Newton steps taken.
        iterate: The Newton iterate, shape (p,).
        residual: ‖∇L(iterate, D_r)‖ as computed; over l2 it bounds the distance to the exact retrained model.
        distance: That bound, with what rounding may hide of the gradient.
        fallback: Whether ``distance`` exceeds the budget, so that the request is answered by retraining instead.
        seconds: Wall time of the steps and of the check, without a fallback.
    """

    steps: int
    iterate: Tensor
    residual: float
    distance: float
    fallback: bool
    seconds: float


def deletions(
    objective: Objective,
    w_star: Tensor,
    retain: Samples,
    forget: Samples,
    steps: int,
    budget: float,
    preconditioner: Preconditioner | None = None,
) -> list[Deletion]:
    """Newton steps on D_r, after each of them the certificate's condition: ‖∇L(w̃, D_r)‖/l2 ≤ budget.

    For an l2-strongly convex L the left side bounds ‖w̃ − w̃*‖; what rounding may hide of the gradient is added to it
    (:func:`gradient_rounding`). Noise is scaled to the *budget*, which was fixed before the data were seen, whether a
    request is answered by the iterate or by retraining.

    Args:
        objective: L of a :class:`~cdu.models.LogisticRegression`, with l2 > 0.
        w_star: The minimiser on D.
        retain: D_r, rows of shape (n, features).
        forget: D_u, none of which may be in ``retain``; the steps need nothing else of it.
        steps: Newton steps.
        budget: Δ.
        preconditioner: For conjugate gradient.

    Returns:
        One deletion for 0, 1, …, ``steps`` steps.

    Raises:
        CduError: l2 or the budget is not positive, a sample is in both sets, the weights are not in float64, the loss
            is no mean or none whose rounding is known, the model is not linear, or the gradient is not finite, so that
            nothing can be checked.
    """
    expect(objective.l2 > 0, f"l2 = {objective.l2} bounds no distance; train with l2 > 0")
    expect(0 < budget < math.inf, f"budget = {budget} is not a positive finite number")
    expect(steps >= 0, f"steps = {steps} is below 0")
    expect(
        w_star.dtype == torch.float64,
        f"the weights are of type {w_star.dtype}, whose rounding a residual does not show; give model and samples "
        "in float64",
    )
    expect_disjoint(retain, forget)
    expect_finite(retain, "retain")
    expect_mean(objective, w_star, retain)
    begin = time.perf_counter()
    w, found = w_star, []
    for taken in range(steps + 1):
        gradient = objective.gradient(w, retain)
        residual = gradient.norm().item()
        expect(
            math.isfinite(residual),
            f"the gradient on D_r has the norm {residual} after {taken} Newton steps, so that no budget can be "
            "checked; look for NaN in the weights and the inputs, and retrain",
        )
        hidden = gradient_rounding(objective, w, retain)
        distance = (residual * (1 + norm_rounding(len(w))) + hidden) / objective.l2
        found.append(Deletion(taken, w, residual, distance, distance > budget, time.perf_counter() - begin))
        if taken < steps:
            w = w - newton_direction(objective, w, retain, gradient, 1e-5, preconditioner)
    return found
