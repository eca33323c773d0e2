"""The releases that attacks and relearning are tried on: every method's result, without noise and with it."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from cdu.experiments.method_results import MethodResults
from cdu.seeding import generator
from cdu.unlearning.names import NOISED
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registry import traits
from cdu.unlearning.release import Release, publish, publish_at
from cdu.unlearning.settings import UnlearningSettings


def released(
    name: str,
    problem: Problem,
    result: UnlearningResult,
    settings: UnlearningSettings,
    noise: Callable[[], torch.Generator],
) -> Iterator[tuple[str, Release]]:
    """What can be released of a method's result, by label.

    Without noise, if the method added none of its own and no other row shows that already; with the noise used in
    practice, ``name + noise``, for the yardsticks and the paper's step; with the noise that certifies the experiment's
    ε, ``name, ε = …``, for certified methods.

    Args:
        name: The method's name.
        problem: What was to be unlearned.
        result: What the method returned.
        settings: σ, ε and δ.
        noise: Makes the generator of one release's noise; the same each time where all are to have the same draw.
    """
    if result.certificate is None and not traits(name).without_noise:
        yield name, publish(problem, result, noise())
    if name in NOISED:
        yield f"{name} + noise", publish(problem, result, noise(), settings.sigma, settings.delta)
    if traits(name).certified:
        epsilon, delta = settings.epsilon, settings.delta
        yield f"{name}, ε = {epsilon:g}", publish_at(problem, result, noise(), epsilon, delta)


def every_release(
    results: MethodResults, attempt: Callable[[str, Callable[[], UnlearningResult]], UnlearningResult | None]
) -> Iterator[tuple[str, Release]]:
    """All releases of all methods on a setup, all with the same draw of noise: they differ in the model alone.

    Args:
        results: The methods.
        attempt: Gives what a function gives, by the method's name, or None where the method cannot run.
    """
    setup = results.setup
    for name in results.names:
        result = attempt(name, partial(results.update, name))
        if result is not None:
            settings, noise = setup.settings.unlearning, partial(generator, setup.seed, "noise")
            yield from released(name, results.problem, result, settings, noise)
