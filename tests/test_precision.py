from dataclasses import replace

import pytest
import torch
from torch import nn

from cdu.data.datasets import load
from cdu.errors import CduError
from cdu.evaluation.accuracy import accuracy
from cdu.experiments.experiment import load_experiment
from cdu.experiments.setup import Setup
from cdu.models import batched_training, precision
from cdu.models.architectures import build
from cdu.models.objective import Objective, parameter_vector
from cdu.models.settings import ModelSettings, TrainingSettings
from cdu.models.training import train


@pytest.fixture(autouse=True)
def as_on_a_cpu_afterwards():
    yield
    precision.configure("cpu")


def state():
    return (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.is_autocast_enabled("cpu"),
    )


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cuda", "training in bf16 with the fastest convolutions, else float32, denormals flushed"),
        ("cpu", "float32, denormals flushed"),
    ],
)
def test_the_words_are_read_from_pytorch_and_not_from_what_was_asked_for(device, words):
    assert precision.configure(device) == words
    torch.set_flush_denormal(False)
    assert precision.in_force(device) == words.removesuffix(", denormals flushed")
    torch.set_float32_matmul_precision("medium")
    assert "TF32" in precision.in_force(device)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    assert "TF32" in precision.in_force(device)


@pytest.mark.parametrize("device", ["cpu", "cuda", "another"])
def test_configuring_leaves_no_tf32_and_no_trying_of_convolutions(device):
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    precision.configure(device)
    assert state() == ("highest", False, False, False)


@pytest.mark.parametrize("chosen", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("before", ["highest", "high"])
def test_training_has_its_own_arithmetic_and_gives_it_back(chosen, device, before):
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = before == "high"
    outside, single = state(), chosen != "tf32"

    def within():
        with precision.training(device, chosen):
            assert state() == ("highest" if single else "high", not single, device == "cuda", False)
            raise CduError("diverged")

    with pytest.raises(CduError):
        within()
    assert state() == outside


class Watching(nn.Module):
    """Notes what is in force while it runs."""

    def __init__(self):
        super().__init__()
        self.linear, self.seen = nn.Linear(64, 10), set()

    def forward(self, inputs):
        outputs = self.linear(inputs.flatten(1))
        self.seen.add((*state(), outputs.dtype))
        return outputs


def digits(count=300):
    return load("digits").train.subset(torch.arange(count))


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [
        (None, ("highest", False, False, False, torch.float32)),
        ("float32", ("highest", False, False, False, torch.float32)),
        ("tf32", ("high", True, False, False, torch.float32)),
        ("bf16", ("highest", False, False, True, torch.bfloat16)),
    ],
)
@pytest.mark.parametrize("diverging", [False, True])
def test_a_training_is_computed_in_what_was_asked_for_and_what_follows_is_not(chosen, seen, diverging):
    precision.configure("cpu")
    model, settings = Watching(), TrainingSettings(epochs=2, batch_size=64, radius=4.0)
    if diverging:
        settings = settings.model_copy(update={"learning_rate": 1e30, "radius": 1e38})
        with pytest.raises(CduError, match="diverged"):
            train(model, digits(), settings, 0, computed_in=chosen)
    else:
        trained = train(model, digits(), settings, 0, computed_in=chosen)
        assert trained.w.dtype == torch.float32
    assert model.seen == {seen}
    assert state() == ("highest", False, False, False)


def test_the_device_s_own_precision_is_what_the_table_says(monkeypatch):
    own = replace(precision.ARITHMETIC["cpu"], training="bf16")
    monkeypatch.setitem(precision.ARITHMETIC, "cpu", own)
    model = Watching()
    train(model, digits(), TrainingSettings(epochs=1, batch_size=64), 0)
    assert {dtype for *_, dtype in model.seen} == {torch.bfloat16}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_training_in_bf16_is_nearly_as_accurate(seed):
    data = load("digits")
    settings = TrainingSettings(epochs=6, batch_size=64, radius=20.0, learning_rate=3e-3)
    found, weights = {}, {}
    for chosen in ("float32", "bf16"):
        trained = train(
            build(ModelSettings(name="mlp"), (1, 8, 8), 10, seed), data.train, settings, seed, None, computed_in=chosen
        )
        found[chosen] = accuracy(Objective(trained.model), trained.w, data.test)
        weights[chosen] = trained.w
    assert found["float32"] > 0.9
    # One test image of 300 is 0.0033.
    assert abs(found["bf16"] - found["float32"]) <= 0.02
    assert not torch.equal(weights["bf16"], weights["float32"])


def test_batchnorm_keeps_single_precision_in_bf16():
    settings = TrainingSettings(epochs=1, batch_size=32, radius=20.0)
    statistics = {}
    for chosen in ("float32", "bf16"):
        model = build(ModelSettings(name="allcnn", width=0.02), (1, 8, 8), 10, 0)
        statistics[chosen] = dict(train(model, digits(64), settings, 0, computed_in=chosen).model.named_buffers())
    for name, single in statistics["float32"].items():
        assert statistics["bf16"][name].dtype == single.dtype
    # After two batches of images alike only the rounding of the convolution tells the two apart.
    first = "1.running_mean"
    torch.testing.assert_close(statistics["bf16"][first], statistics["float32"][first], rtol=0.05, atol=0.005)
    assert not torch.equal(statistics["bf16"][first], statistics["bf16"][first].bfloat16().float())


def test_a_step_in_bf16_has_the_gradient_of_float32_up_to_8_bits():
    settings = TrainingSettings(epochs=1, batch_size=300, learning_rate=1e-3, radius=1e6)
    moved = {}
    for chosen in ("float32", "bf16"):
        model = build(ModelSettings(name="mlp"), (1, 8, 8), 10, 0)
        moved[chosen] = train(model, digits(), settings, 0, computed_in=chosen)
    losses = [trained.history[0]["loss"] for trained in moved.values()]
    assert losses[0] == pytest.approx(losses[1], rel=2**-8)
    # More than 8 bits: the loss itself is not taken in bf16.
    assert torch.tensor(losses[1]).bfloat16().item() != losses[1]


@pytest.mark.parametrize("chosen", ["float32", "bf16"])
def test_shadows_that_are_trained_together_are_computed_in_the_same(chosen):
    samples, rows = digits(), torch.arange(240).view(3, 80)
    models = [build(ModelSettings(name="mlp"), (1, 8, 8), 10, seed) for seed in range(3)]
    w = torch.stack([parameter_vector(model) for model in models])
    inputs = torch.stack([samples.batch(own)[0] for own in rows])
    outputs = batched_training._forward(models[0], chosen)(w, inputs)
    exact = batched_training._forward(models[0], "float32")(w.double(), inputs.double())
    assert outputs.dtype == torch.float32
    assert ((outputs - exact).norm() > 1e-4 * exact.norm()) == (chosen == "bf16")
    assert (outputs - exact).norm() < 1e-2 * exact.norm()
    settings = TrainingSettings(epochs=1, batch_size=32, radius=4.0)
    together = batched_training.train_batched(models, samples, rows, settings, range(3), computed_in=chosen).w
    alone = train(models[1], samples.subset(rows[1]), settings, 1, computed_in=chosen).w
    assert (together[1] - alone).norm() <= (1e-5 if chosen == "float32" else 5e-3) * alone.norm()


def setup(tmp_path, device):
    return Setup(load_experiment("quick"), "digits", 0, tmp_path, torch.device(device))


def test_a_kept_training_of_another_precision_is_not_taken(tmp_path, monkeypatch):
    def keys(device):
        one, recipe = setup(tmp_path, device), load_experiment("quick").settings("digits").training
        return one._checkpoint("samples", 0, recipe), one._precision

    known = {device: keys(device) for device in ("cpu", "cuda")}
    assert known["cpu"][1] == {}
    assert known["cuda"][1] == {"precision": "bf16"}
    for device in ("cpu", "cuda"):
        own = replace(precision.ARITHMETIC[device], training="tf32")
        monkeypatch.setitem(precision.ARITHMETIC, device, own)
        assert keys(device)[0] != known[device][0]
    # Where nothing is said of a precision, a GPU computed in TF32.
    monkeypatch.setitem(precision.ARITHMETIC, "cuda", replace(precision.ARITHMETIC["cuda"], training="float32"))
    assert keys("cuda")[1] == {"precision": "float32"}
