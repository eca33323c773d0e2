"""Capture and replay on a stand-in for CUDA, which runs a step again where a GPU would replay it."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from cdu.data.datasets import load
from cdu.models import cuda_graph, training
from cdu.models.architectures import build
from cdu.models.cuda_graph import Captured, replayed
from cdu.models.objective import Objective, parameter_vector
from cdu.models.settings import ModelSettings, TrainingSettings


class Graph:
    """Runs what was captured again, on the tensors of then."""

    captured = None

    def replay(self):
        Graph.replays += 1
        self.captured()


@pytest.fixture
def device(monkeypatch):
    """PyTorch with a CUDA device of sorts; ``failure`` is what a capture raises."""
    Graph.replays = 0
    made = SimpleNamespace(failure=None, steps=[], pools=[], random=torch.zeros(3))
    stream = SimpleNamespace(wait_stream=lambda _: None)

    @contextmanager
    def graph(graph, stream, pool=None):
        made.pools.append(pool)
        if pool is None:
            yield
            return
        if made.failure is not None:
            raise made.failure
        yield
        step, held = made.steps[-1]
        graph.captured = lambda: step(held)

    cuda = SimpleNamespace(
        Stream=lambda _: stream,
        current_stream=lambda _: stream,
        stream=lambda _: nullcontext(),
        graph_pool_handle=lambda: "pool",
        CUDAGraph=Graph,
        graph=graph,
        get_rng_state=lambda _: made.random.clone(),
        set_rng_state=lambda state, _: made.random.copy_(state),
    )
    names = ("no_grad", "equal", "default_generator", "Tensor")
    torch_ = SimpleNamespace(cuda=cuda, **{name: getattr(torch, name) for name in names})
    torch_._C = SimpleNamespace(_cuda_endAllocateToPool=lambda *_: made.__setattr__("ended", True))
    monkeypatch.setattr(cuda_graph, "torch", torch_)
    return made


def noted(made, step):
    """The step; the stand-in learns what was captured."""

    def run(rows):
        made.steps.append((step, rows))
        step(rows)

    return run


def test_a_size_is_captured_once_and_leaves_no_trace(device):
    total, rows = torch.zeros(()), torch.tensor([1, 2])
    run = Captured(noted(device, lambda rows: total.add_(rows.sum())), [total])
    run(rows)
    assert total == 3
    run(torch.tensor([5, 6]))
    run(torch.tensor([7]))
    run(torch.tensor([8, 9]))
    assert total == 3 + 11 + 7 + 17
    assert Graph.replays == 4
    # Warm-up and capture, once for each of the two sizes.
    assert len(device.steps) == 2 * (cuda_graph.WARM_UP + 1)


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_a_step_that_draws_is_run_as_it_is_with_the_numbers_that_it_would_have_had(device, capsys, place):
    total = torch.zeros(())

    def draw():
        if place == "cpu":
            return torch.rand(())
        device.random[0] += 1
        return device.random[0].clone()

    with torch.random.fork_rng():
        torch.manual_seed(3)
        run = Captured(lambda _: total.add_(draw()), [total])
        for _ in range(2):
            run(torch.tensor([0]))
        torch.manual_seed(3)
        device.random.zero_()
        expected = draw() + draw()
    assert total == expected
    assert Graph.replays == 0
    assert capsys.readouterr().out.count("the network draws random numbers") == 1


def test_a_step_that_cannot_be_captured_is_run_as_it_is(device, capsys):
    device.failure = RuntimeError("operation not permitted when stream is capturing\nmore")
    total = torch.zeros(())
    run = Captured(lambda rows: total.add_(rows.sum()), [total])
    for _ in range(3):
        run(torch.tensor([1, 2]))
    assert total == 9
    assert device.ended
    # A capture that succeeds follows, which gives the generator back.
    assert device.pools == ["pool", None]
    assert capsys.readouterr().out.count("(operation not permitted when stream is capturing)") == 1


def test_an_error_of_the_step_itself_is_not_hidden(device):
    def step(rows):
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        Captured(step, [torch.zeros(())])(torch.tensor([0]))


def test_without_cuda_a_step_is_itself():
    def step(rows):
        pass

    assert replayed(step, [torch.zeros(())]) is step


@pytest.mark.parametrize("name", ["mlp", "allcnn"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_training_in_replays_is_the_same_to_the_bit_with_a_small_last_batch(device, monkeypatch, name, seed):
    samples = load("digits").train.subset(torch.arange(100))
    settings = TrainingSettings(epochs=3, batch_size=32, radius=4.0, weight_decay=0.01)

    def trained():
        return training.train(build(ModelSettings(name=name, width=0.02), (1, 8, 8), 10, seed), samples, settings, seed)

    eager = trained()
    monkeypatch.setattr(training, "replayed", lambda step, state: Captured(noted(device, step), state))
    again = trained()
    assert Graph.replays == 3 * 4
    assert torch.equal(eager.w, again.w)
    for one, other in zip(eager.model.buffers(), again.model.buffers(), strict=True):
        assert torch.equal(one, other)
    strip = [{key: value for key, value in row.items() if key != "seconds"} for row in eager.history]
    assert strip == [{key: value for key, value in row.items() if key != "seconds"} for row in again.history]


@pytest.mark.parametrize("name", ["mlp", "allcnn"])
def test_the_state_of_a_step_is_all_that_it_changes(name):
    samples = load("digits").train.subset(torch.arange(64))
    model = build(ModelSettings(name=name, width=0.02), (1, 8, 8), 10, 0).train()
    w = parameter_vector(model).requires_grad_()
    step = training.Step(Objective(model), w, training.Adam(w, 1e-3), samples, 1.0, "float32")
    step.begin()
    places = [tensor.data_ptr() for tensor in step.state]
    before = [tensor.detach().clone() for tensor in step.state]
    rows = torch.arange(32)
    for _ in range(2):
        step(rows)
    first = [tensor.detach().clone() for tensor in step.state]
    assert not any(torch.equal(one, other) for one, other in zip(before[:-1], first[:-1], strict=True))
    with torch.no_grad():
        for tensor, value in zip(step.state, before, strict=True):
            tensor.copy_(value)
    for _ in range(2):
        step(rows)
    assert all(torch.equal(one, other) for one, other in zip(first, step.state, strict=True))
    assert places == [tensor.data_ptr() for tensor in step.state]
