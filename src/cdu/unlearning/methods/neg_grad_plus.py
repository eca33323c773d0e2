"""Descent on the retained set and ascent on the forget set at once."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cdu.data.samples import Samples
from cdu.seeding import forked
from cdu.unlearning.methods.descent import Learner, expect_epochs
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register


@register("NegGrad+")
class NegGradPlus:
    """Keep the loss low on D_r while raising it on D_u.

    Minimises weight · L(w, D_r) − (1 − weight) · L(w, D_u) in passes over D_r, each batch of which goes with one of
    D_u; D_u begins anew, in another order, whenever it has run out. Neither L includes the l2 term here: weight decay
    is the recipe's and pulls towards zero.

    NegGrad+ of Kurmanji, Triantafillou, Hayes & Triantafillou (2023), "Towards Unbounded Machine Unlearning". They use
    SGD; here it is Adam, as in training, and the result is kept in the ball. With ``weight=1`` D_u is not looked at
    and the result is that of :class:`~cdu.unlearning.methods.fine_tune.FineTune`, bit for bit.

    Args:
        epochs: Passes over D_r.
        learning_rate: Adam's.
        weight: Of the loss on D_r, above 0 and at most 1.
    """

    def __init__(self, epochs: int, learning_rate: float, weight: float) -> None:
        expect_epochs(epochs, learning_rate)
        if not 0 < weight <= 1:
            raise ValueError(f"weight = {weight} is not above 0 and at most 1; it is the share of the loss on D_r")
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight = weight

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Train on; the generator draws the order of the batches."""
        learner = Learner(problem, self.learning_rate, generator)
        size = problem.training.batch_size
        # A stream of its own: the batches of D_r stay those of fine-tuning.
        forget = _endlessly(problem.forget, size, forked(generator, "batches of the forget set"))
        for _ in range(self.epochs):
            for inputs, targets in problem.retain.shuffled(size, generator):
                loss = self.weight * learner.loss(inputs, targets)
                if self.weight < 1:
                    loss = loss - (1 - self.weight) * learner.loss(*next(forget))
                learner.step(loss)
        return learner.result()


def _endlessly(samples: Samples, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one shuffled pass after the other."""
    while True:
        yield from samples.shuffled(size, generator)
