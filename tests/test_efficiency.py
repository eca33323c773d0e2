"""What the section on efficiency times: the programs solve the system, and the numbers are what they say."""

import dataclasses

import pytest
import torch

from cdu.curvature.hessian import Hessian
from cdu.curvature.settings import LissaSettings
from cdu.evaluation import efficiency, peers
from cdu.evaluation.efficiency import Point, System
from cdu.evaluation.settings import EfficiencySettings
from cdu.evaluation.timing import Timing
from cdu.models.settings import ModelSettings, TrainingSettings
from cdu.models.training import train
from conftest import network

LISSA = LissaSettings(scale=50.0, depth=4, repeats=2, batch_size=5)
CLOSE = {"rtol": 0, "atol": 1e-9}


def system(name="logistic", seed=0, count=20):
    objective, w, samples = network(name, seed, count, l2=0.1, chunk=count)
    return System(objective, w, samples, objective.gradient(w, samples), seed)


def timing(seconds, result=None):
    return Timing(seconds, seconds / 2, 2 * seconds, result)


@pytest.mark.parametrize("name", ["logistic", "mlp", "smooth mlp"])
def test_every_way_to_a_product_gives_the_product_with_the_dense_hessian(name):
    own = system(name)
    programs = efficiency.product_programs(own)
    matrix = Hessian(own.objective, own.w, own.samples).dense()
    expected = matrix @ own.random_vectors("vector")
    for product in ("product, first", "product, next", "forward over reverse"):
        torch.testing.assert_close(programs[product](), expected, **CLOSE)
    several = own.random_vectors("several", 16)
    torch.testing.assert_close(programs["16 products at once"](), several @ matrix, **CLOSE)
    torch.testing.assert_close(programs["gradient"](), own.right_hand_side)


def test_curvlinops_multiplies_the_same_vector():
    pytest.importorskip("curvlinops")
    own = system("mlp")
    expected = efficiency.product_programs(own)["product, next"]()
    torch.testing.assert_close(efficiency.curvlinops_product(own)(), expected, **CLOSE)


def test_a_products_metrics_are_ratios_to_the_gradient_and_to_the_rate():
    ones = torch.ones(4, dtype=torch.float64)
    timings = {
        "gradient": timing(2.0, ones),
        "product, next": timing(3.0, ones),
        "other": timing(5.0, 1.1 * ones),
        "several": timing(8.0, torch.ones(16, 4, dtype=torch.float64)),
    }
    operations = {"gradient": 10, "other": 40}
    found = {name: efficiency.product_metrics(name, timings, operations, 100.0) for name in timings}
    assert found["gradient"] == {"gradients": 1.0, "rate_share": pytest.approx(0.05)}
    assert found["product, next"] == {"gradients": 1.5, "difference": 0.0}
    expected = {"gradients": 2.5, "rate_share": pytest.approx(0.08), "difference": pytest.approx(0.1)}
    assert found["other"] == expected
    assert found["several"] == {"gradients": 4.0}


def reached(own, settings, exact):
    """How far programs that are told to be exact are from the dense solution, relatively."""
    programs = efficiency.solver_programs(own, 2.0, (0.1, 3.0), settings, LISSA)
    matrix = (Hessian(own.objective, own.w, own.samples) + 2.0).dense()
    expected = torch.linalg.solve(matrix, own.right_hand_side)
    found = {point: programs[point]() for point in exact}
    return {p.method: float((getattr(x, "x", x) - expected).norm() / expected.norm()) for p, x in found.items()}


@pytest.mark.parametrize("seed", range(3))
def test_our_solvers_reach_the_dense_solution(seed):
    settings = EfficiencySettings(peer_dampings=(), tolerances=(1e-1, 1e-9))
    exact = [Point(method, "tolerance", 1e-9) for method in ("conjugate gradient", "preconditioned")]
    assert max(reached(system(seed=seed), settings, exact).values()) < 1e-8


def test_the_peers_solvers_reach_it_too():
    pytest.importorskip("curvlinops")
    settings = EfficiencySettings(peer_dampings=(2.0,), tolerances=(1e-9,), neumann_terms=(30,))
    exact = [Point("curvlinops, conjugate gradient", "tolerance", 1e-9), Point("curvlinops, Neumann", "terms", 30)]
    errors = reached(system(count=8), settings, exact)
    assert errors["curvlinops, conjugate gradient"] < 1e-6
    # What is left of the series after 30 terms, each of which leaves at most 1 − 2/5 of the one before.
    assert errors["curvlinops, Neumann"] < 0.6**30


@pytest.mark.parametrize("seed", range(3))
def test_the_residual_is_that_of_the_dense_system(seed):
    own = system("mlp", seed)
    matrix = (Hessian(own.objective, own.w, own.samples) + 2.0).dense()
    rough = own.random_vectors("rough")
    left = (matrix @ rough - own.right_hand_side).norm() / own.right_hand_side.norm()
    assert own.residual(2.0, rough) == pytest.approx(float(left), rel=1e-9)


def test_peers_take_part_where_the_settings_say_and_terms_end_with_the_smallest_tolerance():
    own = system()
    settings = EfficiencySettings(
        peer_dampings=(1.0,), tolerances=(1e-1, 1e-2), lissa_depths=(3, 7), neumann_terms=(2, 8, 50)
    )
    alone = efficiency.solver_programs(own, 5.0, (0.0, 1.0), settings, LISSA)
    assert list(alone) == [
        Point("conjugate gradient", "tolerance", 1e-1), Point("preconditioned", "tolerance", 1e-1),
        Point("conjugate gradient", "tolerance", 1e-2), Point("preconditioned", "tolerance", 1e-2),
        Point("lissa", "depth", 3), Point("lissa", "depth", 7),
    ]  # fmt: skip
    beside = efficiency.solver_programs(own, 1.0, (0.0, 1.0), settings, LISSA)
    assert {point for point in beside if point.method == "curvlinops, conjugate gradient"} == {
        Point("curvlinops, conjugate gradient", "tolerance", tolerance) for tolerance in (1e-1, 1e-2)
    }
    # Each term halves what is left: after 2 it is 1/4, after 8 it is 1/256, below the smallest tolerance.
    assert [point.point for point in beside if point.axis == "terms"] == [2, 8]


def test_lissas_estimate_is_drawn_for_its_purpose_and_depth():
    own = system()
    settings = EfficiencySettings(lissa_depths=(3, 4))
    programs = efficiency.solver_programs(own, 5.0, (0.0, 1.0), settings, LISSA)
    first, again = (programs[Point("lissa", "depth", 3)]().x for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, programs[Point("lissa", "depth", 4)]().x)
    assert not torch.equal(own.lissa(5.0, LISSA, "one").x, own.lissa(5.0, LISSA, "other").x)


def test_a_part_of_the_system_has_its_first_samples_and_the_whole_right_hand_side():
    own = system()
    part = own.first(7)
    assert torch.equal(part.samples.inputs, own.samples.inputs[:7])
    assert part.right_hand_side is own.right_hand_side
    assert len(own.first(99).samples) == len(own.samples)


def test_scaling_covers_every_axis_once():
    own = system()
    settings = EfficiencySettings(sizes=(5, 10), widths=(2, 3))
    found = efficiency.scaling_programs(own, 5.0, settings, LISSA, classes=3)
    assert [point for point in found if point.axis == "samples"] == [
        Point(method, "samples", size) for size in (5, 10) for method in ("product", "conjugate gradient", "lissa")
    ]
    # Weights and biases of 16 → width → width → 3.
    sizes = [16 * width + width + width**2 + width + 3 * width + 3 for width in (2, 3)]
    assert [point.point for point in found if point.axis == "parameters"] == sizes
    assert [point.point for point in found if point.axis == "LiSSA depth"] == [20, 60, 180]
    deep, repeated = (
        found[point]() for point in (Point("lissa", "LiSSA depth", 20), Point("lissa", "LiSSA repeats", 10))
    )
    assert len(deep.curve) == 20
    # Five samples for every step and repeat.
    assert (deep.hvp_samples, repeated.hvp_samples) == (20 * 2 * 5, 4 * 10 * 5)


@pytest.mark.parametrize("exponent", [-0.5, 1.0, 2.0])
def test_slopes_are_exponents_of_power_laws(exponent):
    timings = {Point("program", "samples", size): timing(3.0 * size**exponent) for size in (10, 40, 90)}
    timings[Point("lonely", "samples", 10)] = timing(1.0)
    assert efficiency.slopes(timings) == {("program", "samples"): pytest.approx(exponent)}


class Told:
    """Stands in for the authors' functions and notes what they are given."""

    def __init__(self):
        self.lissa_calls, self.epochs = [], []

    def lissa(self, objective, w, data, gradient, damping, scale, batch_size, depth, repeats):
        self.lissa_calls.append((data, damping, scale, batch_size, depth, repeats))

    def epoch(self, model, data, learning_rate, weight_decay, radius, batch_size, workers):
        self.epochs.append((data, learning_rate, weight_decay, radius, batch_size))


def test_the_authors_code_gets_the_same_steps_from_every_source():
    own, authors = system(), Told()
    sources = peers.sources(own.samples)
    programs = efficiency.lissa_programs(own, 3.0, 2, 5, 6, authors, sources)
    assert list(programs) == ["cdu", "authors", "authors, data in memory"]
    for program in programs.values():
        program()
    shape = (3.0, efficiency.STEPS_SCALE, 5, 6, 2)
    assert authors.lissa_calls == [(source, *shape) for source in sources.values()]
    assert programs["cdu"]().hvp_samples == 6 * 2 * 5
    assert list(efficiency.lissa_programs(own, 3.0, 2, 5, 6, None, sources)) == ["cdu"]


def test_an_epoch_is_one_of_the_recipe_for_everybody():
    _, _, samples = network("mlp", count=20)
    single = dataclasses.replace(samples, dtype=torch.float32)
    recipe = TrainingSettings(epochs=7, batch_size=5, learning_rate=0.01, weight_decay=0.1, radius=3.0)
    authors, sources = Told(), peers.sources(single)

    def fresh():
        return efficiency.untrained_system(ModelSettings(name="mlp", hidden=(2,)), single, 3, 0).objective.model

    programs = efficiency.epoch_programs(fresh, single, recipe, 0, authors, sources)
    once = train(fresh(), single, recipe.model_copy(update={"epochs": 1}), 0)
    assert torch.equal(programs["cdu"](), once.w)
    for name in sources:
        programs[name]()
    assert authors.epochs == [(source, 0.01, 0.1, 3.0, 5) for source in sources.values()]
    assert list(efficiency.epoch_programs(fresh, single, recipe, 0, None, sources)) == ["cdu"]
