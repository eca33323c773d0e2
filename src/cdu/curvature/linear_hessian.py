"""The Hessian of a linear model on features in single precision, in closed form."""

import copy

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cdu.data.samples import Samples
from cdu.models.architectures import LogisticRegression
from cdu.models.losses import squared_error
from cdu.models.objective import Objective

#: Rows whose probabilities are computed at once.
_BLOCK = 8192


class LinearHessian:
    """H + λI of softmax or ridge regression, with products in the features' own precision.

    With the logits' Hessian S_i = diag(p_i) − p_i p_iᵀ of a sample (S_i = I for the squared error), x̃ = (x, 1) and a
    vector v as a matrix V of shape (K, features + 1):

        H v = mean over i of (S_i V x̃_i) x̃_iᵀ + (l2 + λ) V.

    That is two products with the matrix of features, without a graph and without a copy in double precision: four times
    fewer bytes than :class:`~cdu.curvature.hessian.Hessian` moves. Single precision suffices for the direction of a
    Newton step. How far the step has come is judged by a gradient in double precision.

    Args:
        objective: L of a :class:`~cdu.models.architectures.LogisticRegression` (:func:`has_closed_form`).
        w: The point, shape (p,).
        samples: S, float32 rows of shape (n, features).
        damping: λ.
    """

    def __init__(self, objective: Objective, w: Tensor, samples: Samples, damping: float = 0.0) -> None:
        self.objective = objective
        self.w = w
        self.samples = samples
        self.damping = damping
        self._probabilities = None if objective.loss_function is squared_error else probabilities(w, samples)

    def __add__(self, damping: float) -> "LinearHessian":
        """The operator with ``damping`` more on its diagonal."""
        total = copy.copy(self)
        total.damping += damping
        return total

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Product with a vector of shape (p,)."""
        rows = self.samples.inputs
        weights, bias = split(vector, rows.shape[1])
        outputs = torch.addmm(bias.to(rows.dtype), rows, weights.to(rows.dtype).T)
        if self._probabilities is not None:
            weighted = self._probabilities * outputs
            outputs = weighted - self._probabilities * weighted.sum(dim=1, keepdim=True)
        image = torch.cat([(outputs.T @ rows).reshape(-1), outputs.sum(dim=0)]).to(vector.dtype)
        return (image / len(rows)).add(vector, alpha=self.objective.l2 + self.damping)

    @property
    def size(self) -> int:
        """The number of parameters p."""
        return len(self.w)


def has_closed_form(objective: Objective, samples: Samples) -> bool:
    """Whether :class:`LinearHessian` has the Hessian of an objective on these samples."""
    return (
        isinstance(objective.model, LogisticRegression)
        and objective.loss_function in (cross_entropy, squared_error)
        and samples.inputs.dtype == torch.float32
    )


def probabilities(w: Tensor, samples: Samples) -> Tensor:
    """A linear model's probabilities p_i, in the features' precision, shape (n, K)."""
    weights, bias = split(w.to(samples.inputs.dtype), samples.inputs.shape[1])
    blocks = samples.inputs.split(_BLOCK)
    return torch.cat([torch.softmax(torch.addmm(bias, block, weights.T), dim=1) for block in blocks])


def split(vector: Tensor, features: int) -> tuple[Tensor, Tensor]:
    """The weights of shape (K, features) and the biases of shape (K,) of a linear model's flat vector."""
    classes = len(vector) // (features + 1)
    weights, bias = vector.split([classes * features, classes])
    return weights.view(classes, features), bias
