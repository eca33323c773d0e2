"""What floating point adds to a distance: every bound beside what is measured against float64 or exact arithmetic."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch.nn.functional import cross_entropy

from cdu.certification import budget_bound, certify, gaussian_epsilon, trivial_bound
from cdu.certification.amplification import coupled_distance, langevin_bound, noisy_fine_tuning_bound
from cdu.certification.rounding import (
    UNIT,
    ball_rounding,
    computed,
    descent_rounding,
    gamma,
    norm_rounding,
    projection_rounding,
    softmax_gradient_rounding,
    squared_gradient_rounding,
    step_rounding,
)
from cdu.data.datasets import load
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.experiments.records import read_record
from cdu.experiments.repository import repository
from cdu.models import losses
from cdu.models.architectures import LogisticRegression
from cdu.models.objective import Objective, parameter_vector
from cdu.models.training import project
from cdu.seeding import generator
from cdu.unlearning.methods.certified_removal import CertifiedRemoval
from cdu.unlearning.methods.fixed_features import GRADIENT_NORM, NORM, LinearTask
from cdu.unlearning.methods.langevin import Langevin
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.rewind import RewindLinear, descend
from cdu.unlearning.noise import draw_noise, noise_norm
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.references import reference
from cdu.unlearning.release import distance_bound, publish, publish_at


def digits_problem(dtype=torch.float32, forget=100):
    """Digits as the experiments have them: a network in single precision, of which the linear methods use nothing."""
    samples = load("digits").train.to(dtype=dtype)
    model = LogisticRegression(64, 10).to(dtype)
    retain, gone = samples.subset(torch.arange(forget, 1497)), samples.subset(torch.arange(forget))
    return Problem(Objective(model, l2=0.01), parameter_vector(model), retain, gone, 5.0, None, 0)


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 2), min_size=1, max_size=60))
@settings(deadline=None)
def test_no_sum_of_products_is_off_by_more_than_gamma(pairs):
    left, right = (np.array(side, dtype=np.float32) for side in zip(*pairs, strict=True))
    exact = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(left, right, strict=True))
    scale = sum(abs(Fraction(float(a)) * Fraction(float(b))) for a, b in zip(left, right, strict=True))
    running = np.float32(0)
    for a, b in zip(left, right, strict=True):
        running = np.float32(running + a * b)
    # Products below the smallest normal number lose more than a relative share.
    allowed = gamma(len(left), UNIT["float32"]) * scale + Fraction(2.0**-140) * len(left)
    assert abs(Fraction(float(running)) - exact) <= allowed


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("kind", "length"), [("softmax", 0.0), ("softmax", 3.0), ("softmax", 200.0), ("ridge", 3.0)])
def test_a_gradient_in_single_precision_is_within_its_bound_of_the_one_in_double(seed, kind, length):
    source, l2, features, classes, count = generator(seed), 0.01, 30, 7, 400
    inputs = torch.randn(count, features, generator=source)
    inputs = inputs / inputs.norm(dim=1, keepdim=True).clamp(min=1) * 0.999
    targets = torch.randint(classes, (count,), generator=source)
    w = torch.randn(classes * (features + 1), generator=source)
    w = w * (length / w.norm())
    loss = cross_entropy if kind == "softmax" else losses.squared_error

    def gradient(dtype):
        objective = Objective(LogisticRegression(features, classes).to(dtype), loss, l2=l2)
        return objective.gradient(w.to(dtype), Samples(inputs.to(dtype), targets, dtype=dtype)).double()

    measured = (gradient(torch.float32) - gradient(torch.float64)).norm().item()
    known = (1.0, w.double().norm().item(), l2, features)
    unit = UNIT["float32"]
    bound = (
        softmax_gradient_rounding(*known, classes, count, unit)
        if kind == "softmax"
        else squared_gradient_rounding(*known, count, unit)
    )
    assert 0 < measured <= bound
    # A bound that is far too large would refuse what could be certified.
    assert bound < 2e4 * measured


def test_the_bounds_are_those_that_the_derivation_ends_with():
    """Worst cases are never met, so that no measurement tells a term that is missing: each is taken alone."""
    u, more = 2.0**-53, 1.05
    assert gamma(1000, 1e-5) == pytest.approx(0.01 / 0.99, rel=1e-14)
    with pytest.raises(CduError, match="no proven digits"):
        gamma(1001, 1e-5)
    assert norm_rounding(98) == gamma(100, u)
    # Without weights: the softmax's own error for K = 10, and the mean over n = 92 rows of norms √2·B.
    known = {"l2": 0.5, "features": 99, "classes": 10, "samples": 92, "unit": u}
    for norm in (0.0, 3.0):
        reach = math.sqrt(norm**2 + 1)
        summed = 100 * u * math.sqrt(2) * reach
        still = softmax_gradient_rounding(norm, 0.0, **known)
        assert still == pytest.approx(more * (reach * u * (10 + 16) + summed), rel=1e-9)
        # Weights of norm R: half of the logits' error, the softmax's, and the l2 term's part in the sum.
        moved = softmax_gradient_rounding(norm, 2.0, **known) - still
        terms = reach * (100 * u * reach * 2 / 2 + u * 8 * reach * 2) + 100 * u * 0.5 * 2
        assert moved == pytest.approx(more * terms, rel=1e-9)
        # Ridge: the residual is at most BR + 1.
        residual = reach * 2 + 1
        found = squared_gradient_rounding(norm, 2.0, 0.5, 98, 92, u)
        expected = reach * 100 * u * residual + 100 * u * (residual * reach + 0.5 * 2)
        assert found == pytest.approx(more * expected, rel=1e-9)
    assert step_rounding(1e-9, 0.5, 0.0, 0.0, u) == 0.5e-9
    assert step_rounding(0.0, 0.5, 3.0, 8.0, u) == pytest.approx(8 * u * (3 + 4), rel=1e-14)
    assert descent_rounding(1.0, 0.5, 3) == pytest.approx(more * 1.75, rel=1e-14)
    assert descent_rounding(1.0, 1.0, 3) == pytest.approx(more * 3, rel=1e-14)
    assert ball_rounding(2.0, 98) == 2 * gamma(100, u)
    assert projection_rounding(2.0, "float32") == 16 * 2.0**-24


def test_two_runs_with_the_same_noise_end_as_far_apart_as_their_steps_allow():
    fine_tuning = noisy_fine_tuning_bound(1.5, 0.2, 0.1, 2.0, 3)
    assert coupled_distance(fine_tuning) == pytest.approx(3 * 0.8**3 + 0.04 * (1 + 0.8 + 0.64), rel=1e-14)
    langevin = langevin_bound(0.04, 0.8, 3, 2)
    assert coupled_distance(langevin) == pytest.approx(0.04 * (1 + 0.8 + 0.64) * 0.64, rel=1e-14)
    # No farther than the ball is wide when training ends.
    assert coupled_distance(langevin_bound(10.0, 0.8, 3, 2, 1.0)) == pytest.approx(2 * 0.64, rel=1e-14)


@pytest.mark.parametrize("steps", [1, 20, 150])
def test_a_descent_in_single_precision_is_within_its_bound_of_the_one_in_double(steps):
    rate, l2, task = 1.6, 0.1, LinearTask(digits_problem(), 4, 0.1)
    double = descend(task.objective, task.zeros(), task.everything, steps, rate, math.inf)
    single = Objective(LogisticRegression(64, 10), l2=l2)
    rows = task.everything.to(dtype=torch.float32)
    found = descend(single, task.zeros().float(), rows, steps, rate, math.inf).double()
    unit, radius = UNIT["float32"], task.constants.radius
    gradient = softmax_gradient_rounding(NORM, 3 * radius, l2, 64, 10, len(rows), unit)
    # The rows too are rounded to single precision.
    gradient += 3 * unit * (1 + 3 * radius)
    step = step_rounding(gradient, rate, 3 * radius, GRADIENT_NORM + l2 * 3 * radius, unit)
    bound = descent_rounding(step, 1 - rate * l2, steps)
    assert 0 < (found - double).norm().item() <= bound < 0.1


def test_rewinding_in_single_precision_was_no_certificate_and_in_double_it_is():
    """The pair that was found: a Δ of the size of single precision's rounding, "ε = 1" printed beside it."""
    problem = digits_problem()
    task, method = LinearTask(problem, 16, 0.1), RewindLinear(0.1, 150, 100, 1.6, 16)
    rows = {name: getattr(task, name).to(dtype=torch.float32) for name in ("everything", "retain")}
    single = Objective(LogisticRegression(256, 10), l2=0.1)
    kept = descend(single, task.zeros().float(), rows["everything"], 50, 1.6, math.inf)
    released = descend(single, kept, rows["retain"], 100, 1.6, math.inf).double()

    update = method(problem, generator(0))
    retrained = reference(method, problem, update, generator(0)).w
    bound = method.bound(len(problem.forget), len(task.everything))
    assert (released - retrained).norm().item() > bound.value
    assert gaussian_epsilon(publish_at(problem, update, generator(0), 1.0).certificate.sigma, 1e-5,
                            (released - retrained).norm().item()) > 1.5  # fmt: skip
    assert update.w.dtype == torch.float64
    assert (update.w - retrained).norm().item() <= bound.value
    certificate = publish_at(problem, update, generator(0), 1.0).certificate
    assert certificate.arithmetic == "float64"
    assert bound.value < certificate.sensitivity < 1.2 * bound.value
    assert certificate.rounding >= 2 * update.rounding > 0


@pytest.mark.parametrize("l2", [0.003, 0.1])
@pytest.mark.parametrize("make", ["rewind", "Langevin", "removal"])
def test_every_linear_method_stays_within_what_it_certifies(make, l2):
    problem = digits_problem()
    method = {
        "rewind": lambda: RewindLinear(l2, 60, 50, 1.6, 4),
        "Langevin": lambda: Langevin(1.0, 1e-5, l2, 1.6, 10, 50, 4),
        "removal": lambda: CertifiedRemoval(l2, 1e-3, 2, 4),
    }[make]()
    update = method(problem, generator(1))
    own = reference(method, problem, update, generator(1))
    measured = (update.w - own.w).norm().item()
    if make == "Langevin":
        assert measured <= coupled_distance(update.bound) + update.bound.rounding
        assert update.certificate.arithmetic == "float64"
        assert update.certificate.epsilon <= 1 + 1e-9
    else:
        assert measured <= distance_bound(problem, update).sensitivity


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projected_weights_lie_within_their_allowance_of_the_ball(dtype):
    for seed in range(20):
        w = torch.randn(5000, generator=generator(seed), dtype=dtype) * 10
        exact = math.sqrt(sum(Fraction(value) ** 2 for value in project(w, 3.0).tolist()))
        assert exact <= 3 + ball_rounding(3.0, len(w))
        name = "float32" if dtype == torch.float32 else "float64"
        shrunk = w.double() * (3 / w.double().norm())
        assert (project(w, 3.0).double() - shrunk).norm().item() <= projection_rounding(3.0, name)
    assert projection_rounding(math.inf, "float32") == 0


def test_a_bound_of_exact_arithmetic_certifies_no_program():
    problem = digits_problem()
    update = Original()(problem, generator(0))
    with pytest.raises(CduError, match="nothing is known of the rounding of its float32 computation"):
        publish(problem, replace(update, bound=budget_bound(0.1)), generator(0), 1.0)
    formula = certify(budget_bound(0.1), 1.0, 1e-5)
    assert "exact: a formula" in str(formula)
    with pytest.raises(CduError, match="has no allowance for rounding"):
        publish(problem, replace(update, certificate=formula), generator(0))
    certificate = publish(problem, update, generator(0), 1.0).certificate
    assert certificate.sensitivity == pytest.approx(10, rel=1e-6)
    assert certificate.rounding == 2 * ball_rounding(5.0, len(update.w)) > 0
    assert f"float32; Δ includes {certificate.rounding:.2g} for rounding" in str(certificate)


def test_noise_below_the_weights_rounding_is_refused_on_every_path():
    problem = digits_problem()
    w = problem.w_star / problem.w_star.abs().max()
    small = UnlearningResult(w, 0.0, bound=budget_bound(1e-8), rounding=0.0, radius=math.inf)
    for path in (
        lambda: publish(problem, small, generator(0), 1e-8),
        lambda: publish_at(problem, small, generator(0), 1.0),
    ):
        with pytest.raises(CduError, match=r"lost in the rounding of torch.float32 weights of up to 1; use float64"):
            path()


def test_half_precision_is_refused():
    problem = digits_problem()
    with pytest.raises(CduError, match=r"of type torch.float16, whose rounding swallows noise"):
        publish(problem, UnlearningResult(problem.w_star.half(), 0.0), generator(0), 1.0)


@given(st.just(0.0) | st.floats(1e-150, 1e3), st.floats(0, 1e-3))
def test_an_allowance_never_lowers_what_noise_must_hide(value, rounding):
    bound = computed(budget_bound(value), "float64", rounding) if value else computed(trivial_bound(1), "float64", 0)
    assert bound.sensitivity >= bound.value
    assert bound.sensitivity >= bound.rounding


def test_allowances_for_steps_grow_with_the_steps_and_vanish_with_rounding():
    for make in (
        lambda rounding: noisy_fine_tuning_bound(1.0, 0.1, 0.1, 0.0, 20, rounding),
        lambda rounding: langevin_bound(0.01, 0.9, 20, 5, 3.0, rounding),
    ):
        assert make(0.0).rounding == 0
        assert 0 < make(1e-9).rounding < make(1e-8).rounding
        assert make(1e-9).value == make(0.0).value


def test_what_has_no_proven_digits_is_refused():
    with pytest.raises(CduError, match="has no proven digits with a unit roundoff of 6e-08; use float64"):
        softmax_gradient_rounding(1.0, 1.0, 0.1, 10, 10, 10**6, UNIT["float32"])
    with pytest.raises(CduError, match="roundings would grow with every step"):
        descent_rounding(1e-9, 1.5, 10)
    assert norm_rounding(100) < 1e-13


def test_noise_is_no_longer_than_noise_can_be(monkeypatch):
    assert draw_noise(torch.zeros(1000, dtype=torch.float64), generator(0)).norm() <= noise_norm(1000)
    draw = torch.randn
    for size in (1, 10, 1000, 10**6):
        # E‖Z‖ ≤ √p and ‖Z‖ is 1-Lipschitz: it exceeds √p + t with a probability below exp(−t²/2), and χ² says how far.
        beyond = noise_norm(size) - math.sqrt(size)
        assert (
            chi2.sf(noise_norm(size) ** 2, size)
            <= math.exp(-(beyond**2) / 2)
            < 1e-31
            < math.exp(-((beyond - 0.1) ** 2) / 2)
        )
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: 10 * draw(*shape, **options))
    with pytest.raises(CduError, match="the generator is broken"):
        draw_noise(torch.zeros(1000), generator(0))
    # In single precision the norm of so many numbers would come out too small.
    many = torch.zeros(10**7)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: many + noise_norm(10**7) / math.sqrt(10**7) * (1 + 1e-6))
    with pytest.raises(CduError, match="the generator is broken"):
        draw_noise(many, generator(0))


def test_no_committed_release_is_farther_from_its_reference_than_certified():
    ratios = {
        (path.parts[-4:], one.method): one.value
        for path in (repository() / "results").glob("*/*/seed-*/03_methods.json")
        for one in read_record(path).metrics
        if one.metric == "distance_ratio"
    }
    assert len(ratios) >= 30
    assert all(ratio is not None and 0 <= ratio <= 1 for ratio in ratios.values())
