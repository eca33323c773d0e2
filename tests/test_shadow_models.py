"""Shadow models of a setup, and what methods leave of them."""

import pytest
import torch

from cdu.errors import CduError
from cdu.evaluation.lira import scaled_logit
from cdu.experiments import shadows as module
from cdu.experiments.experiment import load_experiment
from cdu.experiments.forget_sets import varied
from cdu.experiments.repository import repository
from cdu.experiments.setup import Setup
from cdu.experiments.shadows import RETRAINED, ShadowModels, ShadowResults, retrained_counterpart
from cdu.models.architectures import build
from cdu.models.training import train
from cdu.unlearning.registry import SECOND_SEED


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    experiment = load_experiment(str(repository() / "tests" / "canaries" / "mlp.yaml"))
    return Setup(experiment, "digits", 0, tmp_path_factory.mktemp("models"), torch.device("cpu"))


@pytest.fixture(scope="module")
def shadows(setup):
    models = ShadowModels(setup)
    models.trained()
    return models


def contents(samples):
    return sorted(tuple(row) for row in samples.inputs.flatten(1).tolist())


def plain(setup, samples, seed):
    """A training without shadow models."""
    model = build(setup.settings.model, setup.data.input_shape, setup.data.classes, seed)
    return train(model, samples, setup.settings.training, seed).w


@pytest.mark.parametrize("number", [0, 5])
def test_a_shadow_is_trained_on_the_rest_and_on_what_it_forgets(setup, shadows, number):
    problem, seed = shadows.problem(number), shadows.seeds[number]
    assert contents(problem.retain) == contents(shadows.rest)
    assert len(problem.forget) * 2 == len(shadows.targets) == setup.settings.shadows.pool
    everything = setup.train.subset(torch.cat([shadows.pool.rest, shadows.pool.forgotten(number)]))
    assert contents(problem.everything) == contents(everything)
    torch.testing.assert_close(problem.w_star, plain(setup, everything, seed), rtol=1e-4, atol=1e-5)
    assert torch.equal(shadows.alone(number).w, plain(setup, everything, seed))
    assert not torch.equal(problem.w_star, shadows.problem(number + 1).w_star)


@pytest.mark.parametrize("shift", [0, SECOND_SEED])
def test_a_retrained_shadow_sees_the_rest_alone(setup, shadows, shift):
    problem, seed = shadows.problem(2), shadows.seeds[2] + shift
    found = problem.retrain(problem.retain, seed).w
    torch.testing.assert_close(found, plain(setup, shadows.rest, seed), rtol=1e-4, atol=1e-5)


def test_a_stopped_shadow_is_one_of_fewer_epochs(setup, shadows):
    stopped = shadows.problem(1).stopped(1).w
    once = varied(setup, training=setup.settings.training.model_copy(update={"epochs": 1}))
    own = setup.train.subset(shadows.pool.trained[1])
    torch.testing.assert_close(stopped, plain(once, own, shadows.seeds[1]), rtol=1e-4, atol=1e-5)


def test_shadows_are_trained_once(shadows, monkeypatch):
    first = shadows.trained(RETRAINED)
    monkeypatch.setattr(module, "train_networks", lambda *_: pytest.fail("trained again"))
    assert shadows.trained(RETRAINED) is first


def test_what_is_kept_of_a_method_is_how_sure_it_leaves_every_shadow(shadows, monkeypatch):
    results = ShadowResults(shadows)
    found = results.confidences("original")
    assert found.phi.keys() == {"original", "original + noise"}
    for number, shadow in enumerate(shadows.trained().each):
        outputs = shadows.problem(number).objective.outputs(shadow.w, shadows.targets)
        assert torch.equal(found.phi["original"][number], scaled_logit(outputs, shadows.targets.targets))
    assert not torch.equal(*found.phi.values())
    monkeypatch.setattr(ShadowResults, "_computed", lambda *_: pytest.fail("computed again"))
    again = results.confidences("original")
    assert all(torch.equal(found.phi[label], again.phi[label]) for label in found.phi)
    assert again.seconds == found.seconds


def test_yardsticks_come_first_and_no_method_twice(shadows):
    names = ShadowResults(shadows).names
    assert names[:4] == ("original", "retrain", "second retraining", "newton")
    assert len(set(names)) == len(names)
    assert "SCRUB" in names


def test_an_unknown_method_is_refused(setup):
    wanted = setup.settings.shadows.model_copy(update={"methods": ("newton", "oblivion")})
    with pytest.raises(CduError, match="names 'oblivion', which is none of original, retrain"):
        ShadowResults(ShadowModels(varied(setup, shadows=wanted)))


@pytest.mark.parametrize(
    ("label", "counterpart"),
    [
        ("newton", "retrain"),
        ("newton + noise", "retrain + noise"),
        ("second retraining", "retrain"),
        ("retrain", None),
        ("retrain + noise", None),
        ("rewind", None),
        ("rewind, Adam", "retrain"),
        ("rewind, linear", None),
        ("certified removal, linear", None),
        ("Newton step, ε = 1", None),
    ],
)
def test_only_models_of_the_same_kind_and_noise_are_compared_with_retrained_ones(label, counterpart):
    assert retrained_counterpart(label, {"retrain", "retrain + noise"}) == counterpart
    assert retrained_counterpart(label, {"original"}) is None
