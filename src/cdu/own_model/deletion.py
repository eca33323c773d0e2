"""One deletion from a model of one's own: from the rows that go to a release."""

import math
import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cdu.certification import gaussian_sigma
from cdu.checks import expect, expect_delta, expect_positive
from cdu.data.samples import Samples
from cdu.data.source import Data
from cdu.models.objective import parameter_vector
from cdu.models.settings import TrainingSettings
from cdu.models.training import Trained, project
from cdu.own_model.parts import Choice, Part, choose
from cdu.own_model.recipe import (
    FIXED_IS_CLEAN,
    FIXED_SAW_DATA,
    Recipe,
    expect_module,
    statistics_of,
    trained_statistics,
)
from cdu.unlearning.ledger import Ledger
from cdu.unlearning.ledger_entries import Entry, weights_hash
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.problem import Method, Problem
from cdu.unlearning.registration import REGISTERED
from cdu.unlearning.release import Release, recalibrated, release


def expect_asked(problem: Problem, epsilon: float, delta: float) -> None:
    """Refuse an ε or a δ that no request could ask for.

    Args:
        problem: What is deleted.
        epsilon: ε.
        delta: δ.
    """
    expect_positive(epsilon=epsilon)
    expect_delta(delta)
    rows = len(problem.retain) + len(problem.forget)
    expect(
        delta < 1 / rows,
        f"delta = {delta} is not below one over the number of rows, {rows:,}: so much would let one be published "
        "outright; choose far less",
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
    expect(
        len(left) > 0, "these ids have all rows that are left, so that nothing remains to unlearn on; delete the model"
    )
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
    expect_module(found)
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
    statistics = {f"{layer}.running_mean" for layer in trained_statistics(model, choice)} & set(same)
    expect(
        not statistics,
        f"train returned statistics of BatchNorm as they were ('{min(statistics, default='')}'), averages over the "
        "deleted rows too; train a module that is initialised anew",
    )
    objective = recipe.task.objective(found, left, l2=recipe.l2, chunk=recipe.chunk, parameters=recipe.parameters)
    norm = parameter_vector(objective.model).double().norm().item()
    expect(math.isfinite(norm), "train returned weights that hold NaN or infinite numbers; lower its learning rate")
    expect(
        norm <= recipe.radius * (1 + 1e-5),
        f"train returned weights of the norm {norm:.6g}, above radius = {recipe.radius:g}: it does not project onto "
        "that ball, so that no certificate for that ball is about it; project in every step, such as by cdu.ball",
    )
    return Trained(objective.model.eval(), parameter_vector(objective.model), [{"seconds": seconds}])


def retrains(method: Method) -> bool:
    """Whether a method retrains. A class that is derived from Retrain may do anything."""
    return type(method) is Retrain


def expect_promisable(
    recipe: Recipe,
    model: nn.Module,
    method: Method,
    epsilon: float | None,
    delta: float,
    ledger: Ledger,
    training_seconds: float | None = None,
) -> None:
    """Refuse, before anything is computed, a certificate that cannot be given, or that the budget has no room for.

    Args:
        recipe: How the model was trained.
        model: The model.
        method: What answers.
        epsilon: ε to certify; None for no noise.
        delta: δ.
        ledger: What was promised before.
        training_seconds: What retraining would take, for the sentence that refuses a release; None where unknown.
    """
    expect(callable(method), f"the method is a {type(method).__name__}; give a method, or the name of one")
    if retrains(method):
        return
    retraining = "" if training_seconds is None else training_seconds
    if epsilon is None:
        ledger.expect_room(None, retraining=retraining)
        return
    expect_positive(epsilon=epsilon)
    expect_delta(delta)
    expect(
        not recipe.fixed_saw_data,
        f"epsilon = {epsilon} cannot be certified: {FIXED_SAW_DATA}; release all parameters, retrain, or leave epsilon "
        "out",
    )
    renewed, layers = _renewed(recipe, model, choose(model, recipe.parameters)), statistics_of(model)
    expect(
        not renewed or len(renewed) == len(layers),
        f"epsilon = {epsilon} cannot be certified: BatchNorm's statistics of '{renewed[0] if renewed else ''}' were "
        "taken in training and must be taken anew, while those of other layers are fixed; fix that layer as well when "
        "you train, in evaluation mode, retrain, or leave epsilon out",
    )
    expect(
        math.isfinite(recipe.radius) or _own_noise(method),
        f"epsilon = {epsilon} cannot be certified: training projected onto no ball, so that nothing bounds the "
        "distance to the retrained model; train with cdu.ball and give its radius, use the method 'noisy fine-tuning', "
        "or retrain",
    )
    # Whatever Δ is, noise that certifies (ε, δ) has this μ = Δ/σ.
    ledger.expect_room(1 / gaussian_sigma(epsilon, delta, 1.0), retraining=retraining)


def expect_promised(entry: Entry, retrained: bool, epsilon: float | None, delta: float) -> None:
    """Refuse to read a release back for more than it promised.

    Args:
        entry: The release's entry.
        retrained: Whether retraining is asked for.
        epsilon: ε that is asked for; None for none.
        delta: δ.
    """
    kept = entry.certificate
    enough = entry.retrained or (
        not retrained
        and (epsilon is None or (kept is not None and kept["epsilon"] <= epsilon and kept["delta"] <= delta))
    )
    expect(
        enough,
        f"these ids were deleted by release {entry.number} already, which promises less ({entry.promise}) than what is "
        "asked for; their rows are gone, so that the release of the next request, certified or retrained, is one "
        "without them",
    )


def expect_new(model: nn.Module, known: set[str]) -> None:
    """Refuse a retrained model that was there before: it knows the rows, or a loop trained on other rows.

    Args:
        model: The retrained model.
        known: The hashes of the original and of all releases.
    """
    expect(
        weights_hash(model.state_dict()) not in known,
        "train returned a model that was there before, the original or an earlier release; train a module that is "
        "initialised anew, on the data that it is given",
    )


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
    if retrains(method):
        return release(problem, method)
    part = problem.objective.model
    assert isinstance(part, Part)
    fixed = {name: tensor.clone() for name, tensor in part.named_buffers()}
    released = release(problem, method, epsilon=epsilon, delta=delta)
    expect(
        epsilon is None or released.certificate is not None,
        f"epsilon = {epsilon} cannot be certified: {released.update.no_certificate_reason}; leave epsilon out, or "
        "choose another method",
    )
    model = released.objective.model
    expect(
        isinstance(model, Part) and set(dict(model.named_buffers())) == set(fixed),
        f"{type(method).__name__} returned a module of another kind, a {type(model).__name__}; return the weights, or "
        "a copy of problem.objective.model",
    )
    # Methods run the module in training mode, and own ones may do anything: what is fixed is released as it was.
    for name, tensor in model.named_buffers():
        tensor.copy_(fixed[name])
    if _renewed(recipe, part.model, part.choice):
        released = recalibrated(released, problem.retain, recipe.batch_size)
    if released.certificate is not None and fixed and recipe.fixed_saw_data is False:
        assumptions = (*released.certificate.assumptions, FIXED_IS_CLEAN)
        released = replace(released, certificate=released.certificate.model_copy(update={"assumptions": assumptions}))
    return released


def _renewed(recipe: Recipe, model: nn.Module, choice: Choice) -> list[str]:
    """The layers of BatchNorm whose statistics a release takes anew."""
    return statistics_of(model) if recipe.fixed_saw_data is not False else trained_statistics(model, choice)


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
