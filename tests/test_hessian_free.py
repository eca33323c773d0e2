"""Hessian-free unlearning against real retraining with the same batches."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models.objective import Objective, parameter_vector
from cdu.seeding import generator, seeded
from cdu.unlearning.methods.hessian_free import HessianFree, SgdSettings, Trajectory
from cdu.unlearning.problem import Problem

SETTINGS = SgdSettings(epochs=4, batch_size=5, learning_rate=0.1, rate_factor=0.9)


def regression(seed=0, l2=0.03, settings=SETTINGS):
    """Linear regression: 17 samples, three inputs, two targets; the last batch of an epoch has two."""
    draws = generator(seed, "regression")
    inputs, targets = (torch.randn(17, size, generator=draws, dtype=torch.float64) for size in (3, 2))
    with seeded(seed):
        model = nn.Linear(3, 2).double()
    samples = Samples(inputs, targets, dtype=torch.float64)
    return Trajectory(Objective(model, mse_loss, l2=l2, chunk=4), parameter_vector(model), samples, settings, seed)


def classification(seed=0):
    draws = generator(seed, "classification")
    targets = torch.arange(24) % 2
    inputs = torch.randn(24, 4, generator=draws, dtype=torch.float64) + targets.unsqueeze(1)
    with seeded(seed):
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    samples = Samples(inputs, targets, dtype=torch.float64)
    return Trajectory(Objective(model, cross_entropy, l2=0.01), parameter_vector(model), samples, SETTINGS, seed)


def plain_sgd(run, without=()):
    """The run in ordinary autograd, over a sum of single losses."""
    model, w, rate = run.objective.model, run.start, run.settings.learning_rate
    for epoch in range(run.settings.epochs):
        for rows in torch.randperm(len(run.samples), generator=generator(run.seed, "batches", epoch)).split(5):
            point = w.clone().requires_grad_()
            nn.utils.vector_to_parameters(point, model.parameters())
            names = [name for name, _ in model.named_parameters()]
            sizes = [parameter.shape for parameter in model.parameters()]
            parts = point.split([size.numel() for size in sizes])
            views = {name: part.view(size) for name, part, size in zip(names, parts, sizes, strict=True)}
            loss = 0.5 * run.objective.l2 * point.square().sum()
            for row in rows.tolist():
                if row not in without:
                    x, y = run.samples.inputs[row : row + 1], run.samples.targets[row : row + 1]
                    outputs = torch.func.functional_call(model, views, (x,))
                    loss = loss + run.objective.loss_function(outputs, y) / len(rows)
            w = w - rate * torch.autograd.grad(loss, point)[0]
        rate *= 0.9
    return w


@pytest.mark.parametrize("make", [regression, classification])
@pytest.mark.parametrize("seed", range(2))
def test_a_run_is_plain_descent_and_leaves_the_terms_of_rows_out(make, seed):
    run = make(seed)
    assert torch.allclose(run.end(), plain_sgd(run), rtol=1e-12, atol=1e-14)
    assert torch.equal(run.end(), run.end())
    less = run.without(torch.tensor([3, 11]))
    assert torch.allclose(less.end(), plain_sgd(run, {3, 11}), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("l2", [0.0, 0.03])
def test_for_a_quadratic_loss_the_vector_of_a_sample_is_exact(seed, l2):
    run = regression(seed, l2)
    rows = torch.tensor([0, 5, 16])
    vectors = run.vectors(rows)
    for row, vector in zip(rows, vectors, strict=True):
        retrained = run.without(row.reshape(1)).end()
        assert (retrained - run.end()).norm() > 1e-3
        assert torch.allclose(run.end() + vector, retrained, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_for_several_samples_the_error_is_that_of_their_hessians_on_each_other(seed):
    """Where no two of them ever move in the same direction, the sum is exact; else it is of second order."""
    run = regression(seed)
    rows = torch.tensor([2, 9])
    error = run.end() + run.vectors(rows).sum(dim=0) - run.without(rows).end()
    moved = (run.without(rows).end() - run.end()).norm()
    assert 1e-8 < error.norm() < 0.3 * moved
    inputs = run.samples.inputs.clone()
    inputs[:, 2], inputs[2], inputs[9] = 0.0, torch.tensor([0.0, 0, 1.0]), torch.tensor([1.0, 0, 0])
    samples = Samples(inputs, run.samples.targets, dtype=torch.float64)
    model = nn.Linear(3, 2, bias=False).double()
    apart = Trajectory(Objective(model, mse_loss), parameter_vector(model), samples, SETTINGS, seed)
    assert torch.allclose(apart.end() + apart.vectors(rows).sum(dim=0), apart.without(rows).end(), rtol=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_vectors_are_the_derivative_along_the_weight_of_a_sample(seed):
    """For any loss: a run in which the terms of u have the weight 1 − h differs by h·v_u, but for u's own Hessian."""
    run = classification(seed)
    row, h = 7, 1e-4

    def weighted(weight):
        w = run.start
        for _, rows, rate in itertools.islice(run.steps(), 4 * 5):
            gradient = run.objective.gradient(w, run.samples.subset(rows))
            own = run.objective.gradient(w, run.samples.subset(torch.tensor([row]))) - run.objective.l2 * w
            w = w - rate * (gradient - bool((rows == row).any()) * (1 - weight) / len(rows) * own)
        return w

    assert torch.allclose(weighted(1.0), run.end(), rtol=1e-11, atol=1e-13)
    derivative = (weighted(1 - h) - weighted(1 + h)) / (2 * h)
    (vector,) = run.vectors(torch.tensor([row]))
    # What the vector has more: (η/|B|)·H_u v_u in four steps.
    assert (vector - derivative).norm() < 0.1 * derivative.norm()


@pytest.mark.parametrize("seed", range(4))
def test_for_a_small_network_the_error_is_smaller_than_that_of_doing_nothing(seed):
    run = classification(seed)
    for rows in (torch.tensor([4]), torch.tensor([4, 9, 15])):
        retrained, w = run.without(rows).end(), run.end()
        error = (w + run.vectors(rows).sum(dim=0) - retrained).norm()
        assert error < 0.35 * (w - retrained).norm()


def test_vectors_do_not_depend_on_the_chunks_they_are_found_in():
    run, rows = classification(), torch.tensor([20, 3, 11])
    whole, one = run.vectors(rows), run.vectors(rows, chunk_bytes=1)
    assert whole.shape == (3, len(run.start))
    assert torch.allclose(whole, one, rtol=1e-12, atol=1e-15)


def problem_of(run, count=20):
    kept, gone = (run.samples.subset(part) for part in (torch.arange(count), torch.arange(count, len(run.samples))))
    return Problem(run.objective, run.start, kept, gone, radius=100.0, retrain=None, seed=run.seed)


def test_the_method_adds_the_vectors_of_the_forget_set_to_its_own_model():
    run = classification(2)
    method = HessianFree(4, 5, 0.1, 0.9)
    problem = problem_of(run)
    watched = [problem.w_star, *run.objective.model.parameters()]
    before = [tensor.clone() for tensor in watched]
    result = method(problem, generator(0))
    assert torch.allclose(result.w, run.end() + run.vectors(torch.arange(20, 24)).sum(dim=0), rtol=1e-11)
    retrained = method.trajectory(problem).without(torch.arange(20, 24)).end()
    assert (result.w - retrained).norm() < 0.35 * (run.end() - retrained).norm()
    assert "training assumption violated" in result.no_certificate_reason
    assert result.bound is None
    assert 0 < result.seconds < result.training_seconds
    assert all(torch.equal(one, other) for one, other in zip(watched, before, strict=True))


def test_what_cannot_be_computed_is_refused():
    run = regression()
    with pytest.raises(CduError, match="list each row once"):
        run.vectors(torch.tensor([1, 1]))
    with pytest.raises(CduError, match="rows are 2 to 17, the training set has 0 to 16"):
        run.vectors(torch.tensor([2, 17]))
    fast = regression(settings=SgdSettings(epochs=400, batch_size=5, learning_rate=50.0))
    with pytest.raises(CduError, match="diverged; lower its learning rate, 50"):
        fast.end()
