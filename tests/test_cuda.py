"""What only a GPU can show: ``pytest tests/test_cuda.py`` takes seconds there, and skips everything elsewhere."""

import pytest
import torch
from torch import nn

from cdu import errors
from cdu.data.datasets import load
from cdu.data.samples import Dataset, Samples
from cdu.evaluation.accuracy import accuracy
from cdu.experiments.device import channels_last
from cdu.models import precision, training
from cdu.models.architectures import build
from cdu.models.cuda_graph import Captured
from cdu.models.objective import KEPT_BYTES, Objective, kept_bytes, parameter_vector
from cdu.models.settings import ModelSettings, TrainingSettings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")

PRECISIONS = ["float32", "tf32", "bf16"]
#: The last batch of an epoch has 44 images.
SETTINGS = TrainingSettings(epochs=3, batch_size=64, radius=8.0, weight_decay=5e-4)


@pytest.fixture(autouse=True)
def repeatable():
    """Convolutions by algorithms that give the same bits again; the rest as a run sets it."""
    precision.configure("cuda")
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = False
    torch.cuda.set_sync_debug_mode("default")
    precision.configure("cpu")


def images(count=300):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    samples = Samples(inputs, torch.arange(count) % 10, (0.5,) * 3, (0.5,) * 3).to("cuda")
    return channels_last(Dataset("cifar10", samples, samples)).train


def network(name, width=0.25, seed=0):
    return build(ModelSettings(name=name, width=width), (3, 32, 32), 10, seed).to("cuda")


def eagerly(monkeypatch, *arguments, **options):
    with monkeypatch.context() as patch:
        patch.setattr(training, "replayed", lambda step, state: step)
        return training.train(*arguments, **options)


def counted_captures(monkeypatch):
    made, original = [], Captured._record

    def record(self, held):
        original(self, held)
        made.append((len(held), self.obstacle))

    monkeypatch.setattr(Captured, "_record", record)
    return made


def assert_same(one, other, start):
    """Two trainings came to the same point, up to rounding beside the way that they went."""
    assert (one.w - other.w).norm() <= 1e-3 * (other.w - start).norm()
    for mine, theirs in zip(one.model.buffers(), other.model.buffers(), strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    for mine, theirs in zip(one.history, other.history, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert mine["projected"] == theirs["projected"]


@pytest.mark.parametrize("chosen", PRECISIONS)
@pytest.mark.parametrize("name", ["mlp", "allcnn", "resnet18"])
def test_a_captured_training_is_the_eager_one_with_a_small_last_batch(monkeypatch, name, chosen):
    made, samples = counted_captures(monkeypatch), images()
    captured = training.train(network(name), samples, SETTINGS, 0, computed_in=chosen)
    assert made == [(64, ""), (44, "")]
    eager = eagerly(monkeypatch, network(name), samples, SETTINGS, 0, computed_in=chosen)
    assert_same(captured, eager, parameter_vector(network(name)))
    assert captured.w.dtype == torch.float32
    assert captured.w.double().norm() <= 8.0


def test_batchnorm_counts_the_batches_that_were_trained_on_and_no_warm_up():
    trained = training.train(network("allcnn"), images(), SETTINGS, 0)
    counts = [value.item() for key, value in trained.model.named_buffers() if key.endswith("num_batches_tracked")]
    assert set(counts) == {3 * 5}
    kinds = {value.dtype for key, value in trained.model.named_buffers() if "running" in key}
    assert kinds == {torch.float32}


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("chosen", ["float32", "bf16"])
def test_an_interrupted_training_resumes_before_it_captures(tmp_path, monkeypatch, chosen):
    samples, path = images(), tmp_path / "model.safetensors"
    whole = training.train(network("allcnn"), samples, SETTINGS, 0, computed_in=chosen)
    original, done = training._epoch, []

    def epoch(*arguments):
        if len(done) == 2:
            raise Interrupted
        done.append(1)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", epoch)
        patch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(Interrupted):
            training.train(network("allcnn"), samples, SETTINGS, 0, path, computed_in=chosen)
    made = counted_captures(monkeypatch)
    resumed = training.train(network("allcnn"), samples, SETTINGS, 0, path, computed_in=chosen)
    assert made == [(64, ""), (44, "")]
    assert_same(resumed, whole, parameter_vector(network("allcnn")))
    loaded = training.train(network("allcnn"), samples, SETTINGS, 0, path, computed_in=chosen)
    assert len(made) == 2
    assert torch.equal(loaded.w, resumed.w)


def dropout():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 10)).to("cuda")


def test_dropout_is_not_captured_and_draws_what_it_draws_eagerly(monkeypatch, capsys):
    made, samples = counted_captures(monkeypatch), images()
    fallen_back = training.train(dropout(), samples, SETTINGS, 0, computed_in="float32")
    assert made == []
    assert "the network draws random numbers" in capsys.readouterr().out
    eager = eagerly(monkeypatch, dropout(), samples, SETTINGS, 0, computed_in="float32")
    assert torch.equal(fallen_back.w, eager.w)


def averaging():
    """Statistics that are means of all batches: PyTorch reads their number back in every step."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=None), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(8, 10)).to("cuda")


def test_what_cannot_be_captured_is_trained_eagerly_and_the_next_network_is_captured(monkeypatch, capsys):
    made, samples = counted_captures(monkeypatch), images()
    fallen_back = training.train(averaging(), samples, SETTINGS, 0, computed_in="float32")
    assert "it cannot be captured" in capsys.readouterr().out
    assert len(made) == 1
    assert torch.rand(100, device="cuda").unique().numel() > 90
    eager = eagerly(monkeypatch, averaging(), samples, SETTINGS, 0, computed_in="float32")
    assert_same(fallen_back, eager, parameter_vector(averaging()))
    training.train(network("allcnn"), samples, SETTINGS, 0)
    assert made[1:] == [(64, ""), (44, "")]


@pytest.mark.parametrize("chosen", PRECISIONS)
def test_no_step_waits_for_the_gpu_eager_or_captured(chosen):
    model, samples = network("allcnn").train(), images()
    w = parameter_vector(model).requires_grad_()
    step = training.Step(Objective(model), w, training.Adam(w, 1e-3), samples, 8.0, chosen)
    run, rows = Captured(step, step.state), torch.arange(64, device="cuda")
    with precision.training("cuda", chosen):
        step(rows)
        run(rows)
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(3):
            step(rows)
            run(rows)
        torch.cuda.set_sync_debug_mode("default")
    assert step.adam.state["step"].item() == 8
    assert step.finite.item()


def test_a_diverged_training_is_an_error_and_its_memory_is_given_back():
    training.train(network("allcnn"), images(), SETTINGS, 0)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    settings = SETTINGS.model_copy(update={"learning_rate": 1e30, "radius": 1e38})
    with pytest.raises(errors.CduError, match="diverged in epoch 1"):
        training.train(network("allcnn"), images(), settings, 0)
    assert torch.cuda.memory_allocated() - before < 2**26


def relative_error(product, left, right):
    exact = product(left.double(), right.double())
    return ((product(left, right).double() - exact).norm() / exact.norm()).item()


def convolve(images, filters):
    return nn.functional.conv2d(images, filters, padding=1)


@pytest.mark.parametrize("chosen", PRECISIONS)
def test_after_a_training_products_and_convolutions_are_in_full_single_precision(chosen):
    generator = torch.Generator("cuda").manual_seed(0)
    matrices = [torch.randn(512, 512, device="cuda", generator=generator) for _ in range(2)]
    images_ = torch.randn(16, 64, 16, 16, device="cuda", generator=generator)
    filters = torch.randn(64, 64, 3, 3, device="cuda", generator=generator)
    training.train(network("allcnn"), images(), SETTINGS, 0, computed_in=chosen)
    assert not torch.is_autocast_enabled("cuda")
    assert not torch.backends.cudnn.benchmark
    assert relative_error(torch.matmul, *matrices) < 1e-5
    assert relative_error(convolve, images_, filters) < 1e-5
    with precision.training("cuda", "tf32"):
        assert relative_error(torch.matmul, *matrices) > 1e-5


@pytest.mark.parametrize("name", ["allcnn", "resnet18"])
def test_gradients_and_products_are_those_of_double_precision_on_a_cpu(name):
    trained = training.train(network(name), images(), SETTINGS, 0)
    samples = images(40)
    objective, w = Objective(trained.model, l2=1e-3), trained.w
    vector = torch.randn(len(w), generator=torch.Generator().manual_seed(1)).to("cuda")
    found = objective.gradient(w, samples), objective.hvp(w, samples, vector)
    exact = Objective(trained.model.cpu().double(), l2=1e-3)
    on_cpu = samples.to("cpu", torch.float64)
    point = w.cpu().double()
    expected = exact.gradient(point, on_cpu), exact.hvp(point, on_cpu, vector.cpu().double())
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.cpu().double() - theirs).norm() <= 1e-3 * theirs.norm()


@pytest.mark.parametrize("chosen", PRECISIONS)
def test_digits_are_learnt(chosen):
    data = load("digits", "cuda")
    settings = TrainingSettings(epochs=15, batch_size=64, radius=20.0, learning_rate=3e-3)
    model = build(ModelSettings(name="mlp"), (1, 8, 8), 10, 0).to("cuda")
    trained = training.train(model, data.train, settings, 0, computed_in=chosen)
    assert accuracy(Objective(trained.model), trained.w, data.test) > 0.9


def test_kept_graphs_leave_half_of_the_memory_to_others():
    free, _ = torch.cuda.mem_get_info()
    room = kept_bytes(torch.device("cuda"))
    assert 0 < room <= KEPT_BYTES["cuda"]
    assert room <= (free + torch.cuda.memory_reserved()) // 2
