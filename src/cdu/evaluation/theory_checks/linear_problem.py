"""Deletions from linear models on clipped inputs, whose constants are known before the data are seen."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cdu.certification.convex import Constants, ridge_constants, softmax_constants
from cdu.curvature.minimise import minimise
from cdu.data.features import clipped
from cdu.data.samples import Samples
from cdu.models.architectures import LogisticRegression
from cdu.models.losses import squared_error, weighted_cross_entropy
from cdu.models.objective import Objective
from cdu.seeding import generator

#: The norm that inputs are clipped to.
INPUT_NORM = 1.0

#: ‖∇L‖ at which a minimiser counts as found.
OPTIMUM = 1e-11


@dataclass(frozen=True)
class LinearProblem:
    """Ridge and softmax regression on the same samples, in float64.

    Attributes:
        samples: D, rows of ‖x‖₂ ≤ :data:`INPUT_NORM`, shape (n, features).
        order: Rows of D in the order in which they are forgotten; the first tenth is D_u.
        classes: K.
        l2: Weight of (l2/2)‖w‖².
    """

    samples: Samples
    order: Tensor
    classes: int
    l2: float

    @property
    def forget_rows(self) -> Tensor:
        """Rows of D_u."""
        return self.order[: len(self.samples) // 10]

    @cached_property
    def forget(self) -> Samples:
        """D_u."""
        return self.samples.subset(self.forget_rows)

    @cached_property
    def retain(self) -> Samples:
        """D_r."""
        return self.without(self.forget_rows)

    def without(self, rows: Tensor) -> Samples:
        """D without some rows."""
        left = torch.ones(len(self.samples), dtype=torch.bool)
        left[rows] = False
        return self.samples.subset(left.nonzero().squeeze(1))

    @cached_property
    def model(self) -> LogisticRegression:
        """The module that all three objectives share."""
        return LogisticRegression(self.samples.inputs.shape[1], self.classes).double()

    @cached_property
    def ridge(self) -> Objective:
        """L of ridge regression on one-hot targets."""
        return Objective(self.model, squared_error, l2=self.l2)

    @cached_property
    def softmax(self) -> Objective:
        """L of softmax regression."""
        return Objective(self.model, l2=self.l2)

    @cached_property
    def weighted_softmax(self) -> Objective:
        """L of softmax regression where every sample has a weight."""
        return Objective(self.model, weighted_cross_entropy, l2=self.l2)

    @property
    def start(self) -> Tensor:
        """Zero weights."""
        return torch.zeros(self.softmax.size, dtype=torch.float64)

    @cached_property
    def w_softmax(self) -> Tensor:
        """w* of softmax regression, with ‖∇L(w*, D)‖ ≤ :data:`OPTIMUM`."""
        return minimise(self.softmax, self.samples, self.start, OPTIMUM).w

    def w_ridge(self, samples: Samples) -> Tensor:
        """The minimiser of ridge regression on some samples, from the normal equations."""
        ones = torch.ones(len(samples), 1, dtype=torch.float64)
        design = torch.cat([samples.inputs, ones], dim=1)
        targets = one_hot(samples.targets, self.classes).double()
        gram = design.T @ design / len(design) + self.l2 * torch.eye(design.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(gram, design.T @ targets / len(design))
        return torch.cat([weights[:-1].T.reshape(-1), weights[-1]])

    @property
    def ridge_constants(self) -> Constants:
        """C, L, M and strong convexity of ridge regression."""
        return ridge_constants(INPUT_NORM, self.l2)

    @property
    def softmax_constants(self) -> Constants:
        """C, L, M and strong convexity of softmax regression."""
        return softmax_constants(INPUT_NORM, self.l2, self.classes)


def linear_problem(images: Samples, count: int, classes: int, l2: float, seed: int) -> LinearProblem:
    """Draw samples, clip them, and draw the order in which they are forgotten.

    Args:
        images: What is drawn from.
        count: How many samples, or as many as there are.
        classes: K.
        l2: Weight of (l2/2)‖w‖².
        seed: The run's seed.
    """
    rows = torch.randperm(len(images), generator=generator(seed, "rows"))[:count]
    samples = clipped(images.subset(rows).to("cpu"), INPUT_NORM)
    return LinearProblem(samples, torch.randperm(len(samples), generator=generator(seed, "forget")), classes, l2)
