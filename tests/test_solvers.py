import pytest
import torch

from cdu.curvature import Hessian, extreme_eigenvalues, spectral_norm
from cdu.errors import CduError
from cdu.seeding import generator
from cdu.solvers import SolverError, conjugate_gradient, exact, lissa
from conftest import network


def convex(seed=0, damping=0.3):
    """Logistic regression: its Hessian is positive semidefinite."""
    objective, w, samples = network("logistic", seed, count=40)
    return Hessian(objective, w, samples) + damping, objective.gradient(w, samples)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["logistic", "mlp", "smooth mlp", "allcnn"])
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
