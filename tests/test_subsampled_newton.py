from dataclasses import replace

import numpy as np
import pytest
import torch

from cdu.curvature.hessian import Hessian
from cdu.curvature.solution import SolverError
from cdu.data.samples import Samples, part_of
from cdu.errors import CduError
from cdu.evaluation.theory_checks import hessian_lipschitz, spectrum_ends
from cdu.experiments.experiment import load_experiment
from cdu.experiments.scale import scale_methods
from cdu.experiments.settings import ScaleSettings
from cdu.models import architectures
from cdu.models.objective import Objective, parameter_vector
from cdu.models.settings import ModelSettings
from cdu.models.training import Trained
from cdu.seeding import generator
from cdu.unlearning.methods.newton import NewtonStep, right_hand_side
from cdu.unlearning.methods.subsampled_newton import SubsampledNewton
from cdu.unlearning.problem import Problem
from cdu.unlearning.registry import SECOND_SEED, build
from cdu.unlearning.requests import answers, requests


def problem(seed=0, rows=40):
    generator = torch.Generator().manual_seed(seed)
    model = architectures.build(ModelSettings(name="mlp", hidden=(4,), activation="tanh"), (1, 3, 3), 3, seed).double()
    inputs = torch.randn(rows, 1, 3, 3, generator=generator, dtype=torch.float64)
    samples = Samples(inputs, torch.randint(0, 3, (rows,), generator=generator), dtype=torch.float64)
    w = parameter_vector(model)
    return Problem(
        objective=Objective(model, l2=1e-2),
        w_star=w,
        retain=samples.subset(torch.arange(8, rows)),
        forget=samples.subset(torch.arange(8)),
        radius=100.0,
        retrain=lambda retain, own: Trained(model, w, []),
        seed=seed,
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("samples", [None, 32, 100])
@pytest.mark.parametrize("gradient", ["forget", "retain"])
def test_over_all_retained_samples_it_is_the_papers_step(seed, samples, gradient):
    own = SubsampledNewton(2.0, samples, gradient)(problem(seed), torch.Generator().manual_seed(0))
    paper = NewtonStep(2.0, gradient=gradient)(problem(seed), torch.Generator().manual_seed(0))
    assert torch.equal(own.w, paper.w)
    assert (own.hvp_samples, own.gradient_samples) == (paper.hvp_samples, paper.gradient_samples)


@pytest.mark.parametrize("seed", range(3))
def test_on_a_part_it_solves_the_system_of_that_part_with_the_whole_ratio(seed):
    task = problem(seed)
    update = SubsampledNewton(2.0, 10)(task, torch.Generator().manual_seed(seed))
    part = part_of(task.retain, 10, torch.Generator().manual_seed(seed))
    assert len(part) == 10
    matrix = (Hessian(task.objective, task.w_star, part) + 2.0).dense()
    gradient = task.objective.gradient(task.w_star, task.forget)
    expected = task.w_star + 8 / 32 * torch.linalg.solve(matrix, gradient)
    torch.testing.assert_close(update.w, expected, rtol=0, atol=1e-4 * float((expected - task.w_star).norm()))
    assert update.converged


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [10, 25])
def test_the_form_with_the_retained_gradient_takes_it_over_all_of_them(seed, size):
    task = problem(seed)
    update = SubsampledNewton(2.0, size, gradient="retain")(task, torch.Generator().manual_seed(seed))
    part = part_of(task.retain, size, torch.Generator().manual_seed(seed))
    matrix = (Hessian(task.objective, task.w_star, part) + 2.0).dense()
    expected = task.w_star - torch.linalg.solve(matrix, task.objective.gradient(task.w_star, task.retain))
    torch.testing.assert_close(update.w, expected, rtol=0, atol=1e-4 * float((expected - task.w_star).norm()))
    assert (update.gradient_samples, update.hvp_samples % size) == (32, 0)


def test_both_forms_on_a_part_are_one_system_with_two_right_hand_sides():
    task = problem(1)
    steps = {
        form: SubsampledNewton(2.0, 10, form)(task, torch.Generator().manual_seed(3)).w - task.w_star
        for form in ("retain", "forget")
    }
    part = part_of(task.retain, 10, torch.Generator().manual_seed(3))
    everything = task.objective.gradient(task.w_star, task.everything)
    expected = torch.linalg.solve((Hessian(task.objective, task.w_star, part) + 2.0).dense(), 40 / 32 * everything)
    apart = steps["forget"] - steps["retain"]
    torch.testing.assert_close(apart, expected, rtol=0, atol=1e-3 * float(expected.norm()))


@pytest.mark.parametrize("seed", range(3))
def test_right_hand_sides_differ_by_what_training_left(seed):
    task = problem(seed)
    retain, forget = (right_hand_side(task, form) for form in ("retain", "forget"))
    torch.testing.assert_close(retain, task.objective.gradient(task.w_star, task.retain))
    torch.testing.assert_close(forget, -8 / 32 * task.objective.gradient(task.w_star, task.forget))
    torch.testing.assert_close(retain - forget, 40 / 32 * task.objective.gradient(task.w_star, task.everything))


def test_an_indefinite_system_is_refused():
    task = problem()
    low, _ = spectrum_ends(task, 32, 60, torch.Generator().manual_seed(0))
    assert low < 0
    with pytest.raises(SolverError):
        SubsampledNewton(-low / 1e6)(task, torch.Generator().manual_seed(0))


def test_a_part_is_drawn_without_replacement_in_order_and_anew_for_every_seed():
    samples = problem().retain
    draws = [part_of(samples, 20, torch.Generator().manual_seed(seed)).inputs.flatten(1) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    where = (draws[0][:, None] == samples.inputs.flatten(1)).all(-1).nonzero()[:, 1]
    assert where.tolist() == sorted(set(where.tolist()))
    assert part_of(samples, None, torch.Generator()) is samples


@pytest.mark.parametrize("seed", range(3))
def test_the_ends_lie_within_the_spectrum_and_reach_it_with_enough_steps(seed):
    task = problem(seed)
    values = torch.linalg.eigvalsh(Hessian(task.objective, task.w_star, task.retain).dense())
    rounding = 1e-12 * float(values.abs().max())
    for steps in (2, 5, 1000):
        low, high = spectrum_ends(task, 100, steps, torch.Generator().manual_seed(seed))
        assert float(values[0]) - rounding <= low <= high <= float(values[-1]) + rounding
    assert low == pytest.approx(float(values[0]), abs=1e-9)
    assert high == pytest.approx(float(values[-1]), abs=1e-9)


def test_without_a_search_the_constants_are_those_of_the_experiment():
    paper = load_experiment("paper").settings("cifar10")
    found = scale_methods(paper.unlearning, paper.scale, 5)
    steps = {name: vars(method) for name, method in found.items() if isinstance(method, SubsampledNewton)}
    dampings = {"newton": 20000, "newton, λ = 10": 10, "newton, λ = 1000": 1000}
    given = {"samples": 5000, "gradient": "forget"}
    assert steps == {name: {"damping": value, **given} for name, value in dampings.items()}
    assert found["retrain"].seed is None
    assert found["second retraining"].seed == 5 + SECOND_SEED
    assert list(found) == ["original", "retrain", "second retraining", *dampings, *paper.scale.methods]
    for name, values in paper.scale.methods.items():
        assert vars(found[name]) == vars(build(name, values, 1.0, 1e-5))


def test_a_method_that_there_is_not_is_refused():
    unlearning = load_experiment("paper").settings("cifar10").unlearning
    with pytest.raises(CduError, match="there is no method 'magic'"):
        scale_methods(unlearning, ScaleSettings(methods={"magic": {}}), 0)


@pytest.mark.parametrize("seed", range(3))
def test_the_lipschitz_constant_of_two_points_is_that_of_dense_hessians(seed):
    """With enough steps; with few it is smaller, and never negative."""
    task = problem(seed)
    stream = torch.Generator().manual_seed(10 + seed)
    other = task.w_star + 0.3 * torch.randn(len(task.w_star), generator=stream, dtype=torch.float64)
    for size in (12, 100):
        part = part_of(task.retain, size, torch.Generator().manual_seed(seed))
        here, there = (Hessian(task.objective, point, part).dense() for point in (task.w_star, other))
        expected = float(torch.linalg.matrix_norm(there - here, 2) / (other - task.w_star).norm())
        found = [
            hessian_lipschitz(task, other, size, steps, torch.Generator().manual_seed(seed)) for steps in (2, 5, 1000)
        ]
        assert all(0 < one <= expected * (1 + 1e-10) for one in found)
        assert found[-1] == pytest.approx(expected, rel=1e-8)
        # The two points are the ends of one segment: from either side it is the same.
        back = hessian_lipschitz(
            replace(task, w_star=other), task.w_star, size, 1000, torch.Generator().manual_seed(seed)
        )
        assert back == pytest.approx(expected, rel=1e-8)


def test_two_equal_points_have_no_lipschitz_constant():
    task = problem()
    with pytest.raises(CduError, match="0 apart; a Lipschitz constant needs two different points"):
        hessian_lipschitz(task, task.w_star.clone(), 10, 5, torch.Generator())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("samples", [None, 10])
def test_a_single_request_is_the_single_step(seed, samples):
    """Cut into one request, the forget set is deleted by the same step over the same part of what is left."""
    task = problem(seed)
    everything = task.everything
    train, gone = np.arange(len(everything)), np.arange(len(task.retain), len(everything))
    method = SubsampledNewton(2.0, samples)
    (answer,) = answers(task, requests(everything, train, gone, 1, seed), method, unsafe_seed=seed)
    alone = method(task, generator(seed, "request", 1))
    step = (alone.w - task.w_star).norm()
    # The order of the forgotten samples, and with it the rounding of their sum, is drawn anew.
    assert (answer.update.w - alone.w).norm() < 1e-9 * step
    assert torch.equal(answer.iterate, answer.update.w)
    chained = list(answers(task, requests(everything, train, gone, 2, seed), method, unsafe_seed=seed))[-1]
    assert (chained.update.w - alone.w).norm() > 1e-3 * step
