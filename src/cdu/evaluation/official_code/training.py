"""The code's training: a part of D that is never trained on, and the checkpoint of the lowest validation loss."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from cdu.data.samples import Samples
from cdu.models.objective import Objective
from cdu.models.settings import TrainingSettings
from cdu.models.training import Trained, train
from cdu.seeding import generator


def hold_out(count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows held out (departure 7), both ascending.

    Args:
        count: Number of rows.
        share: Share that is held out, rounded down.
        seed: Seed of the draw.
    """
    order = torch.randperm(count, generator=generator(seed, "held out"))
    size = int(count * share)
    return order[size:].sort().values, order[:size].sort().values


def lowest_validation(
    make: Callable[[], nn.Module],
    samples: Samples,
    validation: Samples,
    settings: TrainingSettings,
    seed: int,
    folder: Path,
) -> tuple[Trained, int]:
    """Train, and keep the weights after the epoch whose mean loss on held-out samples is lowest (departure 9).

    Of equal losses the later counts.

    Args:
        make: Makes the initialised module, on the device of the samples.
        samples: The training set.
        validation: The held-out samples.
        settings: Adam's constants and the radius.
        seed: Seed of the batches.
        folder: Where the state after every epoch is kept, so that an interrupted training goes on.

    Returns:
        The trained network and the epoch.
    """
    best, lowest, chosen = None, float("inf"), 0
    for epoch in range(1, settings.epochs + 1):
        paths = [folder / f"epoch-{number}.safetensors" for number in (epoch, epoch - 1)]
        stop = settings.model_copy(update={"epochs": epoch})
        state = train(make(), samples, stop, seed, paths[0], f"epoch {epoch} of {settings.epochs}", paths[1])
        loss = Objective(state.model).mean_loss(state.w, validation)
        if best is None or loss <= lowest:
            best, lowest, chosen = state, loss, epoch
    assert best is not None
    return best, chosen
