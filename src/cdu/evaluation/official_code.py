"""Experiments: what is run, on what, with which constants. Read from YAML, validated, hashed."""

import contextlib
import copy
import importlib
import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import vector_to_parameters
from torch.utils.data import Dataset
from tqdm import tqdm

from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import lanczos
from cdu.curvature.settings import LissaSettings
from cdu.curvature.solution import Solution, synchronise
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.evaluation.posterior_attacks import OriginalAndRelease, sorted_concatenation
from cdu.models.objective import Loss, Objective
from cdu.models.settings import TrainingSettings
from cdu.models.training import Trained, train
from cdu.seeding import generator, seed_for

#: Largest relative residual at which a system counts as solved.
SOLVED = 1e-2

#: Steps of the logistic regression of the published attack at most.
ATTACK_STEPS = 400


class TensorNorms(Objective):
    """The code's objective: mean loss + weight · Σ_l ‖W_l‖₂ over the network's tensors W_l (departures 1 and 2).

    The regulariser's Hessian is weight·(I − u_l u_lᵀ)/‖W_l‖ for every tensor, with u_l = W_l/‖W_l‖: zero along W_l, so
    that no weight makes the whole positive definite, and undefined where a tensor is zero. It is part of every batch's
    loss, hence of gradients, Hessian-vector products and LiSSA; :meth:`mean_loss` contains it too.

    Args:
        model: The module.
        weight: The code's λ + weight decay in the Hessian, its weight decay alone in the gradient.
        loss: Mean loss of a batch.
        chunk: See :class:`~cdu.models.objective.Objective`.
    """

    def __init__(self, model: nn.Module, weight: float, loss: Loss = cross_entropy, chunk: int = 2048) -> None:
        super().__init__(model, loss, chunk=chunk)
        self.weight = weight

    def batch_loss(self, w: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of one batch, and the regulariser."""
        norms = [part.norm() for part in self.tensors(w).values()]
        return super().batch_loss(w, inputs, targets) + self.weight * torch.stack(norms).sum()


def minimal_residual(operator: Hessian, vector: Tensor, steps: int = 100) -> Solution:
    """The x of a Krylov space that leaves the least residual of (H + λI)x = v, whether H + λI is definite or not.

    MINRES by full reorthogonalisation: with a basis V of the space and the tridiagonal T = VᵀAV, the least squares
    problem min ‖Ty − ‖v‖e₁‖ over all columns of T but the last.

    Args:
        operator: H + λI.
        vector: v, shape (p,), not zero.
        steps: Dimension of the space, at most p.

    Returns:
        The solution; ``converged`` if the relative residual is at most :data:`SOLVED`.
    """
    start = time.perf_counter()
    basis, diagonal, off = lanczos(operator.__matmul__, vector, min(steps + 1, operator.size))
    tridiagonal = torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1)
    # A space that ended early, or is the whole, is invariant: T is square then and solves the system.
    columns = tridiagonal[:, :-1] if len(diagonal) > steps else tridiagonal
    right = torch.zeros(len(diagonal), 1, dtype=diagonal.dtype, device=diagonal.device)
    right[0] = vector.norm().double()
    y = torch.linalg.lstsq(columns, right).solution[:, 0].to(basis.dtype)
    x = basis[: len(y)].T @ y
    synchronise(x)
    seconds = time.perf_counter() - start
    residual = ((operator @ x - vector).norm() / vector.norm()).item()
    return Solution(x, residual, seconds, len(diagonal) * len(operator.samples), converged=residual <= SOLVED)


def replayed_lissa(operator: Hessian, vector: Tensor, scale: float, rows: Tensor) -> Tensor:
    """LiSSA on mini-batches that are given instead of drawn; otherwise what :func:`cdu.curvature.lissa.lissa` computes.

    Args:
        operator: H + λI.
        vector: v, shape (p,).
        scale: h.
        rows: The samples of every mini-batch, shape (repeats, depth, batch size).

    Returns:
        The estimate of (H + λI)⁻¹v, shape (p,).
    """
    objective, samples = operator.objective, operator.samples
    total = torch.zeros_like(vector)
    for order in tqdm(rows, desc="replayed LiSSA", unit="repeat"):
        x = vector
        for batch in order:
            image = objective.hvp(operator.w, samples.subset(batch), x).add(x, alpha=operator.damping)
            x = x + vector - image / scale
        total = total + x / scale
    return total / len(rows)


def lissa_gain(curvature: float, scale: float, depth: int) -> float:
    """By what LiSSA multiplies a direction of curvature a, in the mean: (1 − (1 − a/h)^{s+1})/a, where 1/a is wanted.

    Args:
        curvature: a, an eigenvalue of H + λI; 0 gives the limit (s + 1)/h.
        scale: h.
        depth: s.
    """
    if curvature == 0:
        return (depth + 1) / scale
    return float((1 - (1 - curvature / scale) ** (depth + 1)) / curvature)


def hold_out(count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows held out (departure 7), both ascending.

    Args:
        count: Number of rows.
        share: Share that is held out, rounded down.
        seed: Seed of the draw.
    """
    order = torch.randperm(count, generator=generator(seed, "held out"))
    size = int(count * share)
    return order[size:].sort().values, order[:size].sort().values


def lowest_validation(
    make: Callable[[], nn.Module],
    samples: Samples,
    validation: Samples,
    settings: TrainingSettings,
    seed: int,
    folder: Path,
) -> tuple[Trained, int]:
    """Train, and keep the weights after the epoch whose mean loss on held-out samples is lowest (departure 9).

    Of equal losses the later counts.

    Args:
        make: Makes the initialised module, on the device of the samples.
        samples: The training set.
        validation: The held-out samples.
        settings: Adam's constants and the radius.
        seed: Seed of the batches.
        folder: Where the state after every epoch is kept, so that an interrupted training goes on.

    Returns:
        The trained network and the epoch.
    """
    best, lowest, chosen = None, float("inf"), 0
    for epoch in range(1, settings.epochs + 1):
        paths = [folder / f"epoch-{number}.safetensors" for number in (epoch, epoch - 1)]
        stop = settings.model_copy(update={"epochs": epoch})
        state = train(make(), samples, stop, seed, paths[0], f"epoch {epoch} of {settings.epochs}", paths[1])
        loss = Objective(state.model).mean_loss(state.w, validation)
        if best is None or loss <= lowest:
            best, lowest, chosen = state, loss, epoch
    assert best is not None
    return best, chosen


@dataclass(frozen=True)
class TrainingMode:
    """What a network says when nobody called ``eval()``.

    Attributes:
        outputs: Its outputs, shape (n, classes), which depend on what else was in the batch.
        shift: By how much looking at the samples changed BatchNorm's running statistics, relative to their norm.
    """

    outputs: Tensor
    shift: float


def training_mode(objective: Objective, w: Tensor, samples: Samples, batch_size: int) -> TrainingMode:
    """Outputs by batch statistics, in order and ``batch_size`` at a time (departure 10); the module is copied.

    Args:
        objective: L, whose module is asked.
        w: The weights, shape (p,).
        samples: S.
        batch_size: Samples in a batch; the last may have fewer.
    """
    moved = objective.with_model(copy.deepcopy(objective.model).train(), l2=0.0)
    with torch.no_grad():
        outputs = torch.cat([moved.forward(w, inputs) for inputs, _ in samples.batches(batch_size)])
    before, after = (_statistics(module) for module in (objective.model, moved.model))
    shift = ((after - before).norm() / before.norm()).item() if len(before) else 0.0
    return TrainingMode(outputs, shift)


def _statistics(model: nn.Module) -> Tensor:
    """All running means and variances as one vector."""
    found = [buffer.reshape(-1) for name, buffer in model.named_buffers() if "running" in name]
    return torch.cat(found) if found else torch.zeros(0)


@dataclass(frozen=True)
class FittedAttack:
    """Success of an attack model on the rows that it was fitted on.

    Attributes:
        accuracy: Share of right guesses.
        auc: Area under the ROC curve.
        majority: The accuracy of always naming the larger group.
    """

    accuracy: float
    auc: float
    majority: float


def attack_on_fitted_rows(view: OriginalAndRelease) -> FittedAttack:
    """The published attack (departure 11): logistic regression, fitted and scored on the same rows.

    Its features are both posteriors, sorted by the original's and standardised.

    Args:
        view: Posteriors and membership; the published one has all of D_u as members and all of D_r as others.
    """
    rows, labels = sorted_concatenation(view.original, view.released), view.members.astype(int)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=ATTACK_STEPS)).fit(rows, labels)
    scores: NDArray[np.float64] = model.predict_proba(rows)[:, 1]
    members = float(labels.mean())
    accuracy = float(((scores > 0.5) == labels).mean())
    return FittedAttack(accuracy, float(roc_auc_score(labels, scores)), max(members, 1 - members))


class Recorded(Dataset[tuple[Tensor, Tensor]]):
    """Samples as ready tensors, which remember in what order they were asked for."""

    def __init__(self, samples: Samples) -> None:
        self.inputs, self.targets = samples.batch(slice(None))
        self.asked: list[int] = []

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        """One sample."""
        self.asked.append(row)
        return self.inputs[row], self.targets[row]


class Official:
    """The authors' functions, called on our problem. They are loaded from a clone of their repository.

    Args:
        path: The clone.

    Raises:
        CduError: There is no such code.
    """

    def __init__(self, path: str) -> None:
        self._code = _loaded(path, "unlearn")

    def gradient(self, objective: Objective, w: Tensor, samples: Samples, weight_decay: float) -> Tensor:
        """Their gradient on ``samples``, shape (p,)."""
        model = _standing_at(objective.model, w)
        batches = samples.batches(objective.chunk)
        return _flat(self._code.grad_batch(batches, weight_decay, model, w.device))

    def step(
        self, objective: Objective, w: Tensor, samples: Samples, gradient: Tensor, weight_decay: float, damping: float,
        constants: LissaSettings, seed: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Their step, shape (p,), and the mini-batches that they drew for it, shape (repeats, depth, batch size)."""
        model, data = _standing_at(objective.model, w), Recorded(samples)
        pieces = gradient.split([part.numel() for part in model.parameters()])
        shaped = [piece.view_as(part) for piece, part in zip(pieces, model.parameters(), strict=True)]
        shape = (constants.repeats, constants.depth, constants.batch_size)
        quiet = io.StringIO()
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            torch.manual_seed(seed_for(seed, "official"))
            found = self._code.newton_update(
                shaped, constants.batch_size, data, weight_decay, damping, model, constants.repeats, constants.depth,
                constants.scale, w.device,
            )  # fmt: skip
        return _flat(found), torch.tensor(data.asked).view(shape)


def _loaded(path: str, name: str) -> ModuleType:
    """A module of the clone; its modules find each other by name while it is imported."""
    if not (Path(path) / f"{name}.py").is_file():
        raise CduError(f"{path} holds no {name}.py; give the folder of a clone of the authors' repository")
    sys.path.insert(0, path)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(path)


def _standing_at(model: nn.Module, w: Tensor) -> nn.Module:
    """A copy of the module with the parameters ``w`` and of their type, in evaluation mode."""
    moved = copy.deepcopy(model).to(w.dtype).eval()
    vector_to_parameters(w.detach().clone(), moved.parameters())
    return moved


def _flat(parts: Any) -> Tensor:
    return torch.cat([part.detach().reshape(-1) for part in parts])
