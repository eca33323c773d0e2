import json
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import lanczos, ritz_norm, ritz_values, spectral_density
from cdu.errors import CduError
from cdu.models.objective import Linearised
from cdu.seeding import generator
from conftest import NARROWEST, NETWORKS, counted, network, random_samples


def gaussian(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- the operator ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_operators_that_differ_in_the_damping_share_their_graphs(monkeypatch, name):
    objective, w, samples = network(name)
    hessian = Hessian(objective, w, samples, 0.25)
    calls = counted(monkeypatch, objective, "batch_loss")
    image = hessian @ w
    assert calls
    calls.clear()
    more = hessian + 0.5 + 1.0
    assert torch.allclose(more @ w, image + 1.5 * w, atol=1e-12)
    assert (hessian.damping, more.damping) == (0.25, 1.75)
    assert torch.equal(hessian @ w, image)
    assert not calls


def test_graphs_are_shared_whichever_operator_comes_first(monkeypatch):
    objective, w, samples = network("mlp")
    hessian = Hessian(objective, w, samples)
    damped = hessian + 1.0
    image = damped @ w
    calls = counted(monkeypatch, objective, "batch_loss")
    assert torch.allclose(hessian @ w, image - w, atol=1e-12)
    assert not calls


@pytest.mark.parametrize("damping", [0.0, -0.3, 2.0])
def test_the_damping_is_on_the_diagonal_of_the_dense_matrix(damping):
    objective, w, samples = network("mlp")
    hessian = Hessian(objective, w, samples)
    identity = torch.eye(len(w), dtype=w.dtype)
    assert torch.allclose((hessian + damping).dense(), hessian.dense() + damping * identity, atol=1e-15)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_dense_matrix_is_exactly_symmetric_and_does_not_depend_on_the_blocks(name):
    objective, w, samples = network(name, 1, count=3, width=NARROWEST.get(name))
    hessian = Hessian(objective, w, samples)
    vectors = gaussian(0, 2, len(w))
    for block in (100,) if name in NARROWEST else (1, 50, 1000):
        matrix, seconds = hessian.timed_dense(block=block)
        assert torch.equal(matrix, matrix.T)
        assert torch.allclose(vectors @ matrix, hessian @ vectors, atol=1e-12)
        assert seconds > 0


def clock(monkeypatch):
    """Let every block of rows take one second."""
    ticks = count()
    monkeypatch.setattr("cdu.curvature.hessian.time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))


def interrupt(monkeypatch, blocks):
    """Count the rows that are computed, and interrupt after some blocks."""
    computed, product = [], Linearised.product

    def interrupted(linearised, vector):
        if len(computed) == blocks:
            raise KeyboardInterrupt
        computed.append(len(vector))
        return product(linearised, vector)

    monkeypatch.setattr(Linearised, "product", interrupted)
    return computed


@pytest.mark.parametrize("damping", [0.0, 0.7])
@pytest.mark.parametrize("blocks", [0, 1, 4])
def test_an_interrupted_matrix_goes_on_and_is_the_one_made_in_one_go(monkeypatch, tmp_path, blocks, damping):
    objective, w, samples = network("mlp")
    whole = (Hessian(objective, w, samples) + damping).dense()
    path = tmp_path / "h.npy"
    clock(monkeypatch)
    with monkeypatch.context() as patch:
        computed = interrupt(patch, blocks)
        with pytest.raises(KeyboardInterrupt):
            (Hessian(objective, w, samples) + damping).timed_dense(path, block=20)
    assert json.loads(path.with_suffix(".json").read_text())["seconds"] == blocks
    with monkeypatch.context() as patch:
        then = interrupt(patch, 100)
        matrix, seconds = (Hessian(objective, w, samples) + damping).timed_dense(path, block=20)
    assert len(computed) == blocks
    assert sum(computed + then) == len(w)
    assert seconds == len(computed + then) == 7
    assert torch.allclose(matrix, whole, atol=1e-15)
    assert torch.equal(matrix, matrix.T)


def test_a_finished_matrix_is_loaded_whatever_the_damping_and_its_file_left_alone(monkeypatch, tmp_path):
    objective, w, samples = network("mlp")
    path = tmp_path / "h.npy"
    hessian = Hessian(objective, w, samples)
    matrix, seconds = hessian.timed_dense(path)
    before = path.read_bytes(), path.with_suffix(".json").read_bytes()
    interrupt(monkeypatch, 0)
    identity = torch.eye(len(w), dtype=w.dtype)
    for damping in (0.0, 1.0, -0.5):
        loaded, total = (Hessian(objective, w, samples) + damping).timed_dense(path)
        assert torch.equal(loaded, matrix + damping * identity)
        assert total == seconds
    assert (path.read_bytes(), path.with_suffix(".json").read_bytes()) == before


def others(objective, w, samples):
    weighted = type(objective)(objective.model, l2=2 * objective.l2, chunk=objective.chunk)
    yield "point", (objective, w + 1e-12, samples)
    yield "inputs", (objective, w, random_samples((1, 4, 4), len(samples), 9))
    yield "fewer samples", (objective, w, samples.subset(torch.arange(len(samples) - 1)))
    yield "l2", (weighted, w, samples)
    flipped = samples.subset(torch.arange(len(samples)))
    flipped.targets[0] = (flipped.targets[0] + 1) % 3
    yield "labels", (objective, w, flipped)


@pytest.mark.parametrize("what", ["point", "inputs", "fewer samples", "l2", "labels"])
def test_the_rows_of_another_hessian_are_refused(tmp_path, what):
    objective, w, samples = network("mlp")
    path = tmp_path / "h.npy"
    Hessian(objective, w, samples).timed_dense(path)
    with pytest.raises(CduError, match="belongs to another matrix than the one wanted"):
        Hessian(*dict(others(objective, w, samples))[what]).timed_dense(path)


# --- Lanczos --------------------------------------------------------------------------------------------------------


def matrix_with(spectrum, seed=0):
    """A symmetric matrix with a given spectrum in a random basis."""
    spectrum = torch.as_tensor(spectrum, dtype=torch.float64)
    basis = torch.linalg.qr(gaussian(seed, len(spectrum), len(spectrum)))[0]
    matrix = (basis * spectrum) @ basis.T
    return (matrix + matrix.T) / 2


def tridiagonal(diagonal, off):
    return torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1)


def check(matrix, start, steps):
    """Basis and tridiagonal matrix of a run, after checking all that holds of every run."""
    before = start.clone()
    basis, diagonal, off = lanczos(matrix.__matmul__, start, steps)
    size = matrix.abs().max().item() if matrix.any() else 1.0
    assert torch.equal(start, before)
    assert basis.shape == (len(diagonal), len(start))
    assert len(off) == len(diagonal) - 1
    assert len(diagonal) <= steps
    assert torch.allclose(basis[0], start / start.norm(), atol=1e-15)
    assert torch.allclose(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64), atol=1e-13)
    small = tridiagonal(diagonal, off)
    assert torch.allclose(basis @ matrix @ basis.T, small, atol=1e-12 * size)
    assert (off >= 0).all()
    return basis, small


SPECTRA = {
    "Gaussian": gaussian(5, 40),
    "one sign": torch.linspace(1, 2, 40),
    "fifteen orders of magnitude": torch.logspace(0, -15, 40),
    "a few large": torch.cat([1e6 * torch.ones(3), torch.linspace(-1, 1, 37)]),
    "pairs": torch.arange(20).repeat(2),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("steps", [1, 2, 15, 40])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_the_basis_is_orthonormal_and_makes_the_matrix_tridiagonal(seed, steps, spectrum):
    matrix = matrix_with(spectrum, seed)
    _, small = check(matrix, gaussian(seed + 7, 40), steps)
    # No Ritz value lies outside the spectrum.
    ritz, true = torch.linalg.eigvalsh(small), torch.linalg.eigvalsh(matrix)
    slack = 1e-12 * true.abs().max()
    assert ritz[0] >= true[0] - slack
    assert ritz[-1] <= true[-1] + slack


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 2, 30])
def test_in_full_dimension_all_eigenvalues_are_found(seed, size):
    spectrum = torch.linspace(-2, 3, size).double()
    _, small = check(matrix_with(spectrum, seed), gaussian(seed + 7, size), size)
    assert torch.allclose(torch.linalg.eigvalsh(small), spectrum, atol=1e-12)


INVARIANT = {
    "zero": (torch.zeros(20), 1),
    "identity": (torch.ones(20), 1),
    "projector": (torch.cat([torch.ones(5), torch.zeros(15)]), 2),
    "reflection": (torch.cat([torch.ones(12), -torch.ones(8)]), 2),
    "tiny": (1e-100 * torch.cat([torch.ones(5), torch.zeros(15)]).double(), 2),
}


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize(("spectrum", "dimension"), INVARIANT.values(), ids=INVARIANT)
def test_it_ends_where_the_space_is_invariant(seed, spectrum, dimension):
    matrix, start = matrix_with(spectrum, seed), gaussian(seed + 7, 20)
    _, small = check(matrix, start, 15)
    assert len(small) == dimension
    distinct = torch.unique(spectrum.double())
    assert torch.allclose(torch.linalg.eigvalsh(small), distinct, atol=1e-12 * matrix.abs().max().item())


@pytest.mark.parametrize("coupling", [1e-3, 1e-8, 1e-12])
def test_a_weak_coupling_is_no_end(coupling):
    matrix = tridiagonal(torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([coupling, 0.5]).double())
    _, small = check(matrix, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), 3)
    assert torch.allclose(small, matrix, rtol=1e-4, atol=0)


def test_an_eigenvector_as_start_is_an_end_at_once():
    values, vectors = torch.linalg.eigh(matrix_with(torch.linspace(-1, 1, 12)))
    matrix = vectors @ torch.diag(values) @ vectors.T
    for index in (0, 5, 11):
        # Rounding in the eigenvector may leave a second direction, whose coupling is rounding too.
        _, diagonal, off = lanczos(matrix.__matmul__, 3 * vectors[:, index], 10)
        assert diagonal[0].item() == pytest.approx(values[index].item(), abs=1e-13)
        assert off[:1].sum() < 1e-13


def test_the_basis_has_the_type_of_the_start_and_the_entries_float64():
    matrix = matrix_with(torch.linspace(-1, 1, 30)).float()
    basis, diagonal, off = lanczos(matrix.__matmul__, gaussian(0, 30).float(), 20)
    assert (basis.dtype, diagonal.dtype, off.dtype) == (torch.float32, torch.float64, torch.float64)
    assert torch.allclose(basis @ basis.T, torch.eye(20), atol=1e-6)
    assert torch.allclose(basis @ matrix @ basis.T, tridiagonal(diagonal, off).float(), atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("spectrum", [*SPECTRA.values(), torch.cat([torch.rand(39), torch.tensor([-5.0])])])
def test_the_norm_by_ritz_values_is_the_spectral_norm_from_below(seed, spectrum):
    matrix = matrix_with(spectrum, seed)
    true = torch.linalg.matrix_norm(matrix, 2).item()
    assert ritz_norm(matrix.__matmul__, gaussian(0, 40), generator(seed), 3) <= true * (1 + 1e-12)
    assert ritz_norm(matrix.__matmul__, gaussian(0, 40), generator(seed), 40, 1e-9) == pytest.approx(true, rel=1e-8)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_norm_is_known_after_few_products_where_one_eigenvalue_stands_out(seed):
    matrix, products = matrix_with(torch.cat([torch.linspace(-1, 1, 59), torch.tensor([-20.0])]), seed), count()

    def product(vector):
        next(products)
        return matrix @ vector

    assert ritz_norm(product, gaussian(0, 60), generator(seed), 60) == pytest.approx(20.0, rel=1e-3)
    assert next(products) <= 8


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-5])
def test_it_ends_with_the_first_residual_of_the_outermost_ritz_value_within_the_tolerance(seed, tolerance):
    matrix = matrix_with(torch.cat([torch.linspace(-1, 1, 59), torch.tensor([-3.0])]), seed)

    def residual(steps, tolerance=None):
        basis, diagonal, off = lanczos(matrix.__matmul__, gaussian(seed + 7, 60), steps, tolerance)
        values, vectors = torch.linalg.eigh(tridiagonal(diagonal, off))
        outer = int(values.abs().argmax())
        vector = basis.T @ vectors[:, outer]
        return len(basis), ((matrix @ vector - values[outer] * vector).norm() / values[outer].abs()).item()

    taken, left = residual(60, tolerance)
    assert 1 < taken < 60
    assert left <= tolerance < residual(taken - 1)[1]


def test_without_a_tolerance_every_step_is_taken():
    matrix = matrix_with(torch.cat([torch.linspace(-1, 1, 59), torch.tensor([-20.0])]))
    for steps in (5, 30):
        values = ritz_values(matrix.__matmul__, gaussian(0, 60), generator(0), steps)
        assert len(values) == steps
        assert (values.diff() >= 0).all()
    assert values[0].item() == pytest.approx(-20.0, rel=1e-9)


def test_the_zero_operator_has_norm_zero():
    assert ritz_norm(torch.zeros_like, gaussian(0, 20), generator(0), 10) == 0


# --- spectral density -----------------------------------------------------------------------------------------------


def moment_error(matrix, power, nodes, weights, probes):
    """How many standard deviations the estimate of tr(Aᵏ)/p is off.

    For u uniform on the sphere, uᵀBu has mean tr(B)/p and variance 2/(p + 2)·(tr(B²)/p − (tr(B)/p)²).
    """
    values = torch.linalg.eigvalsh(matrix) ** power
    variance = 2 / (len(values) + 2) * values.var(correction=0) / probes
    return ((weights * nodes**power).sum() - values.mean()).item() / variance.sqrt().item()


@pytest.mark.parametrize("steps", [3, 10])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_moments_are_the_traces_within_the_error_of_sampling(steps, spectrum):
    matrix = matrix_with(spectrum)
    errors = []
    for seed in range(12):
        nodes, weights = spectral_density(matrix.__matmul__, matrix[0], generator(seed), probes=8, steps=steps)
        assert weights.sum().item() == pytest.approx(1)
        assert (weights >= 0).all()
        errors.append([moment_error(matrix, power, nodes, weights, 8) for power in (1, 2)])
    for power_errors in zip(*errors, strict=True):
        # Twelve draws of a standard normal, or nearly: no further out than happens once in 10,000 times.
        assert abs(sum(power_errors)) / 12**0.5 < 3.9
        assert 1.25 < sum(error**2 for error in power_errors) < 41


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("steps", [12, 80])
def test_in_full_dimension_the_nodes_are_the_eigenvalues_and_the_weights_the_probes_squares(seed, steps):
    spectrum = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 7.0, 10.0], dtype=torch.float64)
    probes = 5
    nodes, weights = spectral_density(lambda v: spectrum * v, spectrum, generator(seed), probes, steps)
    assert torch.allclose(nodes.view(probes, 12), spectrum.expand(probes, 12), atol=1e-10)
    draws = generator(seed)
    for row in weights.view(probes, 12):
        probe = torch.randn(12, generator=draws, dtype=torch.float64)
        assert torch.allclose(row, probe.square() / probe.dot(probe) / probes, atol=1e-10)


def test_runs_that_end_early_have_fewer_nodes():
    identity = torch.eye(9, dtype=torch.float64)
    nodes, weights = spectral_density(identity.__matmul__, identity[0], generator(0), probes=4, steps=6)
    assert torch.allclose(nodes, torch.ones(4, dtype=torch.float64))
    assert torch.allclose(weights, torch.full((4,), 0.25, dtype=torch.float64))


def test_the_density_of_a_matrix_of_low_rank_is_that_of_its_three_eigenvalues():
    low = matrix_with([2.0, -1.0] + [0.0] * 18)
    nodes, weights = spectral_density(low.__matmul__, low[0], generator(0), probes=200, steps=10)
    for value, share in ((2.0, 0.05), (-1.0, 0.05), (0.0, 0.9)):
        found = weights[(nodes - value).abs() < 1e-9].sum().item()
        assert found == pytest.approx(share, abs=4 * (2 / 22 * share * (1 - share) / 200) ** 0.5)


@pytest.mark.parametrize("name", ["logistic", "mlp", "smooth mlp"])
def test_the_density_of_a_hessian_covers_its_spectrum_and_has_its_mean(name):
    objective, w, samples = network(name)
    hessian = Hessian(objective, w, samples)
    matrix = hessian.dense()
    values = torch.linalg.eigvalsh(matrix)
    nodes, weights = spectral_density(hessian.__matmul__, w, generator(0), probes=6, steps=30)
    assert nodes.min().item() == pytest.approx(values[0].item(), abs=1e-6)
    assert nodes.max().item() == pytest.approx(values[-1].item(), abs=1e-6)
    assert abs(moment_error(matrix, 1, nodes, weights, 6)) < 4
    assert abs(moment_error(matrix, 2, nodes, weights, 6)) < 4


def test_the_density_repeats_itself_with_the_same_seed():
    matrix = matrix_with(SPECTRA["Gaussian"])
    first, again, other = (
        spectral_density(matrix.__matmul__, matrix[0], generator(seed), probes=2, steps=5)[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("change", ["activation", "l2", "statistics", "loss"])
def test_the_hessian_of_another_objective_is_not_taken_from_the_file(tmp_path, change):
    name = "allcnn" if change == "statistics" else "mlp"
    objective, w, samples = network(name, 1, count=3, width=NARROWEST.get(name))
    other, _, _ = network("smooth mlp" if change == "activation" else name, 1, count=3, width=NARROWEST.get(name))
    if change == "l2":
        other.l2 += 1.0
    if change == "loss":
        other.loss_function = torch.nn.functional.multi_margin_loss
    if change == "statistics":
        next(other.model.buffers()).add_(0.1)
    path = tmp_path / "h.npy"
    matrix, _ = Hessian(objective, w, samples).timed_dense(path)
    with pytest.raises(CduError, match="belongs to another matrix"):
        Hessian(other, w, samples).timed_dense(path)
    assert torch.equal(Hessian(objective, w, samples).timed_dense(path)[0], matrix)


@pytest.mark.parametrize("seed", range(6))
def test_lanczos_ends_on_the_space_of_a_matrix_of_low_rank(seed):
    spectrum = torch.cat([torch.tensor([3.0, -1.0, 0.5]), torch.zeros(17)]).double()
    basis = torch.linalg.qr(gaussian(seed, 20, 20))[0]
    matrix = (basis * spectrum) @ basis.T
    _, diagonal, off = lanczos(((matrix + matrix.T) / 2).__matmul__, gaussian(seed + 100, 20), 15)
    assert len(diagonal) == 4
    assert len(off) == 3
