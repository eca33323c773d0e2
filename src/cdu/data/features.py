"""Fixed features of images, for linear models."""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d

from cdu.data.samples import Samples
from cdu.seeding import generator


def flat_pixels(samples: Samples) -> Samples:
    """The samples as float64 rows of pixels in [0, 1]: a scaling that does not look at the data."""
    return _rows(samples, samples.inputs.flatten(1).double() / samples.maximum)


def clipped(samples: Samples, norm: float) -> Samples:
    """Float64 rows of pixels in [0, 1], scaled down to ‖x‖₂ ≤ ``norm`` where they are longer."""
    rows = samples.inputs.flatten(1).double() / samples.maximum
    lengths = rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    return _rows(samples, rows * (norm / lengths).clamp(max=1.0))


def random_features(samples: Samples, filters: int = 16, size: int = 5, cells: int = 4, chunk: int = 2048) -> Samples:
    """Float64 features of random convolutions: filter, ReLU, average over a grid of cells.

    Filters are Gaussian from a fixed seed and nothing is fitted, centred or scaled on the data: the features of one
    image depend on that image alone, so that deleting another leaves them as they are.

    Args:
        samples: Images, shape (n, channels, height, width).
        filters: Number of filters; the features are ``filters · cells²`` many.
        size: Height and width of a filter.
        cells: The image is averaged over ``cells × cells`` regions.
        chunk: Images processed at once.
    """
    channels = samples.inputs.shape[1]
    normal = generator(0, "random features", filters, size)
    kernels = torch.randn(filters, channels, size, size, generator=normal, dtype=torch.float64)
    kernels = (kernels - kernels.mean(dim=(1, 2, 3), keepdim=True)).to(samples.device)
    parts = []
    for images in samples.inputs.split(chunk):
        maps = torch.relu(conv2d(images.double() / samples.maximum, kernels, padding=size // 2))
        parts.append(adaptive_avg_pool2d(maps, cells).flatten(1))
    return _rows(samples, torch.cat(parts))


def _rows(samples: Samples, rows: Tensor) -> Samples:
    return Samples(rows, samples.targets, dtype=torch.float64)
