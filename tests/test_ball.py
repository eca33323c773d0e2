"""The projection for loops of one's own: inside for certain, weights inside left alone, tied ones counted once."""

import math

import pytest
import torch
from torch import nn

from cdu.errors import CduError
from cdu.models.objective import parameter_vector
from cdu.models.training import project
from cdu.own_model.ball import ball


def network(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_result_is_the_projection_and_inside_for_certain(seed, dtype):
    model = network(seed, dtype)
    w, radius = parameter_vector(model), 0.1 * (seed + 1) / 3
    held = [parameter.data_ptr() for parameter in model.parameters()]
    keep = ball(model, radius)
    assert keep() is None
    found = parameter_vector(model)
    assert found.double().norm().item() <= radius
    wanted = w.double() * min(1.0, radius / w.double().norm().item())
    torch.testing.assert_close(found.double(), wanted, rtol=4 * torch.finfo(dtype).eps, atol=1e-12)
    if dtype != torch.bfloat16:
        assert torch.equal(found, project(w, radius))
    # In place, and never twice.
    assert [parameter.data_ptr() for parameter in model.parameters()] == held
    keep()
    assert torch.equal(parameter_vector(model), found)


def test_weights_inside_are_left_to_the_bit():
    model = network()
    w = parameter_vector(model)
    ball(model, w.norm().item() * 1.0001)()
    assert torch.equal(parameter_vector(model), w)


def test_only_chosen_parameters_are_moved_and_counted():
    model = network()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model[2].bias.requires_grad_(False)
    ball(model, 0.1, "2.*")()
    assert math.isclose(model[2].weight.norm().item(), 0.1)
    for name in ("0.weight", "0.bias", "2.bias"):
        assert torch.equal(model.get_parameter(name), before[name])


def test_a_tied_parameter_counts_once():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    w = model[0].weight.detach().clone()
    ball(model, 1.001 * w.norm().item())()
    assert torch.equal(model[0].weight, w)
    ball(model, 0.5)()
    assert model[1].weight is model[0].weight
    assert math.isclose(model[0].weight.double().norm().item(), 0.5, rel_tol=1e-6)


@pytest.mark.slow  # PyTorch imports its compiler for the first optimiser
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_as_a_hook_it_does_what_calls_after_every_step_do(optimizer):
    inputs, targets = torch.randn(20, 4, dtype=torch.float64), torch.arange(20) % 3
    ends = []
    for hooked in (True, False):
        model = network()
        descent = optimizer(model.parameters(), lr=0.1)
        keep = ball(model, 0.7)
        if hooked:
            descent.register_step_post_hook(keep)
        for _ in range(15):
            descent.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            descent.step()
            if not hooked:
                keep()
            assert parameter_vector(model).norm() <= 0.7
        ends.append(parameter_vector(model))
        assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(*ends)
    assert ends[0].norm() > 0.699


@pytest.mark.parametrize("radius", [0.0, -1.0, math.inf, math.nan])
def test_a_radius_that_is_none_is_refused(radius):
    with pytest.raises(CduError, match="is not a positive finite number"):
        ball(network(), radius)


def test_what_cannot_be_projected_is_refused():
    model = network()
    with pytest.raises(CduError, match=r"no parameter's name matches 'head\.\*'"):
        ball(model, 1.0, "head.*")
    keep = ball(model, 1.0)
    with torch.no_grad():
        model[0].bias[2] = torch.nan
    with pytest.raises(CduError, match="the weights have the norm nan; training has diverged"):
        keep()
    model[0].float()
    with pytest.raises(CduError, match=r"torch\.float32 cpu and torch\.float64 cpu"):
        ball(model, 1.0)
