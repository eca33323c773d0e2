"""The constants of Theorem 3.4 and the error of the step on a small network, against dense matrices in float64."""

from itertools import pairwise

import pytest
import torch

from cdu.curvature.hessian import Hessian
from cdu.curvature.solution import SolverError
from cdu.evaluation.network_bound import NetworkStep
from cdu.models.objective import Objective
from cdu.unlearning.problem import Problem
from conftest import network

RADIUS = 10.0


def step(name="smooth mlp", seed=0, part=12):
    """A deletion of 8 of 30 samples, with S the first samples of what is left."""
    objective, w, samples = network(name, seed, count=30, l2=0.1, chunk=30)
    retain = samples.subset(torch.arange(8, 30))
    problem = Problem(
        objective=objective,
        w_star=w,
        retain=retain,
        forget=samples.subset(torch.arange(8)),
        radius=RADIUS,
        retrain=None,
        seed=seed,
    )
    stream = torch.Generator().manual_seed(seed)
    other = w + 0.1 * torch.randn(len(w), generator=stream, dtype=w.dtype)
    return NetworkStep(problem, other, retain.subset(torch.arange(part)))


def dense(own, w, samples):
    return Hessian(own.problem.objective, w, samples).dense()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("form", ["retain", "forget"])
def test_either_form_is_the_solution_of_the_dense_system(seed, form):
    own, objective = step(seed=seed), step(seed=seed).problem.objective
    w, (kept, gone) = own.problem.w_star, (own.problem.retain, own.problem.forget)
    right = {"retain": objective.gradient(w, kept), "forget": -8 / 22 * objective.gradient(w, gone)}[form]
    matrix = dense(own, w, own.part) + 5 * torch.eye(len(w), dtype=w.dtype)
    expected = torch.linalg.solve(matrix, right)
    found = own.solve(form, 5.0, max_steps=200).x
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * float(expected.norm()))
    left = (w - found - own.retrained).norm()
    assert own.error(found) == pytest.approx(float(left), rel=1e-12)


def test_a_step_out_of_the_ball_is_projected_back():
    own = step()
    far = 1000 * torch.ones_like(own.retrained)
    outside = own.problem.w_star - far
    expected = (outside * RADIUS / outside.norm() - own.retrained).norm()
    assert own.error(far) == pytest.approx(float(expected), rel=1e-9)


def test_an_indefinite_system_is_refused():
    own = step("mlp")
    low = float(torch.linalg.eigvalsh(dense(own, own.problem.w_star, own.part))[0])
    assert low < 0
    with pytest.raises(SolverError):
        own.solve("retain", -low / 1e6, max_steps=500)


@pytest.mark.parametrize("seed", range(3))
def test_with_enough_lanczos_steps_the_constants_are_those_of_dense_hessians(seed):
    """With few of them they are from inside the spectrum, and from below."""
    own = step(seed=seed)
    start, end = own.problem.w_star, own.retrained
    spectrum = torch.linalg.eigvalsh(dense(own, start, own.problem.retain))
    nodes = [dense(own, torch.lerp(start, end, share), own.part) for share in (0.0, 0.5, 1.0)]
    steepest = max(float(torch.linalg.matrix_norm(node, 2)) for node in nodes)
    half = float((end - start).norm()) / 2
    bend = max(float(torch.linalg.matrix_norm(after - before, 2)) / half for before, after in pairwise(nodes))
    low, high = float(spectrum[0]), float(spectrum[-1])
    full = own.curvature(own.problem.retain, 200, 3, seed)
    assert full["lambda_min"] == pytest.approx(low, abs=1e-9)
    assert full["lambda_max"] == pytest.approx(high, rel=1e-9)
    assert full["gradient_lipschitz"] == pytest.approx(max(steepest, high, -low), rel=1e-2)
    assert full["hessian_lipschitz"] == pytest.approx(bend, rel=1e-2)
    few = own.curvature(own.problem.retain, 3, 3, seed)
    assert low - 1e-9 <= few["lambda_min"] <= few["lambda_max"] <= high + 1e-9
    assert few["hessian_lipschitz"] <= bend * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_of_the_function_that_the_hessian_is_of(seed):
    own = step("allcnn", seed)
    objective, w = own.problem.objective, own.problem.w_star
    other = Objective(network("allcnn", seed + 7)[0].model, l2=0.1)
    found = own.gradients(other)
    expected = {
        "gradient_retrained": objective.gradient(own.retrained, own.problem.retain).norm(),
        "gradient_retrained_own": other.gradient(own.retrained, own.problem.retain).norm(),
        "gradient_original": objective.gradient(w, own.problem.everything).norm(),
        "forms_gap": 30 / 22 * objective.gradient(w, own.problem.everything).norm(),
        "distance_original": (w - own.retrained).norm(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-9), name
    retain, forget = own.right_hand_sides["retain"], own.right_hand_sides["forget"]
    assert found["forms_cosine"] == pytest.approx(float(retain @ forget / retain.norm() / forget.norm()), rel=1e-9)
    assert found["gradient_retrained"] != pytest.approx(found["gradient_retrained_own"], rel=1e-3)


def test_draws_of_lanczos_come_from_the_seed():
    own = step()
    one, again, other = (own.curvature(own.part, 3, 2, seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other
