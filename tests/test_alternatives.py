"""The table of what else deletes: every row, its guarantee against closed forms, and what a failure leaves."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from cdu.certification import gaussian_delta, gaussian_epsilon
from cdu.data.samples import Samples
from cdu.data.settings import ForgetSettings
from cdu.evaluation.accuracy import accuracy
from cdu.experiments.alternatives import Alternatives
from cdu.experiments.budgeted_release import budgeted_model
from cdu.experiments.competitors import SINGLE, Competitors
from cdu.experiments.forget_sets import varied
from cdu.experiments.run import begin
from cdu.experiments.settings import (
    COMPETITORS,
    AlternativesSettings,
    ClippedSettings,
    HessianFreeSettings,
    LinearSettings,
    NoisySettings,
    PrivateSettings,
    PublicSettings,
)
from cdu.models.private_training import privacy_guarantee
from cdu.models.settings import FeatureSettings, ModelSettings, TrainingSettings

PRIVATE = PrivateSettings(steps=4, sampling_rate=0.5, learning_rate=1.0)
SETTINGS = AlternativesSettings(
    shards=((2, 1), (3, 2)), shard_epochs=2, network=ModelSettings(name="mlp", hidden=(8,)),
    public=(PublicSettings(share=0.5, epochs=2),), private_linear=PRIVATE, private_network=PRIVATE,
    noisy=NoisySettings(steps=5, learning_rate=0.1, gradient_clip=0.1, start_clip=1.0, batch_size=64),
    clipped=ClippedSettings(steps=5, learning_rate=0.1, model_clip=1.0, batch_size=64), after=1,
    hessian_free=HessianFreeSettings(epochs=1, batch_size=64, learning_rate=0.1, size=3), noise_draws=2, trials=1000,
)  # fmt: skip
LINEAR = LinearSettings(features=FeatureSettings(scales=1, angles=8, groups=3), l2=(1e-3,), budgets=(1e-2,), sizes=(5,))
BLOCKS = {
    "samples": 400, "model": ModelSettings(name="mlp", hidden=(8,)), "forget": ForgetSettings(size=10),
    "training": TrainingSettings(epochs=3, radius=8), "linear": LINEAR, "alternatives": SETTINGS,
}  # fmt: skip
ROWS = {
    "original", "retraining", "SISA, 2 shards, 1 slices", "SISA, 3 shards, 2 slices", "head, public share 0.5",
    "DP-SGD, linear on fixed features", "DP-SGD, network", "noisy fine-tuning", "noisy fine-tuning + 1 epochs",
    "noisy fine-tuning, model clipping", "noisy fine-tuning, model clipping + 1 epochs",
    "training from scratch, 1 epochs", "Hessian-free, original", "Hessian-free", "newton", "newton + noise",
    "certified linear",
}  # fmt: skip
PRIVATE_ROWS = {"DP-SGD, linear on fixed features", "DP-SGD, network"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def opened(folder, **changes):
    """A run on 400 digits, whose competitors take a few steps each."""
    given = {"dataset": "digits", "seed": 0, "experiment": "quick", "output": "runs", "device": "cpu"}
    run = begin("13_alternatives", given)
    run.setup.checkpoints = folder
    settings = SETTINGS.model_copy(update=changes)
    run.setup = varied(run.setup, **{**BLOCKS, "alternatives": settings})
    return run


def compared(run, kinds=COMPETITORS):
    alternatives = Alternatives(run)
    for name, compare in alternatives.competitors(*kinds):
        run.point(name, compare)
    return run


@pytest.fixture(scope="module")
def table(folder):
    return compared(opened(folder), [kind for kind in COMPETITORS if not kind.startswith("DP-SGD")])


def the(run, metric, method, split=""):
    (value,) = run.values(metric, method=method, split=split)
    return value


def expect_whole(run, methods):
    """Every method has all columns, and every missing number a reason."""
    assert {one.method for one in run.metrics} == methods
    for method in methods:
        for metric, split in (
            ("accuracy", "test"), ("accuracy", "forget"), ("certified_epsilon", ""), ("epsilon_single", ""),
            ("audit_epsilon", ""), ("training_seconds", ""), ("seconds", ""), ("seconds", SINGLE),
        ):  # fmt: skip
            the(run, metric, method, split)
    assert all(one.note for one in run.metrics if one.value is None)


def test_every_competitor_has_a_row_and_every_missing_number_a_reason(table):
    expect_whole(table, ROWS - PRIVATE_ROWS)


def test_exact_methods_promise_zero_and_doing_nothing_promises_nothing(table):
    for method in ("retraining", "SISA, 2 shards, 1 slices", "training from scratch, 1 epochs"):
        assert the(table, "certified_epsilon", method) == the(table, "epsilon_single", method) == 0
    for method in ("original", "Hessian-free, original", "Hessian-free"):
        assert the(table, "certified_epsilon", method) is the(table, "epsilon_single", method) is None


def test_the_noise_certifies_what_its_row_says(table):
    delta, unlearning = 1e-5, table.setup.settings.unlearning
    for method, distance in (("certified linear", 1e-2), ("head, public share 0.5", SETTINGS.budget), ("newton", 16)):
        sigma = the(table, "sigma", method)
        assert gaussian_delta(1.0, sigma, distance) == pytest.approx(delta, rel=1e-3)
        assert the(table, "certified_epsilon", method) == pytest.approx(1, rel=1e-6)
    expected = gaussian_epsilon(unlearning.sigma, delta, 16)
    assert the(table, "certified_epsilon", "newton + noise") == pytest.approx(expected, rel=1e-6)
    for method in ("noisy fine-tuning", "noisy fine-tuning, model clipping + 1 epochs"):
        assert the(table, "epsilon_single", method) == pytest.approx(1, rel=1e-3)


# The accountant takes seconds.
@pytest.mark.slow
def test_private_training_promises_less_to_a_group_and_does_nothing(folder):
    run = compared(opened(folder), [kind for kind in COMPETITORS if kind.startswith("DP-SGD")])
    expect_whole(run, PRIVATE_ROWS)
    guarantee = privacy_guarantee(1.0, 1e-5, PRIVATE.sampling_rate, PRIVATE.steps)
    for method in PRIVATE_ROWS:
        assert the(run, "epsilon_single", method) == guarantee.epsilon <= 1
        assert the(run, "certified_epsilon", method) == guarantee.group_epsilon(10) > 5
        assert the(run, "seconds", method) == the(run, "seconds", method, SINGLE) == 0


def test_models_are_those_of_the_setup(table):
    setup = table.setup
    for method, trained in (("original", setup.original), ("retraining", setup.retrained)):
        for split, samples in (("test", setup.test), ("forget", setup.forget)):
            expected = accuracy(setup.objective(trained), trained.w, samples)
            assert the(table, "accuracy", method, split) == expected
    assert the(table, "seconds", "retraining") == setup.retrained.seconds


def test_one_row_costs_sisa_a_shard(table):
    assert the(table, "retrained_share", "SISA, 2 shards, 1 slices", SINGLE) == pytest.approx(1 / 2)
    whole = the(table, "retrained_share", "SISA, 2 shards, 1 slices")
    assert whole == pytest.approx(1 - 2**-9, rel=0.01)


def test_vectors_come_nearer_to_retraining_than_doing_nothing(table):
    apart = [the(table, "distance_to_retrained", name) for name in ("Hessian-free", "Hessian-free, original")]
    assert apart[0] < apart[1]


def test_a_release_far_from_its_reference_is_found(folder):
    run = opened(folder)
    competitors = Competitors(run, SETTINGS)
    assert competitors._audit("near", 0.01) < 1 < competitors._audit("far", 10.0)


def test_what_fails_leaves_its_reason_and_the_others_go_on(folder):
    run = compared(opened(folder, run=("SISA", "retraining"), shards=((300, 2),)))
    (failed,) = (one for one in run.metrics if one.method == "SISA, 300 shards, 2 slices")
    assert (failed.metric, failed.value) == ("accuracy", None)
    assert "slice empty" in failed.note
    assert the(run, "certified_epsilon", "retraining") == 0


def test_only_what_is_asked_for_is_run(folder):
    alternatives = Alternatives(opened(folder, run=("certified linear",)))
    assert [name for name, _ in alternatives.competitors(*COMPETITORS)] == ["certified linear"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("steps", [0, 4])
def test_a_budget_is_kept_by_steps_and_by_training_anew(seed, steps):
    """scikit-learn minimises the same objective; a column of ones brings its bias a regulariser too."""
    draws = np.random.default_rng(seed)
    features = draws.normal(size=(120, 4)) / 3
    labels = (features[:, 0] + 0.3 * draws.normal(size=120) > 0).astype(np.int64)
    samples = Samples(torch.from_numpy(features), torch.from_numpy(labels), dtype=torch.float64, ids=np.arange(120))
    l2, budget, rows = 0.01, 1e-3, np.arange(20)
    found = budgeted_model(samples, 2, l2, budget, steps).delete(rows)
    assert len(found.retain) == 100
    assert found.distance() <= budget
    with_bias = np.hstack([features[20:], np.ones((100, 1))])
    peer = LogisticRegression(C=2 / (100 * l2), fit_intercept=False, tol=1e-12, max_iter=10_000)
    peer.fit(with_bias, labels[20:])
    # Of two classes only w_1 − w_0 matters, and (l2/2)‖w‖² is (l2/4)‖w_1 − w_0‖².
    weights = found.w[:8].view(2, 4)
    difference = torch.cat([weights[1] - weights[0], (found.w[9] - found.w[8]).view(1)])
    assert difference.numpy() == pytest.approx(peer.coef_[0], abs=3 * budget)
