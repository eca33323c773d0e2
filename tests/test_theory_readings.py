"""What the checks of the theory yield, against dense references and closed forms, on small problems."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn.functional import cross_entropy

from cdu.certification import gaussian_delta, gaussian_epsilon
from cdu.curvature.hessian import Hessian
from cdu.curvature.minimise import minimise
from cdu.curvature.settings import LissaSettings
from cdu.data.samples import Samples
from cdu.errors import CduError, DamagedFileError
from cdu.evaluation import readings
from cdu.evaluation.readings import Reading, Refusal
from cdu.evaluation.sweeps import log_spaced
from cdu.evaluation.theory_checks import bound, control, early_stopping, newton, noise, requests
from cdu.evaluation.theory_checks.constants import batch_spectra, smallest_eigenvalue
from cdu.evaluation.theory_checks.linear_problem import linear_problem
from cdu.evaluation.theory_checks.lissa import LissaCheck
from cdu.models.settings import TrainingSettings
from cdu.models.training import Trained
from cdu.seeding import generator
from cdu.unlearning.problem import Problem
from conftest import network, random_samples

SEEDS = [0, 1, 2]


def small(seed=0, count=60, l2=0.1):
    """Softmax and ridge regression on images of 4 × 4 pixels."""
    return linear_problem(random_samples((1, 4, 4), count, seed), count, 3, l2, seed)


def deletion(seed=0, name="smooth mlp", gone=6, count=40, radius=None):
    """Forget the first samples of a small network; the retrained model is another point nearby."""
    objective, w, samples = network(name, seed, count=count, chunk=count)
    rows = torch.arange(count)
    apart = 0.1 * torch.randn(len(w), dtype=w.dtype, generator=generator(seed, "apart"))
    retrained = Trained(objective.model, w + apart, [])
    ball = 2 * w.norm().item() if radius is None else radius
    recipe = TrainingSettings(batch_size=8, radius=ball)
    problem = Problem(
        objective, w, samples.subset(rows[gone:]), samples.subset(rows[:gone]), ball, lambda *_: retrained, seed, recipe
    )
    return problem, retrained, samples


def dense(problem):
    return Hessian(problem.objective, problem.w_star, problem.retain).dense()


def by_metric(found):
    """All readings as one list of (metric, value, keys)."""
    return [(metric, value, dict(keys)) for numbers, keys in found for metric, value in numbers.items()]


def values(found, metric):
    return [value for name, value, _ in by_metric(found) if name == metric]


# --- readings ------------------------------------------------------------------------------------------------------


def refuse():
    raise CduError("λ = 0 is too small")


def test_a_refusal_is_a_missing_number_with_its_reason():
    assert readings.outcome(lambda: 3) == 3
    assert readings.outcome(refuse) == Refusal("λ = 0 is too small")
    assert readings.reading("bound", refuse, point=2) == Reading(
        {"bound": None}, {"point": 2, "note": "λ = 0 is too small"}
    )
    assert readings.reading("bound", lambda: 4.0, point=2) == Reading({"bound": 4.0}, {"point": 2})


@pytest.mark.parametrize("error", [DamagedFileError("the file is damaged"), ValueError("a mistake")])
def test_neither_a_damaged_file_nor_a_mistake_is_a_refusal(error):
    def fail():
        raise error

    with pytest.raises(type(error)):
        readings.outcome(fail)


def test_points_on_a_log_axis_have_a_constant_ratio_and_six_digits():
    found = log_spaced(0.01, 1e4, 25)
    assert (found[0], found[-1], len(found)) == (0.01, 1e4, 25)
    assert np.diff(np.log10(found)) == pytest.approx(0.25, abs=1e-5)
    assert all(point == float(f"{point:.6g}") for point in found)


# --- noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-10])
def test_the_classical_formula_adds_too_little_noise_from_the_crossover_on(delta):
    crossover = noise.crossover(delta)
    assert crossover > 1
    for epsilon, enough in ((0.5, True), (0.999 * crossover, True), (1.001 * crossover, False), (100, False)):
        classical = math.sqrt(2 * math.log(1.25 / delta)) / epsilon
        assert (gaussian_delta(epsilon, classical, 1.0) <= delta) == enough
        assert (noise.sigma_ratio(epsilon, delta) >= 1) == enough


def test_the_noise_in_practice_is_read_at_every_delta_and_sigma():
    found = by_metric(noise.classical_and_exact((1e-3, 1e-5), (0.1, 1.0), 3.0))
    assert [metric for metric, *_ in found] == 2 * [*["sigma_ratio"] * 25, "crossover", "epsilon", "epsilon"]
    assert found[-1][1] == gaussian_epsilon(1.0, 1e-5, 3.0)
    assert found[-1][2] == {"method": "σ = 1, δ = 1e-05"}


def test_simulated_releases_differ_from_the_formula_by_a_few_standard_errors():
    scores = [values(noise.simulated_and_exact((0.1, 1.0, 4.0), 1e-2, 20_000, seed), "monte_carlo_z") for seed in SEEDS]
    assert np.shape(scores) == (3, 6)
    assert np.abs(scores).max() < 4.5
    assert np.abs(scores).mean() > 0.2
    assert len(np.unique(scores)) == 18


# --- linear problems and the Newton step ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_a_linear_problem_is_clipped_divided_and_solved(seed):
    problem = small(seed)
    assert problem.samples.inputs.norm(dim=1).max() <= 1 + 1e-12
    assert (len(problem.forget), len(problem.retain)) == (6, 54)
    whole = torch.cat([problem.forget.inputs, problem.retain.inputs])
    assert torch.allclose(whole.sum(dim=0), problem.samples.inputs.sum(dim=0))
    for samples in (problem.samples, problem.retain):
        assert problem.ridge.gradient(problem.w_ridge(samples), samples).norm() < 1e-12
    assert problem.softmax.gradient(problem.w_softmax, problem.samples).norm() <= 1e-11
    assert problem.w_softmax.norm() <= problem.softmax_constants.radius
    assert problem.w_ridge(problem.samples).norm() <= problem.ridge_constants.radius


@pytest.mark.parametrize("seed", SEEDS)
def test_the_step_lands_on_the_retrained_weights_of_ridge_regression(seed):
    found = newton.ridge_check(small(seed))
    assert found["ridge_error"] < 1e-11
    assert found["ridge_distance"] > 1e-3


def scipys_minimum(problem, samples, start):
    def loss(w):
        point = torch.from_numpy(w)
        return problem.softmax.loss(point, samples), problem.softmax.gradient(point, samples).numpy()

    return torch.from_numpy(minimize(loss, start.numpy(), jac=True, method="BFGS", options={"gtol": 1e-10}).x)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_steps_error_is_that_of_the_dense_step_from_scipys_minimum(seed):
    problem = small(seed)
    gradient = problem.softmax.gradient(problem.w_softmax, problem.retain)
    matrix = Hessian(problem.softmax, problem.w_softmax, problem.retain).dense()
    w = problem.w_softmax - torch.linalg.solve(matrix, gradient)
    exact = scipys_minimum(problem, problem.retain, w)
    expected = (w - exact).norm().item()
    assert newton.step_error(problem.softmax, problem.w_softmax, problem.retain) == pytest.approx(expected, rel=1e-3)
    assert newton.share_errors(problem, [1.0])[1.0] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_error_falls_with_the_square_of_the_share(seed):
    fixed = newton.share_errors(small(seed), (0.25, 0.125, 0.0625))
    assert newton.slope([*fixed], [*fixed.values()]) == pytest.approx(2, abs=0.1)


def test_sizes_are_averaged_over_the_orders_and_no_larger_than_the_shortest():
    problem = small()
    orders = newton.forget_orders(problem, 2, 1, 0)
    assert sorted(orders["random"][0].tolist()) == list(range(60))
    assert orders["random"][0].tolist() != orders["random"][1].tolist()
    assert set(problem.samples.targets[orders["one class"][0]].tolist()) == {1}
    found = newton.size_errors(problem, orders["random"], (2, 4, 61))
    assert list(found) == [2, 4]
    errors, sums = [], []
    for order in orders["random"]:
        rows = order[:4]
        errors.append(newton.step_error(problem.softmax, problem.w_softmax, problem.without(rows)))
        each = [problem.softmax.gradient(problem.w_softmax, problem.samples.subset(row[None])) for row in rows]
        sums.append(torch.stack(each).sum(dim=0).norm().item())
    assert found[4]["step_error"] == pytest.approx(np.mean(errors), rel=1e-9)
    assert found[4]["gradient_sum"] == pytest.approx(np.mean(sums), rel=1e-9)


def test_the_second_order_is_read_for_every_kind_of_forget_set():
    problem = small()
    orders = newton.forget_orders(problem, 2, 0, 0)
    found = by_metric(newton.second_order(problem, (1.0, 0.5), orders, (2, 4)))
    assert [metric for metric, *_ in found] == [
        "step_error", "step_error", "slope", *2 * ["step_error", "gradient_sum", "step_error", "gradient_sum", "slope"],
    ]  # fmt: skip
    assert [keys["method"] for metric, _, keys in found if metric == "slope"] == [
        "one fixed set",
        "random",
        "one class",
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_two_forms_differ_by_the_whole_gradient_and_by_nothing_at_the_optimum(seed):
    problem = small(seed)
    found = [*newton.stopped_early(problem, (1e-1, 1e-3))]
    assert [keys["point"] for _, keys in found] == [1e-1, 1e-3, 1e-11]
    assert max(values(found, "forms_unexplained")) < 1e-9
    differences = values(found, "forms_difference")
    assert differences[0] > 10 * differences[1] > 1e3 * differences[2]
    w = problem.start
    matrix = torch.linalg.inv(Hessian(problem.softmax, w, problem.retain).dense())
    by_retain = matrix @ problem.softmax.gradient(w, problem.retain)
    by_forget = -6 / 54 * matrix @ problem.softmax.gradient(w, problem.forget)
    expected = ((by_retain - by_forget).norm() / by_retain.norm()).item()
    assert newton.two_forms(problem, w)["forms_difference"] == pytest.approx(expected, rel=1e-9)


# --- Theorem 3.4 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bound_from_known_constants_holds_and_the_measured_ones_are_the_dense_ones(seed):
    problem = small(seed)
    for name, case in bound.known_cases(problem).items():
        eigenvalues = torch.linalg.eigvalsh(Hessian(case.objective, case.w_star, case.retain).dense())
        measured = case.measured(generator(seed))
        assert measured["lambda_max"] == pytest.approx(eigenvalues[-1].item(), rel=1e-2)
        assert measured["lambda_max"] <= case.constants.gradient_lipschitz
        assert measured["lambda_min"] >= case.constants.strong_convexity - 1e-9
        assert measured["gradient_retrained"] < 1e-11
        assert measured["norm"] <= case.constants.radius
        for damping in (1e-3, 1.0, 1e3):
            found = case.bound_and_distance(damping)
            assert found["distance"] <= found["bound"]
            if name == "ridge":
                known = case.constants
                assert found["bound"] == pytest.approx(2 * known.radius * damping / (damping + known.strong_convexity))
    shapes = [keys for _, keys in bound.known_readings(problem, [1.0], 2, seed)]
    assert [keys.get("split", keys.get("axis", "")) for keys in shapes] == 2 * ["", "damping", "batch 10"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_networks_constants_are_those_of_its_dense_hessian(seed):
    problem, retrained, samples = deletion(seed)
    found = bound.network_constants(problem, retrained, samples, seed)
    eigenvalues = torch.linalg.eigvalsh(dense(problem))
    span = (eigenvalues[-1] - eigenvalues[0]).item()
    assert found.lambda_min == pytest.approx(eigenvalues[0].item(), abs=1e-3 * span)
    assert found.lambda_max == pytest.approx(eigenvalues[-1].item(), abs=1e-3 * span)
    assert found.spectral_norm == max(abs(found.lambda_min), abs(found.lambda_max))
    assert found.gradient_lipschitz >= 0.97 * found.spectral_norm
    assert found.distance_original == pytest.approx((problem.w_star - retrained.w).norm().item())
    slope = problem.objective.gradient(retrained.w, problem.retain).norm().item()
    assert found.gradient_retrained == pytest.approx(slope)
    expected = (2 * 5.0 * (found.hessian_lipschitz * 5.0 + 3.0) + slope) / (3.0 + found.lambda_min)
    assert found.newton_bound(5.0, 3.0).value == pytest.approx(expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_without_a_step_has_the_reason_in_place_of_its_distance(seed):
    problem, retrained, samples = deletion(seed)
    constants = bound.network_constants(problem, retrained, samples, seed)
    assert constants.lambda_min < -1e-3
    found = by_metric(bound.network_readings(problem, retrained.w, constants, (1e-4, 2.0)))
    assert [metric for metric, *_ in found] == ["distance", "bound", "distance"]
    assert found[0][1] is None
    assert "choose λ > −λ_min(H)" in found[0][2]["note"]
    gradient = problem.objective.gradient(problem.w_star, problem.retain)
    identity = torch.eye(len(gradient), dtype=gradient.dtype)
    w = problem.w_star - torch.linalg.solve(dense(problem) + 2.0 * identity, gradient)
    assert found[2][1] == pytest.approx((w - retrained.w).norm().item(), rel=1e-3)
    unprojected = bound.unprojected_reading(problem, 2.0)
    length = (w - problem.w_star).norm().item()
    assert unprojected.numbers["unprojected_bound"] == pytest.approx(2 * problem.radius + length, rel=1e-3)
    assert "note" in bound.unprojected_reading(problem, 1e-4).keys


# --- training that has not converged -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_the_forms_of_a_network_differ_as_the_dense_ones(seed):
    problem, retrained, samples = deletion(seed)
    stopped = early_stopping.Stopped(problem, retrained, samples)
    metrics = by_metric(early_stopping.early_readings(stopped, 2.0, generator(seed)))
    found = {metric: value for metric, value, _ in metrics}
    assert list(found) == ["distance", "gradient_retrained", "gradient_original", "forms_difference", "bound"]
    inverse = torch.linalg.inv(dense(problem) + 2.0 * torch.eye(len(problem.w_star), dtype=torch.float64))
    first = inverse @ problem.objective.gradient(problem.w_star, problem.retain)
    second = -6 / 34 * inverse @ problem.objective.gradient(problem.w_star, problem.forget)
    assert found["forms_difference"] == pytest.approx(((first - second).norm() / first.norm()).item(), rel=1e-3)
    assert found["gradient_original"] == pytest.approx(
        problem.objective.gradient(problem.w_star, samples).norm().item()
    )
    smallest = smallest_eigenvalue(problem.objective, problem.w_star, problem.retain, generator(seed))
    assert smallest == pytest.approx(torch.linalg.eigvalsh(dense(problem))[0].item(), abs=0.05)
    assert found["bound"] > found["gradient_retrained"] / (2.0 + smallest)


def test_constants_that_are_known_take_the_place_of_quick_ones():
    problem, retrained, samples = deletion()
    known = bound.network_constants(problem, retrained, samples, 0)
    stopped = early_stopping.Stopped(problem, retrained, samples)
    found = early_stopping.early_readings(stopped, 2.0, generator(0), replace(known, gradient_retrained=1e6))
    assert values(found, "bound") == [replace(known, gradient_retrained=1e6).newton_bound(problem.radius, 2.0).value]


def test_each_form_that_has_no_step_says_why():
    problem, retrained, samples = deletion()
    stopped = early_stopping.Stopped(problem, retrained, samples)
    found = [*early_stopping.early_readings(stopped, 1e-4, generator(0))]
    assert [dict(numbers) for numbers, _ in found] == 2 * [{"distance": None}]
    assert all("choose λ" in keys["note"] for _, keys in found)


# --- LiSSA ---------------------------------------------------------------------------------------------------------

CONSTANTS = LissaSettings(scale=8.0, depth=20, repeats=2, batch_size=8)


def test_lissas_errors_are_relative_to_the_dense_solution():
    problem, *_ = deletion()
    check = LissaCheck(problem, 2.0, CONSTANTS, 0)
    identity = torch.eye(len(problem.w_star), dtype=torch.float64)
    exact = torch.linalg.solve(
        dense(problem) + 2.0 * identity, problem.objective.gradient(problem.w_star, problem.retain)
    )
    assert torch.allclose(check.target, exact, rtol=1e-4, atol=1e-7)
    assert check.relative_error(1.5 * check.target) == pytest.approx(0.5)
    found = by_metric(check.errors((1, 20), (1,), (1e-3, 1.0)))
    assert [keys["axis"] for *_, keys in found] == ["LiSSA depth"] * 2 + ["LiSSA repeats"] + ["LiSSA scale"] * 2
    assert [keys["point"] for *_, keys in found] == [1, 20, 1, 8e-3, 8.0]
    assert found[0][1] > found[1][1] > 0
    assert found[3][1] is None
    assert "LiSSA diverges" in found[3][2]["note"]
    assert [reading.keys["point"] for reading in check.biases((2, 5), 3)] == [2, 5]


def test_lissas_estimates_have_no_bias_and_their_series_comes_near_the_solution():
    check = LissaCheck(deletion()[0], 2.0, CONSTANTS, 0)
    found = [*check.biases((2, 20), 4)]
    assert min(values(found, "lissa_bias_p")) > 1e-3
    first, last = values(found, "lissa_truncation")
    assert last < 0.02 < 0.1 < first


def test_the_share_of_good_batches_counts_those_whose_damped_hessian_is_between_zero_and_the_scale():
    problem, *_ = deletion()
    spectra = batch_spectra(problem.objective, problem.w_star, problem.retain, 3, 6, generator(0))
    lows, highs = sorted(low for low, _ in spectra), sorted(high for _, high in spectra)
    check = LissaCheck(problem, 2.0, CONSTANTS, 0)
    for rank in (0, 3):
        # Between two of the smallest eigenvalues lies a damping that makes all batches above it definite.
        check.damping = -(lows[rank] + lows[rank + 1]) / 2
        numbers = check.batches(problem, 3, 6, generator(0))
        assert numbers == {
            "batch_lambda_min": lows[0], "batch_lambda_max": highs[-1], "batch_condition": (5 - rank) / 6
        }  # fmt: skip
    check.damping, check.scale = 2.0, 2.0 + (highs[0] + highs[1]) / 2
    assert check.batches(problem, 3, 6, generator(0))["batch_condition"] == pytest.approx(1 / 6)


def test_the_bounds_with_lissa_are_the_formulas_or_say_what_is_missing():
    problem, retrained, samples = deletion()
    measured = replace(bound.network_constants(problem, retrained, samples, 0), gradient_lipschitz=3.0)
    deep = LissaSettings(scale=8.0, depth=30, repeats=4, batch_size=8)
    check = LissaCheck(problem, 2.0, deep, 0)
    found = by_metric(check.bounds(measured, 1e-3))
    assert [metric for metric, *_ in found] == [
        "lissa_added",
        *["lissa_bound"],
        *["lissa_bound", "lissa_term"] * 3,
        "failure",
    ]
    derived = next(value for metric, value, keys in found if metric == "lissa_term" and keys["method"] == "derived")
    size, slope = len(problem.w_star), measured.gradient_retrained
    spread = 16 * math.sqrt(math.log(size / 1e-3) / 4) / (2.0 + measured.lambda_min)
    assert derived == pytest.approx((2 * 3.0 * problem.radius + slope) * (spread + 1 / (16 * 8.0)), rel=1e-6)
    shallow = by_metric(LissaCheck(problem, 2.0, CONSTANTS.model_copy(update={"depth": 2}), 0).bounds(measured, 1e-3))
    missing = [keys for metric, value, keys in shallow if metric == "lissa_bound" and value is None]
    assert len(missing) == 3
    assert all("depth = 2 is too small" in keys["note"] for keys in missing)


def test_a_scale_that_is_yet_to_be_estimated_is_refused():
    with pytest.raises(CduError, match="scale = 'auto' is no h"):
        LissaCheck(deletion()[0], 2.0, CONSTANTS.model_copy(update={"scale": "auto"}), 0)


# --- requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_requests_to_softmax_regression_keep_to_their_bounds(seed):
    problem = small(seed)
    found = [numbers for numbers, _ in requests.softmax_requests(problem, 3)]
    assert len(found) == 3
    for numbers in found:
        assert 0 < numbers["distance"] <= numbers["certified_distance"] * (1 + 1e-6) <= numbers["bound"]
    known = problem.softmax_constants
    expected = 2 * known.radius**2 * known.hessian_lipschitz / known.strong_convexity
    assert found[-1]["bound"] == pytest.approx(expected)


def test_the_rows_that_are_left_fall_by_one_part_a_request():
    train, forget = np.arange(10), np.array([7, 1, 4, 2])
    found = [left.tolist() for left in requests.rows_left(train, forget, 3)]
    assert found == [[0, 2, 3, 4, 5, 6, 8, 9], [0, 2, 3, 5, 6, 8, 9], [0, 3, 5, 6, 8, 9]]


def linear_deletion(seed=0):
    """Softmax regression as a problem whose retraining is exact, and what is left after two requests."""
    own = small(seed)

    def retrain(samples, _):
        return Trained(own.model, minimise(own.softmax, samples, own.w_softmax, 1e-11).w, [])

    ball = own.softmax_constants.radius
    problem = Problem(own.softmax, own.w_softmax, own.retain, own.forget, ball, retrain, seed)
    return problem, [own.without(own.forget_rows[:3]), own.retain]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_networks_requests_start_from_the_last_iterate(seed):
    problem, remaining = linear_deletion(seed)
    found = by_metric(requests.network_requests(problem, remaining, 0.5, 2.0))
    assert [metric for metric, *_ in found] == 2 * ["distance", "step_bound", "bound"]
    w, expected = problem.w_star, []
    for left in remaining:
        matrix = Hessian(problem.objective, w, left).dense() + 0.5 * torch.eye(len(w), dtype=w.dtype)
        smallest = torch.linalg.eigvalsh(matrix)[0].item()
        w = w - torch.linalg.solve(matrix, problem.objective.gradient(w, left))
        expected.append((w - problem.retrain(left, 0).w).norm().item())
        step = 2 * problem.radius * (2.0 * problem.radius + 0.5) / smallest
        assert [value for metric, value, _ in found if metric == "step_bound"][len(expected) - 1] == pytest.approx(
            step, rel=0.05
        )
    assert [value for metric, value, _ in found if metric == "distance"] == pytest.approx(expected, rel=1e-2)


def test_requests_end_with_the_first_that_has_no_step():
    problem, _, samples = deletion()
    found = by_metric(requests.network_requests(problem, [problem.retain, samples], 1e-4, 1.0))
    assert [(metric, value) for metric, value, _ in found] == [("distance", None)]
    assert found[0][2]["point"] == 1


def test_releases_that_are_composed_cost_less_than_releases_that_are_added_up():
    found = values(requests.composed(1.0, 2.0, 1e-5, (1, 4, 25)), "epsilon")
    assert found[0] == pytest.approx(found[1])
    assert found[2] == pytest.approx(gaussian_epsilon(2.0, 1e-5, 2 * 2.0))
    assert found[2] < found[3]
    assert found[4] < found[5]


# --- the control experiment ----------------------------------------------------------------------------------------


def trial(budget, seed=0):
    draws = torch.Generator().manual_seed(seed)
    rows = torch.randn(90, 4, dtype=torch.float64, generator=draws)
    targets = (rows @ torch.randn(4, 3, dtype=torch.float64, generator=draws)).argmax(dim=1)
    images, test = (Samples(rows[part], targets[part], dtype=torch.float64) for part in (slice(0, 60), slice(60, 90)))
    return control.Control(images, test, np.arange(5, 60), 3, budget, {1.0: 1e-3, 0.1: 10.0}, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_control_experiment_certifies_what_it_measures(seed):
    experiment = trial(3e-3, seed)
    model = experiment.trained(0.05)
    exact, found = experiment.checked(model, np.arange(5, 11))
    samples = experiment.images.subset(np.arange(11, 60))
    reference = torch.autograd.functional.hessian(
        lambda w: cross_entropy(model.objective.forward(w, samples.inputs), samples.targets), exact.w
    )
    assert torch.linalg.eigvalsh(reference)[0] > -1e-9
    assert model.objective.gradient(exact.w, samples).norm() <= 1e-12
    for steps, one in enumerate(found):
        assert one.deletion.steps == steps
        assert one.distance <= one.certified_distance
        assert one.distance == pytest.approx((one.deletion.iterate - exact.w).norm().item())
        assert torch.equal(one.released, exact.w if one.deletion.fallback else one.deletion.iterate)
    assert found[0].deletion.fallback
    assert found[0].released_distance == 0
    assert not found[2].deletion.fallback
    assert found[2].released_distance == found[2].distance > 0


def test_the_noise_of_a_tight_epsilon_costs_accuracy_and_all_numbers_have_their_keys():
    experiment = trial(1e-4)
    sets = {"random": np.arange(5, 11), "other": np.arange(20, 26)}
    found = by_metric(control.control_readings(experiment, "pixels", (0.5, 0.05), sets))
    methods = list(dict.fromkeys(keys["method"] for *_, keys in found))
    assert methods == [
        "pixels, l2 = 0.05, training", "pixels, l2 = 0.0005", "pixels, l2 = 0.05, random", "pixels, l2 = 0.05, other",
        "pixels, l2 = 0.5, training", "pixels, l2 = 0.5, random", "pixels, l2 = 0.5, other",
    ]  # fmt: skip
    ratios = [value for metric, value, _ in found if metric == "ratio"]
    assert len(ratios) == 12
    assert max(ratios) <= 1 + 1e-9
    noiseless, loose, tight = (
        np.mean([value for metric, value, keys in found if metric == "accuracy" and keys.get("split") == split])
        for split in ("test", "test, ε = 1", "test, ε = 0.1")
    )
    assert abs(noiseless - loose) < 0.1 < noiseless - tight


def test_rows_of_one_class_are_drawn_by_the_seed():
    labels, rows = np.arange(40) % 4, np.arange(10, 40)
    found = control.rows_of_class(rows, labels, 3, 4, 0)
    assert found.tolist() == sorted(found.tolist())
    assert len(found) == 4
    assert set(labels[found]) == {3}
    assert set(found) <= set(rows)
    assert len(control.rows_of_class(rows, labels, 3, 100, 0)) == 8
    assert any(control.rows_of_class(rows, labels, 3, 4, seed).tolist() != found.tolist() for seed in (1, 2, 3))
