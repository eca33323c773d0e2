"""The methods that a request can name, and a damping for the Newton step of a model that nobody has looked at."""

from collections.abc import Mapping
from typing import Any

import torch

from cdu.checks import expect
from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import extreme_eigenvalues
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.problem import Method, Problem, UnlearningResult
from cdu.unlearning.registry import build, traits

#: Short names of methods, beside those that :mod:`cdu.unlearning.registry` lists.
NEWTON, RETRAIN, NOTHING = "newton", "retrain", "nothing"

#: Up to this many weights all eigenvalues are computed.
DENSE = 64

#: Share of the largest eigenvalue by which the damped Hessian is positive at least: its condition is about a thousand.
SHARE = 1e-3


def method_of(method: str | Method, options: Mapping[str, Any], epsilon: float | None, delta: float) -> Method:
    """A method from its name and options, or the one that was given.

    Args:
        method: "newton", "retrain", "nothing" (the model as it is, which noise alone hides), the name of a registered
            method such as "fine-tuning", or a method.
        options: Its hyper-parameters, by the names that its class takes. The Newton step without ``damping`` takes the
            one of :func:`safe_damping`.
        epsilon: ε, for methods that add noise of their own.
        delta: δ, for the same.

    Raises:
        CduError: There is no such method, it does not take these options, or it needs an ε and none is given.
    """
    if not isinstance(method, str):
        expect(not options, f"the options {sorted(options)} belong to a method's name; give them to the method itself")
        return method
    if method == NEWTON:
        return _newton(options)
    if method in (RETRAIN, NOTHING):
        expect(not options, f"the method '{method}' takes no options; leave out {', '.join(sorted(options))}")
        return Retrain() if method == RETRAIN else Original()
    expect(
        not traits(method).own_model,
        f"the method '{method}' trains a model of its own from weights that know no row, and this model's know them; "
        "choose another method",
    )
    expect(
        epsilon is not None or not traits(method).own_noise,
        f"the method '{method}' adds noise of its own for an epsilon that is certified; give epsilon",
    )
    return build(method, options, 1.0 if epsilon is None else epsilon, delta)


def _newton(options: Mapping[str, Any]) -> Method:
    if "damping" in options:
        return build("Newton step", options, 1.0, 1e-5)
    build("Newton step", {**options, "damping": 1.0}, 1.0, 1e-5)
    return SafelyDampedNewton(options)


def safe_damping(problem: Problem, generator: torch.Generator) -> float:
    """A λ for which H + λI is positive definite and well conditioned, from the spectrum of H = ∇²L(w*, D_r).

    λ = 2·max(0, −λ_min) + 0.001·λ_max, with λ_min and λ_max by Lanczos, of all eigenvalues for a few weights.

    Args:
        problem: Where H is taken.
        generator: Draws the starting vector of Lanczos.
    """
    hessian = Hessian(problem.objective, problem.w_star, problem.retain)
    if hessian.size <= DENSE:
        values = torch.linalg.eigvalsh(hessian.dense())
        low, high = values[0].item(), values[-1].item()
    else:
        lowest, highest = extreme_eigenvalues(lambda v: hessian @ v, problem.w_star, generator, tolerance=1e-2)
        low, high = lowest.value - lowest.error, highest.value
    # A Hessian of zeros, of a model that has nothing to learn, gives λ = 1.
    return 2 * max(0.0, -low) + SHARE * max(abs(low), abs(high)) or 1.0


class SafelyDampedNewton:
    """The Newton step with the damping of :func:`safe_damping`.

    Args:
        options: What else :class:`~cdu.unlearning.methods.newton.NewtonStep` takes.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = dict(options)

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Find λ, then take the step."""
        return NewtonStep(safe_damping(problem, generator), **self.options)(problem, generator)

    def reference(self, problem: Problem, result: UnlearningResult, generator: torch.Generator) -> UnlearningResult:
        """Retraining on D_r."""
        return Retrain()(problem, generator)
