"""Fine-tuning on the retained set."""

import torch

from cdu.curvature.solution import BAR_DELAY
from cdu.progress import Progress
from cdu.unlearning.methods.descent import Learner, expect_epochs
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register


@register("fine-tuning")
class FineTune:
    """Go on training from w*, on D_r alone, and hope that D_u fades.

    Descends on L(w, D_r) with the training recipe's optimiser. A baseline of Golatkar, Achille & Soatto (2020),
    "Eternal Sunshine of the Spotless Net", who use SGD with a large learning rate; here it is Adam, as in training.

    Args:
        epochs: Passes over D_r.
        learning_rate: Adam's.
    """

    by_projection = True

    def __init__(self, epochs: int, learning_rate: float) -> None:
        expect_epochs(epochs, learning_rate)
        self.epochs = epochs
        self.learning_rate = learning_rate

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Train on; the generator draws the order of the batches."""
        learner = Learner(problem, self.learning_rate, generator)
        for _ in Progress(range(self.epochs), desc="fine-tuning", unit="epoch", delay=BAR_DELAY, leave=False):
            for inputs, targets in problem.retain.shuffled(problem.training.batch_size, generator):
                learner.step(learner.loss(inputs, targets))
        return learner.result()
