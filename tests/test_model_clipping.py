"""Noisy fine-tuning with a clipped model: its contraction bound, in cases where it is attained, and its audit."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import kstest, norm
from torch import nn

from cdu.certification import certify, gaussian_delta, gaussian_epsilon, gaussian_sigma, trivial_bound
from cdu.certification.contraction import (
    contracted_certificate,
    contracted_delta,
    contracted_epsilon,
    contracted_sigma,
    model_clipping_bound,
)
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.evaluation.audit import audit
from cdu.models.objective import Objective
from cdu.models.settings import TrainingSettings
from cdu.models.training import Trained
from cdu.seeding import generator
from cdu.unlearning.ledger_entries import expect_composable
from cdu.unlearning.methods import model_clipping
from cdu.unlearning.methods.model_clipping import ModelClipping
from cdu.unlearning.problem import Problem
from cdu.unlearning.references import distance, noiseless_difference, reference
from cdu.unlearning.registration import REGISTERED
from cdu.unlearning.release import publish
from conftest import network


def attained(epsilon, mu, steps):
    """δ of two runs that are sent to ±C by thresholds, each the best one for this ε; means in units of σ.

    One run starts at C, the other at −C. Before step t the first is at C with the probability p, the other with q.
    """
    p, q, gamma = 1.0, 0.0, math.exp(epsilon)
    for step in range(steps):

        def tail(share, threshold):
            return share * norm.sf(threshold - mu / 2) + (1 - share) * norm.sf(threshold + mu / 2)

        # The likelihood ratio (p·r + 1 − p)/(q·r + 1 − q) with r = exp(μx) reaches γ at this x, if anywhere.
        top, bottom = gamma * (1 - q) - (1 - p), p - gamma * q
        threshold = math.log(top / bottom) / mu if bottom > 0 else math.inf
        p, q = tail(p, threshold), tail(q, threshold)
        if step == steps - 1:
            return p - gamma * q
    return None


@pytest.mark.parametrize("mu", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_the_bound_is_attained_by_thresholds(mu, epsilon, steps):
    bound = contracted_delta(epsilon, 1.0, mu, steps)
    exact = attained(epsilon, mu, steps)
    assert exact <= bound * (1 + 1e-9) + 1e-15
    assert bound == pytest.approx(exact, rel=1e-6, abs=1e-13)


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0, 500.0])
def test_one_step_is_the_gaussian_mechanism_and_total_variations_multiply(epsilon):
    once = gaussian_delta(epsilon, 2.0, 3.0)
    assert contracted_delta(epsilon, 2.0, 3.0, 1) == pytest.approx(once, rel=1e-9, abs=1e-280)
    variation = 2 * norm.cdf(0.75) - 1
    assert contracted_delta(0.0, 2.0, 3.0, 5) == pytest.approx(variation**5, rel=1e-9)
    # Never more than the product of the steps' contraction coefficients.
    assert contracted_delta(epsilon, 2.0, 3.0, 4) <= once**4 * (1 + 1e-9) + 1e-280


@pytest.mark.parametrize("steps", [1, 2, 10, 300])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (1.0, 1e-5), (5.0, 1e-8)])
def test_the_least_noise_certifies_what_was_asked_for_and_less_does_not(epsilon, delta, steps):
    sigma = contracted_sigma(epsilon, delta, 3.0, steps)
    assert (
        contracted_delta(epsilon, sigma, 3.0, steps)
        <= delta
        < contracted_delta(epsilon, sigma * (1 - 1e-6), 3.0, steps)
    )
    found = contracted_epsilon(sigma, delta, 3.0, steps)
    assert found <= epsilon + 1e-9
    assert found == pytest.approx(epsilon, rel=1e-4)
    once = gaussian_sigma(epsilon, delta, 3.0)
    assert sigma == pytest.approx(once, rel=1e-6) if steps == 1 else sigma < once
    assert contracted_sigma(epsilon, delta, 6.0, steps) == pytest.approx(2 * sigma, rel=1e-6)


def test_the_certificate_says_less_than_one_step_and_no_ledger_adds_it_up():
    bound = model_clipping_bound(1.5, 10)
    certificate = contracted_certificate(bound, 1.0, 1e-5)
    assert certificate.sensitivity == 3.0
    assert certificate.epsilon == contracted_epsilon(1.0, 1e-5, 3.0, 10)
    assert certificate.epsilon < gaussian_epsilon(1.0, 1e-5, 3.0) == certify(bound, 1.0, 1e-5).epsilon
    with pytest.raises(CduError, match="it cannot be composed"):
        expect_composable(certificate, "")
    with pytest.raises(CduError, match="'2C by projection' is not of steps that are each clipped"):
        contracted_certificate(trivial_bound(1.0), 1.0, 1e-5)


# --- the method ----------------------------------------------------------------------------------------------------


def problem_of(name, seed=0, dtype=torch.float64):
    objective, w, samples = network(name, seed, count=18)
    objective.model.to(dtype)
    w, samples = (1.3 * w).to(dtype), samples.to(dtype=dtype)
    retain, forget = samples.subset(torch.arange(4, 18)), samples.subset(torch.arange(4))

    def retrain(samples, seed):
        return Trained(objective.model, -w, [])

    recipe = TrainingSettings(epochs=3, batch_size=4, radius=3.0)
    return Problem(objective, w, retain, forget, 3.0, retrain, seed, recipe)


@pytest.mark.parametrize("name", ["logistic", "smooth mlp", "allcnn"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_it_takes_the_steps_of_its_formula(name, decay):
    problem = problem_of(name)
    method = ModelClipping(1.0, 1e-5, 5, 0.1, 0.8, decay)
    update = method(problem, generator(3))
    objective = Objective(copy.deepcopy(problem.objective.model).train())
    draws, batches, w = generator(3), [], problem.w_star
    w = w * min(1.0, 0.8 / w.norm().item())
    lengths = []
    for _ in range(5):
        batches = batches or list(torch.randperm(14, generator=draws).split(4))
        point = w.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective.batch_loss(point, *problem.retain.batch(batches.pop(0))), point)
        w = w - 0.1 * (gradient + decay * w)
        lengths.append(w.norm().item())
        noise = torch.randn(len(w), generator=draws, dtype=torch.float64)
        w = w * min(1.0, 0.8 / lengths[-1]) + method.sigma * noise
    assert max(lengths) > 0.8
    assert torch.allclose(update.w, w, rtol=1e-10, atol=1e-10)
    assert update.gradient_samples == 4 + 4 + 4 + 2 + 4


def test_its_certificate_follows_from_its_arguments_and_is_what_is_published():
    problem = problem_of("mlp", dtype=torch.float32)
    method = ModelClipping(1.0, 1e-5, 10, 0.1, 0.8)
    update = method(problem, generator(0))
    assert 1 - 1e-4 < update.certificate.epsilon <= 1
    assert update.certificate.sigma == pytest.approx(contracted_sigma(1.0, 1e-5, 1.6, 10), rel=1e-6)
    assert update.certificate.arithmetic == "float64"
    assert 1.6 < update.certificate.sensitivity < 1.6 * (1 + 1e-7)
    released = publish(problem, update, generator(1), 0.7)
    assert released.certificate is update.certificate
    assert update.w.dtype == torch.float32
    with pytest.raises(CduError, match=r"rounding may add .* unlearn fewer than"):
        method.expect_room_for_rounding(2**28)
    assert all(known.make is not ModelClipping for known in REGISTERED.values())


def test_release_and_reference_with_the_same_noise_end_within_2c():
    problem, method = problem_of("mlp"), ModelClipping(1.0, 1e-5, 1, 1e-9, 0.8)
    update = method(problem, generator(5))
    own = reference(method, problem, update, generator(5))
    found = distance(problem, update, own)
    assert found.certified == 1.6
    # The retrained model lies opposite, and one step changes nothing.
    assert found.measured == pytest.approx(1.6, rel=1e-6)
    assert noiseless_difference(method, problem).norm() == pytest.approx(1.6)


# --- audits in one dimension ---------------------------------------------------------------------------------------


class Away(nn.Module):
    """One weight whose gradient is −1 where it is positive and 1 where it is negative."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, inputs):
        return -self.weight.abs() * inputs


def away():
    """The worst case: the original lies at C = 1, the retrained model at −1, and steps lead away from 0."""
    samples = [Samples(torch.ones(n, 1), torch.zeros(n, 1), dtype=torch.float64) for n in (4, 1)]
    objective, w = Objective(Away(), lambda outputs, targets: outputs.mean()), torch.ones(1, dtype=torch.float64)
    recipe = TrainingSettings(epochs=1, batch_size=4, radius=1.0)
    return Problem(objective, w, *samples, 1.0, lambda samples, seed: Trained(objective.model, -w, []), 0, recipe)


def trials(method, count):
    """Last iterates of the method and of its reference, shape (count, 1) each."""
    problem = away()
    opposite = replace(problem, w_star=-problem.w_star)
    pair = [[method(start, generator(seed, "trial")).w for seed in range(count)] for start in (problem, opposite)]
    return [torch.stack(one) for one in pair]


def test_in_the_worst_case_the_shift_is_computed_and_an_audit_finds_no_more_than_is_certified():
    method = ModelClipping(2.0, 1e-5, 3, 100.0, 1.0)
    release, opposite = trials(method, 100)
    # Two steps keep the sides apart with (2Φ(C/σ) − 1)², and the third adds its noise to ±C.
    kept = (1 + (2 * norm.cdf(1 / method.sigma) - 1) ** 2) / 2
    assert 0.6 < kept < 0.95

    def chance(x, share):
        return share * norm.cdf(x, 1, method.sigma) + (1 - share) * norm.cdf(x, -1, method.sigma)

    assert kstest(release[:, 0].numpy(), lambda x: chance(x, kept)).pvalue > 1e-3
    assert kstest(opposite[:, 0].numpy(), lambda x: chance(x, 1 - kept)).pvalue > 1e-3
    assert kstest(release[:, 0].numpy(), lambda x: chance(x, 1 - kept)).pvalue < 1e-3
    assert audit(release, opposite, 1e-5).epsilon <= method.certificate.epsilon
    # The same mixture with many more trials.
    draws = generator(0, "mixture")
    many = [
        2.0 * (torch.rand(20_000, 1, generator=draws, dtype=torch.float64) < share) - 1
        + method.sigma * torch.randn(20_000, 1, generator=draws, dtype=torch.float64)
        for share in (kept, 1 - kept)
    ]  # fmt: skip
    found = audit(*many, 1e-5)
    assert 0.3 < found.epsilon <= method.certificate.epsilon
    # One step of this noise certifies far less, and an audit shows it: the steps before the last count.
    last = [one + method.sigma * torch.randn(20_000, 1, generator=draws, dtype=torch.float64) for one in (1.0, -1.0)]
    assert audit(*last, 1e-5).epsilon > method.certificate.epsilon


def test_an_audit_finds_that_the_model_is_not_clipped(monkeypatch):
    method = ModelClipping(2.0, 1e-5, 3, 100.0, 1.0)
    monkeypatch.setattr(model_clipping, "project", lambda w, radius: w)
    assert audit(*trials(method, 80), 1e-5).epsilon > method.certificate.epsilon
