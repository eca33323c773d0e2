"""Features from a network that was trained on public rows alone, from which nobody may delete.

A network trained on public rows does not know the private ones. A linear model on its features is convex, so that a
deletion from it has a certificate that keeps its accuracy (:class:`cdu.convex.Linear`). Public rows may also train the
linear model; what they cannot do is leave.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from cdu.checks import expect
from cdu.data.samples import Samples
from cdu.models.training import Trained
from cdu.seeding import seed_for

#: Samples whose features are computed at once.
_CHUNK = 512


@dataclass(frozen=True)
class PublicSplit:
    """Which rows of a data set are public, and which are private.

    Attributes:
        public: Rows of which nobody may ask for a deletion, in ascending order.
        private: The others, in ascending order.
    """

    public: NDArray[np.int64]
    private: NDArray[np.int64]

    def private_positions(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the rows of a request lie among the private rows.

        Args:
            rows: Rows of the data set whose deletion is asked for.

        Raises:
            CduError: A row is public, or there is no such row.
        """
        asked = np.asarray(rows, dtype=np.int64)
        public = asked[np.isin(asked, self.public)]
        expect(
            len(public) == 0,
            f"row {public[0] if len(public) else 0} is public, and so are {max(0, len(public) - 1):,} more of the "
            f"{len(asked):,} to delete: the network that makes the features was trained on them, and no noise on the "
            "linear model hides that; train the network again without them",
        )
        unknown = asked[~np.isin(asked, self.private)]
        expect(
            len(unknown) == 0,
            f"there is no row {unknown[0] if len(unknown) else 0}; rows are numbered from 0 to "
            f"{len(self.public) + len(self.private) - 1}",
        )
        return np.searchsorted(self.private, asked)


def public_split(count: int, share: float, seed: int) -> PublicSplit:
    """Draw the public rows at random; neither inputs nor labels have a part in it.

    Args:
        count: Number of rows.
        share: Share of the rows that are public, between 0 and 1; rounded to a whole number of rows.
        seed: The run's seed.

    Raises:
        CduError: No row would be public, or none private.
    """
    size = round(share * count)
    expect(
        0 < size < count,
        f"share = {share} makes {size} of {count} rows public; at least one is to be public, and one private",
    )
    order = np.random.default_rng(seed_for(seed, "public rows")).permutation(count)
    return PublicSplit(np.sort(order[:size]), np.sort(order[size:]))


def head_features(trained: Trained, samples: Samples, pooled: bool = True) -> Samples:
    """What the last layer of a trained network takes, as float32 rows of length 1.

    The network is in evaluation mode, so that BatchNorm uses the statistics of the training, which are those of the
    public rows. Each row is divided by its own norm, and nothing is fitted: the features of a sample depend on it and
    on the network alone. Compute them once and keep them: in a batch of another size last digits may differ.

    Args:
        trained: A network of :mod:`cdu.models.architectures`, or any ``nn.Sequential`` that ends in ``nn.Linear``,
            trained on public rows.
        samples: Any samples.
        pooled: Whether the average pooling before the last layer is a part of the features. Without it there are as
            many times more as the last feature map has places. A network that has none is used as it is.

    Raises:
        CduError: The network does not end in a linear layer after others with weights.
    """
    backbone = _backbone(trained, pooled)
    parts = []
    with torch.no_grad():
        for inputs, _ in samples.batches(_CHUNK):
            parts.append(_normalised(backbone(inputs).flatten(1).to(torch.float32)))
    return Samples(torch.cat(parts), samples.targets, dtype=torch.float32, ids=samples.ids)


def _backbone(trained: Trained, pooled: bool) -> nn.Module:
    """All layers before the last, with the trained weights."""
    model = copy.deepcopy(trained.model)
    vector_to_parameters(trained.w.detach(), model.parameters())
    layers = list(model.children()) if isinstance(model, nn.Sequential) else []
    expect(
        len(layers) > 1
        and isinstance(layers[-1], nn.Linear)
        and any(True for part in layers[:-1] for _ in part.parameters()),
        f"{type(model).__name__} is no nn.Sequential with layers of weights before a last nn.Linear; its features are "
        "what the last layer takes, so give such a network",
    )
    kept = [layer for layer in layers[:-1] if pooled or not isinstance(layer, nn.AdaptiveAvgPool2d)]
    return nn.Sequential(*kept).eval()


def _normalised(rows: Tensor) -> Tensor:
    lengths = rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    return torch.div(rows, lengths)
