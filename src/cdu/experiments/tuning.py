"""Choosing hyper-parameters: the same number of trials for every method, on a deletion that judges no method."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from cdu.errors import CduError
from cdu.evaluation.accuracy import accuracy
from cdu.experiments.setup import Rehearsal
from cdu.seeding import generator
from cdu.settings import Value
from cdu.unlearning.problem import Method
from cdu.unlearning.release import publish, publish_at

Values = dict[str, Value]


@dataclass(frozen=True)
class Trial:
    """One choice of hyper-parameters and how near it came to retraining.

    Attributes:
        values: The hyper-parameters.
        gap: Distance to the retrained model: the absolute difference in accuracy on the validation samples plus that
            on D_u; None where the method could not run.
        note: Why it could not.
    """

    values: Values
    gap: float | None
    note: str = ""

    @property
    def words(self) -> str:
        """The hyper-parameters in words."""
        return ", ".join(f"{name} = {value}" for name, value in self.values.items())


def candidates(space: Mapping[str, Value | Sequence[Value]], trials: int, generator: torch.Generator) -> list[Values]:
    """At most ``trials`` distinct points of a grid, drawn at random, in the order of the grid.

    Args:
        space: By hyper-parameter a sequence of candidates, or one value.
        trials: Largest number of points.
        generator: Draws them.
    """
    axes = [_grid(value) for value in space.values()]
    grid = [dict(zip(space, point, strict=True)) for point in itertools.product(*axes)]
    chosen = torch.randperm(len(grid), generator=generator)[:trials].sort().values
    return [grid[int(number)] for number in chosen]


def last_of_grid(space: Mapping[str, Value | Sequence[Value]]) -> Values:
    """The last candidate of every hyper-parameter: constants that no search has chosen."""
    return {name: _grid(value)[-1] for name, value in space.items()}


def _grid(value: Value | Sequence[Value]) -> list[Value]:
    return [value] if isinstance(value, int | float | str) else list(value)


def tune(
    rehearsal: Rehearsal,
    name: str,
    build: Callable[[Values], Method],
    space: Mapping[str, Value | Sequence[Value]],
    trials: int,
    seed: int,
    epsilon: float,
    delta: float,
) -> list[Trial]:
    """Try points of a search space on the rehearsal.

    A method that adds noise of its own, or has a bound of its own to scale it to, is judged with the noise that
    certifies (ε, δ): its constants trade the one against the other. Where nothing but the ball's diameter bounds the
    distance, noise does not depend on the constants, and they are judged without.

    Args:
        rehearsal: The deletion that is rehearsed.
        name: The method's name, for its random streams.
        build: Makes the method from hyper-parameters.
        space: The search space; see :func:`candidates`.
        trials: Largest number of points.
        seed: The run's seed.
        epsilon: ε.
        delta: δ.

    Returns:
        The trials in the order of the grid; a method without hyper-parameters has one.
    """
    problem = rehearsal.problem
    judges = (rehearsal.validation, problem.forget)
    wanted = [accuracy(rehearsal.objective, rehearsal.retrained.w, samples) for samples in judges]

    def attempt(values: Values) -> Trial:
        try:
            method = build(values)
            result = method(problem, generator(seed, "trial", name))
            noise = generator(seed, "trial noise", name)
            if result.bound is None:
                released = publish(problem, result, noise)
            else:
                released = publish_at(problem, result, noise, epsilon, delta)
        except CduError as error:
            return Trial(values, None, str(error))
        found = [accuracy(released.objective, released.w, samples) for samples in judges]
        return Trial(values, sum(abs(a - b) for a, b in zip(found, wanted, strict=True)))

    return [attempt(values) for values in candidates(space, trials, generator(seed, "candidates", name))]


def best(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the smallest gap, the first of several; None where no trial could run."""
    able = [trial for trial in trials if trial.gap is not None]
    return min(able, key=lambda trial: trial.gap or 0.0, default=None)
