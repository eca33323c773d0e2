"""What the variants of the step yield, against dense references, on small problems."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from cdu.certification import gaussian_epsilon
from cdu.curvature.hessian import Hessian
from cdu.curvature.settings import LissaSettings
from cdu.errors import CduError
from cdu.evaluation.accuracy import accuracy
from cdu.evaluation.official_code import TensorNorms, batchnorm, clone, draws, lissa_gain, solvers
from cdu.evaluation.official_code.judge import Attacks, Judge, promised, released_weights
from cdu.evaluation.official_code.steps import Steps
from cdu.evaluation.settings import OfficialSettings
from cdu.experiments.experiment import load_experiment
from cdu.experiments.official_models import batchnorm_problem, official_models
from cdu.experiments.repository import repository
from cdu.experiments.setup import Setup
from cdu.models.settings import TrainingSettings
from cdu.models.training import project
from cdu.seeding import generator
from cdu.unlearning.problem import Problem
from conftest import network, random_samples
from test_official_code import STAND_IN

DAMPING, SIGMA, DELTA = 2.0, 0.01, 1e-5
CODE = OfficialSettings(
    damping=0.5, sigma=0.1, krylov=100, lissa=LissaSettings(scale=40.0, depth=12, repeats=2, batch_size=4)
)


def deletion(seed=0, name="mlp", count=48, gone=12, l2=0.01):
    """Forget the first samples of a small network, at weights where no tensor is zero."""
    objective, w, samples = network(name, seed, count=count, chunk=count, l2=l2)
    w = w + 0.1 * torch.randn(len(w), dtype=w.dtype, generator=generator(seed, "away"))
    rows, ball = torch.arange(count), 1.01 * w.norm().item()
    recipe = TrainingSettings(batch_size=8, radius=ball)
    return Problem(objective, w, samples.subset(rows[gone:]), samples.subset(rows[:gone]), ball, None, seed, recipe)


def others(name="mlp"):
    return random_samples((3, 8, 8) if name == "allcnn" else (1, 4, 4), 40, 9)


def steps_of(problem, **code):
    return Steps(problem, DAMPING, SIGMA, CODE.model_copy(update=code), 0)


def dense(objective, problem):
    return Hessian(objective, problem.w_star, problem.retain).dense()


def identity(problem):
    return torch.eye(len(problem.w_star), dtype=problem.w_star.dtype)


def by_metric(found):
    """All readings as one list of (metric, value, keys)."""
    return [(metric, value, dict(keys)) for numbers, keys in found for metric, value in numbers.items()]


# --- the step ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_variant_solves_its_own_dense_system(seed):
    problem = deletion(seed)
    steps, objective, w, retain = steps_of(problem), problem.objective, problem.w_star, problem.retain
    plain, gradient = dense(objective, problem), objective.gradient(w, retain)
    curved = dense(TensorNorms(objective.model, objective.l2 + DAMPING), problem)
    slope = TensorNorms(objective.model, objective.l2).gradient(w, retain)
    cheap = -12 / 36 * objective.gradient(w, problem.forget)
    data = plain - objective.l2 * identity(problem)
    expected = {
        "paper": (plain + DAMPING * identity(problem), gradient),
        "norms_in_hessian": (curved, gradient),
        "norms_in_gradient": (plain + DAMPING * identity(problem), slope),
        "gradient_over_forget": (plain + DAMPING * identity(problem), cheap),
        "small_damping": (plain + CODE.damping * identity(problem), gradient),
        "summed_losses": (5 * data + (objective.l2 + DAMPING) * identity(problem), gradient),
    }
    assert steps.batches == 5
    for name, (matrix, vector) in expected.items():
        found = getattr(steps, name).solve()
        assert (matrix @ found.x - vector).norm() < 2e-4 * vector.norm(), name
        assert torch.allclose(found.x, torch.linalg.solve(matrix, vector), rtol=1e-2, atol=1e-4 * found.x.norm()), name


def lissa_with(operator, vector, constants, seed):
    source, h = generator(seed, "LiSSA"), constants.scale
    x = vector.expand(constants.repeats, -1).clone()
    for _ in range(constants.depth):
        rows = torch.randint(len(operator.samples), (constants.repeats, constants.batch_size), generator=source)
        for number, batch in enumerate(rows):
            part = Hessian(operator.objective, operator.w, operator.samples.subset(batch)) + operator.damping
            x[number] = x[number] + vector - part @ x[number] / h
    return x.mean(dim=0) / h


def test_lissa_has_the_codes_constants_alone_and_with_all_departures():
    problem = deletion()
    steps, objective, w = steps_of(problem), problem.objective, problem.w_star
    found = steps.small_damping_by_lissa.solve()
    expected = lissa_with(steps.hessian + CODE.damping, steps.gradient, CODE.lissa, 0)
    assert torch.allclose(found.x, expected, atol=1e-10)
    whole = steps.as_published
    slope = TensorNorms(objective.model, objective.l2)
    curved = Hessian(TensorNorms(objective.model, objective.l2 + CODE.damping), w, problem.retain)
    expected = lissa_with(curved, slope.gradient(w, problem.retain), CODE.lissa, 0)
    assert torch.allclose(whole.solve().x, expected, atol=1e-10)
    assert (whole.damping, whole.sigma, whole.projected) == (CODE.damping, CODE.sigma, False)
    assert torch.equal(whole.objective.gradient(w, problem.retain), slope.gradient(w, problem.retain))


def test_a_lissa_that_diverges_is_a_reason_and_leaves_no_residual():
    steps = steps_of(deletion(), lissa=LissaSettings(scale=0.1, depth=30, repeats=1, batch_size=4))
    judge = Judge(steps.problem, steps.solution.x, others(), 2, DELTA, 0)
    ((numbers, keys),) = judge.solved(steps.small_damping_by_lissa)
    assert dict(numbers) == {"step_norm": None}
    assert keys["note"].startswith("LiSSA diverges")
    assert [*steps.full_depth_residual()] == []
    found = by_metric(steps.depth_residuals("code", 0.5, steps.code.lissa, (1, 30)))
    assert [metric for metric, *_ in found] == ["depth_residual", "residual"]
    assert found[0][2] == {"method": "code", "axis": "depth", "point": 1}
    assert "axis" not in found[1][2]


def test_the_residual_at_the_codes_own_depth_is_that_of_its_solution():
    steps = steps_of(deletion())
    ((numbers, keys),) = steps.full_depth_residual()
    x = steps.small_damping_by_lissa.solve().x
    missed = (dense(steps.problem.objective, steps.problem) + 0.5 * identity(steps.problem)) @ x - steps.gradient
    assert numbers["depth_residual"] == pytest.approx((missed.norm() / steps.gradient.norm()).item())
    assert keys["point"] == CODE.lissa.depth


def test_gains_stand_beside_what_is_wanted():
    found = by_metric(solvers.lissa_gains(CODE.lissa, 0.5, (0.5, 10.0)))
    assert [value for metric, value, _ in found if metric == "gain"] == [
        lissa_gain(0.5, 40.0, 12), 2.0, lissa_gain(10.0, 40.0, 12), 0.1
    ]  # fmt: skip
    kappa = 40.0 / 0.5
    assert found[-1][1] == np.ceil(2 * kappa * np.log(4 * kappa))


# --- what is measured ----------------------------------------------------------------------------------------------


def test_a_step_is_measured_against_the_papers():
    problem, test = deletion(), others()
    steps = steps_of(problem)
    judge = Judge(problem, steps.solution.x, test, 2, DELTA, 0)
    x = 0.5 * steps.solution.x
    found = {metric: value for metric, value, keys in by_metric(judge.measured(steps.paper, x)) if "split" not in keys}
    assert found["residual"] == pytest.approx(0.5, rel=1e-3)
    assert found["step_difference"] == pytest.approx(0.5)
    assert found["step_cosine"] == pytest.approx(1.0)
    slope = problem.objective.gradient(problem.w_star, problem.everything).norm().item()
    assert found["gradient_norm"] == pytest.approx(slope)
    assert found["step_norm"] == pytest.approx(x.norm().item())
    elsewhere = replace(problem, w_star=problem.w_star.clone())
    other = by_metric(judge.solved(steps_of(elsewhere).paper))
    metrics = [metric for metric, *_ in other]
    assert metrics[:4] == ["own_residual", "residual", "gradient_norm", "step_norm"]
    assert "step_difference" not in metrics


def test_the_accuracies_are_those_of_the_noisy_release():
    problem, test = deletion(), others()
    steps = steps_of(problem)
    judge = Judge(problem, steps.solution.x, test, 2, DELTA, 0)
    noise = torch.randn(len(problem.w_star), generator=generator(0, "noise")).to(problem.w_star)
    x = steps.solution.x - problem.w_star
    moved = problem.w_star - x
    assert moved.norm() > problem.radius
    for variant, expected in {
        steps.paper: project(moved, problem.radius) + SIGMA * noise,
        steps.free_noise: moved + CODE.sigma * noise,
    }.items():
        assert torch.equal(released_weights(variant, x, 0), expected)
        found = [one for one in judge.measured(variant, x) if "split" in one.keys]
        for split, samples in {"forget": problem.forget, "retain": problem.retain, "test": test}.items():
            (numbers,) = (one.numbers for one in found if one.keys["split"] == split)
            assert numbers["accuracy"] == accuracy(problem.objective, expected, samples)


def test_epsilon_is_that_of_the_ball_and_of_the_ball_and_the_step():
    steps = steps_of(deletion())
    x, radius = steps.solution.x, steps.problem.radius
    found = promised(steps.free_noise, x, DELTA)
    assert found["epsilon"] == pytest.approx(gaussian_epsilon(CODE.sigma, DELTA, 2 * radius))
    loose = gaussian_epsilon(CODE.sigma, DELTA, 2 * radius + x.norm().item())
    assert found["epsilon_unprojected"] == pytest.approx(loose)
    assert (found["released_projected"], promised(steps.paper, x, DELTA)["released_projected"]) == (0.0, 1.0)


def test_an_attack_tells_members_where_only_their_outputs_change():
    problem, test = deletion(), others()
    attacks = Attacks(problem, test, 2, 0)
    members = {tuple(row.flatten().tolist()) for row in problem.forget.inputs}

    def outputs(w, samples):
        told = torch.tensor([tuple(row.flatten().tolist()) in members for row in samples.inputs])
        return torch.where(told[:, None], w[:3], torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))

    before, after = torch.tensor([3.0, 2.0, 1.0]).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    found = attacks.success(outputs, before, after)
    assert found == {
        "attack_accuracy": 1.0, "auc": 1.0, "published_accuracy": 1.0, "published_auc": 1.0, "majority": 0.75
    }  # fmt: skip
    blind = attacks.success(outputs, before, before)
    assert blind["auc"] == 0.5


# --- seeds and requests --------------------------------------------------------------------------------------------


def test_a_seed_without_effect_spreads_nothing():
    problem = deletion()
    everything = problem.everything
    fixed = {metric: value for metric, value, _ in by_metric(draws.spread(problem, everything, 2.0, 0.1, [0, 0, 0]))}
    assert fixed == {"spread_accuracy": 0.0, "spread_weights": 0.0}
    found = {metric: value for metric, value, _ in by_metric(draws.spread(problem, everything, 2.0, 0.1, range(3)))}
    assert found["spread_accuracy"] > 0
    # Two releases differ by two noises at least.
    assert found["spread_weights"] == pytest.approx(0.1 * np.sqrt(2 * len(problem.w_star)), rel=0.3)
    refused = by_metric(draws.spread(problem, everything, 1e-9, 0.1, range(2)))
    assert [(metric, value) for metric, value, _ in refused] == 2 * [("spread_accuracy", None)]


def test_requests_that_are_never_noised_end_at_the_chain_of_dense_steps():
    problem, test = deletion(), others()
    objective, w = problem.objective, problem.w_star
    pieces, longest = torch.arange(12).tensor_split(3), 0.0
    for number in range(3):
        later = torch.cat([torch.arange(0), *pieces[number + 1 :]])
        kept = problem.retain.joined(problem.forget.subset(later))
        x = torch.linalg.solve(
            Hessian(objective, w, kept).dense() + 2.0 * identity(problem), objective.gradient(w, kept)
        )
        w, longest = w - x, max(longest, x.norm().item())
    found = by_metric(draws.requests_without_noise(problem, test, 2.0, 0.1, DELTA, 3, 0))
    norms = {keys["method"]: value for metric, value, keys in found if metric == "sequential_norm"}
    assert norms[draws.NEVER_NOISED] == pytest.approx((w - problem.w_star).norm().item(), rel=1e-3)
    assert norms["noise σ = 0.1 each time"] > 0.05 * np.sqrt(len(w))
    accuracies = [value for metric, value, keys in found if metric == "sequential_accuracy" and "13" in keys["method"]]
    assert accuracies == [accuracy(objective, w, samples) for samples in (problem.forget, problem.retain, test)]
    numbers = {metric: value for metric, value, _ in found}
    loose = np.sqrt(3) * (2 * problem.radius + longest)
    assert numbers["sequential_epsilon_unprojected"] == pytest.approx(gaussian_epsilon(0.1, DELTA, loose), rel=1e-3)
    together = next(value for metric, value, _ in found if metric == "sequential_epsilon")
    assert together == pytest.approx(gaussian_epsilon(0.1, DELTA, np.sqrt(3) * 2 * problem.radius))
    assert found[-1][:2] == ("sequential_epsilon", None)


def test_a_request_without_a_step_ends_the_sequence_where_it_stands():
    problem = deletion()
    found = by_metric(draws.requests_without_noise(problem, others(), 1e-9, 0.1, DELTA, 3, 0))
    assert found[0][:2] == ("sequential_norm", None)
    norms = [value for metric, value, keys in found[1:] if metric == "sequential_norm" and "13" in keys["method"]]
    assert norms == [0.0]


# --- networks with BatchNorm ---------------------------------------------------------------------------------------


def test_the_same_release_is_asked_in_both_modes():
    problem, test = deletion(name="allcnn", count=30, gone=8), others("allcnn")
    found = by_metric(batchnorm.training_mode_readings(problem, test, 50.0, 0.01, 2, 4, 0))
    gradient = problem.objective.gradient(problem.w_star, problem.retain)
    step = solvers.minimal_residual(Hessian(problem.objective, problem.w_star, problem.retain) + 50.0, gradient, 10)
    noise = torch.randn(len(gradient), generator=generator(0, "noise")).to(gradient)
    released = project(problem.w_star - step.x, problem.radius) + 0.01 * noise
    asked = {
        batchnorm.EVALUATED: problem.objective.outputs(released, test),
        batchnorm.UNEVALUATED: batchnorm.training_mode(problem.objective, released, test, 4).outputs,
    }
    for name, outputs in asked.items():
        right = (outputs.argmax(dim=1) == test.targets).double().mean().item()
        own = [
            value
            for metric, value, keys in found
            if metric == "network_accuracy" and (keys["method"], keys["split"]) == (name, "test")
        ]
        assert own == [right]
    shifts = [value for metric, value, _ in found if metric == "statistics_shift"]
    assert shifts[0] == 0 < shifts[1]
    assert shifts[1] == batchnorm.training_mode(problem.objective, released, problem.retain, 4).shift


# --- the authors' functions ----------------------------------------------------------------------------------------


def test_without_a_clone_the_comparison_says_so():
    found = by_metric(clone.comparison("", deletion(), 0.05, CODE.lissa, 0))
    assert [(metric, value, keys["method"]) for metric, value, keys in found] == [
        ("check_step", None, "float32"), ("check_step", None, "float64"),
    ]  # fmt: skip
    assert all(keys["note"].startswith("not run") for *_, keys in found)
    with pytest.raises(CduError, match=r"nowhere holds no unlearn\.py"):
        next(clone.comparison("nowhere", deletion(), 0.05, CODE.lissa, 0))


def test_a_clone_that_does_what_the_departures_say_is_reproduced(tmp_path, monkeypatch):
    (tmp_path / "unlearn.py").write_text(STAND_IN)
    monkeypatch.delitem(sys.modules, "unlearn", raising=False)
    single, double = (dict(numbers) for numbers, _ in clone.comparison(str(tmp_path), deletion(), 0.05, CODE.lissa, 0))
    assert max(double["check_gradient"], double["check_step"]) < 1e-12
    assert max(single["check_gradient"], single["check_step"]) < 1e-4
    assert single["check_norm"] != double["check_norm"]
    assert single["check_norm"] == pytest.approx(double["check_norm"], rel=1e-4)
    sys.modules.pop("unlearn", None)


# --- models trained as the code trains them ------------------------------------------------------------------------


def test_models_with_a_departure_of_training_delete_the_same_samples(tmp_path):
    experiment = load_experiment(str(repository() / "tests" / "canaries" / "mlp.yaml"))
    setup = Setup(experiment, "digits", 0, tmp_path, torch.device("cpu"))
    code = setup.settings.official
    models = official_models(setup, code, 1)
    assert list(models.problems) == ["7: a fifth held out", "9: recipe", "7, 9: lowest validation loss"]
    radii = [problem.radius for problem in models.problems.values()]
    assert radii == [setup.settings.training.radius, code.radius, code.radius]
    assert all(torch.equal(problem.forget.inputs, setup.forget.inputs) for problem in models.problems.values())
    assert not torch.equal(models.problems["9: recipe"].w_star, models.chosen.w_star)
    assert models.chosen is models.problems["7, 9: lowest validation loss"]
    assert 1 <= models.chosen_epoch <= code.epochs
    assert models.never_trained == pytest.approx(0.2, abs=0.1)
    assert (models.share_never_trained("7: x"), models.share_never_trained("9: x")) == (models.never_trained, 0.0)
    narrow = batchnorm_problem(setup, code)
    assert len(narrow.everything) == code.network_samples
    assert len(narrow.forget) == code.network_samples // 10
    assert any("running" in name for name, _ in narrow.objective.model.named_buffers())


def test_a_batch_that_is_not_full_counts():
    problem = deletion(gone=7)
    assert steps_of(problem).batches == 6
    assert steps_of(replace(problem, training=TrainingSettings(batch_size=41))).batches == 1
