"""Certified linear models on fixed features: what the section logs, and its parts, against dense float64 references."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from scipy.stats import norm
from torch.nn.functional import cross_entropy

import cdu.convex
from cdu.certification import budget_bound, required_sigma
from cdu.convex import Linear
from cdu.data.samples import Samples
from cdu.experiments.certified_linear import LinearCertificates
from cdu.experiments.repository import repository
from cdu.experiments.run import begin
from cdu.experiments.setup import Setup
from cdu.models.architectures import LogisticRegression
from cdu.models.losses import squared_error
from cdu.models.objective import Objective
from cdu.seeding import generator
from cdu.unlearning.convex_deletions import deletion_steps, enough
from cdu.unlearning.convex_training import train

CANARY = str(repository() / "tests" / "canaries" / "mlp.yaml")
SAMPLES, CLASSES = 300, 10
L2, BUDGET = 1e-3, 1e-2
SEEDS = range(3)


class Reference:
    """L of softmax regression in NumPy's float64: no function of the code under test is in it."""

    def __init__(self, inputs, targets, l2, classes=CLASSES):
        self.rows = np.c_[np.asarray(inputs, dtype=np.float64), np.ones(len(inputs))]
        self.hot, self.l2 = np.eye(classes)[np.asarray(targets)], l2

    def value(self, w):
        return -np.mean(np.sum(self.hot * self.logs(w), axis=1)) + self.l2 / 2 * w @ w

    def logs(self, w):
        return log_softmax(self.rows @ self._matrix(w).T, axis=1)

    def gradient(self, w):
        errors = (np.exp(self.logs(w)) - self.hot).T @ self.rows / len(self.rows)
        return self._vector(errors) + self.l2 * w

    def hessian(self, w):
        p, size = np.exp(self.logs(w)), self.rows.shape[1]
        found = np.empty((p.shape[1], size, p.shape[1], size))
        for one in range(p.shape[1]):
            for other in range(p.shape[1]):
                weights = p[:, one] * ((one == other) - p[:, other])
                found[one, :, other] = self.rows.T @ (weights[:, None] * self.rows) / len(self.rows)
        order = self._vector(np.arange(p.shape[1] * size).reshape(p.shape[1], size))
        return found.reshape(len(order), -1)[np.ix_(order, order)] + self.l2 * np.eye(len(order))

    def newton(self, start):
        """The minimiser by dense Newton steps, halved until the gradient falls, from any start."""
        w = np.array(start, dtype=np.float64)
        while (size := np.linalg.norm(gradient := self.gradient(w))) > 1e-13:
            step, shrink = np.linalg.solve(self.hessian(w), gradient), 1.0
            while np.linalg.norm(self.gradient(w - shrink * step)) >= size:
                shrink /= 2
                if shrink < 1e-3:
                    assert size < 1e-12
                    return w
            w = w - shrink * step
        return w

    def _matrix(self, w):
        """Weights with the biases as last column; the vector has all weights first."""
        classes = self.hot.shape[1]
        return np.c_[w[:-classes].reshape(classes, -1), w[-classes:]]

    def _vector(self, matrix):
        return np.r_[matrix[:, :-1].reshape(-1), matrix[:, -1]]


def reference(samples, l2=L2):
    return Reference(samples.inputs, samples.targets, l2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("linear")


def section(folder, seed=0, **changed):
    """The section of the canary on a few hundred digits, with some of its settings changed."""
    parameters = {"dataset": "digits", "seed": seed, "experiment": CANARY, "output": "runs", "device": "cpu"}
    run = begin("12_certified_linear", parameters)
    settings = run.setup.settings
    linear = settings.linear.model_copy(update={"l2": (L2,), "budgets": (BUDGET,), **changed})
    settings = settings.model_copy(update={"samples": SAMPLES, "linear": linear})
    experiment = run.setup.experiment.model_copy(update={"datasets": {"digits": settings}})
    run.setup = Setup(experiment, "digits", seed, folder, torch.device("cpu"))
    return LinearCertificates(run)


def logged(linear, metric, **keys):
    (value,) = linear.run.values(metric, **keys)
    return value


def left(linear, rows):
    return linear.data.subset(np.setdiff1d(np.arange(len(linear.data)), rows))


def right(samples, w):
    """Accuracy of weights by a product in float64."""
    logits = np.c_[samples.inputs.double(), np.ones(len(samples))] @ reference(samples)._matrix(np.asarray(w)).T
    return np.mean(logits.argmax(1) == samples.targets.numpy())


# --- the section -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_every_measured_distance_is_at_most_the_certified_one(folder, seed):
    linear = section(folder, seed, share=0.1)
    for kind in linear.forget_sets:
        linear.log_deletion(kind, L2, BUDGET)
    linear.log_chain(2, 10)
    linear.log_chain_from_releases(2, 10, 1)
    linear.log_retraining(L2, BUDGET)
    measured, certified, ratios = (
        np.array(linear.run.values(f"remaining_{name}", axis="")) for name in ("distance", "bound", "ratio")
    )
    assert len(measured) == len(certified) == len(ratios) == len(linear.forget_sets) + 3
    assert np.all(measured <= certified)
    np.testing.assert_allclose(ratios, measured / certified, rtol=1e-12)
    # A request whose steps do not keep the budget is answered by the minimiser, and so is everything within it.
    answered = [one for one in linear.run.metrics if one.metric == "fallback"]
    bounds = {one.method: one.value for one in linear.run.metrics if (one.metric, one.axis) == ("remaining_bound", "")}
    assert len(answered) == len(linear.forget_sets) + 2
    # The true minimiser is known to a hundredth of the budget.
    assert all(bounds[one.method] <= 1.01 * BUDGET for one in answered)
    assert {one.value for one in answered} == {0, 1}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_measured_is_the_distance_to_the_minimiser_by_dense_newton_steps(folder, seed):
    linear = section(folder, seed)
    rows = linear.forget_sets[linear.usual]
    linear.log_deletion(linear.usual, L2, BUDGET)
    answer = linear._answer(linear.model(L2), rows, BUDGET)
    exact = reference(left(linear, rows)).newton(answer.exact.w.numpy())
    found = np.linalg.norm(answer.exact.w.numpy() - exact)
    assert found <= answer.exact.gradient_norm / L2 + 1e-10 <= 0.0101 * BUDGET
    distance = np.linalg.norm(answer.last.iterate.numpy() - exact)
    assert abs(logged(linear, "remaining_distance", axis="") - distance) <= 0.01 * BUDGET
    assert distance <= logged(linear, "remaining_bound", axis="")
    for number, one in enumerate(answer.steps):
        away = np.linalg.norm(one.iterate.numpy() - exact)
        assert away <= one.distance == logged(linear, "remaining_bound", axis="steps", point=number)
    assert (answer.steps[0].fallback, answer.last.fallback) == (True, False)
    assert logged(linear, "accuracy", split="test, retrained") == pytest.approx(right(linear.test, exact))
    forgotten = right(linear.data.subset(rows), answer.last.iterate)
    assert logged(linear, "accuracy", split="forget") == pytest.approx(forgotten)


def test_the_model_on_all_samples_is_the_minimiser_and_is_kept(folder):
    model = section(folder).model(L2)
    everything = section(folder, 1).data
    exact = reference(everything).newton(model.w.numpy())
    assert np.linalg.norm(model.w.numpy() - exact) <= 0.11 * BUDGET
    again = section(folder).model(L2)
    assert torch.equal(again.w, model.w)
    assert again.seconds == model.seconds > 0


def test_the_noise_is_that_of_the_budget_and_epsilon_and_of_k_releases_root_k_times_as_much(folder):
    linear, epsilons, counts = section(folder, epsilons=(0.1, 1.0, 3.0), requests=(1, 10, 1000)), (0.1, 1.0, 3.0), []
    linear.log_deletion(linear.usual, L2, BUDGET)
    for epsilon in epsilons:
        sigma = logged(linear, "sigma", axis="epsilon", point=epsilon)
        assert sigma == required_sigma(budget_bound(BUDGET), epsilon, linear.delta)
        # Balle and Wang 2018, Theorem 8.
        half, rate = BUDGET / 2 / sigma, epsilon * sigma / BUDGET
        delta = norm.cdf(half - rate) - np.exp(epsilon) * norm.cdf(-half - rate)
        assert delta == pytest.approx(linear.delta, rel=1e-6)
        assert delta <= linear.delta * (1 + 1e-9)
    one = logged(linear, "sigma", axis="epsilon", point=1.0)
    for count in (1, 10, 1000):
        counts.append(logged(linear, "sigma", axis="requests", point=count))
        assert counts[-1] == pytest.approx(count**0.5 * one, rel=1e-9)
    other = next(iter(linear.forget_sets))
    linear.log_deletion(other, L2, BUDGET)
    methods = {(m.method, m.point) for m in linear.run.metrics if m.metric == "sigma" and m.axis == "epsilon"}
    assert [point for method, point in methods if method.endswith(other)] == [1.0]


@pytest.mark.parametrize("seed", SEEDS)
def test_accuracy_after_noise_is_that_of_the_noisy_weights(folder, seed):
    linear = section(folder, seed, requests=(1, 1000))
    linear.log_deletion(linear.usual, L2, BUDGET)
    w = linear._answer(linear.model(L2), linear.forget_sets[linear.usual], BUDGET).released
    noises = torch.randn(2, len(w), generator=generator(seed, "linear noise"))
    seen = set()
    for axis, points in (("epsilon", linear.settings.epsilons), ("requests", (1, 1000))):
        for point in points:
            sigma = logged(linear, "sigma", axis=axis, point=point)
            direct = np.mean([right(linear.test, w + sigma * noise) for noise in noises])
            assert logged(linear, "accuracy", axis=axis, point=point) == pytest.approx(direct)
            seen.add(direct)
    assert len(seen) > 1
    assert logged(linear, "accuracy", axis="", split="test") == pytest.approx(right(linear.test, w))


@pytest.mark.parametrize("seed", SEEDS)
def test_forget_sets_are_what_they_say(folder, seed):
    linear = section(folder, seed, sizes=(1, 5, 20), share=0.1)
    found, labels = linear.forget_sets, linear.data.targets.numpy()
    at_random = [f"{size} at random" for size in (1, 5, 20, 30)]
    assert list(found) == [*at_random, "20 of one class", "20 hardest"]
    for kind, rows in found.items():
        assert len(rows) == int(kind.split()[0])
        assert np.all(np.diff(rows) > 0)
        assert np.all((rows >= 0) & (rows < SAMPLES))
    for small, large in pairwise(found[kind] for kind in at_random):
        assert set(small) < set(large)
    assert set(labels[found["20 of one class"]]) == {seed % CLASSES}
    w = linear.model(L2).w.numpy()
    losses = -reference(linear.data).logs(w)[np.arange(SAMPLES), labels]
    hardest = found["20 hardest"]
    assert losses[hardest].min() >= np.delete(losses, hardest).max()


def test_forget_sets_differ_from_seed_to_seed_and_models_do_not(folder):
    first, second = section(folder, 0), section(folder, 1)
    assert torch.equal(first.model(L2).w, second.model(L2).w)
    for kind in (first.usual, "50 of one class"):
        assert set(first.forget_sets[kind]) != set(second.forget_sets[kind])
    assert np.array_equal(first.forget_sets["50 hardest"], second.forget_sets["50 hardest"])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_request_that_does_not_keep_the_budget_after_a_step_is_answered_by_the_minimiser(folder, seed):
    linear, budget = section(folder, seed, steps=1, budgets=(1e-6,)), 1e-6
    linear.log_deletion(linear.usual, L2, budget)
    assert logged(linear, "fallback") == 1
    assert logged(linear, "newton_steps") == 1
    assert logged(linear, "remaining_bound", axis="steps", point=1) > budget
    assert logged(linear, "remaining_bound", axis="") <= budget
    rows = linear.forget_sets[linear.usual]
    answer = linear._answer(linear.model(L2), rows, budget)
    exact = reference(left(linear, rows)).newton(answer.exact.w.numpy())
    assert np.linalg.norm(answer.released.numpy() - exact) <= budget
    assert not torch.equal(answer.released, answer.last.iterate)
    assert logged(linear, "accuracy", split="test", axis="") == pytest.approx(right(linear.test, exact))


@pytest.mark.parametrize("shown", [None, 2])
@pytest.mark.parametrize("budget", [BUDGET, 1e-5])
def test_a_chain_ends_within_the_budget_of_the_minimiser_on_all_rows_left(folder, monkeypatch, budget, shown):
    count, size, seed = 4, 12, 1
    # The smaller budget is not kept by one step: those requests are answered by the minimiser.
    linear = section(folder, seed, budgets=(budget,), steps=3 if budget == BUDGET else 1)
    ends, exact = [], linear._exact
    monkeypatch.setattr(linear, "_exact", lambda model, *rest: ends.append(rest) or exact(model, *rest))
    if shown is None:
        linear.log_chain(count, size)
    else:
        linear.log_chain_from_releases(count, size, shown)
    retain, w, _ = ends[-1]
    asked = torch.randperm(SAMPLES, generator=generator(seed, "linear chain", count)).numpy()[: count * size]
    gone = np.setdiff1d(np.arange(SAMPLES), retain.ids)
    assert len(gone) == size * (count if shown is None else shown)
    assert set(gone) <= set(asked)
    minimiser = reference(retain).newton(w.numpy())
    assert np.linalg.norm(w.numpy() - minimiser) <= budget
    fallbacks = logged(linear, "fallback")
    assert fallbacks == (0 if budget == BUDGET else 1)
    assert logged(linear, "sigma") == pytest.approx(count**0.5 * linear._sigma(budget, 1.0), rel=1e-9)
    assert logged(linear, "accuracy", split="test, retrained") == pytest.approx(right(linear.test, minimiser))
    noises = torch.randn(2, len(w), generator=generator(seed, "linear noise"))
    noisy = np.mean([right(linear.test, w + logged(linear, "sigma") * noise) for noise in noises])
    assert logged(linear, "accuracy", split="test") == pytest.approx(noisy)


def test_from_releases_every_step_starts_with_the_noise_of_the_release_before(folder, monkeypatch):
    linear, starts, iterates = section(folder), [], []
    steps = linear._steps

    def spied(model, start, *rest):
        starts.append(start)
        found = list(steps(model, start, *rest))
        iterates.append(found[-1].iterate)
        return found

    monkeypatch.setattr(linear, "_steps", spied)
    linear.log_chain_from_releases(3, 10, 3)
    sigma = 3**0.5 * linear._sigma(BUDGET, 1.0)
    assert torch.equal(starts[0], linear.model(L2).w)
    for number in (1, 2):
        draws = generator(0, "linear chain noise", number)
        noise = torch.randn(len(starts[0]), dtype=torch.float64, generator=draws)
        torch.testing.assert_close(starts[number], iterates[number - 1] + sigma * noise, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_errors_are_found_and_the_release_is_not(folder, seed):
    linear = section(folder, seed, trials=2000)
    linear.log_audits()
    assert logged(linear, "contradicted", method="audit: release") == 0
    for planted in ("budget ignored", "fallback left out after one step", "noise scaled to the measured residual"):
        assert logged(linear, "contradicted", method=f"audit: {planted}") == 1
    assert set(linear.run.values("certified_epsilon")) == {1.0}


def test_sizes_are_logged(folder):
    linear = section(folder)
    linear.log_sizes()
    columns = linear.data.inputs.shape[1]
    assert (logged(linear, "train_samples"), logged(linear, "features")) == (SAMPLES, columns)
    assert logged(linear, "parameters") == (columns + 1) * CLASSES == linear.model(L2).objective.size


# --- its parts -------------------------------------------------------------------------------------------------------


def random_features(seed, count=60, columns=6, classes=3):
    """Rows in single precision of norm at most 1, and labels that follow them with noise."""
    draws = np.random.default_rng(seed)
    rows = draws.standard_normal((count, columns))
    rows /= np.maximum(1, np.linalg.norm(rows, axis=1, keepdims=True))
    labels = (3 * rows @ draws.standard_normal((columns, classes)) + draws.standard_normal((count, classes))).argmax(1)
    labels[:classes] = np.arange(classes)
    return rows.astype(np.float32), labels


def as_samples(rows, labels):
    return Samples(torch.from_numpy(rows), torch.from_numpy(labels), dtype=torch.float64, ids=np.arange(len(rows)))


@pytest.mark.parametrize("l2", [1e-4, 1e-2])
@pytest.mark.parametrize("seed", range(4))
def test_training_on_single_precision_features_ends_where_scipy_does(seed, l2):
    rows, labels = random_features(seed)
    objective, exact = Objective(LogisticRegression(6, 3).double(), l2=l2), Reference(rows, labels, l2, 3)
    theirs = minimize(
        exact.value,
        np.zeros(objective.size),
        jac=exact.gradient,
        hess=exact.hessian,
        method="trust-exact",
        options={"gtol": 1e-11},
    )
    for budget in (1e-2, 1e-5):
        found = train(objective, as_samples(rows, labels), budget)
        off = np.linalg.norm(found.w.numpy() - theirs.x)
        assert off <= found.distance + np.linalg.norm(theirs.jac) / l2
        assert found.distance <= 0.11 * budget
        assert np.linalg.norm(exact.gradient(found.w.numpy())) <= 0.1 * l2 * budget * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [1e-2, 1e-4])
def test_a_linear_model_on_single_precision_features_keeps_its_certificate(monkeypatch, seed, budget):
    monkeypatch.setattr(cdu.convex, "draw_noise", lambda w, source: torch.zeros_like(w))
    rows, labels = random_features(seed)
    model, gone = Linear(rows, labels, l2=1e-3, budget=budget), []
    sigma = required_sigma(budget_bound(budget), 1.0, 1e-6)
    for asked in ([3], [10, 11, 12, 13], [20]):
        after = model.forget(asked, 1.0, 1e-6)
        gone += asked
        kept = np.setdiff1d(np.arange(len(rows)), gone)
        exact = Reference(rows[kept], labels[kept], 1e-3, 3).newton(after.w.numpy())
        assert np.linalg.norm(after.w.numpy() - exact) <= after.distance + 1e-10 <= budget
        assert after.certificate.sigma == sigma


@pytest.mark.parametrize(
    ("allowed", "residual", "accuracy"),
    [
        (1e-8, 0.0, 0.3),
        (1e-8, 1e-9, 0.3),
        (1e-8, 1e-8, 0.3),
        (1e-8, 1e-7, 0.03),
        (1e-8, 2e-6, 1.5e-3),
        (1e-8, 3e-5, 1e-2),
        (1e-8, 3e-3, 1e-3),
        (1e-8, 10.0, 1e-3),
    ],
)
def test_no_more_digits_are_solved_for_than_the_budget_asks_for(allowed, residual, accuracy):
    assert enough(allowed, residual) == pytest.approx(accuracy)


def test_one_step_or_two_reach_what_is_allowed():
    for residual in np.geomspace(1e-12, 1e-1, 200):
        found = enough(1e-8, residual)
        assert 1e-3 <= found <= 0.3
        steps = 1 if residual <= 3e-6 else 2
        if residual <= 3e-3:
            assert found**steps * residual <= 0.3 * 1e-8 * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("times", "steps"), [(0.5, 0), (100, 1), (1e5, 2)])
def test_on_a_quadratic_as_many_steps_are_taken_as_the_digits_ask_for(seed, times, steps):
    rows, labels = random_features(seed, count=200)
    samples = as_samples(rows, labels)
    retain, gone = samples.subset(np.arange(190)), samples.subset(np.arange(190, 200))
    objective = Objective(LogisticRegression(6, 3).double(), squared_error, l2=1e-3)
    start = train(objective, samples, 1e-6).w
    budget = objective.gradient(start, retain).norm().item() / objective.l2 / times
    found = []
    for one in deletion_steps(objective, start, retain, gone, 5, budget, accuracy=None):
        found.append(one)
        if not one.fallback:
            break
    assert (found[-1].steps, found[-1].fallback) == (steps, False)


def test_the_reference_is_pytorchs_loss():
    rows, labels = random_features(0)
    exact = Reference(rows, labels, 0.1, 3)
    w = torch.randn(21, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def loss(point):
        logits = torch.from_numpy(rows).double() @ point[:-3].view(3, 6).T + point[-3:]
        return cross_entropy(logits, torch.from_numpy(labels)) + 0.05 * point.square().sum()

    (gradient,) = torch.autograd.grad(loss(w), w)
    point = w.detach().numpy()
    assert exact.value(point) == pytest.approx(loss(w).item())
    np.testing.assert_allclose(exact.gradient(point), gradient, atol=1e-12)
    np.testing.assert_allclose(exact.hessian(point), torch.autograd.functional.hessian(loss, w.detach()), atol=1e-12)
