"""The same set-up with other settings, and forget sets that are worse than random ones."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from cdu.errors import CduError
from cdu.experiments.experiment import load_experiment
from cdu.experiments.forget_sets import hardest, mislabelled, one_class, varied, with_forget_set
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


def test_of_a_mislabelled_forget_set_nothing_but_its_labels_is_changed(setup):
    other = mislabelled(setup)
    assert torch.equal(other.retain.targets, setup.retain.targets)
    assert torch.equal(other.forget.inputs, setup.forget.inputs)
    assert torch.equal(other.forget.targets, (setup.forget.targets + 1) % 10)
    assert torch.equal(other.test.targets, setup.test.targets)
    assert not torch.equal(other.original.w, setup.original.w)


def test_worst_cases_go_by_their_names(setup):
    assert with_forget_set(setup, "random") is setup
    assert torch.equal(with_forget_set(setup, "mislabelled").forget.targets, mislabelled(setup).forget.targets)
    for kind, worst in (("hardest", hardest), ("outliers", hardest), ("one class", one_class)):
        assert with_forget_set(setup, kind).settings.forget == worst(setup, len(setup.forget))
    with pytest.raises(CduError, match="no forget set 'easiest'; known are random, mislabelled, hardest"):
        with_forget_set(setup, "easiest")
