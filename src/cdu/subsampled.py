"""The Newton step for networks whose Hessian is taken over part of the retained set."""

from dataclasses import replace

import torch
from torch import Tensor

from cdu.curvature import Hessian, Product, lanczos
from cdu.data import Samples
from cdu.errors import CduError
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


def ritz_ends(product: Product, like: Tensor, steps: int, generator: torch.Generator) -> tuple[float, float]:
    """Smallest and largest Ritz value of a symmetric operator, by Lanczos on the operator's device.

    From a random start they lie within the spectrum, and near its ends after few steps.

    Args:
        product: v ↦ Av.
        like: A vector of A's size, type and device.
        steps: Lanczos steps, each a product.
        generator: Draws the start.
    """
    start = torch.randn(len(like), generator=generator, dtype=torch.float64).to(like.device, like.dtype)
    _, diagonal, off = lanczos(product, start, min(steps, len(like)))
    values = torch.linalg.eigvalsh(torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1))
    return float(values[0]), float(values[-1])


def spectrum_ends(problem: Problem, samples: int, steps: int, generator: torch.Generator) -> tuple[float, float]:
    """Bounds on the ends of the spectrum of H_S: λ_min is at most the first, λ_max at least the second.

    Args:
        problem: Where H is taken.
        samples: Size of S.
        steps: Lanczos steps.
        generator: Draws S and the start.
    """
    hessian = Hessian(problem.objective, problem.w_star, part_of(problem.retain, samples, generator))
    return ritz_ends(hessian.__matmul__, hessian.w, steps, generator)


def hessian_lipschitz(problem: Problem, other: Tensor, samples: int, steps: int, generator: torch.Generator) -> float:
    """M from below: ‖H_S(w) − H_S(w*)‖ / ‖w − w*‖ for one other point w, the norm as the largest absolute Ritz value.

    Args:
        problem: Where w* and D_r come from.
        other: w, shape (p,).
        samples: Size of S.
        steps: Lanczos steps, each two products.
        generator: Draws S and the start.

    Raises:
        CduError: The two points are the same.
    """
    length = float((other - problem.w_star).norm())
    if not length > 0:
        raise CduError(f"the two points are {length:g} apart; a Lipschitz constant needs two different points")
    part = part_of(problem.retain, samples, generator)
    here, there = (Hessian(problem.objective, point, part) for point in (problem.w_star, other))
    low, high = ritz_ends(lambda vector: there @ vector - here @ vector, other, steps, generator)
    return max(-low, high) / length
