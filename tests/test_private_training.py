"""DP-SGD: its noise and its promise, what a sample can move, and that a linear model trained by it is good."""

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from torch import nn
from torch.nn.functional import cross_entropy

from cdu.certification.gaussian import gaussian_sigma
from cdu.data import datasets
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models.architectures import AllCNN, LogisticRegression
from cdu.models.objective import parameter_vector
from cdu.models.private_training import PrivacyGuarantee, _poisson_batches, privacy_guarantee, train_privately

SILENT = 1e-12


def samples(count=40, seed=0):
    normal = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 5, generator=normal, dtype=torch.float64)
    return Samples(inputs, torch.arange(count) % 3, dtype=torch.float64)


def linear(seed=0):
    torch.manual_seed(seed)
    return LogisticRegression(5, 3).double()


def promise(sigma=SILENT, rate=1.0, steps=1):
    """A guarantee without a meaning, for a training whose noise is not needed."""
    return PrivacyGuarantee(sigma, rate, steps, 1e-5, float("inf"))


def test_one_step_on_all_rows_needs_the_noise_of_the_gaussian_mechanism():
    found = privacy_guarantee(2.0, 1e-5, 1.0, 1)
    # The accountant's ε includes its error of 0.01.
    assert gaussian_sigma(2.0, 1e-5, 1.0) < found.noise_multiplier < gaussian_sigma(1.98, 1e-5, 1.0)
    assert 1.99 < found.epsilon <= 2.0


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(1.0, 0.05, 100), (8.0, 0.2, 60)])
def test_dp_accounting_agrees(epsilon, rate, steps):
    """Slow: both accountants take seconds."""
    found = privacy_guarantee(epsilon, 1e-5, rate, steps)
    step = PoissonSampledDpEvent(rate, GaussianDpEvent(found.noise_multiplier))
    theirs = PLDAccountant(value_discretization_interval=1e-3).compose(SelfComposedDpEvent(step, steps))
    assert found.epsilon <= epsilon
    assert found.epsilon == pytest.approx(theirs.get_epsilon(1e-5) + 0.01, abs=5e-3)
    assert found.group_epsilon(1) == pytest.approx(found.epsilon, abs=1e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_steps_are_those_of_a_dense_reference(momentum, seed):
    """Three steps on all rows without noise, in chunks, against gradients of one sample at a time."""
    data, model, clip = samples(300, seed), linear(seed), 0.7
    found = train_privately(model, data, promise(steps=3), learning_rate=0.5, clip=clip, momentum=momentum)
    w, velocity = parameter_vector(model), 0.0
    for _ in range(3):
        total = torch.zeros_like(w)
        for x, y in zip(data.inputs, data.targets, strict=True):
            leaf = w.clone().requires_grad_()
            logits = x @ leaf[:15].view(3, 5).T + leaf[15:]
            (gradient,) = torch.autograd.grad(cross_entropy(logits[None], y[None]), leaf)
            total += gradient * min(1.0, clip / gradient.norm().item())
        velocity = momentum * velocity + total / len(data)
        w = w - 0.5 * velocity
    assert torch.allclose(found.w, w, rtol=0, atol=2e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_sample_moves_a_step_by_the_clipping_norm_at_most(seed):
    data, clip, rate = samples(30, seed), 0.25, 2.0
    data.inputs[-1] *= 1e6
    # The class that the start thinks least likely, so that the gradient is large.
    data.targets[-1] = linear()(data.inputs[-1:]).argmin()
    with_it = train_privately(linear(), data, promise(), learning_rate=rate, clip=clip, rows=30)
    without = train_privately(
        linear(), data.subset(torch.arange(29)), promise(), learning_rate=rate, clip=clip, rows=30
    )
    moved = (with_it.w - without.w).norm().item()
    assert moved == pytest.approx(rate * clip / 30, rel=1e-3)
    assert moved <= rate * clip / 30 * (1 + 1e-9)


def test_the_noise_has_its_standard_deviation_and_an_empty_batch_is_noise_alone():
    data = samples(10)
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 4000).double())
    rare = promise(sigma=3.0, rate=1e-9)
    found = train_privately(model, data, rare, learning_rate=1e-9, clip=0.5, unsafe_seed=0)
    noise = parameter_vector(model) - found.w
    # η·σ·c/(q·n)
    assert noise.std().item() == pytest.approx(1e-9 * 3.0 * 0.5 / 1e-8, rel=0.03)
    assert abs(noise.mean().item()) < 4 * noise.std().item() / len(noise) ** 0.5


def test_rows_are_taken_independently_with_the_rate():
    batches = list(_poisson_batches(200, promise(rate=0.1, steps=400), torch.Generator().manual_seed(0)))
    taken = torch.zeros(400, 200)
    for row, batch in zip(taken, batches, strict=True):
        row[batch] = 1
    sizes = taken.sum(1)
    assert taken.mean().item() == pytest.approx(0.1, abs=0.004)
    assert sizes.var().item() == pytest.approx(200 * 0.1 * 0.9, rel=0.25)
    assert np.abs(np.corrcoef(taken.T.numpy()) - np.eye(200)).max() < 0.27


def test_a_seed_repeats_and_secrets_do_not():
    data, guarantee = samples(), promise(sigma=1.0, rate=0.5, steps=2)
    first, again = (train_privately(linear(), data, guarantee, learning_rate=0.1, unsafe_seed=3) for _ in range(2))
    one, other = (train_privately(linear(), data, guarantee, learning_rate=0.1) for _ in range(2))
    assert torch.equal(first.w, again.w)
    assert not torch.equal(one.w, other.w)


def test_the_given_model_is_left_alone_and_the_trained_one_is_plain():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    model[0].requires_grad_(False)
    before = parameter_vector(model)
    found = train_privately(model, samples(), promise(sigma=1.0, steps=2), learning_rate=0.1)
    assert torch.equal(parameter_vector(model), before)
    assert torch.equal(found.w, parameter_vector(found.model))
    assert torch.equal(found.model[0].weight, model[0].weight)
    assert not torch.equal(found.model[2].weight, model[2].weight)
    assert not any(hasattr(parameter, "grad_sample") for parameter in found.model.parameters())
    assert not found.model.training


@pytest.mark.parametrize("seed", [0, 1])
def test_a_linear_model_on_digits_is_good_at_epsilon_8(seed):
    digits = datasets.load("digits", torch.device("cpu"))
    # privacy_guarantee(8, 1e-5, 0.2, 60), which takes seconds, finds 1.2167.
    model = LogisticRegression(64, 10)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    found = train_privately(model, digits.train, promise(1.2167, 0.2, 60), learning_rate=1.0, unsafe_seed=seed)
    inputs, labels = digits.test.batch(slice(None))
    assert (found.model(inputs).argmax(1) == labels).double().mean() > 0.9


def test_what_cannot_be_trained_is_refused():
    images = Samples(torch.rand(4, 1, 8, 8), torch.arange(4) % 2)
    with pytest.raises(CduError, match="layer '1' is BatchNorm, which mixes the samples of a batch"):
        train_privately(AllCNN(1, 2, 0.05), images, promise(), learning_rate=0.1)
    with pytest.raises(CduError, match="there are no samples"):
        train_privately(linear(), samples().subset(torch.arange(0)), promise(), learning_rate=0.1)
    with pytest.raises(CduError, match="nothing to train"):
        train_privately(linear().requires_grad_(False), samples(), promise(), learning_rate=0.1)
    with pytest.raises(CduError, match=r"epsilon = 0\.01 is below what the accountant tells"):
        privacy_guarantee(0.01, 1e-5, 0.1, 10)


def test_a_diverged_training_is_refused():
    with pytest.raises(CduError, match=r"DP-SGD diverged.*lower the learning rate"):
        train_privately(linear(), samples(), promise(steps=3), learning_rate=1e300, clip=1e300)
