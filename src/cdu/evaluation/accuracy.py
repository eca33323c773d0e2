"""Accuracy of a model."""

from torch import Tensor

from cdu.data.samples import Samples
from cdu.models.objective import Objective


def accuracy(objective: Objective, w: Tensor, samples: Samples) -> float:
    """Share of samples whose largest output is their label.

    In single-label classification this equals the micro-averaged F1 score of the paper's Table 1.
    """
    predicted = objective.outputs(w, samples).argmax(dim=1)
    return (predicted == samples.targets).double().mean().item()
