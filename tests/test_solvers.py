import json
import re
from functools import cache
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from cdu.curvature import exact as exact_solver
from cdu.curvature.conjugate_gradient import (
    conjugate_gradient,
    low_rank_preconditioner,
    preconditioned_conjugate_gradient,
)
from cdu.curvature.exact import exact
from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import extreme_eigenvalues, spectral_norm
from cdu.curvature.lissa import SCALE_BATCHES, SCALE_STEPS, _products_on, batch_scale, lissa
from cdu.curvature.solution import SolverError
from cdu.errors import CduError
from cdu.models.objective import Linearised
from cdu.seeding import generator
from conftest import NARROWEST, NETWORKS, counted, network


def convex(seed=0, damping=0.3):
    """Logistic regression: its Hessian is positive semidefinite."""
    objective, w, samples = network("logistic", seed, count=40)
    return Hessian(objective, w, samples) + damping, objective.gradient(w, samples)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["logistic", "mlp", "smooth mlp", pytest.param("allcnn", marks=pytest.mark.slow)])
def test_dense_and_products_agree_and_are_symmetric(name, seed):
    objective, w, samples = network(name, seed)
    operator = Hessian(objective, w, samples) + 0.5
    dense = operator.dense()
    vector = torch.randn(len(w), dtype=w.dtype, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(dense @ vector, operator @ vector, atol=1e-10)
    assert torch.equal(dense, dense.T)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exact_and_conjugate_gradient_solve_the_dense_system(seed):
    operator, vector = convex(seed)
    expected = torch.linalg.solve(operator.dense(), vector)
    for solution in (exact(operator, vector), conjugate_gradient(operator, vector, 1e-12)):
        assert torch.allclose(solution.x, expected, rtol=1e-8, atol=1e-12)
        assert solution.residual < 1e-10
        assert solution.converged


def test_conjugate_gradient_refuses_products_that_are_not_finite():
    class Broken:
        samples, damping = range(3), 0.0

        def __matmul__(self, vector):
            return vector * float("nan")

    with pytest.raises(SolverError, match="product that is not finite at step 1"):
        conjugate_gradient(Broken(), torch.ones(4))


def test_eigenvalues_of_the_zero_operator_and_of_tiny_ones():
    like, start = torch.zeros(5, dtype=torch.float64), torch.Generator().manual_seed(0)
    assert spectral_norm(torch.zeros_like, like, start) == 0.0
    assert [found.value for found in extreme_eigenvalues(torch.zeros_like, like, start)] == [0.0, 0.0]
    with pytest.raises(CduError, match="at least 4 rows; this one has 2"):
        extreme_eigenvalues(lambda vector: vector, like[:2], start)


def test_conjugate_gradient_says_when_it_did_not_converge():
    operator, vector = convex(damping=1e-4)
    solution = conjugate_gradient(operator, vector, 1e-14, max_steps=2)
    assert not solution.converged
    assert solution.residual > 1e-14
    assert len(solution.curve) == 2


def test_lissas_mean_is_the_truncated_neumann_series():
    """With fresh batches drawn independently, E[X_s] is the same recursion with the mean matrix, at every depth."""
    operator, vector = convex(damping=0.5)
    dense = operator.dense()
    scale = 3 * torch.linalg.eigvalsh(dense)[-1].item()
    identity = torch.eye(len(vector), dtype=vector.dtype)
    x = vector
    for depth in range(1, 7):
        x = vector + (identity - dense / scale) @ x
        if depth in (1, 3, 6):
            solution = lissa(operator, vector, scale, depth, 20_000, 4, generator(0, depth))
            assert (solution.x - x / scale).norm() < 0.01 * (x / scale).norm()


def test_lissa_converges_to_the_solution():
    operator, vector = convex(damping=0.5)
    expected = torch.linalg.solve(operator.dense(), vector)
    scale = 3 * torch.linalg.eigvalsh(operator.dense())[-1].item()
    solution = lissa(operator, vector, scale, 300, 200, 16, generator(0))
    assert solution.converged
    assert (solution.x - expected).norm() < 0.05 * expected.norm()
    true = ((operator @ solution.x - vector).norm() / vector.norm()).item()
    assert solution.residual == pytest.approx(true)


def test_lissa_repeats_itself_with_the_same_seed():
    operator, vector = convex()
    first, second, other = (lissa(operator, vector, 50, 10, 3, 4, generator(seed)).x for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_scale_that_is_too_small_is_reported_within_a_few_steps():
    operator, vector = convex()
    largest = torch.linalg.eigvalsh(operator.dense())[-1].item()
    with pytest.raises(SolverError, match=r"diverges at step \d{1,2}:.*scale = .* is too small.*choose scale ≥"):
        lissa(operator, vector, largest / 10, 1000, 2, 4, generator(0))


def indefinite():
    objective, w, samples = network("mlp", count=40)
    hessian = Hessian(objective, 3 * w, samples)
    values = torch.linalg.eigvalsh(hessian.dense())
    assert values[0] < -1e-3
    return hessian, values, objective.gradient(3 * w, samples)


def test_negative_curvature_is_reported_with_the_eigenvalue():
    hessian, values, vector = indefinite()
    damping = -values[0].item() / 2
    with pytest.raises(SolverError, match=r"λ_min\(H\) ≤ ") as caught:
        exact(hessian + damping, vector)
    assert f"{values[0].item():.3g}" in str(caught.value)
    with pytest.raises(SolverError, match="conjugate gradient met curvature"):
        conjugate_gradient(hessian + damping, vector, 1e-12, 10_000)
    assert exact(hessian + 2 * -values[0].item(), vector).converged


def test_the_exact_solver_refuses_large_systems_in_a_sentence():
    operator, vector = convex()
    with pytest.raises(SolverError, match=r"exceed the limit of 10.*use conjugate gradient"):
        exact(operator, vector, limit=10)


SOLVERS = {
    "exact": exact,
    "conjugate gradient": conjugate_gradient,
    "lissa": lambda operator, vector: lissa(operator, vector, 50, 5, 2, 4, generator(0)),
}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_zero_is_solved_by_zero_and_nan_is_refused(solver):
    operator, vector = convex()
    solution = solver(operator, torch.zeros_like(vector))
    assert solution.residual == 0
    assert not solution.x.any()
    with pytest.raises(SolverError, match="the right-hand side has norm nan"):
        solver(operator, torch.full_like(vector, float("nan")))


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_solvers_leave_the_modules_mode_alone(solver):
    operator, vector = convex()
    operator.objective.model.train()
    solver(operator, vector)
    assert operator.objective.model.training


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_extreme_eigenvalues_lie_within_their_error(seed):
    hessian, values, vector = indefinite()
    low, high = extreme_eigenvalues(hessian.__matmul__, vector, generator(seed), tolerance=1e-8)
    assert abs(low.value - values[0].item()) <= low.error + 1e-9
    assert abs(high.value - values[-1].item()) <= high.error + 1e-9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_preconditioned_conjugate_gradient_solves_the_dense_system(seed):
    operator, vector = convex(seed)
    dense = operator.dense()
    expected = torch.linalg.solve(dense, vector)
    diagonal = 1 / dense.diagonal()
    draws = torch.randn(len(vector), len(vector), dtype=vector.dtype, generator=torch.Generator().manual_seed(seed))
    dull = draws @ draws.T / len(vector) + torch.eye(len(vector), dtype=vector.dtype)
    for inverse in (lambda v: diagonal * v, lambda v: 1e3 * v, lambda v: dull @ v):
        solution = conjugate_gradient(operator, vector, 1e-12, preconditioner=inverse)
        assert solution.converged
        assert torch.allclose(solution.x, expected, rtol=1e-8, atol=1e-12)
        true = ((dense @ solution.x - vector).norm() / vector.norm()).item()
        assert solution.residual == pytest.approx(true, abs=1e-14)
        assert solution.curve[-1] == pytest.approx(true, abs=1e-12)
        assert solution.hvp_samples == len(solution.curve) * len(operator.samples)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_the_exact_inverse_conjugate_gradient_needs_at_most_two_steps(seed):
    operator, vector = convex(seed)
    dense = operator.dense()
    solution = conjugate_gradient(operator, vector, 1e-10, preconditioner=lambda v: torch.linalg.solve(dense, v))
    assert len(solution.curve) <= 2
    assert solution.converged
    assert torch.allclose(solution.x, torch.linalg.solve(dense, vector), rtol=1e-8, atol=1e-10)
    assert len(conjugate_gradient(operator, vector, 1e-10).curve) > 2


def test_a_multiple_of_the_identity_as_preconditioner_changes_no_iterate():
    operator, vector = convex()
    plain = conjugate_gradient(operator, vector, 1e-14, max_steps=5)
    scaled = conjugate_gradient(operator, vector, 1e-14, max_steps=5, preconditioner=lambda v: 8 * v)
    assert torch.allclose(plain.x, scaled.x, rtol=1e-12)
    assert plain.curve == pytest.approx(scaled.curve)


def symmetric(seed, size, spectrum):
    """A symmetric matrix with a given spectrum in a random basis."""
    draws = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(draws)[0]
    return (basis * spectrum) @ basis.T


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("size", [3, 12, 60])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_the_spectral_norm_is_the_largest_eigenvalue_of_either_sign(seed, sign, size, shift):
    draws = torch.Generator().manual_seed(seed)
    matrix = symmetric(seed, size, sign * (torch.randn(size, dtype=torch.float64, generator=draws) + shift))
    true = torch.linalg.eigvalsh(matrix).abs().max().item()
    like = torch.zeros(size, dtype=torch.float64)
    assert 0.97 * true <= spectral_norm(matrix.__matmul__, like, generator(seed)) <= true * (1 + 1e-12)
    fine = spectral_norm(matrix.__matmul__, like, generator(seed), tolerance=1e-10)
    assert fine == pytest.approx(true, rel=1e-8)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_isolated_eigenvalue_is_found_behind_many_of_the_other_sign(sign):
    spectrum = torch.cat([torch.linspace(0, 1, 99), torch.tensor([-1.5])]).double() * sign
    matrix = symmetric(0, 100, spectrum)
    found = spectral_norm(matrix.__matmul__, torch.zeros(100, dtype=torch.float64), generator(0))
    assert 0.97 * 1.5 <= found <= 1.5 * (1 + 1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_spectral_norm_of_an_indefinite_hessian_is_that_of_its_matrix(seed):
    hessian, values, vector = indefinite()
    for damping in (0.0, -1.5 * values[-1].item()):
        true = (values + damping).abs().max().item()
        found = spectral_norm((hessian + damping).__matmul__, vector, generator(seed))
        assert 0.97 * true <= found <= true * (1 + 1e-9)


def gaussian(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@cache
def definite(name, seed):
    """H + λI with a λ that makes it positive definite, its matrix, and the gradient as right-hand side."""
    objective, w, samples = network(name, seed, count=6, chunk=6, width=NARROWEST.get(name))
    hessian = Hessian(objective, w, samples)
    matrix = hessian.dense()
    damping = 0.1 - torch.linalg.eigvalsh(matrix)[0].item()
    return hessian + damping, matrix + damping * torch.eye(len(w), dtype=w.dtype), objective.gradient(w, samples)


#: Seeds with which few of the narrowest networks' units are dead, fewer where they take long.
SEEDS = {"allcnn": [1], "resnet18": [1]}
NETWORKS_AND_SEEDS = [(name, seed) for name in NETWORKS for seed in SEEDS.get(name, [1, 3, 4])]
#: Those with negative eigenvalues.
INDEFINITE = [(name, seed) for name, seed in NETWORKS_AND_SEEDS if name not in {"logistic", "resnet18"}]


# --- exact ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "seed"), NETWORKS_AND_SEEDS)
def test_the_exact_solution_is_that_of_the_dense_system_and_of_its_file(monkeypatch, tmp_path, name, seed):
    operator, matrix, vector = definite(name, seed)
    expected = torch.linalg.solve(matrix, vector)
    path = tmp_path / "h.npy"
    calls = counted(monkeypatch, Linearised, "product")
    built = exact(operator, vector, path=path)
    assert calls
    calls.clear()
    building = json.loads(path.with_suffix(".json").read_text())["seconds"]
    loaded = exact(operator, vector, path=path)
    assert not calls
    assert torch.equal(loaded.x, built.x)
    for solution in (built, loaded):
        assert torch.allclose(solution.x, expected, rtol=1e-9, atol=1e-12)
        assert solution.residual < 1e-12
        assert solution.converged
        assert solution.note == ""
        assert solution.seconds > building > 0
        assert solution.hvp_samples == len(vector) * len(operator.samples)


def test_a_files_matrix_serves_every_damping_and_right_hand_side(tmp_path):
    operator, matrix, vector = definite("mlp", 1)
    path = tmp_path / "h.npy"
    for damping in (0.0, 0.7, 10.0):
        for right in (vector, gaussian(0, len(vector))):
            wanted = matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype)
            found = exact(operator + damping, right, path=path)
            assert torch.allclose(found.x, torch.linalg.solve(wanted, right), rtol=1e-9, atol=1e-12)


def test_the_exact_solver_works_in_float64_whatever_the_type():
    operator, vector = convex()
    single = type(operator.objective)(operator.objective.model.float(), l2=operator.objective.l2)
    coarse = Hessian(single, operator.w.float(), operator.samples.to(dtype=torch.float32)) + operator.damping
    solution = exact(coarse, vector.float())
    assert solution.x.dtype == torch.float32
    assert solution.residual < 1e-12


@pytest.mark.parametrize(("name", "seed"), INDEFINITE)
def test_an_indefinite_system_is_refused_or_solved_with_a_note(name, seed):
    operator, matrix, vector = definite(name, seed)
    # Halfway between the two smallest eigenvalues, so that neither is close to zero.
    values = torch.linalg.eigvalsh(matrix)
    damping = -(values[0] + values[1]).item() / 2
    shifted, dense = operator + damping, matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype)
    with pytest.raises(SolverError, match=r"the exact solver met curvature -.*the Newton step is undefined"):
        exact(shifted, vector)
    solution = exact(shifted, vector, indefinite="solve")
    assert torch.allclose(solution.x, torch.linalg.solve(dense, vector), rtol=1e-6, atol=1e-9)
    assert solution.residual < 1e-10
    assert solution.converged
    smallest = f"{(values[0] + damping).item():.3g}"
    assert f"H + λI is indefinite, with eigenvalues from {smallest}" in solution.note
    assert "no Newton step" in solution.note


@pytest.mark.parametrize("name", ["logistic", "mlp"])
@pytest.mark.parametrize("seed", [1, 3, 4])
def test_what_to_do_with_indefinite_systems_does_not_matter_to_a_definite_one(name, seed):
    operator, _, vector = definite(name, seed)
    solution = exact(operator, vector, indefinite="solve")
    assert torch.equal(solution.x, exact(operator, vector).x)
    assert solution.note == ""


@pytest.mark.parametrize("seed", [1, 3, 4])
@pytest.mark.parametrize("index", [0, 1, 5])
def test_a_singular_system_is_refused_in_a_sentence(seed, index):
    operator, matrix, vector = definite("mlp", seed)
    damping = -torch.linalg.eigvalsh(matrix)[index].item()
    with pytest.raises(
        SolverError, match=r"singular to rounding: its dense solution leaves .*choose another λ than \d"
    ):
        exact(operator + damping, vector, indefinite="solve")
    with pytest.raises(SolverError, match=r"the Newton step is undefined|singular to rounding"):
        exact(operator + damping, vector)


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_a_large_systems_refusal_names_about_the_same_eigenvalue(monkeypatch, seed):
    operator, matrix, vector = definite("mlp", seed)
    damping = -2 * torch.linalg.eigvalsh(matrix)[0].item()
    named = []
    for dense_up_to in (5000, 100):
        monkeypatch.setattr(exact_solver, "DENSE_EIGENVALUES", dense_up_to)
        calls = []
        monkeypatch.setattr(
            exact_solver, "extreme_eigenvalues", lambda *given, to=calls: to.append(1) or extreme_eigenvalues(*given)
        )
        with pytest.raises(SolverError) as caught:
            exact(operator + damping, vector)
        assert len(calls) == (dense_up_to == 100)
        named.append(float(re.search(r"met curvature (\S+) in", str(caught.value))[1]))
    assert named[0] == pytest.approx(-0.1, rel=5e-3)
    assert named[1] == pytest.approx(named[0], rel=1e-2)


# --- conjugate gradient's start -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "seed"), NETWORKS_AND_SEEDS)
def test_conjugate_gradient_reaches_the_solution_from_every_start(name, seed):
    operator, matrix, vector = definite(name, seed)
    expected = torch.linalg.solve(matrix, vector)
    for scale in (1e-3, 1.0, 100.0):
        start = scale * gaussian(seed, len(vector))
        before = start.clone()
        solution = conjugate_gradient(operator, vector, 1e-10, 2000, start=start)
        assert solution.converged
        assert torch.allclose(solution.x, expected, atol=1e-8)
        assert solution.residual == pytest.approx(solution.curve[-1], rel=1e-2, abs=1e-12)
        assert solution.hvp_samples == (1 + len(solution.curve)) * len(operator.samples)
        assert torch.equal(start, before)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_from_the_solution_no_step_is_taken(seed, preconditioned):
    operator, vector = convex(seed)
    solved = torch.linalg.solve(operator.dense(), vector)
    inverse = (lambda v: v / 2) if preconditioned else None
    solution = conjugate_gradient(operator, vector, 1e-8, preconditioner=inverse, start=solved)
    assert torch.equal(solution.x, solved)
    assert solution.curve == []
    assert solution.converged
    assert solution.residual < 1e-12
    assert solution.hvp_samples == len(operator.samples)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_start_close_to_the_solution_saves_steps(seed):
    operator, vector = convex(seed, damping=1e-3)
    solved = torch.linalg.solve(operator.dense(), vector)
    steps = []
    for error in (1e-6, 1e-3):
        start = solved + error * solved.norm() * torch.nn.functional.normalize(gaussian(seed, len(vector)), dim=0)
        steps.append(len(conjugate_gradient(operator, vector, 1e-8, start=start).curve))
    assert 0 < steps[0] < steps[1] < len(conjugate_gradient(operator, vector, 1e-8).curve)


def test_zero_as_start_changes_the_cost_alone():
    operator, vector = convex()
    plain = conjugate_gradient(operator, vector, 1e-8)
    started = conjugate_gradient(operator, vector, 1e-8, start=torch.zeros_like(vector))
    assert torch.equal(plain.x, started.x)
    assert plain.curve == started.curve
    assert started.hvp_samples == plain.hvp_samples + len(operator.samples)


@pytest.mark.parametrize(("name", "seed"), INDEFINITE)
def test_negative_curvature_is_reported_with_a_preconditioner_and_a_start_too(name, seed):
    operator, matrix, vector = definite(name, seed)
    smallest = -0.2 * (1 + seed)
    shifted = operator + (smallest - 0.1)
    inverses = {
        "diagonal": lambda v: v / (1 + matrix.diagonal().abs()),
        # With λ = 0.05 instead, which leaves the operator's own indefiniteness.
        "low rank": low_rank_preconditioner(operator + (0.05 - operator.damping), vector, generator(0), 10, 4),
    }
    for start in (None, gaussian(seed, len(vector))):
        for inverse in inverses.values():
            with pytest.raises(SolverError, match=r"conjugate gradient met curvature -.*Newton step is undefined") as e:
                conjugate_gradient(shifted, vector, 1e-12, 10_000, inverse, start)
            # A Rayleigh quotient is never below the smallest eigenvalue.
            assert float(re.search(r"met curvature (\S+) in", str(e.value))[1]) >= smallest * 1.01


# --- low-rank preconditioner ----------------------------------------------------------------------------------------


def matrix_of(function, size):
    return torch.stack([function(row) for row in torch.eye(size, dtype=torch.float64)], dim=1)


@pytest.mark.parametrize(("name", "seed"), INDEFINITE)
@pytest.mark.parametrize(("rank", "samples"), [(1, 3), (20, 3), (130, 100)])
def test_the_preconditioner_is_positive_definite_where_the_hessian_is_not(name, seed, rank, samples):
    operator, matrix, vector = definite(name, seed)
    assert torch.linalg.eigvalsh(matrix)[0] - operator.damping < -0.01
    indefinite = operator + (0.002 - operator.damping)
    inverse = low_rank_preconditioner(indefinite, vector, generator(seed), rank, samples)
    dense = matrix_of(inverse, len(vector))
    largest = 1 / (operator.objective.l2 + 0.002)
    assert torch.allclose(dense, dense.T, atol=1e-10 * largest)
    values = torch.linalg.eigvalsh(dense)
    assert values[0] > 0
    assert values[-1].item() == pytest.approx(largest)
    assert inverse.hvp_samples == inverse.vectors.shape[1] * min(samples, len(operator.samples))
    assert inverse.vectors.shape[1] <= min(rank, len(vector))


def test_the_sub_samples_hessian_behind_those_tests_is_indefinite():
    operator, _, _ = definite("mlp", 1)
    chosen = torch.randperm(len(operator.samples), generator=generator(1))[:3]
    part = Hessian(operator.objective, operator.w, operator.samples.subset(chosen))
    assert torch.linalg.eigvalsh(part.dense())[0] < -0.01


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_the_preconditioner_of_everything_at_full_rank_is_the_exact_inverse(seed, damping):
    operator, _ = convex(seed, damping)
    right = gaussian(seed, operator.size)
    inverse = low_rank_preconditioner(operator, right, generator(seed), operator.size, len(operator.samples))
    expected = torch.linalg.inv(operator.dense())
    assert (matrix_of(inverse, operator.size) - expected).norm() < 1e-8 * expected.norm()
    solution = conjugate_gradient(operator, right, 1e-8, preconditioner=inverse)
    assert len(solution.curve) == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_the_krylov_space_the_preconditioner_inverts_the_sub_samples_ritz_values(seed):
    operator, vector = convex(seed)
    inverse = low_rank_preconditioner(operator, vector, generator(seed), 6, 15)
    chosen = torch.randperm(len(operator.samples), generator=generator(seed))[:15]
    part = Hessian(operator.objective, operator.w, operator.samples.subset(chosen)) + operator.damping
    inside = inverse.vectors.T @ (part @ inverse.vectors.T).T
    assert inside.shape == (6, 6)
    for column in inverse.vectors.T:
        value = column.dot(part @ column)
        assert torch.allclose(inverse(column), column / value, atol=1e-10)
    assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=1e-10)
    across = gaussian(seed, len(vector))
    across = across - inverse.vectors @ (inverse.vectors.T @ across)
    assert torch.allclose(inverse(across), across / (operator.objective.l2 + operator.damping), atol=1e-10)


@pytest.mark.parametrize(("name", "seed"), NETWORKS_AND_SEEDS)
@pytest.mark.parametrize(("rank", "samples"), [(1, 1), (10, 3)])
def test_the_low_rank_preconditioner_never_changes_the_solution(name, seed, rank, samples):
    operator, matrix, vector = definite(name, seed)
    expected = torch.linalg.solve(matrix, vector)
    solution = preconditioned_conjugate_gradient(operator, vector, generator(seed), 1e-10, 2000, rank, samples)
    assert solution.converged
    assert torch.allclose(solution.x, expected, atol=1e-9)
    assert solution.residual < 1e-9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_low_rank_preconditioner_saves_steps(seed):
    operator, vector = convex(seed, damping=-0.0099)
    plain = conjugate_gradient(operator, vector, 1e-6)
    helped = preconditioned_conjugate_gradient(operator, vector, generator(seed), 1e-6, rank=30, samples=40)
    assert helped.converged
    assert len(helped.curve) < len(plain.curve) / 2


def test_construction_is_part_of_the_cost(monkeypatch):
    operator, vector = convex()
    inverse = low_rank_preconditioner(operator, vector, generator(0), 6, 15)
    assert inverse.hvp_samples == 6 * 15
    # Every pair of clock readings is one second apart.
    ticks = count()
    monkeypatch.setattr(
        "cdu.curvature.conjugate_gradient.time", SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    )
    plain = conjugate_gradient(operator, vector, 1e-8, preconditioner=inverse)
    solution = preconditioned_conjugate_gradient(operator, vector, generator(0), 1e-8, rank=6, samples=15)
    assert torch.equal(solution.x, plain.x)
    assert solution.curve == plain.curve
    assert solution.hvp_samples == plain.hvp_samples + inverse.hvp_samples
    assert (plain.seconds, solution.seconds) == (1, 2)


def test_nothing_is_known_across_the_krylov_space_without_damping_and_l2():
    objective, w, samples = network("logistic", l2=0.0)
    vector = objective.gradient(w, samples)
    hessian = Hessian(objective, w, samples)
    for damping in (0.0, -0.5):
        for solve in (low_rank_preconditioner, preconditioned_conjugate_gradient):
            with pytest.raises(SolverError, match=r"needs λ \+ l2 > 0; they are .* and 0: solve without a precond"):
                solve(hessian + damping, vector, generator(0))
    assert low_rank_preconditioner(hessian + 1e-3, vector, generator(0), rank=2).floor == 1e-3


def preconditioned(operator, vector, seed=0):
    return preconditioned_conjugate_gradient(operator, vector, generator(seed), 1e-8, rank=5, samples=8)


def test_preconditioned_conjugate_gradient_solves_zero_by_zero_and_refuses_nan():
    operator, vector = convex()
    solution = preconditioned(operator, torch.zeros_like(vector))
    assert not solution.x.any()
    assert (solution.residual, solution.hvp_samples, solution.converged) == (0, 0, True)
    for value in (float("nan"), float("inf")):
        with pytest.raises(SolverError, match=f"the right-hand side has norm {value}"):
            preconditioned(operator, torch.full_like(vector, value))


def test_preconditioned_conjugate_gradient_repeats_itself_with_the_same_seed():
    operator, vector = convex()
    first, again, other = (preconditioned(operator, vector, seed) for seed in (0, 0, 1))
    assert torch.equal(first.x, again.x)
    assert first.curve == again.curve
    assert not torch.equal(first.x, other.x)


def test_preconditioned_conjugate_gradient_leaves_the_modules_mode_alone():
    operator, vector = convex()
    operator.objective.model.train()
    preconditioned(operator, vector)
    assert operator.objective.model.training


# --- LiSSA's products and scale -------------------------------------------------------------------------------------


def products_one_by_one(operator, vectors, rows):
    """(H_t + λI)x from the Hessian of each mini-batch by itself."""
    parts = (Hessian(operator.objective, operator.w, operator.samples.subset(chosen)) for chosen in rows)
    return torch.stack([(part + operator.damping) @ x for part, x in zip(parts, vectors, strict=True)])


def batches(operator, repeats, size, seed=0):
    rows = torch.randint(len(operator.samples), (repeats, size), generator=torch.Generator().manual_seed(seed))
    return gaussian(seed, repeats, operator.size), rows


@pytest.mark.parametrize(("name", "seed"), NETWORKS_AND_SEEDS)
@pytest.mark.parametrize("repeats", [1, 3])
def test_products_on_mini_batches_are_those_of_their_hessians(name, seed, repeats):
    objective, w, samples = network(name, seed, count=9)
    operator = Hessian(objective, w, samples) + 0.37
    vectors, rows = batches(operator, repeats, 4, seed)
    expected = products_one_by_one(operator, vectors, rows)
    assert torch.allclose(_products_on(operator, vectors, rows), expected, atol=1e-10)
    # So little memory that three repeats are taken as two and one, and then singly.
    size = 4 * objective.bytes_per_sample(w, samples)
    for room in (3 * size - 1, 1):
        objective.chunk_bytes = room
        assert torch.allclose(_products_on(operator, vectors, rows), expected, atol=1e-10)


@pytest.mark.parametrize("name", ["logistic", "mlp", "smooth mlp"])
@pytest.mark.parametrize("seed", [0, 1])
def test_products_on_mini_batches_are_those_of_dense_matrices(name, seed):
    objective, w, samples = network(name, seed)
    operator = Hessian(objective, w, samples) + 0.37
    vectors, rows = batches(operator, 3, 4, seed)
    found = _products_on(operator, vectors, rows)
    for image, x, chosen in zip(found, vectors, rows, strict=True):
        matrix = (Hessian(objective, w, samples.subset(chosen)) + 0.37).dense()
        assert torch.allclose(image, matrix @ x, atol=1e-10)


def test_repeats_are_taken_together_as_far_as_memory_allows(monkeypatch):
    operator, vector = convex()
    objective = operator.objective
    whole = lissa(operator, vector, 50, 10, 5, 4, generator(0))
    size = 4 * objective.bytes_per_sample(operator.w, operator.samples)
    for together, passes in ((5, 1), (2, 3), (1, 5)):
        objective.chunk_bytes = together * size
        with monkeypatch.context() as patch:
            calls = counted(patch, objective, "batch_loss")
            _products_on(operator, *batches(operator, 5, 4))
        assert len(calls) == passes
        split = lissa(operator, vector, 50, 10, 5, 4, generator(0))
        assert torch.allclose(split.x, whole.x, atol=1e-12)
        assert split.curve == pytest.approx(whole.curve)


@pytest.mark.parametrize("name", ["allcnn", "resnet18"])
@pytest.mark.parametrize("repeats", [1, 2])
def test_lissa_leaves_batchnorm_alone(name, repeats):
    objective, w, samples = network(name, 1)
    before = {key: value.clone() for key, value in objective.model.state_dict().items()}
    objective.model.train()
    lissa(Hessian(objective, w, samples) + 2.0, w, 50, 2, repeats, 4, generator(0))
    assert objective.model.training
    after = objective.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 16])
def test_the_automatic_scale_covers_every_batch_looked_at(seed, size):
    operator, _ = convex(seed)
    scale = batch_scale(operator, size, generator(seed))
    rows = torch.randint(len(operator.samples), (SCALE_BATCHES, size), generator=generator(seed))
    largest = 0.0
    for chosen in rows:
        part = Hessian(operator.objective, operator.w, operator.samples.subset(chosen)) + operator.damping
        largest = max(largest, torch.linalg.eigvalsh(part.dense())[-1].item())
    # Twice what twelve steps of power iteration find of it.
    assert 1.8 * largest <= scale <= 2 * largest * (1 + 1e-12)
    assert torch.linalg.eigvalsh(operator.dense())[-1] <= scale


def test_the_automatic_scale_counts_negative_eigenvalues_too():
    objective, w, samples = network("logistic", 0, count=40)
    operator = Hessian(objective, w, samples) + -100.0
    largest = torch.linalg.eigvalsh(operator.dense()).abs().max().item()
    assert batch_scale(operator, 400, generator(0)) == pytest.approx(2 * largest, rel=0.02)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lissa_with_the_automatic_scale_converges_and_names_it(seed):
    operator, vector = convex(seed, damping=0.5)
    expected = torch.linalg.solve(operator.dense(), vector)
    solution = lissa(operator, vector, "auto", 60, 30, 16, generator(seed))
    assert solution.converged
    assert (solution.x - expected).norm() < 0.1 * expected.norm()
    scale = batch_scale(operator, 16, generator(seed))
    assert solution.note == f"scale = {scale:.4g}, estimated from mini-batches"
    assert solution.hvp_samples == (60 * 30 + SCALE_STEPS * SCALE_BATCHES) * 16
    given = lissa(operator, vector, scale, 60, 30, 16, generator(seed))
    assert given.note == ""
    assert given.hvp_samples == 60 * 30 * 16


def test_lissa_with_the_automatic_scale_repeats_itself_and_leaves_the_mode_alone():
    operator, vector = convex()
    operator.objective.model.train()
    first, again, other = (lissa(operator, vector, "auto", 5, 2, 4, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.x, again.x)
    assert first.note == again.note
    assert not torch.equal(first.x, other.x)
    assert operator.objective.model.training


@pytest.mark.parametrize("name", ["logistic", "smooth mlp", "allcnn"])
@pytest.mark.parametrize("repeats", [1, 4])
@pytest.mark.parametrize("seed", [1, 3])
def test_divergence_is_found_within_a_few_steps_for_one_repeat_and_for_several(name, repeats, seed):
    operator, matrix, vector = definite(name, seed)
    scale = torch.linalg.eigvalsh(matrix)[-1].item() / 100
    with pytest.raises(SolverError, match=r"LiSSA diverges at step \d:.*is too small.*choose scale ≥") as caught:
        lissa(operator, vector, scale, 1000, repeats, 4, generator(seed))
    advised = float(re.search(r"choose scale ≥ ([^,\s]+)", str(caught.value))[1])
    assert advised > 10 * scale
    lissa(operator, vector, advised, 10, repeats, 4, generator(seed))
