"""Training on the forget set with wrong labels."""

from dataclasses import replace

import torch
from torch import Tensor

from cdu.unlearning.methods.descent import Learner, expect_epochs
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register


@register("random labels", needs_classes=True)
class RandomLabels:
    """Teach the model other labels for D_u than the ones it learned, and go on with D_r meanwhile.

    Descends on the mean loss over D_r ∪ {(x, y′) : (x, y) ∈ D_u}, in shuffled batches of the union, with y′ ≠ y drawn
    once, uniformly from the other classes.

    The "random labels" baseline of Golatkar, Achille & Soatto (2020), "Eternal Sunshine of the Spotless Net", and of
    Graves, Nagisetty & Ganesh (2021), "Amnesiac Machine Learning". The former draw from all classes, so that a label
    may stay true, the latter from the wrong ones, as here. The optimiser is Adam, as in training.

    Args:
        epochs: Passes over the union.
        learning_rate: Adam's.
    """

    def __init__(self, epochs: int, learning_rate: float) -> None:
        expect_epochs(epochs, learning_rate)
        self.epochs = epochs
        self.learning_rate = learning_rate

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Train on; the generator draws the labels, then the order of the batches."""
        learner = Learner(problem, self.learning_rate, generator)
        train_on_wrong_labels(learner, problem, self.epochs, generator)
        return learner.result()


def train_on_wrong_labels(learner: Learner, problem: Problem, epochs: int, generator: torch.Generator) -> None:
    """Train a learner on D_r and on D_u with wrong labels; see :class:`RandomLabels`."""
    labels = wrong_labels(problem.forget.targets, problem.classes, generator)
    union = problem.retain.joined(replace(problem.forget, targets=labels))
    for _ in range(epochs):
        for inputs, targets in union.shuffled(problem.training.batch_size, generator):
            learner.step(learner.loss(inputs, targets))


def wrong_labels(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """For every label one of the other classes, each equally likely."""
    shifts = torch.randint(1, classes, labels.shape, generator=generator).to(labels.device)
    return (labels + shifts) % classes
