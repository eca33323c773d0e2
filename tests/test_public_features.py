"""Features of a network that was trained on public rows: what they depend on, and what a request may name."""

import numpy as np
import pytest
import torch
from torch import nn

from cdu.convex import Linear
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models import architectures
from cdu.models.objective import Objective, parameter_vector
from cdu.models.settings import ModelSettings, TrainingSettings
from cdu.models.training import Trained, train
from cdu.unlearning.public_features import PublicSplit, head_features, public_split

RECIPE = TrainingSettings(epochs=1, batch_size=16)
NETWORKS = {
    "mlp": ModelSettings(name="mlp", hidden=(12, 6)),
    "allcnn": ModelSettings(name="allcnn", width=0.05),
    "resnet18": ModelSettings(name="resnet18", width=0.07),
}


def images(count=60, seed=0):
    rng = np.random.default_rng(seed)
    pixels = torch.tensor(rng.integers(0, 256, (count, 1, 8, 8)), dtype=torch.uint8)
    return Samples(pixels, torch.arange(count) % 3, mean=(0.4,), std=(0.3,))


def network(settings, samples, seed=0):
    return train(architectures.build(settings, (1, 8, 8), 3, seed), samples, RECIPE, seed)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_layer_on_the_features_is_the_network(name):
    data = images()
    trained = network(NETWORKS[name], data)
    features = head_features(trained, data)
    last = list(trained.model)[-1]
    weights, bias = trained.w[-(last.weight.numel() + 3) : -3].view_as(last.weight), trained.w[-3:]
    with torch.no_grad():
        outputs = Objective(trained.model).forward(trained.w, data.batch(slice(None))[0])
    # The rows have length 1; by a factor each they are what the last layer takes.
    logits = features.inputs @ weights.T
    squares = (logits * logits).sum(1, keepdim=True)
    factors = ((outputs - bias) * logits).sum(1, keepdim=True) / squares.clamp(min=1e-12)
    assert torch.allclose(factors * logits + bias, outputs, atol=1e-4)
    assert (factors >= 0).all()
    assert features.inputs.dtype == features.dtype == torch.float32
    lengths = features.inputs.norm(dim=1)
    assert torch.allclose(lengths, (lengths > 0).float(), atol=1e-6)
    assert lengths.sum() > 30
    assert torch.equal(features.targets, data.targets)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_do_not_change_when_private_rows_do(name):
    split = public_split(60, 0.5, seed=1)
    data = images()
    other = Samples(data.inputs.clone(), data.targets.clone(), data.mean, data.std)
    other.inputs[split.private] = 255 - other.inputs[split.private]
    other.targets[split.private] = (other.targets[split.private] + 1) % 3
    test = images(20, seed=9)
    first, second = (network(NETWORKS[name], whole.subset(split.public)) for whole in (data, other))
    assert torch.equal(head_features(first, test).inputs, head_features(second, test).inputs)
    # They do change when a public row does.
    other.inputs[split.public[0]] = 255 - other.inputs[split.public[0]]
    third = network(NETWORKS[name], other.subset(split.public))
    assert not torch.equal(head_features(first, test).inputs, head_features(third, test).inputs)


def test_features_of_an_image_do_not_depend_on_others():
    trained = network(NETWORKS["allcnn"], images())
    alone = images(40, seed=2)
    other = Samples(alone.inputs.clone(), alone.targets, alone.mean, alone.std)
    other.inputs[20:] = 7
    assert torch.equal(head_features(trained, alone).inputs[:20], head_features(trained, other).inputs[:20])


def test_without_pooling_every_place_has_its_features():
    trained = network(NETWORKS["allcnn"], images())
    pooled, places = (head_features(trained, images(5), pooled=value).inputs for value in (True, False))
    assert places.shape[1] == 4 * pooled.shape[1]
    means = places.view(5, -1, 4).mean(2)
    assert torch.allclose(means / means.norm(dim=1, keepdim=True), pooled, atol=1e-6)


def test_a_row_without_activation_stays_zero():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 3))
    trained = Trained(model, torch.zeros_like(parameter_vector(model)), [])
    assert torch.equal(head_features(trained, images(3)).inputs, torch.zeros(3, 4))


def test_the_split_is_disjoint_complete_and_drawn_from_the_seed():
    split, again, other = (public_split(101, 0.3, seed) for seed in (0, 0, 1))
    assert len(split.public) == 30
    assert np.array_equal(np.sort(np.concatenate([split.public, split.private])), np.arange(101))
    assert np.array_equal(split.public, again.public)
    assert not np.array_equal(split.public, other.public)


def test_requests_name_private_rows():
    split = PublicSplit(np.array([1, 4, 5]), np.array([0, 2, 3, 6]))
    assert split.private_positions([6, 0, 3]).tolist() == [3, 0, 2]
    with pytest.raises(
        CduError, match=r"row 4 is public, and so are 1 more of the 3 to delete.*train the network again"
    ):
        split.private_positions([2, 4, 1])
    with pytest.raises(CduError, match="there is no row 7; rows are numbered from 0 to 6"):
        split.private_positions([2, 7])


def test_a_certified_head_deletes_private_rows():
    data, split = images(), public_split(60, 0.5, seed=0)
    private = data.subset(split.private)
    features = head_features(network(NETWORKS["mlp"], data.subset(split.public)), private)
    head = Linear(features.inputs, features.targets, l2=0.01, budget=1e-3, classes=3)
    gone = split.private_positions(split.private[[2, 5]])
    assert head.forget([str(row) for row in gone], epsilon=1.0, delta=1e-3).certificate.epsilon <= 1.0


def test_what_makes_no_features_is_refused():
    for model in (
        architectures.LogisticRegression(64, 3),
        nn.Linear(64, 3),
        nn.Sequential(nn.Linear(64, 3), nn.ReLU()),
    ):
        with pytest.raises(CduError, match=r"is no nn\.Sequential with layers of weights before a last nn\.Linear"):
            head_features(Trained(model, parameter_vector(model), []), images(2))
    with pytest.raises(CduError, match="share = 1 makes 10 of 10 rows public"):
        public_split(10, 1, 0)
