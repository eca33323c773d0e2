import pytest
import torch
from sklearn.metrics import f1_score

from cdu.config import RelearnSettings
from cdu.evaluation import accuracy, relearn
from conftest import network


@pytest.mark.parametrize("name", ["logistic", "allcnn"])
def test_accuracy_is_scikit_learns_micro_f1(name):
    objective, w, samples = network(name, count=30)
    predicted = objective.outputs(w, samples).argmax(1)
    expected = f1_score(samples.targets, predicted, average="micro")
    assert accuracy(objective, w, samples) == pytest.approx(expected)


def test_mean_loss_leaves_the_l2_term_out():
    objective, w, samples = network("mlp")
    direct = torch.nn.functional.cross_entropy(objective.outputs(w, samples), samples.targets)
    assert objective.mean_loss(w, samples) == pytest.approx(direct.item())


def test_relearn_time_counts_epochs_until_the_target():
    objective, w, samples = network("allcnn", count=12)
    start = objective.mean_loss(w, samples)
    settings = RelearnSettings(max_epochs=200, learning_rate=0.01)
    buffers = {key: value.clone() for key, value in objective.model.named_buffers()}
    assert relearn(objective, w, samples, start, settings, 0).epochs == 0
    result = relearn(objective, w, samples, 0.7 * start, settings, 0)
    assert result.epochs == len(result.losses) - 1 > 0
    assert result.losses[-1] <= 0.7 * start < min(result.losses[:-1])
    assert all(torch.equal(buffers[key], value) for key, value in objective.model.named_buffers())


def test_a_model_that_does_not_get_there_is_censored():
    objective, w, samples = network("mlp")
    result = relearn(objective, w, samples, -1.0, RelearnSettings(max_epochs=3), 0)
    assert result.epochs is None
    assert len(result.losses) == 4
