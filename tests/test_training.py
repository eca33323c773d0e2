import pytest
import torch
from safetensors.torch import save_file

from cdu import clock, seeding, storage
from cdu.data.datasets import load
from cdu.errors import CduError
from cdu.models import training
from cdu.models.architectures import build
from cdu.models.objective import Objective, parameter_vector
from cdu.models.settings import ModelSettings, TrainingSettings
from conftest import random_samples

SETTINGS = TrainingSettings(epochs=6, batch_size=32, radius=4.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_adam_is_pytorchs_bit_for_bit(dtype, decay):
    stream = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(1001, generator=stream, dtype=dtype) for _ in range(6))
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    adam = training.Adam(ours, 1e-2, decay)
    reference = torch.optim.Adam([theirs], lr=1e-2, weight_decay=decay, fused=True)
    for gradient in gradients:
        adam.step(gradient)
        theirs.grad = gradient
        reference.step()
    assert torch.equal(ours, theirs)
    assert all(torch.equal(value, reference.state[theirs][key]) for key, value in adam.state.items())


def digits():
    return load("digits").train.subset(torch.arange(300))


def fresh(seed=0, name="mlp"):
    return build(ModelSettings(name=name, width=0.02), (1, 8, 8), 10, seed)


class Interrupted(Exception):
    pass


def interrupt_after(monkeypatch, epochs):
    real, calls = training._epoch, []

    def epoch(*args):
        if len(calls) == epochs:
            raise Interrupted
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(training, "_epoch", epoch)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)


@pytest.mark.parametrize("name", ["mlp", "allcnn"])
def test_interrupted_training_resumes_to_the_same_bits(tmp_path, monkeypatch, name):
    whole = training.train(fresh(name=name), digits(), SETTINGS, 3)
    path = tmp_path / "model.safetensors"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        with pytest.raises(Interrupted):
            training.train(fresh(name=name), digits(), SETTINGS, 3, path)
    assert not path.exists()
    resumed = training.train(fresh(name=name), digits(), SETTINGS, 3, path)
    assert torch.equal(whole.w, resumed.w)
    for (_, one), (_, other) in zip(whole.model.named_buffers(), resumed.model.named_buffers(), strict=True):
        assert torch.equal(one, other)
    drop = [{k: v for k, v in row.items() if k != "seconds"} for row in whole.history]
    assert drop == [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.history]
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_end_of_the_time_keeps_the_epochs_that_are_done(tmp_path, monkeypatch):
    whole = training.train(fresh(), digits(), SETTINGS, 3)
    path = tmp_path / "model.safetensors"
    with monkeypatch.context() as patch:
        real = training._epoch

        def last(step, run, settings, seed, epoch):
            if epoch == 1:
                patch.setenv(clock.VARIABLE, "1")
            return real(step, run, settings, seed, epoch)

        patch.setattr(training, "_epoch", last)
        with pytest.raises(clock.OutOfTime, match="the time is up before epoch 3 of training"):
            training.train(fresh(), digits(), SETTINGS, 3, path)
    assert not path.exists()
    done, real = [], training._epoch
    monkeypatch.setattr(training, "_epoch", lambda *given: done.append(given[-1]) or real(*given))
    assert torch.equal(training.train(fresh(), digits(), SETTINGS, 3, path).w, whole.w)
    assert done == [2, 3, 4, 5]


def test_a_model_without_moments_is_loaded_and_not_trained_further(tmp_path):
    path, lean = tmp_path / "model.safetensors", tmp_path / "lean.safetensors"
    trained = training.train(fresh(), digits(), SETTINGS, 3, path)
    tensors, history = storage.read_tensors(path, "")
    storage.write_tensors(lean, {"w": tensors["w"]}, history)
    assert torch.equal(training.train(fresh(), digits(), SETTINGS, 3, lean).w, trained.w)
    longer = SETTINGS.model_copy(update={"epochs": 8})
    whole, gone_on, anew = (
        training.train(fresh(), digits(), longer, 3, earlier=earlier).w for earlier in (None, path, lean)
    )
    assert torch.equal(gone_on, whole)
    assert torch.equal(anew, whole)


def test_a_finished_training_is_loaded_and_not_repeated(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    first = training.train(fresh(), digits(), SETTINGS, 0, path)
    monkeypatch.setattr(training, "_epoch", lambda *_: pytest.fail("trained again"))
    second = training.train(fresh(), digits(), SETTINGS, 0, path)
    assert torch.equal(first.w, second.w)
    assert first.history == second.history
    assert first.fingerprint == second.fingerprint
    other = training.Trained(first.model, first.w + 1e-6, [{"projected": 0.25}, {"projected": 1.0}])
    assert other.fingerprint != first.fingerprint
    assert other.projected_share == 0.625


def test_one_step_is_adam_with_coupled_decay_then_projection():
    samples = random_samples((1, 4, 4), 16, 0, classes=10)
    model = build(ModelSettings(name="logistic"), (1, 4, 4), 10, 0).double()
    settings = TrainingSettings(epochs=1, batch_size=16, radius=0.5, learning_rate=0.01, weight_decay=0.1)
    trained = training.train(model, samples, settings, 0)
    w = parameter_vector(model)
    order = torch.randperm(16, generator=seeding.generator(0, "batches", 0))
    inputs, targets = samples.batch(order)
    loss = torch.nn.functional.cross_entropy(model(inputs), targets)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]) + 0.1 * w
    stepped = w - 0.01 * gradient / (gradient.abs() + 1e-8)
    assert stepped.norm() > 0.5
    assert torch.allclose(trained.w, stepped * 0.5 / stepped.norm(), atol=1e-10)
    assert trained.history[0]["projected"] == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["mlp", "allcnn"])
@pytest.mark.parametrize("seed", [0, 1])
def test_training_is_the_plain_loop_with_pytorchs_adam_to_the_bit(dtype, name, seed):
    samples = digits().subset(torch.arange(70)).to(dtype=dtype)
    settings = TrainingSettings(epochs=3, batch_size=32, radius=4.0, weight_decay=0.01)
    trained = training.train(fresh(seed, name).to(dtype), samples, settings, seed)
    model = fresh(seed, name).to(dtype).train()
    objective, w = Objective(model), parameter_vector(model).requires_grad_()
    adam = torch.optim.Adam([w], lr=settings.learning_rate, weight_decay=0.01, fused=True)
    losses, active = [], []
    for epoch in range(3):
        order = torch.randperm(70, generator=seeding.generator(seed, "batches", epoch))
        losses.append(torch.zeros((), dtype=dtype))
        for rows in order.split(32):
            loss = torch.nn.functional.cross_entropy(
                objective.forward(w, samples.batch(rows)[0]), samples.targets[rows]
            )
            (w.grad,) = torch.autograd.grad(loss, w)
            adam.step()
            with torch.no_grad():
                norm = w.norm()
                active.append((norm > 4.0).item())
                w.mul_((4.0 / norm).clamp(max=1.0))
                losses[-1] += loss * len(rows)
    assert torch.equal(trained.w, training.project(w.detach(), 4.0))
    assert all(map(torch.equal, trained.model.buffers(), model.buffers()))
    assert [row["loss"] for row in trained.history] == [loss.item() / 70 for loss in losses]
    assert [row["projected"] for row in trained.history] == [sum(active[i : i + 3]) / 3 for i in (0, 3, 6)]


@pytest.mark.parametrize("name", ["mlp", "allcnn"])
def test_training_is_that_of_a_module_with_its_own_parameters(name):
    samples = digits().subset(torch.arange(70)).to(dtype=torch.float64)
    settings = TrainingSettings(epochs=2, batch_size=32, radius=1e6, weight_decay=0.01)
    trained = training.train(fresh(name=name).double(), samples, settings, 5)
    model = fresh(name=name).double().train()
    adam = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    for epoch in range(2):
        for rows in torch.randperm(70, generator=seeding.generator(5, "batches", epoch)).split(32):
            adam.zero_grad()
            inputs, targets = samples.batch(rows)
            torch.nn.functional.cross_entropy(model(inputs), targets).backward()
            adam.step()
    torch.testing.assert_close(trained.w, parameter_vector(model), rtol=1e-9, atol=1e-11)
    for one, other in zip(trained.model.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("seed", range(20))
def test_projection_is_idempotent_and_ends_inside(seed):
    w = torch.randn(26_506, generator=torch.Generator().manual_seed(seed))
    once = training.project(w, 3.0)
    assert once.double().norm() <= 3.0
    assert torch.allclose(once, 3.0 * w / w.norm())
    assert torch.equal(training.project(once, 3.0), once)
    assert training.project(w, 1e6) is w


def test_the_ball_is_never_left_and_the_share_is_recorded():
    small = training.train(fresh(), digits(), SETTINGS.model_copy(update={"radius": 2.0}), 0)
    assert small.w.double().norm() <= 2.0
    assert small.history[-1]["projected"] == 1.0
    large = training.train(fresh(), digits(), SETTINGS.model_copy(update={"radius": 1e6}), 0)
    assert all(row["projected"] == 0.0 for row in large.history)


def test_training_learns_and_other_seeds_give_other_weights():
    settings = SETTINGS.model_copy(update={"radius": 20.0, "epochs": 20})
    first, second = (training.train(fresh(), digits(), settings, seed) for seed in (0, 1))
    assert first.history[-1]["loss"] < 0.2 * first.history[0]["loss"]
    assert not torch.equal(first.w, second.w)


def test_divergence_is_an_error_that_names_the_learning_rate():
    settings = SETTINGS.model_copy(update={"learning_rate": 1e30, "radius": 1e38})
    with pytest.raises(CduError, match=r"diverged in epoch 1.*lower the learning rate \(it is 1e\+30\)"):
        training.train(fresh(), digits(), settings, 0)


@pytest.mark.parametrize("content", [b"not a checkpoint", b""])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CduError, match=r"model.safetensors cannot be read .*delete it to train again"):
        training.train(fresh(), digits(), SETTINGS, 0, path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(3)}, path, metadata={"history": "[]"})
    with pytest.raises(CduError, match="cannot be read"):
        training.train(fresh(), digits(), SETTINGS, 0, path)
