"""Objectives of modules that the project does not ship, and of parts of them, against dense references."""

import copy
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torch.utils.data import Dataset

from cdu.curvature.hessian import Hessian
from cdu.curvature.lissa import lissa
from cdu.data.samples import Samples
from cdu.data.source import as_data
from cdu.errors import CduError
from cdu.models.objective import Objective, parameter_vector
from cdu.models.settings import TrainingSettings
from cdu.models.training import train
from cdu.own_model.parts import Part, choose
from cdu.own_model.task import Task
from cdu.unlearning.methods.fine_tune import FineTune
from cdu.unlearning.methods.fisher import per_sample_gradients
from cdu.unlearning.methods.influence import InfluenceUnlearning
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.problem import Problem
from cdu.unlearning.release import release

ROWS = 7


class Recurrent(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.rnn, self.head = layer(3, 2, batch_first=True), nn.Linear(2, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Transformer(nn.Module):
    """Tokens and a mask by name."""

    def __init__(self):
        super().__init__()
        self.token, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)
        self.layer = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.1, batch_first=True)

    def forward(self, tokens, mask):
        mixed = self.layer(self.token(tokens), src_key_padding_mask=~mask)
        return self.head((mixed * mask[..., None]).sum(dim=-2) / mask.sum(dim=-1, keepdim=True))


class Towers(nn.Module):
    """Two inputs by place."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 2), nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, left, right):
        return self.head(torch.cat([self.left(left).tanh(), self.right(right).tanh()], dim=-1))


class Tied(nn.Module):
    """A matrix under two names, and a bias that is the head's own."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(self.encoder(x).tanh())


class HuggingFace(nn.Module):
    """Called by name with labels, and answers with an object that holds the loss."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, input_ids, labels):
        logits = self.head(self.body(input_ids).mean(dim=-2).tanh())
        return SimpleNamespace(loss=cross_entropy(logits, labels), logits=logits)


def mlp(outputs):
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs))


def cnn():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3))


def own_loss(model, batch):
    return model(**batch).loss


def pair_loss(model, batch):
    inputs, targets = batch
    return (model(inputs) - targets).square().mean(dim=1).mean()


def normal(rng, *shape):
    return torch.randn(ROWS, *shape, generator=rng, dtype=torch.float64)


def whole(rng, high, *shape):
    return torch.randint(high, (ROWS, *shape), generator=rng)


def masked(rng):
    mask = whole(rng, 2, 3).bool()
    mask[:, 0] = True
    return {"tokens": whole(rng, 5, 3), "mask": mask}


#: By name: the module, its inputs, its targets, its task, and a pattern of some of its parameters.
CASES = {
    "tabular": (lambda: mlp(3), lambda r: normal(r, 4), lambda r: whole(r, 3), Task(cross_entropy), "2.*"),
    "LSTM": (
        lambda: Recurrent(nn.LSTM), lambda r: normal(r, 3, 3), lambda r: whole(r, 3), Task(cross_entropy),
        ["rnn.weight_ih*", "head.bias"],
    ),
    "GRU": (
        lambda: Recurrent(nn.GRU), lambda r: normal(r, 3, 3), lambda r: whole(r, 3), Task(cross_entropy), "head.*",
    ),
    "transformer": (Transformer, masked, lambda r: whole(r, 3), Task(cross_entropy), ["head.*", "layer.*attn*"]),
    "logit": (
        lambda: mlp(1), lambda r: normal(r, 4), lambda r: whole(r, 2, 1).double(),
        Task(binary_cross_entropy_with_logits, "logit"), "*weight",
    ),
    "regression": (
        lambda: mlp(2), lambda r: normal(r, 4), lambda r: normal(r, 2), Task(mse_loss, "regression"), "*.bias",
    ),
    "towers": (
        Towers, lambda r: (normal(r, 4), normal(r, 3)), lambda r: whole(r, 2), Task(cross_entropy), ["left.*", "head.*"]
    ),
    "BatchNorm": (cnn, lambda r: normal(r, 1, 5, 5), lambda r: whole(r, 3), Task(cross_entropy), "[14].*"),
    "tied": (Tied, lambda r: normal(r, 4), lambda r: normal(r, 4), Task(mse_loss, "regression"), "decoder.*"),
    "Hugging Face": (
        HuggingFace, lambda r: {"input_ids": whole(r, 5, 3), "labels": whole(r, 3)}, None, Task(own_loss, "batch"),
        "head.*",
    ),
    "batch of a pair": (lambda: mlp(2), lambda r: normal(r, 4), lambda r: normal(r, 2), Task(pair_loss, "batch"), "0*"),
}  # fmt: skip


def cast(tree, dtype):
    if isinstance(tree, dict):
        return {key: cast(value, dtype) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(cast(value, dtype) for value in tree)
    return tree.to(dtype) if tree is not None and tree.is_floating_point() else tree


def make(case, dtype=torch.float64, seed=0):
    """A user's module that is not in evaluation mode, its inputs and its targets."""
    network, inputs_of, targets_of, task, some = CASES[case]
    torch.manual_seed(seed)
    model = network().to(dtype).train()
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            buffer.add_(0.3 if "mean" in name else 0.7)
    rng = torch.Generator().manual_seed(seed)
    inputs = inputs_of(rng)
    return model, cast(inputs, dtype), cast(targets_of(rng) if targets_of else None, dtype), task, some


class OneByOne(Dataset):
    """The rows of inputs and targets, one at a time, as a user's dataset gives them."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets
        self.reads = 0

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        self.reads += 1
        if isinstance(self.inputs, dict):
            found = {key: value[row] for key, value in self.inputs.items()}
        elif isinstance(self.inputs, tuple):
            found = tuple(value[row] for value in self.inputs)
        else:
            found = self.inputs[row]
        return found if self.targets is None else (found, self.targets[row])


def dense(model, task, inputs, targets, names, l2=0.0):
    """Gradient and Hessian of the chosen parameters by ``functional_call`` on the user's own module."""
    model = copy.deepcopy(model).eval()
    own = dict(model.named_parameters())
    sizes = [own[name].numel() for name in names]

    class Bound:
        """The module at other weights, for losses that call it themselves."""

        def __init__(self, values):
            self.values = values

        def __call__(self, *args, **kwargs):
            return functional_call(model, self.values, args, kwargs)

    def loss(w):
        parts = w.split(sizes)
        bound = Bound({name: part.view_as(own[name]) for name, part in zip(names, parts, strict=True)})
        if task.kind == "batch":
            found = task.loss(bound, inputs if targets is None else (inputs, targets))
        elif isinstance(inputs, dict):
            found = task.loss(bound(**inputs), targets)
        else:
            found = task.loss(bound(*(inputs if isinstance(inputs, tuple) else (inputs,))), targets)
        return found + 0.5 * l2 * w.square().sum()

    w = torch.cat([own[name].detach().reshape(-1) for name in names])
    # What is fused has no second derivative.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            gradient = torch.func.jacrev(loss)(w)
            # torch.func has no forward derivative of a recurrent layer, and its Hessian of an encoder layer is not
            # symmetric (PyTorch 2.12).
            plain = any(isinstance(layer, nn.RNNBase | nn.TransformerEncoderLayer) for layer in model.modules())
            hessian = torch.autograd.functional.hessian(loss, w) if plain else torch.func.hessian(loss)(w)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return w, gradient, hessian


def names_by_hand(model, patterns):
    """The chosen names, written without the code under test."""
    from fnmatch import fnmatch

    patterns = [patterns] if isinstance(patterns, str) else patterns
    aliases = list(model.named_parameters(remove_duplicate=False))
    chosen = {id(p) for name, p in aliases if any(fnmatch(name, pattern) for pattern in patterns)}
    return [name for name, p in model.named_parameters() if id(p) in chosen]


@cache
def reference(case, part, dtype):
    """The dense reference of a case, for both ways to give its data."""
    model, inputs, targets, task, some = make(case, dtype)
    return dense(model, task, inputs, targets, names_by_hand(model, some if part else "*"), l2=0.1)


TOLERANCE = {torch.float32: {"rtol": 2e-4, "atol": 2e-5}, torch.float64: {"rtol": 1e-9, "atol": 1e-12}}


@pytest.mark.parametrize("stored", [False, True], ids=["tensors", "dataset"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("part", [False, True], ids=["all", "some"])
@pytest.mark.parametrize("case", CASES)
def test_gradient_and_products_are_those_of_the_users_own_module(case, part, dtype, stored):
    model, inputs, targets, task, some = make(case, dtype)
    before = copy.deepcopy(model)
    data = as_data(OneByOne(inputs, targets) if stored else inputs, None if stored else targets, dtype=dtype)
    patterns = some if part else "*"
    objective = task.objective(model, data, l2=0.1, chunk=3, parameters=patterns)
    names = names_by_hand(model, patterns)
    w, gradient, hessian = reference(case, part, dtype)
    assert objective.model.choice.chosen == tuple(names)
    assert torch.equal(parameter_vector(objective.model), w)
    samples = task.samples(data)
    torch.testing.assert_close(objective.gradient(w, samples), gradient, **TOLERANCE[dtype])
    vectors = torch.randn(3, len(w), generator=torch.Generator().manual_seed(1), dtype=dtype)
    torch.testing.assert_close(objective.hvp(w, samples, vectors), vectors @ hessian, **TOLERANCE[dtype])
    # Nothing of the user's module has changed.
    assert all(module.training for module in model.modules())
    for (name, value), (other, wanted) in zip(model.state_dict().items(), before.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(value, wanted)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("stored", [False, True], ids=["tensors", "dataset"])
@pytest.mark.parametrize("case", sorted(CASES.keys() - {"tabular"}))
def test_what_batches_the_module_takes_looked_up_rows(case, stored):
    model, inputs, targets, task, some = make(case)
    data = as_data(OneByOne(inputs, targets) if stored else inputs, None if stored else targets)
    objective, samples = task.objective(model, data, parameters=some), task.samples(data)
    w = parameter_vector(objective.model)
    with objective.evaluating():
        found = per_sample_gradients(objective, w, *samples.batch(slice(None)), objective.loss_function)
    for row in range(ROWS):
        wanted = objective.gradient(w, samples.subset(torch.tensor([row])))
        torch.testing.assert_close(found[row], wanted, rtol=1e-9, atol=1e-12)
    operator = Hessian(objective, w, samples, damping=20.0)
    vector = objective.gradient(w, samples)
    draws = torch.Generator().manual_seed(0)
    solution = lissa(operator, vector, 40.0, 15, 2, ROWS, draws)
    assert solution.residual < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_looked_up_tensors_are_batched_and_datasets_are_not(dtype):
    model, inputs, targets, task, _ = make("towers", dtype)
    for source, batchable in ((inputs, True), (OneByOne(inputs, targets), False)):
        data = as_data(source, targets, dtype=dtype)
        objective, samples = task.objective(model, data), task.samples(data)
        w = parameter_vector(model)
        per_sample_gradients(objective, w, *samples.batch(slice(None)), objective.loss_function)
        assert objective._batchable == batchable


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("part", [False, True], ids=["all", "some"])
def test_the_way_back_is_the_users_module_at_other_weights(case, part):
    model, inputs, targets, task, some = make(case)
    patterns = some if part else "*"
    objective = task.objective(model, as_data(inputs, targets), parameters=patterns)
    module = copy.deepcopy(objective.model)
    names = names_by_hand(model, patterns)
    w = parameter_vector(module) + 1.0
    found, state = module.whole(w), module.state(w)
    assert type(found) is type(model)
    assert not any(layer.training for layer in found.modules())
    assert [name for name, _ in found.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert list(state) == list(found.state_dict())
    assert state.keys() == model.state_dict().keys()
    moved = {id(model.get_parameter(name)) for name in names}
    for name, value in model.state_dict(keep_vars=True).items():
        assert torch.equal(state[name], value.detach() + 1.0 if id(value) in moved else value), name
        assert torch.equal(found.state_dict()[name], state[name])
    twin = copy.deepcopy(model)
    twin.load_state_dict(state)
    call = inputs if isinstance(inputs, dict) else {}
    args = () if call else inputs if isinstance(inputs, tuple) else (inputs,)
    outputs, wanted = (getattr(one, "logits", one) for one in (found(*args, **call), twin.eval()(*args, **call)))
    assert torch.equal(outputs, wanted)
    # No memory is shared.
    held = [value.data_ptr() for one in (model, module) for value in [*one.parameters(), *one.buffers()]]
    pointers = [value.data_ptr() for value in [*state.values(), *found.parameters(), *found.buffers()]]
    assert not {*held, w.data_ptr()} & set(pointers)
    assert len({value.data_ptr() for value in state.values()}) == len(state)


def test_tied_weights_stay_tied():
    model = make("tied")[0]
    for patterns, chosen in (
        ("*", ("encoder.weight", "encoder.bias", "decoder.bias")),
        ("decoder.weight", ("encoder.weight",)),
        ("*.bias", ("encoder.bias", "decoder.bias")),
    ):
        part = Part(model, patterns)
        assert part.choice.chosen == chosen
        assert part.model.encoder.weight is part.model.decoder.weight
        again = part.whole(parameter_vector(part) + 1)
        assert again.encoder.weight is again.decoder.weight
        assert isinstance(again.encoder.weight, nn.Parameter)


def test_frozen_parameters_are_fixed_and_stay_frozen():
    model = mlp(3)
    model[0].requires_grad_(False)
    part = Part(model)
    assert part.choice.chosen == ("2.weight", "2.bias")
    assert part.choice.fixed == ("0.weight", "0.bias")
    back = part.whole(parameter_vector(part))
    assert [parameter.requires_grad for parameter in back.parameters()] == [False, False, True, True]
    other = Part(mlp(3), "2.*")
    assert all(parameter.requires_grad for parameter in other.whole(parameter_vector(other)).parameters())
    with pytest.raises(CduError, match=r"'0\.\*' matches are frozen"):
        choose(model, ["0.*", "2.*"])
    with pytest.raises(CduError, match="w has the shape"):
        part.whole(torch.zeros(3))


def test_a_pattern_that_matches_nothing_is_refused_with_the_names_that_exist():
    with pytest.raises(CduError, match=r"no parameter's name matches 'haed\.\*'; the model's are 0\.weight, 0\.bias"):
        choose(mlp(3), "haed.*")
    with pytest.raises(CduError, match="no pattern of parameters was given"):
        choose(mlp(3), [])


def test_a_module_that_cannot_be_copied_is_refused():
    model = mlp(3)
    model.last = model(torch.ones(1, 4))
    with pytest.raises(CduError, match="cannot be copied"):
        Part(model)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"loss": cross_entropy, "kind": "class"}, "no kind of task 'class'; choose one of classes, logit"),
        ({"loss": "mse"}, "the loss is a str"),
    ],
)
def test_what_is_no_task_is_refused(values, words):
    with pytest.raises(CduError, match=words):
        Task(**values)


def test_a_task_that_compares_needs_targets():
    with pytest.raises(CduError, match=r"the data have none; give as_data\(\.\.\., targets=\.\.\.\)"):
        Task(cross_entropy).objective(mlp(3), as_data(torch.ones(3, 4)))


def test_a_loss_that_is_a_module_has_no_part_in_w():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, model, batch):
            return self.scale * pair_loss(model, batch)

    model, inputs, targets, _, _ = make("batch of a pair")
    objective = Task(Scaled(), "batch").objective(model, as_data(inputs, targets))
    assert objective.size == len(parameter_vector(model))


def test_a_loss_that_is_no_number_and_samples_that_are_no_numbers_are_refused():
    model, inputs, targets, task, _ = make("batch of a pair")
    data = as_data(inputs, targets)
    w = parameter_vector(model)
    with pytest.raises(CduError, match=r"samples of the task, task\.samples\(data\)"):
        task.objective(model, data).gradient(w, data.samples())
    rows = Task(lambda model, batch: (model(batch[0]) - batch[1]).square().mean(dim=1), "batch")
    with pytest.raises(CduError, match=r"one number, the mean over its rows, as a tensor; it is \(2,\)"):
        rows.objective(model, data, chunk=2).mean_loss(w, rows.samples(data))
    named, words, _, _, _ = make("Hugging Face")
    plain = Task(cross_entropy).objective(named, as_data(words, words["labels"]))
    with pytest.raises(CduError, match="the model returns a SimpleNamespace, and is to return one tensor"):
        plain.outputs(parameter_vector(named), Task(cross_entropy).samples(as_data(words, words["labels"])))


def retrained_nowhere(samples, seed):
    raise AssertionError("no method here retrains")


METHODS = {
    "exact": lambda: NewtonStep(5.0, "exact"),
    "conjugate gradient": lambda: NewtonStep(5.0),
    "fine-tuning": lambda: FineTune(epochs=2, learning_rate=0.01),
    "influence": lambda: InfluenceUnlearning(damping=1.0, gradients=20),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", ["tabular", "regression", "BatchNorm"])
def test_methods_give_the_same_bits_on_looked_up_rows_as_on_samples(case, dtype, method):
    model, inputs, targets, task, _ = make(case, dtype)
    gone = torch.tensor([1, 4])
    kept = torch.tensor([0, 2, 3, 5, 6])
    data = as_data(OneByOne(inputs, targets), dtype=dtype)
    plain = Samples(inputs, targets, dtype=dtype)
    objectives = (
        Objective(copy.deepcopy(model), task.loss, 0.01),
        task.objective(model, data, 0.01),
        task.objective(model, as_data({"input": inputs}, targets, dtype=dtype), 0.01),
    )
    sets = (
        (plain.subset(kept), plain.subset(gone)),
        (data.without(["1", "4"]).samples(), data.subset(gone).samples()),
        (as_data({"input": inputs}, targets, dtype=dtype).subset(kept).samples(), data.subset(gone).samples()),
    )
    found = []
    for objective, (retain, forget) in zip(objectives, sets, strict=True):
        settings = TrainingSettings(batch_size=2)
        problem = Problem(
            objective, parameter_vector(model), retain, forget, 10.0, retrained_nowhere, 0, settings
        )  # fmt: skip
        found.append(release(problem, METHODS[method](), unsafe_seed=3).w)
    assert not torch.equal(found[0], parameter_vector(model))
    assert torch.equal(found[0], found[2])
    if method == "influence":
        # Single rows' gradients: PyTorch cannot batch a dataset, and batched products round otherwise.
        torch.testing.assert_close(found[0], found[1], **TOLERANCE[dtype])
    else:
        assert torch.equal(found[0], found[1])


def test_a_part_of_the_parameters_is_unlearned_and_the_rest_stays():
    model, inputs, targets, task, _ = make("towers")
    data = as_data(inputs, targets)
    objective = task.objective(model, data, l2=0.1, parameters="head.*")
    w = parameter_vector(objective.model)
    retain, forget = data.without(["3"]), data.subset([3])
    problem = Problem(objective, w, retain.samples(), forget.samples(), 10.0, retrained_nowhere, 0)
    released = release(problem, NewtonStep(2.0, "exact"), unsafe_seed=0)
    kept = [0, 1, 2, 4, 5, 6]
    names = ["head.weight", "head.bias"]
    _, gradient, hessian = dense(model, task, tuple(part[kept] for part in inputs), targets[kept], names, l2=0.1)
    wanted = w - torch.linalg.solve(hessian + 2.0 * torch.eye(len(w), dtype=torch.float64), gradient)
    torch.testing.assert_close(released.w, wanted, rtol=1e-9, atol=1e-12)
    state = released.objective.model.state(released.w)
    assert torch.equal(state["left.weight"], model.left.weight)
    assert not torch.equal(state["head.weight"], model.head.weight)


def test_methods_for_classifiers_refuse_a_task_of_the_kind_batch():
    model, inputs, _, task, _ = make("Hugging Face")
    data = as_data(inputs)
    problem = Problem(
        task.objective(model, data), parameter_vector(model), task.samples(data.without(["0"])),
        task.samples(data.subset([0])), 10.0, retrained_nowhere, 0,
    )  # fmt: skip
    with pytest.raises(CduError, match="the method needs classes"):
        _ = problem.classes


def test_samples_of_row_numbers_survive_what_samples_go_through():
    model, inputs, targets, task, _ = make("towers")
    data = as_data(inputs, targets)
    first, second = data.subset([5, 2]).samples(), data.subset([0]).samples()
    joined = first.joined(second).to(dtype=torch.float32).to(dtype=torch.float64)
    assert joined.inputs.tolist() == joined.ids.tolist() == [5, 2, 0]
    rows = [row for batch, _ in joined.shuffled(2, torch.Generator().manual_seed(0)) for row in batch.tolist()]
    assert sorted(rows) == [0, 2, 5]
    objective, w = task.objective(model, data), parameter_vector(model)
    kept = [5, 2, 0]
    names = [name for name, _ in model.named_parameters()]
    _, gradient, _ = dense(model, task, tuple(part[kept] for part in inputs), targets[kept], names)
    torch.testing.assert_close(objective.gradient(w, joined), gradient, rtol=1e-9, atol=1e-12)
    # At weights of another type the rows are of that type.
    narrow = objective.with_model(copy.deepcopy(objective.model).float())
    found = narrow.gradient(w.float(), joined.to(dtype=torch.float32))
    torch.testing.assert_close(found, gradient.float(), rtol=1e-4, atol=1e-5)


def test_training_takes_looked_up_rows():
    model, inputs, targets, task, _ = make("towers")
    data = as_data(OneByOne(inputs, targets))
    objective = task.objective(model, data)
    settings = TrainingSettings(batch_size=3, epochs=30, learning_rate=0.05, radius=5.0)
    trained = train(copy.deepcopy(objective.model), task.samples(data), settings, seed=0)
    assert np.all(np.diff([row["loss"] for row in trained.history][::10]) < 0)
    assert trained.w.norm() <= 5.0
