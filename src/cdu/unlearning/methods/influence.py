"""Unlearning by influence functions, with the empirical Fisher in place of the Hessian."""

import time

import torch
from torch import Tensor

from cdu.curvature.solution import synchronise
from cdu.errors import CduError
from cdu.models.objective import CHUNK_BYTES
from cdu.unlearning.methods.fisher import gradient_rows, per_sample_gradients
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import register

#: Bytes that the matrix of per-sample gradients may take.
MATRIX_BYTES = 2**31


def solve_empirical_fisher(
    gradients: Tensor, vector: Tensor, damping: float, chunk_bytes: int = CHUNK_BYTES["cpu"]
) -> Tensor:
    """(F + λI)⁻¹ v with F = GᵀG/N, exactly, by a system of N rows (Woodbury).

    (F + λI)⁻¹ v = (v − Gᵀ(GGᵀ + NλI)⁻¹Gv) / λ. The arithmetic is in float64, since the difference cancels most of v's
    part in the span of G; G is converted block by block.

    Args:
        gradients: G, one gradient a row, shape (N, p).
        vector: v, shape (p,).
        damping: λ > 0.
        chunk_bytes: Bytes that one block may take in float64.

    Returns:
        The solution in v's type, shape (p,).
    """
    count = len(gradients)
    blocks = gradients.split(max(1, chunk_bytes // (8 * count)), dim=1)
    system = torch.zeros(count, count, dtype=torch.float64, device=vector.device)
    right = torch.zeros(count, 1, dtype=torch.float64, device=vector.device)
    first = 0
    for block in blocks:
        wide = block.double()
        system += wide @ wide.T
        right += wide @ vector[first : first + wide.shape[1]].double().unsqueeze(1)
        first += wide.shape[1]
    system.diagonal().add_(count * damping)
    weights = torch.cholesky_solve(right, torch.linalg.cholesky(system))
    inside = torch.cat([block.double().T @ weights for block in blocks]).squeeze(1)
    return ((vector.double() - inside) / damping).to(vector.dtype)


@register("influence")
class InfluenceUnlearning:
    """The first-order effect of leaving D_u out, with the empirical Fisher in place of the Hessian.

    w̃ = w* + n_u/(n − n_u) · (F + λI)⁻¹ ∇L(w*, D_u) with F = (1/N) Σᵢ gᵢgᵢᵀ over the gradients of N random samples of
    D_r. The gᵢ are of the loss alone; L includes the l2 term, as in the Newton step's forget form. F does not: its part
    of the Hessian belongs in λ.

    Koh & Liang (2017), "Understanding Black-Box Predictions via Influence Functions"; for deletion Izzo, Smart,
    Chaudhuri & Zou (2021), "Approximate Data Deletion from Machine Learning Models"; with the empirical Fisher the
    baseline IU of Jia et al. (2023), "Model Sparsity Can Simplify Machine Unlearning". Their published code applies an
    approximate inverse by a recursion that keeps a single vector, has no λ, scales the step by a number that is tuned,
    and multiplies the difference of the gradients on D_u and D_r (an earlier version: D_u's alone, with gᵢ of
    mini-batches). Here the system is solved exactly, gᵢ are of single samples, and n_u/(n − n_u) is the only scale.
    BatchNorm's running statistics stay those of D.

    Args:
        damping: λ.
        gradients: N; all of D_r where it is smaller.
    """

    def __init__(self, damping: float, gradients: int) -> None:
        if not damping > 0:
            raise ValueError(f"damping = {damping} is not above 0; F alone has no inverse")
        if gradients < 1:
            raise ValueError(f"gradients = {gradients} is below 1; the empirical Fisher needs a sample")
        self.damping = damping
        self.gradients = gradients

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Take the step; the generator draws the N samples.

        Raises:
            CduError: The N gradients do not fit into 2 GiB.
        """
        began = time.perf_counter()
        w, count = problem.w_star, min(self.gradients, len(problem.retain))
        gradients = self._matrix(problem, count, generator)
        gradient = problem.objective.gradient(w, problem.forget)
        solution = solve_empirical_fisher(gradients, gradient, self.damping, problem.objective.chunk_bytes)
        result = w + len(problem.forget) / len(problem.retain) * solution
        synchronise(result)
        seconds = time.perf_counter() - began
        image = gradients.T @ (gradients @ solution) / count + self.damping * solution
        residual = float((image - gradient).norm() / gradient.norm())
        return UnlearningResult(result, seconds, gradient_samples=count + len(problem.forget), residual=residual)

    def _matrix(self, problem: Problem, count: int, generator: torch.Generator) -> Tensor:
        """The gradients of ``count`` random samples of D_r, one a row."""
        objective, w, retain = problem.objective, problem.w_star, problem.retain
        row = w.numel() * w.element_size()
        if count * row > MATRIX_BYTES:
            raise CduError(
                f"influence unlearning would keep {count:,} gradients of {w.numel():,} parameters, "
                f"{count * row / 2**30:.3g} GiB, and {MATRIX_BYTES / 2**30:.3g} GiB is the limit; lower gradients to "
                f"{MATRIX_BYTES // row:,} at most"
            )
        chosen = retain.subset(torch.randperm(len(retain), generator=generator)[:count])
        matrix = w.new_empty(count, w.numel())
        first = 0
        with objective.evaluating():
            for inputs, targets in chosen.batches(gradient_rows(objective, w)):
                part = per_sample_gradients(objective, w, inputs, targets, objective.loss_function)
                matrix[first : first + len(part)] = part
                first += len(part)
        return matrix
