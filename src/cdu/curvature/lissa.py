"""LiSSA, the paper's stochastic solver (Algorithm 1)."""

import time
from typing import Literal

import torch
from torch import Tensor

from cdu.curvature.hessian import Hessian
from cdu.curvature.solution import (
    BAR_DELAY,
    Solution,
    SolverError,
    is_zero,
    relative_residual,
    synchronise,
    zero_solution,
)
from cdu.models.objective import twice_differentiable
from cdu.progress import Progress


def lissa(
    operator: Hessian,
    vector: Tensor,
    scale: float | Literal["auto"],
    depth: int,
    repeats: int,
    batch_size: int,
    generator: torch.Generator,
    tolerance: float = 0.1,
) -> Solution:
    """LiSSA: the Neumann series of the inverse with a fresh mini-batch in every term.

    X₀v = v and X_t v = v + (I − (H_t + λI)/h) X_{t−1} v, where H_t is the Hessian on a mini-batch drawn with
    replacement; (H + λI)⁻¹v ≈ X_s v / h, averaged over repeats (Agarwal et al. 2017; the paper's Proposition 3.5).
    All repeats advance together, as many at once as memory allows; memory does not grow with the depth.

    Args:
        operator: H + λI on the retained samples.
        vector: v, shape (p,).
        scale: h, to be at least ‖H_t + λI‖ for every mini-batch (the paper's H); ``auto`` takes :func:`batch_scale`.
        depth: Number of terms s (the paper's s₂).
        repeats: Independent runs averaged (the paper's s₁).
        batch_size: Samples in a mini-batch.
        generator: Draws the mini-batches.
        tolerance: The relative residual on all samples up to which the result counts as converged.

    Raises:
        SolverError: The iteration diverges. While ‖I − (H_t + λI)/h‖ ≤ 1 the iterate obeys ‖X_t v‖ ≤ (t+1)‖v‖;
            ten times that is taken as divergence.
    """
    if is_zero(vector):
        return zero_solution(vector)
    start = time.perf_counter()
    estimated = scale == "auto"
    h = batch_scale(operator, batch_size, generator) if scale == "auto" else scale
    size = vector.norm()
    x = vector.expand(repeats, -1).clone()
    curve: list[float] = []
    with operator.objective.evaluating(), twice_differentiable():
        for step in Progress(range(1, depth + 1), desc="LiSSA", unit="step", delay=BAR_DELAY, leave=False):
            image = _batch_products(operator, x, batch_size, generator)
            term = torch.sub(vector, image, alpha=1 / h)
            before, x = x, x + term
            growth = x.norm(dim=1).max() / size
            curve.append((term.norm(dim=1).mean() / size).item())
            if not growth <= 10 * (step + 1):
                stiffness = (image.norm(dim=1) / before.norm(dim=1)).max().item()
                raise SolverError(
                    f"LiSSA diverges at step {step}: its iterate has grown to {growth.item():.3g} times ‖v‖, with "
                    f"‖(H_t + λI)x‖/‖x‖ = {stiffness:.3g} on a mini-batch; scale = {h:g} is too small for "
                    f"‖H_t + λI‖ or λ = {operator.damping:g} is below −λ_min(H_t); choose scale ≥ {2 * stiffness:.3g}, "
                    "or a larger damping or batch"
                )
    mean = x.mean(dim=0) / h
    synchronise(x)
    seconds = time.perf_counter() - start
    residual = relative_residual(operator, mean, vector)
    spent = (depth * repeats + (SCALE_STEPS * SCALE_BATCHES if estimated else 0)) * batch_size
    note = f"scale = {h:.4g}, estimated from mini-batches" if estimated else ""
    return Solution(mean, residual, seconds, spent, converged=residual <= tolerance, curve=curve, note=note)


#: Mini-batches, power-iteration steps and safety factor behind LiSSA's automatic scale.
SCALE_BATCHES, SCALE_STEPS, SCALE_MARGIN = 20, 12, 2.0


def batch_scale(operator: Hessian, batch_size: int, generator: torch.Generator) -> float:
    """LiSSA's h: twice the largest ‖H_t + λI‖ found by power iteration on twenty mini-batches at once.

    Power iteration gives too small a norm, and other batches can have larger ones: hence the factor of two. The result
    is an estimate, not a bound for all batches.
    """
    count = len(operator.samples)
    rows = torch.randint(count, (SCALE_BATCHES, batch_size), generator=generator).to(operator.w.device)
    x = torch.randn(SCALE_BATCHES, operator.size, generator=generator, dtype=operator.w.dtype).to(operator.w.device)
    largest = 0.0
    with operator.objective.evaluating(), twice_differentiable():
        for _ in range(SCALE_STEPS):
            x = x / x.norm(dim=1, keepdim=True)
            x = _products_on(operator, x, rows)
            largest = x.norm(dim=1).max().item()
    return SCALE_MARGIN * largest


def _batch_products(operator: Hessian, vectors: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """(H_t + λI)x for every row x of ``vectors``, each with a mini-batch of its own, drawn anew."""
    rows = torch.randint(len(operator.samples), (len(vectors), batch_size), generator=generator)
    return _products_on(operator, vectors, rows.to(vectors.device))


def _products_on(operator: Hessian, vectors: Tensor, rows: Tensor) -> Tensor:
    """(H_t + λI)x for every row x of ``vectors``, H_t the Hessian on the samples that the same row of ``rows`` lists.

    The forward pass is batched over copies of w; the two backward passes are then ordinary ones, which is about one
    and a half times as fast as differentiating inside the batching. The caller puts the module in evaluation mode and
    selects attention that can be differentiated twice: doing both here would cost a tenth of a small network's step.
    """
    objective, w = operator.objective, operator.w
    shift = objective.l2 + operator.damping
    together = max(1, objective.chunk_bytes // max(1, rows.shape[1] * objective.bytes_per_sample(w, operator.samples)))
    images = []
    for part, chosen in zip(vectors.split(together), rows.split(together), strict=True):
        inputs, targets = operator.samples.batch(chosen)
        point = w.detach().expand_as(part).clone().requires_grad_()
        if len(part) == 1:
            loss = objective.batch_loss(point[0], inputs[0], targets[0])
        else:
            loss = objective.mapped(objective.batch_loss, point, inputs, targets).sum()
        (gradient,) = torch.autograd.grad(loss, point, create_graph=True)
        (image,) = torch.autograd.grad(gradient, point, part)
        images.append(image.add_(part, alpha=shift))
    return images[0] if len(images) == 1 else torch.cat(images)
