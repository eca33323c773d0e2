import copy

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial import cKDTree
from torch.nn.functional import cross_entropy

from cdu.curvature.hessian import Hessian
from cdu.curvature.solution import SolverError
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models.objective import Objective
from cdu.seeding import generator
from cdu.unlearning.methods import fisher, influence, l_codec
from cdu.unlearning.methods.dampening import SelectiveSynapticDampening
from cdu.unlearning.methods.fisher import FisherForgetting, fisher_diagonal
from cdu.unlearning.methods.influence import InfluenceUnlearning, solve_empirical_fisher
from cdu.unlearning.methods.l_codec import LCodec, conditional_dependence, forward_selection, perturbed_activations
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.problem import Problem
from conftest import NARROWEST, NETWORKS, counted, network

METHODS = [
    FisherForgetting(1e-6, samples=9),
    SelectiveSynapticDampening(1.0, 0.5, samples=9),
    InfluenceUnlearning(0.1, gradients=9),
    LCodec(20.0, perturbations=12, noise=0.5, units=2),
]


def problem_of(objective, w, samples, gone=8):
    retain, forget = samples.subset(torch.arange(gone, len(samples))), samples.subset(torch.arange(gone))
    return Problem(objective, w, retain, forget, 1e6, None, 0)


def problem(name, seed=0, count=30, l2=0.01, width=None):
    return problem_of(*network(name, seed, count, l2, width=width))


def in_single_precision(double):
    objective = Objective(copy.deepcopy(double.objective.model).float(), l2=double.objective.l2)
    retain, forget = (samples.to(dtype=torch.float32) for samples in (double.retain, double.forget))
    return Problem(objective, double.w_star.float(), retain, forget, 1e6, None, 0)


def gradients_one_by_one(objective, w, samples, target=None):
    """Plain autograd, sample by sample."""
    rows = []
    for inputs, targets in samples.batches(1):
        point = w.clone().requires_grad_()
        label = targets if target is None else torch.full_like(targets, target)
        rows.append(torch.autograd.grad(cross_entropy(objective.forward(point, inputs), label), point)[0])
    return torch.stack(rows)


# The Fisher diagonal


@pytest.mark.parametrize("seed", range(3))
def test_the_fisher_diagonal_of_logistic_regression_has_its_closed_form(seed):
    objective, w, samples = network("logistic", seed)
    x = samples.batch(slice(None))[0].flatten(1)
    p = objective.outputs(w, samples).softmax(1)
    weights = (p * (1 - p)).T @ x.square() / len(samples)
    expected = torch.cat([weights.flatten(), (p * (1 - p)).mean(0)])
    assert torch.allclose(fisher_diagonal(objective, w, samples, "model"), expected, atol=1e-14)
    residual = p - torch.eye(3)[samples.targets]
    empirical = torch.cat([(residual.square().T @ x.square()).flatten(), residual.square().sum(0)]) / len(samples)
    assert torch.allclose(fisher_diagonal(objective, w, samples, "data"), empirical, atol=1e-14)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(2))
def test_the_fisher_diagonal_is_that_of_gradients_taken_one_by_one(name, seed):
    objective, w, samples = network(name, seed)
    given = gradients_one_by_one(objective, w, samples).square().mean(0)
    probabilities = objective.outputs(w, samples).softmax(1)
    exact = sum(
        probabilities[:, label] @ gradients_one_by_one(objective, w, samples, label).square() / len(samples)
        for label in range(3)
    )
    objective.model.train()
    buffers = copy.deepcopy(dict(objective.model.named_buffers()))
    for labels, expected in (("data", given), ("model", exact)):
        found = fisher_diagonal(objective, w, samples, labels)
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-15 * expected.max().item())
    assert objective.model.training
    assert all(torch.equal(buffer, buffers[key]) for key, buffer in objective.model.named_buffers())


@pytest.mark.parametrize("seed", range(3))
def test_the_fisher_diagonal_of_logistic_regression_is_the_hessians(seed):
    objective, w, samples = network("logistic", seed, l2=0.0)
    hessian = Hessian(objective, w, samples).dense()
    assert torch.allclose(fisher_diagonal(objective, w, samples, "model"), hessian.diagonal(), atol=1e-13)


@pytest.mark.parametrize("name", ["mlp", "smooth mlp", "allcnn", "resnet18"])
def test_curvlinops_has_the_same_fisher_diagonals(name):
    curvlinops = pytest.importorskip("curvlinops")
    objective, w, samples = network(name, width=NARROWEST.get(name))
    model = copy.deepcopy(objective.model)
    data, parameters = list(samples.batches(5)), list(model.parameters())
    for labels, kind in (("model", curvlinops.GGNLinearOperator), ("data", curvlinops.EFLinearOperator)):
        operator = kind(model, torch.nn.CrossEntropyLoss(), parameters, data, check_deterministic=False, num_data=13)
        dense = operator @ torch.eye(len(w), dtype=w.dtype)
        assert torch.allclose(fisher_diagonal(objective, w, samples, labels), dense.diagonal(), atol=1e-12)


@pytest.mark.parametrize("labels", ["model", "data"])
def test_the_fisher_diagonal_is_computed_in_chunks_that_fit_into_memory(labels, monkeypatch):
    objective, w, samples = network("mlp", chunk=100)
    whole = fisher_diagonal(objective, w, samples, labels)
    sizes, original = [], fisher.per_sample_gradients

    def noted(*arguments):
        rows = original(*arguments)
        sizes.append(rows.numel() * rows.element_size())
        return rows

    monkeypatch.setattr(fisher, "per_sample_gradients", noted)
    for limit in (1, 8 * len(w) * 3 + 1):
        objective.chunk_bytes = limit
        assert torch.allclose(fisher_diagonal(objective, w, samples, labels), whole, atol=1e-14)
        assert max(sizes) == max(limit // (8 * len(w)), 1) * 8 * len(w)
        sizes.clear()


# Fisher forgetting


def test_the_noise_of_fisher_forgetting_has_the_documented_variance_in_every_coordinate():
    here, noise, draws = problem("logistic"), 1e-3, 200
    here.objective.chunk = 100
    here.retain.inputs[:, 0, 0, 0] = 127
    here.objective.l2 = 1e-4
    diagonal = fisher_diagonal(here.objective, here.w_star, here.retain, "model") + 1e-4
    # F^(-1/4) makes the variance a square root; one in F itself would be off by orders of magnitude here.
    deviation = (noise / diagonal) ** 0.25
    assert deviation.max() > 2 * deviation.min()
    method = FisherForgetting(noise)
    z = torch.stack([(method(here, generator(n)).w - here.w_star) / deviation for n in range(draws)])
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    pvalues = stats.chi2.cdf(z.square().sum(0).numpy(), draws)
    assert pvalues.min() > 1e-5
    assert pvalues.max() < 1 - 1e-5
    correlation = np.corrcoef(z.numpy().T) - np.eye(z.shape[1])
    assert abs(correlation).max() < 6 / np.sqrt(draws)


def test_a_weight_without_information_gets_the_floors_noise():
    here = problem("logistic", l2=0.0)
    here.retain.inputs[:, 0, 0, 0] = 0
    flat = Samples(here.retain.inputs.double(), here.retain.targets, dtype=torch.float64)
    here = Problem(here.objective, here.w_star, flat, here.forget, 1e6, None, 0)
    z = (FisherForgetting(1e-9)(here, generator(0)).w - here.w_star) / (1e-9 / 1e-8) ** 0.25
    drawing = generator(0)
    torch.randperm(len(flat), generator=drawing)
    expected = torch.randn(len(z), generator=drawing, dtype=torch.float64)
    dead = [0, 16, 32]
    assert torch.allclose(z[dead], expected[dead])
    assert torch.isfinite(z).all()


def test_fisher_forgetting_without_noise_changes_nothing_and_has_no_certificate():
    here = problem("mlp")
    update = FisherForgetting(0.0)(here, generator(0))
    assert torch.equal(update.w, here.w_star)
    assert update.no_certificate_reason.startswith("not a certified method")
    assert update.gradient_samples == 22 * 3
    assert FisherForgetting(0.0, samples=5)(here, generator(0)).gradient_samples == 5 * 3


def test_fisher_forgetting_looks_at_a_random_subset_of_retained_samples_alone(monkeypatch):
    here = problem("mlp")
    seen = []

    def noted(objective, w, samples, labels):
        seen.append(samples)
        return torch.ones_like(w)

    monkeypatch.setattr(fisher, "fisher_diagonal", noted)
    for seed in range(20):
        FisherForgetting(1e-3, samples=5)(here, generator(seed))
    shown = torch.cat([samples.inputs for samples in seen]).flatten(1)
    retained = here.retain.inputs.flatten(1)
    hits = (shown.unsqueeze(1) == retained.unsqueeze(0)).all(2)
    assert hits.any(1).all()
    assert hits.any(0).all()


# Selective synaptic dampening


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["logistic", "allcnn"])
def test_dampening_follows_its_formula_weight_by_weight(name, seed):
    here = problem(name, seed)
    on_all = gradients_one_by_one(here.objective, here.w_star, here.everything).square().mean(0)
    on_forget = gradients_one_by_one(here.objective, here.w_star, here.forget).square().mean(0)
    update = SelectiveSynapticDampening(1.2, 0.7)(here, generator(0))
    expected = here.w_star.clone()
    for i, (d, u) in enumerate(zip(on_all.tolist(), on_forget.tolist(), strict=True)):
        if u > 1.2 * d:
            expected[i] *= min(0.7 * d / u, 1)
    assert 0 < (expected != here.w_star).sum() < len(expected)
    assert torch.allclose(update.w, expected, atol=1e-12)
    assert torch.equal(update.w == here.w_star, expected == here.w_star)
    assert update.gradient_samples == 30 + 8


@pytest.mark.parametrize("selection", [0.0, 1e30, float("inf")])
@pytest.mark.parametrize("dampening", [0.5, 1e30])
def test_dampening_has_the_original_as_its_limit(selection, dampening):
    for name in ("mlp", "resnet18"):
        here = problem(name)
        update = SelectiveSynapticDampening(selection, dampening)(here, generator(0))
        assert torch.equal(update.w, here.w_star) == (selection > 1 or dampening > 1)


@pytest.mark.parametrize("seed", range(3))
def test_dampening_never_lets_a_weight_grow_or_change_its_sign(seed):
    here = problem("allcnn", seed)
    w = SelectiveSynapticDampening(0.0, 0.9, samples=12)(here, generator(seed)).w
    assert (w * here.w_star >= 0).all()
    assert (w.abs() <= here.w_star.abs()).all()
    harsher = SelectiveSynapticDampening(0.0, 0.3, samples=12)(here, generator(seed)).w
    assert (harsher.abs() <= w.abs()).all()


def test_nothing_is_dampened_where_the_forget_set_is_like_all_others():
    objective, w, samples = network("mlp", count=10)
    here = Problem(objective, w, samples, samples, 1e6, None, 0)
    assert torch.equal(SelectiveSynapticDampening(1.0 + 1e-9, 0.0)(here, generator(0)).w, w)


# Influence


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("damping", [1e-4, 0.1, 30.0])
@pytest.mark.parametrize(("count", "size"), [(5, 40), (40, 40), (90, 20)])
def test_woodbury_is_the_dense_solution(seed, damping, count, size):
    rng = torch.Generator().manual_seed(seed)
    gradients = torch.randn(count, size, generator=rng, dtype=torch.float64)
    vector = torch.randn(size, generator=rng, dtype=torch.float64)
    dense = gradients.T @ gradients / count + damping * torch.eye(size, dtype=torch.float64)
    expected = torch.linalg.solve(dense, vector)
    for limit in (2**28, 1, 7 * 8 * count):
        found = solve_empirical_fisher(gradients, vector, damping, limit)
        assert (found - expected).norm() <= 1e-9 * expected.norm()
    single = solve_empirical_fisher(gradients.float(), vector.float(), damping)
    assert single.dtype == torch.float32
    wide = gradients.float().double()
    dense = wide.T @ wide / count + damping * torch.eye(size, dtype=torch.float64)
    assert torch.allclose(single.double(), torch.linalg.solve(dense, vector.float().double()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["logistic", "mlp", "allcnn", "resnet18"])
def test_the_influence_step_is_the_dense_solution(name):
    here = problem(name, width=NARROWEST.get(name))
    objective, w = here.objective, here.w_star
    rows = gradients_one_by_one(objective, w, here.retain)
    dense = rows.T @ rows / len(rows) + 0.3 * torch.eye(len(w), dtype=w.dtype)
    right = gradients_one_by_one(objective, w, here.forget).mean(0) + objective.l2 * w
    objective.model.train()
    update = InfluenceUnlearning(0.3, gradients=100)(here, generator(0))
    assert torch.allclose(update.w - w, 8 / 22 * torch.linalg.solve(dense, right), atol=1e-10)
    assert update.residual < 1e-10
    assert update.gradient_samples == 22 + 8
    assert InfluenceUnlearning(0.3, gradients=6)(here, generator(0)).gradient_samples == 6 + 8


def test_the_influence_residual_is_that_of_the_dense_system_in_single_precision():
    here = in_single_precision(problem("mlp"))
    update = InfluenceUnlearning(1e-3, gradients=100)(here, generator(0))
    assert update.w.dtype == torch.float32
    assert 0 < update.residual < 1e-3


def test_influence_refuses_a_matrix_that_is_too_large(monkeypatch):
    here = problem("mlp")
    monkeypatch.setattr(influence, "MATRIX_BYTES", 5 * 8 * len(here.w_star))
    InfluenceUnlearning(0.3, gradients=5)(here, generator(0))
    with pytest.raises(CduError, match="lower gradients to 5 at most"):
        InfluenceUnlearning(0.3, gradients=6)(here, generator(0))


@pytest.mark.parametrize("seed", range(2))
def test_influence_moves_logistic_regression_towards_retraining(seed):
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2000, 1, 2, 3, generator=rng, dtype=torch.float64)
    truth = torch.randn(6, 3, generator=rng, dtype=torch.float64)
    targets = torch.multinomial((inputs.flatten(1) @ truth).softmax(1), 1, generator=rng).squeeze(1)
    samples = Samples(inputs, targets, dtype=torch.float64)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 3)).double()
    objective = Objective(model, l2=1e-3)

    def minimise(subset):
        w = torch.zeros(21, dtype=torch.float64)
        for _ in range(8):
            w = NewtonStep(1e-12, "exact")(Problem(objective, w, subset, subset, 1e6, None, 0), generator(0)).w
        assert objective.gradient(w, subset).norm() < 1e-10
        return w

    here = problem_of(objective, minimise(samples), samples, gone=100)
    retrained = minimise(here.retain)
    # F lacks the l2 weight; beyond it, it differs from the Hessian the less, the more samples there are.
    found = InfluenceUnlearning(1e-3, gradients=1900)(here, generator(0)).w
    assert (found - retrained).norm() < 0.4 * (here.w_star - retrained).norm()


# L-CODEC


def by_hand(response, added, given=None):
    """The coefficient by SciPy's ranks and nearest neighbours, without ties."""
    count, y = len(response), response.numpy()
    ranks = stats.rankdata(y, "max")

    def at_neighbours(points):
        return np.minimum(ranks, ranks[cKDTree(points).query(points, k=2)[1][:, 1]])

    if given is None:
        reverse = stats.rankdata(-y, "max")
        return (count * at_neighbours(added.numpy()) - reverse**2).sum() / (reverse * (count - reverse)).sum()
    before = at_neighbours(given.numpy())
    return (at_neighbours(torch.cat([given, added], 1).numpy()) - before).sum() / (ranks - before).sum()


@pytest.mark.parametrize("seed", range(4))
def test_conditional_dependence_is_what_scipy_gives(seed):
    rng = torch.Generator().manual_seed(seed)
    x, z = torch.randn(2, 60, 2, generator=rng, dtype=torch.float64)
    for response in (x[:, 0] + z[:, 0] * x[:, 1], (3 * x[:, 0]).round(), torch.randn(60, generator=rng).double()):
        assert float(conditional_dependence(response, z)) == pytest.approx(by_hand(response, z))
        assert float(conditional_dependence(response, z[:, 0])) == pytest.approx(by_hand(response, z[:, :1]))
        assert float(conditional_dependence(response, z, x)) == pytest.approx(by_hand(response, z, x))


@pytest.mark.parametrize("seed", range(3))
def test_conditional_dependence_tells_functions_from_independence(seed):
    rng = torch.Generator().manual_seed(seed)
    x, z, noise = torch.rand(3, 800, generator=rng, dtype=torch.float64)
    assert conditional_dependence((9 * x).sin(), x) > 0.95
    assert abs(conditional_dependence(noise, x)) < 0.12
    assert abs(conditional_dependence(noise, z, x.unsqueeze(1))) < 0.15
    # Neither alone tells anything about the sum on a circle, both together all.
    circle = (x + z) % 1
    assert abs(conditional_dependence(circle, z)) < 0.12
    assert conditional_dependence(circle, z, x.unsqueeze(1)) > 0.8
    # A function of X alone, and a noisy copy of X that adds nothing to it.
    copied = x + 0.1 * z
    assert conditional_dependence(x + 0.1 * noise, copied) > 0.4
    assert abs(conditional_dependence(x + 0.1 * noise, copied, x.unsqueeze(1))) < 0.15
    assert conditional_dependence((9 * x).sin(), z, x.unsqueeze(1)) < 0


@pytest.mark.parametrize("given", [False, True])
def test_conditional_dependence_knows_the_response_by_its_order_alone(given):
    x, z, y = torch.randn(3, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    response, known = y + z, x.unsqueeze(1) if given else None
    value = conditional_dependence(response, z, known)
    for transformed in (response.exp(), 5 + 3 * response, response**3):
        assert conditional_dependence(transformed, z, known) == value
    assert conditional_dependence(response, 7 * z, None if known is None else 7 * known) == pytest.approx(float(value))


@pytest.mark.parametrize("seed", range(3))
def test_ties_among_neighbours_count_as_the_mean_of_a_random_choice(seed):
    rng = np.random.default_rng(seed)
    y, z = rng.normal(size=14), rng.integers(0, 3, 14).astype(float)
    ranks, reverse = stats.rankdata(y, "max"), stats.rankdata(-y, "max")
    distance = abs(z[:, None] - z[None]) + np.diag(np.full(14, np.inf))
    tied = distance == distance.min(1, keepdims=True)
    assert tied.sum(1).max() > 1
    drawn = []
    for _ in range(1000):
        neighbour = [rng.choice(np.flatnonzero(row)) for row in tied]
        explained = 14 * np.minimum(ranks, ranks[neighbour]) - reverse**2
        drawn.append(explained.sum() / (reverse * (14 - reverse)).sum())
    error = np.std(drawn) / np.sqrt(len(drawn))
    value = conditional_dependence(torch.from_numpy(y), torch.from_numpy(z))
    assert abs(value - np.mean(drawn)) < 4 * error


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9])
def test_what_never_changes_explains_nothing_and_cannot_be_explained(constant):
    y = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    still = torch.full((40,), constant, dtype=torch.float64)
    # Over all pairs, Σ n·min(Rᵢ, Rⱼ) falls short of Σ Lᵢ² by just this much.
    assert float(conditional_dependence(y, still)) == pytest.approx(-1 / 39)
    assert conditional_dependence(y, still, y.unsqueeze(1)) == 0
    assert conditional_dependence(still, y) == 0
    assert conditional_dependence(still, y, y.unsqueeze(1)) == 0
    assert forward_selection(y, torch.stack([still, still], 1), 2) == []
    assert forward_selection(still, torch.stack([y, -y], 1), 2) == []


@pytest.mark.parametrize("seed", range(5))
def test_forward_selection_finds_the_informative_columns_first(seed):
    columns = torch.randn(200, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert forward_selection(columns[:, 3] ** 2, columns, 5)[0] == 3
    assert forward_selection(columns[:, 3].exp(), columns, 5) == [3]
    both = columns[:, 2] + columns[:, 5]
    chosen = forward_selection(both, columns, 8)
    assert set(chosen[:2]) == {2, 5}
    assert forward_selection(both, columns, 1) == chosen[:1]
    scales = torch.tensor([1, 1, 1e-6, 1, 1, 1e6, 1e3, 1], dtype=torch.float64)
    assert forward_selection(both, columns * scales - 3, 8) == chosen
    assert forward_selection(both, columns, 8, chunk_bytes=1) == chosen


@pytest.mark.parametrize("seed", range(3))
def test_forward_selection_is_greedy(seed):
    columns = torch.randn(30, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    columns /= columns.std(0)
    response = columns[:, 0] * columns[:, 1] + columns[:, 4]
    expected = []
    while True:
        given = columns[:, expected] if expected else None
        left = [index for index in range(6) if index not in expected]
        scores = {index: float(conditional_dependence(response, columns[:, index], given)) for index in left}
        if not left or max(scores.values()) <= 0:
            break
        expected.append(max(scores, key=scores.get))
    assert expected
    assert forward_selection(response, columns, 6) == expected


@pytest.mark.parametrize(("name", "layer"), [("mlp", "1"), ("allcnn", "0"), ("resnet18", "0")])
def test_activations_are_means_over_samples_and_space_of_perturbed_inputs(name, layer):
    objective, w, samples = network(name)
    objective.model.train()
    before = copy.deepcopy(objective.model.state_dict())
    found, activations, losses = perturbed_activations(objective, w, samples, 3, 0.25, generator(5))
    assert objective.model.training
    assert all(torch.equal(value, before[key]) for key, value in objective.model.state_dict().items())
    assert not any(module._forward_hooks for module in objective.model.modules())
    counts = [
        len(module.weight)
        for module in objective.model.modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    ]
    assert len(found) == sum(counts) == activations.shape[1]
    assert found[0] == (layer, 0)
    rng = generator(5)
    first = dict(objective.model.named_modules())[layer]
    objective.model.eval()
    for row in range(3):
        clean, targets = samples.batch(slice(None))
        inputs = clean + 0.25 * torch.randn(clean.shape, generator=rng, dtype=torch.float64)
        outputs = first(inputs.flatten(1) if name == "mlp" else inputs).detach()
        means = outputs.mean(0) if name == "mlp" else outputs.mean((0, 2, 3))
        assert torch.allclose(activations[row, : len(means)], means)
        logits = objective.forward(w, inputs).detach()
        assert torch.allclose(activations[row, -3:], logits.mean(0))
        assert float(losses[row]) == pytest.approx(float(cross_entropy(logits, targets)))


def weights_of(objective, units):
    """Which weights belong to some units, found without the method's own code."""
    marked = []
    for name, parameter in objective.model.named_parameters():
        layer, index = name.rpartition(".")[0], torch.zeros_like(parameter, dtype=torch.bool)
        for owner, unit in units:
            if layer == owner:
                index[unit] = True
        marked.append(index.flatten())
    return torch.cat(marked)


@pytest.mark.parametrize("name", ["logistic", "mlp", "smooth mlp"])
@pytest.mark.parametrize("seed", range(2))
def test_with_all_units_it_is_the_newton_step_on_the_forget_gradient(name, seed, monkeypatch):
    here = problem(name, seed)
    monkeypatch.setattr(l_codec, "forward_selection", lambda response, columns, most: list(range(columns.shape[1])))
    update = LCodec(3.0, 4, 0.5, 99)(here, generator(0))
    newton = NewtonStep(3.0, "conjugate_gradient", "forget")(here, generator(0))
    exact = NewtonStep(3.0, "exact", "forget")(here, generator(0))
    assert torch.allclose(update.w, newton.w, atol=1e-12)
    assert (update.w - exact.w).norm() <= 1e-3 * (exact.w - here.w_star).norm()
    assert (update.hvp_samples, update.gradient_samples) == (newton.hvp_samples, newton.gradient_samples)
    assert update.converged
    assert update.residual == pytest.approx(newton.residual)


def test_a_network_that_is_one_layer_has_its_units_too(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    samples = Samples(
        torch.randn(40, 5, generator=rng).double(), torch.randn(40, generator=rng).double(), dtype=torch.float64
    )
    model = torch.nn.Linear(5, 1).double()
    objective = Objective(model, lambda outputs, y: (outputs.squeeze(1) - y).square().mean(), l2=0.1)
    here = problem_of(objective, torch.cat([p.detach().flatten() for p in model.parameters()]), samples)
    monkeypatch.setattr(l_codec, "forward_selection", lambda response, columns, most: [0])
    update = LCodec(0.1, 4, 0.5, 1)(here, generator(0))
    exact = NewtonStep(0.1, "exact", "forget")(here, generator(0))
    assert (update.w - exact.w).norm() <= 1e-3 * (exact.w - here.w_star).norm()
    assert update.note == "1 of 1 units chosen, 6 of 6 weights"


@pytest.mark.parametrize("name", ["mlp", "allcnn"])
@pytest.mark.parametrize("columns", [[0], [9, 2, 5]])
def test_a_mask_solves_the_restricted_system_and_leaves_other_weights_bit_for_bit(name, columns, monkeypatch):
    here = problem(name, width=NARROWEST.get(name), l2=0.1)
    objective, w = here.objective, here.w_star
    units = perturbed_activations(objective, w, here.forget, 2, 0.5, generator(0))[0]
    columns = [column % len(units) for column in columns]
    marked = weights_of(objective, [units[column] for column in columns])
    monkeypatch.setattr(l_codec, "forward_selection", lambda response, activations, most: columns)
    update = LCodec(5.0, 4, 0.5, 3)(here, generator(0))
    assert torch.equal(update.w[~marked], w[~marked])
    assert (update.w[marked] != w[marked]).any()
    block = (Hessian(objective, w, here.retain) + 5.0).dense()[marked][:, marked]
    step = 8 / 22 * torch.linalg.solve(block, objective.gradient(w, here.forget)[marked])
    assert (update.w[marked] - w[marked] - step).norm() <= 1e-3 * step.norm()
    assert update.note == f"{len(columns)} of {len(units)} units chosen, {int(marked.sum())} of {len(w)} weights"


def test_it_chooses_few_units_and_leaves_batchnorm_alone():
    here = problem("allcnn")
    affine = torch.cat(
        [
            torch.full((parameter.numel(),), isinstance(module, torch.nn.BatchNorm2d))
            for module in here.objective.model.modules()
            for parameter in module.parameters(recurse=False)
        ]
    )
    update = LCodec(20.0, 40, 0.5, 3)(here, generator(0))
    assert torch.equal(update.w[affine], here.w_star[affine])
    assert 0 < (update.w != here.w_star).sum() < len(affine) / 2
    assert update.note.startswith(("1 of", "2 of", "3 of"))
    assert update.no_certificate_reason.startswith("not a certified method")


def test_it_changes_nothing_where_no_unit_tells_anything(monkeypatch):
    here = problem("mlp")
    monkeypatch.setattr(l_codec, "forward_selection", lambda response, columns, most: [])
    update = LCodec(3.0, 4, 0.5, 2)(here, generator(0))
    assert torch.equal(update.w, here.w_star)
    assert update.note == "0 of 12 units chosen, 0 of 124 weights"


def test_it_looks_at_256_forget_samples_at_most(monkeypatch):
    objective, w, samples = network("logistic", count=310)
    here = problem_of(objective, w, samples, gone=300)
    calls = counted(monkeypatch, l_codec, "perturbed_activations")
    update = LCodec(3.0, 3, 0.5, 2)(here, generator(0))
    assert len(calls[0][2]) == 256
    assert update.gradient_samples == 300


def test_it_refuses_an_indefinite_restricted_hessian(monkeypatch):
    objective, w, samples = network("mlp", count=40)
    here = problem_of(objective, 3 * w, samples)
    monkeypatch.setattr(l_codec, "forward_selection", lambda response, columns, most: list(range(columns.shape[1])))
    with pytest.raises(SolverError, match="the Newton step is undefined"):
        LCodec(1e-6, 4, 0.5, 2)(here, generator(0))


# All of them


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("name", ["mlp", "allcnn", "resnet18"])
def test_a_method_repeats_itself_and_changes_nothing_it_was_given(method, name):
    here = problem(name)
    model = here.objective.model
    model.train()
    parts = (here.w_star, here.retain.inputs, here.retain.targets, here.forget.inputs, here.forget.targets)
    before = [part.clone() for part in (*parts, *model.state_dict().values())]
    update = method(here, generator(3))
    assert torch.equal(update.w, method(here, generator(3)).w)
    assert any(not torch.equal(update.w, method(here, generator(seed)).w) for seed in range(4, 9))
    after = [*parts, *model.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(module.training for module in model.modules())
    assert torch.isfinite(update.w).all()
    assert update.seconds > 0
    assert update.model is None


@pytest.mark.parametrize("name", ["mlp", "allcnn"])
def test_single_precision_gives_the_same_up_to_rounding(name):
    double = problem(name)
    single = in_single_precision(double)
    for method in METHODS:
        assert method(single, generator(0)).w.dtype == torch.float32
    for method in (SelectiveSynapticDampening(1.0, 0.5), InfluenceUnlearning(0.1, 100)):
        expected, found = (method(which, generator(0)).w for which in (double, single))
        assert torch.allclose(found.double(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "values"),
    [
        (FisherForgetting, {"noise": -1.0}),
        (FisherForgetting, {"noise": float("nan")}),
        (FisherForgetting, {"noise": 1.0, "samples": 0}),
        (SelectiveSynapticDampening, {"selection": -1.0, "dampening": 1.0}),
        (SelectiveSynapticDampening, {"selection": 1.0, "dampening": -1.0}),
        (SelectiveSynapticDampening, {"selection": 1.0, "dampening": float("inf")}),
        (SelectiveSynapticDampening, {"selection": 1.0, "dampening": 1.0, "samples": 0}),
        (InfluenceUnlearning, {"damping": 0.0, "gradients": 5}),
        (InfluenceUnlearning, {"damping": 1.0, "gradients": 0}),
        (LCodec, {"damping": 1.0, "perturbations": 1, "noise": 0.1, "units": 1}),
        (LCodec, {"damping": 1.0, "perturbations": 5, "noise": 0.0, "units": 1}),
        (LCodec, {"damping": 1.0, "perturbations": 5, "noise": 0.1, "units": 0}),
    ],
)
def test_nonsense_is_refused(method, values):
    with pytest.raises(ValueError, match=" = "):
        method(**values)
