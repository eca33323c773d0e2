"""Selective synaptic dampening."""

import time

import torch

from cdu.curvature.solution import synchronise
from cdu.unlearning.methods.fisher import fisher_diagonal
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register


@register("selective synaptic dampening")
class SelectiveSynapticDampening:
    """Shrink the weights that matter much more to D_u than to D.

    The importance of weight i to a set S is [S]ᵢ, the mean over S of its squared per-sample gradient (the diagonal of
    the empirical Fisher). Where [D_u]ᵢ > α[D]ᵢ, w̃ᵢ = min(λ[D]ᵢ/[D_u]ᵢ, 1) · w*ᵢ; elsewhere w̃ᵢ = w*ᵢ.

    Foster, Schoepf & Brintrup (2024), "Fast Machine Unlearning without Retraining through Selective Synaptic
    Dampening". They estimate [D] on all of D, here on a random subset of it, D_u included; their published code squares
    the gradients of mini-batches, here those of single samples are squared. BatchNorm's affine parameters are
    dampened like all others; its running statistics stay those of D.

    Args:
        selection: α; the larger, the fewer weights are dampened.
        dampening: λ; the smaller, the more they are.
        samples: Samples of D that [D] is estimated from; all where there are fewer.
    """

    def __init__(self, selection: float, dampening: float, samples: int = 2000) -> None:
        if not selection >= 0 or not 0 <= dampening < float("inf"):
            raise ValueError(
                f"selection = {selection} and dampening = {dampening} must not be negative, nor dampening infinite, or "
                "weights would grow, change their sign or become undefined"
            )
        if samples < 1:
            raise ValueError(f"samples = {samples} is below 1; the importances need a sample")
        self.selection = selection
        self.dampening = dampening
        self.samples = samples

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Dampen; the generator draws the subset of D."""
        began = time.perf_counter()
        objective, w, everything = problem.objective, problem.w_star, problem.everything
        chosen = everything.subset(torch.randperm(len(everything), generator=generator)[: self.samples])
        on_all = fisher_diagonal(objective, w, chosen, "data")
        on_forget = fisher_diagonal(objective, w, problem.forget, "data")
        dampened = (self.dampening * on_all / on_forget).clamp(max=1.0) * w
        result = torch.where(on_forget > self.selection * on_all, dampened, w)
        synchronise(result)
        return UnlearningResult(result, time.perf_counter() - began, gradient_samples=len(chosen) + len(problem.forget))
