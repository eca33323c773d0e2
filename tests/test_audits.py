"""What the audits of a run log."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from cdu.certification import gaussian_epsilon, gaussian_sigma
from cdu.evaluation.audit import STRATEGIES, audit, power
from cdu.evaluation.audit_trials import KNOWN, Trials
from cdu.experiments import audits
from cdu.experiments.audits import log_audit, log_method, log_share, simulated
from cdu.experiments.method_results import MethodResults
from cdu.experiments.repository import repository
from cdu.experiments.run import begin
from cdu.seeding import seed_for

CANARY = str(repository() / "tests" / "canaries" / "mlp.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def opened(folder):
    run = begin("10_audit", {"dataset": "digits", "seed": 0, "experiment": CANARY, "output": "runs", "device": "cpu"})
    run.setup.checkpoints = folder
    return run


def gaussians(mu, trials=400, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(trials, 1, generator=stream) + shift for shift in (mu, 0.0))


@pytest.mark.parametrize(("mu", "contradicted"), [(0.0, 0.0), (4.0, 1.0)])
def test_an_audit_is_logged_as_it_is_beside_the_certified_epsilon(folder, mu, contradicted):
    run, views = opened(folder), {"weights": gaussians(mu), "outputs": gaussians(mu, seed=1)}
    log_audit(run, "newton", "random", views, 1.0, "a note")
    for view, pair in views.items():
        result, keys = audit(*pair, 1e-5), {"method": "newton", "split": f"random, {view}"}
        assert run.values("audit_epsilon", **keys, note="a note") == [result.epsilon]
        assert run.values("audit_gaussian", **keys) == [result.gaussian_epsilon]
        for metric in ("mu", "mu_low", "mu_high", "detectable", "gaussian_detectable", "trials"):
            assert run.values(metric, **keys) == [getattr(result, metric)]
        assert run.values("certified_epsilon", **keys) == [1.0]
        assert run.values("contradicted", **keys) == [contradicted]


def test_an_end_that_is_infinite_is_not_logged(folder):
    run = opened(folder)
    log_audit(run, "newton", "random", {"weights": gaussians(50.0)}, 1.0)
    assert run.values("mu_low") != []
    assert run.values("mu_high") == []


@pytest.mark.parametrize(("distance", "share"), [("Δ/2", 0.5), ("Δ", 1.0)])
def test_simulated_audits_are_those_of_noise_that_is_so_many_times_too_small(folder, monkeypatch, distance, share):
    monkeypatch.setattr(audits, "SIMULATED", 20)
    run, strategy = opened(folder), next(iter(STRATEGIES))
    trials = run.setup.settings.audit.trials
    mu, found = simulated(run, strategy, distance, 3)
    # Noise for ε = 1 at Δ that is three times too small: a pair at the distance is 3·Δ/σ of it apart.
    assert mu == pytest.approx(3 * share / gaussian_sigma(1.0, 1e-5, 1.0))
    draws = np.random.default_rng(seed_for(0, "audit power", strategy, distance, "3"))
    assert found == power(STRATEGIES[strategy], mu, trials, 1.0, 1e-5, 20, draws)


@pytest.mark.parametrize("found", [0, 7, 200])
def test_a_share_has_scipys_interval(folder, found):
    run = opened(folder)
    log_share(run, "detected", found, method="simulated", split="Δ")
    interval = binomtest(found, 200).proportion_ci(0.95, "exact")
    values = [run.values(f"detected{end}", method="simulated", split="Δ") for end in ("", "_low", "_high")]
    assert values == [[found / 200], [pytest.approx(interval.low)], [pytest.approx(interval.high)]]


@pytest.mark.slow  # trains the canary's models and chooses hyper-parameters: several seconds
def test_a_certified_method_is_audited_on_the_pair_that_its_certificate_is_about(folder):
    run = opened(folder)
    setup = run.setup
    unlearned, trials = MethodResults(setup), Trials(setup.settings.audit, 0)
    log_method(run, unlearned, trials, "output perturbation", "random", unlearned.problem)
    length = torch.dist(setup.original.w, setup.retrained.w).item()
    (sensitivity,), (distance,) = run.values("sensitivity"), run.values("pair_distance")
    assert distance == pytest.approx(length, rel=1e-5)
    assert 2 * setup.settings.training.radius <= sensitivity < 2.001 * setup.settings.training.radius
    sigma = gaussian_sigma(1.0, 1e-5, sensitivity)
    assert run.values("pair_epsilon") == [pytest.approx(gaussian_epsilon(sigma, 1e-5, distance), rel=1e-4)]
    splits = {one.split for one in run.metrics if one.metric == "contradicted"}
    assert splits == {"random, weights", "random, outputs", f"random, {KNOWN}"}
    assert set(run.values("contradicted")) == {0.0}
    assert all(math.isclose(value, 1.0, rel_tol=1e-6) for value in run.values("certified_epsilon"))


@pytest.mark.slow  # runs a method 80 times on the canary's models
def test_a_method_with_noise_on_the_way_is_audited_on_one_forget_set(folder):
    run = opened(folder)
    unlearned, trials = MethodResults(run.setup), Trials(run.setup.settings.audit, 0)
    for split, logged in (("one class", False), ("random", True)):
        log_method(run, unlearned, trials, "noisy fine-tuning", split, unlearned.problem)
        assert bool(run.metrics) is logged
    assert run.values("pair_distance") == []
    assert run.values("audit_epsilon", method="noisy fine-tuning", split=f"random, {KNOWN}") != []
