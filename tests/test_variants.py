"""The same set-up with other settings, and forget sets that are worse than random ones."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from cdu.experiments.experiment import load_experiment
from cdu.experiments.forget_sets import hardest, one_class, varied
from cdu.experiments.setup import Setup
from cdu.models.settings import ModelSettings


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    base = Setup(load_experiment("quick"), "digits", 0, tmp_path_factory.mktemp("models"), torch.device("cpu"))
    return varied(base, training=base.settings.training.model_copy(update={"epochs": 2}))


def test_what_is_not_varied_stays(setup):
    other = varied(setup, model=ModelSettings(name="mlp", hidden=(4,)))
    assert other.settings.model.hidden == (4,)
    assert other.settings.training == setup.settings.training
    assert other.split.hash == setup.split.hash
    assert setup.settings.model.hidden == (32, 32)
    assert other.experiment.datasets.keys() == setup.experiment.datasets.keys()


@pytest.mark.parametrize("size", [1, 30])
def test_no_other_sample_is_harder_than_the_hardest(setup, size):
    rows = torch.tensor(hardest(setup, size).indices)
    samples = setup.data.train
    outputs = setup.objective(setup.original).outputs(setup.original.w, samples)
    # -ln p of the right class orders samples as the scaled logit does, the other way round.
    losses = cross_entropy(outputs.double(), samples.targets, reduction="none")
    assert len(rows.unique()) == size
    rest = torch.ones(len(samples), dtype=torch.bool)
    rest[rows] = False
    assert losses[rows].min() >= losses[rest].max()
    assert sorted(varied(setup, forget=hardest(setup, size)).split.forget.tolist()) == sorted(rows.tolist())


def test_one_class_is_the_largest_and_no_larger_than_it_is(setup):
    labels = setup.data.train.targets
    counts = labels.bincount()
    for size in (10, 10_000):
        settings = one_class(setup, size)
        gone = varied(setup, forget=settings).forget.targets
        assert len(gone) == settings.size == min(size, int(counts.max()))
        assert set(gone.tolist()) == {int(counts.argmax())}
