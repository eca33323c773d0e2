"""BatchNorm's running statistics, which are not part of w. No certificate covers those of the original model."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cdu.checks import expect


def has_statistics(model: nn.Module) -> bool:
    """Whether a module has running statistics of BatchNorm."""
    return any(isinstance(layer, _BatchNorm) for layer in model.modules())


@contextmanager
def single_values_by_running_statistics(model: nn.Module) -> Iterator[None]:
    """BatchNorm in training mode takes the running statistics where a batch has one value a channel.

    The variance of one value is 0 with nothing to learn from, and PyTorch refuses it. Such a batch is one row in front
    of a layer without spatial dimensions: the rest of a pass over n = kB + 1 samples, or a forget set of one. Layers
    that see more values, and so a row of an image's pixels, take the batch's statistics as ever. A layer that goes by
    its running statistics leaves them as they are.

    Args:
        model: The module; every layer is in its mode again afterwards.

    Raises:
        CduError: Such a layer keeps no running statistics.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.training]

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (values,) = inputs
        layer.training = values.numel() > values.shape[1]
        expect(
            layer.training or getattr(layer, "running_mean", None) is not None,
            "a batch of one sample has no variance, and the network's BatchNorm keeps no running statistics; choose a "
            "batch size that leaves no rest of one sample and forget at least two, or set track_running_stats",
        )

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        yield
    finally:
        for hook, layer in zip(hooks, layers, strict=True):
            hook.remove()
            layer.training = True
