"""What an unlearning method is given, and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cdu.certification import Bound, Certificate
from cdu.config import TrainingSettings
from cdu.data import Samples
from cdu.objective import Objective
from cdu.training import Trained


@dataclass(frozen=True)
class Problem:
    """Delete the forget set from a trained model.

    Attributes:
        objective: L, with the l2 weight that training used.
        w_star: w*, the weights trained on retain and forget together, shape (p,).
        retain: D_r.
        forget: D_u.
        radius: C, the ball that training projected onto.
        retrain: The training recipe: ``retrain(samples, seed)`` trains on ``samples``.
        seed: The seed that the original model was trained with.
        training: The recipe's constants; methods that descend take their batch size from it.
        stopped: ``stopped(epochs)`` is the original model as it was after so many epochs.
        shared: Whatever methods compute from D_r and D_u alone and can use again, by a name that they agree on; a
            changed problem begins with none.
    """

    objective: Objective
    w_star: Tensor
    retain: Samples
    forget: Samples
    radius: float
    retrain: Callable[[Samples, int], Trained]
    seed: int
    training: TrainingSettings = field(default_factory=TrainingSettings)
    stopped: Callable[[int], Trained] | None = None
    shared: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def everything(self) -> Samples:
        """D, the retained samples first."""
        return self.retain.joined(self.forget)


@dataclass(frozen=True)
class Update:
    """An unlearned model before projection and noise, and what it cost.

    Attributes:
        w: The weights, shape (p,).
        seconds: Wall time.
        hvp_samples: Per-sample Hessian-vector products.
        gradient_samples: Per-sample gradients.
        residual: Relative residual of the linear system that was solved; None where there was none.
        converged: Whether the solver reached its own target; None where there was none.
        model: The module whose buffers belong to ``w``, where the method changed them or brought a network of its
            own; None for the problem's.
        radius: The ball that the result is projected onto; None for the problem's C.
        bound: Δ, from the method's own proof, in exact arithmetic; None for the trivial 2·radius of the projection.
            With a ``certificate`` it is what that rests on, its rounding included.
        rounding: How far rounding may have taken ``w`` from what that proof is about, proven; None where no proof is
            known, so that no certificate rests on ``bound``.
        certificate: What the method's own noise guarantees; None where it adds none. No further noise is then added.
        excuse: Why there is no certificate whatever the noise, e.g. "training assumption violated"; empty otherwise.
        training_seconds: Wall time of training on D as the method's proof needs it; not part of ``seconds``.
        note: What else a reader should know, in words.
    """

    w: Tensor
    seconds: float
    hvp_samples: int = 0
    gradient_samples: int = 0
    residual: float | None = None
    converged: bool | None = None
    model: nn.Module | None = None
    radius: float | None = None
    bound: Bound | None = None
    rounding: float | None = None
    certificate: Certificate | None = None
    excuse: str = ""
    training_seconds: float = 0.0
    note: str = ""


class Method(Protocol):
    """An unlearning method: from a problem and a generator to an update."""

    def __call__(self, problem: Problem, generator: torch.Generator) -> Update:
        """Unlearn."""
        ...
