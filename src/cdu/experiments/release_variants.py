"""The models that attacks and relearning are tried on: what every method leaves, and what noise makes of it."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from cdu.experiments.method_results import MethodResults
from cdu.seeding import generator
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registry import CERTIFIED
from cdu.unlearning.release import Release, publish, publish_at
from cdu.unlearning.settings import UnlearningSettings

#: Models also evaluated with the noise used in practice.
WITH_NOISE = ("original", "newton", "retrain")


def released(
    name: str,
    problem: Problem,
    update: UnlearningResult,
    settings: UnlearningSettings,
    noise: Callable[[], torch.Generator],
) -> Iterator[tuple[str, Release]]:
    """What can be released of a method's result, by label.

    Without noise, if the method added none of its own; with the noise used in practice, ``name + noise``, for the
    yardsticks and the paper's step; with the noise that certifies the experiment's ε, ``name, ε = …``, for certified
    methods.

    Args:
        name: The method's name.
        problem: What was to be unlearned.
        update: What the method returned.
        settings: σ, ε and δ.
        noise: Makes the generator of one release's noise; the same each time where all are to have the same draw.
    """
    # Without noise output perturbation is the original, whose row stands already.
    if update.certificate is None and name != "output perturbation":
        yield name, publish(problem, update, noise())
    if name in WITH_NOISE:
        yield f"{name} + noise", publish(problem, update, noise(), settings.sigma, settings.delta)
    if name in CERTIFIED:
        epsilon, delta = settings.epsilon, settings.delta
        yield f"{name}, ε = {epsilon:g}", publish_at(problem, update, noise(), epsilon, delta)


def every_release(
    unlearned: MethodResults, attempt: Callable[[str, Callable[[], UnlearningResult]], UnlearningResult | None]
) -> Iterator[tuple[str, Release]]:
    """All releases of all methods on a setup, all with the same draw of noise: they differ in the model alone.

    Args:
        unlearned: The methods.
        attempt: Gives what a function gives, by the method's name, or None where the method cannot run.
    """
    setup = unlearned.setup
    for name in unlearned.names:
        update = attempt(name, partial(unlearned.update, name))
        if update is not None:
            settings, noise = setup.settings.unlearning, partial(generator, setup.seed, "noise")
            yield from released(name, unlearned.problem, update, settings, noise)
