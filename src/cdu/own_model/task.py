"""What a user's model is for: its loss, and the objective that methods of unlearning take."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cdu.checks import expect
from cdu.data.lookup import mapped
from cdu.data.samples import Samples
from cdu.data.source import Data
from cdu.models.objective import Objective
from cdu.own_model.parts import Part, Patterns, tensor_of

Kind = Literal["classes", "logit", "regression", "batch"]


@dataclass(frozen=True)
class Task:
    """The loss of a user's model, and what its outputs are.

    Example:
        >>> from torch.nn.functional import cross_entropy
        >>> Task(cross_entropy).kind
        'classes'
        >>> Task(lambda model, batch: model(**batch), kind="batch").kind  # a model that returns its own loss
        'batch'

    Attributes:
        loss: The *mean* over the batch. ``loss(outputs, targets)``, where the outputs are ``model(x)``, ``model(*x)``
            for a tuple or a list, and ``model(**x)`` for a dictionary; for the kind "batch" ``loss(model, batch)``,
            where the batch is the inputs of some rows, or the pair of inputs and targets where the data have targets.
        kind: ``classes`` for outputs (n, k) with k ≥ 2 and labels (n,); ``logit`` for one output (n,) or (n, 1) and
            targets 0 or 1; ``regression`` for outputs and targets of one shape; ``batch`` for any other loss. Methods
            for classifiers refuse the last three.

    Raises:
        CduError: There is no such kind, or the loss cannot be called.
    """

    loss: Callable[..., Tensor]
    kind: Kind = "classes"

    def __post_init__(self) -> None:
        """Refuse what is no task."""
        kinds = get_args(Kind)
        expect(self.kind in kinds, f"there is no kind of task '{self.kind}'; choose one of {', '.join(kinds)}")
        expect(callable(self.loss), f"the loss is a {type(self.loss).__name__}; give a function that returns the mean")

    def samples(self, data: Data) -> Samples:
        """The samples of some data that the objective of this task takes: by number where the loss needs whole rows."""
        return data.samples(numbered=self.kind == "batch")

    def objective(
        self, model: nn.Module, data: Data, l2: float = 0.0, chunk: int = 2048, parameters: Patterns = "*"
    ) -> Objective:
        """L(w, S) of the chosen parameters, for samples of the data or of any part of them (:meth:`samples`).

        The module of the objective is a :class:`~cdu.own_model.parts.Part`: a deep copy of the user's, which is left as
        it is. Parameters that are not chosen, or that the user has frozen, are part of neither w nor the l2 term, and
        no certificate speaks of them.

        Args:
            model: The user's module.
            data: What samples are looked up in.
            l2: Weight of (l2/2)‖w‖², which training used.
            chunk: Samples processed at once at most.
            parameters: Glob patterns of the parameters that are w, such as "head.*".

        Raises:
            CduError: The task needs targets and the data have none, a pattern chooses nothing, or as for
                :class:`~cdu.models.objective.Objective`.
        """
        if self.kind == "batch":
            return Objective(BatchLoss(model, data, self.loss, parameters), mean, l2, chunk)
        expect(
            data.answers is not None,
            f"a task of the kind '{self.kind}' compares outputs with targets, and the data have none; give "
            "as_data(..., targets=...), or a task of the kind 'batch'",
        )
        part = Part(model, parameters) if data.is_plain else LookingUp(model, data, parameters)
        return Objective(part, self.loss, l2, chunk)


class LookingUp(Part):
    """A module that is given row numbers, and the user's module the inputs of these rows.

    Args:
        model: The user's module.
        data: Where the rows are looked up.
        parameters: Which are chosen.
    """

    def __init__(self, model: nn.Module, data: Data, parameters: Patterns = "*") -> None:
        super().__init__(model, parameters)
        self.data = data

    def forward(self, rows: Tensor) -> Tensor:
        """The user's module's outputs for some rows, floats cast to the type of w."""
        inputs = self.data.numbered_inputs(_expect_numbers(rows), self._dtype())
        if isinstance(inputs, Mapping):
            return tensor_of(self.model(**inputs))
        if isinstance(inputs, tuple | list):
            return tensor_of(self.model(*inputs))
        return tensor_of(self.model(inputs))

    def inputs_in_words(self, rows: Tensor) -> str:
        """The shapes and types of what some rows hold."""
        return f"as {in_words(self.data.numbered_inputs(rows))}"

    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype


class BatchLoss(LookingUp):
    """A module that is given row numbers, and whose only output is the user's loss of these rows, once for each.

    Args:
        model: The user's module.
        data: Where the rows are looked up.
        loss: ``loss(model, batch)``.
        parameters: Which are chosen.
    """

    def __init__(self, model: nn.Module, data: Data, loss: Callable[..., Tensor], parameters: Patterns = "*") -> None:
        super().__init__(model, data, parameters)
        # Beside PyTorch's register: a loss that is a module has no part in w.
        self.__dict__["loss"] = loss

    def forward(self, rows: Tensor) -> Tensor:
        """The mean loss of some rows, of shape (n, 1)."""
        loss = self.__dict__["loss"](self.model, self.data.numbered_batch(_expect_numbers(rows), self._dtype()))
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        expect(
            shape == (),
            f"the loss of a batch is to be one number, the mean over its rows, as a tensor; it is {shape}",
        )
        return tensor_of(loss).expand(len(rows), 1)


def mean(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of outputs that are losses; targets are not looked at."""
    return outputs.mean()


def in_words(inputs: Any) -> str:
    """The shapes and types of a pytree of tensors."""
    return str(mapped(lambda leaf: f"{str(leaf.dtype).removeprefix('torch.')} {tuple(leaf.shape)}", inputs))


def _expect_numbers(rows: Tensor) -> Tensor:
    expect(
        rows.dtype == torch.int64 and rows.ndim == 1,
        f"the module looks its inputs up by row number, and is given {rows.dtype} of shape {tuple(rows.shape)}; take "
        "the samples of the task, task.samples(data)",
    )
    return rows
