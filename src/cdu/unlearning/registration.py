"""How a method registers itself: its name, and what a section must know of it before it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

import torch

from cdu.checks import expect
from cdu.unlearning.names import FIXED
from cdu.unlearning.problem import Method, Problem, UnlearningResult

Maker = TypeVar("Maker", bound=Callable[..., Method])


@dataclass(frozen=True)
class Traits:
    """What sections must know of a method.

    Attributes:
        certified: Whether noise certifies it: its class has a ``reference``
            (:class:`~cdu.unlearning.problem.CertifiedMethod`).
        own_noise: Whether it adds that noise itself, and so is told the ε and δ to certify: its class takes both.
        own_model: Whether it trains a model of its own and does not start from the original.
        needs_classes: Whether it is made for classifiers alone, and refuses every other problem
            (:attr:`cdu.unlearning.problem.Problem.classes`) before anything is computed, whoever calls it.
        l2_in_advance: The l2 that it is also run with, the same for every request, since a searched one knows the
            request; None for a method without.
        without_noise: The row that shows it already without its noise; empty where none does.
    """

    certified: bool = False
    own_noise: bool = False
    own_model: bool = False
    needs_classes: bool = False
    l2_in_advance: float | None = None
    without_noise: str = ""


@dataclass(frozen=True)
class Registration:
    """A method that an experiment can name in its search spaces.

    Attributes:
        make: Makes it from hyper-parameters, by keyword.
        traits: What sections must know of it.
    """

    make: Callable[..., Method]
    traits: Traits


#: The registered methods, by the name that they have in experiments, records and tables.
REGISTERED: dict[str, Registration] = {}


def register(
    name: str,
    *,
    own_model: bool = False,
    needs_classes: bool = False,
    l2_in_advance: float | None = None,
    without_noise: str = "",
) -> Callable[[Maker], Maker]:
    """Decorate a method's class, so that experiments can name it.

    An experiment that lists ``name`` in its search spaces runs the method in every section on all methods. The class
    takes the hyper-parameters of that space by keyword, and ``epsilon`` and ``delta`` where it adds noise of its own.
    For the class below that is ``shrinking: {factor: [0.5, 0.9]}`` among the experiment's ``methods.spaces``. The class
    lies in a module of :mod:`cdu.unlearning.methods`, or in one that an installed package names among its entry points
    ``cdu.methods``.

    Example:
        >>> @register("shrinking")
        ... class Shrinking:
        ...     def __init__(self, factor: float) -> None:
        ...         self.factor = factor
        ...
        ...     def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        ...         return UnlearningResult(self.factor * problem.w_star, seconds=0.0)
        >>> REGISTERED["shrinking"].traits.certified
        False

    Args:
        name: Its name in experiments, records and tables.
        own_model: As for :class:`Traits`, and so are the next three.
        needs_classes: The same.
        l2_in_advance: The same.
        without_noise: The same.

    Raises:
        CduError: Another class has that name, or the name could be taken for a release's.
    """

    def decorate(make: Maker) -> Maker:
        known = REGISTERED.get(name)
        # A notebook's cell that is run again registers its class again.
        again = known is not None and _home(known.make) == _home(make)
        expect(
            name not in FIXED and (known is None or again),
            f"there is a method '{name}' already; register {_home(make)} by another name",
        )
        expect(
            ", ε = " not in name and " + " not in name,
            f"the name '{name}' holds ', ε = ' or ' + ', which mark a release with noise; leave these out",
        )
        parameters = signature(make).parameters
        traits = Traits(
            certified=hasattr(make, "reference"),
            own_noise="epsilon" in parameters and "delta" in parameters,
            own_model=own_model,
            needs_classes=needs_classes,
            l2_in_advance=l2_in_advance,
            without_noise=without_noise,
        )
        if needs_classes:
            _refuse_without_classes(make)
        REGISTERED[name] = Registration(make, traits)
        return make

    return decorate


def _home(make: Callable[..., Method]) -> str:
    return f"{make.__module__}.{make.__qualname__}"


def _refuse_without_classes(make: Any) -> None:
    """Let a method's class look at the problem first, so that no way to call it goes around the check."""
    expect(isinstance(make, type), f"needs_classes is for a method's class, and {_home(make)} is none; decorate that")
    unlearn = make.__call__

    @wraps(unlearn)
    def gated(self: Method, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        # Reading the number refuses problems that have none.
        _ = problem.classes
        result: UnlearningResult = unlearn(self, problem, generator)
        return result

    make.__call__ = gated
