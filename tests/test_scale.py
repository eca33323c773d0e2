"""What the sections on large networks log, on a small one."""

import numpy as np
import pytest
import torch

from cdu.certification import gaussian_delta, gaussian_epsilon, newton_bound
from cdu.curvature.hessian import Hessian
from cdu.curvature.settings import LissaSettings
from cdu.errors import CduError
from cdu.evaluation.accuracy import accuracy
from cdu.experiments.forget_sets import varied
from cdu.experiments.repository import repository
from cdu.experiments.run import begin
from cdu.experiments.scale import (
    Scale,
    judged_samples,
    log_accuracy_anew,
    objective_with_statistics_of,
    required,
    scale_methods,
)
from cdu.experiments.scale_bound import SAME, SAMPLED, ScaleBound
from cdu.experiments.scale_sweeps import ScaleSweeps
from cdu.experiments.settings import BoundSettings, ScaleSettings, SweepsSettings
from cdu.models.training import project
from cdu.seeding import generator
from cdu.unlearning.methods.original import Original
from cdu.unlearning.names import ANEW, NOISED
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.release import Release, recalibrated
from cdu.unlearning.settings import DampingSettings
from conftest import network

CANARY = str(repository() / "tests" / "canaries" / "mlp.yaml")
LISSA = LissaSettings(scale=20.0, depth=10, repeats=2, batch_size=10)
BLOCKS = {
    "scale": ScaleSettings(hessian_samples=100, spectrum_samples=50, lanczos_steps=4, judged=60, recalibrated=50),
    "bound": BoundSettings(dampings=(5.0, 500.0), spectrum_samples=50, hessian_samples=60, lanczos_steps=30),
    "sweeps": SweepsSettings(
        hessian_samples=100, spectrum_samples=50, lanczos_steps=4, radii=(2.0, 4.0), sigmas=(0.1,), noise_draws=2,
        requests=2, epochs=(1,), judged=60,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def opened(folder, section="11_scale", **blocks):
    """A run on digits with an MLP of eight neurons a layer."""
    run = begin(section, {"dataset": "digits", "seed": 0, "experiment": CANARY, "output": "runs", "device": "cpu"})
    run.setup.checkpoints = folder
    run.setup = varied(run.setup, **{**BLOCKS, **blocks})
    return run


def the(run, metric, **keys):
    (value,) = run.values(metric, **keys)
    return value


# --- what the sections share ---------------------------------------------------------------------------------------


def test_a_block_that_is_there_is_returned_and_one_that_is_not_is_refused(folder):
    run = opened(folder)
    assert required(run.setup, "scale", BLOCKS["scale"]) is BLOCKS["scale"]
    message = "the experiment 'mlp' has no block 'bound' for digits; 'batchnorm', 'paper', 'paper-resnet18' have one"
    with pytest.raises(CduError, match=message):
        ScaleBound(opened(folder, bound=None))
    for section, block in ((Scale, "scale"), (ScaleSweeps, "sweeps")):
        with pytest.raises(CduError, match=f"has no block '{block}'"):
            section(opened(folder, **{block: None}))


def test_judged_samples_are_some_of_each_set_or_all(folder):
    setup = opened(folder).setup
    assert {name: len(part) for name, part in judged_samples(setup, 60).items()} == {"retain": 60, "test": 60}
    everything = judged_samples(setup, None)
    assert everything["retain"] is setup.retain
    assert everything["test"] is setup.test


def batchnorm_problem():
    objective, w, samples = network("allcnn", count=20)
    retain, forget = samples.subset(torch.arange(5, 20)), samples.subset(torch.arange(5))
    return Problem(objective, w, retain, forget, 100.0, None, 0)


def test_statistics_of_samples_are_their_means_and_variances_at_the_weights():
    problem = batchnorm_problem()
    objective = objective_with_statistics_of(problem.retain, 15, problem, Original())
    inputs, _ = problem.retain.batch(slice(None))
    batchnorm = next(layer for layer in objective.model.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    reached = []
    batchnorm.register_forward_pre_hook(lambda _, given: reached.append(given[0]))
    objective.outputs(problem.w_star, problem.retain)
    first = torch.cat(reached)
    assert len(first) == len(inputs)
    torch.testing.assert_close(batchnorm.running_mean, first.mean((0, 2, 3)))
    torch.testing.assert_close(batchnorm.running_var, first.var((0, 2, 3)))
    assert objective.model is not problem.objective.model


def test_accuracy_is_taken_anew_only_where_there_are_statistics(folder):
    run, problem = opened(folder), batchnorm_problem()
    released = Release(problem.w_star, problem.objective, None, UnlearningResult(problem.w_star, 0.0))
    log_accuracy_anew(run, "one", [released], {"retain": problem.retain}, problem.retain)
    anew = recalibrated(released, problem.retain, 128)
    expected = accuracy(anew.objective, anew.w, problem.retain)
    assert run.values("recalibrated_accuracy", method="one", split="retain") == [expected]
    plain = run.setup.as_trained(run.setup.original)
    log_accuracy_anew(run, "two", [plain], {"test": run.setup.test}, run.setup.retain)
    assert run.values("recalibrated_accuracy", method="two") == []


# --- every method once ---------------------------------------------------------------------------------------------


def test_steps_are_tried_again_where_statistics_are_those_of_the_retained_set(folder):
    scale = Scale(opened(folder))
    plain = [name for name, _, _ in scale.methods()]
    assert plain == list(scale_methods(scale.run.setup.settings.unlearning, scale.settings, 0))
    scale.problems = {"": scale.problem, ANEW: batchnorm_problem()}
    steps = [name for name in plain if name.startswith("newton")]
    assert [name for name, _, _ in scale.methods()] == [*plain, *(f"{name}{ANEW}" for name in steps)]
    assert {name: task for name, _, task in scale.methods()}[f"newton{ANEW}"] is scale.problems[ANEW]


def test_the_original_is_logged_as_it_is_and_with_every_noise(folder):
    scale = Scale(opened(folder))
    run, setup = scale.run, scale.run.setup
    scale.log_method("original", Original(), scale.problem)
    assert the(run, "distance_to_original", method="original") == 0.0
    apart = (setup.original.w - setup.retrained.w).norm()
    assert the(run, "distance_to_retrained", method="original") == pytest.approx(float(apart))
    expected = accuracy(setup.objective(setup.original), setup.original.w, setup.forget)
    assert the(run, "accuracy", method="original", split="forget") == expected
    # From itself it is back at its own loss at once.
    assert the(run, "epochs", method="original") == 0
    unlearning = setup.settings.unlearning
    for label, sigma in scale.noises.items():
        noisy = f"original + {label}"
        assert the(run, "sigma", method=noisy) == sigma
        noise = sigma * torch.randn(len(setup.original.w), generator=generator(0, "noise"))
        assert the(run, "distance_to_original", method=noisy) == pytest.approx(float(noise.norm()), rel=1e-5)
        reached = the(run, "epsilon", method=noisy)
        assert gaussian_delta(reached, sigma, 16.0) == pytest.approx(unlearning.delta, rel=1e-6)
    assert the(run, "epsilon", method="original + noise for ε = 1") == pytest.approx(1.0, rel=1e-6)


def test_models_that_no_certificate_speaks_of_stand_without_noise(folder):
    scale = Scale(opened(folder))
    named = {name: (method, problem) for name, method, problem in scale.methods()}
    scale.log_method("second retraining", *named["second retraining"])
    assert {one.method for one in scale.run.metrics} == {"second retraining"}
    assert "second retraining" not in NOISED


def test_outputs_that_overflow_have_a_reason_in_place_of_the_attack(folder):
    scale = Scale(opened(folder))
    w = torch.full_like(scale.problem.w_star, 1e30)
    scale._log_attack("broken", Release(w, scale.problem.objective, None, UnlearningResult(w, 0.0)))
    (found,) = scale.run.metrics
    assert (found.metric, found.value) == ("auc", None)
    assert "overflow" in found.note


# --- sweeps --------------------------------------------------------------------------------------------------------


def test_noise_is_a_mean_over_its_draws_and_its_epsilon_is_that_of_the_sensitivity_2c(folder):
    sweeps = ScaleSweeps(opened(folder, "11_sweeps"))
    run, setup, sigma = sweeps.run, sweeps.run.setup, 0.1
    sweeps.noisy(sigma)
    w, objective, samples = setup.original.w, setup.objective(setup.original), sweeps.judged["test"]
    noises = [torch.randn(len(w), generator=generator(0, "noise", draw)) for draw in range(2)]
    expected = np.mean([accuracy(objective, w + sigma * noise, samples) for noise in noises])
    where = {"axis": "sigma", "point": sigma}
    assert the(run, "accuracy", method="original + noise", split="test", **where) == pytest.approx(expected)
    epsilon = the(run, "epsilon", **where)
    assert gaussian_delta(epsilon, sigma, 16.0) == pytest.approx(sweeps.noise.delta, rel=1e-6)
    sweeps.without_noise()
    bare = the(run, "accuracy", method="original + noise", split="test, no noise")
    assert bare == accuracy(objective, w, samples)


def test_another_radius_is_trained_in_and_certified_for(folder):
    sweeps = ScaleSweeps(opened(folder, "11_sweeps"))
    sweeps.within(2.0)
    where = {"axis": "radius", "point": 2.0}
    assert the(sweeps.run, "norm", **where) == pytest.approx(2.0, rel=1e-4)
    assert 0 < the(sweeps.run, "projected", **where) <= 1
    expected = gaussian_epsilon(sweeps.noise.sigma, sweeps.noise.delta, 4.0)
    assert the(sweeps.run, "epsilon", **where) == pytest.approx(expected, rel=1e-9)


def test_after_the_last_request_all_of_the_forget_set_is_gone(folder):
    sweeps = ScaleSweeps(opened(folder, "11_sweeps"))
    run, setup, last = sweeps.run, sweeps.run.setup, {"axis": "request", "point": 2}
    sweeps.yardsticks()
    retrained = accuracy(setup.objective(setup.retrained), setup.retrained.w, sweeps.judged["test"])
    assert the(run, "accuracy", method="retrain", split="test", **last) == retrained
    apart = (setup.original.w - setup.retrained.w).norm()
    assert the(run, "distance_to_retrained", method="original", **last) == pytest.approx(float(apart))
    sweeps.from_the_iterate()
    steps = [the(run, "step", method="newton", axis="request", point=number) for number in (1, 2)]
    assert min(steps) > 0
    assert abs(the(run, "distance_to_retrained", method="newton", **last) - float(apart)) <= sum(steps) * (1 + 1e-5)
    assert the(run, "hvp_samples", method="newton", split="2 requests") % 100 == 0


def test_a_request_that_is_refused_is_named_with_its_reason(folder):
    run = opened(folder, "11_sweeps")
    unlearning = run.setup.settings.unlearning
    tiny = {"tiny": DampingSettings(value=1e-6, lissa=LISSA)}
    little = unlearning.model_copy(update={"dampings": tiny, "default": "tiny"})
    sweeps = ScaleSweeps(opened(folder, "11_sweeps", unlearning=little))
    sweeps.from_the_iterate()
    (found,) = sweeps.run.metrics
    assert (found.metric, found.value, found.method, found.axis, found.point) == (
        "accuracy", None, "newton", "request", 1,
    )  # fmt: skip
    assert "H + λI" in found.note


def test_where_training_is_stopped_the_bound_has_the_gradient_that_is_left(folder):
    sweeps = ScaleSweeps(opened(folder, "11_sweeps"))
    run, where = sweeps.run, {"axis": "epochs", "point": 1}
    sweeps.stopped(1)
    low, bend = (the(run, metric, method="original", **where) for metric in ("lambda_min", "hessian_lipschitz"))
    left = the(run, "gradient_retrained", method="retrain", **where)
    start, target = (run.setup.stopped(part, 1) for part in (run.setup.train, run.setup.retain))
    gradient = run.setup.objective(target).gradient(target.w, run.setup.retain).norm()
    assert left == pytest.approx(float(gradient), rel=1e-5)
    assert the(run, "bound", **where) == newton_bound(8.0, bend, sweeps.damping, low, left).value
    apart = (start.w - target.w).norm()
    assert the(run, "distance_to_retrained", method="original", **where) == pytest.approx(float(apart), rel=1e-5)


# --- bound ---------------------------------------------------------------------------------------------------------


def test_bound_and_error_follow_from_the_logged_constants_and_the_dense_system(folder):
    bound = ScaleBound(opened(folder, "11_bound"))
    run, problem = bound.run, bound.problem
    bound.log_constants("")
    points = list(bound.tried())
    assert [name for name, *_ in points] == [
        "retain, λ = 5.0", "retain, λ = 500.0", "forget, λ = 5.0", "forget, λ = 500.0",
    ]  # fmt: skip
    for _, label, form, damping in points:
        bound.log_step(label, form, damping)
    bend, low, left, gap = (
        the(run, metric) for metric in ("hessian_lipschitz", "lambda_min", "gradient_retrained", "forms_gap")
    )
    dense = Hessian(problem.objective, problem.w_star, bound.part).dense().double()
    for form, name in (("retain", "network"), ("forget", "network, forget gradient")):
        where = {"method": name, "point": 500.0}
        more = gap if form == "forget" else 0.0
        expected = (16 * (8 * bend + 500) + left + more) / (500 + low)
        assert the(run, "bound", **where) == pytest.approx(expected, rel=1e-9)
        right = bound.steps[""].right_hand_sides[form].double()
        solution = torch.linalg.solve(dense + 500 * torch.eye(len(right)).double(), right)
        moved = project(problem.w_star.double() - solution, 8.0)
        error = float((moved - run.setup.retrained.w.double()).norm())
        assert the(run, "distance", **where) == pytest.approx(error, rel=1e-4)
        assert the(run, "step_norm", **where) == pytest.approx(float(solution.norm()), rel=1e-3)


def test_the_solvers_solve_one_system_and_lissas_residual_is_reached(folder):
    bound = ScaleBound(opened(folder, "11_bound"))
    bound.log_constants("")
    points = bound.solvers()
    assert list(points) == [
        "references", "lissa", SAME, "conjugate gradient", SAMPLED, "newton, λ code, lissa",
    ]  # fmt: skip
    for name in ("references", "lissa", SAME, "conjugate gradient", SAMPLED):
        points[name]()
    reached = the(bound.run, "claim_residual", method="lissa")
    assert the(bound.run, "claim_residual", method=SAME) <= reached
    assert the(bound.run, "claim_residual", method="conjugate gradient") <= 1e-4
    assert the(bound.run, "hvp_samples", method=SAMPLED) % 60 == 0
    whole = ScaleBound(opened(folder, "11_bound", bound=BoundSettings(dampings=(5.0,))))
    assert SAMPLED not in whole.solvers()


def test_where_lissa_diverges_there_is_no_residual_to_reach(folder):
    run = opened(folder, "11_bound")
    wild = LissaSettings(scale=0.001, depth=60, repeats=1, batch_size=10)
    unlearning = run.setup.settings.unlearning.model_copy(
        update={"dampings": {"wild": DampingSettings(value=20.0, lissa=wild)}, "default": "wild"}
    )
    bound = ScaleBound(opened(folder, "11_bound", unlearning=unlearning))
    points = bound.solvers()
    points["lissa"]()
    points[SAME]()
    found = {one.method: (one.metric, one.value, one.note) for one in bound.run.metrics}
    assert found["lissa"][:2] == ("claim_seconds", None)
    assert found[SAME] == ("claim_seconds", None, "LiSSA has no solution whose residual could be reached")
