"""What an unlearning method is given, and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

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
    """

    objective: Objective
    w_star: Tensor
    retain: Samples
    forget: Samples
    radius: float
    retrain: Callable[[Samples, int], Trained]
    seed: int


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
        model: The module whose buffers belong to ``w``, where the method trained one; None for the problem's.
    """

    w: Tensor
    seconds: float
    hvp_samples: int = 0
    gradient_samples: int = 0
    residual: float | None = None
    converged: bool | None = None
    model: nn.Module | None = None


class Method(Protocol):
    """An unlearning method: from a problem and a generator to an update."""

    def __call__(self, problem: Problem, generator: torch.Generator) -> Update:
        """Unlearn."""
        ...
