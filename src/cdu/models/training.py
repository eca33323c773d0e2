"""Training of one network: Adam on mini-batches, projected onto the ball ‖w‖₂ ≤ C after every step."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.adam import adam as fused_adam

from cdu import clock, storage
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models import precision
from cdu.models.cuda_graph import replayed
from cdu.models.objective import Objective, parameter_vector
from cdu.models.precision import Precision
from cdu.models.settings import TrainingSettings
from cdu.progress import Progress
from cdu.seeding import generator, seed_for, seeded

#: The end of the message on a damaged checkpoint: "delete it to train again".
AGAIN = "to train again"

#: Seconds between two checkpoints of a training under way.
CHECKPOINT_SECONDS = 10.0


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        model: The module; it holds the buffers (BatchNorm's running statistics) that belong to ``w``.
        w: Flat parameter vector, shape (p,).
        history: One row per epoch: ``epoch``, ``loss`` (mean training loss of the epoch's batches, without the l2
            term), ``norm`` (‖w‖₂ at its end), ``projected`` (share of its steps in which the projection was
            active) and ``seconds``.
    """

    model: nn.Module
    w: Tensor
    history: list[dict[str, float]]

    @property
    def seconds(self) -> float:
        """Wall time of the training."""
        return sum(row["seconds"] for row in self.history)

    @property
    def projected_share(self) -> float:
        """Share of all steps in which the projection was active."""
        return sum(row["projected"] for row in self.history) / len(self.history)

    @property
    def fingerprint(self) -> str:
        """The first 12 digits of SHA-256 over weights and buffers; a repetition on the same platform gives the same."""
        tensors = [self.w, *self.model.buffers()]
        return hashlib.sha256(b"".join(tensor.cpu().numpy().tobytes() for tensor in tensors)).hexdigest()[:12]


def project(w: Tensor, radius: float) -> Tensor:
    """The point of the ball ‖w‖₂ ≤ ``radius`` nearest to ``w``, up to rounding towards the inside.

    Weights inside are returned as they are, so that projecting twice changes nothing.

    Example:
        >>> project(torch.tensor([3.0, 4.0], dtype=torch.float64), radius=10)
        tensor([3., 4.], dtype=torch.float64)
        >>> print(f"{project(torch.tensor([3.0, 4.0]), radius=1).norm():.4f}")
        1.0000
    """
    norm = w.double().norm().item()
    if norm <= radius:
        return w
    inside: Tensor = w * (radius / norm * (1 - torch.finfo(w.dtype).eps))
    return inside


class Adam:
    """Adam on one vector: PyTorch's function behind ``torch.optim.Adam(fused=True)``.

    That class imports the compiler with its first step, which takes seconds.

    Args:
        w: The vector, which is changed in place; on a CPU or a CUDA device.
        learning_rate: α.
        weight_decay: Weight of (weight_decay/2)‖w‖², whose gradient is added.

    Attributes:
        state: The moving averages ``exp_avg`` and ``exp_avg_sq``, and ``step``, the number of steps so far.
    """

    def __init__(self, w: Tensor, learning_rate: float, weight_decay: float = 0.0) -> None:
        self.w = w
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.state = {
            "exp_avg": torch.zeros_like(w, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(w, requires_grad=False),
            "step": torch.zeros((), dtype=torch.float32, device=w.device),
        }

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """One step down ``gradient``."""
        mean, square, steps = ([self.state[key]] for key in ("exp_avg", "exp_avg_sq", "step"))
        fused_adam(
            [self.w], [gradient], mean, square, [], steps, foreach=False, fused=True, amsgrad=False, maximize=False,
            lr=self.learning_rate, beta1=0.9, beta2=0.999, weight_decay=self.weight_decay, eps=1e-8,
        )  # fmt: skip


class Step:
    """One step of training on a batch: Adam down the gradient, projection onto the ball, and the sums of the epoch.

    It changes :attr:`state` in place and reads no number back, so that it can be captured
    (:mod:`cdu.models.cuda_graph`).

    Args:
        objective: L, whose module is in training mode.
        w: The weights, with ``requires_grad``.
        adam: Adam on ``w``.
        samples: The training set.
        radius: C.
        computed_in: What the forward pass runs in.

    Attributes:
        loss: Sum of the samples' losses in the epoch so far.
        active: Number of the epoch's steps in which the projection was active.
        finite: Whether all weights of the epoch were finite.
    """

    def __init__(
        self, objective: Objective, w: Tensor, adam: Adam, samples: Samples, radius: float, computed_in: Precision
    ) -> None:
        self.objective = objective
        self.w = w
        self.adam = adam
        self.samples = samples
        self.radius = radius
        self.computed_in = computed_in
        self.loss = torch.zeros((), device=w.device, dtype=w.dtype)
        self.active = torch.zeros((), device=w.device)
        self.finite = torch.ones((), device=w.device, dtype=torch.bool)

    @property
    def state(self) -> list[Tensor]:
        """All tensors that a step changes."""
        sums = [self.loss, self.active, self.finite]
        return [self.w, *self.adam.state.values(), *self.objective.model.buffers(), *sums]

    def begin(self) -> None:
        """Start the sums of an epoch."""
        self.loss.zero_()
        self.active.zero_()
        self.finite.fill_(True)

    def __call__(self, rows: Tensor) -> None:
        """One step on the samples of ``rows``."""
        w, (inputs, targets) = self.w, self.samples.batch(rows)
        with precision.forward(w.device.type, self.computed_in):
            outputs = self.objective.forward(w, inputs)
        loss = self.objective.loss_function(outputs.to(w.dtype), targets)
        self.adam.step(*torch.autograd.grad(loss, w))
        with torch.no_grad():
            norm = w.norm()
            w.mul_((self.radius / norm).clamp(max=1.0))
            self.active += norm > self.radius
            self.loss += loss.detach() * len(rows)
            self.finite &= norm.isfinite()


def train(
    model: nn.Module,
    samples: Samples,
    settings: TrainingSettings,
    seed: int,
    checkpoint: Path | None = None,
    label: str = "training",
    earlier: Path | None = None,
    computed_in: Precision | None = None,
) -> Trained:
    """Train a network and keep its last weights.

    Batches come from a permutation seeded by (seed, epoch), so that an interrupted training resumes to the same
    weights, bit for bit on a CPU with the same number of threads. On a CUDA device a step is captured and replayed.

    Args:
        model: Initialised module on the device of the samples; its buffers are updated, its parameters are not.
        samples: The training set.
        settings: Adam's constants and the radius C.
        seed: Seed of the batches.
        checkpoint: Where the result is kept (safetensors). If it is there already it is loaded; progress is kept
            beside it every :data:`CHECKPOINT_SECONDS`.
        label: Text of the progress bar.
        earlier: The result of the same training with fewer epochs. Training goes on from it where neither a result nor
            progress is kept.
        computed_in: What products and convolutions are computed in: "float32", "tf32" or "bf16"
            (:data:`cdu.models.precision.Precision`); what suits the device when None
            (:data:`cdu.models.precision.ARITHMETIC`).

    Raises:
        CduError: The loss is no longer finite, or the checkpoint cannot be read.
        OutOfTime: The batch's time is up; what was trained is kept beside the checkpoint.
    """
    objective = Objective(model)
    w = parameter_vector(model).requires_grad_()
    adam = Adam(w, settings.learning_rate, settings.weight_decay)
    history: list[dict[str, float]] = []
    partial = None if checkpoint is None else checkpoint.with_suffix(".partial.safetensors")
    for path in (checkpoint, partial, earlier):
        if path is not None and path.exists() and (path == checkpoint or _goes_on(path)):
            history = _restore(path, model, w, adam)
            break
    saved = time.monotonic()
    device = w.device.type
    chosen = precision.arithmetic_of(device).training if computed_in is None else computed_in
    step = Step(objective, w, adam, samples, settings.radius, chosen)
    run = replayed(step, step.state)
    model.train()
    with (
        precision.training(device, chosen),
        Progress(total=settings.epochs, initial=len(history), desc=label, unit="epoch") as progress,
    ):
        for epoch in range(len(history), settings.epochs):
            clock.require(f"epoch {epoch + 1} of {label}")
            history.append({"epoch": epoch + 1.0, **_epoch(step, run, settings, seed, epoch)})
            progress.set_postfix(loss=f"{history[-1]['loss']:.4f}")
            progress.update()
            if partial is not None and (time.monotonic() - saved > CHECKPOINT_SECONDS or clock.remaining() <= 0):
                _save(partial, model, w, adam, history)
                saved = time.monotonic()
    model.eval()
    if checkpoint is not None and partial is not None and not checkpoint.exists():
        _save(checkpoint, model, w, adam, history)
        partial.unlink(missing_ok=True)
    # The projection inside the loop is of float32's accuracy; this one puts the result inside the ball for certain.
    return Trained(model, project(w.detach(), settings.radius), history)


def _epoch(
    step: Step, run: Callable[[Tensor], None], settings: TrainingSettings, seed: int, epoch: int
) -> dict[str, float]:
    """One pass over the samples, a batch at a time by ``run``; a row of the history."""
    start = time.perf_counter()
    samples = step.samples
    order = torch.randperm(len(samples), generator=generator(seed, "batches", epoch)).to(samples.device)
    batches = order.split(settings.batch_size)
    step.begin()
    with seeded(seed_for(seed, "layers", epoch)):
        for rows in batches:
            run(rows)
    mean = step.loss.item() / len(samples)
    if not (step.finite & step.loss.isfinite()):
        raise CduError(
            f"training diverged in epoch {epoch + 1}: the mean loss is {mean:g} and weights or loss overflowed; "
            f"lower the learning rate (it is {settings.learning_rate:g})"
        )
    return {
        "loss": mean,
        "norm": step.w.detach().norm().item(),
        "projected": step.active.item() / len(batches),
        "seconds": time.perf_counter() - start,
    }


def _save(path: Path, model: nn.Module, w: Tensor, adam: Adam, history: list[dict[str, float]]) -> None:
    """Write a checkpoint in one atomic step."""
    tensors = {"w": w.detach(), **{f"adam.{key}": value for key, value in adam.state.items()}}
    tensors |= {f"buffer.{name}": buffer for name, buffer in model.named_buffers()}
    storage.write_tensors(path, tensors, history)


def _goes_on(path: Path) -> bool:
    """Whether a training can go on from a checkpoint, that is, whether it holds Adam's moments."""
    return "adam.step" in storage.tensor_names(path, AGAIN)


def _restore(path: Path, model: nn.Module, w: Tensor, adam: Adam) -> list[dict[str, float]]:
    """Load a checkpoint into ``w``, the buffers and Adam; returns the history."""
    history: list[dict[str, float]]
    tensors, history = storage.read_tensors(path, AGAIN, w.device)
    try:
        with torch.no_grad():
            w.copy_(tensors["w"])
            for name, buffer in model.named_buffers():
                buffer.copy_(tensors[f"buffer.{name}"])
    except (KeyError, RuntimeError) as error:
        raise storage.unreadable(path, error, AGAIN) from error
    adam.state = {key.removeprefix("adam."): value for key, value in tensors.items() if key.startswith("adam.")}
    return history
