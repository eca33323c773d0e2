"""The convex problems: their constants against dense derivatives, their minimisers against other libraries."""

import math
from dataclasses import replace
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression as SklearnRegression
from torch.func import hessian, jvp
from torch.nn.functional import cross_entropy

from cdu.certification import convex, newton_bound, residual_bound, sequential_bound
from cdu.certification.rounding import norm_rounding, softmax_gradient_rounding, squared_gradient_rounding
from cdu.curvature import minimise
from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.data import features
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models import losses
from cdu.models.architectures import LogisticRegression
from cdu.models.objective import Objective
from cdu.models.training import project
from cdu.unlearning import convex_deletions
from conftest import network, random_samples

FEATURES, CLASSES, L2 = 4, 3, 0.05


def problem(seed=0, count=40, features=FEATURES, classes=CLASSES, l2=L2, norm=1.0, loss=None):
    """Linear outputs with a bias, on Gaussian rows no longer than ``norm``; labels follow the rows, with noise."""
    draws = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, features, dtype=torch.float64, generator=draws)
    truth = torch.randn(features, classes, dtype=torch.float64, generator=draws)
    noise = torch.randn(count, classes, dtype=torch.float64, generator=draws)
    rows = rows * (norm / rows.norm(dim=1, keepdim=True)).clamp(max=1.0)
    samples = Samples(rows, (3 * rows @ truth + noise).argmax(dim=1), dtype=torch.float64)
    linear = LogisticRegression(features, classes).double()
    objective = Objective(linear, l2=l2) if loss is None else Objective(linear, loss, l2=l2)
    return objective, samples


def point(objective, seed, scale=1.0):
    return scale * torch.randn(objective.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def value(objective, samples):
    """L as one differentiable function of w."""

    def loss(w):
        return objective.batch_loss(w, samples.inputs, samples.targets) + objective.l2 / 2 * w.square().sum()

    return loss


def largest(matrix):
    return torch.linalg.matrix_norm(matrix, 2).item()


def without(samples, count):
    """D_r and D_u: the first ``count`` rows are forgotten."""
    return samples.subset(torch.arange(count, len(samples))), samples.subset(torch.arange(count))


# --- constants -----------------------------------------------------------------------------------------------------

CASES = {"softmax": (None, convex.softmax_constants), "ridge": (losses.squared_error, convex.ridge_constants)}


def constants_of(kind, norm, l2, classes):
    return convex.ridge_constants(norm, l2) if kind == "ridge" else convex.softmax_constants(norm, l2, classes)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("norm", [0.3, 5.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_no_hessian_is_above_l_and_none_changes_faster_than_m(kind, norm, classes):
    for seed in range(2):
        objective, samples = problem(seed, 1 + 4 * seed, classes=classes, norm=norm, loss=CASES[kind][0])
        known = constants_of(kind, norm, L2, classes)
        curvature = hessian(value(objective, samples))
        for scale in (0.1, 3.0):
            w, v = point(objective, seed, scale), point(objective, seed + 99)
            here = torch.linalg.eigvalsh(curvature(w))
            assert here[-1] <= known.gradient_lipschitz * (1 + 1e-12)
            assert here[0] >= known.strong_convexity * (1 - 1e-9)
            for step in (1e-3, 0.3):
                there = curvature(w + step * v / v.norm())
                assert largest(there - curvature(w)) <= known.hessian_lipschitz * step + 1e-12


@pytest.mark.parametrize("norm", [0.0, 0.3, 1.0, 5.0])
def test_l_and_m_of_softmax_are_attained_by_two_classes_and_one_row(norm):
    objective, samples = problem(1, 1, classes=2)
    row = samples.inputs * (norm / samples.inputs.norm())
    samples = Samples(row, samples.targets, dtype=torch.float64)
    known = convex.softmax_constants(norm, L2, 2)
    loss = value(objective, samples)

    at_zero = torch.linalg.eigvalsh(hessian(loss)(torch.zeros(objective.size, dtype=torch.float64)))
    assert at_zero[-1].item() == pytest.approx(known.gradient_lipschitz, rel=1e-12)

    # Along v both logits part at the rate √2·B; p(1 − p)(1 − 2p) is largest at p = (3 − √3)/6.
    reach = math.hypot(norm, 1.0)
    v = torch.cat([row[0], -row[0], torch.tensor([1.0, -1.0], dtype=torch.float64)]) / (math.sqrt(2) * reach)
    chance = (3 - math.sqrt(3)) / 6
    w = math.log(chance / (1 - chance)) / (math.sqrt(2) * reach) * v

    def along(function):
        return lambda w: jvp(function, (w,), (v,))[1]

    third = along(along(along(loss)))(w).item()
    assert v.norm().item() == pytest.approx(1)
    assert third == pytest.approx(known.hessian_lipschitz, rel=1e-10)


@pytest.mark.parametrize("norm", [0.3, 1.0, 5.0])
def test_l_of_ridge_is_attained_and_its_hessian_is_the_same_everywhere(norm):
    objective, samples = problem(0, 1, loss=losses.squared_error)
    samples = Samples(samples.inputs * (norm / samples.inputs.norm()), samples.targets, dtype=torch.float64)
    known = convex.ridge_constants(norm, L2)
    here, there = (hessian(value(objective, samples))(point(objective, seed)) for seed in (0, 1))
    assert torch.linalg.eigvalsh(here)[-1].item() == pytest.approx(known.gradient_lipschitz, rel=1e-12)
    assert torch.allclose(here, there, atol=1e-14)
    assert known.hessian_lipschitz == 0


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("l2", [1e-3, 0.05, 10.0])
def test_every_minimiser_lies_in_the_ball(kind, l2):
    for seed in range(3):
        objective, samples = problem(seed, l2=l2, norm=5.0, loss=CASES[kind][0])
        start = torch.zeros(objective.size, dtype=torch.float64)
        known = constants_of(kind, 5.0, l2, CLASSES)
        assert minimise.minimise(objective, samples, start, 1e-10).w.norm() <= known.radius
        # The argument behind C: (l2/2)C² is the loss at zero.
        assert objective.loss(start, samples) == pytest.approx(l2 / 2 * known.radius**2)


@given(norm=st.floats(0, 100), l2=st.floats(1e-6, 10), classes=st.integers(2, 100), factor=st.floats(1.1, 10))
def test_constants_move_as_their_formulas_say(norm, l2, classes, factor):
    for kind in CASES:
        base = constants_of(kind, norm, l2, classes)
        longer = constants_of(kind, math.sqrt(factor**2 * (norm**2 + 1) - 1), l2, classes)
        assert longer.radius == base.radius
        assert longer.gradient_lipschitz - l2 == pytest.approx(factor**2 * (base.gradient_lipschitz - l2), rel=1e-4)
        assert longer.hessian_lipschitz == pytest.approx(factor**3 * base.hessian_lipschitz, rel=1e-4)
        assert constants_of(kind, norm, l2 * factor, classes).radius < base.radius
        assert base.strong_convexity == l2


# --- losses and inputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_squared_error_is_half_the_squared_distance_to_the_label(seed):
    objective, samples = problem(seed, loss=losses.squared_error)
    w = point(objective, seed)
    outputs = objective.outputs(w, samples).numpy()
    wanted = np.eye(CLASSES)[samples.targets.numpy()]
    expected = np.mean(np.sum((outputs - wanted) ** 2, axis=1)) / 2
    assert objective.mean_loss(w, samples) == pytest.approx(expected, rel=1e-12)


def down(rows, seed=0):
    """Images of which some are dark, so that their rows are short."""
    images = random_samples((1, 4, 4), rows, seed)
    images.inputs[::2] //= 64
    return images


@settings(max_examples=30)
@given(norm=st.floats(1e-3, 10), seed=st.integers(0, 1000))
def test_clipping_shortens_long_rows_and_leaves_short_ones(norm, seed):
    images = down(12, seed)
    flat, rows = features.flat_pixels(images).inputs, features.clipped(images, norm).inputs
    lengths = flat.norm(dim=1)
    assert rows.dtype == torch.float64
    assert (rows.norm(dim=1) <= norm * (1 + 1e-14)).all()
    assert torch.equal(rows[lengths <= norm], flat[lengths <= norm])
    assert torch.allclose(rows * lengths.unsqueeze(1), flat * rows.norm(dim=1, keepdim=True), atol=1e-13)
    assert torch.allclose(rows[lengths > norm].norm(dim=1), torch.tensor(norm, dtype=torch.float64))


def test_a_black_image_is_clipped_to_itself():
    images = random_samples((1, 4, 4), 3, 0)
    images.inputs.zero_()
    assert torch.equal(features.clipped(images, 10.0).inputs, torch.zeros(3, 16, dtype=torch.float64))


def test_flat_pixels_are_the_pixels_over_the_largest_value():
    images = random_samples((3, 4, 4), 5, 0)
    rows = features.flat_pixels(images)
    assert np.array_equal(rows.inputs.numpy(), images.inputs.numpy().reshape(5, -1) / 255.0)
    assert torch.equal(rows.batch(slice(0, 5))[0], rows.inputs)
    assert torch.equal(rows.targets, images.targets)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 12)])
def test_random_features_of_an_image_depend_on_that_image_alone(shape):
    images = random_samples(shape, 11, 0)
    together = features.random_features(images, 5).inputs
    assert together.shape == (11, 5 * 16)
    assert together.dtype == torch.float64
    assert torch.equal(features.random_features(images, 5).inputs, together)
    assert torch.allclose(features.random_features(images, 5, chunk=3).inputs, together, rtol=0, atol=1e-13)
    for row in (0, 10):
        alone = features.random_features(images.subset(torch.tensor([row])), 5).inputs
        assert torch.allclose(alone[0], together[row], rtol=0, atol=1e-13)
    others = random_samples(shape, 11, 1)
    others.inputs[4] = images.inputs[4]
    assert torch.allclose(features.random_features(others, 5).inputs[4], together[4], rtol=0, atol=1e-13)
    assert not torch.allclose(features.random_features(others, 5).inputs[5], together[5], atol=1e-3)


def test_random_features_of_a_flat_image_vanish_away_from_the_border():
    # The filters are centred: inside a grey image they see nothing.
    images = random_samples((1, 20, 20), 1, 0)
    images.inputs.fill_(77)
    rows = features.random_features(images, 6, cells=4).inputs.view(6, 4, 4)
    assert rows[:, 1:-1, 1:-1].abs().max() < 1e-13
    assert rows[:, 0].abs().max() > 1e-3


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.3, 1.0])
def test_downweighting_moves_the_gradient_from_d_to_d_r(seed, share):
    plain, samples = problem(seed)
    weighted = Objective(plain.model, losses.weighted_cross_entropy, l2=L2, chunk=7)
    retain, forget = without(samples, 9)
    mixed = losses.downweighted(retain, forget, share)
    w = point(plain, seed)
    assert len(mixed) == len(samples)
    assert mixed.targets[:, 1].mean().item() == pytest.approx(1)

    sums = [len(part) * (plain.gradient(w, part) - L2 * w) for part in (retain, forget)]
    mass = len(retain) + (1 - share) * len(forget)
    expected = (sums[0] + (1 - share) * sums[1]) / mass + L2 * w
    assert torch.allclose(weighted.gradient(w, mixed), expected, atol=1e-13)
    if share in (0.0, 1.0):
        whole = samples if share == 0 else retain
        assert torch.allclose(weighted.gradient(w, mixed), plain.gradient(w, whole), atol=1e-13)


# --- minimisation --------------------------------------------------------------------------------------------------


def minimum(objective, samples, tolerance=1e-11, **keys):
    return minimise.minimise(objective, samples, torch.zeros(objective.size, dtype=torch.float64), tolerance, **keys)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_the_minimiser_is_scikit_learns(seed, l2):
    objective, samples = problem(seed, 60, l2=l2)
    # A column of ones in place of its intercept, so that the bias is penalised here too.
    design = np.hstack([samples.inputs.numpy(), np.ones((60, 1))])
    other = SklearnRegression(C=1 / (60 * l2), fit_intercept=False, solver="newton-cg", tol=1e-10, max_iter=1000).fit(
        design, samples.targets.numpy()
    )
    assert len(other.classes_) == CLASSES
    expected = np.concatenate([other.coef_[:, :-1].reshape(-1), other.coef_[:, -1]])
    assert minimum(objective, samples).w.numpy() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_minimiser_is_scipys(seed):
    objective, samples = problem(seed)
    inputs, labels = samples.inputs.numpy(), samples.targets.numpy()

    def loss(w):
        logits = inputs @ w[: CLASSES * FEATURES].reshape(CLASSES, FEATURES).T + w[CLASSES * FEATURES :]
        errors = (softmax(logits, axis=1) - np.eye(CLASSES)[labels]) / len(labels)
        slope = np.concatenate([(errors.T @ inputs).reshape(-1), errors.sum(axis=0)])
        picked = log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
        return -picked.mean() + L2 / 2 * w @ w, slope + L2 * w

    found = minimize(loss, np.zeros(objective.size), jac=True, method="BFGS", options={"gtol": 1e-10})
    assert minimum(objective, samples).w.numpy() == pytest.approx(found.x, abs=1e-7)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_neither_the_start_nor_the_preconditioner_changes_the_minimiser(kind, seed):
    objective, samples = problem(seed, loss=CASES[kind][0])
    reference = minimum(objective, samples)
    assert reference.gradient_norm <= 1e-11
    assert reference.gradient_norm == pytest.approx(objective.gradient(reference.w, samples).norm().item(), abs=1e-15)
    for scale in (1.0, 30.0):
        found = minimise.minimise(objective, samples, point(objective, seed, scale), 1e-11)
        assert (found.w - reference.w).norm() <= 2 * 1e-11 / L2
    if kind == "softmax":
        inverse = minimise.kronecker_preconditioner(objective, reference.w, samples)
        found = minimum(objective, samples, preconditioner=inverse)
        assert (found.w - reference.w).norm() <= 2 * 1e-11 / L2


def test_a_minimiser_is_recognised_without_a_step():
    objective, samples = problem()
    first = minimum(objective, samples)
    again = minimise.minimise(objective, samples, first.w, 1e-11)
    assert first.steps > 0
    assert again.steps == 0
    assert torch.equal(again.w, first.w)


def test_a_tolerance_beyond_float32_is_refused_in_a_sentence():
    objective, samples = problem()
    coarse = Objective(LogisticRegression(FEATURES, CLASSES), l2=L2)
    with pytest.raises(CduError, match=r"stopped at .* above the tolerance 1e-14.*use float64 or a larger tolerance"):
        minimise.minimise(coarse, samples.to(dtype=torch.float32), torch.zeros(objective.size), 1e-14)


def test_too_few_newton_steps_are_reported_in_a_sentence():
    objective, samples = problem()
    with pytest.raises(CduError, match=r"after 1 Newton steps, above the tolerance 1e-11; raise l2 or the tolerance"):
        minimum(objective, samples, max_steps=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_newton_direction_solves_the_dense_system(seed):
    objective, samples = problem(seed)
    w = point(objective, seed)
    gradient = objective.gradient(w, samples)
    expected = torch.linalg.solve(hessian(value(objective, samples))(w), gradient)
    found = minimise.newton_direction(objective, w, samples, gradient, 1e-12)
    assert torch.allclose(found, expected, atol=1e-9)


# --- preconditioner ------------------------------------------------------------------------------------------------


def matrix_of(function, size):
    return torch.stack([function(row) for row in torch.eye(size, dtype=torch.float64)], dim=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_kronecker_preconditioner_is_symmetric_and_positive_definite(seed):
    objective, samples = problem(seed, norm=5.0)
    matrix = matrix_of(minimise.kronecker_preconditioner(objective, point(objective, seed), samples), objective.size)
    assert torch.allclose(matrix, matrix.T, atol=1e-12)
    values = torch.linalg.eigvalsh(matrix)
    assert values[0] > 0
    assert values[-1].item() == pytest.approx(1 / L2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_kronecker_preconditioner_is_exact_where_probabilities_do_not_depend_on_the_row(seed):
    objective, samples = problem(seed, norm=5.0)
    w = torch.zeros(objective.size, dtype=torch.float64)
    w[CLASSES * FEATURES :] = seed * torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)
    matrix = matrix_of(minimise.kronecker_preconditioner(objective, w, samples), objective.size)
    curvature = hessian(value(objective, samples))
    assert torch.allclose(matrix @ curvature(w), torch.eye(objective.size, dtype=torch.float64), atol=1e-10)
    elsewhere = curvature(point(objective, seed, 2.0))
    assert not torch.allclose(matrix @ elsewhere, torch.eye(objective.size, dtype=torch.float64), atol=0.1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_kronecker_preconditioner_saves_steps(seed):
    objective, samples = problem(seed, 200, features=12, l2=1e-6, norm=100.0)
    scaled = Samples(samples.inputs * torch.logspace(0, -3, 12), samples.targets, dtype=torch.float64)
    w = point(objective, seed, 0.1)
    operator, gradient = Hessian(objective, w, scaled), objective.gradient(w, scaled)
    inverse = minimise.kronecker_preconditioner(objective, w, scaled)
    plain = conjugate_gradient(operator, gradient, 1e-8, 5000)
    helped = conjugate_gradient(operator, gradient, 1e-8, 5000, inverse)
    assert plain.converged
    assert helped.converged
    assert len(helped.curve) < len(plain.curve) / 2
    expected = torch.linalg.solve(operator.dense(), gradient)
    assert (helped.x - expected).norm() < 1e-2 * expected.norm()


# --- deletion ------------------------------------------------------------------------------------------------------


def others():
    """A forget set of samples that no retain set here has."""
    return problem(99)[1].subset(torch.arange(3))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 10])
def test_the_residual_over_l2_is_never_less_than_the_distance_to_retraining(seed, size):
    objective, samples = problem(seed, l2=0.01)
    w_star = minimum(objective, samples).w
    retain, forget = without(samples, size)
    exact = minimum(objective, retain, 1e-13)
    found = convex_deletions.deletions(objective, w_star, retain, forget, 3, 1.0)
    assert [deletion.steps for deletion in found] == [0, 1, 2, 3]
    assert torch.equal(found[0].iterate, w_star)
    known = convex.softmax_constants(1.0, 0.01, CLASSES)
    for deletion in found:
        residual = objective.gradient(deletion.iterate, retain).norm().item()
        assert deletion.residual == pytest.approx(residual, rel=1e-12, abs=1e-16)
        distance = (deletion.iterate - exact.w).norm().item()
        assert distance <= deletion.residual / 0.01 + exact.gradient_norm / 0.01
        assert distance >= (deletion.residual - exact.gradient_norm) / known.gradient_lipschitz
    # A Newton step leaves at most (M/2)‖step‖² of the gradient, and what conjugate gradient left.
    for before, after in pairwise(found):
        step = (after.iterate - before.iterate).norm().item()
        assert after.residual <= known.hessian_lipschitz / 2 * step**2 + 1e-5 * before.residual + 1e-15


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_first_step_leaves_an_error_of_second_order(seed):
    plain, samples = problem(seed, l2=0.01)
    objective = Objective(plain.model, losses.weighted_cross_entropy, l2=0.01)
    w_star = minimum(plain, samples, 1e-13).w
    retain, forget = without(samples, 5)
    errors = []
    for share in (0.125, 0.0625):
        mixed = losses.downweighted(retain, forget, share)
        exact = minimise.minimise(objective, mixed, w_star, 1e-13).w
        errors.append(
            [
                (one.iterate - exact).norm().item()
                for one in convex_deletions.deletions(objective, w_star, mixed, forget, 1, 1)
            ]
        )
    (before, after), (before_half, after_half) = errors
    assert math.log2(before / before_half) == pytest.approx(1, abs=0.1)
    assert math.log2(after / after_half) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_request_falls_back_exactly_when_its_residual_is_above_the_budget(seed):
    objective, samples = problem(seed)
    w_star = minimum(objective, samples).w
    retain, forget = without(samples, 10)
    first = convex_deletions.deletions(objective, w_star, retain, forget, 2, 1.0)
    distances = [deletion.distance for deletion in first]
    assert distances[0] > distances[1] > distances[2]
    for deletion in first:
        # Rounding is allowed for, and allowed for no more than it can be.
        assert 0 < deletion.distance - deletion.residual / L2 < 1e-10
    for number, distance in enumerate(distances):
        for budget, flags in (
            (distance, [True] * number + [False] * (3 - number)),
            (np.nextafter(distance, 0), [True] * (number + 1) + [False] * (2 - number)),
        ):
            found = convex_deletions.deletions(objective, w_star, retain, forget, 2, float(budget))
            assert [deletion.fallback for deletion in found] == flags


def exact_gradient(objective, w, samples, kind):
    """∇L(w, S) in 40 digits, of exactly these doubles."""
    with mpmath.workdps(40):
        weights = w[: CLASSES * FEATURES].view(CLASSES, FEATURES).tolist()
        total = [mpmath.mpf(0)] * objective.size
        labels = samples.targets.tolist()
        for x, target in zip(samples.inputs.tolist(), labels, strict=True):
            label, weight = target if kind == "weighted" else (target, 1.0)
            biases = w[CLASSES * FEATURES :].tolist()
            logits = [mpmath.fdot(row, x) + mpmath.mpf(bias) for row, bias in zip(weights, biases, strict=True)]
            if kind != "ridge":
                powers = [mpmath.exp(logit) for logit in logits]
                logits = [power / mpmath.fsum(powers) for power in powers]
            for k, found in enumerate(logits):
                error = weight * (found - (k == label)) / len(labels)
                for place, pixel in [*((k * FEATURES + j, x[j]) for j in range(FEATURES)), (CLASSES * FEATURES + k, 1)]:
                    total[place] += error * pixel
        return [entry + mpmath.mpf(L2) * mpmath.mpf(value) for entry, value in zip(total, w.tolist(), strict=True)]


@pytest.mark.parametrize("heaviest", [0.5, 3.0])
@pytest.mark.parametrize("kind", ["softmax", "ridge", "weighted"])
def test_a_gradients_rounding_is_that_of_the_longest_row_the_weights_and_the_heaviest_sample(kind, heaviest):
    _, samples = problem(norm=2.0)
    loss = {"softmax": cross_entropy, "ridge": losses.squared_error, "weighted": losses.weighted_cross_entropy}[kind]
    objective = Objective(LogisticRegression(FEATURES, CLASSES).double(), loss, l2=L2)
    w = point(objective, 1)
    if kind == "weighted":
        weights = torch.linspace(0.1, heaviest, len(samples), dtype=torch.float64)
        samples = replace(samples, targets=torch.stack([samples.targets.double(), weights], dim=1))
    longest, length = np.linalg.norm(samples.inputs.numpy(), axis=1).max(), np.linalg.norm(w.numpy())
    if kind == "ridge":
        expected = squared_gradient_rounding(longest, length, L2, FEATURES, 40, 2.0**-53)
    else:
        expected = softmax_gradient_rounding(longest, length, L2, FEATURES, CLASSES, 40, 2.0**-53)
        # A weight below 1 leaves what is proven for weights of 1.
        expected *= 3 if kind == "weighted" and heaviest == 3 else 1
    allowed = convex.gradient_rounding(objective, w, samples)
    assert allowed == pytest.approx(expected, rel=1e-13, abs=0)
    exact, found = exact_gradient(objective, w, samples, kind), objective.gradient(w, samples).tolist()
    with mpmath.workdps(40):
        measured = mpmath.norm([a - mpmath.mpf(b) for a, b in zip(exact, found, strict=True)])
    assert 0 < measured <= allowed


def test_what_is_held_against_the_budget_is_the_residual_and_all_that_rounding_may_hide_of_it():
    objective, samples = problem()
    retain, forget = without(samples, 10)
    for deletion in convex_deletions.deletions(objective, minimum(objective, samples).w, retain, forget, 2, 1.0):
        hidden = convex.gradient_rounding(objective, deletion.iterate, retain)
        shown = deletion.residual * (1 + norm_rounding(objective.size))
        assert deletion.distance == pytest.approx((shown + hidden) / L2, rel=4e-16, abs=0)


def test_only_a_linear_model_with_a_known_loss_is_deleted_from_by_its_residual():
    objective, w, samples = network("smooth mlp", count=40)
    parts = samples.subset(torch.arange(1, 40)), samples.subset(torch.arange(1))
    with pytest.raises(CduError, match="not known to be convex; give a LogisticRegression"):
        convex_deletions.deletions(Objective(objective.model, l2=0.1), w, *parts, 1, 1.0)
    plain, samples = problem()
    scaled = Objective(plain.model, lambda outputs, targets: 3 * cross_entropy(outputs, targets), l2=L2)
    with pytest.raises(CduError, match="is not one whose rounding is known"):
        convex_deletions.deletions(scaled, minimum(plain, samples).w, samples, others(), 1, 1.0)


def test_a_deleted_sample_that_is_still_retained_is_no_deletion():
    objective, samples = problem()
    retain, forget = without(samples, 10)
    w_star = minimum(objective, samples).w
    with pytest.raises(CduError, match="10 of the 10 samples to forget are still in the retain set"):
        convex_deletions.deletions(objective, w_star, samples, forget, 1, 1.0)
    left = retain.joined(forget.subset(torch.tensor([4])))
    with pytest.raises(CduError, match="the first is forget row 4"):
        convex_deletions.deletions(objective, w_star, left, forget, 1, 1.0)


def test_deletions_with_a_preconditioner_reach_the_same_model():
    objective, samples = problem()
    w_star = minimum(objective, samples).w
    retain, forget = without(samples, 10)
    inverse = minimise.kronecker_preconditioner(objective, w_star, samples)
    exact = minimum(objective, retain, 1e-13).w
    for preconditioner in (None, inverse):
        last = convex_deletions.deletions(objective, w_star, retain, forget, 3, 1.0, preconditioner)[-1]
        assert (last.iterate - exact).norm() < 1e-8


def summed(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="sum")


def test_no_step_at_all_leaves_the_start_with_its_residual():
    objective, samples = problem()
    w = point(objective, 0)
    (only,) = convex_deletions.deletions(objective, w, samples, others(), 0, 1.0)
    assert only.steps == 0
    assert torch.equal(only.iterate, w)
    assert only.residual == pytest.approx(objective.gradient(w, samples).norm().item())


def test_single_precision_is_refused_where_a_residual_is_to_prove_something():
    objective, samples = problem()
    single = Objective(LogisticRegression(FEATURES, CLASSES), l2=L2)
    with pytest.raises(CduError, match=r"type torch.float32, whose rounding a residual does not show"):
        convex_deletions.deletions(
            single, point(objective, 0).float(), samples.to(dtype=torch.float32), others(), 1, 1.0
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": math.nan}, "budget = nan is not a positive finite number"),
        ({"budget": 0.0}, "budget = 0.0"),
        ({"budget": math.inf}, "budget = inf"),
        ({"l2": 0.0}, "l2 = 0.0 bounds no distance"),
        ({"scale": math.nan}, "the loss of 8 samples is not finite: .* look for NaN in the weights"),
        ({"missing": 1}, "1 rows of the retain set hold NaN or infinite numbers, the first is row 1"),
        ({"steps": -1}, "steps = -1 is below 0"),
        ({"loss": summed}, "give a loss that is the mean over its batch"),
    ],
)
def test_no_deletion_is_declared_within_a_budget_that_cannot_be_checked(change, words):
    objective, samples = problem(l2=change.get("l2", L2), loss=change.get("loss"))
    w = point(objective, 0, change.get("scale", 1.0))
    samples.inputs[1 : 1 + change.get("missing", 0)] = math.nan
    with pytest.raises(CduError, match=words):
        convex_deletions.deletions(objective, w, samples, others(), change.get("steps", 1), change.get("budget", 1.0))


def test_ridge_is_deleted_in_one_step():
    objective, samples = problem(loss=losses.squared_error)
    retain, forget = without(samples, 10)
    found = convex_deletions.deletions(objective, minimum(objective, samples).w, retain, forget, 1, 1.0)
    assert found[1].residual <= 1.1e-5 * found[0].residual


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["softmax", "ridge"])
def test_theorem_3_4_with_known_constants_holds_at_every_damping(kind, seed):
    loss = losses.squared_error if kind == "ridge" else None
    objective, samples = problem(seed, loss=loss)
    known = constants_of(kind, 1.0, L2, CLASSES)
    w_star = minimum(objective, samples).w
    retain, _ = without(samples, 10)
    exact = minimum(objective, retain, 1e-12)
    hessian, gradient = Hessian(objective, w_star, retain), objective.gradient(w_star, retain)
    for damping in (0.0, 0.01, 0.1, 1.0, 100.0):
        step = conjugate_gradient(hessian + damping, gradient, 1e-13).x
        bound = newton_bound(
            known.radius, known.hessian_lipschitz, damping, known.strong_convexity, fixed_in_advance=True
        )
        distance = (w_star - step - exact.w).norm().item()
        assert distance <= bound.value + 1e-9
        assert distance < 2 * known.radius


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_bound_of_a_sequence_holds_at_every_request(seed):
    objective, samples = problem(seed)
    known = constants_of("softmax", 1.0, L2, CLASSES)
    w, steps = minimum(objective, samples).w, []
    for forgotten in (3, 6, 9, 12):
        retain, _ = without(samples, forgotten)
        w = project(
            w - minimise.newton_direction(objective, w, retain, objective.gradient(w, retain), 1e-12), known.radius
        )
        steps.append(newton_bound(known.radius, known.hessian_lipschitz, 0.0, known.strong_convexity))
        exact = minimum(objective, retain, 1e-12).w
        residual = objective.gradient(w, retain).norm().item()
        assert (w - exact).norm().item() <= residual_bound(residual, L2, 1e-12).value
        assert (w - exact).norm().item() <= sequential_bound(steps).value
