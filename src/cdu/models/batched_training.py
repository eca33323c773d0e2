"""Many networks of one architecture, trained at once or one after another, e.g. shadow models."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from cdu import clock, storage
from cdu.data.samples import Samples, fingerprint
from cdu.errors import CduError
from cdu.models import precision
from cdu.models.objective import parameter_vector
from cdu.models.precision import Precision
from cdu.models.settings import TrainingSettings
from cdu.models.training import AGAIN, CHECKPOINT_SECONDS, Trained, project, train
from cdu.progress import Progress
from cdu.seeding import generator
from cdu.settings import digest

#: On a CPU, as many networks are trained at once as have batches that fit into this many bytes: more would not stay in
#: the processor's cache.
CACHE_BYTES = 2**22


@dataclass(frozen=True)
class TrainedNetworks:
    """S trained networks of one architecture.

    Attributes:
        each: The networks; every module holds the buffers that belong to its weights. A network that was trained with
            others at once has no history of its own.
        seconds: Wall time of all epochs, over all sittings.
        batched: Whether they were trained at once.
    """

    each: tuple[Trained, ...]
    seconds: float
    batched: bool

    @property
    def w(self) -> Tensor:
        """Their weights, shape (S, p)."""
        return torch.stack([one.w for one in self.each])


def train_networks(
    models: Sequence[nn.Module],
    samples: Samples,
    rows: Tensor,
    settings: TrainingSettings,
    seeds: Sequence[int],
    checkpoint: Path | None = None,
    label: str = "shadows",
) -> TrainedNetworks:
    """Train S networks, each on its own samples: at once where that can be done, else one after another.

    The arguments are those of :func:`train_batched`. Networks with buffers, such as BatchNorm's running statistics, or
    with dropout are trained by :func:`train_one_by_one`.

    Raises:
        CduError: As for the function that trains them.
    """
    _require_as_many(models, rows, seeds)
    train_them = train_one_by_one if _not_batched(models[0]) else train_batched
    return train_them(models, samples, rows, settings, seeds, checkpoint, label)


def train_one_by_one(
    models: Sequence[nn.Module],
    samples: Samples,
    rows: Tensor,
    settings: TrainingSettings,
    seeds: Sequence[int],
    checkpoint: Path | None = None,
    label: str = "shadows",
) -> TrainedNetworks:
    """Train S networks one after another with :func:`cdu.models.training.train`.

    Args:
        models: S initialised modules on the device of the samples; their buffers are updated.
        samples: All samples.
        rows: Row s holds the rows of ``samples`` that model s is trained on, shape (S, n).
        settings: Adam's constants and the radius C.
        seeds: S seeds of the batches.
        checkpoint: Beside this path every network has a file of its own, whose name tells its number and a hash of all
            that determines it. Networks that are there are loaded, and one that was interrupted goes on.
        label: Text of the progress bars.

    Raises:
        CduError: The numbers of models, rows and seeds differ, or as for :func:`cdu.models.training.train`.
    """
    _require_as_many(models, rows, seeds)
    content = fingerprint(samples)
    each = []
    for number, (model, own, seed) in enumerate(zip(models, rows, seeds, strict=True)):
        path = None
        if checkpoint is not None:
            chosen = precision.arithmetic_of(samples.device.type).training
            mark = _mark(content, own, parameter_vector(model), settings, [seed], chosen)
            path = checkpoint.with_name(f"{checkpoint.stem}-{number}-{mark}{checkpoint.suffix}")
        place = f"{label}, {number + 1} of {len(models)}"
        clock.require(place)
        each.append(train(model, samples.subset(own), settings, seed, path, place))
    return TrainedNetworks(tuple(each), sum(one.seconds for one in each), batched=False)


def train_batched(
    models: Sequence[nn.Module],
    samples: Samples,
    rows: Tensor,
    settings: TrainingSettings,
    seeds: Sequence[int],
    checkpoint: Path | None = None,
    label: str = "shadows",
    computed_in: Precision | None = None,
) -> TrainedNetworks:
    """Train S networks of one architecture at once, each on its own samples, with the recipe of :func:`train`.

    Every network sees the batches that :func:`cdu.models.training.train` would draw for its seed, has an Adam of its
    own and is projected onto the ball by itself; only the arithmetic is shared. So the result is that of S single
    trainings, up to the order of additions.

    Args:
        models: S initialised modules without buffers, on the device of the samples.
        samples: All samples.
        rows: Row s holds the rows of ``samples`` that model s is trained on, shape (S, n).
        settings: Adam's constants and the radius C.
        seeds: S seeds of the batches.
        checkpoint: Where the result is kept (safetensors); loaded if it is there. Progress is kept beside it.
        label: Text of the progress bar.
        computed_in: What products are computed in, as for :func:`train`; what suits the device when None.

    Raises:
        CduError: The modules have buffers or dropout, or differ, or the numbers of models, rows and seeds do; a network
            diverged; the checkpoint is damaged or belongs to another training.
    """
    _require_batchable(models, rows, seeds)
    w = torch.stack([parameter_vector(model) for model in models])
    chosen = precision.arithmetic_of(w.device.type).training if computed_in is None else computed_in
    mark = _mark(fingerprint(samples), rows, w, settings, seeds, chosen)
    groups = _groups(w, samples, rows, settings, seeds)
    partial = None if checkpoint is None else checkpoint.with_suffix(".partial.safetensors")
    done, seconds = 0, 0.0
    for path in (checkpoint, partial):
        if path is not None and path.exists():
            done, seconds = _restore(path, groups, mark)
            break
    forward = _forward(models[0], chosen)
    # Normalised once: every row is used by many networks in every epoch.
    table = samples.normalised(samples.inputs).flatten(1)
    saved = time.monotonic()
    with (
        precision.training(w.device.type, chosen),
        Progress(total=settings.epochs, initial=done, desc=f"{len(models)} {label}", unit="epoch") as progress,
    ):
        for epoch in range(done, settings.epochs):
            begin = time.perf_counter()
            for group in groups:
                _epoch(forward, group, samples, table, settings, epoch)
            seconds += time.perf_counter() - begin
            progress.update()
            if partial is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                _save(partial, groups, {"epochs": epoch + 1, "seconds": seconds, "mark": mark})
                saved = time.monotonic()
    if checkpoint is not None and partial is not None and not checkpoint.exists():
        _save(checkpoint, groups, {"epochs": settings.epochs, "seconds": seconds, "mark": mark})
        partial.unlink(missing_ok=True)
    weights = [project(one, settings.radius) for group in groups for one in group.w.detach()]
    each = [Trained(model, one, []) for model, one in zip(models, weights, strict=True)]
    return TrainedNetworks(tuple(each), seconds, batched=True)


@dataclass(frozen=True)
class _Group:
    """Networks that are trained at once: all on a GPU, on a CPU as many as :data:`CACHE_BYTES` allows."""

    w: Tensor
    adam: torch.optim.Adam
    rows: Tensor
    seeds: Sequence[int]


def _groups(
    w: Tensor, samples: Samples, rows: Tensor, settings: TrainingSettings, seeds: Sequence[int]
) -> list[_Group]:
    batch = settings.batch_size * samples.inputs[0].numel() * w.element_size()
    size = len(w) if w.is_cuda else max(1, CACHE_BYTES // batch)
    found = []
    for start in range(0, len(w), size):
        part = slice(start, start + size)
        own = w[part].clone().requires_grad_()
        adam = torch.optim.Adam(
            [own],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=own.device.type in {"cpu", "cuda"},
        )
        found.append(_Group(own, adam, rows[part], list(seeds)[part]))
    return found


def _mark(
    content: str, rows: Tensor, w: Tensor, settings: TrainingSettings, seeds: Sequence[int], chosen: Precision
) -> str:
    """Hash of all that determines a training: the samples' fingerprint, the rows of each network, initial weights."""
    hashes = [hashlib.sha256(part.cpu().numpy().tobytes()).hexdigest() for part in (rows, w)]
    hashes += precision.training_key(w.device.type, chosen).values()
    return digest([settings.model_dump(mode="json"), list(seeds), content, *hashes])


def _not_batched(model: nn.Module) -> str:
    """What keeps a network from being batched over models; empty if nothing does."""
    for name, _ in model.named_buffers():
        return f"the buffer '{name}'"
    random = (layer for layer in model.modules() if isinstance(layer, nn.modules.dropout._DropoutNd))
    return next((type(layer).__name__ for layer in random), "")


def _require_as_many(models: Sequence[nn.Module], rows: Tensor, seeds: Sequence[int]) -> None:
    if not len(models) == len(rows) == len(seeds) > 0:
        raise CduError(
            f"{len(models)} models, {len(rows)} rows and {len(seeds)} seeds were given; there must be as many of each, "
            "at least one"
        )


def _require_batchable(models: Sequence[nn.Module], rows: Tensor, seeds: Sequence[int]) -> None:
    _require_as_many(models, rows, seeds)
    found = _not_batched(models[0])
    if found:
        raise CduError(
            f"networks with {found} cannot be trained together: BatchNorm's statistics and dropout are not batched "
            "over models; use train_networks, which trains such networks one after another"
        )
    if len({str(model) for model in models}) > 1:
        raise CduError("the shadow models must be of one architecture; build them from the same settings")


def _forward(model: nn.Module, computed_in: Precision) -> Any:
    """The outputs of S networks for S batches, shape (S, B, classes), from flat weights of shape (S, p)."""
    named = dict(model.named_parameters())
    sizes = [parameter.numel() for parameter in named.values()]

    def single(w: Tensor, inputs: Tensor) -> Tensor:
        pieces = zip(named.items(), w.split(sizes), strict=True)
        parameters = {name: piece.view_as(like) for (name, like), piece in pieces}
        outputs: Tensor = functional_call(model, parameters, (inputs,))
        return outputs

    batched = vmap(single)

    def forward(w: Tensor, inputs: Tensor) -> Tensor:
        with precision.forward(w.device.type, computed_in):
            outputs: Tensor = batched(w, inputs)
        return outputs.to(w.dtype)

    return forward


def _epoch(
    forward: Any, group: _Group, samples: Samples, table: Tensor, settings: TrainingSettings, epoch: int
) -> None:
    """One pass of every network of a group over its samples; ``table`` holds all of them normalised, one a row."""
    w, (count, size) = group.w, group.rows.shape
    orders = [torch.randperm(size, generator=generator(seed, "batches", epoch)) for seed in group.seeds]
    drawn = torch.stack([own[order] for own, order in zip(group.rows, orders, strict=True)]).to(samples.device)
    fine = torch.ones(count, dtype=torch.bool, device=w.device)
    for batch in drawn.split(settings.batch_size, dim=1):
        chosen = batch.reshape(-1)
        inputs = table.index_select(0, chosen).view(count, -1, *samples.inputs.shape[1:])
        outputs = forward(w, inputs)
        losses = (
            cross_entropy(outputs.flatten(0, 1), samples.targets[chosen], reduction="none").view(count, -1).mean(dim=1)
        )
        (w.grad,) = torch.autograd.grad(losses.sum(), w)
        group.adam.step()
        with torch.no_grad():
            norms = w.norm(dim=1)
            w.mul_((settings.radius / norms).clamp(max=1.0)[:, None])
            fine &= norms.isfinite()
    if not fine.all():
        lost = [seed for seed, finite in zip(group.seeds, fine.tolist(), strict=True) if not finite]
        raise CduError(
            f"shadow training diverged in epoch {epoch + 1} for seed {lost[0]} and {len(lost) - 1} others; lower the "
            f"learning rate (it is {settings.learning_rate:g})"
        )


def _save(path: Path, groups: Sequence[_Group], progress: dict[str, Any]) -> None:
    tensors = {"w": torch.cat([group.w.detach() for group in groups])}
    states = [group.adam.state[group.w] for group in groups]
    tensors |= {f"adam.{key}": torch.cat([state[key] for state in states]) for key in ("exp_avg", "exp_avg_sq")}
    storage.write_tensors(path, {**tensors, "adam.step": states[0]["step"]}, progress)


def _restore(path: Path, groups: Sequence[_Group], mark: str) -> tuple[int, float]:
    """Load a checkpoint into the groups' weights and Adams; returns the number of epochs done and their seconds."""
    tensors, state = storage.read_tensors(path, AGAIN, groups[0].w.device)
    try:
        found, epochs, seconds = state["mark"], int(state["epochs"]), float(state["seconds"])
        step = tensors.pop("adam.step")
        parts = {key: tensor.split([len(group.w) for group in groups]) for key, tensor in tensors.items()}
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise storage.unreadable(path, error, AGAIN) from error
    if found != mark:
        raise CduError(f"checkpoint {path} belongs to other shadow models; delete it or give another path")
    for number, group in enumerate(groups):
        with torch.no_grad():
            group.w.copy_(parts["w"][number])
        moments = {key: parts[f"adam.{key}"][number].clone() for key in ("exp_avg", "exp_avg_sq")}
        group.adam.state[group.w] = {**moments, "step": step.clone()}
    return epochs, seconds
