import copy

import pytest
import torch

from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models import architectures
from cdu.models.batchnorm import has_statistics
from cdu.models.objective import Objective, parameter_vector
from cdu.models.settings import ModelSettings
from cdu.unlearning.problem import UnlearningResult
from cdu.unlearning.release import Release, recalibrated


def images(count=48, seed=0):
    inputs = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Samples(inputs * 3 + 1, torch.arange(count) % 10, dtype=torch.float64)


def released(name="allcnn", seed=0):
    model = architectures.build(ModelSettings(name=name, width=0.05), (3, 8, 8), 10, seed).double()
    # Statistics that belong to no data.
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.fill_(7.0)
    w = parameter_vector(model) + 0.05 * torch.randn(
        sum(p.numel() for p in model.parameters()), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return Release(w, Objective(model, l2=1e-3), None, UnlearningResult(w, 0.0))


def first_norm(release):
    return next(layer for layer in release.objective.model.modules() if isinstance(layer, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("batch_size", [16, 48, 100])
def test_the_first_layers_statistics_are_means_over_batches_at_the_released_weights(batch_size):
    release, samples = released(), images()
    norm = first_norm(recalibrated(release, samples, batch_size))
    kernel = release.objective.tensors(release.w)["0.weight"]
    values = torch.nn.functional.conv2d(samples.inputs, kernel, padding=1)
    batches = values.split(min(batch_size, 48))
    torch.testing.assert_close(norm.running_mean, torch.stack([one.mean((0, 2, 3)) for one in batches]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([one.var((0, 2, 3)) for one in batches]).mean(0))


@pytest.mark.parametrize("name", ["allcnn", "resnet18"])
def test_on_one_batch_evaluation_is_what_training_mode_computes(name):
    release, samples = released(name), images()
    anew = recalibrated(release, samples, 48)
    module = copy.deepcopy(release.objective.model).train()
    found = anew.objective.outputs(release.w, samples)
    expected = Objective(module).forward(release.w, samples.inputs).detach()
    # Up to the unbiased variance, which layer upon layer shrinks values by n/(n − 1) at most, n ≥ 48 values a channel.
    torch.testing.assert_close(found, expected, rtol=0.2, atol=0.1)


def test_nothing_else_changes():
    release = released()
    before = {name: value.clone() for name, value in release.objective.model.state_dict().items()}
    anew = recalibrated(release, images(), 16)
    assert all(torch.equal(value, before[name]) for name, value in release.objective.model.state_dict().items())
    assert torch.equal(anew.w, release.w)
    assert (anew.objective.l2, anew.objective.loss_function) == (release.objective.l2, release.objective.loss_function)
    assert not anew.objective.model.training
    assert first_norm(anew).momentum == first_norm(release).momentum


def test_statistics_that_would_stay_those_of_all_data_are_refused():
    layers = (torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.InstanceNorm2d(2, track_running_stats=True))
    network = torch.nn.Sequential(*layers, torch.nn.Flatten()).double()
    w = parameter_vector(network)
    with pytest.raises(CduError, match="running statistics outside BatchNorm's layers"):
        recalibrated(Release(w, Objective(network), None, UnlearningResult(w, 0.0)), images(), 16)


@pytest.mark.parametrize("size", [1, 0, -1])
def test_a_batch_without_a_variance_is_refused(size):
    with pytest.raises(CduError, match=f"batch_size = {size} is below 2"):
        recalibrated(released(), images(), size)


def test_the_statistics_do_not_depend_on_those_that_training_left():
    release, other = released(), released()
    for buffer in other.objective.model.buffers():
        if buffer.is_floating_point():
            buffer.fill_(0.3)
    found = [dict(recalibrated(one, images(), 16).objective.model.named_buffers()) for one in (release, other)]
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_what_is_left_over_of_the_last_batch_has_no_part():
    release, samples = released(), images(33)
    even, odd = (
        dict(recalibrated(release, part, 16).objective.model.named_buffers())
        for part in (samples.subset(torch.arange(32)), samples)
    )
    assert all(torch.equal(even[name], odd[name]) for name in even)
    assert odd["1.num_batches_tracked"] == 2


def test_a_network_without_statistics_and_a_single_sample_are_refused():
    model = architectures.build(ModelSettings(name="mlp"), (3, 8, 8), 10, 0).double()
    assert not has_statistics(model)
    plain = Release(parameter_vector(model), Objective(model), None, UnlearningResult(parameter_vector(model), 0.0))
    with pytest.raises(CduError, match="no BatchNorm statistics"):
        recalibrated(plain, images(), 16)
    with pytest.raises(CduError, match="at least two samples, found 1"):
        recalibrated(released(), images(1), 16)
