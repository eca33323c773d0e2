"""The numeric checks of the theory, themselves checked on problems whose answers are known."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import hessian

from cdu.certification import convex, gaussian_delta, gaussian_sigma
from cdu.curvature import minimise
from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import ritz_norm, spectral_norm
from cdu.curvature.lissa import lissa
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.evaluation import theory_checks
from cdu.models import losses
from cdu.models.architectures import LogisticRegression
from cdu.models.objective import Objective
from cdu.seeding import generator
from conftest import network

# --- noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("epsilon", "sigma", "distance"), [(0.1, 2.0, 1.0), (1.0, 1.0, 1.0), (0.0, 0.5, 0.3), (4.0, 3.0, 7.0)]
)
def test_simulated_releases_have_the_exact_delta_and_no_other(epsilon, sigma, distance, seed):
    estimate, error = theory_checks.monte_carlo_delta(epsilon, sigma, distance, 100_000, generator(seed, str(epsilon)))
    assert abs(estimate - gaussian_delta(epsilon, sigma, distance)) < 4.5 * error
    assert error < 0.02 * estimate
    for wrong in (0.9 * sigma, 1.1 * sigma):
        assert abs(estimate - gaussian_delta(epsilon, wrong, distance)) > 4.5 * error


def test_the_simulations_error_is_the_spread_of_its_estimates():
    sigma = gaussian_sigma(1.0, 1e-2, 1.0)
    runs = [theory_checks.monte_carlo_delta(1.0, sigma, 1.0, 2000, generator(seed)) for seed in range(400)]
    estimates, errors = np.array(runs).T
    assert estimates.std() == pytest.approx(errors.mean(), rel=0.15)
    scores = (estimates - gaussian_delta(1.0, sigma, 1.0)) / errors
    assert abs(scores.mean()) < 0.25


# --- slopes and segments -------------------------------------------------------------------------------------------


@given(
    exponent=st.floats(-5, 5),
    factor=st.floats(1e-6, 1e6),
    points=st.lists(st.integers(1, 1000), min_size=2, max_size=8, unique=True),
)
def test_the_slope_of_a_power_law_is_its_exponent(exponent, factor, points):
    values = [factor * float(point) ** exponent for point in points]
    assert theory_checks.slope(points, values) == pytest.approx(exponent, abs=1e-6)


def linear(seed, loss=None, l2=0.1, count=30):
    draws = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 5, dtype=torch.float64, generator=draws)
    rows = rows * (1 / rows.norm(dim=1, keepdim=True)).clamp(max=1.0)
    samples = Samples(rows, torch.randint(0, 3, (count,), generator=draws), dtype=torch.float64)
    module = LogisticRegression(5, 3).double()
    objective = Objective(module, l2=l2) if loss is None else Objective(module, loss, l2=l2)
    start, end = torch.randn(2, objective.size, dtype=torch.float64, generator=draws)
    return objective, samples, start, end


def curvature(objective, samples, w):
    """The Hessian by another route: torch.func on the loss as a function."""

    def loss(point):
        data = objective.batch_loss(point, *samples.batch(slice(0, len(samples))))
        return data + objective.l2 / 2 * point.square().sum()

    return hessian(loss)(w)


NORMS = {"ARPACK": spectral_norm, "on the device": partial(ritz_norm, steps=40)}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_a_quadratic_has_m_zero_and_l_its_largest_eigenvalue(seed, norm):
    objective, samples, start, end = linear(seed, losses.squared_error)
    found = theory_checks.segment_constants(objective, start, end, samples, generator(seed), norm=norm)
    top = torch.linalg.eigvalsh(curvature(objective, samples, start))[-1].item()
    assert found.gradient_lipschitz == pytest.approx(top, rel=0.02)
    assert found.hessian_lipschitz == pytest.approx(0, abs=1e-12)


def test_a_segment_of_no_length_is_refused():
    objective, samples, start, _ = linear(0, losses.squared_error)
    with pytest.raises(CduError, match="the segment's ends are 0 apart"):
        theory_checks.segment_constants(objective, start, start, samples, generator(0))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("nodes", [2, 5])
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_constants_along_a_segment_are_those_of_the_dense_hessians(seed, nodes, norm):
    objective, samples, start, end = linear(seed)
    found = theory_checks.segment_constants(objective, start, end, samples, generator(seed), nodes, norm)
    points = [start + share * (end - start) for share in np.linspace(0, 1, nodes)]
    dense = [curvature(objective, samples, point) for point in points]
    steep = max(torch.linalg.matrix_norm(one, 2).item() for one in dense)
    gap = (end - start).norm().item() / (nodes - 1)
    bend = max(torch.linalg.matrix_norm(after - before, 2).item() / gap for before, after in pairwise(dense))
    assert found.length == pytest.approx((end - start).norm().item())
    assert 0.97 * steep <= found.gradient_lipschitz <= steep * (1 + 1e-9)
    assert 0.97 * bend <= found.hessian_lipschitz <= bend * (1 + 1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_constants_of_a_network_with_negative_curvature_are_those_of_its_dense_hessians(seed):
    objective, start, samples = network("smooth mlp", seed, count=20, chunk=20)
    end = start + torch.randn(len(start), dtype=start.dtype, generator=generator(seed, "end"))
    calls = []

    def norm(*arguments):
        calls.append(arguments)
        return ritz_norm(*arguments, steps=40, tolerance=1e-4)

    found = theory_checks.segment_constants(objective, start, end, samples, generator(seed), 3, norm)
    assert len(calls) == 3 + 2
    dense = [curvature(objective, samples, torch.lerp(start, end, share)) for share in (0.0, 0.5, 1.0)]
    steep = max(torch.linalg.matrix_norm(one, 2).item() for one in dense)
    bends = [torch.linalg.matrix_norm(after - before, 2).item() for before, after in pairwise(dense)]
    assert any(torch.linalg.eigvalsh(one)[0] < 0 for one in dense)
    assert found.gradient_lipschitz == pytest.approx(steep, rel=1e-4)
    assert found.hessian_lipschitz == pytest.approx(max(bends) / ((end - start).norm().item() / 2), rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_constants_measured_on_softmax_regression_are_never_above_the_known_ones(seed):
    objective, samples, start, end = linear(seed, count=1 + seed)
    known = convex.softmax_constants(1.0, 0.1, 3)
    found = theory_checks.segment_constants(objective, start, end, samples, generator(seed), 4)
    assert 0 < found.gradient_lipschitz <= known.gradient_lipschitz
    assert 0 < found.hessian_lipschitz <= known.hessian_lipschitz


# --- LiSSA ---------------------------------------------------------------------------------------------------------


def damped(seed=0, name="logistic", damping=0.5):
    objective, w, samples = network(name, seed, count=40, chunk=40)
    operator = Hessian(objective, w, samples) + damping
    dense = curvature(objective, samples, w) + damping * torch.eye(len(w), dtype=w.dtype)
    return operator, objective.gradient(w, samples), dense


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["logistic", "mlp", "smooth mlp"])
def test_the_neumann_series_is_the_dense_one(seed, name):
    operator, vector, dense = damped(seed, name)
    scale = 1.5 * torch.linalg.matrix_norm(dense, 2).item()
    found = theory_checks.neumann_series(operator, vector, scale, (7, 1, 3, 1))
    factor = torch.eye(len(vector), dtype=vector.dtype) - dense / scale
    assert set(found) == {1, 3, 7}
    for depth, series in found.items():
        expected = sum(torch.linalg.matrix_power(factor, power) @ vector for power in range(depth + 1)) / scale
        assert torch.allclose(series, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_neumann_series_tends_to_the_inverse_at_its_rate(seed):
    operator, vector, dense = damped(seed)
    values = torch.linalg.eigvalsh(dense)
    scale = 1.5 * values[-1].item()
    exact = torch.linalg.solve(dense, vector)
    rate = 1 - values[0].item() / scale
    for depth, series in theory_checks.neumann_series(operator, vector, scale, (1, 10, 100)).items():
        assert (series - exact).norm() <= rate ** (depth + 1) * exact.norm() * (1 + 1e-9) + 1e-12
    assert torch.equal(vector, damped(seed)[1])


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("depth", [2, 5])
def test_lissas_mean_has_no_bias_against_its_series_and_a_clear_one_against_others(seed, depth):
    operator, vector, dense = damped(seed)
    scale = 2 * torch.linalg.matrix_norm(dense, 2).item()
    draws = torch.stack(
        [lissa(operator, vector, scale, depth, 100, 4, generator(seed, depth, number)).x for number in range(20)]
    )
    series = theory_checks.neumann_series(operator, vector, scale, (depth - 1, depth, depth + 1))
    right = theory_checks.bias(draws, series[depth])
    assert right.p > 1e-3
    assert right.relative < 3 * right.noise
    wrong = (
        series[depth - 1],
        series[depth + 1],
        theory_checks.neumann_series(operator + 0.5, vector, scale, [depth])[depth],
        theory_checks.neumann_series(operator, vector, 1.1 * scale, [depth])[depth],
    )
    for other in wrong:
        assert theory_checks.bias(draws, other).p < 1e-4


# --- the test of a mean --------------------------------------------------------------------------------------------


def gaussian_draws(seed, count, spectrum, mean):
    """Draws whose covariance has a given spectrum, in rotated coordinates."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(len(spectrum), len(spectrum))))[0]
    return torch.from_numpy(mean + (rng.normal(size=(count, len(spectrum))) * np.sqrt(spectrum)) @ basis.T)


SPECTRA = {
    "equal": np.ones(40),
    "falling": np.logspace(0, -4, 40),
    "one large": np.r_[100.0, np.ones(39)],
    "one only": np.r_[1.0, np.full(39, 1e-9)],
}


@pytest.mark.parametrize("count", [3, 20])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_unbiased_draws_rarely_look_biased(count, spectrum):
    mean = np.linspace(-1, 1, 40)
    found = [
        theory_checks.bias(gaussian_draws(seed, count, spectrum, mean), torch.from_numpy(mean)).p for seed in range(300)
    ]
    assert np.mean(np.array(found) < 0.01) <= 0.03
    assert np.mean(np.array(found) < 0.001) <= 0.01
    assert 0.25 < np.mean(np.array(found) < 0.5) < 0.8


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_shifted_draws_look_biased(seed, spectrum):
    mean = np.linspace(-1, 1, 40)
    draws = gaussian_draws(seed, 20, spectrum, mean)
    away = np.random.default_rng(seed + 1).normal(size=40)
    shift = 3 * np.sqrt(spectrum.sum() / 20) * away / np.linalg.norm(away)
    # A shift of three times what sampling makes of the mean.
    found = theory_checks.bias(draws, torch.from_numpy(mean + shift))
    assert found.p < 1e-2
    assert theory_checks.bias(draws, torch.from_numpy(mean + 4 * shift)).p < 1e-6


def test_the_parts_of_a_bias_are_distances_over_the_expected_length():
    mean = np.linspace(1, 2, 40)
    draws = gaussian_draws(0, 20, SPECTRA["falling"], mean)
    expected = torch.from_numpy(mean)
    found = theory_checks.bias(draws, expected)
    assert found.relative == pytest.approx(np.linalg.norm(draws.numpy().mean(axis=0) - mean) / np.linalg.norm(mean))
    trace = np.trace(np.cov(draws.numpy(), rowvar=False))
    assert found.noise == pytest.approx(np.sqrt(trace / 20) / np.linalg.norm(mean))
    scaled = theory_checks.bias(1e-3 * draws, 1e-3 * expected)
    assert (scaled.relative, scaled.noise, scaled.p) == pytest.approx((found.relative, found.noise, found.p))


# --- mini-batches and descent --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_the_spectrum_of_a_batch_is_that_of_its_dense_hessian(seed, name):
    objective, w, samples = network(name, seed, count=25, chunk=25)
    ((low, high),) = theory_checks.batch_spectra(objective, w, samples, 6, 1, generator(seed, "batch"))
    rows = torch.randint(25, (6,), generator=generator(seed, "batch"))
    values = torch.linalg.eigvalsh(curvature(objective, samples.subset(rows), w))
    span = (values[-1] - values[0]).item()
    assert high == pytest.approx(values[-1].item(), abs=0.02 * span)
    assert low == pytest.approx(values[0].item(), abs=0.02 * span)
    assert high <= values[-1].item() + 1e-9
    assert low >= values[0].item() - 1e-9


def test_batches_are_drawn_anew():
    objective, w, samples = network("logistic", count=25, chunk=25)
    found = theory_checks.batch_spectra(objective, w, samples, 3, 6, generator(0))
    assert len(found) == 6
    assert len({high for _, high in found}) == 6
    assert found == theory_checks.batch_spectra(objective, w, samples, 3, 6, generator(0))
    known = torch.linalg.matrix_norm(curvature(objective, samples, w), 2).item()
    assert max(high for _, high in found) > known


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_descent_stops_as_soon_as_each_norm_is_passed(seed):
    objective, samples, _, start = linear(seed)
    step = 1 / convex.softmax_constants(1.0, 0.1, 3).gradient_lipschitz
    norms = (0.3, 0.3, 1e-2, 1e-4)
    found = theory_checks.descend(objective, samples, start, 1 / step, norms)
    assert len(found) == 4
    w, path = start, []
    for norm in norms:
        while objective.gradient(w, samples).norm() > norm:
            w = w - step * objective.gradient(w, samples)
        path.append(w)
    for norm, iterate, expected in zip(norms, found, path, strict=True):
        assert torch.allclose(iterate, expected, atol=1e-12)
        assert objective.gradient(iterate, samples).norm() <= norm
    assert torch.equal(found[0], found[1])
    # At a strongly convex minimum ‖w − w*‖ ≤ ‖∇L(w)‖/l2.
    exact = minimise.minimise(objective, samples, start, 1e-12).w
    assert (found[-1] - exact).norm() <= 1e-4 / 0.1 + 1e-11


def test_descent_does_not_move_where_the_gradient_is_small_enough():
    objective, samples, _, start = linear(0)
    assert torch.equal(theory_checks.descend(objective, samples, start, 1.0, [1e9])[0], start)
