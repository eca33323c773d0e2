"""The same set-up with one quantity changed, and what is logged of it."""

import pytest
import torch

from cdu.curvature.hessian import Hessian
from cdu.evaluation.posterior_attacks import OriginalAndRelease, draw_candidates, membership_attack
from cdu.evaluation.theory_checks import segment_constants
from cdu.experiments.ablations import log_bound_constants, log_deletion, with_recipe, with_width
from cdu.experiments.repository import repository
from cdu.experiments.run import begin
from cdu.models.settings import ModelSettings
from cdu.seeding import generator, seed_for
from cdu.unlearning.methods.newton import NewtonStep

CANARY = str(repository() / "tests" / "canaries" / "mlp.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def opened(folder):
    parameters = {"dataset": "digits", "seed": 0, "experiment": CANARY, "output": "runs", "device": "cpu"}
    run = begin("06_ablations", parameters)
    run.setup.checkpoints = folder
    return run


def test_one_constant_of_the_recipe_is_changed_and_the_rest_stays(folder):
    setup = opened(folder).setup
    other = with_recipe(setup, radius=3.0)
    assert other.settings.training == setup.settings.training.model_copy(update={"radius": 3.0})
    assert other.settings.model == setup.settings.model
    assert other.original.w.norm() <= 3.0 < setup.original.w.norm()


@pytest.mark.parametrize(
    ("model", "width", "wider"),
    [
        (ModelSettings(name="mlp", hidden=(8, 6)), 4.0, ModelSettings(name="mlp", hidden=(4, 4))),
        (ModelSettings(name="allcnn", width=0.1), 0.5, ModelSettings(name="allcnn", width=0.5)),
    ],
)
def test_width_is_that_of_hidden_layers_or_a_factor_of_filters(folder, model, width, wider):
    setup = opened(folder).setup.with_model(model)
    assert with_width(setup, width).settings.model == wider


def test_a_deletion_is_logged_for_the_step_and_its_yardsticks(folder):
    run = opened(folder)
    setup = with_recipe(run.setup, weight_decay=0.0)
    log_deletion(run, setup, 5.0, "weight decay", 0.0)
    assert all((one.axis, one.point) == ("weight decay", 0.0) for one in run.metrics)
    assert run.values("distance_to_retrained", method="retrain") == [0.0]
    length = torch.dist(setup.original.w, setup.retrained.w).item()
    assert run.values("distance_to_retrained", method="original") == [pytest.approx(length)]
    problem = setup.problem()
    step = NewtonStep(5.0)(problem, generator(0, "newton")).w
    moved = torch.dist(step, setup.retrained.w).item()
    assert run.values("distance_to_retrained", method="newton") == [pytest.approx(moved)]
    candidates = draw_candidates(setup.forget, setup.test, seed_for(0, "attack samples"))
    seen = [candidates.posteriors(problem.objective, w) for w in (problem.w_star, step)]
    attack = membership_attack(OriginalAndRelease(*seen, candidates.members), 2, 0, strata=candidates.classes)
    assert run.values("auc", method="newton") == [pytest.approx(attack.auc)]
    assert len(run.values("accuracy", method="newton")) == 3
    assert run.values("norm") == [pytest.approx(setup.original.w.norm().item())]
    assert run.values("trivial_bound") == [16.0]


def test_a_step_that_is_undefined_leaves_its_reason_and_the_yardsticks(folder):
    run = opened(folder)
    log_deletion(run, run.setup, 1e-9, "damping", 1e-9)
    (missing,) = [one for one in run.metrics if one.method == "newton"]
    assert (missing.metric, missing.value) == ("distance_to_retrained", None)
    assert "the Newton step is undefined" in missing.note
    assert run.values("auc", method="retrain") != []


@pytest.mark.slow  # builds the dense Hessian of 700 weights
def test_the_constants_of_the_bound_are_those_of_the_dense_hessian(folder):
    run = opened(folder)
    setup = run.setup
    log_bound_constants(run)
    dense = Hessian(setup.objective(setup.original), setup.original.w, setup.retain).dense()
    values = torch.linalg.eigvalsh(dense.double())
    assert run.values("lambda_min") == [pytest.approx(values[0].item(), rel=1e-2, abs=1e-3)]
    assert run.values("lambda_max") == [pytest.approx(values[-1].item(), rel=1e-3)]
    objective, retrained = setup.objective(setup.retrained), setup.retrained.w
    slope = objective.gradient(retrained, setup.retain).norm().item()
    assert run.values("gradient_retrained") == [pytest.approx(slope)]
    ends = (setup.original.w, retrained)
    segment = segment_constants(setup.objective(setup.original), *ends, setup.retain, generator(0, "segment"))
    assert run.values("hessian_lipschitz") == [segment.hessian_lipschitz]
    # M is a lower bound, and what one Hessian differs from the other by is at most M times the distance.
    other = Hessian(objective, retrained, setup.retain).dense()
    overall = torch.linalg.matrix_norm((other - dense).double(), 2) / torch.dist(retrained, setup.original.w)
    assert run.values("hessian_lipschitz")[0] >= 0.95 * overall.item()
