"""BatchNorm's running statistics, which are not part of w. No certificate covers those of the original model."""

from torch import nn


def has_statistics(model: nn.Module) -> bool:
    """Whether a module has running statistics of BatchNorm."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())
