"""Set-ups with some settings replaced, and worst-case forget sets."""

from dataclasses import replace

import torch

from cdu.checks import expect
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


def mislabelled(setup: Setup) -> Setup:
    """The same set-up whose forget set has wrong labels: each is the next class."""
    other, labels = varied(setup), setup.data.train.targets.clone()
    rows = torch.as_tensor(setup.split.forget)
    labels[rows] = (labels[rows] + 1) % setup.data.classes
    other.data = replace(setup.data, train=replace(setup.data.train, targets=labels))
    return other


def with_forget_set(setup: Setup, kind: str) -> Setup:
    """The same set-up with a worst case in place of its forget set, of the same size where there are as many samples.

    Args:
        setup: The set-up.
        kind: ``hardest`` or ``outliers`` (:func:`hardest`), ``one class`` (:func:`one_class`), ``mislabelled``; or
            ``random``, the set-up as it is.

    Raises:
        CduError: Another kind.
    """
    if kind == "random":
        return setup
    if kind == "mislabelled":
        return mislabelled(setup)
    worst = {"hardest": hardest, "outliers": hardest, "one class": one_class}
    expect(kind in worst, f"there is no forget set '{kind}'; known are random, mislabelled, {', '.join(worst)}")
    return varied(setup, forget=worst[kind](setup, len(setup.forget)))
