"""The same set-up with other settings, and forget sets that are worse than random ones."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from cdu.experiments.experiment import load_experiment
from cdu.experiments.forget_sets import hardest, one_class, varied
from cdu.experiments.setup import Setup
from cdu.models.architectures import ModelSettings


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    base = Setup(load_experiment("quick"), "digits", 0, tmp_path_factory.mktemp("models"), torch.device("cpu"))
    return varied(base, training=base.settings.training.model_copy(update={"epochs": 2}))


def test_what_is_not_varied_stays(scenario):
    other = varied(scenario, model=ModelSettings(name="mlp", hidden=(4,)))
    assert other.settings.model.hidden == (4,)
    assert other.settings.training == scenario.settings.training
    assert other.split.hash == scenario.split.hash
    assert scenario.settings.model.hidden == (32, 32)
    assert other.experiment.datasets.keys() == scenario.experiment.datasets.keys()


@pytest.mark.parametrize("size", [1, 30])
def test_no_other_sample_is_harder_than_the_hardest(scenario, size):
    rows = torch.tensor(hardest(scenario, size).indices)
    samples = scenario.data.train
    outputs = scenario.objective(scenario.original).outputs(scenario.original.w, samples)
    # -ln p of the right class orders samples as the scaled logit does, the other way round.
    losses = cross_entropy(outputs.double(), samples.targets, reduction="none")
    assert len(rows.unique()) == size
    rest = torch.ones(len(samples), dtype=torch.bool)
    rest[rows] = False
    assert losses[rows].min() >= losses[rest].max()
    assert sorted(varied(scenario, forget=hardest(scenario, size)).split.forget.tolist()) == sorted(rows.tolist())


def test_one_class_is_the_largest_and_no_larger_than_it_is(scenario):
    labels = scenario.data.train.targets
    counts = labels.bincount()
    for size in (10, 10_000):
        settings = one_class(scenario, size)
        gone = varied(scenario, forget=settings).forget.targets
        assert len(gone) == settings.size == min(size, int(counts.max()))
        assert set(gone.tolist()) == {int(counts.argmax())}
