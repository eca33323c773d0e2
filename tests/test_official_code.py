import os
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch.func import functional_call, hessian

from cdu.curvature.hessian import Hessian
from cdu.curvature.lissa import lissa
from cdu.curvature.settings import LissaSettings
from cdu.errors import CduError
from cdu.evaluation import official_code
from cdu.evaluation.official_code import (
    Official,
    TensorNorms,
    attack_on_fitted_rows,
    hold_out,
    lissa_gain,
    lowest_validation,
    minimal_residual,
    replayed_lissa,
    training_mode,
)
from cdu.evaluation.posterior_attacks import OriginalAndRelease, membership_attack
from cdu.models.architectures import build
from cdu.models.objective import Objective
from cdu.models.settings import TrainingSettings
from cdu.models.training import train
from cdu.seeding import generator
from conftest import NARROWEST, NETWORKS, network, random_samples

CONSTANTS = LissaSettings(scale=40.0, depth=12, repeats=3, batch_size=4)


def norms_of(name, weight=0.3, **keys):
    """The code's objective of a small network in float64, a point and samples."""
    plain, w, samples = network(name, width=NARROWEST.get(name), **keys)
    # BatchNorm's shifts start at zero, where their norm has no second derivative.
    w = w + 0.1 * torch.randn(len(w), dtype=w.dtype, generator=generator(5))
    return TensorNorms(plain.model, weight, chunk=5), w, samples


def plain_norms(objective, w):
    return sum(part.square().sum().sqrt() for part in objective.tensors(w).values())


@pytest.mark.parametrize("name", ["logistic", "mlp", "smooth mlp", "allcnn"])
def test_gradient_and_hessian_are_those_of_the_loss_plus_the_sum_of_norms(name):
    objective, w, samples = norms_of(name)
    inputs, targets = samples.batch(slice(None))

    def whole(point):
        outputs = functional_call(objective.model, objective.tensors(point), (inputs,))
        return torch.nn.functional.cross_entropy(outputs, targets) + 0.3 * plain_norms(objective, point)

    assert torch.allclose(objective.gradient(w, samples), torch.func.grad(whole)(w), atol=1e-10)
    assert torch.allclose(Hessian(objective, w, samples).dense(), hessian(whole)(w), atol=1e-8)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_norms_hessian_is_zero_along_a_tensor_and_one_over_its_norm_across(seed):
    plain, w, samples = network("mlp", seed, l2=0.0)
    with_norms, without = (
        Hessian(TensorNorms(plain.model, weight, chunk=5), w, samples).dense() for weight in (0.7, 0.0)
    )
    added, expected, first = with_norms - without, torch.zeros(len(w), len(w), dtype=w.dtype), 0
    for part in plain.tensors(w).values():
        u, block = part.reshape(-1) / part.norm(), slice(first, first + part.numel())
        expected[block, block] = 0.7 * (torch.eye(part.numel(), dtype=w.dtype) - torch.outer(u, u)) / part.norm()
        first += part.numel()
    assert torch.allclose(added, expected, atol=1e-9)
    assert torch.linalg.eigvalsh(added)[0] < 1e-9


def test_the_norms_hessian_is_undefined_where_a_tensor_is_zero():
    objective, w, samples = norms_of("mlp")
    w[-3:] = 0.0  # the last bias
    assert objective.gradient(w, samples).isfinite().all()
    assert Hessian(objective, w, samples).dense().isnan().any()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_replayed_batches_give_what_lissa_gives(seed, damping):
    objective, w, samples = norms_of("mlp", seed=seed)
    gradient, operator = objective.gradient(w, samples), Hessian(objective, w, samples) + damping
    drawn = lissa(operator, gradient, **CONSTANTS.model_dump(), generator=generator(seed))
    source = generator(seed)
    shape = (CONSTANTS.repeats, CONSTANTS.batch_size)
    rows = torch.stack([torch.randint(len(samples), shape, generator=source) for _ in range(CONSTANTS.depth)])
    replayed = replayed_lissa(operator, gradient, CONSTANTS.scale, rows.transpose(0, 1))
    assert torch.allclose(replayed, drawn.x, atol=1e-12)


@pytest.mark.parametrize("shift", [-0.3, 0.0, 2.0])
def test_the_least_residual_solves_indefinite_systems_too(shift):
    objective, w, samples = network("logistic")
    operator = Hessian(objective, w, samples) + shift
    if shift < 0:
        assert torch.linalg.eigvalsh(operator.dense())[0] < 0
    vector = torch.randn(len(w), dtype=w.dtype, generator=generator(0))
    found = minimal_residual(operator, vector, len(w))
    assert torch.allclose(found.x, torch.linalg.solve(operator.dense(), vector), atol=1e-6)
    assert found.converged
    assert found.residual < 1e-8


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_no_point_of_the_krylov_space_leaves_less(steps):
    objective, w, samples = norms_of("mlp")
    operator = Hessian(objective, w, samples) + -0.1
    matrix, vector = operator.dense(), torch.randn(len(w), dtype=w.dtype, generator=generator(1))
    powers = [vector / vector.norm()]
    for _ in range(steps - 1):
        image = matrix @ powers[-1]
        powers.append(image / image.norm())
    space = torch.linalg.qr(torch.stack(powers, dim=1)).Q
    best = torch.linalg.lstsq(matrix @ space, vector.unsqueeze(1)).solution
    least = (matrix @ space @ best - vector.unsqueeze(1)).norm() / vector.norm()
    found = minimal_residual(operator, vector, steps)
    assert found.residual == pytest.approx(least.item(), rel=1e-8)
    assert found.converged == (found.residual <= official_code.SOLVED)


@given(st.floats(0, 50), st.floats(50, 1e4), st.integers(0, 300))
def test_the_gain_is_that_of_the_series(curvature, scale, depth):
    x = 1.0
    for _ in range(depth):
        x = 1.0 + (1 - curvature / scale) * x
    if curvature == 0 or curvature > 1e-6:
        assert lissa_gain(curvature, scale, depth) == pytest.approx(x / scale, rel=1e-6)


def test_the_codes_constants_give_flat_directions_a_hundredth_of_what_they_need():
    assert lissa_gain(0.01, 1000, 1000) == pytest.approx(0.996, abs=1e-3)
    assert lissa_gain(0.01, 1000, 10**8) == pytest.approx(100, rel=1e-9)


@pytest.mark.parametrize(("count", "share", "held"), [(10, 0.2, 2), (1497, 0.2, 299), (9, 0.5, 4)])
def test_held_out_rows_are_disjoint_complete_and_drawn_by_the_seed(count, share, held):
    training, validation = hold_out(count, share, 0)
    assert len(validation) == held
    assert sorted([*training.tolist(), *validation.tolist()]) == list(range(count))
    assert hold_out(count, share, 0)[1].tolist() == validation.tolist()
    if count > 100:
        assert hold_out(count, share, 1)[1].tolist() != validation.tolist()


def test_the_checkpoint_is_that_of_the_lowest_validation_loss_and_training_goes_on(tmp_path):
    settings, shape = NETWORKS["mlp"]
    samples, validation = (random_samples(shape, 40, seed).to(dtype=torch.float32) for seed in (0, 1))
    recipe = TrainingSettings(epochs=6, batch_size=8, learning_rate=0.05)

    def make():
        return build(settings, shape, 3, 0)

    best, epoch = lowest_validation(make, samples, validation, recipe, 0, tmp_path)
    naive = [train(make(), samples, recipe.model_copy(update={"epochs": number}), 0) for number in range(1, 7)]
    losses = [Objective(one.model).mean_loss(one.w, validation) for one in naive]
    assert epoch == 1 + int(np.argmin(losses))
    assert 1 <= epoch < 6  # random labels: it overfits
    assert torch.equal(best.w, naive[epoch - 1].w)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again, same = lowest_validation(make, samples, validation, recipe, 0, tmp_path)
    assert (same, torch.equal(again.w, best.w)) == (epoch, True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == kept


def test_without_eval_outputs_depend_on_the_batch_and_the_copy_alone_is_changed():
    objective, w, samples = network("allcnn")
    before = [buffer.clone() for buffer in objective.model.buffers()]
    whole = training_mode(objective, w, samples, len(samples))
    own = objective.model.train()
    expected = functional_call(own, objective.tensors(w), (samples.batch(slice(None))[0],))
    for buffer, kept in zip(own.buffers(), before, strict=True):
        buffer.copy_(kept)
    objective.model.eval()
    assert torch.allclose(whole.outputs, expected, atol=1e-10)
    assert not torch.allclose(whole.outputs, training_mode(objective, w, samples, 4).outputs, atol=1e-3)
    assert not torch.allclose(whole.outputs, objective.outputs(w, samples), atol=1e-3)
    assert whole.shift > 0
    training_mode(objective, w, samples, 5)
    assert all(torch.equal(*pair) for pair in zip(objective.model.buffers(), before, strict=True))
    assert not objective.model.training


def test_a_network_without_batchnorm_says_the_same_in_training_mode():
    objective, w, samples = network("mlp")
    found = training_mode(objective, w, samples, 4)
    assert torch.allclose(found.outputs, objective.outputs(w, samples), atol=1e-12)
    assert found.shift == 0


def view_without_signal(members, others, seed):
    draw = np.random.default_rng(seed)
    posteriors = draw.dirichlet(np.ones(10), (2, members + others))
    return OriginalAndRelease(*posteriors, np.repeat([True, False], [members, others]))


def test_fitting_and_scoring_on_the_same_rows_finds_membership_where_there_is_none():
    found = [attack_on_fitted_rows(view_without_signal(60, 60, seed)) for seed in range(8)]
    honest = [membership_attack(view_without_signal(60, 60, seed), 5, seed) for seed in range(8)]
    assert min(one.auc for one in found) > 0.6
    assert np.mean([one.auc for one in honest]) == pytest.approx(0.5, abs=0.06)


def test_against_the_whole_retained_set_naming_nobody_is_almost_always_right():
    found = attack_on_fitted_rows(view_without_signal(20, 980, 0))
    assert found.majority == pytest.approx(0.98)
    assert found.accuracy == pytest.approx(0.98, abs=0.005)


def test_the_published_attack_finds_what_is_there():
    view = view_without_signal(50, 200, 0)
    released = view.original.copy()
    released[~view.members] = np.random.default_rng(1).dirichlet(np.ones(10), 200)
    found = attack_on_fitted_rows(OriginalAndRelease(view.original, view.original, view.members))
    changed = attack_on_fitted_rows(OriginalAndRelease(view.original, released, view.members))
    assert changed.auc > found.auc
    size = np.abs(view.original - released).sum(axis=1)
    assert roc_auc_score(view.members, -size) == 1.0


#: The two functions that are called, as the departures describe them, in plain PyTorch.
STAND_IN = """
import torch
from torch.nn.functional import cross_entropy


def _norms(model):
    return sum(p.norm() for p in model.parameters())


def grad_batch(loader, lam, model, device):
    total, count, params = 0, 0, list(model.parameters())
    for x, y in loader:
        total, count = total + cross_entropy(model(x), y, reduction="sum"), count + len(y)
    return torch.autograd.grad(total / count + lam * _norms(model), params)


def newton_update(g, batch_size, data, lam, gamma, model, s1, s2, scale, device):
    assert not model.training
    print("noise on the output")
    params = list(model.parameters())
    found = [torch.zeros_like(p) for p in params]
    for _ in range(s1):
        x = [p.clone() for p in g]
        for _ in range(s2):
            rows = [data[row] for row in torch.randint(len(data), (batch_size,)).tolist()]
            inputs, targets = torch.stack([r[0] for r in rows]), torch.stack([r[1] for r in rows])
            loss = cross_entropy(model(inputs), targets) + (lam + gamma) * _norms(model)
            first = torch.autograd.grad(loss, params, create_graph=True)
            image = torch.autograd.grad(sum((a * b).sum() for a, b in zip(first, x)), params)
            x = [c + b - a / scale for a, b, c in zip(image, g, x)]
        found = [a + b / scale for a, b in zip(found, x)]
    return [a / s1 for a in found]
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    (tmp_path / "unlearn.py").write_text(STAND_IN)
    monkeypatch.delitem(sys.modules, "unlearn", raising=False)
    yield tmp_path
    sys.modules.pop("unlearn", None)


def differences(path, dtype):
    """Relative differences of gradient and step between a clone's functions and ours."""
    plain, w, samples = network("mlp", count=40, l2=0.01)
    plain.model.to(dtype)
    w, samples = w.to(dtype), samples.to(dtype=dtype)
    theirs = Official(str(path))
    g = theirs.gradient(plain, w, samples, plain.l2)
    step, rows = theirs.step(plain, w, samples, g, plain.l2, 0.05, CONSTANTS, 0)
    own = TensorNorms(plain.model, plain.l2).gradient(w, samples)
    operator = Hessian(TensorNorms(plain.model, plain.l2 + 0.05), w, samples)
    replayed = replayed_lissa(operator, own, CONSTANTS.scale, rows)
    assert rows.shape == (CONSTANTS.repeats, CONSTANTS.depth, CONSTANTS.batch_size)
    assert len(rows.unique()) > 10
    return ((own - g).norm() / g.norm()).item(), ((replayed - step).norm() / step.norm()).item()


def test_a_stand_in_of_the_authors_functions_is_reproduced(stand_in, capsys):
    state = torch.random.get_rng_state()
    assert max(differences(stand_in, torch.float64)) < 1e-12
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "noise" not in capsys.readouterr().out


def test_a_folder_without_the_code_is_refused():
    with pytest.raises(CduError, match=r"nowhere holds no unlearn\.py"):
        Official("nowhere")


@pytest.mark.skipif("CDU_OFFICIAL" not in os.environ, reason="needs CDU_OFFICIAL, a clone of the authors' repository")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_the_authors_own_functions_are_reproduced(dtype, tolerance, monkeypatch):
    monkeypatch.delitem(sys.modules, "unlearn", raising=False)
    assert max(differences(os.environ["CDU_OFFICIAL"], dtype)) < tolerance
    sys.modules.pop("unlearn", None)
