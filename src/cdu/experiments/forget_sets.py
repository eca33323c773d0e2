"""The same set-up with other settings, and forget sets that are worse than random ones."""

import torch

from cdu.data.settings import ForgetSettings
from cdu.evaluation.lira import scaled_logit
from cdu.experiments.setup import Setup
from cdu.settings import Settings


def varied(setup: Setup, **blocks: Settings) -> Setup:
    """The same dataset, seed and checkpoints with some blocks of settings replaced, such as ``model`` or ``forget``."""
    settings = setup.settings.model_copy(update=blocks)
    experiment = setup.experiment.model_copy(update={"datasets": {**setup.experiment.datasets, setup.name: settings}})
    return Setup(experiment, setup.name, setup.seed, setup.checkpoints, setup.device)


def hardest(setup: Setup, size: int) -> ForgetSettings:
    """The ``size`` samples of D with the smallest :func:`~cdu.evaluation.lira.scaled_logit` of the original model."""
    samples = setup.data.train
    outputs = setup.objective(setup.original).outputs(setup.original.w, samples)
    worst = scaled_logit(outputs, samples.targets).argsort()[:size]
    return ForgetSettings(kind="indices", indices=tuple(worst.tolist()))


def one_class(setup: Setup, size: int) -> ForgetSettings:
    """``size`` samples of the largest class, or all of it where it has fewer."""
    counts = torch.bincount(setup.data.train.targets)
    label = int(counts.argmax())
    return ForgetSettings(kind="class", label=label, size=min(size, int(counts[label])))
