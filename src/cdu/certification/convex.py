"""Constants of convex problems, and the rounding of their gradients."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cdu.certification.rounding import UNIT, norm_rounding, softmax_gradient_rounding, squared_gradient_rounding
from cdu.checks import expect
from cdu.data.samples import Samples
from cdu.models.architectures import LogisticRegression
from cdu.models.losses import squared_error, weighted_cross_entropy
from cdu.models.objective import Objective

#: Rows whose norms are taken at once: as many as a processor's cache holds.
_BLOCK = 256


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
        input_norm: Largest ‖x‖₂, enforced by :func:`cdu.data.features.clipped`.
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


def gradient_rounding(objective: Objective, w: Tensor, samples: Samples) -> float:
    """A bound on the rounding of the computed ∇L(w, S) of a linear model; see :mod:`cdu.certification.rounding`.

    Args:
        objective: L of a :class:`~cdu.models.architectures.LogisticRegression`: cross-entropy, weighted or not, or
            squared error.
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
    name = getattr(objective.loss_function, "__name__", objective.loss_function)
    expect(
        objective.loss_function in (nn.functional.cross_entropy, squared_error, weighted_cross_entropy),
        f"the loss {name} is not one whose rounding is known; "
        "give cross_entropy, squared_error or weighted_cross_entropy",
    )
    count, features = samples.inputs.shape
    norms = (largest_norm(samples) * (1 + norm_rounding(features)), w.norm().item())
    unit = UNIT["float64"]
    if objective.loss_function is squared_error:
        return squared_gradient_rounding(*norms, objective.l2, features, count, unit)
    heaviest = samples.targets[:, 1].max().item() if objective.loss_function is weighted_cross_entropy else 1.0
    return max(1.0, heaviest) * softmax_gradient_rounding(
        *norms, objective.l2, features, len(w) // (features + 1), count, unit
    )


def largest_norm(samples: Samples) -> float:
    """The largest norm of a row, taken in double precision: norms in single precision would be too small."""
    blocks = samples.inputs.split(_BLOCK)
    return max(float(torch.linalg.vector_norm(block, dim=1, dtype=torch.float64).max()) for block in blocks)
