"""The same set-up with other settings, and forget sets that are worse than random ones."""

import torch

from cdu.data.splits import ForgetSettings
from cdu.evaluation.lira import scaled_logit
from cdu.experiments.setup import Setup
from cdu.settings import Settings


def varied(scenario: Setup, **blocks: Settings) -> Setup:
    """The same dataset, seed and checkpoints with some blocks of settings replaced, such as ``model`` or ``forget``."""
    settings = scenario.settings.model_copy(update=blocks)
    experiment = scenario.experiment.model_copy(
        update={"datasets": {**scenario.experiment.datasets, scenario.name: settings}}
    )
    return Setup(experiment, scenario.name, scenario.seed, scenario.checkpoints, scenario.device)


def hardest(scenario: Setup, size: int) -> ForgetSettings:
    """The ``size`` training samples with the smallest :func:`~cdu.evaluation.lira.scaled_logit` of the original model."""
    samples = scenario.data.train
    outputs = scenario.objective(scenario.original).outputs(scenario.original.w, samples)
    worst = scaled_logit(outputs, samples.targets).argsort()[:size]
    return ForgetSettings(kind="indices", indices=tuple(worst.tolist()))


def one_class(scenario: Setup, size: int) -> ForgetSettings:
    """``size`` samples of the largest class, or all of it where it has fewer."""
    counts = torch.bincount(scenario.data.train.targets)
    label = int(counts.argmax())
    return ForgetSettings(kind="class", label=label, size=min(size, int(counts[label])))
