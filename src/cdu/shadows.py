"""Shadow models, trained at once or one after another, and the likelihood-ratio attack that they make possible."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from cdu import clock, precision, storage
from cdu.config import REVISIONS, TrainingSettings, digest
from cdu.data import Samples
from cdu.errors import CduError
from cdu.objective import parameter_vector
from cdu.precision import Precision
from cdu.scenario import fingerprint
from cdu.seeding import generator
from cdu.training import AGAIN, CHECKPOINT_SECONDS, Trained, project, train

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: A batch of as many networks as fill this is worked on at once on a CPU: larger ones are fetched from memory again and
#: again.
CACHE_BYTES = 2**22

#: From so many shadows on every sample has a variance of its own; below, all samples share one (Carlini et al. 2022).
OWN_VARIANCE = 64


# --- training ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shadows:
    """S trained networks of one architecture.

    Attributes:
        each: The networks; every module holds the buffers that belong to its weights. A network that was trained with
            others at once has no history of its own.
        seconds: Wall time of all epochs, over all sittings.
        together: Whether they were trained at once.
    """

    each: tuple[Trained, ...]
    seconds: float
    together: bool

    @property
    def w(self) -> Tensor:
        """Their weights, shape (S, p)."""
        return torch.stack([one.w for one in self.each])


def train_shadows(
    models: Sequence[nn.Module],
    samples: Samples,
    rows: Tensor,
    settings: TrainingSettings,
    seeds: Sequence[int],
    checkpoint: Path | None = None,
    label: str = "shadows",
) -> Shadows:
    """Train S networks, each on its own samples: at once where that can be done, else one after another.

    The arguments are those of :func:`train_together`. Networks with buffers, such as BatchNorm's running statistics, or
    with dropout are trained by :func:`train_in_turn`.

    Raises:
        CduError: As for the function that trains them.
    """
    _require_as_many(models, rows, seeds)
    train_them = train_in_turn if _not_batched(models[0]) else train_together
    return train_them(models, samples, rows, settings, seeds, checkpoint, label)


def train_in_turn(
    models: Sequence[nn.Module],
    samples: Samples,
    rows: Tensor,
    settings: TrainingSettings,
    seeds: Sequence[int],
    checkpoint: Path | None = None,
    label: str = "shadows",
) -> Shadows:
    """Train S networks one after another with :func:`cdu.training.train`.

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
        CduError: The numbers of models, rows and seeds differ, or as for :func:`cdu.training.train`.
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
    return Shadows(tuple(each), sum(one.seconds for one in each), together=False)


def train_together(
    models: Sequence[nn.Module],
    samples: Samples,
    rows: Tensor,
    settings: TrainingSettings,
    seeds: Sequence[int],
    checkpoint: Path | None = None,
    label: str = "shadows",
    computed_in: Precision | None = None,
) -> Shadows:
    """Train S networks of one architecture at once, each on its own samples, with the recipe of :func:`train`.

    Every network sees the batches that :func:`cdu.training.train` would draw for its seed, has an Adam of its own and
    is projected onto the ball by itself; only the arithmetic is shared. So the result is that of S single trainings,
    up to the order of additions.

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
        tqdm(total=settings.epochs, initial=done, desc=f"{len(models)} {label}", unit="epoch") as progress,
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
    return Shadows(tuple(each), seconds, together=True)


@dataclass(frozen=True)
class _Group:
    """Networks whose batch, weights and moments fit into the processor's cache together."""

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
    return digest([REVISIONS["04_shadows"], settings.model_dump(mode="json"), list(seeds), content, *hashes])


def _not_batched(model: nn.Module) -> str:
    """What a network has that is not batched over models; empty if nothing."""
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
            "over models; use train_shadows, which trains such networks one after another"
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


def keep(path: Path, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Named tensors from a file, or computed and kept there.

    Raises:
        CduError: The file cannot be read.
    """
    return storage.kept(
        path, compute, storage.write_tensors, lambda file: storage.read_tensors(file, "to compute it again")[0]
    )


# --- who is trained on what ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """The targets of a likelihood-ratio attack, and which shadow was trained on which of them.

    Attributes:
        rest: Rows that every shadow is trained on, shape (r,).
        targets: Rows of the pool, shape (t,).
        members: Whether shadow s was trained on a target, and forgets it; half of each row, shape (S, t).
    """

    rest: Tensor
    targets: Tensor
    members: Tensor

    def forgotten(self, shadow: int) -> Tensor:
        """Rows that a shadow is trained on and forgets."""
        return self.targets[self.members[shadow]]

    @property
    def trained(self) -> Tensor:
        """Rows that the shadows are trained on, shape (S, r + t/2)."""
        return torch.stack([torch.cat([self.rest, self.forgotten(s)]) for s in range(len(self.members))])


def draw_pool(samples: int, size: int, shadows: int, seed: int) -> Pool:
    """Draw ``size`` targets of ``samples`` rows, and for every shadow a random half of them.

    Every second shadow gets the half that the one before it did not: of an even number of shadows exactly half are
    trained on any target.

    Raises:
        CduError: An odd size, or one that leaves nothing else to train on.
    """
    if size % 2 or not 2 <= size < samples:
        raise CduError(f"a pool of {size} targets out of {samples} samples: it must be even, at least 2 and leave some")
    order = torch.randperm(samples, generator=generator(seed, "pool"))
    members = torch.zeros(shadows, size, dtype=torch.bool)
    for shadow in range(shadows):
        half = torch.randperm(size, generator=generator(seed, "pool half", shadow // 2)).split(size // 2)
        members[shadow, half[shadow % 2]] = True
    return Pool(order[size:].sort().values, order[:size].sort().values, members)


# --- the likelihood-ratio attack -----------------------------------------------------------------------------------


def scaled_logit(outputs: Tensor, targets: Tensor) -> Tensor:
    """φ = ln(p_y/(1 − p_y)) from a network's outputs (logits), shape (n,): Gaussian over shadows, roughly."""
    outputs = outputs.double()
    own = outputs.gather(1, targets[:, None])
    others = outputs.scatter(1, targets[:, None], -torch.inf)
    return own[:, 0] - others.logsumexp(dim=1)


@dataclass(frozen=True)
class Inference:
    """Success of the attack over all pairs of shadow and target.

    Attributes:
        scores: Log-likelihood ratios, pairs with the sample in first, then those without.
        labels: 1 for "in", 0 for "out".
        shadows: The shadow of each pair.
        vulnerability: By target, in how many pairs of shadows the one with the sample in has the higher score, ties
            half, shape (t,): 0.5 is chance. Both are scored by the same Gaussians, made from all other pairs.
    """

    scores: Matrix
    labels: NDArray[np.int64]
    shadows: NDArray[np.int64]
    vulnerability: Matrix


def likelihood_ratio_attack(
    inside: Matrix, members: Mask, outside: Matrix, others: Mask, own_variance: bool | None = None
) -> Inference:
    """Per target a Gaussian for φ with the sample in and one with it out, both without the shadow that is scored.

    Left out with it is the shadow that has the other half of the pool (:func:`draw_pool`), so that both sides lose one:
    losing its own side alone would push every score to the other side, and nothing would look like less than chance.

    ln N(φ; μ_in, σ_in²) − ln N(φ; μ_out, σ_out²). Carlini et al. (2022), "Membership Inference Attacks From First
    Principles"; on unlearned models Hayes et al. (2024), "Inexact Unlearning Needs More Careful Evaluations to Avoid a
    False Sense of Privacy". With ``inside`` and ``outside`` the same unlearned models it asks whether a forgotten
    sample can be told from one never trained on; with ``outside`` the retrained models, whether unlearning can be
    told from retraining.

    Args:
        inside: φ of every shadow (rows) and target (columns) in the world where members are in, shape (S, t).
        members: Which pairs of it are "in".
        outside: φ in the world where they are out, shape (S, t).
        others: Which pairs of that are "out".
        own_variance: A variance of its own for every target; if None from :data:`OWN_VARIANCE` shadows on.

    Raises:
        CduError: Shadows that do not come in such pairs, or a target with fewer than four on one side.
    """
    own = len(inside) >= OWN_VARIANCE if own_variance is None else own_variance
    halves = members.reshape(-1, 2, members.shape[1]) if len(members) % 2 == 0 else None
    if halves is None or not (halves.sum(axis=1) == 1).all():
        raise CduError("shadows must come in pairs with complementary halves of the pool, as draw_pool makes them")
    fewest = int(min(members.sum(axis=0).min(), others.sum(axis=0).min()))
    if fewest < 4:
        raise CduError(
            f"a target has only {fewest} shadows on one side and needs four; train more shadows than {len(inside)}"
        )
    scores = []
    for values in (inside, outside):
        likelihoods = []
        for reference, mask in ((inside, members), (outside, others)):
            mean, variance = _without_pair(reference, mask, own)
            likelihoods.append(-((values - mean) ** 2) / (2 * variance) - np.log(variance) / 2)
        scores.append(likelihoods[0] - likelihoods[1])
    pairs = [(scores[0], members, 1), (scores[1], others, 0)]
    with_it, without = (
        np.where(mask, values, 0.0).reshape(-1, 2, values.shape[1]).sum(axis=1) for values, mask, _ in pairs
    )
    return Inference(
        scores=np.concatenate([values[mask] for values, mask, _ in pairs]),
        labels=np.concatenate([np.full(int(mask.sum()), label) for _, mask, label in pairs]),
        shadows=np.concatenate([np.nonzero(mask)[0] for _, mask, _ in pairs]),
        vulnerability=((with_it > without) + 0.5 * (with_it == without)).mean(axis=0),
    )


def _without_pair(values: Matrix, mask: Mask, own: bool) -> tuple[Matrix, Matrix]:
    """For every shadow and target mean and variance over the shadows of ``mask``, but without that shadow's pair."""
    pair = np.arange(len(values)) // 2
    together = (pair[:, None] == pair).astype(float)
    # Squares are taken about a centre, so that little is lost when they are subtracted.
    centre = np.where(mask, values, 0.0).sum(axis=0) / mask.sum(axis=0)
    away = np.where(mask, values - centre, 0.0)
    count, total, squares = (one.sum(axis=0) - together @ one for one in (mask.astype(float), away, away**2))
    spread, free = squares - total**2 / count, count - 1
    variance = spread / free if own else spread.sum(axis=1, keepdims=True) / free.sum(axis=1, keepdims=True)
    return centre + total / count, np.maximum(variance, 1e-12)


@dataclass(frozen=True)
class Curve:
    """An ROC curve at given false-positive rates, with intervals from a bootstrap over shadows.

    Attributes:
        auc: Area, low and high end of its interval.
        rates: True-positive rate, low and high end, by false-positive rate.
    """

    auc: tuple[float, float, float]
    rates: dict[float, tuple[float, float, float]]


def roc(attack: Inference, levels: Sequence[float], seed: int, resamples: int = 200, confidence: float = 0.95) -> Curve:
    """Area and true-positive rates, with percentile intervals.

    Pairs of shadows with complementary halves of the pool are drawn again as a whole, since neither the targets of one
    shadow nor the two shadows are independent. The Gaussians and the pool of targets are taken as given.

    Args:
        attack: Scores.
        levels: False-positive rates.
        seed: Seed of the bootstrap.
        resamples: Resamples of it.
        confidence: Of the intervals.
    """

    def measure(weights: Matrix) -> Matrix:
        return np.array(_weighted_roc(attack.scores, attack.labels, weights, levels))

    pairs = attack.shadows // 2
    count = int(pairs.max()) + 1
    found = measure(np.ones(len(attack.scores)))
    draw = np.random.default_rng(seed)
    drawn = [np.bincount(draw.integers(count, size=count), minlength=count)[pairs] for _ in range(resamples)]
    tail = (1 - confidence) / 2
    low, high = np.quantile([measure(weights.astype(float)) for weights in drawn], [tail, 1 - tail], axis=0)
    area, *rates = (
        (float(value), float(below), float(above))
        for value, below, above in zip(found, np.minimum(low, found), np.maximum(high, found), strict=True)
    )
    return Curve(area, dict(zip(levels, rates, strict=True)))


def _weighted_roc(scores: Matrix, labels: NDArray[np.int64], weights: Matrix, levels: Sequence[float]) -> list[float]:
    """Area under the curve, then the true-positive rate at each level, every pair counted ``weights`` times."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    true, false = (np.cumsum((weights * (labels == label))[order])[last] for label in (1, 0))
    true, false = np.append(0.0, true / true[-1]), np.append(0.0, false / false[-1])
    # The largest true-positive rate among thresholds that keep to the level.
    rates = [float(true[np.searchsorted(false, level, side="right") - 1]) for level in levels]
    return [float(np.trapezoid(true, false)), *rates]
