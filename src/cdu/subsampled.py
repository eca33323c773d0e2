"""The Newton step for networks whose Hessian is taken over part of the retained set."""

from dataclasses import replace

import torch

from cdu.curvature import Hessian, lanczos
from cdu.data import Samples
from cdu.unlearning import NewtonStep, Problem, Update


def part_of(samples: Samples, size: int | None, generator: torch.Generator) -> Samples:
    """``size`` random samples without replacement, in their order; all when None or not fewer."""
    if size is None or size >= len(samples):
        return samples
    return samples.subset(torch.randperm(len(samples), generator=generator)[:size].sort().values)


class SubsampledNewton:
    """w̃ = w* + n_u/(n − n_u) · (H_S + λI)⁻¹ ∇L(w*, D_u), H_S the Hessian over a random part S of D_r.

    The form with the gradient over D_u costs n_u gradients. H_S stands in for H as in sub-sampled Newton methods: over
    all of D_r it is the paper's step. The residual is that of the system with H_S.

    Args:
        damping: λ.
        samples: Size of S; all of D_r when None.
    """

    def __init__(self, damping: float, samples: int | None = None) -> None:
        self.damping = damping
        self.samples = samples

    def __call__(self, problem: Problem, generator: torch.Generator) -> Update:
        """Take the step; raises :class:`~cdu.solvers.SolverError` where H_S + λI is indefinite."""
        part = part_of(problem.retain, self.samples, generator)
        update = NewtonStep(self.damping, gradient="forget")(replace(problem, retain=part), generator)
        # With S in place of D_r that step has the factor n_u/|S|; it is linear in it.
        w = torch.lerp(problem.w_star, update.w, len(part) / len(problem.retain))
        return replace(update, w=w)


def spectrum_ends(problem: Problem, samples: int, steps: int, generator: torch.Generator) -> tuple[float, float]:
    """Bounds on the ends of the spectrum of H_S: λ_min is at most the first, λ_max at least the second.

    Ritz values of a Lanczos process from a random start lie within the spectrum, and near its ends after few steps.

    Args:
        problem: Where H is taken.
        samples: Size of S.
        steps: Lanczos steps.
        generator: Draws S and the start.
    """
    hessian = Hessian(problem.objective, problem.w_star, part_of(problem.retain, samples, generator))
    start = torch.randn(hessian.size, generator=generator, dtype=torch.float64).to(hessian.w.device, hessian.w.dtype)
    _, diagonal, off = lanczos(hessian.__matmul__, start, min(steps, hessian.size))
    values = torch.linalg.eigvalsh(torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1))
    return float(values[0]), float(values[-1])
