import pytest
import torch
from torch.func import functional_call, hessian

from cdu.objective import Objective
from conftest import NETWORKS, network


def direct_loss(objective, samples):
    """L(w, S) in one piece, as the reference that nothing is chunked in."""
    inputs, targets = samples.batch(slice(None))

    def loss(w):
        outputs = functional_call(objective.model, objective.tensors(w), (inputs,))
        return torch.nn.functional.cross_entropy(outputs, targets) + 0.5 * objective.l2 * w.dot(w)

    return loss


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_loss_gradient_and_products_equal_the_dense_reference(name, seed):
    objective, w, samples = network(name, seed)
    loss = direct_loss(objective, samples)
    assert objective.loss(w, samples) == pytest.approx(loss(w).item(), rel=1e-12)
    gradient = torch.func.grad(loss)(w)
    assert torch.allclose(objective.gradient(w, samples), gradient, atol=1e-12)
    vectors = torch.randn(3, len(w), dtype=w.dtype, generator=torch.Generator().manual_seed(seed))
    if len(w) < 500:
        dense = hessian(loss)(w)
        expected = vectors @ dense
    else:
        expected = torch.stack([torch.func.jvp(torch.func.grad(loss), (w,), (v,))[1] for v in vectors])
    assert torch.allclose(objective.hvp(w, samples, vectors), expected, atol=1e-10)
    assert torch.allclose(objective.hvp(w, samples, vectors[0]), expected[0], atol=1e-10)


@pytest.mark.parametrize("name", ["allcnn", "resnet18"])
def test_buffers_mode_and_parameters_are_left_alone(name):
    objective, w, samples = network(name)
    before = {key: value.clone() for key, value in objective.model.state_dict().items()}
    objective.model.train()
    objective.gradient(w + 1, samples)
    objective.hvp(w + 1, samples, w)
    objective.outputs(w + 1, samples)
    assert objective.model.training
    after = objective.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_chunk_does_not_change_the_result():
    objective, w, samples = network("mlp", chunk=2)
    whole = Objective(objective.model, l2=objective.l2, chunk=1000)
    assert torch.allclose(objective.gradient(w, samples), whole.gradient(w, samples), atol=1e-14)


def test_any_module_and_loss_will_do():
    from cdu.data import Samples

    model = torch.nn.Linear(3, 1).double()
    inputs, targets = torch.randn(7, 3).double(), torch.randn(7).double()

    def squares(outputs, wanted):
        return (outputs.squeeze(1) - wanted).square().mean()

    objective = Objective(model, squares, l2=0.0)
    design = torch.cat([inputs, torch.ones(7, 1)], 1)
    vector = torch.randn(4).double()
    product = objective.hvp(torch.zeros(4).double(), Samples(inputs, targets, dtype=torch.float64), vector)
    assert torch.allclose(product, 2 * design.T @ design @ vector / 7)
