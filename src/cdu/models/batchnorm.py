"""BatchNorm's running statistics: they are no part of w, and no certificate covers the original's."""

from torch import nn


def has_statistics(model: nn.Module) -> bool:
    """Whether a module has running statistics of BatchNorm."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())
