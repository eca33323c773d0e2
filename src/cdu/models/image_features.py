"""Features of images for linear models: fixed in advance, computed once, and kept on disk."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm

from cdu.checks import expect
from cdu.data.feature_cache import kept_features
from cdu.data.samples import Samples
from cdu.models.precision import training
from cdu.models.random_convolutions import RandomConvolutions
from cdu.models.scattering import Scattering
from cdu.models.settings import FeatureSettings

#: Raised whenever the same settings give other features, so that files with the old ones are not read.
REVISION = 1


def features(samples: Samples, settings: FeatureSettings, folder: Path) -> Samples:
    """Fixed features of images, for a linear model: those of one image depend on that image alone.

    Nothing is fitted, centred or scaled on the data, so that deleting an image leaves all others' features as they are.

    Args:
        samples: Images of bytes.
        settings: Which features.
        folder: Where they are kept (:mod:`cdu.data.feature_cache`).

    Returns:
        Rows of norm at most 1 as inputs, float32, mapped from a file; the targets as they are; batches in float64.

    Raises:
        CduError: The samples are no images of bytes, their size does not suit the settings, or the file cannot be
            written or is damaged.
    """
    expect(
        samples.inputs.dtype == torch.uint8,
        f"inputs are of type {samples.inputs.dtype}; fixed features are those of images as torch.uint8",
    )
    compute = ImageFeatures(tuple(samples.inputs.shape[1:]), settings, samples.maximum).to(samples.device)
    description = [REVISION, settings.model_dump()]
    # Convolutions on a GPU would be rounded to TF32 else.
    with training(samples.device.type, "float32"):
        return kept_features(samples, compute, description, folder, f"{settings.kind} features")


class ImageFeatures(nn.Module):
    """Rows of features of raw images.

    Args:
        shape: Of an image: (colours, height, width).
        settings: Which features.
        maximum: The largest pixel value.
        dtype: Of the features.

    Raises:
        CduError: The size of the images does not suit the settings.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        settings: FeatureSettings,
        maximum: float = 255.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.settings, self.maximum, self.dtype = settings, maximum, dtype
        colours, height, width = shape[0], *(side * settings.enlarged for side in shape[1:])
        parts: list[nn.Module] = []
        self.groups: list[int] = []
        if settings.kind != "random convolutions":
            scattering = Scattering(height, width, settings.scales, settings.angles, dtype)
            self._add(parts, scattering, colours * scattering.channels, settings.groups)
        if settings.kind != "scattering":
            for size in settings.sizes:
                convolutions = RandomConvolutions(
                    colours,
                    settings.filters,
                    size,
                    settings.cells,
                    settings.threshold,
                    settings.stride,
                    settings.layers,
                    settings.whitened,
                    dtype=dtype,
                )
                self._add(parts, convolutions, convolutions.channels, 1)
        self.parts = nn.ModuleList(parts)

    def _add(self, parts: list[nn.Module], part: nn.Module, channels: int, groups: int) -> None:
        expect(
            channels % groups == 0,
            f"{channels} channels cannot be normalised in {groups} groups of the same size; choose a divisor",
        )
        parts.append(part)
        self.groups.append(groups)

    def forward(self, images: Tensor) -> Tensor:
        """The features of images of bytes, shape (n, colours, height, width): rows, shape (n, d)."""
        pixels = images.to(self.dtype) / self.maximum
        if self.settings.enlarged > 1:
            pixels = pixels.repeat_interleave(self.settings.enlarged, 2).repeat_interleave(self.settings.enlarged, 3)
        rows = [
            normalised(mirrored(part, pixels) if self.settings.mirrored else part(pixels), groups)
            for part, groups in zip(self.parts, self.groups, strict=True)
        ]
        return torch.cat(rows, dim=1) / math.sqrt(len(rows))


def mirrored(compute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The mean of the features of images and of their mirror images: left and right count alike."""
    return (compute(images) + compute(images.flip(3))) / 2


def normalised(found: Tensor, groups: int) -> Tensor:
    """Every image's features with mean 0 and variance 1 in each of some groups of channels, as rows over √d.

    Args:
        found: Features, shape (n, channels, h, w).
        groups: Groups of neighbouring channels.

    Returns:
        Shape (n, d) with d = channels · h · w. Rows have a norm of at most 1, and less where a group's variance is not
        well above 1e-5, which is added to it.
    """
    rows = group_norm(found, groups).flatten(1)
    return rows / math.sqrt(rows.shape[1])
