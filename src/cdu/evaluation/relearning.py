"""Relearn time: how long a model needs to fit the forget set again."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cdu.data.samples import Samples
from cdu.evaluation.settings import RelearnSettings
from cdu.models.objective import Objective
from cdu.seeding import generator
from cdu.unlearning.methods.fixed_features import FixedFeatures


@dataclass(frozen=True)
class Relearning:
    """How long a model needs to fit the forget set again.

    Attributes:
        epochs: Epochs until the target loss was reached, 0 if it held from the start; None when it was not
            reached (censored).
        losses: Mean loss on the forget set before the first epoch and after each.
    """

    epochs: int | None
    losses: list[float]

    @property
    def counted(self) -> int:
        """The epochs, or one more than were allowed where the target was not reached."""
        return len(self.losses) if self.epochs is None else self.epochs

    @property
    def note(self) -> str:
        """Says that the count is censored; empty where it is not."""
        return "" if self.epochs is not None else f"censored: > {self.counted - 1} epochs, counted as {self.counted}"


def relearn(
    objective: Objective, w: Tensor, forget: Samples, target: float, settings: RelearnSettings, seed: int
) -> Relearning:
    """Train on the forget set alone, with a fresh Adam, until its loss is back at the original model's.

    No weight decay and no projection: the question is how much of the forget set is still in the weights.

    Args:
        objective: L of the model under test; its buffers are copied, not changed.
        w: The weights under test, shape (p,).
        forget: D_u.
        target: The original model's mean loss on D_u, in evaluation mode.
        settings: Adam's constants and the largest number of epochs.
        seed: Seed of the batches.
    """
    learner = objective.with_model(copy.deepcopy(objective.model), l2=0.0)
    point = w.detach().clone().requires_grad_()
    adam = torch.optim.Adam([point], lr=settings.learning_rate)
    losses = [learner.mean_loss(point.detach(), forget)]
    for epoch in range(settings.max_epochs):
        if losses[-1] <= target:
            return Relearning(epoch, losses)
        learner.model.train()
        order = torch.randperm(len(forget), generator=generator(seed, "relearn", epoch)).to(forget.device)
        for rows in order.split(settings.batch_size):
            (point.grad,) = torch.autograd.grad(learner.batch_loss(point, *forget.batch(rows)), point)
            adam.step()
        learner.model.eval()
        losses.append(learner.mean_loss(point.detach(), forget))
    return Relearning(settings.max_epochs if losses[-1] <= target else None, losses)


def trainable(objective: Objective, samples: Samples) -> tuple[Objective, Samples]:
    """The part of a model that has weights, and what it takes in place of ``samples``.

    Args:
        objective: L of a released model.
        samples: Images.

    Returns:
        Both as they are for a network; for a linear model on fixed features the linear layer and the rows of features.
    """
    model = objective.model
    if not (isinstance(model, nn.Sequential) and isinstance(model[0], FixedFeatures)):
        return objective, samples
    features, head = model
    with torch.no_grad():
        rows = torch.cat([features(inputs) for inputs, _ in samples.batches(256)])
    return objective.with_model(head), Samples(rows, samples.targets, dtype=rows.dtype)
