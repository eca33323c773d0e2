"""What is found wrong with a user's model, its loss and its data: each fault by itself, and several at once."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset

import cdu
from cdu.curvature.minimise import minimise
from cdu.data.source import as_data
from cdu.models.objective import Objective, parameter_vector
from cdu.own_model.ball import ball
from cdu.own_model.task import Task
from cdu.own_model.validation import Finding, validate

ROWS, L2 = 30, 0.1
CLASSES, LOGIT, REGRESSION = (
    Task(cross_entropy),
    Task(binary_cross_entropy_with_logits, "logit"),
    Task(mse_loss, "regression"),
)


def rows(seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.randn(ROWS, 4, generator=rng, dtype=torch.float64)
    return inputs.to(dtype), torch.randint(3, (ROWS,), generator=rng)


def trained(seed=0):
    """A linear model at the minimum of its loss."""
    inputs, targets = rows(seed)
    torch.manual_seed(seed)
    model = nn.Linear(4, 3).double().train()
    data = as_data(inputs, targets)
    w = minimise(Objective(copy.deepcopy(model), cross_entropy, L2), data.samples(), parameter_vector(model), 1e-10).w
    nn.utils.vector_to_parameters(w, model.parameters())
    return model, data


def words(found, severity=None):
    return "\n".join(str(one) for one in found if severity in (None, one.severity))


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_where_all_is_well_and_nothing_is_changed(seed):
    model, data = trained(seed)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    assert validate(model, CLASSES, data, l2=L2, radius=10.0) == []
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert cdu.validate is validate


def test_a_finding_is_a_line():
    assert str(Finding("warning", "radius", "there is no ball")) == "warning, radius: there is no ball"
    model, data = trained()
    assert all("\n" not in str(one) for one in validate(model, REGRESSION, data))


@pytest.mark.parametrize("seed", range(3))
def test_the_end_of_training_is_told_from_before_it(seed):
    model, data = trained(seed)
    # Training used another weight of the l2 term.
    (found,) = validate(model, CLASSES, data, l2=10 * L2, radius=10.0)
    assert (found.severity, found.subject) == ("warning", "weights")
    gradient = Objective(copy.deepcopy(model), cross_entropy, 10 * L2).gradient(parameter_vector(model), data.samples())
    assert f"‖∇L‖ = {gradient.norm().item():.3g}," in found.sentence
    with torch.no_grad():
        model.weight.add_(0.5 * torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    assert "training has not ended" in words(validate(model, CLASSES, data, l2=L2, radius=10.0))


def test_a_ball_is_missed_and_its_excess_refused():
    model, data = trained()
    (found,) = validate(model, CLASSES, data, l2=L2)
    assert (found.severity, found.subject) == ("warning", "radius")
    (found,) = validate(model, CLASSES, data, l2=L2, radius=0.1)
    assert (found.severity, found.subject) == ("error", "radius")
    assert f"{parameter_vector(model).norm().item():.6g}, above radius = 0.1" in found.sentence
    ball(model, 0.1)()
    assert words(validate(model, CLASSES, data, l2=L2, radius=0.1), "error") == ""
    assert "radius = -1 is not a positive finite number" in words(validate(model, CLASSES, data, l2=L2, radius=-1))


def test_ids_of_many_rows_and_rows_under_two_ids_are_warned_of():
    model, data = trained()
    inputs, targets = data.samples().batch(slice(None))
    ids = ["ann"] * 4 + [str(row) for row in range(4, ROWS)]
    (found,) = validate(model, CLASSES, as_data(inputs, targets, ids=ids), l2=L2, radius=10.0)
    assert "the id 'ann' has 4 of 30 rows" in found.sentence
    twins = inputs.clone(), targets.clone()
    for part in twins:
        part[9], part[2] = part[5], part[1]
    found = validate(model, CLASSES, as_data(*twins, ids=ids), l2=L2, radius=10.0)
    # Rows 1 and 2 are of one id.
    assert "2 rows are alike to the bit with a row of another id, the first is row 5 (id '5')" in words(found)
    twins[1][9] = (twins[1][9] + 1) % 3
    assert "alike" not in words(validate(model, CLASSES, as_data(*twins, ids=ids), l2=L2, radius=10.0))


def test_what_no_certificate_covers_is_warned_of():
    model = network(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    found = validate(model, CLASSES, as_data(*rows()), radius=100.0, parameters="2.*")
    said = words(found, "warning")
    assert "the running statistics of '1' are averages over all rows" in said
    assert "the parameters '0.weight', '0.bias', '1.weight', '1.bias' are fixed and no certificate covers them" in said
    assert words(found, "error") == ""
    plain = network(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3))
    found = words(validate(plain, CLASSES, as_data(*rows()), radius=100.0))
    assert "the layer '1' keeps no running statistics" in found
    assert "averages" not in found


def test_weights_of_less_than_single_precision_are_found():
    model = nn.Linear(4, 3).bfloat16()
    said = words(validate(model, CLASSES, as_data(*rows(dtype=torch.float32)), radius=10.0), "error")
    assert "the weights are of type torch.bfloat16, whose rounding would swallow the noise" in said

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 4).bfloat16(), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.body(x.bfloat16()).float())

    found = validate(Mixed(), CLASSES, as_data(*rows(dtype=torch.float32)), radius=10.0, parameters="head.*")
    assert words(found, "error") == ""
    assert "'body.weight', 'body.bias' are of less than float32" in words(found, "warning")


def test_data_of_another_type_than_the_weights_are_one_error_and_hide_no_other():
    inputs, targets = rows()
    inputs[3, 0] = torch.nan
    found = validate(nn.Linear(4, 2), CLASSES, as_data(inputs, targets), radius=10.0)
    said = words(found, "error")
    assert "1 rows of the data hold NaN or infinite numbers as torch.float64, the first is row 3" in said
    assert "give as_data(..., dtype=torch.float32)" in said
    assert "labels go from 0 to 2, and the model has 2 outputs" in said
    # Errors come first.
    assert [one.severity for one in found] == sorted(one.severity for one in found)


class Wandering(Dataset):
    """Rows that are other ones with every reading."""

    def __init__(self):
        self.reads = 0.0

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        self.reads += 1
        return rows()[0][row] + self.reads, int(rows()[1][row])


class Dropping(nn.Linear):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5)


class Checkpointed(nn.Sequential):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


def failing(*_):
    raise KeyError("labels")


LABELS = rows()[1]
CHECKPOINTED = Checkpointed(*network(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)))


@pytest.mark.parametrize(
    ("model", "task", "data", "options", "said"),
    [
        (network(nn.Linear(4, 3)), CLASSES, Wandering(), {}, "data: the first rows are not the same when"),
        (Dropping(4, 3).double(), CLASSES, None, {}, "model: the model's outputs for the same rows differ"),
        (CHECKPOINTED, CLASSES, None, {}, "runs its forward pass again"),
        (network(nn.Linear(5, 3)), CLASSES, None, {}, "data: the linear layer 'model.0' takes 5 features"),
        (network(nn.Linear(4, 1)), CLASSES, None, {}, "loss: a task of the kind 'classes' has outputs of shape (n"),
        (network(nn.Linear(4, 3)), LOGIT, None, {}, "loss: a task of the kind 'logit' has outputs and targets of"),
        (network(nn.Linear(4, 1)), LOGIT, LABELS.double()[:, None], {}, "are others, the first is 2.0; encode them so"),
        (network(nn.Linear(4, 1)), REGRESSION, LABELS.double(), {}, "targets torch.float64 of (n,)"),
        (network(nn.Linear(4, 3)), Task(failing), None, {}, "your code raises KeyError ('labels')"),
        (
            network(nn.Linear(4, 3)), Task(lambda z, y: cross_entropy(z, y, reduction="sum")), None, {},
            "loss: the loss of 8 samples together is",
        ),
        (
            network(nn.Linear(4, 3)), Task(lambda z, y: cross_entropy(z, y, reduction="none")), None, {},
            "loss: the loss of 8 samples has the shape (8,)",
        ),
        (network(nn.Linear(4, 3)), CLASSES, None, {"parameters": "head"}, "model: no parameter's name matches 'head'"),
        (network(nn.Linear(4, 3)), CLASSES, None, {"l2": -1.0}, "model: l2 = -1.0 is not a finite number"),
        (
            network(nn.Embedding(9, 4, max_norm=1.0), nn.Flatten(), nn.Linear(4, 3)), CLASSES, None, {},
            "model: the embedding '",
        ),
        (
            network(nn.Linear(4, 3)), Task(lambda model, batch: model(batch[0]).sum(dim=1), "batch"), None, {},
            "data: the loss of a batch is to be one number",
        ),
    ],
)  # fmt: skip
def test_each_fault_is_found(model, task, data, options, said):
    inputs, labels = rows()
    made = as_data(data) if isinstance(data, Dataset) else as_data(inputs, labels if data is None else data)
    found = validate(model, task, made, radius=100.0, **options)
    assert said in words(found, "error")


def test_weights_that_are_no_numbers_are_found_beside_other_errors():
    model, _ = trained()
    with torch.no_grad():
        model.bias[0] = math.inf
    inputs, targets = rows()
    said = words(validate(model, CLASSES, as_data(inputs, targets + 1), radius=10.0), "error")
    assert "the weights hold NaN or infinite numbers" in said
    assert "the weights have the norm inf, above radius = 10" in said
    assert "labels go from 1 to 3" in said


def test_one_sentence_about_inputs_says_what_looked_up_rows_hold():
    class Two(nn.Linear):
        def forward(self, left, right):
            return super().forward(left + right)

    inputs, targets = rows()
    data = as_data({"left": inputs, "middle": inputs}, targets)
    said = words(validate(Two(4, 3).double(), CLASSES, data, radius=10.0), "error")
    assert (
        "the module takes no inputs as {'left': 'float64 (2, 4)', 'middle': 'float64 (2, 4)'} of the data set" in said
    )


def test_looked_up_rows_pass_as_their_samples_do(tmp_path):
    model, data = trained()
    inputs, targets = data.samples().batch(slice(None))
    array = np.memmap(tmp_path / "rows", dtype=np.float64, mode="w+", shape=(ROWS, 4))
    array[:] = inputs.numpy()
    pair = Task(lambda model, batch: cross_entropy(model(batch[0]), batch[1]), "batch")
    for task, source in ((CLASSES, array), (pair, inputs), (pair, array)):
        assert validate(model, task, as_data(source, targets), l2=L2, radius=10.0) == []


def test_ids_that_differ_in_spelling_alone_and_tensors_beside_the_parameters_are_warned_of():
    model, data = trained()
    inputs, targets = data.samples().batch(slice(None))
    ids = ["\u00e9", "e\u0301", "Ann", "ann ", *(str(row) for row in range(4, ROWS))]
    (found,) = validate(model, CLASSES, as_data(inputs, targets, ids=ids), l2=L2, radius=10.0)
    assert "4 ids differ from another in spaces" in found.sentence
    model.register_buffer("mean", torch.zeros(3, dtype=torch.float64))
    model.memory = torch.zeros(2)
    (found,) = validate(model, CLASSES, data, l2=L2, radius=10.0)
    assert "the tensors 'mean', 'memory' are released as they are" in found.sentence


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data": torch.zeros(2, 4)}, "the data are a Tensor; give cdu.as_data"),
        ({"task": cross_entropy}, "the task is a function; give cdu.Task"),
        ({"model": nn.ReLU()}, "the ReLU has no parameters"),
        ({"model": nn.LazyLinear(3)}, "lazy layers that have seen no batch"),
        ({"radius": "1"}, "radius = '1' is not a positive"),
        ({"l2": "1e-4"}, "l2 = '1e-4' is not a finite number"),
        ({"parameters": 3}, "parameters = 3; give a pattern"),
    ],
)
def test_what_is_of_another_type_is_one_error(change, sentence):
    model, data = trained()
    given = {"model": model, "task": CLASSES, "data": data, **change}
    (found,) = validate(**given)
    assert sentence in found.sentence
