"""The control experiment: L2-regularised softmax regression in float64, on which all assumptions hold."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdu.certification import residual_bound
from cdu.curvature.minimise import Minimum, kronecker_preconditioner, minimise
from cdu.curvature.solution import Preconditioner
from cdu.data.samples import Samples
from cdu.evaluation.accuracy import accuracy
from cdu.evaluation.readings import Reading
from cdu.models.architectures import LogisticRegression
from cdu.models.objective import Objective
from cdu.seeding import generator
from cdu.unlearning.convex_deletions import Deletion, deletions


@dataclass(frozen=True)
class ConvexModel:
    """A trained model, and a preconditioner for its systems.

    Attributes:
        objective: L.
        w_star: The minimiser on D, with ‖∇L‖ ≤ 1e-9, shape (p,).
        inverse: An approximate inverse Hessian.
        seconds: Wall time of the training.
    """

    objective: Objective
    w_star: Tensor
    inverse: Preconditioner
    seconds: float


@dataclass(frozen=True)
class CheckedDeletion:
    """A deletion beside the exact retrained model.

    Attributes:
        deletion: The Newton iterate, and whether it keeps to the budget.
        distance: ‖iterate − w̃*‖.
        certified_distance: What the two residuals over l2 allow; the distance must not exceed it.
        released: What is released before noise: the iterate, or w̃* where the budget is exceeded, shape (p,).
        released_distance: ‖released − w̃*‖.
    """

    deletion: Deletion
    distance: float
    certified_distance: float
    released: Tensor
    released_distance: float


@dataclass(frozen=True)
class Control:
    """Deletions from softmax regression on features that do not depend on D.

    Attributes:
        images: Features of all training samples, in float64, shape (n, features).
        test: Features of the test samples.
        rows: Rows of D among ``images``.
        classes: K.
        budget: Δ, fixed before the data are looked at.
        sigmas: Standard deviation of the noise by ε; those that the budget asks for.
        seed: Seed of the noise.
    """

    images: Samples
    test: Samples
    rows: NDArray[np.int64]
    classes: int
    budget: float
    sigmas: Mapping[float, float]
    seed: int

    def objective(self, l2: float) -> Objective:
        """L with some weight of the regulariser."""
        return Objective(LogisticRegression(self.images.inputs.shape[1], self.classes).double(), l2=l2)

    def trained(self, l2: float) -> ConvexModel:
        """Train on D."""
        objective, data = self.objective(l2), self.images.subset(self.rows)
        began = time.perf_counter()
        rough = minimise(objective, data, torch.zeros(objective.size, dtype=torch.float64), 1e-2).w
        inverse = kronecker_preconditioner(objective, rough, data)
        w_star = minimise(objective, data, rough, 1e-9, inverse).w
        return ConvexModel(objective, w_star, inverse, time.perf_counter() - began)

    def nearly_unregularised_accuracy(self, l2: float, start: Tensor) -> float:
        """Accuracy on the test set of a model with next to no regulariser: what l2 costs is measured against it.

        Args:
            l2: The small weight.
            start: Where its training starts, shape (p,).
        """
        objective, data = self.objective(l2), self.images.subset(self.rows)
        inverse = kronecker_preconditioner(objective, start, data)
        return accuracy(objective, minimise(objective, data, start, 1e-3, inverse).w, self.test)

    def checked(
        self, model: ConvexModel, forget: NDArray[np.int64], steps: int = 2
    ) -> tuple[Minimum, list[CheckedDeletion]]:
        """Delete by up to ``steps`` Newton steps, and retrain exactly to compare with.

        Args:
            model: Trained on D.
            forget: Rows of D_u among ``images``.
            steps: Newton steps.

        Returns:
            w̃*, and one deletion for 0, 1, …, ``steps`` steps.
        """
        retain, gone = self.images.subset(np.setdiff1d(self.rows, forget)), self.images.subset(forget)
        found = deletions(model.objective, model.w_star, retain, gone, steps, self.budget, model.inverse)
        # The minimiser is unique: starting near it saves time and changes nothing.
        exact = minimise(model.objective, retain, found[-1].iterate, 1e-12, model.inverse)
        return exact, [_beside(exact, deletion, model.objective.l2) for deletion in found]

    def noisy_accuracies(self, objective: Objective, w: Tensor) -> dict[float, float]:
        """Accuracy on the test set after the noise, by ε; the noise is the same draw each time, scaled by σ.

        Args:
            objective: L.
            w: What is released before noise, shape (p,).
        """
        noise = torch.randn(objective.size, generator=generator(self.seed, "control noise"), dtype=torch.float64)
        return {epsilon: accuracy(objective, w + sigma * noise, self.test) for epsilon, sigma in self.sigmas.items()}


def _beside(exact: Minimum, deletion: Deletion, l2: float) -> CheckedDeletion:
    released = exact.w if deletion.fallback else deletion.iterate
    return CheckedDeletion(
        deletion,
        distance=(deletion.iterate - exact.w).norm().item(),
        certified_distance=residual_bound(deletion.residual, l2, exact.gradient_norm).value,
        released=released,
        released_distance=(released - exact.w).norm().item(),
    )


def rows_of_class(
    rows: NDArray[np.int64], labels: NDArray[np.int64], label: int, count: int, seed: int
) -> NDArray[np.int64]:
    """Some rows of one class, drawn at random, ascending; all of them where there are no more than ``count``.

    Args:
        rows: What is drawn from.
        labels: Labels of all rows that there are.
        label: The class.
        count: How many at most.
        seed: The run's seed.
    """
    own = rows[labels[rows] == label]
    order = torch.randperm(len(own), generator=generator(seed, "one class"))
    return np.sort(own[order[:count].numpy()])


def control_readings(
    control: Control, name: str, l2: tuple[float, ...], forget_sets: Mapping[str, NDArray[np.int64]]
) -> Iterator[Reading]:
    """All numbers of the control experiment on one kind of features.

    Args:
        control: The experiment.
        name: Of the features.
        l2: Weights of the regulariser.
        forget_sets: Rows of every D_u, by name.

    Yields:
        For every l2, forget set and number of steps the distances, measured and certified, what l2 and noise cost in
        accuracy, and times.
    """
    tiny = min(l2) / 100
    unregularised: float | None = None
    for weight in sorted(l2):
        model = control.trained(weight)
        yield Reading({"seconds": model.seconds}, {"method": f"{name}, l2 = {weight:g}, training"})
        if unregularised is None:
            unregularised = control.nearly_unregularised_accuracy(tiny, model.w_star)
            yield Reading({"accuracy": unregularised}, {"method": f"{name}, l2 = {tiny:g}", "split": "test"})
        for kind, forget in forget_sets.items():
            exact, found = control.checked(model, forget)
            noiseless = accuracy(model.objective, exact.w, control.test)
            for one in found:
                keys = {"method": f"{name}, l2 = {weight:g}, {kind}", "axis": "steps", "point": one.deletion.steps}
                yield Reading(_distances(one), keys)
                yield Reading({"accuracy": noiseless}, {**keys, "split": "test"})
                yield Reading({"l2_price": unregularised - noiseless}, keys)
                for epsilon, value in control.noisy_accuracies(model.objective, one.released).items():
                    yield Reading({"accuracy": value}, {**keys, "split": f"test, ε = {epsilon:g}"})


def _distances(one: CheckedDeletion) -> dict[str, float]:
    return {
        "measured_distance": one.distance,
        "certified_distance": one.certified_distance,
        "ratio": one.distance / one.certified_distance,
        "fallback": float(one.deletion.fallback),
        "released_distance": one.released_distance,
        "seconds": one.deletion.seconds,
    }
