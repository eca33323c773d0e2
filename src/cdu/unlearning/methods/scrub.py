"""A student trained to disagree with its teacher on the forget set and to agree on the retained set."""

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from cdu.unlearning.methods.descent import Learner, expect_epochs
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register


@register("SCRUB", needs_classes=True)
class Scrub:
    """Teacher and student: the original model teaches what to keep, and what to avoid.

    The student starts as the teacher, p* = softmax of the original model's outputs. Every pass over D_r minimises

        distillation_weight · KL(p* ‖ p) + (1 − distillation_weight) · cross-entropy,

    in the mean over each batch; each of the first ``forget_epochs`` of them follows one over D_u that maximises
    KL(p* ‖ p) there. The last passes, without D_u, repair what these did to D_r. Weight decay is the recipe's in both.

    SCRUB of Kurmanji, Triantafillou, Hayes & Triantafillou (2023), "Towards Unbounded Machine Unlearning". Their two
    weights, α of the divergence and γ of the cross-entropy, are one here, α/(α + γ): Adam is blind to their common
    factor, but for weight decay. Their code softens both outputs by a temperature, draws smaller batches and may use
    SGD; here the temperature is 1 and batches and optimiser are the recipe's. SCRUB+R, which rewinds to an earlier
    checkpoint, is left out.

    The teacher runs in evaluation mode, the student in training mode. Without BatchNorm the divergence is therefore 0
    at the start, with gradient 0, and the first step on D_u is weight decay's alone.

    Args:
        epochs: Passes over D_r.
        forget_epochs: How many of them follow a pass over D_u; at most ``epochs``.
        learning_rate: Adam's.
        distillation_weight: Of the divergence on D_r, from 0 to 1.
    """

    def __init__(self, epochs: int, forget_epochs: int, learning_rate: float, distillation_weight: float) -> None:
        expect_epochs(epochs, learning_rate)
        if not 0 <= forget_epochs <= epochs:
            raise ValueError(f"forget_epochs = {forget_epochs} is not between 0 and epochs = {epochs}")
        if not 0 <= distillation_weight <= 1:
            raise ValueError(f"distillation_weight = {distillation_weight} is not between 0 and 1")
        self.epochs = epochs
        self.forget_epochs = forget_epochs
        self.learning_rate = learning_rate
        self.distillation_weight = distillation_weight

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Train on; the generator draws the order of the batches."""
        learner = Learner(problem, self.learning_rate, generator)
        # The divergence is one between classes.
        _ = problem.classes
        size, weight = problem.training.batch_size, self.distillation_weight
        for epoch in range(self.epochs):
            if epoch < self.forget_epochs:
                for inputs, _ in problem.forget.shuffled(size, generator):
                    learner.step(-_divergence(problem, inputs, learner.outputs(inputs)))
            for inputs, targets in problem.retain.shuffled(size, generator):
                outputs = learner.outputs(inputs)
                loss = learner.objective.loss_function(outputs, targets)
                learner.step(weight * _divergence(problem, inputs, outputs) + (1 - weight) * loss)
        return learner.result()


def _divergence(problem: Problem, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Mean KL(teacher ‖ student) over a batch, given the student's outputs."""
    with problem.objective.evaluating(), torch.no_grad():
        taught = problem.objective.forward(problem.w_star, inputs).log_softmax(1)
    return kl_div(outputs.log_softmax(1), taught, reduction="batchmean", log_target=True)
