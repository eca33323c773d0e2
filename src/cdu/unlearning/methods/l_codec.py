"""L-CODEC: a Newton step on the few units that tell most about the loss."""

import copy
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from cdu.checks import expect
from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.solution import synchronise
from cdu.data.samples import Samples
from cdu.models.objective import CHUNK_BYTES, Objective
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register

#: Samples of D_u on which activations and loss are recorded.
RECORDED = 256
#: Layers whose outputs are units: rows of their weight and bias.
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

#: A layer's name and the index of one of its outputs.
Unit = tuple[str, int]


def conditional_dependence(response: Tensor, added: Tensor, given: Tensor | None = None) -> Tensor:
    """T(Y, Z | X): how much of Y beyond X does Z explain, from nothing (0) to all (1), estimated from n samples.

    With Rᵢ = #{j : Yⱼ ≤ Yᵢ}, Lᵢ = #{j : Yⱼ ≥ Yᵢ}, N(i) the nearest neighbour of Xᵢ and M(i) that of (Xᵢ, Zᵢ), or of
    Zᵢ where there is no X:

    - T(Y, Z | X) = Σᵢ (min(Rᵢ, R_M(i)) − min(Rᵢ, R_N(i))) / Σᵢ (Rᵢ − min(Rᵢ, R_N(i)))
    - T(Y, Z) = Σᵢ (n min(Rᵢ, R_M(i)) − Lᵢ²) / Σᵢ Lᵢ(n − Lᵢ)

    Azadkia & Chatterjee (2021), "A Simple Measure of Conditional Dependence". They choose among neighbours at the same
    distance at random; here all of them are averaged over, which is the mean of that choice. Where the denominator is 0
    nothing is left to explain, and T is 0 here.

    Args:
        response: Y, shape (n,).
        added: Z, shape (n,) or (n, k).
        given: X, shape (n, m); none when None.

    Returns:
        T, a scalar; an estimate can be slightly negative.
    """
    count = len(response)
    added = added.reshape(count, -1)
    ranks = (response.unsqueeze(0) <= response.unsqueeze(1)).sum(1).double()
    smaller = torch.minimum(ranks.unsqueeze(0), ranks.unsqueeze(1))
    if given is None:
        reverse = (response.unsqueeze(0) >= response.unsqueeze(1)).sum(1).double()
        explained = (count * _at_neighbours(smaller, added) - reverse.square()).sum()
        explainable = (reverse * (count - reverse)).sum()
    else:
        before = _at_neighbours(smaller, given)
        explained = (_at_neighbours(smaller, torch.cat([given, added], dim=1)) - before).sum()
        explainable = (ranks - before).sum()
    return torch.where(explainable > 0, explained / explainable, 0.0)


def _at_neighbours(values: Tensor, points: Tensor) -> Tensor:
    """``values[i, j]`` averaged over the nearest neighbours j of point i, shape (n,)."""
    # The faster way by a matrix product would tell apart points that are the same.
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    distances = distances + torch.diag(distances.new_full((len(points),), torch.inf))
    nearest = distances == distances.amin(1, keepdim=True)
    return (values * nearest).sum(1) / nearest.sum(1)


def forward_selection(
    response: Tensor, candidates: Tensor, most: int, chunk_bytes: int = CHUNK_BYTES["cpu"]
) -> list[int]:
    """The columns that tell most about the response, one after the other (FOCI).

    Each time the column with the largest T(response, column | columns chosen so far) is added, until that is not
    positive. Columns are scaled to unit variance first, since neighbours depend on scale.

    Azadkia & Chatterjee (2021). The first T is the largest of many estimates and too large by chance; the next column
    has to explain more than that, so that with few samples the selection ends early, often after one column.

    Args:
        response: Shape (n,).
        candidates: Shape (n, k).
        most: Columns to choose at most.
        chunk_bytes: Bytes that the distances of the columns tried at once may take; activations are on the CPU.
    """
    spread = candidates.std(0)
    scaled = torch.where(spread > 0, (candidates - candidates.mean(0)) / spread, 0.0)
    together = max(1, chunk_bytes // (8 * len(response) ** 2))
    chosen: list[int] = []
    while len(chosen) < min(most, candidates.shape[1]):
        given = scaled[:, chosen] if chosen else None
        score = partial(conditional_dependence, response, given=given)
        scores: Tensor = vmap(score, in_dims=1, chunk_size=together)(scaled)
        scores[chosen] = -torch.inf
        best = int(scores.argmax())
        if not scores[best] > 0:
            break
        chosen.append(best)
    return chosen


def perturbed_activations(
    objective: Objective, w: Tensor, samples: Samples, count: int, noise: float, generator: torch.Generator
) -> tuple[list[Unit], Tensor, Tensor]:
    """What the units and the loss do when the inputs are perturbed, in evaluation mode.

    Args:
        objective: L.
        w: The point, shape (p,).
        samples: S.
        count: Perturbations.
        noise: Standard deviation of the noise that is added to the inputs as the network sees them.
        generator: Draws it.

    Returns:
        The units; their activations, averaged over samples and space, shape (count, units); the mean losses, shape
        (count,). Both are in float64 and on the CPU.
    """
    probe = objective.with_model(copy.deepcopy(objective.model), l2=0.0)
    named = probe.tensors(w)
    seen: dict[str, Tensor] = {}
    layers = {
        name: module
        for name, module in probe.model.named_modules()
        if isinstance(module, LAYERS) and _parameter(name, "weight") in named
    }
    expect(
        len(layers) > 0,
        "L-CODEC chooses among the outputs of linear and convolutional layers, and the network has neither with a "
        "weight of its own; use another method",
    )
    for name, module in layers.items():
        module.register_forward_hook(partial(_record, seen, name))
    inputs, targets = samples.batch(slice(None))
    expect(
        inputs.is_floating_point(),
        f"inputs of type {inputs.dtype} cannot be perturbed by noise, which this method asks for; choose another "
        "method",
    )
    activations, losses = [], []
    with probe.evaluating(), torch.no_grad():
        for _ in range(count):
            shift = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype).to(inputs.device)
            losses.append(probe.batch_loss(w, inputs + noise * shift, targets))
            activations.append(torch.cat(list(seen.values())))
    units = [(name, index) for name, means in seen.items() for index in range(len(means))]
    return units, torch.stack(activations).double().cpu(), torch.stack(losses).double().cpu()


def _record(seen: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    """A forward hook: note the mean of every output of a layer."""
    channels = -1 if isinstance(module, nn.Linear) else 1
    seen[name] = output.movedim(channels, -1).flatten(0, -2).mean(0)


def _parameter(layer: str, kind: str) -> str:
    """The name of a layer's parameter; a network that is nothing but that layer has no name for it."""
    return f"{layer}.{kind}" if layer else kind


class RestrictedHessian(Hessian):
    """P(H + λI)P, where P sets all weights to zero that the mask does not name.

    Args:
        objective: L.
        w: The point, shape (p,).
        samples: S.
        mask: 1 for the weights that are kept, 0 for the others, shape (p,).
        damping: λ.
    """

    def __init__(self, objective: Objective, w: Tensor, samples: Samples, mask: Tensor, damping: float) -> None:
        super().__init__(objective, w, samples, damping)
        self.mask = mask

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Product with a vector of shape (p,), or with several as rows of shape (k, p)."""
        return self.mask * super().__matmul__(self.mask * vector)


@register("L-CODEC")
class LCodec:
    """A Newton step on the weights of the units whose activations tell most about the loss on D_u.

    1. Noise is added to the inputs of up to 256 random samples of D_u, many times; every time the mean loss and the
       mean activation of every unit (an output of a linear or convolutional layer, before the nonlinearity) are noted.
    2. Units are chosen by :func:`forward_selection` with :func:`conditional_dependence`.
    3. On P, the rows of weights and the biases of the chosen units,
       w̃_P = w*_P + n_u/(n − n_u) · (H_PP + λI)⁻¹ ∇_P L(w*, D_u) with H = ∇²L(w*, D_r); all else keeps its bits.

    Mehta, Pal, Singh & Ravi (2022), "Deep Unlearning via Randomized Conditionally Independent Hessians". They remove
    one sample after the other, each with a selection and a step of its own; here there is one of both for all of D_u.
    Their published code builds H_PP from differences of gradients that training left behind, always takes the first
    unit, and chooses the first of several nearest neighbours without scaling the units; here H is that of D_r, applied
    by conjugate gradient. They add noise for a certificate; here there is none of either. BatchNorm's affine parameters
    belong to no unit and its running statistics stay those of D.

    Args:
        damping: λ.
        perturbations: How often noise is added to the inputs.
        noise: Its standard deviation, on the scale of the inputs as the network sees them.
        units: Units to choose at most.
    """

    def __init__(self, damping: float, perturbations: int, noise: float, units: int) -> None:
        if perturbations < 2 or not noise > 0 or units < 1:
            raise ValueError(
                f"perturbations = {perturbations}, noise = {noise} and units = {units} must be at least 2, above 0 and "
                "at least 1, or no unit could be chosen"
            )
        self.damping = damping
        self.perturbations = perturbations
        self.noise = noise
        self.units = units

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Choose and step; the generator draws the samples, then the noise. The note tells how much was chosen.

        Raises:
            SolverError: H_PP + λI is not positive definite.
        """
        began = time.perf_counter()
        objective, w, forget = problem.objective, problem.w_star, problem.forget
        shown = forget.subset(torch.randperm(len(forget), generator=generator)[:RECORDED])
        units, activations, losses = perturbed_activations(
            objective, w, shown, self.perturbations, self.noise, generator
        )
        chosen = forward_selection(losses, activations, self.units)
        mask = _mask(objective, w, [units[index] for index in chosen])
        hessian = RestrictedHessian(objective, w, problem.retain, mask, self.damping)
        gradient = -len(forget) / len(problem.retain) * mask * objective.gradient(w, forget)
        synchronise(gradient)
        seconds = time.perf_counter() - began
        solution = conjugate_gradient(hessian, gradient)
        return UnlearningResult(
            w - solution.x,
            seconds + solution.seconds,
            hvp_samples=solution.hvp_samples,
            gradient_samples=len(forget),
            residual=solution.residual,
            converged=solution.converged,
            no_certificate_reason="not a certified method: no bound on the distance to the retrained model is proved "
            "for its step",
            note=f"{len(chosen)} of {len(units)} units chosen, {int(mask.sum())} of {len(w)} weights",
        )


def _mask(objective: Objective, w: Tensor, units: list[Unit]) -> Tensor:
    """1 for the weights and biases of some units, 0 for all others, shape (p,)."""
    mask = torch.zeros_like(w)
    views = objective.tensors(mask)
    for layer, index in units:
        for kind in ("weight", "bias"):
            name = _parameter(layer, kind)
            if name in views:
                views[name][index] = 1.0
    return mask
