"""What an objective asks of a user's module and loss: refused before anything is computed from them."""

import copy

import torch
from torch import Tensor

from cdu.checks import expect
from cdu.data.samples import Samples
from cdu.models.objective import Objective

#: By how much the mean of single samples' losses may differ from their batch's loss, relatively; rounding is far less.
MEAN_TOLERANCE = 1e-3

#: The same between two ways to cut the whole set into batches, by whether batches are in double precision.
CUT_TOLERANCE = {False: 1e-5, True: 1e-12}


def expect_mean(objective: Objective, w: Tensor, samples: Samples, count: int = 8) -> None:
    """Refuse a loss that is no mean over its batch: a sum, one with class weights, or one that broadcasts its targets.

    Some samples, spread over the set, are tried together and one by one. Then the whole set is cut into batches of two
    sizes: a rare class's weight is seen there alone.

    Args:
        objective: L.
        w: Weights, shape (p,).
        samples: S.
        count: How many are tried one by one.
    """
    rows = torch.linspace(0, len(samples) - 1, min(count, len(samples))).long().unique()
    with objective.evaluating(), torch.no_grad():
        losses = [objective.batch_loss(w, *samples.batch(part.to(samples.device))) for part in (rows, *rows.split(1))]
    expect(
        all(loss.ndim == 0 for loss in losses),
        f"the loss of {len(rows)} samples has the shape {tuple(losses[0].shape)}; give one number, their mean",
    )
    expect(
        all(bool(loss.isfinite()) for loss in losses),
        f"the loss of {len(rows)} samples is not finite: {[loss.item() for loss in losses[1:]]}; look for NaN in the "
        "weights and the inputs",
    )
    whole, *parts = (loss.item() for loss in losses)
    mean = sum(parts) / len(parts)
    expect(
        abs(whole - mean) <= MEAN_TOLERANCE * max(abs(whole), abs(mean)) + 1e-6,
        f"the loss of {len(parts)} samples together is {whole:.6g}, the mean of their losses {mean:.6g}; give a loss "
        "that is the mean over its batch, without class weights, and targets of the outputs' shape",
    )
    sizes = (min(objective.chunk, len(samples)), max(1, min(objective.chunk, len(samples)) // 7))
    large, small = (objective.mean_loss(w, samples, size) for size in sizes)
    tolerance = CUT_TOLERANCE[samples.dtype == torch.float64]
    expect(
        abs(large - small) <= tolerance * max(abs(large), abs(small)) + 1e-9,
        f"the mean loss of all {len(samples):,} samples is {large:.9g} in batches of {sizes[0]} and {small:.9g} in "
        f"batches of {sizes[1]}; give a loss that is the mean over its batch, without class weights",
    )


def expect_plain_backward(objective: Objective, w: Tensor, samples: Samples) -> None:
    """Refuse a module that runs its forward pass again while gradients are computed, as activation checkpointing does.

    By then the module holds its own weights again, and not those that the gradient is taken at. It is seen with a copy
    whose own weights are NaN.

    Args:
        objective: L.
        w: Weights, shape (p,).
        samples: The first two of them are tried.
    """
    model = copy.deepcopy(objective.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    hollow = objective.with_model(model)
    first = samples.subset(torch.arange(min(2, len(samples))))
    expect(
        bool(hollow.gradient(w, first).isfinite().all()),
        "the module runs its forward pass again while gradients are computed, with weights of its own; switch its "
        "activation checkpointing off",
    )
