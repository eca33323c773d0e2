"""Models that the project does not ship, through every registered method: each works, or refuses in one sentence."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from cdu.curvature.hessian import Hessian
from cdu.curvature.lissa import _products_on, lissa
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models.objective import Objective, parameter_vector
from cdu.models.settings import TrainingSettings
from cdu.models.training import Trained, train
from cdu.unlearning.methods.descent import Learner
from cdu.unlearning.methods.fisher import per_sample_gradients
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registration import REGISTERED, register
from cdu.unlearning.registry import build
from cdu.unlearning.release import release


class Recurrent(nn.Module):
    """A classifier of sequences by the last state of an LSTM or a GRU."""

    def __init__(self, layer=nn.LSTM):
        super().__init__()
        self.recurrent = layer(3, 2, batch_first=True)
        self.head = nn.Linear(2, 3)

    def forward(self, inputs):
        return self.head(self.recurrent(inputs)[0][:, -1])


class Guarded(nn.Module):
    """A classifier that looks at the values of its inputs before it computes with them."""

    def __init__(self):
        super().__init__()
        self.layers = mlp(3)

    def forward(self, inputs):
        if not inputs.isfinite().all():
            raise ValueError("the inputs hold NaN")
        return self.layers(inputs)


def mlp(outputs):
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, outputs))


def batchnorm_cnn():
    """One BatchNorm over the pixels of a channel, and one behind them, which sees one value a sample."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4), nn.BatchNorm1d(4), nn.Tanh(),
        nn.Linear(4, 3),
    )  # fmt: skip


def integer_logit(outputs, targets):
    return binary_cross_entropy_with_logits(outputs.squeeze(1), targets.to(outputs.dtype))


#: By name: network, shape of an input, loss, and the targets that it makes of random labels 0, 1 and 2.
KINDS = {
    "classes": (lambda: mlp(3), (6,), cross_entropy, lambda labels: labels),
    "one logit": (lambda: mlp(1), (6,), binary_cross_entropy_with_logits, lambda y: (y > 0).double()[:, None]),
    "one logit, flat": (
        lambda: nn.Sequential(mlp(1), nn.Flatten(0)), (6,), binary_cross_entropy_with_logits,
        lambda labels: (labels > 0).double(),
    ),
    "one logit, integers": (lambda: mlp(1), (6,), integer_logit, lambda labels: (labels > 0).long()),
    "regression": (
        lambda: mlp(2), (6,), mse_loss, lambda labels: torch.stack([labels, labels.square()], dim=1).double(),
    ),
    "several labels": (
        lambda: mlp(3), (6,), binary_cross_entropy_with_logits,
        lambda labels: (labels[:, None] <= torch.arange(3)).double(),
    ),
    "LSTM": (Recurrent, (4, 3), cross_entropy, lambda labels: labels),
    "GRU": (lambda: Recurrent(nn.GRU), (4, 3), cross_entropy, lambda labels: labels),
    "guarded": (Guarded, (6,), cross_entropy, lambda labels: labels),
    "BatchNorm": (batchnorm_cnn, (2, 6, 6), cross_entropy, lambda labels: labels),
}  # fmt: skip
CLASSIFIERS = {"classes", "LSTM", "GRU", "guarded", "BatchNorm"}
IMAGES = {"BatchNorm"}

VALUES = {
    "fine-tuning": {"epochs": 2, "learning_rate": 0.01},
    "negative gradient": {"epochs": 3, "learning_rate": 0.001},
    "NegGrad+": {"epochs": 2, "learning_rate": 0.01, "weight": 0.7},
    "random labels": {"epochs": 2, "learning_rate": 0.01},
    "SalUn": {"epochs": 2, "learning_rate": 0.01},
    "SCRUB": {"epochs": 2, "forget_epochs": 1, "learning_rate": 0.01, "distillation_weight": 0.5},
    "Fisher forgetting": {"noise": 1e-6},
    "influence": {"damping": 1.0, "gradients": 20},
    "selective synaptic dampening": {"selection": 0.001, "dampening": 0.001},
    "L-CODEC": {"damping": 5.0, "perturbations": 20, "noise": 0.1, "units": 3},
    "Newton step": {"damping": 5.0},
    "output perturbation": {},
    "noisy fine-tuning": {"steps": 5, "learning_rate": 0.01, "gradient_clip": 1.0, "start_clip": 1.0},
    "Langevin, linear": {"l2": 0.01, "learning_rate": 0.5, "training_steps": 20, "steps": 5, "filters": 4},
    "Langevin, Adam": {"sigma": 1e-3, "learning_rate": 0.01, "steps": 3},
    "certified removal, linear": {"l2": 0.01, "budget": 0.01, "steps": 1, "filters": 4},
    "rewind": {"steps": 20, "rewound": 5, "learning_rate": 0.1},
    "rewind, linear": {"l2": 0.01, "steps": 20, "rewound": 5, "learning_rate": 0.5, "filters": 4},
    "rewind, Adam": {"epochs": 1},
}
NEED_CLASSES = {"SCRUB", "Fisher forgetting", "negative gradient", "random labels", "SalUn"}
LINEAR = {name for name in VALUES if name.endswith(", linear")}


def make_problem(kind, dtype=torch.float64, seed=0, forget=1, rows=17, batch_size=5):
    """Forget the first rows; with the defaults D_r and D are one and two samples more than whole batches."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network, shape, loss, targets_of = KINDS[kind]
    model = network().to(dtype)
    inputs = torch.randn(rows, *shape, generator=generator, dtype=torch.float64).to(dtype)
    targets = targets_of(torch.randint(0, 3, (rows,), generator=generator))
    samples = Samples(inputs, targets.to(dtype) if targets.is_floating_point() else targets, dtype=dtype)
    w = parameter_vector(model)
    return Problem(
        objective=Objective(model, loss, l2=0.01),
        w_star=w,
        retain=samples.subset(torch.arange(forget, rows)),
        forget=samples.subset(torch.arange(forget)),
        radius=100.0,
        retrain=lambda samples, seed: Trained(model, w, []),
        seed=seed,
        training=TrainingSettings(batch_size=batch_size, epochs=3),
        stopped=lambda epochs: Trained(model, 0.9 * w, []),
    )


def plain_loss(problem, w, inputs, targets):
    """The loss by PyTorch's own way to put weights into a module."""
    objective, model = problem.objective, copy.deepcopy(problem.objective.model).eval()
    return objective.loss_function(functional_call(model, objective.tensors(w), (inputs,)), targets)


def dense_hessian(problem, samples):
    """∇²L without damping, by double differentiation one entry after the other."""
    inputs, targets = samples.batch(slice(None))
    w = problem.w_star.detach()
    hessian = torch.autograd.functional.hessian(lambda point: plain_loss(problem, point, inputs, targets), w)
    return hessian + problem.objective.l2 * torch.eye(len(w), dtype=w.dtype)


def test_every_registered_method_is_tried():
    assert {name for name, known in REGISTERED.items() if known.make.__module__.startswith("cdu.")} == set(VALUES)


@pytest.mark.parametrize("forget", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
# Methods that take one sample after the other are slow where PyTorch cannot batch the network.
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in {"LSTM", "GRU"} else []) for kind in KINDS]
)
def test_a_method_works_on_every_model_or_refuses_it(kind, dtype, forget):
    refused = set() if kind in CLASSIFIERS else NEED_CLASSES
    refused = refused if kind in IMAGES else refused | LINEAR
    for name, values in VALUES.items():
        problem = make_problem(kind, dtype, forget=forget)
        method = build(name, values, epsilon=1.0, delta=1e-5)
        if name in refused:
            with pytest.raises(CduError, match=r"needs classes|are no images of shape"):
                release(problem, method, unsafe_seed=0)
            continue
        released = release(problem, method, unsafe_seed=0)
        assert released.w.isfinite().all()
        # L-CODEC may find no unit that tells of the loss, and says so.
        if name not in ("output perturbation", "L-CODEC") and not REGISTERED[name].traits.own_model:
            assert not torch.equal(released.w, problem.w_star), name


@pytest.mark.parametrize("name", sorted(NEED_CLASSES | LINEAR))
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - CLASSIFIERS))
def test_who_calls_a_method_for_classifiers_directly_is_refused_before_anything_is_drawn(kind, name):
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert REGISTERED[name].traits.needs_classes
    with pytest.raises(CduError, match="needs classes"):
        build(name, VALUES[name], epsilon=1.0, delta=1e-5)(make_problem(kind), generator)
    assert torch.equal(generator.get_state(), before)


def test_a_method_of_ones_own_asks_for_classes_by_its_registration(monkeypatch):
    monkeypatch.setattr("cdu.unlearning.registration.REGISTERED", {})

    class Halving:
        def __call__(self, problem, generator):
            return UnlearningResult(problem.w_star / problem.classes, 0.0)

    class Child(Halving):
        pass

    register("halving", needs_classes=True)(Halving)
    problem = make_problem("classes")
    assert torch.equal(Halving()(problem, None).w, problem.w_star / 3)
    for method in (Halving(), Child()):
        with pytest.raises(CduError, match="needs classes"):
            method(make_problem("regression"), None)
    with pytest.raises(CduError, match="decorate"):
        register("function", needs_classes=True)(lambda: Halving())


class TwoOutputs(nn.Module):
    """The outputs (0, z) of a model of one logit z."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        logit = self.model(inputs)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


@pytest.mark.parametrize("seed", range(3))
def test_a_logit_and_a_zero_beside_it_are_the_same_model_for_which_every_method_works(seed):
    one = make_problem("one logit", seed=seed)
    retain, forget = (
        Samples(part.inputs, part.targets.squeeze(1).long(), dtype=torch.float64) for part in (one.retain, one.forget)
    )
    objective = Objective(TwoOutputs(one.objective.model), l2=0.01)
    two = Problem(objective, one.w_star, retain, forget, 100.0, None, seed, one.training)
    for method in (NewtonStep(5.0), build("fine-tuning", VALUES["fine-tuning"], 1.0, 1e-5)):
        steps = [release(problem, method, unsafe_seed=0).w for problem in (one, two)]
        torch.testing.assert_close(*steps, rtol=1e-9, atol=1e-12)
    for name in NEED_CLASSES:
        assert not torch.equal(release(two, build(name, VALUES[name], 1.0, 1e-5), unsafe_seed=0).w, two.w_star)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "guarded", "classes", "one logit", "regression"])
def test_per_sample_gradients_are_those_of_one_sample_after_the_other(kind, seed):
    problem = make_problem(kind, seed=seed)
    inputs, targets = problem.retain.batch(slice(7))
    with problem.objective.evaluating():
        for _ in range(2):
            found = per_sample_gradients(
                problem.objective, problem.w_star, inputs, targets, problem.objective.loss_function
            )
            w = problem.w_star.clone().requires_grad_()
            rows = [
                torch.autograd.grad(plain_loss(problem, w, one[None], target[None]), w)[0]
                for one, target in zip(inputs, targets, strict=True)
            ]
            torch.testing.assert_close(found, torch.stack(rows), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "guarded", "regression"])
def test_products_on_mini_batches_are_those_of_dense_hessians(kind, seed):
    problem = make_problem(kind, seed=seed, rows=12)
    hessian = Hessian(problem.objective, problem.w_star, problem.retain, 0.5)
    rows = torch.tensor([[0, 3, 3, 7], [1, 2, 4, 5], [10, 9, 8, 0]])
    size = len(problem.w_star)
    vectors = torch.randn(3, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with problem.objective.evaluating():
        found = _products_on(hessian, vectors, rows)
    for image, vector, chosen in zip(found, vectors, rows, strict=True):
        wanted = dense_hessian(problem, problem.retain.subset(chosen)) @ vector + 0.5 * vector
        torch.testing.assert_close(image, wanted, rtol=1e-9, atol=1e-12)
    # Several vectors at once, over all samples.
    wanted = vectors @ dense_hessian(problem, problem.retain) + 0.5 * vectors
    torch.testing.assert_close(hessian @ vectors, wanted, rtol=1e-9, atol=1e-12)


def test_lissa_on_an_lstm_ends_near_the_dense_solution():
    problem = make_problem("LSTM", rows=12)
    vector = problem.objective.gradient(problem.w_star, problem.retain)
    hessian = Hessian(problem.objective, problem.w_star, problem.retain, 2.0)
    draws = torch.Generator().manual_seed(0)
    found = lissa(hessian, vector, scale=4.0, depth=20, repeats=2, batch_size=8, generator=draws)
    dense = dense_hessian(problem, problem.retain) + 2.0 * torch.eye(len(vector), dtype=torch.float64)
    wanted = torch.linalg.solve(dense, vector)
    assert (found.x - wanted).norm() < 0.05 * wanted.norm()


def test_a_function_that_fails_on_one_row_too_says_so():
    problem = make_problem("classes")
    with pytest.raises(RuntimeError, match="size mismatch"):
        problem.objective.mapped(lambda row: row @ torch.ones(4), torch.ones(2, 3, 5))
    # It is no fault of the module, which goes on to be batched.
    assert problem.objective._batchable


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batchnorm_takes_one_value_a_channel_by_its_running_statistics(dtype):
    problem = make_problem("BatchNorm", dtype)
    model = problem.objective.model.train()
    spatial, flat = model[1], model[5]
    inputs, _ = problem.retain.batch(slice(4))
    # Statistics that are not the trivial ones.
    problem.objective.forward(problem.w_star, inputs)
    reference = copy.deepcopy(model)
    reference[5].eval()
    before = [buffer.clone() for buffer in flat.buffers()]
    found = problem.objective.forward(problem.w_star, inputs[:1])
    assert torch.equal(found, reference(inputs[:1]))
    assert all(torch.equal(*pair) for pair in zip(flat.buffers(), before, strict=True))
    # The layer in front of the pixels' mean has many values, and its statistics follow them.
    assert torch.equal(spatial.running_mean, reference[1].running_mean)
    assert (spatial.num_batches_tracked, flat.num_batches_tracked) == (2, 1)
    assert all(layer.training and not layer._forward_pre_hooks for layer in model.modules())
    # Two samples are a batch as ever.
    wanted = reference.train()(inputs[:2])
    assert torch.equal(problem.objective.forward(problem.w_star, inputs[:2]), wanted)


def test_batchnorm_without_running_statistics_refuses_a_batch_of_one_sample():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)).double()
    objective = Objective(model.train())
    with pytest.raises(CduError, match="keeps no running statistics"):
        objective.forward(parameter_vector(model), torch.ones(1, 6, dtype=torch.float64))
    assert all(layer.training and not layer._forward_pre_hooks for layer in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_ends_an_epoch_with_a_batch_of_one_sample(dtype):
    problem = make_problem("BatchNorm", dtype)
    assert len(problem.everything) % 16 == 1
    settings = TrainingSettings(batch_size=16, epochs=2)
    trained = train(copy.deepcopy(problem.objective.model), problem.everything, settings, seed=0)
    assert trained.w.isfinite().all()
    # The rest of an epoch counts as a step, but moves no statistics of the last layer.
    assert (trained.model[1].num_batches_tracked, trained.model[5].num_batches_tracked) == (4, 2)


def test_a_learner_descends_on_one_sample():
    problem = make_problem("BatchNorm")
    learner = Learner(problem, 0.01, torch.Generator().manual_seed(0))
    inputs, targets = problem.forget.batch(slice(None))
    losses = []
    for _ in range(20):
        loss = learner.loss(inputs, targets)
        learner.step(loss)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
