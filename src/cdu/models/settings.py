"""Settings of networks and of training."""

from typing import Annotated, Literal

from pydantic import Field

from cdu.settings import Count, Positive, Settings


class ModelSettings(Settings):
    """Which network; see :mod:`cdu.models.architectures`."""

    name: Literal["logistic", "mlp", "allcnn", "resnet18"]
    hidden: tuple[Count, ...] = (32, 32)
    activation: Literal["relu", "tanh", "softplus"] = "relu"
    width: Positive = 1.0


class TrainingSettings(Settings):
    """Adam with coupled weight decay and projection onto the ball of radius C after every step."""

    epochs: Count = 50
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    radius: Positive = 10.0


class FeatureSettings(Settings):
    """Fixed features of images for a linear model; see :mod:`cdu.models.image_features`."""

    kind: Literal["scattering", "random convolutions", "both"] = "scattering"
    mirrored: bool = False
    enlarged: Count = 1
    # Scattering.
    scales: Count = 2
    angles: Count = 8
    groups: Count = 1
    # Random convolutions.
    sizes: Annotated[tuple[Count, ...], Field(min_length=1)] = (6,)
    filters: Count = 1000
    cells: Count = 2
    stride: Count = 1
    layers: Annotated[int, Field(ge=1, le=2)] = 1
    threshold: Annotated[float, Field(ge=0)] = 0.5
    whitened: bool = True
