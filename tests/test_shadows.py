import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from torch import nn

from cdu.errors import CduError
from cdu.evaluation import lira
from cdu.evaluation.lira import Inference, draw_pool, likelihood_ratio_attack, roc, scaled_logit
from cdu.models import batched_training, training
from cdu.models.architectures import build
from cdu.models.batched_training import train_batched, train_networks, train_one_by_one
from cdu.models.objective import Objective
from cdu.models.settings import ModelSettings, TrainingSettings
from cdu.models.training import train
from cdu.storage import kept_tensors
from conftest import NETWORKS as ALL_NETWORKS
from conftest import counted, random_samples

SHAPE, CLASSES = (1, 4, 4), 3
NETWORKS = {
    "logistic": ModelSettings(name="logistic"),
    "mlp": ModelSettings(name="mlp", hidden=(6, 5)),
    "tanh": ModelSettings(name="mlp", hidden=(6,), activation="tanh"),
}


def models(name, seeds, dtype=torch.float64):
    return [build(NETWORKS[name], SHAPE, CLASSES, seed).to(dtype) for seed in seeds]


def rows(count, size, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(60, generator=generator)[:size] for _ in range(count)])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("first", [0, 40])
@pytest.mark.parametrize("radius", [0.9, 100.0])  # the projection active in every step, and never
@pytest.mark.parametrize("cache", [1, 2600, 2**22])  # one network at once, two, all
def test_networks_that_are_trained_together_are_those_trained_alone(monkeypatch, name, first, radius, cache):
    monkeypatch.setattr(batched_training, "CACHE_BYTES", cache)
    samples, seeds, chosen = random_samples(SHAPE, 60, first), range(first, first + 4), rows(4, 43, first)
    recipe = TrainingSettings(epochs=4, batch_size=10, learning_rate=0.01, weight_decay=0.05, radius=radius)
    together = train_batched(models(name, seeds), samples, chosen, recipe, list(seeds)).w
    for number, seed in enumerate(seeds):
        (model,) = models(name, [seed])
        alone = train(model, samples.subset(chosen[number]), recipe, seed).w
        torch.testing.assert_close(together[number], alone, rtol=1e-9, atol=1e-11)
        assert together[number].norm() <= radius


def test_in_single_precision_too():
    samples, chosen = random_samples(SHAPE, 60, 0).to(dtype=torch.float32), rows(3, 40, 0)
    recipe = TrainingSettings(epochs=5, batch_size=16)
    together = train_batched(models("mlp", range(3), torch.float32), samples, chosen, recipe, range(3)).w
    alone = train(models("mlp", [2], torch.float32)[0], samples.subset(chosen[2]), recipe, 2).w
    assert (together[2] - alone).norm() <= 1e-5 * alone.norm()


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    samples, chosen, recipe = random_samples(SHAPE, 60, 0), rows(3, 40, 0), TrainingSettings(epochs=5, batch_size=16)
    whole = train_batched(models("mlp", range(3)), samples, chosen, recipe, range(3)).w
    path, original, done = tmp_path / "shadows.safetensors", batched_training._epoch, []

    def interrupted(*arguments):
        if len(done) == 6:  # two groups of networks, three epochs
            raise KeyboardInterrupt
        done.append(arguments[-1])
        original(*arguments)

    monkeypatch.setattr(batched_training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(batched_training, "CACHE_BYTES", 2 * 16 * 16 * 8)
    monkeypatch.setattr(batched_training, "_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_batched(models("mlp", range(3)), samples, chosen, recipe, range(3), path)
    again = []
    monkeypatch.setattr(
        batched_training, "_epoch", lambda *arguments: (again.append(arguments[-1]), original(*arguments))
    )
    resumed = train_batched(models("mlp", range(3)), samples, chosen, recipe, range(3), path)
    assert again == [3, 3, 4, 4]
    assert torch.equal(resumed.w, whole)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    loaded = train_batched(models("mlp", range(3)), samples, chosen, recipe, range(3), path)
    assert again == [3, 3, 4, 4]
    assert torch.equal(loaded.w, whole)
    assert loaded.seconds == resumed.seconds > 0


def test_a_checkpoint_of_other_shadows_or_a_damaged_one_is_refused(tmp_path):
    samples, recipe = random_samples(SHAPE, 60, 0), TrainingSettings(epochs=1)
    path = tmp_path / "shadows.safetensors"
    train_batched(models("mlp", range(3)), samples, rows(3, 40, 0), recipe, range(3), path)
    with pytest.raises(CduError, match="belongs to other shadow models"):
        train_batched(models("mlp", range(3)), samples, rows(3, 40, 1), recipe, range(3), path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CduError, match="cannot be read"):
        train_batched(models("mlp", range(3)), samples, rows(3, 40, 0), recipe, range(3), path)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (lambda: [build(ModelSettings(name="allcnn", width=0.02), (3, 8, 8), 3, seed) for seed in range(2)], "buffer"),
        (lambda: [nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 3)) for _ in range(2)], "Dropout"),
        (lambda: [*models("mlp", [0]), *models("tanh", [0])], "one architecture"),
        (lambda: models("mlp", range(3)), "3 models, 2 rows and 2 seeds"),
    ],
)
def test_networks_that_cannot_be_batched_are_refused(networks, message):
    with pytest.raises(CduError, match=message):
        train_batched(networks(), random_samples(SHAPE, 60, 0), rows(2, 40, 0), TrainingSettings(), range(2))


def test_a_training_that_diverges_says_which():
    samples, recipe = random_samples(SHAPE, 60, 0), TrainingSettings(epochs=1, learning_rate=1e300, radius=1e308)
    with pytest.raises(CduError, match=r"diverged in epoch 1 for seed \d+ .* lower the learning rate"):
        train_batched(models("mlp", range(2)), samples, rows(2, 40, 0), recipe, range(2))


# --- one after another ---------------------------------------------------------------------------------------------

WITH_BATCHNORM, IMAGE = ALL_NETWORKS["allcnn"]
BRIEF = TrainingSettings(epochs=2, batch_size=10, learning_rate=0.01)


def batchnorm_models(seeds):
    return [build(WITH_BATCHNORM, IMAGE, CLASSES, seed).double() for seed in seeds]


def outputs(trained, samples):
    return Objective(trained.model).outputs(trained.w, samples)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("first", [0, 40])
def test_networks_that_are_trained_in_turn_are_those_trained_together(name, first):
    samples, seeds, chosen = random_samples(SHAPE, 60, first), range(first, first + 3), rows(3, 43, first)
    recipe = TrainingSettings(epochs=4, batch_size=10, learning_rate=0.01, weight_decay=0.05, radius=2.0)
    together = train_batched(models(name, seeds), samples, chosen, recipe, list(seeds))
    in_turn = train_one_by_one(models(name, seeds), samples, chosen, recipe, list(seeds))
    torch.testing.assert_close(in_turn.w, together.w, rtol=1e-9, atol=1e-11)
    assert together.batched
    assert not in_turn.batched
    assert in_turn.seconds == sum(one.seconds for one in in_turn.each) > 0


@pytest.mark.parametrize(
    ("networks", "shape", "together"),
    [
        (lambda: models("mlp", range(2)), SHAPE, True),
        (lambda: batchnorm_models(range(2)), IMAGE, False),
        (
            lambda: [nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 3).double()) for _ in range(2)],
            SHAPE,
            False,
        ),
    ],
)
def test_networks_are_trained_at_once_where_they_can_be(networks, shape, together):
    samples = random_samples(shape, 60, 0)
    found = train_networks(networks(), samples, rows(2, 40, 0), BRIEF, range(2))
    assert found.batched is together
    assert found.w.shape == (2, found.each[0].w.numel())


@pytest.mark.parametrize("first", [0, 7])
def test_a_shadow_with_batchnorm_has_statistics_of_its_own_when_it_is_loaded_too(tmp_path, first):
    samples, seeds, chosen = random_samples(IMAGE, 60, first), range(first, first + 2), rows(2, 43, first)
    path = tmp_path / "shadows.safetensors"
    found = train_networks(batchnorm_models(seeds), samples, chosen, BRIEF, list(seeds), path)
    loaded = train_networks(batchnorm_models(seeds), samples, chosen, BRIEF, list(seeds), path)
    for number, seed in enumerate(seeds):
        (model,) = batchnorm_models([seed])
        alone = train(model, samples.subset(chosen[number]), BRIEF, seed)
        for shadow in (found.each[number], loaded.each[number]):
            assert torch.equal(shadow.w, alone.w)
            assert torch.equal(outputs(shadow, samples), outputs(alone, samples))
        # The statistics of the other would give other outputs.
        exchanged = Objective(found.each[1 - number].model).outputs(alone.w, samples)
        assert not torch.allclose(exchanged, outputs(alone, samples), rtol=1e-3)


def test_shadows_that_are_trained_are_not_trained_again_after_an_interruption(tmp_path, monkeypatch):
    samples, chosen = random_samples(IMAGE, 60, 0), rows(3, 40, 0)
    path, original, begun = tmp_path / "shadows.safetensors", training.train, []

    def interrupted(model, own, settings, seed, *rest):
        begun.append(seed)
        if seed == 2:
            raise KeyboardInterrupt
        return original(model, own, settings, seed, *rest)

    monkeypatch.setattr(batched_training, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_networks(batchnorm_models(range(3)), samples, chosen, BRIEF, range(3), path)
    assert begun == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(batched_training, "train", original)
    epochs = counted(monkeypatch, training, "_epoch")
    resumed = train_networks(batchnorm_models(range(3)), samples, chosen, BRIEF, range(3), path)
    assert [(arguments[-2], arguments[-1]) for arguments in epochs] == [(2, 0), (2, 1)]  # seed and epoch
    whole = train_networks(batchnorm_models(range(3)), samples, chosen, BRIEF, range(3))
    assert torch.equal(resumed.w, whole.w)


def test_shadows_of_other_rows_seeds_or_settings_are_not_taken_for_these(tmp_path):
    samples, path = random_samples(IMAGE, 60, 0), tmp_path / "shadows.safetensors"
    train_networks(batchnorm_models([0]), samples, rows(1, 40, 0), BRIEF, [0], path)
    others = [
        (batchnorm_models([0]), rows(1, 40, 1), BRIEF, [0]),
        (batchnorm_models([0]), rows(1, 40, 0), BRIEF, [1]),
        (batchnorm_models([1]), rows(1, 40, 0), BRIEF, [0]),
        (batchnorm_models([0]), rows(1, 40, 0), BRIEF.model_copy(update={"epochs": 1}), [0]),
    ]
    for count, (networks, chosen, recipe, seeds) in enumerate(others, 2):
        train_networks(networks, samples, chosen, recipe, seeds, path)
        assert len(list(tmp_path.iterdir())) == count


def test_no_shadow_sees_the_other_half_of_the_pool(monkeypatch):
    samples, pool, seen = random_samples(IMAGE, 60, 0), draw_pool(60, 12, 4, 0), []
    original = training.train
    monkeypatch.setattr(
        batched_training, "train", lambda model, own, *rest: (seen.append(own), original(model, own, *rest))[1]
    )
    train_networks(batchnorm_models(range(4)), samples, pool.trained, BRIEF, range(4))
    for number, own in enumerate(seen):
        held = (samples.inputs[:, None] == own.inputs).flatten(2).all(dim=2).any(dim=1)
        expected = torch.ones(60, dtype=torch.bool)
        expected[pool.targets[~pool.members[number]]] = False
        assert torch.equal(held, expected)


def test_as_many_rows_and_seeds_as_networks_are_needed():
    with pytest.raises(CduError, match="2 models, 3 rows and 2 seeds"):
        train_networks(batchnorm_models(range(2)), random_samples(IMAGE, 60, 0), rows(3, 40, 0), BRIEF, range(2))


# --- the attack ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 20).map(lambda half: 2 * half), st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_every_shadow_is_trained_on_the_rest_and_on_half_of_the_pool(size, rest, seed):
    pool = draw_pool(size + rest, size, 5, seed)
    assert sorted([*pool.rest.tolist(), *pool.targets.tolist()]) == list(range(size + rest))
    assert pool.members.sum(dim=1).tolist() == [size // 2] * 5
    for number in range(5):
        trained = set(pool.trained[number].tolist())
        assert trained == set(pool.rest.tolist()) | set(pool.targets[pool.members[number]].tolist())
        assert set(pool.forgotten(number).tolist()) == trained - set(pool.rest.tolist())
    assert (pool.members[:4].sum(dim=0) == 2).all()
    again = draw_pool(size + rest, size, 7, seed)
    assert torch.equal(again.members[:5], pool.members)


@pytest.mark.parametrize("size", [3, 0, 60])
def test_a_pool_that_does_not_fit_is_refused(size):
    with pytest.raises(CduError, match=f"a pool of {size} targets"):
        draw_pool(60, size, 4, 0)


def test_the_scaled_logit_is_the_log_odds_of_the_right_class():
    outputs = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]], dtype=torch.float64)
    targets = torch.tensor([1, 0])
    p = outputs.softmax(dim=1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(scaled_logit(outputs, targets), torch.log(p / (1 - p)))
    assert scaled_logit(torch.tensor([[1000.0, 0.0]]), torch.tensor([0])).item() == 1000.0


def exchangeable(count, targets, seed, shift=0.0):
    """φ that members have a shift in, and who is a member."""
    draw = np.random.default_rng(seed)
    members = draw_pool(2 * targets, targets, count, seed).members.numpy()
    return draw.normal(2.0, 0.7, (count, targets)) + shift * members, members


@pytest.mark.parametrize("own", [True, False])
def test_likelihoods_leave_out_the_shadow_that_is_scored(own):
    phi, members = exchangeable(10, 6, 1)
    attack = likelihood_ratio_attack(phi, members, phi, ~members, own)
    expected = []
    for mask in (members, ~members):
        for shadow, target in zip(*np.nonzero(mask), strict=True):
            likelihoods = []
            for side in (members, ~members):
                others = [phi[[s for s in range(10) if s // 2 != shadow // 2 and side[s, t]], t] for t in range(6)]
                squares = sum(((column - column.mean()) ** 2).sum() for column in others)
                shared = squares / sum(len(column) - 1 for column in others)
                variance = np.var(others[target], ddof=1) if own else shared
                likelihoods.append(norm.logpdf(phi[shadow, target], others[target].mean(), variance**0.5))
            expected.append(likelihoods[0] - likelihoods[1])
    np.testing.assert_allclose(attack.scores, expected, rtol=1e-9)
    assert attack.labels.tolist() == [1] * int(members.sum()) + [0] * int((~members).sum())
    assert len(attack.scores) == len(attack.shadows) == phi.size


def test_below_so_many_shadows_all_targets_share_one_variance(monkeypatch):
    """Then a target's score is a difference of squares over one and the same spread."""
    phi, members = exchangeable(10, 8, 2)
    shared = likelihood_ratio_attack(phi, members, phi, ~members)
    np.testing.assert_array_equal(shared.scores, likelihood_ratio_attack(phi, members, phi, ~members, False).scores)
    monkeypatch.setattr(lira, "OWN_VARIANCE", 10)
    own = likelihood_ratio_attack(phi, members, phi, ~members)
    np.testing.assert_array_equal(own.scores, likelihood_ratio_attack(phi, members, phi, ~members, True).scores)
    assert not np.allclose(own.scores, shared.scores)


@pytest.mark.parametrize(("count", "own"), [(16, False), (128, True)])
def test_nothing_is_found_in_exchangeable_shadows(count, own):
    areas, single = [], []
    for seed in range(100):
        phi, members = exchangeable(count, 20, seed)
        attack = likelihood_ratio_attack(phi, members, phi, ~members)
        areas.append(roc_auc_score(attack.labels, attack.scores))
        single.append(attack.vulnerability.mean())
    assert np.mean(areas) == pytest.approx(0.5, abs=0.01)
    assert np.mean(single) == pytest.approx(0.5, abs=0.01)
    assert (count >= lira.OWN_VARIANCE) is own


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_shift_is_found_as_well_as_it_can_be(seed):
    """Two Gaussians a known distance apart: the best area is Φ(d/√2)."""
    phi, members = exchangeable(256, 40, seed, shift=1.4)
    attack = likelihood_ratio_attack(phi, members, phi, ~members)
    best = norm.cdf(1.4 / 0.7 / 2**0.5)
    assert roc_auc_score(attack.labels, attack.scores) == pytest.approx(best, abs=0.01)
    assert np.median(attack.vulnerability) == pytest.approx(best, abs=0.02)


def test_unlearned_and_retrained_models_are_told_apart_by_what_differs():
    phi, members = exchangeable(64, 20, 0, shift=2.0)
    retrained, _ = exchangeable(64, 20, 1)
    found = likelihood_ratio_attack(phi, members, retrained, members)
    assert roc_auc_score(found.labels, found.scores) > 0.95
    same = likelihood_ratio_attack(exchangeable(64, 20, 2)[0], members, retrained, members)
    assert roc_auc_score(same.labels, same.scores) == pytest.approx(0.5, abs=0.06)


def test_a_targets_vulnerability_is_how_often_its_pair_is_told_right():
    phi, members = exchangeable(30, 6, 3, shift=0.5)
    attack = likelihood_ratio_attack(phi, members, phi, ~members, True)
    scores = np.empty_like(phi)
    scores[members], scores[~members] = np.split(attack.scores, [int(members.sum())])
    for target in range(6):
        right = []
        for first in range(0, 30, 2):
            forgot, never = (first, first + 1) if members[first, target] else (first + 1, first)
            right.append(scores[forgot, target] > scores[never, target])
        assert attack.vulnerability[target] == pytest.approx(np.mean(right))


def test_shadows_without_their_pair_are_refused():
    phi, members = exchangeable(10, 6, 0)
    for rows in (slice(0, 9), slice(1, 9)):
        with pytest.raises(CduError, match="in pairs with complementary halves"):
            likelihood_ratio_attack(phi[rows], members[rows], phi[rows], ~members[rows])


def test_too_few_shadows_are_refused():
    phi, members = exchangeable(4, 6, 0)
    with pytest.raises(CduError, match="needs four; train more shadows than 4"):
        likelihood_ratio_attack(phi, members, phi, ~members)


@pytest.mark.parametrize("seed", range(4))
def test_the_curve_is_that_of_all_thresholds(seed):
    draw = np.random.default_rng(seed)
    labels = (np.arange(300) < 150).astype(int)
    scores = np.round(draw.normal(labels), 1)  # with ties
    attack = Inference(scores, labels, draw.integers(0, 10, 300), np.zeros(1))
    curve = roc(attack, (0.01, 0.1), seed, resamples=20)
    assert curve.auc[0] == pytest.approx(roc_auc_score(labels, scores))
    for level, (value, low, high) in curve.rates.items():
        thresholds = np.append(np.unique(scores), np.inf)
        members, others = scores[labels == 1], scores[labels == 0]
        best = max((members >= t).mean() for t in thresholds if (others >= t).mean() <= level)
        assert value == pytest.approx(best)
        assert 0 <= low <= value <= high <= 1
    assert roc(attack, (0.01, 0.1), seed, resamples=20) == curve


def test_the_bootstrap_covers_the_truth_where_shadows_differ_as_a_whole():
    """Pairs of shadows with a shift of their own, which independent scores would not account for."""
    truth, covered = 0.5, 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        owner = np.repeat(np.arange(80), 10)
        labels = (owner // 2 % 2).astype(np.int64)
        scores = draw.normal(size=800) + 1.5 * draw.normal(size=40)[owner // 2]
        low, high = roc(Inference(scores, labels, owner, np.zeros(1)), (), seed, resamples=100).auc[1:]
        covered += low <= truth <= high
    assert covered >= 50


def test_what_was_kept_is_not_computed_again(tmp_path):
    path, calls = tmp_path / "folder" / "phi.safetensors", []

    def compute():
        calls.append(1)
        return {"newton, ε = 1": torch.arange(6.0).view(2, 3)}

    first, second = kept_tensors(path, compute), kept_tensors(path, compute)
    assert len(calls) == 1
    assert torch.equal(first["newton, ε = 1"], second["newton, ε = 1"])
    path.write_bytes(b"{")
    with pytest.raises(CduError, match="delete it to compute it again"):
        kept_tensors(path, compute)
