"""What all methods that descend on mini-batches share: a copy of the network, Adam, projection onto the ball."""

import copy
import time
from typing import Any

import torch
from torch import Tensor

from cdu.checks import expect
from cdu.curvature.solution import synchronise
from cdu.models.training import Adam, project
from cdu.seeding import forked, seeded
from cdu.unlearning.problem import Problem, UnlearningResult


class Learner:
    """A network that starts at w* and is changed step by step, as the training recipe would: Adam, then projection.

    The module is a copy in training mode, so that BatchNorm's running statistics follow the batches that are seen, but
    for batches of one value a channel (:func:`~cdu.models.batchnorm.single_values_by_running_statistics`); the
    problem's own module is left as it is. Adam starts afresh.

    Args:
        problem: Where w*, the radius C and the l2 weight (Adam's coupled weight decay) come from.
        learning_rate: Adam's.
        generator: Where the randomness of layers such as dropout comes from; nothing is drawn from it, so that the
            order of batches does not depend on this.
        mask: 1 where weights may change, 0 where they must not, shape (p,); all may when None.
        start: Where to start instead of w*, shape (p,).
    """

    def __init__(
        self,
        problem: Problem,
        learning_rate: float,
        generator: torch.Generator,
        mask: Tensor | None = None,
        start: Tensor | None = None,
    ) -> None:
        original = problem.objective
        self.begin = time.perf_counter()
        self.objective = original.with_model(copy.deepcopy(original.model).train(), l2=0.0)
        self.radius = problem.radius
        self.mask = mask
        self.gradient_samples = 0
        self._layers = forked(generator, "layers")
        self.w = (problem.w_star if start is None else start).detach().clone().requires_grad_()
        self._adam = Adam(self.w, learning_rate, original.l2)

    def outputs(self, inputs: Tensor) -> Tensor:
        """The network's outputs for a batch, shape (n, ...); differentiable in ``w``."""
        self.gradient_samples += len(inputs)
        with seeded(int(torch.randint(2**62, (), generator=self._layers))):
            return self.objective.forward(self.w, inputs)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch, without the l2 term."""
        return self.objective.loss_function(self.outputs(inputs), targets)

    def step(self, loss: Tensor) -> None:
        """One step of Adam down the gradient of ``loss``, then projection onto the ball."""
        (gradient,) = torch.autograd.grad(loss, self.w)
        before = self.w.detach().clone() if self.mask is not None else None
        self._adam.step(gradient)
        with torch.no_grad():
            if before is not None and self.mask is not None:
                # Adam's weight decay and momentum would move masked weights too.
                self.w.copy_(torch.where(self.mask > 0, self.w, before))
            self.w.mul_((self.radius / self.w.norm()).clamp(max=1.0))

    def result(self, **details: Any) -> UnlearningResult:
        """The result so far, with its cost; ``details`` are further fields of it."""
        synchronise(self.w)
        w = project(self.w.detach().clone(), self.radius)
        seconds = time.perf_counter() - self.begin
        model = self.objective.model.eval()
        return UnlearningResult(w, seconds, gradient_samples=self.gradient_samples, model=model, **details)


def expect_epochs(epochs: int, learning_rate: float) -> None:
    """Refuse epochs that are no whole number of at least 0, and a learning rate that is not positive and finite."""
    expect(isinstance(epochs, int) and epochs >= 0, f"epochs = {epochs} is not a whole number of at least 0")
    expect(0 < learning_rate < float("inf"), f"learning_rate = {learning_rate} is not a positive finite number")
