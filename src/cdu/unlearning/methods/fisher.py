"""The diagonal of the Fisher information, and Fisher forgetting."""

import time
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad
from torch.nn.functional import cross_entropy

from cdu.curvature.solution import synchronise
from cdu.data.samples import Samples
from cdu.models.objective import Loss, Objective
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register

#: Floor of a weight's Fisher information, so that a weight without influence on D_r does not get infinite noise.
FLOOR = 1e-8


def gradient_rows(objective: Objective, w: Tensor) -> int:
    """Samples whose gradients are held at once: ``objective.chunk``, or as many as fit into its memory."""
    return max(1, min(objective.chunk, objective.chunk_bytes // (w.numel() * w.element_size())))


def per_sample_gradients(objective: Objective, w: Tensor, inputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """The gradient of ``loss`` for every sample of a batch, without the l2 term.

    Args:
        objective: Where the module comes from, which must be in evaluation mode.
        w: The point, shape (p,).
        inputs: Normalised inputs, shape (n, ...).
        targets: Their targets, shape (n, ...).
        loss: The mean loss of a batch.

    Returns:
        A tensor of shape (n, p).
    """

    def single(point: Tensor, one: Tensor, target: Tensor) -> Tensor:
        return loss(objective.forward(point, one.unsqueeze(0)), target.unsqueeze(0))

    def alone(one: Tensor, target: Tensor) -> Tensor:
        point = w.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(single(point, one, target), point)
        return gradient

    return objective.mapped(partial(grad(single), w.detach()), inputs, targets, alone=alone)


def fisher_diagonal(objective: Objective, w: Tensor, samples: Samples, labels: Literal["model", "data"]) -> Tensor:
    """The diagonal of the Fisher information: the mean over samples of squared gradients, without the l2 term.

    The module runs in evaluation mode; memory does not grow with the number of samples.

    Args:
        objective: L.
        w: The point, shape (p,).
        samples: S.
        labels: ``data`` takes the gradient of the loss at the given labels (empirical Fisher); ``model`` the exact
            mean over labels y ~ softmax(outputs) of (∂ log p(y|x))² (Fisher information), whatever the loss is.

    Returns:
        A tensor of shape (p,).
    """
    total = torch.zeros_like(w)
    with objective.evaluating():
        for inputs, targets in samples.batches(gradient_rows(objective, w)):
            if labels == "data":
                total += per_sample_gradients(objective, w, inputs, targets, objective.loss_function).square_().sum(0)
                continue
            with torch.no_grad():
                probabilities = objective.forward(w, inputs).softmax(1)
            for label, share in enumerate(probabilities.T):
                gradients = per_sample_gradients(objective, w, inputs, torch.full_like(targets, label), cross_entropy)
                total += share @ gradients.square_()
    return total / len(samples)


@register("Fisher forgetting", needs_classes=True)
class FisherForgetting:
    """Noise in every weight, the more the less D_r depends on it.

    w̃ = w* + α^(1/4) · F^(−1/4) · z with z ~ N(0, I), where F is the diagonal of the Fisher information on D_r plus the
    l2 weight: an estimate of the diagonal of ∇²L(w*, D_r). The variances sᵢ = √(α/Fᵢ) are those that minimise
    Σᵢ (Fᵢsᵢ + α/sᵢ): what the noise costs in loss on D_r, against what it leaves of D_u.

    Golatkar, Achille & Soatto (2020), "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks",
    whose λσ_h² is α here. They take F over all of D_r, here over a random subset of it; the l2 weight and a floor of
    1e-8 are added here. Left out is what they do besides when a whole class is forgotten. Their published code departs
    from their formula and is not followed: its variance goes as α/F, is capped, averaged within filters, and tenfold
    for BatchNorm and the last layer. BatchNorm's running statistics stay those of D.

    Args:
        noise: α.
        samples: Samples of D_r that F is estimated from; all where there are fewer.
    """

    def __init__(self, noise: float, samples: int = 2000) -> None:
        if not noise >= 0:
            raise ValueError(f"noise = {noise} is not a number of at least 0; it is α, which sets the variance")
        if samples < 1:
            raise ValueError(f"samples = {samples} is below 1; the Fisher information needs a sample")
        self.noise = noise
        self.samples = samples

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Add the noise; the generator draws the subset, then z."""
        classes = problem.classes
        began = time.perf_counter()
        objective, w, retain = problem.objective, problem.w_star, problem.retain
        chosen = retain.subset(torch.randperm(len(retain), generator=generator)[: self.samples])
        fisher = fisher_diagonal(objective, w, chosen, "model").add(objective.l2).clamp(min=FLOOR)
        z = torch.randn(w.shape, generator=generator, dtype=w.dtype).to(w.device)
        scrubbed = w + (self.noise / fisher) ** 0.25 * z
        synchronise(scrubbed)
        seconds = time.perf_counter() - began
        return UnlearningResult(
            scrubbed,
            seconds,
            gradient_samples=len(chosen) * classes,
            no_certificate_reason="not a certified method: its noise has the shape that D_r gives it, and no ε is "
            "proved for it",
        )
