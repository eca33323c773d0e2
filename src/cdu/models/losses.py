"""Losses other than plain cross-entropy, for convex problems."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from cdu.data.samples import Samples


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance to the one-hot target, averaged over the batch."""
    return (outputs - one_hot(targets, outputs.shape[1])).square().sum(dim=1).mean() / 2


def weighted_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in which every sample has a weight; targets have the columns label and weight.

    The sum is divided by the number of samples, so that weights of mean one leave a mean.
    """
    losses = nn.functional.cross_entropy(outputs, targets[:, 0].long(), reduction="none")
    return (losses * targets[:, 1]).mean()


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
