"""Training on wrong labels, restricted to the weights that are most salient for the forget set."""

import math

import torch
from torch import Tensor

from cdu.unlearning.methods.descent import Learner, expect_epochs
from cdu.unlearning.methods.random_labels import train_on_wrong_labels
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register


@register("SalUn", needs_classes=True)
class SalUn:
    """:class:`~cdu.unlearning.methods.random_labels.RandomLabels`, in which only the most salient weights may move.

    w ← mask ⊙ (trained step) + (1 − mask) ⊙ w, where the mask is 1 for the ``share`` of all weights in which
    ∇ℓ(w*, D_u) is largest in size; ℓ is the mean loss over D_u without the l2 term, in evaluation mode. Neither weight
    decay nor Adam's momentum moves the others: they keep their bits unless the projection onto the ball scales all
    weights.

    Fan, Liu, Zhang, Wong, Wei & Liu (2024), "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency
    in Both Image Classification and Generation". They set a threshold at the median, which is ``share=0.5``; their code
    draws labels anew in every epoch, from all classes, and uses SGD. Here exactly ⌈share · p⌉ weights may move, labels
    are drawn once and are never the true ones, and the optimiser is Adam. BatchNorm's running statistics have no mask.

    Args:
        epochs: Passes over D_r and D_u.
        learning_rate: Adam's.
        share: Of the weights that may move, above 0 and at most 1.
    """

    def __init__(self, epochs: int, learning_rate: float, share: float = 0.5) -> None:
        expect_epochs(epochs, learning_rate)
        if not 0 < share <= 1:
            raise ValueError(f"share = {share} is not above 0 and at most 1; it is the share of weights that may move")
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.share = share

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Train on; the generator draws the labels, then the order of the batches."""
        learner = Learner(problem, self.learning_rate, generator)
        learner.mask = self._mask(learner.objective.gradient(problem.w_star, problem.forget))
        learner.gradient_samples += len(problem.forget)
        train_on_wrong_labels(learner, problem, self.epochs, generator)
        return learner.result()

    def _mask(self, gradient: Tensor) -> Tensor:
        """1 for the weights with the largest gradient."""
        count = math.ceil(self.share * len(gradient))
        return torch.zeros_like(gradient).index_fill_(0, gradient.abs().topk(count).indices, 1.0)
