"""Exact sharded retraining, SISA: many models on parts of the data, of which a request retrains only some.

Bourtoule et al. (2021), "Machine Unlearning", IEEE Symposium on Security and Privacy. The rows are dealt into k shards
of r slices by a permutation that depends on their number and a seed alone. One model a shard is trained slice by slice:
on the first slice, then on the first two, and so on, with a checkpoint after each. A request retrains every shard that
holds one of its rows, from the checkpoint before the first slice with such a row. What comes out are the models that
training on the rows left yields, bit for bit: no noise and no certificate is needed.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.utils import vector_to_parameters

from cdu.checks import expect, expect_count
from cdu.data.samples import Samples
from cdu.models.objective import Objective, parameter_vector
from cdu.models.settings import TrainingSettings
from cdu.models.training import Trained, train
from cdu.seeding import generator, seed_for

Vote = Literal["mean", "majority"]

#: The rows of every slice of every shard, by the number that they have in the full training set.
Shards = tuple[tuple[Tensor, ...], ...]


def deal(rows: int, shards: int, slices: int, seed: int) -> Shards:
    """Deal rows into shards of slices, as equal in size as can be, by a permutation that the seed draws.

    Where a row lies does not depend on which other rows are still there, so that a request moves none.

    Args:
        rows: n, the number of rows before any request.
        shards: k.
        slices: r, of every shard.
        seed: Draws the permutation.

    Raises:
        CduError: A slice would be empty.

    Example:
        >>> [[len(part) for part in shard] for shard in deal(11, shards=2, slices=3, seed=0)]
        [[2, 2, 2], [2, 2, 1]]
    """
    sizes = _slice_sizes(rows, shards, slices)
    parts = torch.randperm(rows, generator=generator(seed, "shards")).split([size for shard in sizes for size in shard])
    return tuple(parts[first : first + slices] for first in range(0, len(parts), slices))


def slice_epochs(epochs: int, slices: int) -> tuple[int, ...]:
    """Epochs of every stage of a shard, of which stage i runs over the first i slices.

    All stages take 2e/(r + 1) epochs in the source, which makes as many sample passes as e epochs over the whole shard.
    Whole numbers come as near as they can, stage by stage: together they are off by half an epoch at most.

    Args:
        epochs: e, of ordinary training.
        slices: r.

    Raises:
        CduError: e < (r + 1)/2, so that a stage would have less than one epoch.

    Example:
        >>> slice_epochs(50, slices=4)
        (20, 20, 20, 20)
    """
    expect_count(epochs=epochs, slices=slices)
    each = 2 * epochs / (slices + 1)
    expect(
        each >= 1,
        f"{epochs} epochs are less than one for each of {slices} slices; give {math.ceil((slices + 1) / 2)} epochs at "
        f"least, or {2 * epochs - 1} slices at most",
    )
    chosen, left = [], 0.0
    for stage in range(1, slices + 1):
        left += each * stage
        chosen.append(round(left / stage))
        left -= chosen[-1] * stage
    return tuple(chosen)


def expected_share(rows: int, shards: int, slices: int, forgotten: int, epochs: int | None = None) -> float:
    """Expected share of all sample passes that a random request retrains.

    A stage is trained again if a row of the request lies in its slices. Stage i of a shard has the M_i rows of its
    first i slices, so that this happens with the probability 1 − C(n − M_i, n_u)/C(n, n_u). It costs e_i·M_i passes:

        E = Σ e_i M_i (1 − C(n − M_i, n_u)/C(n, n_u)) / Σ e_i M_i over all stages of all shards.

    Passes are counted for stages as they were dealt; the forgotten rows themselves, a share n_u/n, are not taken off.

    Args:
        rows: n.
        shards: k.
        slices: r.
        forgotten: n_u, drawn without replacement from all rows.
        epochs: e of ordinary training, of which every stage has :func:`slice_epochs`; as many in every stage when None.

    Raises:
        CduError: There are fewer rows than n_u, or than slices.

    Example:
        One row costs one of two shards without slices:

        >>> print(f"{expected_share(10, shards=2, slices=1, forgotten=1):.2f}")
        0.50
    """
    expect_count(forgotten=forgotten)
    expect(forgotten <= rows, f"{forgotten} of {rows} rows cannot be forgotten")
    weights = (1,) * slices if epochs is None else slice_epochs(epochs, slices)
    total = retrained = 0.0
    for sizes in _slice_sizes(rows, shards, slices):
        for stage, weight in enumerate(weights, start=1):
            size = sum(sizes[:stage])
            total += weight * size
            retrained += weight * size * (1 - _missed(rows, size, forgotten))
    return retrained / total


@dataclass(frozen=True)
class ShardedRecipe:
    """How every shard's model is trained.

    The training recipe is that of :func:`cdu.models.training.train`. Adam's moments start at zero in every stage, so
    that a checkpoint is a model alone.

    Attributes:
        build: The initialised module for a seed, on the device of the samples.
        training: The recipe of ordinary training, whose epochs :func:`slice_epochs` shares out.
        seed: Every shard derives a seed of its own for the initial weights, and every stage one for its batches.
    """

    build: Callable[[int], nn.Module]
    training: TrainingSettings
    seed: int


@dataclass(frozen=True)
class Ensemble:
    """The models of all shards, with the checkpoints that requests go back to.

    Attributes:
        recipe: How they were trained.
        samples: The full training set as it was before any request; rows are numbered by it.
        shards: Which rows lie in which slice.
        left: Which rows were not forgotten, shape (n,), bool.
        stages: For every shard its model before the first slice and after each, r + 1 in all.
    """

    recipe: ShardedRecipe
    samples: Samples
    shards: Shards
    left: Tensor
    stages: tuple[tuple[Trained, ...], ...] = field(repr=False)

    @property
    def models(self) -> list[Trained]:
        """The last model of every shard that has a row left."""
        last = len(self.shards[0])
        return [
            stages[-1]
            for shard, stages in zip(self.shards, self.stages, strict=True)
            if len(_stage_rows(shard, last, self.left))
        ]

    def probabilities(self, samples: Samples, vote: Vote = "mean") -> Tensor:
        """What the ensemble predicts for every sample, shape (n, classes); rows add up to 1.

        Args:
            samples: Of the kind that it was trained on.
            vote: ``mean`` for the mean of the models' softmax probabilities, ``majority`` for the share of the models
                whose largest output each class is.
        """
        expect(vote in ("mean", "majority"), f"vote = {vote!r} is neither 'mean' nor 'majority'")
        outputs = [Objective(one.model).outputs(one.w, samples) for one in self.models]
        if vote == "majority":
            shares = [one_hot(one.argmax(dim=1), one.shape[1]).to(one.dtype) for one in outputs]
        else:
            shares = [one.softmax(dim=1) for one in outputs]
        return torch.stack(shares).mean(dim=0)

    def forget(self, rows: Tensor) -> "Forgotten":
        """Retrain what the rows had a part in.

        Args:
            rows: Row numbers in the full training set, shape (n_u,).

        Raises:
            CduError: A row is not there, is listed twice or was forgotten before, or none would be left.
        """
        rows = rows.cpu()
        _expect_rows(rows, self.left)
        begin = time.perf_counter()
        left = self.left.clone()
        left[rows] = False
        expect(bool(left.any()), "the request names all rows that are left; delete the ensemble itself")
        gone = self.left & ~left
        stages, passes, total = [], 0, 0
        for number, (shard, known) in enumerate(zip(self.shards, self.stages, strict=True)):
            touched = [bool(gone[part].any()) for part in shard]
            kept = touched.index(True) if any(touched) else len(shard)
            stages.append(_train_shard(self.recipe, self.samples, number, shard, left, known[: kept + 1]))
            total += _passes(self.recipe, shard, left, 0)
            passes += _passes(self.recipe, shard, left, kept)
        ensemble = replace(self, left=left, stages=tuple(stages))
        return Forgotten(ensemble, passes, total, time.perf_counter() - begin)


@dataclass(frozen=True)
class Forgotten:
    """What a request left.

    Attributes:
        ensemble: The ensemble without the request's rows.
        passes: Sample passes that the retraining took.
        total: Sample passes that training all shards on the rows left takes.
        seconds: Wall time of the retraining.
    """

    ensemble: Ensemble
    passes: int
    total: int
    seconds: float

    @property
    def share(self) -> float:
        """The share of all sample passes that was retrained."""
        return self.passes / self.total


def train_sharded(recipe: ShardedRecipe, samples: Samples, shards: Shards, left: Tensor | None = None) -> Ensemble:
    """Train the models of all shards on the rows that are left.

    Args:
        recipe: How.
        samples: The full training set.
        shards: From :func:`deal`, for all rows of ``samples``.
        left: Which rows to train on, shape (n,), bool; all when None.

    Raises:
        CduError: The shards were dealt for another number of rows, or as for :func:`cdu.models.training.train`.

    Example:
        >>> samples = Samples(torch.randn(40, 3), torch.arange(40) % 2)
        >>> recipe = ShardedRecipe(lambda seed: nn.Linear(3, 2), TrainingSettings(epochs=3), seed=0)
        >>> ensemble = train_sharded(recipe, samples, deal(40, shards=4, slices=2, seed=0))
        >>> forgotten = ensemble.forget(torch.tensor([7]))
        >>> print(len(forgotten.ensemble.models), 0 < forgotten.share < 0.3)
        4 True
    """
    dealt = sum(len(part) for shard in shards for part in shard)
    expect(dealt == len(samples), f"the shards were dealt for {dealt} rows, the samples are {len(samples)}; deal these")
    kept = torch.ones(len(samples), dtype=torch.bool) if left is None else left.cpu()
    stages = tuple(_train_shard(recipe, samples, number, shard, kept, ()) for number, shard in enumerate(shards))
    return Ensemble(recipe, samples, shards, kept, stages)


def _train_shard(
    recipe: ShardedRecipe,
    samples: Samples,
    number: int,
    shard: Sequence[Tensor],
    left: Tensor,
    known: Sequence[Trained],
) -> tuple[Trained, ...]:
    """All stages of a shard, of which the first ``known`` are there already."""
    epochs = slice_epochs(recipe.training.epochs, len(shard))
    stages = list(known) or [_initial(recipe, number)]
    for stage in range(len(stages), len(shard) + 1):
        rows = _stage_rows(shard, stage, left)
        if len(rows) == 0:
            stages.append(stages[-1])
            continue
        model = copy.deepcopy(stages[-1].model)
        vector_to_parameters(stages[-1].w.clone(), model.parameters())
        settings = recipe.training.model_copy(update={"epochs": epochs[stage - 1]})
        label = f"shard {number + 1}, slice {stage}"
        seed = seed_for(recipe.seed, "shard", number, "slice", stage)
        stages.append(train(model, samples.subset(rows), settings, seed, label=label))
    return tuple(stages)


def _initial(recipe: ShardedRecipe, number: int) -> Trained:
    model = recipe.build(seed_for(recipe.seed, "shard", number))
    return Trained(model, parameter_vector(model), [])


def _stage_rows(shard: Sequence[Tensor], stage: int, left: Tensor) -> Tensor:
    """The rows left in the first ``stage`` slices, in their order."""
    rows = torch.cat([*shard[:stage]])
    return rows[left[rows]]


def _passes(recipe: ShardedRecipe, shard: Sequence[Tensor], left: Tensor, kept: int) -> int:
    """Sample passes of a shard's stages after the first ``kept``."""
    epochs = slice_epochs(recipe.training.epochs, len(shard))
    return sum(epochs[stage - 1] * len(_stage_rows(shard, stage, left)) for stage in range(kept + 1, len(shard) + 1))


def _expect_rows(rows: Tensor, left: Tensor) -> None:
    expect(
        rows.ndim == 1 and len(rows) > 0 and not rows.is_floating_point() and rows.dtype != torch.bool,
        f"rows is a tensor of {rows.dtype} of the shape {tuple(rows.shape)}; give row numbers, at least one",
    )
    expect(
        int(rows.min()) >= 0 and int(rows.max()) < len(left),
        f"the request names the rows {int(rows.min())} to {int(rows.max())}, there are 0 to {len(left) - 1}",
    )
    expect(len(rows.unique()) == len(rows), "the request lists a row twice; list every row once")
    absent = rows[~left[rows]].tolist()
    expect(
        not absent, f"{len(absent)} rows were forgotten before, the first is {min(absent, default=0)}; leave them out"
    )


def _slice_sizes(rows: int, shards: int, slices: int) -> list[list[int]]:
    """How many rows each slice of each shard has."""
    expect_count(rows=rows, shards=shards, slices=slices)
    expect(
        rows // shards >= slices,
        f"{rows} rows in {shards} shards of {slices} slices would leave a slice empty; take fewer of either",
    )
    return [_equal_parts(size, slices) for size in _equal_parts(rows, shards)]


def _equal_parts(total: int, parts: int) -> list[int]:
    """Sizes that differ by one at most, the larger ones first."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def _missed(rows: int, size: int, drawn: int) -> float:
    """The probability C(n − m, n_u)/C(n, n_u) that a draw of n_u of n rows has none of m given ones."""
    if drawn > rows - size:
        return 0.0
    gone = math.lgamma(rows - size + 1) - math.lgamma(rows - size - drawn + 1)
    return math.exp(gone - math.lgamma(rows + 1) + math.lgamma(rows - drawn + 1))
