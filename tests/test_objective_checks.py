"""Data of one's own: what fits a module and a loss is computed as dense references are, the rest refused."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.lissa import lissa
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models.objective import Objective, parameter_vector, twice_differentiable
from cdu.unlearning.methods.fisher import FisherForgetting
from cdu.unlearning.methods.fixed_features import linear_model
from cdu.unlearning.methods.l_codec import perturbed_activations
from cdu.unlearning.methods.negative_gradient import NegativeGradient
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.methods.random_labels import RandomLabels
from cdu.unlearning.methods.scrub import Scrub
from cdu.unlearning.problem import Problem
from cdu.unlearning.release import release

TOKENS, LENGTH, CLASSES = 7, 5, 3
#: Largest error of a product and of a step, relative to dense matrices in the same type.
ACCURACY = {torch.float32: 2e-4, torch.float64: 1e-9}


class Attention(nn.Module):
    """Tokens and their places embedded, fused attention, and a linear layer on the mean."""

    def __init__(self, padding=None):
        super().__init__()
        self.token, self.place = nn.Embedding(TOKENS, 4, padding_idx=padding), nn.Embedding(LENGTH, 4)
        self.mix, self.read = nn.Linear(4, 12), nn.Linear(4, CLASSES)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[-1], device=tokens.device)
        mixed = self.mix(self.token(tokens) + self.place(places)).unsqueeze(-3)
        attended = nn.functional.scaled_dot_product_attention(*mixed.chunk(3, dim=-1)).squeeze(-3)
        return self.read(attended.mean(dim=-2))


class Encoder(nn.Module):
    """PyTorch's own encoder layer, which has a fused version of the whole layer."""

    def __init__(self):
        super().__init__()
        self.token, self.read = nn.Embedding(TOKENS, 4), nn.Linear(4, CLASSES)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)

    def forward(self, tokens):
        return self.read(self.layer(self.token(tokens)).mean(dim=-2))


class Masked(nn.Module):
    """Tokens and a mask, concatenated to one tensor of shape (n, 2, length)."""

    def __init__(self):
        super().__init__()
        self.token, self.read = nn.Embedding(TOKENS, 4), nn.Linear(4, CLASSES)

    def forward(self, both):
        tokens, mask = both.unbind(dim=-2)
        rows = torch.tanh(self.token(tokens)) * mask.unsqueeze(-1)
        return self.read(rows.sum(dim=-2) / mask.sum(dim=-1, keepdim=True))


def sentences(seed, count=40):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(TOKENS, (count, LENGTH), generator=rng), torch.randint(CLASSES, (count,), generator=rng)


def token_task(kind, seed, dtype):
    torch.manual_seed(seed)
    model = kind().to(dtype).eval()
    inputs, targets = sentences(seed)
    if kind is Masked:
        inputs = torch.stack([inputs, (torch.arange(LENGTH) < 1 + inputs[:, :1]).long()], dim=1)
    return model, Samples(inputs, targets, dtype=dtype), cross_entropy


def table_task(seed, dtype):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"age": rng.normal(size=40), "visits": rng.integers(0, 5, 40), "size": rng.random(40)})
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, CLASSES)).to(dtype)
    return model, Samples(table, pd.Series(rng.integers(0, CLASSES, 40)), dtype=dtype), cross_entropy


def number_task(seed, dtype, loss=mse_loss):
    """One output for a sample, of shape (n,)."""
    rng = np.random.default_rng(seed)
    rows, values = rng.normal(size=(40, 3)), rng.integers(0, 2, 40).astype(float)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(-2)).to(dtype)
    return model, Samples(rows, values, dtype=dtype), loss


TASKS = {
    "attention": lambda seed, dtype: token_task(Attention, seed, dtype),
    "padded": lambda seed, dtype: token_task(lambda: Attention(padding=0), seed, dtype),
    "encoder": lambda seed, dtype: token_task(Encoder, seed, dtype),
    "masked": lambda seed, dtype: token_task(Masked, seed, dtype),
    "table": table_task,
    "squared": number_task,
    "binary": lambda seed, dtype: number_task(seed, dtype, binary_cross_entropy_with_logits),
}


def dense(model, loss, samples, l2):
    """Gradient and Hessian of the module as PyTorch's users write it, by its own parameters."""
    inputs, targets = samples.batch(slice(None))
    parameters = list(model.parameters())
    with twice_differentiable():
        parts = torch.autograd.grad(loss(model(inputs), targets), parameters, create_graph=True)
        gradient = torch.cat([part.reshape(-1) for part in parts])
        rows = torch.autograd.grad(
            gradient,
            parameters,
            torch.eye(len(gradient), dtype=gradient.dtype),
            is_grads_batched=True,
        )
    matrix = torch.cat([row.flatten(1) for row in rows], dim=1)
    w = parameter_vector(model)
    return gradient.detach() + l2 * w, matrix + l2 * torch.eye(len(w), dtype=w.dtype)


def distance(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("task", TASKS)
def test_gradients_products_and_solvers_on_data_of_ones_own_are_those_of_dense_matrices(task, dtype, seed):
    model, samples, loss = TASKS[task](seed, dtype)
    objective, w = Objective(model, loss, l2=0.1, chunk=16), parameter_vector(model)
    gradient, matrix = dense(model, loss, samples, 0.1)
    vectors = torch.randn(3, len(w), generator=torch.Generator().manual_seed(seed), dtype=dtype)
    assert distance(objective.gradient(w, samples), gradient) < ACCURACY[dtype]
    assert distance(objective.hvp(w, samples, vectors), vectors @ matrix) < ACCURACY[dtype]
    operator = Hessian(objective, w, samples) + 2.0
    exact = torch.linalg.solve((matrix + 2.0 * torch.eye(len(w), dtype=dtype)).double(), gradient.double()).to(dtype)
    assert distance(conjugate_gradient(operator, gradient, tolerance=1e-5).x, exact) < 1e-4
    draws = torch.Generator().manual_seed(seed)
    found = lissa(operator, gradient, scale=5.0, depth=15, repeats=2, batch_size=40, generator=draws)
    assert distance(found.x, exact) < 0.1


def problem_of(task, seed=0, dtype=torch.float64):
    model, samples, loss = TASKS[task](seed, dtype)
    # Rounded or shortened, two samples may be alike.
    samples = replace(samples, ids=np.arange(40))
    return Problem(
        Objective(model, loss, l2=0.1),
        parameter_vector(model),
        samples.subset(torch.arange(4, 40)),
        samples.subset(torch.arange(4)),
        math.inf,
        lambda *_: pytest.fail("nothing is to be retrained"),
        0,
    )


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_newton_step_on_data_of_ones_own_is_released(task, dtype):
    problem = problem_of(task, dtype=dtype)
    gradient, matrix = dense(problem.objective.model, problem.objective.loss_function, problem.retain, 0.1)
    step = torch.linalg.solve((matrix + 2.0 * torch.eye(len(matrix), dtype=dtype)).double(), gradient.double())
    released = release(problem, NewtonStep(damping=2.0))
    assert distance(released.w, problem.w_star - step.to(dtype)) < 1e-3


def test_tokens_reach_the_module_as_they_are():
    inputs, targets = sentences(0)
    for kind in (torch.int64, torch.int32):
        samples = Samples(inputs.to(kind), targets, mean=(0.5,), dtype=torch.float64)
        assert torch.equal(samples.batch(slice(3, 9))[0], inputs[3:9].to(kind))
        assert next(samples.subset(torch.tensor([5])).to(dtype=torch.float32).batches(1))[0].dtype == kind


def changed(problem, inputs=None, targets=None, **others):
    """The problem with the forget set, or both, changed by a function of their tensors."""

    def change(samples):
        return replace(
            samples,
            inputs=samples.inputs if inputs is None else inputs(samples.inputs),
            targets=samples.targets if targets is None else targets(samples.targets),
        )

    return replace(problem, retain=change(problem.retain), forget=change(problem.forget), **others)


def with_first(value):
    """A function that gives one entry of a copy of a tensor another value."""

    def change(tensor):
        found = tensor.clone()
        found.view(-1)[-1] = value
        return found

    return change


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("attention", {"inputs": with_first(TOKENS)}, "'token' knows the tokens 0 to 6, and the retain set holds 7"),
        ("attention", {"inputs": with_first(-1)}, "knows the tokens 0 to 6, and the retain set holds -1"),
        (
            "attention",
            {"inputs": torch.Tensor.double},
            "'token' takes integers, and the retain set gives it torch.float64",
        ),
        ("attention", {"targets": with_first(CLASSES)}, "labels go from 0 to 3, and the module has 3 outputs"),
        ("attention", {"targets": with_first(-1)}, "labels go from -1 to 2, and the module has 3 outputs; number the"),
        (
            "table",
            {"inputs": lambda rows: rows[:, :2]},
            "'0' takes 3 features, and the retain set gives it 2, in a batch",
        ),
        ("table", {"inputs": torch.Tensor.long}, "'0' takes floats, and the retain set gives it torch.int64; give"),
        (
            "table",
            {"inputs": lambda rows: rows[:, 0]},
            "'0' takes 3 features, and the retain set gives it 2, in a batch of shape \\(2,\\)",
        ),
        ("table", {"targets": torch.Tensor.double}, r"targets of shape \(36,\) and type torch.float64 from 0.0 to 2.0"),
        ("table", {"targets": torch.Tensor.int}, r"type torch.int32 .*; class labels are integers \(int64\)"),
        (
            "table",
            {"targets": partial(nn.functional.one_hot, num_classes=3)},
            r"labels have the shape \(36, 3\), .* targets.argmax\(dim=1\)",
        ),
        ("table", {"targets": lambda labels: labels[:, None]}, r"a column with targets.squeeze\(1\)"),
        ("squared", {"targets": lambda values: values[:, None]}, "targets of the outputs' shape"),
        ("binary", {"targets": torch.Tensor.long}, "has no gradient .* regression targets floats of the outputs"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_method_runs(task, change, words):
    problem = changed(problem_of(task), **change)
    weights = parameter_vector(problem.objective.model)
    with pytest.raises(CduError, match=words):
        release(problem, lambda *_: pytest.fail("the method ran"))
    assert torch.equal(problem.w_star, weights)
    assert not any(module._forward_pre_hooks for module in problem.objective.model.modules())


def test_a_misfit_that_is_the_forget_sets_alone_is_found():
    problem = problem_of("attention")
    forget = replace(problem.forget, inputs=with_first(9)(problem.forget.inputs))
    with pytest.raises(CduError, match="the forget set holds 9"):
        release(replace(problem, forget=forget), lambda *_: pytest.fail("the method ran"))
    with pytest.raises(CduError, match=r"inputs of the shape \(5,\) and \(4,\); make both alike"):
        release(
            replace(problem, forget=replace(forget, inputs=forget.inputs[:, :4])),
            lambda *_: pytest.fail("the method ran"),
        )


def test_a_layer_that_nobody_asked_says_itself_what_it_takes():
    model = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(6, 2)).double()
    samples = Samples(np.random.default_rng(0).normal(size=(20, 4, 3)), np.arange(20) % 2, dtype=torch.float64)
    problem = replace(
        problem_of("table"),
        objective=Objective(model),
        w_star=parameter_vector(model),
        retain=samples.subset(torch.arange(3, 20)),
        forget=samples.subset(torch.arange(3)),
    )
    with pytest.raises(CduError, match=r"no inputs of shape \(2, 4, 3\) .* expected input.* to have 2 channels"):
        release(problem, lambda *_: pytest.fail("the method ran"))


def test_a_dataset_in_place_of_samples_is_refused():
    problem = problem_of("table")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(4, 3), torch.zeros(4)))
    with pytest.raises(CduError, match=r"the retain set is a DataLoader; .*from_dataset"):
        release(replace(problem, retain=loader), lambda *_: pytest.fail("the method ran"))


def test_labels_as_probabilities_are_the_labels_where_the_loss_takes_both():
    problem = problem_of("table")
    soft = changed(problem, targets=lambda labels: nn.functional.one_hot(labels, CLASSES).double())
    found, expected = (release(one, NewtonStep(damping=2.0)).w for one in (soft, problem))
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("change", [{"max_norm": 1.0}, {"sparse": True}])
def test_embeddings_that_cannot_be_differentiated_are_refused(change):
    with pytest.raises(CduError, match=r"the embedding '0' has max_norm = .* train it without either"):
        Objective(nn.Sequential(nn.Embedding(3, 2, **change), nn.Flatten()))


@pytest.mark.parametrize(
    "method",
    [
        RandomLabels(epochs=1, learning_rate=1e-3),
        NegativeGradient(epochs=1, learning_rate=1e-3),
        FisherForgetting(noise=1e-3, samples=10),
        Scrub(epochs=1, forget_epochs=1, learning_rate=1e-3, distillation_weight=0.5),
    ],
)
def test_methods_for_classes_refuse_a_model_without(method):
    with pytest.raises(CduError, match=r"the method needs classes: .* for one sample they are \(1,\)"):
        release(problem_of("squared"), method)


def test_methods_for_images_or_floats_refuse_tokens():
    problem = problem_of("attention")
    with pytest.raises(CduError, match=r"type torch.int64 are no images of shape"):
        linear_model(problem.retain, 4, CLASSES, torch.float64)
    with pytest.raises(CduError, match=r"torch\.int64 cannot be perturbed by noise"):
        perturbed_activations(problem.objective, problem.w_star, problem.forget, 2, 0.1, torch.Generator())
