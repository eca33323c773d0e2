"""A model of one's own that answers requests: against dense references, and what it must refuse."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm as normal
from torch import nn
from torch.func import functional_call, grad, hessian
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

import cdu
from cdu.certification import required_sigma, trivial_bound
from cdu.certification.rounding import ball_rounding, computed
from cdu.errors import CduError
from cdu.own_model import deletion
from cdu.own_model.unlearner import Unlearner
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.problem import UnlearningResult

L2, RADIUS, ROWS = 1e-2, 5.0, 60


class Net(nn.Module):
    """A body and a head."""

    def __init__(self, outputs=3, dtype=torch.float64):
        super().__init__()
        self.body = nn.Linear(4, 5, dtype=dtype)
        self.head = nn.Linear(5, outputs, dtype=dtype)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


def rows(seed=0, dtype=torch.float64):
    """Inputs, labels, and ids of which every user has three."""
    draws = torch.Generator().manual_seed(seed)
    inputs = torch.randn(ROWS, 4, generator=draws, dtype=dtype)
    labels = torch.randint(3, (ROWS,), generator=draws)
    return inputs, labels, [f"user {row // 3}" for row in range(ROWS)]


def net(seed=0, dtype=torch.float64, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(dtype=dtype, **options)


def recipe(data, seed):
    """A training loop of few steps, from scratch, that stays in the ball."""
    model, samples = net(seed + 100), data.samples()
    keep = cdu.ball(model, RADIUS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=L2)
    for _ in range(20):
        optimizer.zero_grad()
        cross_entropy(model(samples.inputs), samples.targets).backward()
        optimizer.step()
        keep()
    return model


def unlearner(folder=None, model=None, **options):
    inputs, labels, ids = rows()
    given = {"l2": L2, "radius": RADIUS, "state": folder, "train": recipe, **options}
    return Unlearner(
        net() if model is None else model, cdu.Task(cross_entropy), cdu.as_data(inputs, labels, ids=ids), **given
    )


def flat(model):
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def dense_step(model, inputs, labels, damping):
    """w − (H + λI)⁻¹∇L by PyTorch's own functions on the user's module."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [parameter.shape for parameter in model.parameters()]

    def loss(w):
        parts = w.split([shape.numel() for shape in shapes])
        weights = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return cross_entropy(functional_call(model, weights, inputs), labels) + L2 / 2 * w.square().sum()

    w = flat(model)
    return w - torch.linalg.solve(hessian(loss)(w) + damping * torch.eye(len(w), dtype=w.dtype), grad(loss)(w))


@pytest.mark.parametrize("seed", range(3))
def test_the_newton_step_is_the_dense_one_on_the_rows_that_are_left(seed, tmp_path):
    model = net(seed)
    inputs, labels, ids = rows(seed)
    kept = [row for row in range(ROWS) if ids[row] not in ("user 2", "user 7")]
    own = Unlearner(model, cdu.Task(cross_entropy), cdu.as_data(inputs, labels, ids=ids), l2=L2, state=tmp_path / "s")
    released = own.forget(["user 2", "user 7"], damping=3.0, solver="exact")
    expected = dense_step(model, inputs[kept], labels[kept], 3.0)
    assert torch.allclose(flat(released.model), expected, rtol=0, atol=1e-12)
    assert released.certificate is None
    assert released.reason == "no noise"
    assert len(own.data) == ROWS - 6


def test_the_callers_model_and_data_stay_as_they_are(tmp_path):
    model = nn.Sequential(
        nn.Linear(4, 4, dtype=torch.float64),
        nn.BatchNorm1d(4, dtype=torch.float64),
        nn.Linear(4, 3, dtype=torch.float64),
    )
    model.train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    inputs, labels, ids = rows()
    kept = inputs.clone()
    own = Unlearner(
        model, cdu.Task(cross_entropy), cdu.as_data(inputs, labels, ids=ids), l2=L2, radius=50.0, state=tmp_path / "s"
    )
    released = own.forget(["user 3"], epsilon=1.0, delta=1e-3)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == [True, True, False, True]
    assert torch.equal(inputs, kept)
    assert not any(part.training for part in released.model.modules())
    own_memory = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
    assert own_memory.isdisjoint(value.untyped_storage().data_ptr() for value in released.model.state_dict().values())


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-4), (8.0, 1e-3)])
def test_noise_and_certificate_are_those_of_the_ball(epsilon, delta, tmp_path):
    own = unlearner(tmp_path / "s")
    released = own.forget(["user 0"], "nothing", epsilon=epsilon, delta=delta)
    size = sum(parameter.numel() for parameter in released.model.parameters())
    bound = computed(trivial_bound(RADIUS), "float64", 2 * ball_rounding(RADIUS, size))
    assert released.certificate.sigma == required_sigma(bound, epsilon, delta)
    assert released.certificate.epsilon <= epsilon
    assert released.entry.mu == pytest.approx(2 * RADIUS / released.certificate.sigma, rel=1e-9)
    moved = (flat(released.model) - flat(net())).norm().item() / released.certificate.sigma
    assert 0.5 < moved / math.sqrt(size) < 1.5


def test_a_second_request_starts_from_what_was_released_and_budgets_add_up(tmp_path):
    own = unlearner(tmp_path / "s", cap=(10.0, 1e-3))
    first = own.forget(["user 0"], "nothing", epsilon=3.0, delta=1e-4)
    inputs, labels, ids = rows()
    assert torch.equal(flat(own.model), flat(first.model))
    second = own.forget(["user 1", "user 2"], "nothing", epsilon=3.0, delta=1e-4)
    assert second.entry.number == 2
    assert len(own.data) == ROWS - 9
    assert own.spent(1e-3).mu == pytest.approx(math.hypot(first.entry.mu, second.entry.mu))
    again = unlearner(tmp_path / "s", cap=(10.0, 1e-3))
    assert torch.equal(flat(again.model), flat(second.model))
    assert again.data.ids.tolist() == ids[9:]
    third = Unlearner.load(
        tmp_path / "s", net(5), cdu.Task(cross_entropy), cdu.as_data(inputs[9:], labels[9:], ids=ids[9:])
    )
    assert torch.equal(flat(third.model), flat(second.model))
    assert len(third.data) == ROWS - 9


def test_a_start_outside_the_ball_is_projected_before_the_step(tmp_path):
    own = unlearner(tmp_path / "s")
    first = own.forget(["user 0"], "nothing", epsilon=1.0, delta=1e-4)
    assert flat(first.model).norm() > RADIUS
    second = own.forget(["user 1"], "nothing")
    assert torch.allclose(flat(second.model), flat(first.model) * (RADIUS / flat(first.model).norm()), atol=1e-12)


def test_the_last_request_is_read_back_and_ids_that_are_gone_are_refused(tmp_path):
    own = unlearner(tmp_path / "s")
    first = own.forget(["user 0", "user 1"], "nothing", epsilon=1.0, delta=1e-4)
    again = own.forget(["user 1", "user 0"], "nothing", epsilon=1.0, delta=1e-4)
    assert again.entry == first.entry
    assert torch.equal(flat(again.model), flat(first.model))
    with pytest.raises(CduError, match="1 of the 2 ids are gone already, such as 'user 1'"):
        own.forget(["user 1", "user 5"])
    with pytest.raises(CduError, match="user 99"):
        own.forget(["user 99"])
    assert len(own._state.ledger.entries()) == 1


def test_retraining_sees_the_rows_that_are_left_and_spends_nothing(tmp_path):
    seen = []

    def train(data, seed):
        seen.extend(data.ids.tolist())
        return recipe(data, seed)

    own = unlearner(tmp_path / "s", train=train, cap=(0.5, 1e-5))
    released = own.forget(["user 4"], "retrain")
    assert seen == [identity for identity in rows()[2] if identity != "user 4"]
    assert released.entry.retrained
    assert released.entry.mu == 0
    assert own.spent(1e-5).epsilon == 0
    assert released.reason == ""
    kept = cdu.as_data(*rows()[:2], ids=rows()[2]).without(["user 4"])
    assert torch.equal(flat(released.model), flat(recipe(kept, 0)))


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        (lambda data, seed: net(), "returned the weights that it should replace"),
        (lambda data, seed: net(outputs=4), "another architecture"),
        (lambda data, seed: None, "returned a NoneType"),
        (None, "needs your training loop"),
    ],
)
def test_a_training_loop_that_does_not_retrain_is_refused(train, sentence, tmp_path):
    own = unlearner(tmp_path / "s", train=train)
    with pytest.raises(CduError, match=sentence):
        own.forget(["user 0"], "retrain")
    assert own.pending is None
    assert own._state.ledger.entries() == ()


def test_statistics_of_batchnorm_are_taken_anew_where_a_certificate_is_given(tmp_path):
    model = nn.Sequential(
        nn.Linear(4, 4, dtype=torch.float64),
        nn.BatchNorm1d(4, dtype=torch.float64),
        nn.Linear(4, 3, dtype=torch.float64),
    )
    inputs, labels, ids = rows()
    model.train()(inputs)
    own = Unlearner(
        model,
        cdu.Task(cross_entropy),
        cdu.as_data(inputs, labels, ids=ids),
        l2=L2,
        radius=50.0,
        state=tmp_path / "s",
        batch_size=57,
    )
    released = own.forget(["user 3"], "nothing", epsilon=1.0, delta=1e-3)
    kept = [row for row in range(ROWS) if ids[row] != "user 3"]
    before = released.model[0](inputs[kept])
    assert torch.allclose(released.model[1].running_mean, before.mean(dim=0))
    assert torch.allclose(released.model[1].running_var, before.var(dim=0))


def test_only_the_chosen_part_moves_and_what_is_fixed_must_be_said(tmp_path):
    with pytest.raises(CduError, match="fixed_saw_data"):
        unlearner(tmp_path / "a", parameters="head.*")
    own = unlearner(tmp_path / "b", parameters="head.*", fixed_saw_data=False)
    released = own.forget(["user 1"], epsilon=1.0, delta=1e-3)
    assert torch.equal(released.model.body.weight, net().body.weight)
    assert not torch.equal(released.model.head.weight, net().head.weight)
    assert released.certificate is not None
    own = unlearner(tmp_path / "c", parameters="head.*", fixed_saw_data=True)
    with pytest.raises(CduError, match="was trained on the data"):
        own.forget(["user 1"], epsilon=1.0, delta=1e-3)
    released = own.forget(["user 1"])
    assert "was trained on the data" in released.reason

    def head_only(data, seed):
        model = net()
        model.head.weight.data += 1
        return model

    own = unlearner(tmp_path / "d", parameters="head.*", fixed_saw_data=True, train=head_only)
    with pytest.raises(CduError, match="train that anew as well"):
        own.forget(["user 1"], "retrain")


class Counting:
    """A method that counts its calls, and may fail."""

    def __init__(self, error=None):
        self.calls = 0
        self.error = error

    def __call__(self, problem, generator):
        self.calls += 1
        if self.error is not None:
            raise self.error
        return UnlearningResult(problem.w_star, 0.0)


def test_what_cannot_be_promised_is_refused_before_anything_is_computed(tmp_path):
    method = Counting()
    own = unlearner(tmp_path / "a", cap=(1.0, 1e-5), training_seconds=90.0)
    own.forget(["user 0"], method, epsilon=0.9, delta=1e-5)
    for epsilon in (0.9, None):
        with pytest.raises(CduError, match="retrain, which costs no budget and takes about 90 seconds"):
            own.forget(["user 1"], method, epsilon=epsilon, delta=1e-5)
    own = unlearner(tmp_path / "b", radius=math.inf)
    with pytest.raises(CduError, match="projected onto no ball"):
        own.forget(["user 1"], method, epsilon=1.0)
    assert method.calls == 1
    assert own.pending is None


def test_a_method_that_fails_leaves_nothing_behind(tmp_path):
    own = unlearner(tmp_path / "s")
    with pytest.raises(CduError, match="it failed"):
        own.forget(["user 1"], Counting(CduError("it failed")))
    assert own.pending is None
    assert own._state.ledger.entries() == ()
    assert len(own.data) == ROWS
    own.forget(["user 2"], "nothing")


def cut_off(own, monkeypatch, ids, **options):
    """Ask, and be interrupted while the method runs."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(deletion, "release", interrupted)
    with pytest.raises(KeyboardInterrupt):
        own.forget(ids, **options)
    monkeypatch.undo()


def test_a_request_that_was_cut_off_is_resumed(tmp_path, monkeypatch):
    own = unlearner(tmp_path / "s")
    cut_off(own, monkeypatch, ["user 3", "user 5"], damping=3.0, solver="exact", epsilon=2.0, delta=1e-3)
    own = unlearner(tmp_path / "s")
    assert own.pending.method == "newton"
    with pytest.raises(CduError, match="pending"):
        own.forget(["user 1"])
    released = own.resume()
    assert own.pending is None
    assert released.certificate.delta == 1e-3
    assert sorted(set(rows()[2]) - set(own.data.ids)) == ["user 3", "user 5"]
    with pytest.raises(CduError, match="no request is pending"):
        own.resume()


def test_a_request_that_was_cut_off_can_be_withdrawn(tmp_path, monkeypatch):
    own = unlearner(tmp_path / "s")
    cut_off(own, monkeypatch, ["user 3"])
    own.withdraw()
    assert own.pending is None
    assert own.forget(["user 1"], "nothing").entry.number == 1


def test_a_temporary_state_can_be_saved_and_loaded(tmp_path):
    own = unlearner(None)
    released = own.forget(["user 3"], "nothing", epsilon=1.0, delta=1e-3)
    own.save(tmp_path / "kept")
    assert own.folder == tmp_path / "kept"
    inputs, labels, ids = rows()
    again = Unlearner.load(tmp_path / "kept", net(), cdu.Task(cross_entropy), cdu.as_data(inputs, labels, ids=ids))
    assert torch.equal(flat(again.model), flat(released.model))
    assert again.recipe.radius == RADIUS
    with pytest.raises(CduError, match="kept"):
        own.save(tmp_path / "kept")


def test_a_state_keeps_to_what_it_was_begun_with(tmp_path):
    unlearner(tmp_path / "s")
    with pytest.raises(CduError, match="l2"):
        unlearner(tmp_path / "s", l2=0.5)
    with pytest.raises(CduError):
        unlearner(tmp_path / "s", model=net(outputs=4))


def test_an_original_outside_the_ball_begins_no_state(tmp_path):
    with pytest.raises(CduError, match=r"above radius = 0\.1"):
        unlearner(tmp_path / "s", radius=0.1)
    assert not (tmp_path / "s").exists()
    # The radius is mended, and the same folder serves.
    unlearner(tmp_path / "s")


def test_a_plan_says_the_noise_the_cost_and_what_to_do(tmp_path):
    own = unlearner(tmp_path / "s", training_seconds=1e-6)
    plan = own.plan(["user 0", "user 1"], epsilon=1.0, delta=1e-4)
    assert (plan.rows, plan.rows_left) == (6, ROWS - 6)
    released = own.forget(["user 0", "user 1"], "nothing", epsilon=1.0, delta=1e-4)
    assert plan.sigma == released.certificate.sigma
    assert plan.weights == pytest.approx(flat(net()).norm().item())
    assert plan.retraining_is_cheaper
    assert "Retrain" in plan.advice
    assert all(road.method in str(plan) for road in plan.roads)
    without = unlearner(tmp_path / "t", radius=math.inf).plan(["user 0"])
    assert without.sigma == math.inf
    assert without.retraining_is_cheaper is None
    assert "no ball" in without.advice


def test_a_plan_counts_the_products_that_the_step_takes(tmp_path):
    own = unlearner(tmp_path / "s")
    plan = own.plan(["user 0"])
    result = []

    def method(problem, generator):
        from cdu.own_model.methods import SafelyDampedNewton

        result.append(SafelyDampedNewton({})(problem, generator))
        return result[0]

    own.forget(["user 0"], method)
    newton = next(road for road in plan.roads if road.method == "newton")
    assert result[0].hvp_samples / 2 <= newton.products <= 4 * result[0].hvp_samples + 45 * ROWS


@pytest.mark.slow  # four audits of 2,000 releases
@pytest.mark.parametrize("method", ["newton", "nothing"])
def test_an_audit_finds_nothing_beyond_the_certificate(method, tmp_path):
    own = unlearner(tmp_path / "s")
    found = own.audit(["user 0"], method, epsilon=1.0, delta=1e-4, trials=2000)
    assert not found.contradicts(1.0)
    assert own._state.ledger.entries() == ()


def test_an_audit_of_noise_that_is_too_little_contradicts(tmp_path, monkeypatch):
    from cdu.own_model import audits

    monkeypatch.setattr(audits, "required_sigma", lambda bound, epsilon, delta: bound.value / 100)
    own = unlearner(tmp_path / "s")
    assert own.audit(["user 0"], "nothing", trials=500).contradicts(1.0)


@pytest.mark.parametrize("kind", ["logit", "regression", "dict", "memmap", "batch"])
def test_other_outputs_and_other_data_are_deleted_from_as_well(kind, tmp_path):
    inputs, labels, ids = rows()
    model, targets, task = net(outputs=1), labels, cdu.Task(cross_entropy)
    source = inputs
    if kind == "logit":
        task, targets = cdu.Task(lambda z, y: binary_cross_entropy_with_logits(z[:, 0], y), kind), (labels > 0).double()
    elif kind == "regression":
        task, targets = cdu.Task(mse_loss, kind), inputs[:, :1].sin()
    else:
        model = net()
    if kind == "dict":
        source = {"x": inputs}
    elif kind == "memmap":
        source = np.memmap(tmp_path / "inputs", dtype=np.float64, mode="w+", shape=inputs.shape)
        source[:] = inputs.numpy()
    elif kind == "batch":
        source, targets = {"x": inputs, "y": labels}, None
        task = cdu.Task(lambda model, batch: cross_entropy(model(batch["x"]), batch["y"]), kind)
    own = Unlearner(model, task, cdu.as_data(source, targets, ids=ids), l2=L2, radius=RADIUS, state=tmp_path / "s")
    released = own.forget(["user 2"], damping=3.0, solver="exact")
    if kind in ("dict", "memmap", "batch"):
        kept = [row for row in range(ROWS) if ids[row] != "user 2"]
        assert torch.allclose(flat(released.model), dense_step(model, inputs[kept], labels[kept], 3.0), atol=1e-12)
    assert released.model(inputs).shape == (ROWS, 3 if kind in ("dict", "memmap", "batch") else 1)
    certified = own.forget(["user 4"], "fine-tuning", epochs=1, learning_rate=1e-3, epsilon=1.0, delta=1e-3)
    assert certified.certificate.epsilon <= 1.0
    if kind != "dict" and kind != "memmap":
        with pytest.raises(CduError, match="needs classes"):
            own.forget(["user 5"], "random labels", epochs=1, learning_rate=1e-3)


def test_the_certificate_on_the_disk_is_the_one_returned(tmp_path):
    own = unlearner(tmp_path / "s")
    released = own.forget(["user 0"], "nothing", epsilon=1.0, delta=1e-4)
    kept = json.loads((released.folder / "certificate.json").read_text())
    assert json.dumps(kept).count(str(released.certificate.sigma)) >= 1
    assert (released.folder / "release.html").read_text().lower().startswith("<!doctype html>")
    assert not (tmp_path / "s" / "releases" / "0000").exists()


def normed(layer):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, last = (nn.Linear(4, size, dtype=torch.float64) for size in (4, 3))
    model = nn.Sequential(first, layer, last)
    model.train()(rows()[0])
    return model


def norm():
    return nn.BatchNorm1d(4, dtype=torch.float64)


class Averaged(nn.Module):
    """An average over the rows that it was trained on, as EMA, observers and instance normalisation keep one."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4, dtype=torch.float64))

    def forward(self, x):
        if self.training:
            self.mean.copy_(x.detach().mean(dim=0))
        return x - self.mean


class Remembering(nn.Module):
    """Rows of the data in a plain attribute."""

    def __init__(self):
        super().__init__()
        self.bank = rows()[0][:3]

    def forward(self, x):
        return x + self.bank.mean()


@pytest.mark.parametrize("layer", [Averaged, Remembering, nn.Identity])
def test_tensors_beside_the_parameters_have_no_certificate_until_they_are_said_to_be_clean(layer, tmp_path):
    model = normed(layer())
    if layer is nn.Identity:
        nn.utils.parametrizations.spectral_norm(model[0])
    with pytest.raises(CduError, match="statistics or rows of it"):
        unlearner(tmp_path / "a", model=model, radius=50.0)
    with pytest.raises(CduError, match="cannot be certified"):
        unlearner(tmp_path / "b", model=model, radius=50.0, fixed_saw_data=True).forget(["user 0"], epsilon=1.0)
    own = unlearner(tmp_path / "c", model=model, radius=50.0, fixed_saw_data=False)
    assert own.forget(["user 0"], "nothing", epsilon=1.0).certificate is not None


def test_statistics_whose_layer_is_released_are_taken_anew_whatever_is_said(tmp_path):
    model = normed(norm())
    own = unlearner(tmp_path / "a", model=model, radius=50.0, fixed_saw_data=False)
    released = own.forget(["user 0"], "nothing", epsilon=1.0)
    assert not torch.equal(released.model[1].running_mean, model[1].running_mean)
    fixed = unlearner(tmp_path / "b", model=model, radius=50.0, fixed_saw_data=False, parameters="2.*")
    released = fixed.forget(["user 0"], "nothing", epsilon=1.0)
    assert torch.equal(released.model[1].running_mean, model[1].running_mean)
    two = nn.Sequential(norm(), *normed(norm()))
    own = unlearner(tmp_path / "c", model=two, radius=50.0, fixed_saw_data=False, parameters=["2.*", "3.*"])
    with pytest.raises(CduError, match="BatchNorm's statistics of '2' were taken in training"):
        own.forget(["user 0"], "nothing", epsilon=1.0)
    with pytest.raises(CduError, match="keeps no running statistics"):
        unlearner(tmp_path / "d", model=normed(nn.BatchNorm1d(4, track_running_stats=False, dtype=torch.float64)))


def test_a_method_leaves_the_fixed_part_as_it_was(tmp_path):
    def method(problem, generator):
        for tensor in problem.objective.model.buffers():
            tensor.add_(1)
        return UnlearningResult(problem.w_star, 0.0)

    model = normed(norm())
    given = {"model": model, "radius": 50.0, "parameters": "2.*", "fixed_saw_data": False}
    noisy = {"steps": 3, "learning_rate": 1e-2, "gradient_clip": 1.0, "start_clip": 1.0}
    own = unlearner(tmp_path / "s", **given)
    for released in (
        own.forget(["user 0"], method, epsilon=1.0),
        own.forget(["user 1"], "noisy fine-tuning", epsilon=1.0, **noisy),
    ):
        for name, tensor in model.state_dict().items():
            assert name.startswith("2.") or torch.equal(tensor, released.model.state_dict()[name])


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (lambda problem, generator: None, "returned a NoneType; return an UnlearningResult"),
        (lambda problem, generator: UnlearningResult(problem.w_star, 0.0, model=net()), "a module of another kind"),
        (5, "the method is a int"),
    ],
)
def test_what_is_no_method_is_refused(method, sentence, tmp_path):
    own = unlearner(tmp_path / "s")
    with pytest.raises(CduError, match=sentence):
        own.forget(["user 0"], method, epsilon=1.0)
    assert own.pending is None


def test_a_training_loop_that_cannot_have_retrained_is_refused(tmp_path):
    def outside(data, seed):
        model = net(7)
        model.head.weight.data.mul_(50)
        return model

    own = unlearner(tmp_path / "a", train=outside)
    for attempt in (lambda: own.forget(["user 0"], "retrain"), lambda: own.audit(["user 0"], "nothing", trials=50)):
        with pytest.raises(CduError, match="above radius = 5: it does not project"):
            attempt()
    # The original, once another model is current; then what an earlier retraining returned.
    made = [net(), net(3), net(4), net(3)]
    own = unlearner(tmp_path / "b", train=lambda data, seed: made.pop(0))
    own.forget(["user 0"], "nothing", epsilon=1.0)
    for user, fails in (("user 1", True), ("user 2", False), ("user 3", False), ("user 4", True)):
        if fails:
            with pytest.raises(CduError, match="was there before"):
                own.forget([user], "retrain")
        else:
            own.forget([user], "retrain")
    model = normed(norm())

    def keeps_statistics(data, seed):
        kept = copy.deepcopy(model)
        kept[0].weight.data.mul_(0.5)
        return kept

    own = unlearner(tmp_path / "c", model=model, radius=50.0, train=keeps_statistics)
    with pytest.raises(CduError, match=r"statistics of BatchNorm as they were \('1.running_mean'\)"):
        own.forget(["user 0"], "retrain")


def test_a_class_derived_from_retrain_is_not_taken_for_retraining(tmp_path):
    class Pretends(Retrain):
        def __call__(self, problem, generator):
            return UnlearningResult(problem.w_star, 0.0)

    released = unlearner(tmp_path / "s").forget(["user 0"], Pretends())
    assert not released.entry.retrained
    assert released.promise == "none: no noise"


@pytest.mark.parametrize("as_given", [torch.tensor, np.array, tuple, iter, lambda ids: [str(one) for one in ids]])
def test_ids_in_any_container_are_gone_afterwards(as_given, tmp_path):
    inputs, labels, _ = rows()
    data = cdu.as_data(inputs, labels, ids=torch.arange(ROWS))
    own = Unlearner(net(), cdu.Task(cross_entropy), data, l2=L2, radius=RADIUS, state=tmp_path / "s")
    own.forget(as_given([3, 5]), "nothing", epsilon=1.0)
    assert set(data.ids) - set(own.data.ids) == {"3", "5"}


@pytest.mark.parametrize(
    "ids", [None, 5, "user 0", [b"user 0"], [0.0], [math.nan], [True], ["user 0\0"], ["\ud800"], []]
)
def test_what_is_no_id_is_refused(ids, tmp_path):
    own = unlearner(tmp_path / "s")
    for ask in (own.forget, own.plan, own.audit):
        with pytest.raises(CduError):
            ask(ids)
    assert own.pending is None


@pytest.mark.parametrize(
    ("options", "name"),
    [
        *(({name: value}, name) for name in ("l2", "radius") for value in ("1", True, math.nan, -1.0, None)),
        *(({"radius": value}, "radius") for value in (1e-320, 1e308)),
        *(({"cap": value}, r"cap|epsilon|delta") for value in (1.0, (1.0,), ("1", 1e-5), (1.0, "1e-5"), (1.0, 0.5))),
        *(({name: value}, name) for name in ("batch_size", "chunk") for value in (0, "8", 2.5, True)),
        ({"parameters": 5}, "parameters"),
        ({"parameters": [5]}, "parameters"),
        ({"fixed_saw_data": "no"}, "fixed_saw_data"),
        ({"train": 5}, "train is a int"),
        ({"training_seconds": "1"}, "training_seconds"),
        ({"model": nn.ReLU()}, "no parameters"),
        ({"model": "net"}, "the model is a str"),
    ],
)
def test_what_is_no_number_is_refused(options, name, tmp_path):
    with pytest.raises(CduError, match=name):
        unlearner(tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "asked",
    [
        *({"epsilon": value} for value in ("1", True, 0.0, math.nan, math.inf)),
        *({"epsilon": 1.0, "delta": value} for value in ("1e-5", True, 0.0, 1e-320, 0.5)),
    ],
)
def test_what_is_no_promise_is_refused(asked, tmp_path):
    own = unlearner(tmp_path / "s")
    for ask in (own.forget, own.audit):
        with pytest.raises(CduError):
            ask(["user 0"], "nothing", **asked)
    with pytest.raises(CduError):
        own.plan(["user 0"], **asked)


def test_all_rows_cannot_go(tmp_path):
    own = unlearner(tmp_path / "s")
    for ask in (own.forget, own.plan):
        with pytest.raises(CduError, match="all rows that are left"):
            ask(sorted(set(rows()[2])))
    assert own.pending is None


def test_a_release_is_not_read_back_for_more_than_it_promised(tmp_path):
    own = unlearner(tmp_path / "s")
    own.forget(["user 0"], "nothing")
    for asked in ({"method": "nothing", "epsilon": 1.0}, {"method": "retrain"}):
        with pytest.raises(CduError, match="deleted by release 1 already, which promises less"):
            own.forget(["user 0"], **asked)
    second = own.forget(["user 1"], "nothing", epsilon=2.0)
    with pytest.raises(CduError, match="promises less"):
        own.forget(["user 1"], "nothing", epsilon=1.0)
    assert own.forget(["user 1"], "nothing", epsilon=2.0).entry == second.entry
    retrained = own.forget(["user 2"], "retrain")
    assert own.forget(["user 2"], "nothing", epsilon=0.1).entry == retrained.entry


def test_what_is_frozen_later_has_no_certificate(tmp_path):
    unlearner(tmp_path / "s", fixed_saw_data=False)
    model = net()
    model.body.requires_grad_(False)
    with pytest.raises(CduError, match=r"begun with other parameters frozen: 2 differ, such as 'body\.bias'"):
        unlearner(tmp_path / "s", model=model, fixed_saw_data=False)


def test_a_method_object_that_was_cut_off_is_asked_for_again(tmp_path):
    own = unlearner(tmp_path / "s")
    with pytest.raises(KeyboardInterrupt):
        own.forget(["user 0"], Counting(KeyboardInterrupt()), epsilon=1.0)
    own = unlearner(tmp_path / "s")
    with pytest.raises(CduError, match="a method of your own, Counting; ask again"):
        own.resume()
    assert own.forget(["user 0"], Counting(), epsilon=1.0).entry.number == 1


def test_a_certificate_names_earlier_requests_that_have_none(tmp_path):
    def bounded(problem, generator):
        bound = trivial_bound(RADIUS).model_copy(update={"name": "of my own", "value": RADIUS})
        return UnlearningResult(problem.w_star, 0.0, bound=bound, rounding=0.0, radius=RADIUS)

    own = unlearner(tmp_path / "s")

    def uncovered(*asked, **options):
        folder = own.forget(*asked, **options).folder
        page = (folder / "release.html").read_text()
        said = json.loads((folder / "certificate.json").read_text())
        return [text for text in said["not_covered"] if "earlier requests" in text], page, said["together"]

    assert uncovered(["user 0"], "nothing", epsilon=1.0)[0] == []
    assert uncovered(["user 1"], "nothing")[0] == []
    earlier = (
        "the rows of earlier requests for whoever has their releases, which releases 2 answered without a certificate"
    )
    found, page, together = uncovered(["user 2"], "nothing", epsilon=1.0)
    assert found == [earlier]
    assert earlier[1:] in page
    assert together["epsilon"] is None
    assert uncovered(["user 3"], "retrain")[0] == [earlier]
    assert uncovered(["user 4"])[0] == []
    found, page, _ = uncovered(["user 5"], bounded, epsilon=1.0)
    assert "releases 2, 5 answered" in found[0]
    assert "unless the method's own bound holds whatever its start has learned" in found[1]


def test_releases_from_before_a_request_are_not_counted_among_its_promises(tmp_path):
    own = unlearner(tmp_path / "s")
    own.forget(["user 0"], "retrain")
    page = (own.forget(["user 1"], "nothing", epsilon=1.0).folder / "release.html").read_text()
    assert "the release that answered the request for it and all later ones" in page
    assert "Releases from before that request were made while the row was in use" in page
    assert "sees all of them" not in page


def test_a_model_that_keeps_a_graph_is_refused(tmp_path):
    model = net()
    model.seen = model(rows()[0])
    with pytest.raises(CduError, match="cannot be copied"):
        unlearner(tmp_path / "s", model=model)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("Fisher forgetting", {"noise": 0.5}),
        ("Langevin, Adam", {"sigma": 0.5, "learning_rate": 1e-3, "steps": 2}),
        ("rewind", {"steps": 3, "rewound": 1, "learning_rate": 1e-3}),
    ],
)
def test_a_method_without_a_proof_is_not_released_for_an_epsilon(method, options, tmp_path):
    own = unlearner(tmp_path / "s")
    for ask in (own.forget, own.audit):
        with pytest.raises(CduError, match=r"cannot be certified|no certificate|model of its own"):
            ask(["user 0"], method, epsilon=1.0, **options)
    assert own._state.ledger.entries() == ()
    assert own.pending is None


def test_an_audit_compares_any_method_with_the_retrained_model(tmp_path, monkeypatch):
    from cdu.own_model import audits

    monkeypatch.setattr(audits, "required_sigma", lambda bound, epsilon, delta: bound.value / 100)
    own = unlearner(tmp_path / "s")
    assert own.audit(["user 0"], "fine-tuning", trials=500, epochs=1, learning_rate=1e-3).contradicts(1.0)
    with pytest.raises(CduError, match="nothing to audit"):
        own.audit(["user 0"], "retrain")


def test_a_certificate_says_that_its_fixed_part_is_clean_by_its_owners_word(tmp_path):
    said = "never learned from the data, as its owner says"
    own = unlearner(tmp_path / "a", parameters="head.*", fixed_saw_data=False)
    released = own.forget(["user 0"], "nothing", epsilon=1.0)
    assert said in released.certificate.assumptions[-1]
    assert said in (released.folder / "release.html").read_text()
    released = unlearner(tmp_path / "b").forget(["user 0"], "nothing", epsilon=1.0)
    assert said not in " ".join(released.certificate.assumptions)


def test_what_is_spent_is_the_gaussian_mechanisms_own_epsilon(tmp_path):
    def epsilon(mu, delta):
        def excess(e):
            return normal.cdf(mu / 2 - e / mu) - math.exp(e) * normal.cdf(-mu / 2 - e / mu) - delta

        return brentq(excess, 0.0, 50.0, xtol=1e-12)

    own = unlearner(tmp_path / "s", cap=(6.0, 1e-6))
    mus = []
    for user, (asked, delta) in enumerate([(1.0, 1e-3), (2.0, 1e-5), (0.5, 1e-4)]):
        released = own.forget([f"user {user}"], "nothing", epsilon=asked, delta=delta)
        mus.append(2 * RADIUS / released.certificate.sigma)
        assert epsilon(mus[-1], delta) == pytest.approx(asked, rel=1e-6)
    folder = own.forget(["user 9"], "retrain").folder
    assert own.spent(1e-6).epsilon == pytest.approx(epsilon(math.hypot(*mus), 1e-6), rel=1e-6)
    room = json.loads((folder / "certificate.json").read_text())["budget"]["room"]
    with pytest.raises(CduError, match="would bring that to"):
        own.forget(["user 10"], "nothing", epsilon=room * 1.001, delta=1e-6)
    own.forget(["user 10"], "nothing", epsilon=room * 0.999, delta=1e-6)
    assert 5.99 < own.spent(1e-6).epsilon <= 6.0
