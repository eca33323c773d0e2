import copy

import pytest
import torch
from sklearn.metrics import f1_score

from cdu.evaluation.accuracy import accuracy
from cdu.evaluation.relearning import relearn
from cdu.evaluation.settings import RelearnSettings
from cdu.seeding import generator
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
    assert (result.counted, result.note) == (result.epochs, "")
    censored = relearn(objective, w, samples, 0.7 * start, RelearnSettings(max_epochs=result.epochs - 1), 0)
    assert (censored.epochs, censored.counted) == (None, result.epochs)
    assert censored.note == f"censored: > {result.epochs - 1} epochs, counted as {result.epochs}"
    # The last epoch that is allowed counts too.
    last = RelearnSettings(max_epochs=result.epochs, learning_rate=0.01)
    assert relearn(objective, w, samples, 0.7 * start, last, 0).epochs == result.epochs
    assert all(torch.equal(buffers[key], value) for key, value in objective.model.named_buffers())


@pytest.mark.parametrize("name", ["mlp", "allcnn", "resnet18"])
@pytest.mark.parametrize("mode", [False, True])
def test_relearning_trains_in_training_mode_and_judges_in_evaluation_mode(name, mode):
    """As by a plain loop: batches move BatchNorm's running statistics, the losses are taken with them."""
    objective, w, samples = network(name, count=12)
    objective.model.train(mode)
    settings = RelearnSettings(max_epochs=3, batch_size=4, learning_rate=0.01)
    result = relearn(objective, w, samples, -1.0, settings, 5)
    assert objective.model.training is mode
    model = copy.deepcopy(objective.model)
    torch.nn.utils.vector_to_parameters(w, model.parameters())
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    inputs, targets = samples.batch(slice(None))
    losses = []
    for epoch in range(4):
        with torch.no_grad():
            losses.append(torch.nn.functional.cross_entropy(model.eval()(inputs), targets).item())
        for rows in torch.randperm(12, generator=generator(5, "relearn", epoch)).split(4):
            adam.zero_grad()
            torch.nn.functional.cross_entropy(model.train()(inputs[rows]), targets[rows]).backward()
            adam.step()
    assert result.losses == pytest.approx(losses, rel=1e-6)


def test_a_model_that_does_not_get_there_is_censored():
    objective, w, samples = network("mlp")
    result = relearn(objective, w, samples, -1.0, RelearnSettings(max_epochs=3), 0)
    assert result.epochs is None
    assert len(result.losses) == 4
