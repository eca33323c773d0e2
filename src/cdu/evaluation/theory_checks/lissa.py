"""LiSSA: its mean at every depth, its error against its constants, and its bound."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from scipy import stats
from torch import Tensor

from cdu.certification import Bound, LissaForm, lissa_bound
from cdu.checks import expect
from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.lissa import lissa
from cdu.curvature.settings import LissaSettings
from cdu.evaluation.readings import Reading, Refusal, outcome, reading
from cdu.evaluation.theory_checks.bound import NetworkConstants, bound_reading
from cdu.evaluation.theory_checks.constants import batch_spectra, spectrum_range
from cdu.seeding import generator
from cdu.unlearning.problem import Problem


def neumann_series(operator: Hessian, vector: Tensor, scale: float, depths: Iterable[int]) -> dict[int, Tensor]:
    """LiSSA's expected value at each depth s: (1/h) Σ_{j≤s} (I − (H + λI)/h)ʲ v, with the Hessian on all samples.

    Mini-batches are drawn independently, so that the mean of LiSSA's product of random matrices is the product of
    their means: the estimator is unbiased for *this*, at every depth, and for the inverse only as s → ∞.

    Args:
        operator: H + λI.
        vector: v, shape (p,).
        scale: h.
        depths: The s ≥ 1 to return.
    """
    wanted = set(depths)
    x, found = vector.clone(), {}
    for step in range(1, max(wanted) + 1):
        x = vector + x - (operator @ x) / scale
        if step in wanted:
            found[step] = x / scale
    return found


@dataclass(frozen=True)
class Bias:
    """How far the mean of independent draws lies from an expected value.

    Attributes:
        relative: ‖mean − expected‖ / ‖expected‖.
        noise: The average of that without bias, from sampling alone.
        p: The probability of so large a distance without any bias.
    """

    relative: float
    noise: float
    p: float


def bias(draws: Tensor, expected: Tensor) -> Bias:
    """Test that independent draws, shape (r, p), have the mean ``expected``.

    Without bias r·‖mean − expected‖²/tr(S) follows, for Gaussian draws of covariance S, about an F distribution of k
    and k·(r − 1) degrees of freedom, k = tr(S)²/tr(S²). Estimated from r draws k is at most r − 1, which errs on the
    side of finding no bias.
    """
    count = len(draws)
    centred = draws - draws.mean(dim=0)
    gram = (centred @ centred.T / (count - 1)).double()
    trace = gram.trace().item()
    distance = (draws.mean(dim=0) - expected).norm().item()
    freedom = trace**2 / gram.square().sum().item()
    size = expected.norm().item()
    p = float(stats.f.sf(count * distance**2 / trace, freedom, freedom * (count - 1)))
    return Bias(distance / size, (trace / count) ** 0.5 / size, p)


class LissaCheck:
    """LiSSA on the system of one Newton step, (H + λI)x = ∇L(w*, D_r), beside the solution by conjugate gradient.

    Args:
        problem: Whose D_u is deleted.
        damping: λ.
        constants: LiSSA's h, s₂, s₁ and batch size.
        seed: Seed of the mini-batches.

    Raises:
        CduError: h is to be estimated: its series and its bound need a number.

    Attributes:
        scale: h.
        target: x, to a relative residual of 1e-6, shape (p,).
    """

    def __init__(self, problem: Problem, damping: float, constants: LissaSettings, seed: int) -> None:
        expect(
            constants.scale != "auto", "scale = 'auto' is no h to check LiSSA's series and bound with; give a number"
        )
        self.constants = constants
        self.scale = float(constants.scale)
        self.seed = seed
        self.damping = damping
        self.radius = problem.radius
        self.operator = Hessian(problem.objective, problem.w_star, problem.retain) + damping
        self.vector = problem.objective.gradient(problem.w_star, problem.retain)
        self.target = conjugate_gradient(self.operator, self.vector, 1e-6).x

    def estimate(self, *purpose: str | int, **changes: Any) -> Tensor:
        """One estimate of x, shape (p,).

        Args:
            purpose: Tells the stream of mini-batches apart from others of the seed.
            changes: Constants that take the place of the given ones, by name.

        Raises:
            SolverError: The iteration diverges.
        """
        constants = {**self.constants.model_dump(), **changes}
        return lissa(self.operator, self.vector, **constants, generator=generator(self.seed, *purpose)).x

    def errors(self, depths: Sequence[int], repeats: Sequence[int], scales: Sequence[float]) -> Iterator[Reading]:
        """The relative error of one estimate, where one constant at a time has another value.

        Args:
            depths: The s₂.
            repeats: The s₁.
            scales: The h, as multiples of the given one.

        Yields:
            ``lissa_error``, or the reason where the iteration diverges.
        """
        grids = {"depth": depths, "repeats": repeats, "scale": scales}
        for constant, points in grids.items():
            for point in points:
                value = point * self.scale if constant == "scale" else point
                error = partial(self.error_with, constant, value, str(point))
                yield reading("lissa_error", error, axis=f"LiSSA {constant}", point=value)

    def error_with(self, constant: str, value: float, *purpose: str) -> float:
        """The relative error of one estimate where one constant has another value.

        Args:
            constant: Its name.
            value: What it is.
            purpose: Names the stream of mini-batches, after the constant.

        Raises:
            SolverError: The iteration diverges.
        """
        return self.relative_error(self.estimate(constant, *purpose, **{constant: value}))

    def relative_error(self, estimate: Tensor) -> float:
        """‖estimate − x‖ / ‖x‖."""
        return float((estimate - self.target).norm() / self.target.norm())

    def biases(self, depths: Sequence[int], draws: int) -> Iterator[Reading]:
        """At every depth the test of LiSSA's mean against its Neumann series, and how far that is off x.

        Args:
            depths: The s.
            draws: Independent estimates behind each test, at least 3.

        Yields:
            ``lissa_bias``, ``lissa_bias_noise`` and ``lissa_bias_p`` as in :class:`Bias`, and
            ``lissa_truncation``, the series' relative error.
        """
        series = neumann_series(self.operator, self.vector, self.scale, depths)
        for depth in depths:
            estimates = torch.stack([self.estimate("bias", number, depth=depth) for number in range(draws)])
            found = bias(estimates, series[depth])
            numbers = {
                "lissa_bias": found.relative,
                "lissa_bias_noise": found.noise,
                "lissa_bias_p": found.p,
                "lissa_truncation": self.relative_error(series[depth]),
            }
            yield Reading(numbers, {"axis": "depth", "point": depth})

    def batches(self, problem: Problem, size: int, count: int, generator: torch.Generator) -> dict[str, float]:
        """The range of mini-batches' eigenvalues, and the share of them with 0 ≺ H_t + λI ≼ hI.

        LiSSA's theorem asks for that of every one; the share is ``batch_condition``.

        Args:
            problem: Where H_t is taken: this one, or that of another network.
            size: Samples in a mini-batch.
            count: How many mini-batches.
            generator: Draws them and the starts of Lanczos.
        """
        spectra = batch_spectra(problem.objective, problem.w_star, problem.retain, size, count, generator)
        good = [low + self.damping > 0 and high + self.damping <= self.scale for low, high in spectra]
        return {**spectrum_range(spectra), "batch_condition": sum(good) / len(good)}

    def bounds(self, measured: NetworkConstants, failure: float) -> Iterator[Reading]:
        """The bound with LiSSA in its three forms beside the error that LiSSA really adds.

        Args:
            measured: λ_min, L, M and G.
            failure: ρ.

        Yields:
            ``lissa_added`` = ‖estimate − x‖; ``lissa_bound`` of the exact step and of each form, and ``lissa_term``,
            the difference, or the reason where there is none; ``failure``.
        """
        added = float((self.estimate("bound", 0) - self.target).norm())
        yield Reading({"lissa_added": added}, {})
        exact = partial(measured.newton_bound, self.radius, self.damping)
        yield bound_reading("lissa_bound", exact, method="exact")
        for form in get_args(LissaForm):
            found = outcome(partial(self.bound, form, measured, failure))
            if isinstance(found, Refusal):
                yield found.reading("lissa_bound", method=form)
                continue
            numbers = {"lissa_bound": found.value, "lissa_term": found.value - exact().value}
            yield Reading(numbers, {"method": form})
        yield Reading({"failure": failure}, {})

    def bound(self, form: LissaForm, measured: NetworkConstants, failure: float) -> Bound:
        """Theorem 3.4 with LiSSA's error, from measured constants.

        Args:
            form: Which of the three forms.
            measured: λ_min, L, M and G.
            failure: ρ.

        Raises:
            CduError: h, s₂ or ρ is outside what LiSSA's theorem needs, or λ + λ_min ≤ 0.
        """
        return lissa_bound(
            self.radius,
            measured.gradient_lipschitz,
            measured.hessian_lipschitz,
            self.damping,
            measured.lambda_min,
            measured.gradient_retrained,
            parameters=self.operator.size,
            repeats=self.constants.repeats,
            depth=self.constants.depth,
            scale=self.scale,
            failure=failure,
            form=form,
        )
