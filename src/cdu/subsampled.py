"""Large networks: the Newton step with the Hessian over part of the retained set, and the methods beside it."""

import torch
from torch import Tensor

from cdu.config import ScaleSettings, UnlearningSettings
from cdu.curvature import Hessian, ritz_norm, ritz_values
from cdu.data import Samples
from cdu.errors import CduError
from cdu.unlearning import SECOND_SEED, Method, NewtonStep, Original, Problem, Retrain, Update, build
from cdu.unlearning.newton import Form


def part_of(samples: Samples, size: int | None, generator: torch.Generator) -> Samples:
    """``size`` random samples without replacement, in their order; all when None or not fewer."""
    if size is None or size >= len(samples):
        return samples
    return samples.subset(torch.randperm(len(samples), generator=generator)[:size].sort().values)


class SubsampledNewton:
    """The paper's step with H_S in place of H, the Hessian over a random part S of D_r.

    - ``gradient="forget"``: w̃ = w* + n_u/(n − n_u) · (H_S + λI)⁻¹ ∇L(w*, D_u), which costs n_u gradients
    - ``gradient="retain"``: w̃ = w* − (H_S + λI)⁻¹ ∇L(w*, D_r), with the gradient over all of D_r

    H_S stands in for H as in sub-sampled Newton methods: over all of D_r it is the paper's step. The residual is that
    of the system with H_S.

    Args:
        damping: λ.
        samples: Size of S; all of D_r when None.
        gradient: Which form, as for :class:`~cdu.unlearning.NewtonStep`.
    """

    # What it is made from is all that it holds: kept updates are told apart by it.
    def __init__(self, damping: float, samples: int | None = None, gradient: Form = "forget") -> None:
        self.damping = damping
        self.samples = samples
        self.gradient = gradient

    def __call__(self, problem: Problem, generator: torch.Generator) -> Update:
        """Take the step; raises :class:`~cdu.solvers.SolverError` where H_S + λI is indefinite."""
        part = part_of(problem.retain, self.samples, generator)
        return NewtonStep(self.damping, gradient=self.gradient).with_hessian_over(part, problem, generator)


def scale_methods(unlearning: UnlearningSettings, scale: ScaleSettings, seed: int) -> dict[str, Method]:
    """The methods on a network for which no hyper-parameters are searched, by the name they have in tables.

    The yardsticks come first. Then comes the Newton step over part of D_r at every λ that has a name in the experiment,
    called *newton* at the default λ and *newton, λ = …* at the others. Last are the methods of ``scale.methods`` with
    the hyper-parameters that are given there.

    Args:
        unlearning: λ, and ε and δ for methods that add noise of their own.
        scale: The part of D_r, and the further methods.
        seed: Seed that the original model was trained with.

    Raises:
        CduError: ``scale.methods`` names an unknown method, or hyper-parameters that a method does not take.
    """
    default = unlearning.dampings[unlearning.default].value
    others = sorted({named.value for named in unlearning.dampings.values()} - {default})
    dampings = {"newton": default, **{f"newton, λ = {value:g}": value for value in others}}
    return {
        "original": Original(),
        "retrain": Retrain(),
        "second retraining": Retrain(seed + SECOND_SEED),
        **{name: SubsampledNewton(value, scale.hessian_samples) for name, value in dampings.items()},
        **{name: build(name, values, unlearning.epsilon, unlearning.delta) for name, values in scale.methods.items()},
    }


def spectrum_ends(problem: Problem, samples: int, steps: int, generator: torch.Generator) -> tuple[float, float]:
    """Bounds on the ends of the spectrum of H_S: λ_min is at most the first, λ_max at least the second.

    Args:
        problem: Where H is taken.
        samples: Size of S.
        steps: Lanczos steps.
        generator: Draws S and the start.
    """
    hessian = Hessian(problem.objective, problem.w_star, part_of(problem.retain, samples, generator))
    values = ritz_values(hessian.__matmul__, hessian.w, generator, steps)
    return float(values[0]), float(values[-1])


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
    return ritz_norm(lambda vector: there @ vector - here @ vector, other, generator, steps, tolerance=0.0) / length
