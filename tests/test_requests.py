import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st

from cdu.certification import budget_bound, certify, composed_sensitivity, gaussian_delta, required_sigma, trivial_bound
from cdu.curvature import minimise
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.experiments import kept_requests
from cdu.experiments.experiment import load_experiment
from cdu.experiments.setup import Setup
from cdu.models import losses
from cdu.models.architectures import LogisticRegression
from cdu.models.objective import Objective
from cdu.models.training import project
from cdu.unlearning.ledger import Ledger
from cdu.unlearning.ledger_entries import weights_hash
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.methods.original import Original
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.requests import Request, answers, requests
from conftest import network, random_samples

FEATURES, CLASSES, COUNT, L2 = 5, 3, 60, 0.1


def rows(count, seed=0):
    """Inputs in float64 and labels."""
    stream = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, FEATURES, generator=stream, dtype=torch.float64)
    return Samples(inputs, torch.randint(0, CLASSES, (count,), generator=stream), dtype=torch.float64)


def linear(loss, seed=0):
    model = LogisticRegression(FEATURES, CLASSES).double()
    return Objective(model, loss, l2=L2), rows(COUNT, seed)


def ridge_solution(samples):
    """The minimiser of the mean of ½‖Wx + b − onehot‖² + (l2/2)‖w‖², from the normal equations."""
    design = torch.cat([samples.inputs, torch.ones(len(samples), 1, dtype=torch.float64)], dim=1)
    onehot = torch.nn.functional.one_hot(samples.targets, CLASSES).double()
    gram = design.T @ design / len(design) + L2 * torch.eye(FEATURES + 1, dtype=torch.float64)
    weights = torch.linalg.solve(gram, design.T @ onehot / len(design))
    return torch.cat([weights[:-1].T.reshape(-1), weights[-1]])


def problem_of(objective, samples, w, radius=100.0):
    return Problem(objective, w, samples, samples, radius, lambda *_: None, seed=0)


def asked(samples, gone, count, seed=0):
    return requests(samples, np.arange(len(samples)), np.arange(gone), count, seed)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 3))
def test_requests_part_the_forget_set_and_keep_the_rest(count, size, seed):
    samples = Samples(torch.arange(30.0), torch.arange(30))
    train, forget = np.arange(2, 30), np.arange(3, 3 + size)
    if count > size:
        with pytest.raises(CduError, match=f"{size} samples cannot be cut into {count} requests"):
            list(requests(samples, train, forget, count, seed))
        return
    found = list(requests(samples, train, forget, count, seed))
    assert [request.number for request in found] == list(range(1, count + 1))
    assert sorted(label for request in found for label in request.forget.targets.tolist()) == forget.tolist()
    assert max(len(request.forget) for request in found) - min(len(request.forget) for request in found) <= 1
    before: list[int] = []
    for request in found:
        before += request.forget.targets.tolist()
        assert request.gone.targets.tolist() == before
        assert request.retain.targets.tolist() == sorted(set(train.tolist()) - set(before))


@pytest.mark.parametrize("seed", range(3))
def test_a_longer_sequence_deletes_the_same_samples(seed):
    samples = rows(COUNT)
    short, long = (list(asked(samples, 20, count, seed)) for count in (4, 20))
    for request in short:
        (twin,) = (other for other in long if len(other.gone) == len(request.gone))
        assert torch.equal(twin.gone.inputs, request.gone.inputs)
        assert torch.equal(twin.retain.inputs, request.retain.inputs)
    other = list(asked(samples, 20, 4, seed + 10))
    assert not torch.equal(other[0].gone.inputs, short[0].gone.inputs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("form", ["retain", "forget"])
def test_on_a_quadratic_every_iterate_is_the_retrained_model(seed, form):
    """The undamped step is exact, whatever the number of requests, in both forms."""
    objective, samples = linear(losses.squared_error, seed)
    problem = problem_of(objective, samples, ridge_solution(samples))
    chain = answers(problem, asked(samples, 20, 10, seed), NewtonStep(0.0, "exact", form), unsafe_seed=seed)
    moved = 0.0
    for answer in chain:
        expected = ridge_solution(answer.request.retain)
        assert (answer.iterate - expected).norm() < 1e-10
        moved = max(moved, (expected - problem.w_star).norm().item())
    assert moved > 1e-2


def test_from_the_noisy_release_a_quadratic_forgets_the_noise():
    """Newton's step leads to the minimiser from anywhere, so that only a release's own noise is left in it."""
    objective, samples = linear(losses.squared_error)
    problem = problem_of(objective, samples, ridge_solution(samples))
    step = NewtonStep(0.0, "exact")
    starts = []
    for answer in answers(problem, asked(samples, 20, 5), step, sigma=0.3, unsafe_seed=0):
        starts.append(answer.problem.w_star)
        assert (answer.iterate - ridge_solution(answer.request.retain)).norm() < 1e-10
    noisy = [(start - problem.w_star).norm().item() for start in starts]
    assert noisy[0] == 0
    assert min(noisy[1:]) > 0.3


@pytest.mark.parametrize("seed", range(3))
def test_the_two_forms_agree_at_an_optimum_and_not_elsewhere(seed):
    objective, samples = linear(torch.nn.functional.cross_entropy, seed)
    start = torch.zeros(objective.size, dtype=torch.float64)
    optimum = minimise.minimise(objective, samples, start, 1e-13).w

    def first(w, form):
        step = NewtonStep(1.0, "exact", form)
        return next(answers(problem_of(objective, samples, w), asked(samples, 20, 2), step, unsafe_seed=seed)).iterate

    step = (first(optimum, "retain") - optimum).norm()
    assert (first(optimum, "retain") - first(optimum, "forget")).norm() < 1e-9 * step
    assert (first(start, "retain") - first(start, "forget")).norm() > 0.1 * (first(start, "retain") - start).norm()


@pytest.mark.parametrize("radius", [0.2, 100.0])
def test_on_softmax_every_iterate_is_nearer_to_retraining_than_doing_nothing(radius):
    objective, samples = linear(torch.nn.functional.cross_entropy)
    start = torch.zeros(objective.size, dtype=torch.float64)
    optimum = minimise.minimise(objective, samples, start, 1e-12).w
    problem = problem_of(objective, samples, project(optimum, radius), radius)
    last = list(answers(problem, asked(samples, 20, 10), NewtonStep(0.0, "exact")))[-1]
    assert last.iterate.norm() <= radius
    if radius > optimum.norm():
        retrained = minimise.minimise(objective, last.request.retain, optimum, 1e-12).w
        assert (last.iterate - retrained).norm() < 0.05 * (optimum - retrained).norm()


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_every_start_lies_in_the_ball_and_is_what_the_last_answer_left(sigma):
    objective, w, samples = network("smooth mlp", count=40)
    problem = problem_of(objective, samples, w, radius=0.9 * w.norm().item())
    found = list(answers(problem, asked(samples, 20, 4), NewtonStep(5.0), sigma))
    assert len(found) == 4
    assert torch.equal(found[0].problem.w_star, project(w, problem.radius))
    for before, after in itertools.pairwise(found):
        assert after.problem.w_star.norm() <= problem.radius
        left = before.iterate if sigma == 0 else before.release(sigma).w
        assert torch.equal(after.problem.w_star, project(left, problem.radius))
        assert len(after.problem.retain) == len(before.problem.retain) - len(after.problem.forget)


def test_the_noiseless_chain_does_not_know_its_noise_and_the_noisy_one_does():
    objective, w, samples = network("smooth mlp", count=40)
    problem = problem_of(objective, samples, w)

    def iterates(seed, sigma):
        parts = list(asked(samples, 20, 3))
        return [answer.iterate for answer in answers(problem, parts, NewtonStep(5.0), sigma, unsafe_seed=seed)]

    for ours, theirs in zip(iterates(0, 0.0), iterates(1, 0.0), strict=True):
        assert torch.equal(ours, theirs)
    noisy = [iterates(seed, 0.1) for seed in (0, 1)]
    assert torch.equal(noisy[0][0], noisy[1][0])
    assert not torch.allclose(noisy[0][1], noisy[1][1])


def test_every_release_has_noise_of_its_own_and_models_are_compared_at_the_same():
    objective, w, samples = network("smooth mlp", count=40)
    problem = problem_of(objective, samples, w)
    found = list(answers(problem, asked(samples, 20, 2), Original(), unsafe_seed=3))
    noise = [answer.release(1.0).w - answer.iterate for answer in found]
    assert abs(noise[0].std().item() - 1) < 4 / math.sqrt(2 * len(w))
    assert not torch.allclose(noise[0], noise[1])
    other = found[0].release(2.0, update=UnlearningResult(0.5 * w, 0.0)).w - 0.5 * w
    assert torch.allclose(other, 2 * noise[0])
    assert torch.equal(found[0].release().w, found[0].iterate)


def test_no_two_releases_of_an_answer_give_its_iterate_away():
    objective, w, samples = network("smooth mlp", count=40)
    problem = problem_of(objective, samples, w)
    one = next(answers(problem, asked(samples, 20, 2), Original()))
    first, second = (one.release(sigma).w for sigma in (1.0, 2.0))
    # With one draw for both this would be the iterate.
    assert (2 * first - second - one.iterate).norm() > 0.5 * math.sqrt(8 * len(w))
    assert torch.equal(one.release(1.0).w, first)
    with pytest.raises(CduError, match="two updates with one secret draw would give their difference away"):
        one.release(1.0, update=UnlearningResult(w, 0.0))
    with pytest.raises(CduError, match=r"delta = 0\.5 is not between 0 and one over the number of samples"):
        one.release(1.0, delta=0.5)
    assert repr(one.seed) not in repr(one)
    again = next(answers(problem, asked(samples, 20, 2), Original()))
    assert not torch.allclose(again.release(1.0).w, first)


def test_the_answer_to_every_request_is_noted_with_what_it_started_from(tmp_path):
    objective, w, samples = network("smooth mlp", count=40)
    problem = problem_of(objective, samples, w, radius=20.0)
    ledger = Ledger(tmp_path / "ledger", cap=(2.0, 1e-5))
    released = []
    # The noise is secret, and so is the curvature where it leads; with so large a λ every step is defined.
    for answer in answers(problem, asked(samples, 20, 2), NewtonStep(1e6), 200.0):
        ids = [f"user {answer.request.number}"]
        released.append(answer.release(200.0, ledger=ledger, ids=ids))
        assert ledger.about(*ids)[0].number == answer.request.number
        for keys in ({"ledger": ledger}, {"ids": ids}):
            with pytest.raises(CduError, match="give both, or neither"):
                answer.release(200.0, **keys)
        with pytest.raises(CduError, match="names no method"):
            dataclasses.replace(answer, method=None).release(200.0, ledger=ledger, ids=ids)
        with pytest.raises(CduError, match="nothing was recorded"):
            answer.release(20.0, ledger=ledger, ids=ids)
    first, second = ledger.entries()
    assert (first.method, first.before, first.after) == ("NewtonStep", weights_hash(w), weights_hash(released[0].w))
    assert (second.before, second.after) == (
        weights_hash(project(released[0].w, problem.radius)),
        weights_hash(released[1].w),
    )
    together = certify(trivial_bound(20.0), 200.0, 1e-5, 2).epsilon
    assert ledger.spent(1e-5).epsilon == pytest.approx(together, rel=1e-9)
    seeded = next(answers(problem, asked(samples, 20, 2), Original(), unsafe_seed=3))
    with pytest.raises(CduError, match="unsafe_seed = 3 is for tests"):
        seeded.release(200.0, ledger=ledger, ids=["a"])


@pytest.mark.parametrize(("releases", "sigma"), [(1, 3.0), (10, 20.0), (50, 40.0)])
def test_the_epsilon_of_all_releases_is_dp_accountings(releases, sigma):
    bound, delta = trivial_bound(1.5), 1e-5
    event = SelfComposedDpEvent(GaussianDpEvent(sigma / bound.value), releases)
    expected = PLDAccountant(value_discretization_interval=1e-4).compose(event).get_epsilon(delta)
    assert certify(bound, sigma, delta, releases).epsilon == pytest.approx(expected, rel=2e-3)
    needed = required_sigma(bound, 1.0, delta, releases)
    assert gaussian_delta(1.0, needed, composed_sensitivity(bound.value, releases)) == pytest.approx(delta, rel=1e-6)


def test_a_refused_request_ends_the_chain_after_those_before_it():
    objective, samples = linear(losses.squared_error)
    problem = problem_of(objective, samples, ridge_solution(samples))

    def refusing(given, generator):
        if len(given.retain) < 52:
            raise CduError("no more")
        return UnlearningResult(given.w_star, 0.0)

    chain = answers(problem, asked(samples, 20, 10), refusing)
    assert [next(chain).request.number for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(CduError, match="no more"):
        next(chain)


def test_updates_are_kept_and_not_computed_twice(tmp_path):
    experiment = load_experiment("quick")
    settings = experiment.settings("digits")
    recipe = settings.training.model_copy(update={"epochs": 1})
    experiment = experiment.model_copy(
        update={"datasets": {"digits": settings.model_copy(update={"training": recipe})}}
    )
    setup = Setup(experiment, "digits", 0, tmp_path, torch.device("cpu"))
    calls = []

    class Counted(NewtonStep):
        def __call__(self, problem, generator):
            calls.append(len(problem.retain))
            return super().__call__(problem, generator)

    def chain(damping=20.0, count=3, sigma=0.0, stop=3):
        method = Counted(damping)
        kept = kept_requests.keeper(setup, method, count, sigma)
        parts = requests(setup.data.train, setup.split.train, setup.split.forget, count, 0)
        return list(itertools.islice(answers(setup.problem(), parts, method, sigma, kept, unsafe_seed=0), stop))

    chain(stop=2)
    assert len(calls) == 2
    first = chain()
    assert len(calls) == 3
    second = chain()
    assert len(calls) == 3
    for ours, theirs in zip(first, second, strict=True):
        assert torch.equal(ours.update.w, theirs.update.w)
        assert dataclasses.replace(ours.update, w=0) == dataclasses.replace(theirs.update, w=0)
        assert ours.update.converged
        assert ours.update.residual < 1e-3
    chain(damping=30.0)
    chain(sigma=0.1)
    assert len(calls) == 9
    chain(count=4, stop=4)
    assert len(calls) == 13
    assert len(list((tmp_path / "requests").iterdir())) == 13


def test_what_a_keeper_would_lose_is_not_kept():
    w = torch.zeros(3)
    assert set(kept_requests._tensors(UnlearningResult(w, 0.0))) == {"w", "facts"}
    others = {"no_certificate_reason": "no proof", "radius": 1.0, "bound": budget_bound(1.0), "model": torch.nn.ReLU()}
    for more in ({name: value} for name, value in others.items()):
        with pytest.raises(CduError, match="brings more, which would be lost"):
            kept_requests._tensors(UnlearningResult(w, 0.0, **more))


def test_a_step_is_given_what_is_left_after_the_request_and_what_it_deletes():
    samples = random_samples((1, 4, 4), 20, 0)
    seen = []

    def method(given, generator):
        seen.append((len(given.retain), len(given.forget), given.stopped))
        return UnlearningResult(given.w_star, 0.0)

    objective, w, _ = network("mlp")
    problem = problem_of(objective, samples, w)
    for answer in answers(problem, asked(samples, 9, 3), method):
        assert isinstance(answer.request, Request)
    assert seen == [(17, 3, None), (14, 3, None), (11, 3, None)]
