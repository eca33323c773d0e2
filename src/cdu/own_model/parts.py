"""A chosen part of a module's parameters: a copy of the module in which all others are buffers, and the way back."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from cdu.checks import expect
from cdu.errors import CduError

#: One glob pattern of parameter names, such as "head.*", or several.
Patterns = str | Sequence[str]


@dataclass(frozen=True)
class Choice:
    """Which parameters of a module are w.

    Attributes:
        chosen: The names of those that are, in the order of ``named_parameters``; each has one, whatever others it is
            tied under.
        fixed: The names of all others, which stay as they are.
    """

    chosen: tuple[str, ...]
    fixed: tuple[str, ...]


def choose(model: nn.Module, parameters: Patterns = "*") -> Choice:
    """Choose by glob patterns among the parameters that are not frozen. One of a tied parameter's names is enough.

    Args:
        model: A user's module.
        parameters: One pattern or several, as :mod:`fnmatch` takes them; upper and lower case differ.

    Raises:
        CduError: A pattern matches no name, or nothing but frozen parameters.
    """
    patterns = [parameters] if isinstance(parameters, str) else list(parameters)
    names: dict[Tensor, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    known = ", ".join(known[0] for known in names.values()) or "none"
    expect(len(patterns) > 0, f"no pattern of parameters was given; the model's are {known}")
    trained = {parameter: aliases for parameter, aliases in names.items() if parameter.requires_grad}
    for pattern in patterns:
        expect(
            any(_matches(aliases, [pattern]) for aliases in names.values()),
            f"no parameter's name matches '{pattern}'; the model's are {known}",
        )
        expect(
            any(_matches(aliases, [pattern]) for aliases in trained.values()),
            f"all parameters that '{pattern}' matches are frozen (requires_grad = False), so that nothing of them can "
            "be unlearned; set requires_grad for those that training moved",
        )
    chosen = {parameter for parameter, aliases in trained.items() if _matches(aliases, patterns)}
    return Choice(
        tuple(aliases[0] for parameter, aliases in names.items() if parameter in chosen),
        tuple(aliases[0] for parameter, aliases in names.items() if parameter not in chosen),
    )


class Part(nn.Module):
    """A deep copy of a user's module of which the chosen parameters are parameters, and all others buffers.

    So one flat vector w of :class:`~cdu.models.objective.Objective` holds the chosen ones, in the order of the user's
    ``named_parameters``. Nothing of the user's module is changed.

    Args:
        model: The user's module.
        parameters: Which are chosen (:func:`choose`).

    Attributes:
        model: The copy.
        choice: The chosen and the fixed parameters by the user's names.

    Raises:
        CduError: A pattern chooses nothing, or the module cannot be copied.
    """

    def __init__(self, model: nn.Module, parameters: Patterns = "*") -> None:
        super().__init__()
        self.choice = choose(model, parameters)
        self._frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        self.model = copied_module(model)
        # With tied parameters under all their names: the way back restores their order by it.
        self._order = [name for name, _ in self.model.named_parameters(remove_duplicate=False)]
        fixed: dict[Any, Tensor] = {
            parameter: parameter.detach() for parameter in map(self.model.get_parameter, self.choice.fixed)
        }
        for name in self._order:
            owner, leaf = _place(self.model, name)
            value = fixed.get(owner._parameters[leaf])
            if value is not None:
                del owner._parameters[leaf]
                owner.register_buffer(leaf, value)
                # Recurrent layers note what is set as an attribute.
                setattr(owner, leaf, value)

    def forward(self, inputs: Any) -> Tensor:
        """The user's module's outputs."""
        return tensor_of(self.model(inputs))

    def whole(self, w: Tensor) -> nn.Module:
        """The user's kind of module with ``w`` as its chosen parameters, in evaluation mode.

        All its parameters are parameters again, under the user's names and in their order. It shares memory with
        nothing.

        Args:
            w: Shape (p,); not changed.

        Raises:
            CduError: ``w`` has another shape.
        """
        size = sum(parameter.numel() for parameter in self.model.parameters())
        expect(w.shape == (size,), f"w has the shape {tuple(w.shape)}, and the chosen parameters are {size:,}")
        model = copy.deepcopy(self.model)
        chosen = list(model.parameters())
        values = w.detach().split([parameter.numel() for parameter in chosen])
        with torch.no_grad():
            for parameter, value in zip(chosen, values, strict=True):
                parameter.copy_(value.view_as(parameter))
        restored: dict[Tensor, nn.Parameter] = {}
        for name in self._order:
            owner, leaf = _place(model, name)
            held: Any = owner._parameters.pop(leaf, None)
            if held is None:
                buffer = owner._buffers.pop(leaf)
                assert buffer is not None
                held = restored.setdefault(buffer, nn.Parameter(buffer, requires_grad=name not in self._frozen))
            setattr(owner, leaf, held)
        return model.eval()

    def state(self, w: Tensor) -> dict[str, Tensor]:
        """The full ``state_dict`` of :meth:`whole`, with the user's names; its tensors share memory with nothing.

        Raises:
            CduError: ``w`` has another shape.
        """
        entries = self.whole(w).state_dict().items()
        return {name: value.detach().clone() for name, value in entries if isinstance(value, Tensor)}


def copied_module(model: nn.Module) -> nn.Module:
    """A deep copy, parameters shared between layers included.

    Raises:
        CduError: PyTorch cannot copy it.
    """
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise CduError(
            f"the model cannot be copied ({str(error).splitlines()[0]}); delete the tensors that it keeps from a "
            "forward pass, and use torch.nn.utils.parametrizations in place of the older weight_norm"
        ) from error


def tensor_of(outputs: Any) -> Tensor:
    """A module's outputs, which are one tensor.

    Raises:
        CduError: They are something else.
    """
    expect(
        isinstance(outputs, Tensor),
        f"the model returns a {type(outputs).__name__}, and is to return one tensor; give a task of the kind 'batch', "
        "whose loss takes the model itself, or wrap the model in one that returns its outputs alone",
    )
    found: Tensor = outputs
    return found


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The submodule that holds a parameter, and its name there."""
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf
