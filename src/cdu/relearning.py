"""What of a released model relearns: a linear model's features have no weights, so they are computed once."""

import torch
from torch import nn

from cdu.data import Samples
from cdu.objective import Objective
from cdu.unlearning.fixed_features import FixedFeatures


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
