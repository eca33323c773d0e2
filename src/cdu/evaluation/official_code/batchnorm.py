"""Evaluation and attack without ``eval()``: BatchNorm then uses the statistics of the batch (departure 10)."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cdu.curvature.hessian import Hessian
from cdu.data.samples import Samples
from cdu.evaluation.official_code.judge import Attacks, Variant, released_weights
from cdu.evaluation.official_code.solvers import minimal_residual
from cdu.evaluation.readings import Reading
from cdu.models.objective import Objective
from cdu.unlearning.problem import Problem


@dataclass(frozen=True)
class TrainingMode:
    """The outputs of a network on which nobody called ``eval()``.

    Attributes:
        outputs: Its outputs, shape (n, classes), which depend on what else was in the batch.
        shift: By how much looking at the samples changed BatchNorm's running statistics, relative to their norm.
    """

    outputs: Tensor
    shift: float


def training_mode(objective: Objective, w: Tensor, samples: Samples, batch_size: int) -> TrainingMode:
    """Outputs by batch statistics, in order and ``batch_size`` at a time (departure 10); the module is copied.

    Args:
        objective: L, whose module is asked.
        w: The weights, shape (p,).
        samples: S.
        batch_size: Samples in a batch; the last may have fewer.
    """
    moved = objective.with_model(copy.deepcopy(objective.model).train(), l2=0.0)
    with torch.no_grad():
        outputs = torch.cat([moved.forward(w, inputs) for inputs, _ in samples.batches(batch_size)])
    before, after = (_statistics(module) for module in (objective.model, moved.model))
    shift = ((after - before).norm() / before.norm()).item() if len(before) else 0.0
    return TrainingMode(outputs, shift)


def _statistics(model: nn.Module) -> Tensor:
    """All running means and variances as one vector."""
    found = [buffer.reshape(-1) for name, buffer in model.named_buffers() if "running" in name]
    return torch.cat(found) if found else torch.zeros(0)


#: Names of the network as it should be evaluated, and as the code evaluates it.
EVALUATED, UNEVALUATED = "BatchNorm, eval()", "10: BatchNorm, no eval()"


def training_mode_readings(
    problem: Problem, test: Samples, damping: float, sigma: float, folds: int, batch_size: int, seed: int
) -> Iterator[Reading]:
    """One release of a network with BatchNorm, evaluated in evaluation mode and in training mode.

    Args:
        problem: The network, and what is deleted from it.
        test: The test samples.
        damping: λ of the step, whose system is solved by the least residual over a Krylov space of ten dimensions.
        sigma: Standard deviation of the noise.
        folds: Folds of the attack.
        batch_size: Samples in a batch, which share its statistics; the last batch may have fewer.
        seed: Seed of the noise and of the attack.

    Yields:
        ``network_accuracy`` on every set, success of the attacks, and ``statistics_shift``.
    """
    network, w_star = problem.objective, problem.w_star
    operator = Hessian(network, w_star, problem.retain) + damping
    step = minimal_residual(operator, network.gradient(w_star, problem.retain), 10)
    released = released_weights(Variant(lambda: step, problem, damping, sigma), step.x, seed)
    attacks = Attacks(problem, test, folds, seed)
    sets = {"forget": problem.forget, "retain": problem.retain, "test": test}

    def unevaluated(w: Tensor, samples: Samples) -> Tensor:
        return training_mode(network, w, samples, batch_size).outputs

    for name, outputs in {EVALUATED: network.outputs, UNEVALUATED: unevaluated}.items():
        for split, samples in sets.items():
            share = _share_right(outputs(released, samples), samples)
            yield Reading({"network_accuracy": share}, {"method": name, "split": split})
        share = _share_right(outputs(w_star, test), test)
        yield Reading({"network_accuracy": share}, {"method": name, "split": "test, original"})
        yield Reading(attacks.success(outputs, w_star, released), {"method": name})
    shift = training_mode(network, released, problem.retain, batch_size).shift
    yield Reading({"statistics_shift": 0.0}, {"method": EVALUATED})
    yield Reading({"statistics_shift": shift}, {"method": UNEVALUATED})


def _share_right(outputs: Tensor, samples: Samples) -> float:
    return float((outputs.argmax(dim=1) == samples.targets).double().mean())
