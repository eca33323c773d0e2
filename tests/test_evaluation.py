import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from cdu.attacks import OriginalAndRelease, membership_attack, sorted_concatenation
from cdu.config import RelearnSettings
from cdu.errors import CduError
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


def posteriors(rng, count):
    return rng.dirichlet(np.ones(10), count)


def test_the_attack_finds_nothing_in_exchangeable_data():
    aucs, accuracies = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        view = OriginalAndRelease(posteriors(rng, 200), posteriors(rng, 200), np.arange(200) < 100)
        result = membership_attack(view, 5, seed)
        aucs.append(result.auc)
        accuracies.append(result.accuracy)
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.03)
    assert np.mean(accuracies) == pytest.approx(0.5, abs=0.03)


def test_the_attack_finds_a_planted_leak():
    rng = np.random.default_rng(0)
    original, released = posteriors(rng, 400), posteriors(rng, 400)
    members = np.arange(400) < 200
    released[members] = 0.5 * released[members] + 0.5 * np.eye(10)[original[members].argmax(1)]
    assert membership_attack(OriginalAndRelease(original, released, members), 5, 0).auc > 0.95


def test_both_posteriors_are_sorted_by_the_originals_order():
    view = OriginalAndRelease(np.array([[0.2, 0.5, 0.3]]), np.array([[0.1, 0.2, 0.7]]), np.array([True]))
    assert sorted_concatenation(view).tolist() == [[0.5, 0.3, 0.2, 0.2, 0.7, 0.1]]


@pytest.mark.parametrize(("members", "message"), [(3, "as many non-members"), (5, "20 folds need at least 20 members")])
def test_an_attack_on_unusable_samples_is_refused(members, message):
    rng = np.random.default_rng(0)
    view = OriginalAndRelease(posteriors(rng, 10), posteriors(rng, 10), np.arange(10) < members)
    with pytest.raises(CduError, match=message):
        membership_attack(view, 20, 0)
