"""What is logged of a forget set that comes in several requests."""

import pytest
import torch

from cdu.certification import gaussian_epsilon, gaussian_sigma, trivial_bound
from cdu.errors import CduError
from cdu.evaluation.accuracy import accuracy
from cdu.experiments.repository import repository
from cdu.experiments.request_chains import Chain, asked, kept_answers, log_composition
from cdu.experiments.run import begin
from cdu.models.training import project
from cdu.seeding import generator
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.problem import UnlearningResult

CANARY = str(repository() / "tests" / "canaries" / "mlp.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def run(folder):
    parameters = {"dataset": "digits", "seed": 0, "experiment": CANARY, "output": "runs", "device": "cpu"}
    opened = begin("07_sequential", parameters)
    opened.setup.checkpoints = folder
    return opened


def chain(run, count=4, looked_at=None, retrained=None):
    known = {len(run.setup.forget): run.setup.retrained} if retrained is None else retrained
    return Chain(run, run.setup.problem(), count, "request", known, looked_at)


def points(run, metric, **keys):
    return [
        one.point for one in run.metrics if one.metric == metric and all(getattr(one, k) == v for k, v in keys.items())
    ]


@pytest.mark.parametrize("count", [1, 4])
def test_k_releases_are_one_with_a_sensitivity_that_is_root_k_times_as_large(run, count):
    log_composition(run, trivial_bound(8.0), [count])
    reach, sigma = 16 * count**0.5, 0.01
    assert run.values("epsilon", method="together") == [pytest.approx(gaussian_epsilon(sigma, 1e-5, reach), rel=1e-6)]
    assert run.values("epsilon", method="each alone") == [pytest.approx(gaussian_epsilon(sigma, 1e-5, 16), rel=1e-6)]
    assert run.values("sigma_needed") == [pytest.approx(gaussian_sigma(1.0, 1e-5, reach), rel=1e-6)]
    assert points(run, "epsilon") == [count, count]


def test_every_request_is_answered_and_compared_with_the_model_that_never_saw_what_is_gone(run):
    step, setup = NewtonStep(20.0), run.setup
    chain(run).log_answers("newton", step, 0.0, {"newton": 0.0, "newton + noise": 0.5})
    assert points(run, "step", method="newton") == [1, 2, 3, 4]
    state, problem = setup.original.w, setup.problem()
    for answer in kept_answers(setup, problem, step, 4, 0.0):
        assert torch.equal(answer.problem.w_star, project(state, problem.radius))
        state = answer.iterate
    assert run.values("distance_to_retrained", method="newton") == [
        pytest.approx(torch.dist(state, setup.retrained.w).item())
    ]
    assert points(run, "distance_to_retrained") == [4]
    last = {"axis": "request", "point": 4.0}
    for split, samples in (("forget", setup.forget), ("retain", setup.retain), ("test", setup.test)):
        whole = accuracy(problem.objective, state, samples)
        assert run.values("accuracy", method="newton", split=split, **last) == [pytest.approx(whole)]
    noise = 0.5 * torch.randn(state.shape, generator=generator(0, "request noise", 4))
    noisy = accuracy(problem.objective, state + noise, setup.test)
    assert run.values("accuracy", method="newton + noise", split="test", **last) == [pytest.approx(noisy)]
    assert run.values("seconds", method="newton", split="4 requests")[0] > 0


def test_of_a_long_chain_those_requests_are_looked_at_after_which_as_many_are_gone(run):
    gone = {len(request.gone) for request in asked(run.setup, 2)}
    chain(run, 4, gone).log_answers("newton", NewtonStep(20.0), 0.0, {"newton": 0.0})
    chain(run, 4, gone).log_yardsticks({"original": 0.0})
    assert points(run, "step") == [2, 4]
    assert points(run, "accuracy", method="original", split="test") == [2, 4]


def test_the_yardsticks_are_the_original_and_the_retrained_models(run):
    setup = run.setup
    first, second = asked(setup, 2)
    retrained = {len(first.gone): setup.second, len(second.gone): setup.retrained}
    chain(run, 2, retrained=retrained).log_yardsticks({"original": 0.0})
    lengths = [torch.dist(setup.original.w, one.w).item() for one in (setup.second, setup.retrained)]
    assert run.values("distance_to_retrained", method="original") == [pytest.approx(one) for one in lengths]
    left = accuracy(setup.objective(setup.second), setup.second.w, first.retain)
    assert run.values("accuracy", method="retrain", split="retain", point=1.0) == [pytest.approx(left)]
    mean = (setup.second.seconds + setup.retrained.seconds) / 2
    assert run.values("seconds", method="retrain") == [pytest.approx(2 * mean)]


class Refusing:
    """Answers while enough is left."""

    def __init__(self, enough):
        self.enough = enough

    def __call__(self, problem, generator):
        if len(problem.retain) < self.enough:
            raise CduError("no more")
        return UnlearningResult(problem.w_star, 0.0)


def test_a_refused_request_leaves_its_reason_and_no_time(run):
    enough = len(run.setup.train) - 60  # of 100 samples in 4 requests of 25, the third is one too many
    chain(run).log_answers("newton", Refusing(enough), 0.0, {"newton": 0.0})
    assert points(run, "step") == [1, 2]
    assert run.values("residual") == []
    (reason,) = [one for one in run.metrics if one.note]
    assert (reason.metric, reason.value, reason.point, reason.note) == ("accuracy", None, 3.0, "no more")
    assert run.values("seconds") == []
