"""Gradient ascent on the forget set."""

import math

import torch

from cdu.unlearning.methods.descent import Learner, expect_epochs
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register


@register("negative gradient", needs_classes=True)
class NegativeGradient:
    """Climb the loss on D_u, until the model does worse there than guessing.

    Every step goes along +∇ of a batch's mean loss over D_u; weight decay still pulls towards zero. After an epoch at
    whose end that loss, in evaluation mode, exceeds ln(number of classes) no further one is begun.

    The "negative gradient" baseline of Golatkar, Achille & Soatto (2020), "Eternal Sunshine of the Spotless Net". They
    fine-tune with SGD on the whole of D, with the sign turned for the samples of D_u; here, as in what later surveys
    call gradient ascent, D_r takes no part, the optimiser is Adam, and there is a stop, since the loss has no maximum.
    BatchNorm's running statistics follow D_u alone.

    Args:
        epochs: Passes over D_u at most.
        learning_rate: Adam's.
    """

    def __init__(self, epochs: int, learning_rate: float) -> None:
        expect_epochs(epochs, learning_rate)
        self.epochs = epochs
        self.learning_rate = learning_rate

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Climb; the generator draws the order of the batches. The note tells of an early stop."""
        learner = Learner(problem, self.learning_rate, generator)
        guessing = math.log(problem.classes)
        for epoch in range(1, self.epochs + 1):
            for inputs, targets in problem.forget.shuffled(problem.training.batch_size, generator):
                learner.step(-learner.loss(inputs, targets))
            loss = learner.objective.mean_loss(learner.w, problem.forget)
            if loss > guessing and epoch < self.epochs:
                reason = f"the loss on the forget set, {loss:.3g}, is above that of guessing, {guessing:.3g}"
                return learner.result(note=f"stopped after {epoch} of {self.epochs} epochs: {reason}")
        return learner.result()
