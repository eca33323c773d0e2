"""One deletion from a model of one's own: from the rows that go to a release."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cdu.certification import gaussian_sigma
from cdu.checks import expect, expect_delta, expect_positive
from cdu.data.samples import Samples
from cdu.data.source import Data
from cdu.models.batchnorm import has_statistics
from cdu.models.objective import parameter_vector
from cdu.models.settings import TrainingSettings
from cdu.models.training import Trained, project
from cdu.own_model.parts import Part, choose
from cdu.own_model.task import Task
from cdu.unlearning.ledger import Ledger
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.problem import Method, Problem
from cdu.unlearning.registration import REGISTERED
from cdu.unlearning.release import Release, recalibrated, release

#: A training loop from scratch: from the rows that are left, and a seed, to a trained module.
Train = Callable[[Data, int], nn.Module]

#: Why a release has no certificate whose fixed part learned from the deleted rows.
FIXED_SAW_DATA = "the fixed part of the model was trained on the data, and nothing hides the deleted rows in there"


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


def expect_recipe(recipe: Recipe, model: nn.Module) -> None:
    """Refuse a recipe that does not say what a certificate rests on.

    Args:
        recipe: The recipe.
        model: The trained module.
    """
    fixed = choose(model, recipe.parameters).fixed
    expect(
        not fixed or recipe.fixed_saw_data is not None,
        f"{len(fixed)} parameters stay fixed, such as '{fixed[0] if fixed else ''}'; say whether they were ever "
        "trained on the data, statistics of BatchNorm included: fixed_saw_data=True, or False for a part that came "
        "from other data",
    )


def problem_of(recipe: Recipe, model: nn.Module, data: Data, rows: NDArray[np.int64]) -> Problem:
    """The problem of deleting rows from a model.

    Args:
        recipe: How the model was trained.
        model: The model as it is now; it is not changed.
        data: The rows that it is answerable for.
        rows: Which of them go.
    """
    left = data.subset(np.setdiff1d(np.arange(len(data)), rows))
    objective = recipe.task.objective(model, data, l2=recipe.l2, chunk=recipe.chunk, parameters=recipe.parameters)

    def retrain(samples: Samples, seed: int) -> Trained:
        return retrained(recipe, model, left, seed)

    return Problem(
        objective,
        # Noise leads out of the ball; a start inside is as near to the retrained model at least.
        project(parameter_vector(objective.model), recipe.radius),
        recipe.task.samples(left),
        recipe.task.samples(data.subset(rows)),
        recipe.radius,
        retrain,
        seed=0,
        training=TrainingSettings(batch_size=recipe.batch_size, weight_decay=recipe.l2),
    )


def retrained(recipe: Recipe, model: nn.Module, left: Data, seed: int) -> Trained:
    """Train from scratch on the rows that are left, by the user's own loop.

    Args:
        recipe: Holds the loop.
        model: The model that is replaced.
        left: D_r.
        seed: For the loop.

    Raises:
        CduError: There is no loop; it returned no such module; or it returned what it should replace.
    """
    expect(
        recipe.train is not None,
        "retraining needs your training loop; give train=, a function of the data that are left and a seed that "
        "returns a module trained from scratch",
    )
    assert recipe.train is not None
    began = time.perf_counter()
    found = recipe.train(left, seed)
    seconds = time.perf_counter() - began
    expect(isinstance(found, nn.Module), f"train returned a {type(found).__name__}; return the trained nn.Module")
    old, new = model.state_dict(), found.state_dict()
    expect(
        {name: value.shape for name, value in old.items()} == {name: value.shape for name, value in new.items()},
        "train returned a module of another architecture; build it as the model was built",
    )
    same = [name for name in old if torch.equal(old[name].to(new[name].device, new[name].dtype), new[name])]
    choice = choose(model, recipe.parameters)
    expect(
        not set(choice.chosen) <= set(same),
        "train returned the weights that it should replace; train a module that is initialised anew",
    )
    kept = sorted(set(choice.fixed) & set(same))
    expect(
        not (recipe.fixed_saw_data and kept),
        f"train returned the fixed part as it was ('{kept[0] if kept else ''}' and others), which was trained on the "
        "deleted rows; train that anew as well",
    )
    objective = recipe.task.objective(found, left, l2=recipe.l2, chunk=recipe.chunk, parameters=recipe.parameters)
    return Trained(objective.model.eval(), parameter_vector(objective.model), [{"seconds": seconds}])


def expect_promisable(recipe: Recipe, method: Method, epsilon: float | None, delta: float, ledger: Ledger) -> None:
    """Refuse, before anything is computed, a certificate that cannot be given, or that the budget has no room for.

    Args:
        recipe: How the model was trained.
        method: What answers.
        epsilon: ε to certify; None for no noise.
        delta: δ.
        ledger: What was promised before.
    """
    if isinstance(method, Retrain):
        return
    if epsilon is None:
        ledger.expect_room(None)
        return
    expect_positive(epsilon=epsilon)
    expect_delta(delta)
    expect(
        not recipe.fixed_saw_data,
        f"epsilon = {epsilon} cannot be certified: {FIXED_SAW_DATA}; release all parameters, retrain, or leave epsilon "
        "out",
    )
    expect(
        math.isfinite(recipe.radius) or _own_noise(method),
        f"epsilon = {epsilon} cannot be certified: training projected onto no ball, so that nothing bounds the "
        "distance to the retrained model; train with cdu.ball and give its radius, use the method 'noisy fine-tuning', "
        "or retrain",
    )
    # Whatever Δ is, noise that certifies (ε, δ) has this μ = Δ/σ.
    ledger.expect_room(1 / gaussian_sigma(epsilon, delta, 1.0))


def _own_noise(method: Method) -> bool:
    return any(
        known.traits.own_noise and isinstance(known.make, type) and isinstance(method, known.make)
        for known in REGISTERED.values()
    )


def answer(recipe: Recipe, problem: Problem, method: Method, epsilon: float | None, delta: float) -> Release:
    """Run a method and add the noise that certifies (ε, δ); statistics of BatchNorm are taken anew.

    Statistics that training left are averages over the deleted rows too, and no noise hides them. Those of the rows
    that are left, at the released weights, depend on these alone.

    Args:
        recipe: How the model was trained.
        problem: What is deleted.
        method: How.
        epsilon: ε; None for no noise, and nothing for retraining.
        delta: δ.
    """
    if isinstance(method, Retrain):
        return release(problem, method)
    released = release(problem, method, epsilon=epsilon, delta=delta)
    if has_statistics(released.objective.model) and recipe.fixed_saw_data is not False:
        released = recalibrated(released, problem.retain, recipe.batch_size)
    return released


def reason_of(recipe: Recipe, released: Release) -> str:
    """Why a release has no certificate; empty where it has one."""
    if released.certificate is not None:
        return ""
    if recipe.fixed_saw_data:
        return FIXED_SAW_DATA
    return released.update.no_certificate_reason or "no noise"


def whole(released: Release) -> nn.Module:
    """The released model with the user's own names, in evaluation mode, sharing no memory with anything."""
    part = released.objective.model
    assert isinstance(part, Part)
    return part.whole(released.w)
