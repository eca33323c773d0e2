"""The networks, and logistic regression."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from cdu.errors import CduError
from cdu.models.settings import ModelSettings
from cdu.seeding import seed_for, seeded

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "softplus": nn.Softplus}


class LogisticRegression(nn.Sequential):
    """Multinomial logistic regression on the flattened image, with a bias.

    Args:
        features: Number of pixel values.
        classes: Number of classes.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(features, classes))


class MLP(nn.Sequential):
    """Fully connected network; the paper's on MNIST is 784-32-32-10 with ReLU (26,506 parameters).

    Args:
        features: Number of pixel values.
        hidden: Widths of the hidden layers.
        classes: Number of classes.
        activation: ``relu``, or the smooth ``tanh`` or ``softplus`` for which the theory's constants exist.
    """

    def __init__(self, features: int, hidden: tuple[int, ...], classes: int, activation: str = "relu") -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise((features, *hidden)):
            layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        super().__init__(*layers, nn.Linear((features, *hidden)[-1], classes))


class AllCNN(nn.Sequential):
    """All-convolutional network with BatchNorm; the paper's on CIFAR-10 has 1,620,010 parameters.

    3×3 convolutions of 96, 96, 192 (stride 2), 192, 192, 192 (stride 2), 192 channels and a 1×1 of 192, each
    without bias and followed by BatchNorm and ReLU; average pooling over what is left; a linear layer.

    Args:
        channels: Channels of the image.
        classes: Number of classes.
        width: Factor on the number of filters.
    """

    def __init__(self, channels: int, classes: int, width: float = 1.0) -> None:
        small, large = max(1, round(96 * width)), max(1, round(192 * width))
        plan = [
            (small, 3, 1), (small, 3, 1), (large, 3, 2),
            (large, 3, 1), (large, 3, 1), (large, 3, 2),
            (large, 3, 1), (large, 1, 1),
        ]  # fmt: skip
        layers: list[nn.Module] = []
        for filters, size, stride in plan:
            layers += [
                nn.Conv2d(channels, filters, size, stride, padding=size // 2, bias=False),
                nn.BatchNorm2d(filters),
                nn.ReLU(),
            ]
            channels = filters
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class PreActivationBlock(nn.Module):
    """Residual block with BatchNorm and ReLU before each 3×3 convolution; 1×1 shortcut where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        same = stride == 1 and before == after
        self.shortcut = None if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Residual update of ``inputs``, shape (n, channels, height, width)."""
        active = torch.relu(self.norm1(inputs))
        shortcut = inputs if self.shortcut is None else self.shortcut(active)
        residual: Tensor = self.conv2(torch.relu(self.norm2(self.conv1(active))))
        return residual + shortcut


class ResNet18(nn.Sequential):
    """Pre-activation ResNet-18 for 32×32 images; the paper's on SVHN has 11,171,274 parameters.

    3×3 stem with BatchNorm, blocks 2-2-2-2 of 64, 128, 256 and 512 channels, no BatchNorm at the end, average
    pooling, a linear layer.

    Args:
        channels: Channels of the image.
        classes: Number of classes.
        width: Factor on the number of channels.
    """

    def __init__(self, channels: int, classes: int, width: float = 1.0) -> None:
        widths = [max(1, round(base * width)) for base in (64, 128, 256, 512)]
        stem = [
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        blocks: list[nn.Module] = []
        before = widths[0]
        for stage, after in enumerate(widths):
            blocks += [
                PreActivationBlock(before, after, 1 if stage == 0 else 2),
                PreActivationBlock(after, after, 1),
            ]
            before = after
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def build(settings: ModelSettings, input_shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """A freshly initialised network, in evaluation mode, on the CPU.

    Args:
        settings: Which network.
        input_shape: Shape of one image, (channels, height, width).
        classes: Number of classes.
        seed: Seed of the initial weights; PyTorch's global random state is left as it was.

    Raises:
        CduError: A convolutional network was asked for on images smaller than 8×8.
    """
    channels, height, width = input_shape
    features = channels * height * width
    if settings.name in {"allcnn", "resnet18"} and min(height, width) < 8:
        raise CduError(f"{settings.name} needs images of at least 8×8 pixels; these are {height}×{width}")
    with seeded(seed_for(seed, "initial weights")):
        model: nn.Module
        if settings.name == "logistic":
            model = LogisticRegression(features, classes)
        elif settings.name == "mlp":
            model = MLP(features, settings.hidden, classes, settings.activation)
        elif settings.name == "allcnn":
            model = AllCNN(channels, classes, settings.width)
        else:
            model = ResNet18(channels, classes, settings.width)
    return model.eval()
