import copy
import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.checkpoint import checkpoint

from cdu.certification import budget_bound, certify
from cdu.certification.rounding import computed
from cdu.curvature.hessian import Hessian
from cdu.curvature.settings import LissaSettings
from cdu.curvature.solution import SolverError
from cdu.data.datasets import load
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.evaluation.relearning import relearn
from cdu.evaluation.settings import RelearnSettings
from cdu.experiments.experiment import load_experiment
from cdu.models.architectures import build
from cdu.models.objective import Objective, parameter_vector
from cdu.models.settings import ModelSettings, TrainingSettings
from cdu.models.training import Trained, train
from cdu.seeding import generator, secret_generator
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registry import SECOND_SEED, methods
from cdu.unlearning.release import publish, publish_at, release, trials
from conftest import network, random_samples


def ridge_problem(seed):
    """Ridge regression, where retraining has a closed form and the Newton step is exact."""
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.randn(60, 5, generator=rng, dtype=torch.float64)
    targets = inputs @ torch.randn(5, generator=rng, dtype=torch.float64) + torch.randn(60, generator=rng).double()
    model = torch.nn.Linear(5, 1, bias=False).double()
    objective = Objective(model, lambda outputs, y: (outputs.squeeze(1) - y).square().mean() / 2, l2=0.05)

    def solve(samples):
        gram = samples.inputs.T @ samples.inputs / len(samples) + 0.05 * torch.eye(5)
        return torch.linalg.solve(gram, samples.inputs.T @ samples.targets / len(samples))

    def retrain(samples, seed):
        return Trained(model, solve(samples), [])

    everything = Samples(inputs, targets, dtype=torch.float64)
    retain, forget = everything.subset(torch.arange(10, 60)), everything.subset(torch.arange(10))
    return Problem(objective, solve(everything), retain, forget, 1e6, retrain, seed), solve(retain)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("solver", ["exact", "conjugate_gradient"])
@pytest.mark.parametrize("gradient", ["retain", "forget"])
def test_the_newton_step_is_exact_retraining_on_ridge_regression(seed, solver, gradient):
    problem, retrained = ridge_problem(seed)
    step = NewtonStep(1e-12, solver, gradient)
    tolerance = 1e-8 if solver == "exact" else 1e-4
    assert (step(problem, generator(0)).w - retrained).norm() <= tolerance * retrained.norm()
    assert (problem.w_star - retrained).norm() > 0.01 * retrained.norm()


@pytest.mark.parametrize("seed", range(3))
def test_the_two_forms_agree_at_an_optimum_and_part_elsewhere(seed):
    problem, _ = ridge_problem(seed)
    forms = [NewtonStep(0.1, "exact", form) for form in ("retain", "forget")]
    at_optimum = [form(problem, generator(0)).w for form in forms]
    assert torch.allclose(*at_optimum, atol=1e-12)
    early = replace(problem, w_star=problem.w_star + 0.1)
    elsewhere = [form(early, generator(0)).w for form in forms]
    assert (elsewhere[0] - elsewhere[1]).norm() > 1e-2


def logistic_problem(radius=100.0, seed=0):
    objective, w, samples = network("logistic", seed, count=40)
    retain, forget = samples.subset(torch.arange(8, 40)), samples.subset(torch.arange(8))
    trained = Trained(objective.model, w / 2, [{"seconds": 1.5}])
    return Problem(objective, w, retain, forget, radius, lambda s, seed: trained, 0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gradient", ["retain", "forget"])
@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_a_preconditioner_leaves_the_newton_step_as_it_is(seed, gradient, damping):
    for problem in (ridge_problem(seed)[0], logistic_problem(seed=seed)):
        plain = NewtonStep(damping, "conjugate_gradient", gradient)(problem, generator(seed))
        update = NewtonStep(damping, "preconditioned", gradient)(problem, generator(seed))
        operator = Hessian(problem.objective, problem.w_star, problem.retain) + damping
        right = (operator @ (problem.w_star - plain.w)).norm()
        # Either leaves a residual of 1e-4 at most, and no eigenvalue of a convex problem lies below λ + l2.
        assert (update.w - plain.w).norm() <= 2.01e-4 * right / (damping + problem.objective.l2)
        assert update.converged
        assert update.residual <= 1.01e-4
        assert update.gradient_samples == plain.gradient_samples


@pytest.mark.slow
def test_leave_one_out_influence_correlates_with_retraining():
    """Newton steps for single samples predict the change that retraining without them makes."""
    objective, w, samples = network("logistic", count=60, l2=0.1)

    def minimise(subset, start):
        for _ in range(8):
            problem = Problem(objective, start, subset, subset, 1e6, None, 0)
            start = NewtonStep(1e-12, "exact")(problem, generator(0)).w
        return start

    everything = minimise(samples, w)
    assert objective.gradient(everything, samples).norm() < 1e-10
    probe = random_samples((1, 4, 4), 1, 99)
    predicted, actual = [], []
    for index in range(12):
        keep = samples.subset(torch.tensor([i for i in range(60) if i != index]))
        gone = samples.subset(torch.tensor([index]))
        problem = Problem(objective, everything, keep, gone, 1e6, None, 0)
        estimate = NewtonStep(1e-12, "exact", "forget")(problem, generator(0)).w
        base = objective.loss(everything, probe)
        predicted.append(objective.loss(estimate, probe) - base)
        actual.append(objective.loss(minimise(keep, everything), probe) - base)
    assert np.corrcoef(predicted, actual)[0, 1] > 0.99


def test_a_release_is_projected_before_the_noise():
    problem = logistic_problem()
    problem = replace(problem, radius=problem.w_star.norm().item())

    def far(problem, source):
        return UnlearningResult(3 * problem.w_star, 0.0)

    plain = release(problem, far)
    assert plain.w.norm() == pytest.approx(problem.radius)
    assert plain.certificate is None
    assert release(problem, far, sigma=0.5).certificate.sensitivity == pytest.approx(2 * problem.radius)
    noisy = release(problem, far, sigma=0.5, unsafe_seed=7)
    assert noisy.certificate is None
    assert noisy.promise == "none: the seed of its noise was given"
    drawn = torch.randn(len(plain.w), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    assert torch.allclose(noisy.w, plain.w + 0.5 * drawn)


def test_doing_nothing_gives_the_original_bit_for_bit_and_relearns_in_no_time():
    for seed in range(5):
        model = build(ModelSettings(name="mlp"), (1, 8, 8), 10, seed)
        settings = TrainingSettings(epochs=3, radius=4)
        samples = load("digits").train.subset(torch.arange(200))
        trained = train(model, samples, settings, seed)
        objective = Objective(model, l2=settings.weight_decay)
        parts = samples.subset(torch.arange(150)), samples.subset(torch.arange(150, 200))
        released = release(Problem(objective, trained.w, *parts, settings.radius, None, seed), Original())
        assert torch.equal(released.w, trained.w)
        target = objective.mean_loss(trained.w, samples)
        assert relearn(released.objective, released.w, samples, target, RelearnSettings(), 0).epochs == 0


def test_the_noise_has_the_declared_distribution():
    problem = logistic_problem()
    update = Original()(problem, generator(0))
    plain = publish(problem, update, generator(0)).w
    draws = torch.cat([publish(problem, update, generator(1, n), 0.2).w - plain for n in range(200)])
    assert stats.kstest(draws.numpy() / 0.2, "norm").pvalue > 1e-3
    assert not torch.equal(publish(problem, update, generator(1), 0.2).w, publish(problem, update, generator(2), 0.2).w)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trials_are_releases_bit_for_bit(dtype):
    problem = logistic_problem(radius=2.0)
    w = problem.w_star
    update = UnlearningResult(w.to(dtype) * 5, 0.0)
    blocks = list(trials(problem, update, generator(1), 0.2, 7, together=3))
    assert [len(block) for block in blocks] == [3, 3, 1]
    source = generator(1)
    along = torch.randn(len(w), generator=generator(2), dtype=dtype)
    for row in (row for block in blocks for row in block):
        one = publish(problem, replace(update, no_certificate_reason="a trial"), source, 0.2).w
        assert torch.equal(row, one)
        assert torch.equal(row @ along, one @ along)


def test_a_release_draws_its_noise_in_double_precision_and_a_record_in_the_weights_own():
    double = logistic_problem()
    model = copy.deepcopy(double.objective.model).float()
    single = replace(
        double,
        objective=Objective(model),
        w_star=double.w_star.float(),
        retain=double.retain.to(dtype=torch.float32),
        forget=double.forget.to(dtype=torch.float32),
    )

    def source():
        return torch.Generator().manual_seed(5)

    for found, dtype in [
        (release(single, Original(), 0.5, unsafe_seed=5), torch.float64),
        (publish(single, Original()(single, source()), source(), 0.5), torch.float32),
    ]:
        expected = single.w_star + 0.5 * torch.randn(len(single.w_star), generator=source(), dtype=dtype)
        assert found.w.dtype == torch.float32
        assert torch.equal(found.w, expected.float())


def test_trials_without_noise_at_the_end_are_refused():
    problem = logistic_problem()
    w = problem.w_star
    certificate = certify(budget_bound(1.0), 1.0, 1e-5)
    for sigma, update in ((0.0, UnlearningResult(w, 0.0)), (1.0, UnlearningResult(w, 0.0, certificate=certificate))):
        with pytest.raises(CduError, match="differ in the noise that is added last"):
            next(trials(problem, update, generator(0), sigma, 1))


def test_no_method_changes_the_retained_samples_or_the_original():
    problem = logistic_problem()
    before = [problem.w_star.clone(), problem.retain.inputs.clone(), problem.retain.targets.clone()]
    settings = load_experiment("quick").settings("digits").unlearning
    for name, method in methods(settings, 0).items():
        released = release(problem, method, 0.01, unsafe_seed=0)
        assert torch.isfinite(released.w).all(), name
    after = [problem.w_star, problem.retain.inputs, problem.retain.targets]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_the_registry_holds_yardsticks_and_every_named_damping():
    settings = load_experiment("mnist").settings("mnist").unlearning
    table = methods(settings, 4)
    assert list(table)[:3] == ["original", "retrain", "second retraining"]
    assert table["second retraining"].seed == 4 + SECOND_SEED
    assert table["newton"].damping == 10
    assert {table[name].damping for name in table if name.startswith("newton, λ")} == {0.01, 200}


def test_retraining_reports_the_recipes_time_and_model():
    problem = logistic_problem()
    released = release(problem, Retrain())
    assert released.update.seconds == 1.5
    assert released.objective.model is problem.objective.model


def test_retraining_without_a_recipe_is_refused():
    with pytest.raises(CduError, match=r"the problem's recipe is None; retraining needs retrain\(samples, seed\)"):
        release(replace(logistic_problem(), retrain=None), Retrain())


def test_the_codes_damping_is_refused_on_an_indefinite_hessian():
    objective, w, samples = network("mlp", count=40)
    problem = Problem(objective, 3 * w, samples, samples, 1e6, None, 0)
    with pytest.raises(SolverError, match="the Newton step is undefined"):
        NewtonStep(1e-6, "exact")(problem, generator(0))


LISSA = LissaSettings(scale=10, depth=5, repeats=1, batch_size=8)


@pytest.mark.parametrize(
    ("constants", "words"),
    [
        ({"solver": "lissa"}, "needs its constants; give lissa_settings"),
        ({"solver": "Exact"}, "no solver 'Exact'; known are exact, conjugate_gradient"),
        ({"solver": "cg", "lissa_settings": LISSA}, "no solver 'cg'"),
        ({"gradient": "forgot"}, "'forgot' is neither 'retain' nor 'forget'"),
        ({"damping": -1.0}, "damping = -1.0"),
        ({"damping": math.nan}, "damping = nan"),
    ],
)
def test_a_newton_step_that_is_none_is_refused_when_it_is_made(constants, words):
    with pytest.raises(CduError, match=words):
        NewtonStep(**{"damping": 1.0, **constants})


def summed(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="sum")


def separate(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


def with_nan(samples):
    inputs = samples.inputs.double()
    inputs[3].view(-1)[0] = math.nan
    return replace(samples, inputs=inputs)


class Recomputing(torch.nn.Module):
    """A module whose activations are computed again in the backward pass."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return checkpoint(self.inner, inputs, use_reentrant=False)


def weighted(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, torch.arange(1.0, outputs.shape[1] + 1).double())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda problem: {"retain": problem.retain.subset(torch.arange(0))}, "the retain set is empty"),
        (lambda problem: {"forget": problem.forget.subset(torch.arange(0))}, "the forget set is empty"),
        (lambda problem: {"w_star": problem.w_star[1:]}, r"shape \(\d+,\), the objective's model has \d+ parameters"),
        (lambda problem: {"w_star": problem.w_star.float()}, "torch.float32, batches of torch.float64"),
        (
            lambda problem: {
                "w_star": problem.w_star.bfloat16(),
                "retain": problem.retain.to(dtype=torch.bfloat16),
                "forget": problem.forget.to(dtype=torch.bfloat16),
            },
            "less would swallow the noise",
        ),
        (lambda problem: {"w_star": problem.w_star * math.nan}, "w_star holds NaN"),
        (lambda problem: {"radius": 0.0}, "radius = 0.0 is not above 0"),
        (lambda problem: {"radius": math.nan}, "radius = nan is not above 0"),
        (
            lambda problem: {"radius": 0.99 * problem.w_star.norm().item()},
            r"w_star has the norm .*, above radius = .*: training did not project",
        ),
        (
            lambda problem: {"retain": problem.retain.joined(problem.forget.subset(torch.tensor([2])))},
            r"1 of the \d+ samples to forget are still in the retain set, the first is forget row 2",
        ),
        (
            lambda problem: {"forget": problem.forget.joined(problem.forget.subset(torch.tensor([0])))},
            r"the forget set's \d+ rows hold \d+ different samples; list every one once",
        ),
        (
            lambda problem: {"retain": problem.forget, "forget": problem.retain},
            r"the forget set has \d+ samples and the retain set \d+; are they exchanged\?",
        ),
        (
            lambda problem: {"retain": with_nan(problem.retain)},
            "1 rows of the retain set hold NaN .*the first is row 3",
        ),
        (lambda problem: {"forget": with_nan(problem.forget)}, "1 rows of the forget set hold NaN"),
        (lambda problem: {"objective": Objective(problem.objective.model, summed)}, "give a loss that is the mean"),
        (lambda problem: {"objective": Objective(problem.objective.model, weighted)}, "without class weights"),
        (
            lambda problem: {"objective": Objective(problem.objective.model, separate)},
            r"the shape \(8,\)",
        ),
    ],
)
def test_a_problem_that_has_no_answer_is_refused_before_the_method_runs(change, words):
    problem = logistic_problem()
    with pytest.raises(CduError, match=words):
        release(replace(problem, **change(problem)), lambda *_: pytest.fail("the method ran"))


@pytest.mark.parametrize(
    ("sigma", "delta", "words"),
    [
        (-1.0, 1e-5, "sigma = -1.0"),
        (1.0, 0.99, "delta = 0.99 is not between 0 and one over the number of samples, 40"),
        (1.0, 0.0, "delta = 0.0"),
    ],
)
def test_a_promise_that_is_none_is_refused_before_the_method_runs(sigma, delta, words):
    with pytest.raises(CduError, match=words):
        release(logistic_problem(), lambda *_: pytest.fail("the method ran"), sigma, delta)


def test_a_bound_on_the_distance_before_a_projection_is_not_passed_on_beyond_it():
    problem = logistic_problem(radius=0.5)
    far = UnlearningResult(2 * problem.w_star / problem.w_star.norm(), 0.0, bound=budget_bound(1e-3), rounding=0.0)
    with pytest.raises(CduError, match=r"radius 0.5 would move weights of norm 2 away"):
        publish(problem, far, generator(0), sigma=0.01)
    certificate = publish(problem, replace(far, radius=math.inf), generator(0), sigma=0.01).certificate
    assert certificate.sensitivity == 1e-3


def test_the_norm_of_many_single_precision_weights_is_not_underestimated():
    problem, many = logistic_problem(radius=20.0), torch.randn(10**7, generator=generator(0))
    on_the_ball = UnlearningResult(
        many * (20 / many.double().norm()).float(), 0.0, bound=budget_bound(1e-3), rounding=0.0
    )
    # A projection in single precision may be off by 1e-5.
    certificate = publish(problem, on_the_ball, generator(0), sigma=0.01).certificate
    assert 1e-3 + 1.8e-5 < certificate.sensitivity < 1e-3 + 2.2e-5
    outside = replace(on_the_ball, w=on_the_ball.w * 1.0001)
    with pytest.raises(CduError, match=r"radius 20 would move weights of norm 20.002 away"):
        publish(problem, outside, generator(0), sigma=0.01)


def test_noise_that_is_lost_in_the_weights_rounding_is_refused():
    problem = logistic_problem()
    largest = problem.w_star.abs().max().item()
    assert release(problem, Original(), 1e-8 * largest).certificate is not None
    single = replace(
        problem,
        objective=Objective(problem.objective.model.float()),
        w_star=problem.w_star.float(),
        retain=problem.retain.to(dtype=torch.float32),
        forget=problem.forget.to(dtype=torch.float32),
    )
    assert release(single, Original(), 1e-6 * largest).certificate is not None
    with pytest.raises(CduError, match=r"is lost in the rounding of torch.float32 weights of up to .*; use float64"):
        release(single, Original(), 1e-8 * largest)


def test_a_weight_of_a_rare_class_is_seen_on_all_samples():
    targets = torch.zeros(200, dtype=torch.long)
    # Not among the few that are tried one by one.
    targets[::2], targets[11] = 1, 2
    rng = torch.Generator().manual_seed(0)
    samples = Samples(torch.randn(200, 5, generator=rng, dtype=torch.float64), targets, dtype=torch.float64)
    model = torch.nn.Linear(5, 3).double()
    parts = samples.subset(torch.arange(180)), samples.subset(torch.arange(180, 200))
    for weight, allowed in ((1.0, True), (1.05, False)):
        weights = torch.tensor([1.0, 1.0, weight], dtype=torch.float64)
        objective = Objective(model, torch.nn.CrossEntropyLoss(weights))
        problem = Problem(objective, parameter_vector(model), *parts, 10.0, None, 0)
        if allowed:
            assert release(problem, Original(), sigma=1.0).certificate is not None
        else:
            with pytest.raises(CduError, match=r"in batches of 180 and .* in batches of 25; give a loss"):
                release(problem, Original(), sigma=1.0)


def test_a_module_that_is_run_again_in_the_backward_pass_is_refused():
    objective, w, samples = network("mlp", count=40)
    again = Objective(Recomputing(objective.model))
    right, wrong = objective.gradient(w + 1, samples), again.gradient(w + 1, samples)
    assert (right - wrong).norm() > 0.1 * right.norm()
    parts = samples.subset(torch.arange(30)), samples.subset(torch.arange(30, 40))
    problem = Problem(again, w, *parts, 1e3, None, 0)
    with pytest.raises(CduError, match="switch its activation checkpointing off"):
        release(problem, Original())
    assert release(replace(problem, objective=objective), Original()).certificate is None


def test_two_releases_share_no_noise_and_nobody_can_name_its_seed():
    problem = logistic_problem()
    first, second = (release(problem, Original(), sigma=1.0).w for _ in range(2))
    assert (first - second).norm() > 0.5 * math.sqrt(2 * len(first))
    # What PyTorch's generator draws without a seed is the same everywhere.
    usual = problem.w_star + torch.randn(len(first), generator=torch.Generator(), dtype=torch.float64)
    assert min((one - usual).norm() for one in (first, second)) > 0.5 * math.sqrt(2 * len(first))
    again = [release(problem, Original(), sigma=1.0, unsafe_seed=3).w for _ in range(2)]
    assert torch.equal(*again)


def test_a_secret_is_more_than_a_seed():
    """PyTorch takes 32 bits of a seed; a secret fills the whole state, and every bit of it counts."""
    one, other = (torch.Generator().manual_seed(seed) for seed in (5, 5 + 2**32))
    assert torch.equal(torch.randn(4, generator=one), torch.randn(4, generator=other))
    secrets = [bytes(32), bytes([1]) + bytes(31), bytes(31) + bytes([1])]
    draws = [torch.randn(1000, generator=secret_generator(secret, "x"), dtype=torch.float64) for secret in secrets]
    draws += [
        torch.randn(1000, generator=secret_generator(secrets[0], *purpose), dtype=torch.float64)
        for purpose in ("y", ("x", 1))
    ]
    for number, draw in enumerate(draws):
        assert stats.kstest(draw.numpy(), "norm").pvalue > 1e-4
        for earlier in draws[:number]:
            assert abs(np.corrcoef(draw, earlier)[0, 1]) < 0.2
    words = secret_generator(secrets[0], "x").get_state().numpy()[24 : 24 + 8 * 624].view("<u8")
    expected = hashlib.shake_256((secrets[0].hex() + "/x").encode()).digest(4 * 624)
    assert words.astype("<u4").tobytes() == expected
    assert words.max() < 2**32
    again = torch.randn(1000, generator=secret_generator(secrets[0], "x"), dtype=torch.float64)
    assert torch.equal(again, draws[0])


def test_the_noise_of_a_release_is_standard_normal_times_sigma():
    problem = logistic_problem()
    drawn = torch.cat([release(problem, Original(), sigma=0.5).w - problem.w_star for _ in range(200)])
    assert stats.kstest(drawn.numpy() / 0.5, "norm").pvalue > 1e-4


def test_a_method_with_noise_of_its_own_takes_no_other_and_no_large_delta():
    objective, w, samples = network("logistic", count=400)
    parts = samples.subset(torch.arange(380)), samples.subset(torch.arange(380, 400))
    problem = Problem(objective, w, *parts, 1e3, None, 0)
    bound = computed(budget_bound(1.0), "float64", 0.0)

    def own(delta):
        return lambda problem, source: UnlearningResult(problem.w_star, 0.0, certificate=certify(bound, 1.0, delta))

    with pytest.raises(CduError, match=r"sigma = 0\.1 was given to a method that adds noise of its own"):
        release(problem, own(1e-5), sigma=0.1)
    with pytest.raises(CduError, match=r"delta = 0\.005, not below one over the number of samples, 400"):
        release(problem, own(0.005))
    assert release(problem, own(1e-5)).certificate.delta == 1e-5


def test_weights_that_are_not_finite_are_no_release():
    with pytest.raises(CduError, match="the unlearned weights hold NaN"):
        release(logistic_problem(), lambda problem, source: UnlearningResult(problem.w_star * math.nan, 0.0))


def test_samples_that_are_alike_are_told_apart_by_ids():
    problem = logistic_problem()
    retain = problem.retain.joined(problem.forget.subset(torch.tensor([0])))
    named = {
        "retain": replace(retain, ids=np.arange(len(retain))),
        "forget": replace(problem.forget, ids=1000 + np.arange(len(problem.forget))),
    }
    assert release(replace(problem, **named), Original(), sigma=1.0).certificate is not None
    with pytest.raises(CduError, match="only the retain set has ids, so that they cannot be compared"):
        release(replace(problem, retain=named["retain"]), Original(), sigma=1.0)
    named["forget"] = replace(problem.forget, ids=np.arange(len(problem.forget)))
    with pytest.raises(CduError, match="are still in the retain set"):
        release(replace(problem, **named), Original(), sigma=1.0)


def test_a_methods_own_certificate_is_not_handed_out_for_a_better_one():
    problem = logistic_problem()
    own = certify(computed(budget_bound(1.0), "float64", 0.0), 1.0, 1e-6)
    update = UnlearningResult(problem.w_star, 0.0, certificate=own)
    assert publish_at(problem, update, generator(0), own.epsilon, 1e-5).certificate is own
    for epsilon, delta in ((own.epsilon / 2, 1e-5), (own.epsilon, 1e-7)):
        with pytest.raises(CduError, match=r"the method's own noise certifies ε = .* make the method for those"):
            publish_at(problem, update, generator(0), epsilon, delta)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_not_certified(value):
    problem = logistic_problem(radius=2.0)
    broken = UnlearningResult(torch.where(torch.arange(len(problem.w_star)) == 3, value, problem.w_star), 0.0)
    with pytest.raises(CduError, match="NaN or infinite numbers, which no noise hides"):
        publish(problem, broken, generator(0), sigma=1.0)
    certificate = publish(problem, Original()(problem, generator(0)), generator(0), sigma=1.0).certificate
    with pytest.raises(CduError, match="NaN or infinite numbers"):
        publish(problem, replace(broken, certificate=certificate), generator(0))
    # Without a certificate they are a diverged method's result, and its accuracy says so.
    assert publish(problem, broken, generator(0)).certificate is None


@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf])
def test_a_noise_that_is_none_is_refused_even_where_nothing_is_certified(sigma):
    problem = logistic_problem()
    uncertified = UnlearningResult(problem.w_star, 0.0, no_certificate_reason="training assumption violated")
    with pytest.raises(CduError, match=f"sigma = {sigma} is not a finite number of at least 0"):
        publish(problem, uncertified, generator(0), sigma)
