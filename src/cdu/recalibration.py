"""BatchNorm's running statistics, taken anew: they are no part of w, and no certificate covers the original's."""

import copy
from dataclasses import replace

from torch import nn
from torch.nn.utils import vector_to_parameters
from torch.optim.swa_utils import update_bn

from cdu.data import Samples
from cdu.errors import CduError
from cdu.expectations import expect
from cdu.unlearning import Release


def has_statistics(model: nn.Module) -> bool:
    """Whether a module has running statistics of BatchNorm."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())


def recalibrated(released: Release, samples: Samples, batch_size: int) -> Release:
    """A release whose BatchNorm statistics are those of D_r at the released weights.

    The statistics that training left are averages over D, the forget set included, and noise on the weights does not
    hide them. Means and variances over D_r at the released weights depend on the release and D_r alone: taking them is
    post-processing, and the certificate covers the whole model. Every batch counts alike.

    Args:
        released: The release; it is not changed.
        samples: D_r, or part of it.
        batch_size: Samples a batch; what is left over at the end is not used, unless there is nothing else.

    Raises:
        CduError: The module has no such statistics, or others that this does not renew; there are fewer than two
            samples, in all or in a batch.
    """
    expect(batch_size >= 2, f"batch_size = {batch_size} is below 2; a variance needs two samples")
    expect(
        all(
            isinstance(layer, nn.modules.batchnorm._BatchNorm)
            or not any(name.startswith("running_") for name, _ in layer.named_buffers(recurse=False))
            for layer in released.objective.model.modules()
        ),
        "the network has running statistics outside BatchNorm's layers, which would stay those of D; train without",
    )
    if not has_statistics(released.objective.model):
        raise CduError("the network has no BatchNorm statistics to recalibrate")
    if len(samples) < 2:
        raise CduError(f"statistics need at least two samples, found {len(samples)}; recalibrate on more of D_r")
    model = copy.deepcopy(released.objective.model)
    vector_to_parameters(released.w, model.parameters())
    size = min(batch_size, len(samples))
    update_bn((inputs for inputs, _ in samples.batches(size) if len(inputs) == size), model)
    objective = released.objective.with_model(model.eval())
    return replace(released, objective=objective)
