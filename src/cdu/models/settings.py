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
    """Fixed features of images for a linear model; see :mod:`cdu.models.image_features`.

    Attributes:
        kind: Which features; "both" are those of each, one after the other.
        mirrored: Whether features are averaged over an image and its mirror image.
        enlarged: Every pixel is repeated so many times in both directions first: the scattering transform wants sides
            of more than 2^(scales + 1) pixels.
        scales: J of the scattering transform.
        angles: L of the scattering transform.
        groups: The scattering transform's channels, of all colours, are normalised in so many groups.
        sizes: Height and width of random filters; for each size there are so many ``filters``.
        filters: Random filters of a size, each of which gives two features in every cell.
        cells: Random convolutions are averaged over cells × cells regions.
        stride: Every so many-th patch is filtered, in both directions.
        layers: Layers of random convolutions.
        threshold: What is subtracted from a response's modulus.
        whitened: Whether patches are whitened under a prior of natural images.
    """

    kind: Literal["scattering", "random convolutions", "both"] = "scattering"
    mirrored: bool = False
    enlarged: Count = 1
    scales: Count = 2
    angles: Count = 8
    groups: Count = 1
    sizes: Annotated[tuple[Count, ...], Field(min_length=1)] = (6,)
    filters: Count = 500
    cells: Count = 2
    stride: Count = 1
    layers: Annotated[int, Field(ge=1, le=2)] = 1
    threshold: Annotated[float, Field(ge=0)] = 1.0
    whitened: bool = False
