"""What reaches the minimiser of a linear model fastest? ``python -m benchmarks.linear_training``, on one thread.

Softmax regression on scattering features of MNIST, from zero, until ‖∇L‖ ≤ l2·Δ/10 in float64. Ours is
:func:`cdu.unlearning.convex_training.train`: Newton steps by conjugate gradient in single precision, with a Kronecker
preconditioner from the full eigendecomposition of A = mean of x̃x̃ᵀ. Against it: no preconditioner; the leading
eigenpairs of A alone, by random projection; less accurate steps; L-BFGS, for as long as ours takes, and as a warm start
of ours; and a stochastic start of ours with reduced variance (SVRG).

Seconds are those of the processor, of all threads together, so that other programs on the machine do not count.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from cdu.checks import expect
from cdu.curvature.linear_hessian import LinearHessian, probabilities, split
from cdu.curvature.minimise import FeatureMoments, minimise, newton_direction
from cdu.curvature.solution import Preconditioner
from cdu.data import datasets
from cdu.data.samples import Samples
from cdu.models.architectures import LogisticRegression
from cdu.models.image_features import features
from cdu.models.objective import Objective
from cdu.models.settings import FeatureSettings
from cdu.seeding import generator
from cdu.unlearning.convex_training import SHARE, moments_of, preconditioner, train

FEATURES = FeatureSettings(kind="scattering", scales=2, angles=8, groups=27)
#: Eigenpairs of A.
RANKS = (256, 1024)
#: ‖∇L‖ at which the preconditioner is made anew, as in training.
STAGES = (1e-2, 1e-3, 1e-4)
#: L-BFGS as a warm start runs for this share of the time that ours takes.
WARM = 0.1
#: Pairs that L-BFGS keeps.
PAIRS = 20
#: SVRG: epochs with a full gradient at the start of each, rows of a step, and its length. Rows of norm 1 and a bias
#: make the loss of every row 1-smooth.
EPOCHS, BATCH, STEP = 3, 128, 1.0

Inverse = Callable[[Tensor], Preconditioner | None]


@dataclass
class Passes:
    """Passes over the data: each is two products with the matrix of features.

    Attributes:
        gradients: In double precision.
        products: Of a Hessian with a vector, in single precision.
        stochastic: In single precision, as steps on a few rows.
    """

    gradients: int = 0
    products: int = 0
    stochastic: int = 0


@contextmanager
def counted() -> Iterator[Passes]:
    """Counts the passes over the data of whatever runs inside."""
    passes, gradient, product = Passes(), Objective.gradient, LinearHessian.__matmul__

    def counted_gradient(self: Objective, w: Tensor, samples: Samples) -> Tensor:
        passes.gradients += 1
        return gradient(self, w, samples)

    def counted_product(self: LinearHessian, vector: Tensor) -> Tensor:
        passes.products += 1
        return product(self, vector)

    with (
        patch.object(Objective, "gradient", counted_gradient),
        patch.object(LinearHessian, "__matmul__", counted_product),
    ):
        yield passes


@dataclass(frozen=True)
class Problem:
    """What is minimised, and how far.

    Attributes:
        objective: L.
        samples: S, rows in single precision.
        budget: Δ.
    """

    objective: Objective
    samples: Samples
    budget: float

    @property
    def tolerance(self) -> float:
        """‖∇L‖ at which training ends."""
        return SHARE * self.objective.l2 * self.budget

    @property
    def zeros(self) -> Tensor:
        """Where all start."""
        return torch.zeros(self.objective.size, dtype=torch.float64)

    def newton(self, start: Tensor, inverse: Inverse) -> Tensor:
        """Newton steps in stages, as training takes them, from any start and with any preconditioner."""
        w = start
        for stage in (*(rough for rough in STAGES if rough > self.tolerance), self.tolerance):
            w = minimise(self.objective, self.samples, w, stage, inverse(w)).w
        return w

    def frugal(self, start: Tensor, inverse: Inverse) -> Tensor:
        """Newton steps no more accurate than the step before was worth (Eisenstat and Walker 1996, choice 2)."""
        w, before = start, math.inf
        gradient = self.objective.gradient(w, self.samples)
        while (size := gradient.norm().item()) > self.tolerance:
            accuracy = max(min(0.1, 0.9 * (size / before) ** 2), 0.3 * self.tolerance / size)
            direction = newton_direction(self.objective, w, self.samples, gradient, accuracy, inverse(w))
            shrink, before = 1.0, size
            while (gradient := self.objective.gradient(w - shrink * direction, self.samples)).norm().item() >= size:
                shrink /= 2
                expect(shrink > 1e-8, f"no step lowers ‖∇L‖ = {size:.3g}; choose a larger budget")
            w = w - shrink * direction
        return w


# --- preconditioners -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeadingMoments:
    """The leading eigenpairs of A: shapes (r,) and (features + 1, r)."""

    values: Tensor
    vectors: Tensor


def leading_moments(samples: Samples, rank: int) -> LeadingMoments:
    """Eigenpairs of A on the image of A under ``rank`` random vectors: three products with the features, and none A."""
    rows = torch.cat([samples.inputs, torch.ones(len(samples), 1)], dim=1)
    sketch = torch.randn(rows.shape[1], rank, generator=generator(0, "sketch"))
    basis = torch.linalg.qr(rows.T @ (rows @ sketch)).Q
    seen = rows @ basis
    values, rotation = torch.linalg.eigh(seen.T @ seen / len(samples))
    return LeadingMoments(values, basis @ rotation)


def leading_inverse(problem: Problem, rank: int) -> Inverse:
    """Preconditioners of the leading eigenpairs alone."""
    moments = leading_moments(problem.samples, rank)
    return lambda w: leading_preconditioner(problem, w, moments)


def leading_preconditioner(problem: Problem, w: Tensor, moments: LeadingMoments) -> Preconditioner:
    """(S ⊗ A + l2·I)⁻¹ with the least of A's leading eigenvalues in place of all others (Frangella et al. 2023)."""
    found, columns = probabilities(w, problem.samples), problem.samples.inputs.shape[1]
    spread = torch.diag(found.mean(dim=0)) - found.T @ found / len(found)
    s, left = torch.linalg.eigh(spread)
    s, a, right = s.clamp(min=0), moments.values.clamp(min=0), moments.vectors
    inside = 1 / (torch.outer(s, a) + problem.objective.l2)
    across = (1 / (s * a.min() + problem.objective.l2)).unsqueeze(1)

    def apply(vector: Tensor) -> Tensor:
        weights, bias = split(vector.to(a.dtype), columns)
        turned = left.T @ torch.cat([weights, bias.unsqueeze(1)], dim=1)
        image = left @ (across * turned + ((turned @ right) * (inside - across)) @ right.T)
        return torch.cat([image[:, :-1].reshape(-1), image[:, -1]]).to(vector.dtype)

    return apply


# --- first-order programs --------------------------------------------------------------------------------------------


class _OverError(Exception):
    """The time is up."""


def lbfgs(problem: Problem, seconds: float, passes: Passes) -> Tensor:
    """L-BFGS of scipy in float64 from zero, for some seconds or to the tolerance: the iterate of the least ‖∇L‖."""
    ends = time.process_time() + seconds
    rows = problem.samples.inputs.double()
    labels, l2 = problem.samples.targets, problem.objective.l2
    best, least = problem.zeros, math.inf

    def value(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal best, least
        if least <= problem.tolerance or time.process_time() > ends:
            raise _OverError
        passes.gradients += 1
        w = torch.from_numpy(point.copy())
        weights, bias = split(w, rows.shape[1])
        logs = torch.log_softmax(torch.addmm(bias, rows, weights.T), dim=1)
        own = logs.gather(1, labels.unsqueeze(1))
        errors = logs.exp().scatter_add(1, labels.unsqueeze(1), torch.full_like(own, -1.0)) / len(rows)
        gradient = torch.cat([(errors.T @ rows).reshape(-1), errors.sum(dim=0)]) + l2 * w
        if gradient.norm().item() < least:
            best, least = w, gradient.norm().item()
        return (l2 / 2 * w.square().sum() - own.mean()).item(), gradient.numpy()

    endless: Any = {"maxcor": PAIRS, "maxiter": 10**9, "maxfun": 10**9, "ftol": 0.0, "gtol": 0.0}
    with suppress(_OverError):
        minimize(value, best.numpy(), jac=True, method="L-BFGS-B", options=endless)
    return best


def svrg(problem: Problem, passes: Passes) -> Tensor:
    """Stochastic gradients with reduced variance from zero (Johnson and Zhang 2013), in single precision."""
    draws, w = generator(0, "svrg"), problem.zeros
    for _ in range(EPOCHS):
        anchor, full = w.float(), problem.objective.gradient(w, problem.samples).float()
        moving = anchor.clone()
        for part in torch.randperm(len(problem.samples), generator=draws).split(BATCH):
            rows, labels = problem.samples.inputs[part], problem.samples.targets[part]
            both = _gradients(torch.stack([moving, anchor]), rows, labels, problem.objective.l2)
            moving = moving - STEP * (both[0] - both[1] + full)
        # A step looks at its rows from two points.
        passes.stochastic += 2
        w = moving.double()
    return w


def _gradients(ws: Tensor, rows: Tensor, labels: Tensor, l2: float) -> Tensor:
    """∇L at several points on some rows, in the rows' precision, shape (points, p)."""
    found = []
    for w in ws:
        weights, bias = split(w, rows.shape[1])
        errors = torch.softmax(torch.addmm(bias, rows, weights.T), dim=1)
        errors[torch.arange(len(rows)), labels] -= 1
        found.append(torch.cat([(errors.T @ rows).reshape(-1), errors.sum(dim=0)]) / len(rows) + l2 * w)
    return torch.stack(found)


# --- the comparison --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """What is compared: it gives weights, and counts such passes as :func:`counted` does not see.

    Attributes:
        name: In words.
        run: The program.
        before: Seconds that it shares with others and that count as its own.
    """

    name: str
    run: Callable[[Passes], Tensor]
    before: float = 0.0


def programs(problem: Problem, moments: FeatureMoments | None, known: float) -> Iterator[Program]:
    """Newton's method in all its variants, ours first.

    Args:
        problem: What is minimised.
        moments: The eigendecomposition of A.
        known: Seconds that it took.
    """
    zeros, budget = problem.zeros, problem.budget
    whole = partial(whole_inverse, problem, moments)
    yield Program("ours", lambda _: train(problem.objective, problem.samples, budget, moments).w, known)
    for rank in RANKS:
        yield Program(f"ours, {rank:,} eigenpairs", partial(_by_leading, problem, rank))
    yield Program("ours, no preconditioner", lambda _: problem.newton(zeros, lambda w: None))
    yield Program(
        f"ours, SVRG for {EPOCHS} epochs first", lambda passes: problem.newton(svrg(problem, passes), whole), known
    )
    yield Program("ours, frugal steps", lambda _: problem.frugal(zeros, whole), known)
    part = partial(leading_inverse, problem, RANKS[0])
    yield Program(f"ours, frugal steps, {RANKS[0]:,} eigenpairs", lambda _: problem.frugal(zeros, part()))


def timed_programs(problem: Problem, moments: FeatureMoments | None, known: float, first: float) -> Iterator[Program]:
    """Those with L-BFGS, which is given a time.

    Args:
        problem: As for :func:`programs`.
        moments: The same.
        known: The same.
        first: Seconds that ours took.
    """
    warm, whole = WARM * first, partial(whole_inverse, problem, moments)
    yield Program("L-BFGS, as long as ours", lambda passes: lbfgs(problem, first, passes))
    yield Program(
        f"ours, L-BFGS for {warm:.1f} s first",
        lambda passes: problem.newton(lbfgs(problem, warm, passes), whole),
        known,
    )


def _by_leading(problem: Problem, rank: int, _: Passes) -> Tensor:
    return problem.newton(problem.zeros, leading_inverse(problem, rank))


def whole_inverse(problem: Problem, moments: FeatureMoments | None, w: Tensor) -> Preconditioner | None:
    """Our preconditioner."""
    return preconditioner(problem.objective, w, problem.samples, moments)


def seconds_of(problem: Problem, program: Program, first: float | None) -> float:
    """Run a program and print its row of the table, with the ratio of its time to ``first``, or 1 when None."""
    began = time.process_time()
    with counted() as passes:
        w = program.run(passes)
    seconds = program.before + time.process_time() - began
    reached = problem.objective.gradient(w, problem.samples).norm().item()
    counts = f"{passes.gradients:10} {passes.products:9} {passes.stochastic:11}"
    ratio, whether = 1.0 if first is None else seconds / first, "yes" if reached <= problem.tolerance else "no"
    print(f"{program.name:<36} {seconds:8.1f} {ratio:7.2f} {counts} {reached:10.2e} {whether:>8}", flush=True)
    return seconds


def compare(problem: Problem, only: str) -> None:
    """Run ours and the programs whose names contain ``only``, and print the table."""
    l2, threads = problem.objective.l2, torch.get_num_threads()
    print(f"{len(problem.samples):,} rows, {problem.objective.size:,} weights, l2 = {l2:g}, Δ = {problem.budget:g}")
    print(f"‖∇L‖ is to reach {problem.tolerance:g}; {threads} threads; seconds are the processor's")
    began = time.process_time()
    moments = moments_of(problem.samples)
    known = time.process_time() - began
    print(f"{known:.1f} s of every row with the whole preconditioner are the decomposition of A")
    print(f"{'program':<36}  seconds   ratio  gradients  products  stochastic       ‖∇L‖  reached", flush=True)
    ours, *others = programs(problem, moments, known)
    first = seconds_of(problem, ours, None)
    for program in (*others, *timed_programs(problem, moments, known, first)):
        if only in program.name:
            seconds_of(problem, program, first)


def main() -> None:
    """Compute the features, run all programs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--l2", type=float, default=1e-6)
    parser.add_argument("--budget", type=float, default=1e-2)
    parser.add_argument("--features", type=Path, default=Path("runs") / "features", help="folder that keeps features")
    parser.add_argument("--only", default="", help="run ours, and programs whose names contain this")
    options = parser.parse_args()
    dataset = datasets.load("mnist", torch.device("cpu"))
    mapped = features(dataset.train.subset(torch.arange(options.rows)), FEATURES, options.features)
    # In memory, so that no program waits for the disk.
    samples = replace(mapped, inputs=mapped.inputs.clone())
    model = LogisticRegression(samples.inputs.shape[1], dataset.classes).double()
    compare(Problem(Objective(model, l2=options.l2), samples, options.budget), options.only)


if __name__ == "__main__":
    main()
