import pytest
import torch

from cdu.errors import CduError
from cdu.models.architectures import ACTIVATIONS, build
from cdu.models.objective import parameter_vector
from cdu.models.settings import ModelSettings


@pytest.mark.parametrize(
    ("name", "shape", "size"),
    [
        ("mlp", (1, 28, 28), 26_506),
        ("allcnn", (3, 32, 32), 1_620_010),
        ("resnet18", (3, 32, 32), 11_171_274),
        ("logistic", (1, 28, 28), 7_850),
    ],
)
def test_parameter_counts_are_the_papers(name, shape, size):
    model = build(ModelSettings(name=name), shape, 10, seed=0)
    assert len(parameter_vector(model)) == size
    assert model(torch.zeros(2, *shape)).shape == (2, 10)
    assert not model.training


def test_initial_weights_depend_on_the_seed_and_leave_the_global_state_alone():
    settings = ModelSettings(name="mlp")
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    vectors = [parameter_vector(build(settings, (1, 8, 8), 10, seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), first)
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


@pytest.mark.parametrize(("activation", "smooth"), [("relu", False), ("tanh", True), ("softplus", True)])
def test_only_smooth_activations_have_continuous_gradients(activation, smooth):
    layer = ACTIVATIONS[activation]()
    points = torch.tensor([-1e-6, 1e-6], dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(layer(points).sum(), points)
    assert (abs(slopes[1] - slopes[0]) < 1e-5).item() == smooth


def test_convolutional_networks_refuse_tiny_images():
    with pytest.raises(CduError, match="at least 8×8 pixels; these are 4×4"):
        build(ModelSettings(name="allcnn"), (1, 4, 4), 10, 0)
