"""Hessian-free online unlearning: a vector for every sample that says how training would have gone without it.

Qiao, Zhang, Tang & Wei (2025), "Hessian-Free Online Certified Unlearning". Stochastic gradient descent takes the steps

    w ← w − η_t ((1/``|B|``) Σ_{i∈B} ∇ℓ_i(w) + l2·w).

Leave a sample u out of every batch, all else as it was: the same start, batches and denominators ``|B|``. To first
order the two runs lie v_u apart, which starts at 0 and follows

    v_u ← v_u − η_t (1/``|B|``) Σ_{i∈B, i≠u} ∇²ℓ_i(w) v_u − η_t·l2·v_u + [u ∈ B] (η_t/``|B|``) ∇ℓ_u(w)

with products of Hessians and vectors alone. When u is to be deleted, w + v_u is a single addition; for several samples
their vectors add up. A network with ReLU has second derivatives only between its kinks: what steps across them change
is not in the vectors.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from cdu.checks import expect
from cdu.curvature.solution import synchronise
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models.objective import CHUNK_BYTES, Objective, parameter_vector
from cdu.seeding import generator as stream
from cdu.settings import Count, Positive, Settings
from cdu.unlearning.problem import Problem, UnlearningResult


class SgdSettings(Settings):
    """Plain stochastic gradient descent, without momentum and without projection.

    Attributes:
        epochs: Passes over all samples.
        batch_size: Samples of a batch; the last one of an epoch may have fewer.
        learning_rate: η in the first epoch.
        rate_factor: What η is multiplied by after every epoch.
    """

    epochs: Count
    batch_size: Count
    learning_rate: Positive
    rate_factor: Annotated[float, Field(gt=0, le=1)] = 1.0


@dataclass(frozen=True)
class Trajectory:
    """A run of stochastic gradient descent, kept as what determines it: its steps can be replayed to the bit.

    BatchNorm uses the running statistics that the module holds throughout, and dropout is off.

    Attributes:
        objective: L, whose l2 term is part of every step.
        start: The first weights, shape (p,).
        samples: The training set.
        settings: Batches and rates.
        seed: Draws the batches.
        left_out: Row numbers whose terms are left out of every batch, as if they were constant; none when empty.

    Example:
        The mean of four numbers, and that without the last one, as descent on ½(w − y)² finds them:

        >>> from torch import nn
        >>> def half_square(outputs, targets):
        ...     return (outputs - targets).square().mean() / 2
        >>> objective = Objective(nn.Linear(1, 1, bias=False), half_square)
        >>> samples = Samples(torch.ones(4, 1), torch.tensor([[1.0], [2.0], [3.0], [6.0]]))
        >>> settings = SgdSettings(epochs=200, batch_size=4, learning_rate=0.5)
        >>> run = Trajectory(objective, torch.zeros(1), samples, settings, seed=0)
        >>> (vector,) = run.vectors(torch.tensor([3]))
        >>> print(f"{run.end().item():.3f} {(run.end() + vector).item():.3f}")
        3.000 2.000
    """

    objective: Objective
    start: Tensor
    samples: Samples
    settings: SgdSettings
    seed: int
    left_out: tuple[int, ...] = ()

    def steps(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """The weights before every step, the rows of its batch and its rate; at last the final weights and no rows."""
        w, left_out = self.start, torch.tensor(self.left_out, dtype=torch.long)
        for rows, rate in self._batches():
            yield w, rows, rate
            kept = rows[~torch.isin(rows, left_out)]
            w = w - rate * self._gradient(w, kept, len(rows))
            if not w.isfinite().all():
                raise CduError(f"stochastic gradient descent diverged; lower its learning rate, {rate:g}")
        yield w, torch.zeros(0, dtype=torch.long), 0.0

    def end(self) -> Tensor:
        """The final weights, shape (p,)."""
        w = self.start
        for point, _, _ in self.steps():
            w = point
        return w

    def without(self, rows: Tensor) -> "Trajectory":
        """The run that the vectors approximate: the same start, batches and ``|B|``, without the terms of ``rows``."""
        return Trajectory(self.objective, self.start, self.samples, self.settings, self.seed, tuple(rows.tolist()))

    def vectors(self, rows: Tensor, chunk_bytes: int = CHUNK_BYTES["cpu"]) -> Tensor:
        """v_u for every row, shape (n_u, p).

        For a quadratic loss ``end() + v_u`` equals ``without(u).end()`` but for rounding. With several rows, or another
        loss, the sum is right to first order: the products of the left-out samples' Hessians with each other's vectors
        are not in it.

        Args:
            rows: Row numbers u, each once, shape (n_u,).
            chunk_bytes: Bytes of the vectors that are found in one replay.

        Raises:
            CduError: A row is not there or is listed twice, or the vectors overflow.
        """
        rows = rows.cpu()
        expect(
            rows.ndim == 1 and len(rows) > 0 and len(rows.unique()) == len(rows),
            f"rows has the shape {tuple(rows.shape)} and {len(rows.unique())} different numbers; list each row once",
        )
        expect(
            bool((rows >= 0).all() and (rows < len(self.samples)).all()),
            f"rows are {int(rows.min())} to {int(rows.max())}, the training set has 0 to {len(self.samples) - 1}",
        )
        together = max(1, chunk_bytes // (self.start.numel() * self.start.element_size()))
        found = torch.cat([self._replayed(part) for part in rows.split(together)])
        if not found.isfinite().all():
            raise CduError(
                "the vectors of the samples overflow: a rate is above 2 over the largest eigenvalue of a batch's "
                f"Hessian; lower the learning rate, {self.settings.learning_rate:g}"
            )
        return found

    def _replayed(self, rows: Tensor) -> Tensor:
        """The vectors of as many rows as one replay carries."""
        objective = self.objective
        found = self.start.new_zeros(len(rows), len(self.start))
        for w, batch, rate in self.steps():
            numbers = torch.isin(rows, batch).nonzero().flatten().tolist()
            before = found
            if len(batch) and found.any():
                found = before - rate * objective.hvp(w, self.samples.subset(batch), before)
            for number in numbers:
                own, plain = self.samples.subset(rows[number : number + 1]), objective.with_model(objective.model, l2=0)
                # The run without u has no term of u at all, so that u's own Hessian is no part of its steps.
                found[number] += rate / len(batch) * (plain.gradient(w, own) + plain.hvp(w, own, before[number]))
        return found

    def _batches(self) -> Iterator[tuple[Tensor, float]]:
        """Rows and rate of every step."""
        rate = self.settings.learning_rate
        for epoch in range(self.settings.epochs):
            order = torch.randperm(len(self.samples), generator=stream(self.seed, "batches", epoch))
            for rows in order.split(self.settings.batch_size):
                yield rows, rate
            rate *= self.settings.rate_factor

    def _gradient(self, w: Tensor, rows: Tensor, size: int) -> Tensor:
        """(1/|B|) Σ over ``rows`` of ∇ℓ_i(w), and the l2 term."""
        decay = self.objective.l2 * w
        if len(rows) == 0:
            return decay
        mean = self.objective.gradient(w, self.samples.subset(rows)) - decay
        return len(rows) / size * mean + decay


class HessianFree:
    """Train by stochastic gradient descent, then add the vectors of D_u: w̃ = w + Σ_{u∈D_u} v_u.

    The method trains its own model on D from the module's own parameters, as the vectors belong to the steps of that
    training. Everything until the addition is ``training_seconds``: the source computes the vectors of all samples
    while it trains, here only those of D_u are computed, which are the same. ``seconds`` is the addition alone.

    The source's noise is for a bound on the distance to the run without D_u. It grows with the constants of the loss
    (bounds on gradients and on the Hessian and its Lipschitz constant along all trajectories) and with ρᵀ, where ρ < 1
    needs a convex loss. No network gives these in advance, so that a result here has no certificate.

    Args:
        epochs: As for :class:`SgdSettings`, and so are the next three.
        batch_size: The same.
        learning_rate: The same.
        rate_factor: The same.
    """

    def __init__(self, epochs: int, batch_size: int, learning_rate: float, rate_factor: float = 1.0) -> None:
        self.settings = SgdSettings(
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, rate_factor=rate_factor
        )

    def trajectory(self, problem: Problem) -> Trajectory:
        """The training on D, the retained samples first."""
        objective = problem.objective
        start = parameter_vector(objective.model).to(problem.w_star)
        return Trajectory(objective, start, problem.everything, self.settings, problem.seed)

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Train, find the vectors and add them; the generator is not used, batches have the problem's seed."""
        begin = time.perf_counter()
        run, retained, total = self.trajectory(problem), len(problem.retain), len(problem.everything)
        trained, vectors = run.end(), run.vectors(torch.arange(retained, total))
        synchronise(vectors)
        ready = time.perf_counter()
        w = trained + vectors.sum(dim=0)
        synchronise(w)
        return UnlearningResult(
            w,
            time.perf_counter() - ready,
            training_seconds=ready - begin,
            no_certificate_reason="training assumption violated: the bound needs a convex loss and its constants along "
            "all trajectories, fixed before the data were seen",
            note="own model, trained by stochastic gradient descent; the vectors of D_u are part of its training time",
        )
