"""How a model was trained, what of it is released, and what of it no noise hides."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cdu.checks import expect, expect_count, expect_delta, expect_length, expect_not_negative, expect_positive
from cdu.data.source import Data
from cdu.own_model.parts import Choice, Patterns, choose
from cdu.own_model.task import Task

#: A training loop from scratch: from the rows that are left, and a seed, to a trained module.
Train = Callable[[Data, int], nn.Module]

#: Why a release has no certificate whose fixed part learned from the deleted rows.
FIXED_SAW_DATA = "the fixed part of the model was trained on the data, and nothing hides the deleted rows in there"

#: What a certificate assumes of a model with a fixed part.
FIXED_IS_CLEAN = "what has no noise, the fixed part of the model, never learned from the data, as its owner says"


@dataclass(frozen=True)
class Recipe:
    """How a model was trained, and what of it is released: the same for all deletions from it.

    Attributes:
        task: The loss, and what the outputs are.
        l2: Weight of (l2/2)‖w‖² in training.
        radius: C, the ball that training projected onto.
        parameters: Patterns of the parameters that are unlearned and released; all others are the fixed part.
        fixed_saw_data: Whether the fixed part was ever trained on the data; None where nothing is fixed.
        train: Trains from scratch; None where nothing retrains.
        batch_size: Rows of a mini-batch, for methods that descend.
        chunk: Rows that are processed at once at most.
    """

    task: Task
    l2: float = 0.0
    radius: float = math.inf
    parameters: tuple[str, ...] = ("*",)
    fixed_saw_data: bool | None = None
    train: Train | None = field(default=None, repr=False)
    batch_size: int = 128
    chunk: int = 2048

    def __post_init__(self) -> None:
        """Refuse what is no recipe."""
        expect(isinstance(self.task, Task), f"the task is a {type(self.task).__name__}; give cdu.Task(loss)")
        expect_not_negative(l2=self.l2)
        expect_radius(self.radius)
        expect(
            self.fixed_saw_data in (None, True, False),
            f"fixed_saw_data = {self.fixed_saw_data!r}; say True or False, or leave it out where nothing is fixed",
        )
        expect(
            self.train is None or callable(self.train),
            f"train is a {type(self.train).__name__}; give a function of the data that are left and a seed",
        )
        expect_count(batch_size=self.batch_size, chunk=self.chunk)


def patterns_of(parameters: Patterns) -> tuple[str, ...]:
    """Patterns of parameter names, of which one may stand alone."""
    expect(
        isinstance(parameters, Sequence) and all(isinstance(pattern, str) for pattern in parameters),
        f"parameters = {parameters!r}; give a pattern of names such as 'head.*', or a list of them",
    )
    return (parameters,) if isinstance(parameters, str) else tuple(parameters)


def expect_radius(radius: float) -> None:
    """Refuse what is no radius of a ball.

    Args:
        radius: C; infinite for no ball.
    """
    if radius != math.inf:
        expect_length(radius=radius)


def expect_cap(cap: tuple[float, float] | None) -> None:
    """Refuse a budget that is none.

    Args:
        cap: ε and δ; None for no budget.
    """
    if cap is None:
        return
    expect(isinstance(cap, tuple | list) and len(cap) == 2, f"cap = {cap!r}; give the pair (epsilon, delta)")
    expect_positive(epsilon=cap[0])
    expect_delta(cap[1])
    expect(
        cap[1] <= 0.01,
        f"cap = {cap} has delta = {cap[1]}: with that probability all promises together may fail; choose far less than "
        "one over the number of rows",
    )


def expect_module(model: nn.Module) -> None:
    """Refuse what has no weights to unlearn.

    Args:
        model: What a user gave.
    """
    expect(isinstance(model, nn.Module), f"the model is a {type(model).__name__}; give the trained nn.Module")
    tensors = [*model.parameters(), *model.buffers()]
    expect(
        not any(isinstance(tensor, nn.UninitializedParameter | nn.parameter.UninitializedBuffer) for tensor in tensors),
        "the model has lazy layers that have seen no batch yet, so that it was not trained; give the trained module",
    )
    expect(
        any(True for _ in model.parameters()), f"the {type(model).__name__} has no parameters: nothing can be unlearned"
    )
    for name, layer in model.named_modules():
        expect(
            not isinstance(layer, _BatchNorm) or layer.running_mean is not None,
            f"the layer '{name}' keeps no running statistics, so that a row's loss depends on the rows beside it; "
            "train with track_running_stats=True",
        )


def expect_data(data: Data) -> None:
    """Refuse data that are not made by :func:`~cdu.data.source.as_data`.

    Args:
        data: What a user gave.
    """
    expect(isinstance(data, Data), f"the data are a {type(data).__name__}; give cdu.as_data(inputs, targets, ids=...)")


def expect_recipe(recipe: Recipe, model: nn.Module) -> None:
    """Refuse a recipe that does not say what a certificate rests on.

    Args:
        recipe: The recipe.
        model: The trained module.
    """
    fixed = [*choose(model, recipe.parameters).fixed, *beside_parameters(model)]
    expect(
        not fixed or recipe.fixed_saw_data is not None,
        f"{len(fixed)} tensors stay fixed, such as '{fixed[0] if fixed else ''}'; say whether they were ever "
        "trained on the data or took statistics or rows of it: fixed_saw_data=True, or False for constants and for a "
        "part that came from other data",
    )


def beside_parameters(model: nn.Module) -> list[str]:
    """The tensors that a model has beside its parameters: buffers, and attributes such as a memory of rows.

    Statistics of BatchNorm are not among them. They are taken anew (:func:`trained_statistics`).
    """
    found = []
    for path, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):
            continue
        attributes = [name for name, value in vars(layer).items() if isinstance(value, Tensor)]
        buffers = [name for name, value in layer._buffers.items() if value is not None]
        found += [f"{path}.{name}".lstrip(".") for name in buffers + attributes]
    return found


def statistics_of(model: nn.Module) -> list[str]:
    """The layers of BatchNorm."""
    return [name for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)]


def trained_statistics(model: nn.Module, choice: Choice) -> list[str]:
    """The layers of BatchNorm that training ran in training mode, whose statistics are averages over its rows.

    They are those of which a weight is chosen, and all of them where no parameter is fixed.

    Args:
        model: The user's module.
        choice: Which parameters are w.
    """
    return [
        name
        for name in statistics_of(model)
        if not choice.fixed or any(chosen.rpartition(".")[0] == name for chosen in choice.chosen)
    ]
