import pytest
import torch

from cdu.data.samples import Dataset, Samples, fingerprint
from cdu.experiments import device
from cdu.experiments.experiment import load_experiment
from cdu.experiments.setup import Setup
from cdu.models import architectures
from cdu.models.objective import Objective, parameter_vector
from cdu.models.settings import ModelSettings


def images(count=12):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return Samples(inputs, torch.arange(count) % 10, (0.5,) * 3, (0.5,) * 3)


def test_the_layout_changes_neither_values_nor_what_a_training_is_known_by():
    before = Dataset("cifar10", images(), images(5))
    after = device.channels_last(before)
    for one, other in ((before.train, after.train), (before.test, after.test)):
        assert torch.equal(one.inputs, other.inputs)
        assert fingerprint(one) == fingerprint(other)
        rows = torch.tensor([3, 1])
        for taken in (other.batch(rows)[0], other.batch(slice(1, 4))[0], other.subset(rows).batch(rows % 2)[0]):
            assert taken.is_contiguous(memory_format=torch.channels_last)
            assert not taken.is_contiguous()


@pytest.mark.parametrize("name", ["allcnn", "resnet18"])
def test_gradients_and_products_are_those_of_the_usual_layout(name):
    samples = images()
    laid_out = device.channels_last(Dataset("cifar10", samples, samples)).train
    model = architectures.build(ModelSettings(name=name, width=0.05), (3, 8, 8), 10, 0).double()
    objective, w = Objective(model, l2=1e-3), parameter_vector(model)
    samples, laid_out = samples.to(dtype=torch.float64), laid_out.to(dtype=torch.float64)
    vector = torch.randn(len(w), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(objective.gradient(w, samples), objective.gradient(w, laid_out))
    torch.testing.assert_close(objective.hvp(w, samples, vector), objective.hvp(w, laid_out, vector))


def setup(model, tmp_path):
    experiment = load_experiment("quick")
    settings = experiment.settings("digits").model_copy(update={"model": model})
    experiment = experiment.model_copy(update={"datasets": {"digits": settings}})
    return Setup(experiment, "digits", 0, tmp_path, torch.device("cpu"))


def test_only_convolutional_networks_get_another_layout_and_the_record_says_so(tmp_path):
    dense = setup(ModelSettings(name="mlp"), tmp_path)
    assert device.prepare(dense) == "float32, denormals flushed"
    assert "data" not in vars(dense)
    convolutional = setup(ModelSettings(name="allcnn", width=0.05), tmp_path)
    assert device.prepare(convolutional) == "float32, denormals flushed, channels last"
    plain = setup(ModelSettings(name="allcnn", width=0.05), tmp_path)
    assert convolutional.data.input_shape == plain.data.input_shape
    assert fingerprint(convolutional.train) == fingerprint(plain.train)


def test_the_operations_of_dense_layers_are_counted_as_on_paper():
    model = architectures.build(ModelSettings(name="mlp", hidden=(7,)), (3, 8, 8), 10, 0)
    # Forward, and backward to the weights; backward to the inputs not for the first layer, whose inputs need none.
    expected = 2 * (2 * 192 * 7 + 3 * 7 * 10)
    assert device.training_operations(Objective(model), images(), 4) == expected


def test_the_operations_of_convolutions_are_counted_as_on_paper():
    model = architectures.build(ModelSettings(name="allcnn", width=0.05), (3, 8, 8), 10, 0)
    small, large = 5, 10
    # Output pixels, inputs and outputs of every layer, at 8×8 pixels and strides of 2 before the third and the sixth.
    layers = [(64, 3 * 9, small), (64, small * 9, small), (16, small * 9, large)]
    layers += [(16, large * 9, large), (16, large * 9, large), (4, large * 9, large)]
    layers += [(4, large * 9, large), (4, large, large), (1, large, 10)]
    products = [pixels * inputs * outputs for pixels, inputs, outputs in layers]
    assert device.training_operations(Objective(model), images(), 4) == 2 * (3 * sum(products) - products[0])


def test_the_matrix_rate_is_that_of_the_machine():
    rate = device.matrix_rate(torch.device("cpu"))
    # Between a calculator and a supercomputer: whatever the machine, a wrong unit lies outside.
    assert 1e8 < rate < 1e15


def test_the_chunk_of_an_objective_is_its_device_s_own_unless_it_is_given():
    model = architectures.build(ModelSettings(name="mlp"), (3, 8, 8), 10, 0)
    assert Objective(model).chunk_bytes == 2**28
    assert Objective(model, chunk_bytes=7).chunk_bytes == 7
    assert Objective(model.to("meta")).chunk_bytes == 2**32
