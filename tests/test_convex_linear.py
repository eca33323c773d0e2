"""A linear classifier that answers requests: against scikit-learn, against retraining, against audits and kills."""

import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from typer.testing import CliRunner

import cdu
import cdu.convex as module
from cdu.certification import budget_bound, certify, required_sigma
from cdu.certification.convex import gradient_rounding
from cdu.cli import app
from cdu.convex import LOSSES, Linear
from cdu.curvature.minimise import kronecker_preconditioner, minimise
from cdu.data.conversion import as_rows
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.evaluation.audit import audit
from cdu.models.architectures import LogisticRegression as LinearModule
from cdu.models.objective import Objective
from cdu.own_model import state as state_module
from cdu.own_model.release_certificate import ReleaseCertificate
from cdu.own_model.state import State
from cdu.storage import read_tensors
from cdu.unlearning.convex_deletions import distance_foreseen
from cdu.unlearning.convex_training import train
from cdu.unlearning.ledger import Ledger
from cdu.unlearning.ledger_entries import weights_hash
from cdu.unlearning.sealed import read_sealed

L2, BUDGET = 0.05, 1e-3


def data(seed=0, count=40, features=4, classes=3, norm=1.0):
    """Rows no longer than ``norm``, and labels that follow them with noise; every class has a row."""
    draws = np.random.default_rng(seed)
    rows = draws.standard_normal((count, features))
    rows *= np.minimum(1, norm / np.linalg.norm(rows, axis=1, keepdims=True))
    labels = (3 * rows @ draws.standard_normal((features, classes)) + draws.standard_normal((count, classes))).argmax(1)
    labels[:classes] = np.arange(classes)
    return rows, labels


def linear(seed=0, l2=L2, budget=BUDGET, **given):
    shape = {name: given.pop(name) for name in ("count", "features", "classes", "norm") if name in given}
    rows, labels = data(seed, **shape)
    if "state" in given:
        given.setdefault("ids", range(len(rows)))
    return Linear(rows, labels, l2=l2, budget=budget, **given)


def exact(model, left):
    """The minimiser on some rows, as exactly as float64 gives it, from a start of its own."""
    start = torch.full((model._objective.size,), 0.3, dtype=torch.float64)
    left = np.asarray(left, dtype=np.int64)
    samples = replace(model._data, rows=left, ids=left.astype(str)).samples()
    return minimise(model._objective, samples, start, 1e-12).w


def silent(monkeypatch):
    """Noise of zeros, so that what is released is what the noise would be added to."""
    monkeypatch.setattr(module, "draw_noise", lambda w, source: torch.zeros_like(w))


def sklearn_weights(rows, labels, l2):
    """scikit-learn's minimiser: C = 1/(n·l2), and the bias a column of ones that is penalised as all others."""
    wide = np.c_[rows, np.ones(len(rows))]
    theirs = LogisticRegression(
        C=1 / (len(rows) * l2), fit_intercept=False, tol=1e-14, solver="newton-cg", max_iter=9999
    )
    return theirs.fit(wide, labels).coef_


def beside(released):
    return torch.cat([released.weights, released.bias[:, None]], dim=1).numpy()


# --- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["random", "digits"])
def test_the_minimiser_is_scikit_learns(kind, seed, monkeypatch):
    silent(monkeypatch)
    rows, labels = data(seed) if kind == "random" else digits(300, seed)
    model = Linear(rows, labels, l2=L2, budget=1e-9)
    assert np.abs(beside(model.release(1.0, 1e-6)) - sklearn_weights(rows, labels, L2)).max() <= 1e-8


def digits(count, seed=0):
    drawn = np.random.default_rng(seed).permutation(1797)[:count]
    found = load_digits()
    return found.data[drawn] / 16, found.target[drawn]


@pytest.mark.parametrize("seed", range(3))
def test_the_squared_loss_is_ridge_regression_on_one_hot_targets(seed, monkeypatch):
    silent(monkeypatch)
    rows, labels = data(seed)
    model = Linear(rows, labels, l2=L2, budget=1e-9, loss="squared")
    wide = np.c_[rows, np.ones(len(rows))]
    theirs = Ridge(alpha=L2 * len(rows), fit_intercept=False, solver="cholesky").fit(wide, np.eye(3)[labels])
    assert np.abs(beside(model.release(1.0, 1e-6)) - theirs.coef_).max() <= 1e-8


def test_training_ends_a_tenth_of_the_budget_from_the_minimiser():
    for budget in (1e-1, 1e-3, 1e-6):
        model = linear(budget=budget)
        found = train(model._objective, model._data.samples(), budget)
        assert found.distance <= 0.11 * budget
        assert (found.w - exact(model, range(40))).norm() <= found.distance


def test_a_budget_that_float64_cannot_show_is_refused_with_what_it_shows_and_no_state_is_begun(tmp_path):
    with pytest.raises(CduError, match=r"over 40 rows with l2 = 0.05 only that the minimiser is within \d.*e-1\d, and"):
        linear(budget=1e-14, state=tmp_path / "model")
    assert not (tmp_path / "model").exists()


# --- deletions -----------------------------------------------------------------------------------------------------


@pytest.mark.slow  # Two deletions and two references for every example: a third of a second each.
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(4, 40),
    features=st.integers(1, 6),
    classes=st.integers(2, 4),
    norm=st.sampled_from([0.1, 1.0, 10.0]),
    l2=st.sampled_from([1e-3, 0.05, 5.0]),
    budget=st.sampled_from([1e-5, 1e-2]),
    loss=st.sampled_from(["softmax", "squared"]),
    steps=st.integers(0, 2),
    chosen=st.data(),
)
def test_every_release_is_within_the_budget_of_retraining_before_its_noise(
    seed, count, features, classes, norm, l2, budget, loss, steps, chosen
):
    shape = {"count": count, "features": features, "classes": classes, "norm": norm}
    model = linear(seed, l2, budget, loss=loss, **shape)
    left = list(range(count))
    for _ in range(2):
        noise = torch.randn(model._objective.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "draw_noise", lambda w, source, noise=noise: noise)
            gone = chosen.draw(st.lists(st.sampled_from(left), min_size=1, max_size=len(left) - 1, unique=True))
            after = model.forget(gone, 1.0, 1e-6, steps)
        left = [row for row in left if row not in gone]
        before_noise = after.w - after.certificate.sigma * noise
        off = (before_noise - exact(model, left)).norm().item()
        rounding = 1e-14 * (1 + after.w.norm().item())
        assert off <= after.distance + 2e-12 / l2 + rounding
        assert after.distance <= budget
        if len(left) < 2:
            break


@pytest.mark.parametrize("l2", [1e-3, 1e-2])
def test_deletions_from_digits_are_within_the_budget_of_scikit_learns_retraining(l2, monkeypatch):
    silent(monkeypatch)
    rows, labels = digits(400)
    model = Linear(rows, labels, l2=l2, budget=BUDGET)
    left = np.arange(400)
    answers = []
    for gone in ([7], range(20, 40), range(100, 250)):
        after = model.forget(list(gone), 1.0, 1e-6)
        left = np.setdiff1d(left, np.asarray(gone))
        theirs = sklearn_weights(rows[left], labels[left], l2)
        assert np.linalg.norm(beside(after) - theirs) <= BUDGET
        wide = np.c_[rows, np.ones(400)]
        assert after.accuracy(rows, labels) == pytest.approx(np.mean((wide @ theirs.T).argmax(1) == labels), abs=0.003)
        answers.append(after.fallback)
    assert not answers[0]


def test_the_certificate_is_the_budgets_whether_steps_or_training_answered():
    bound = budget_bound(BUDGET)
    sigma = required_sigma(bound, 0.7, 1e-6)
    by_steps = linear().forget([0], 0.7, 1e-6)
    trained = linear().forget([0], 0.7, 1e-6, steps=0)
    assert (by_steps.fallback, trained.fallback) == (False, True)
    for after in (by_steps, trained):
        assert after.certificate.sigma == sigma
        assert after.certificate.epsilon == pytest.approx(0.7)
        assert after.certificate.arithmetic == "float64"
        assert after.certificate.assumptions == certify(bound, sigma, 1e-6).assumptions
    assert not any(f"{name}=" in repr(trained) for name in ("fallback", "steps", "distance", "seconds"))


def test_where_more_rows_go_than_stay_the_model_is_trained_anew(monkeypatch):
    silent(monkeypatch)
    model = linear()
    after = model.forget(list(range(1, 40)), 1.0, 1e-6)
    assert after.fallback
    assert (after.w - exact(model, [0])).norm() <= after.distance <= BUDGET


def test_retraining_from_zero_knows_nothing_of_the_rows_that_are_gone(monkeypatch):
    silent(monkeypatch)
    rows, labels = data()
    other = rows.copy()
    other[:5] = 0.4
    first, second = (Linear(one, labels, l2=L2, budget=BUDGET).forget(range(5), 1.0, 1e-6, 0) for one in (rows, other))
    assert torch.equal(first.w, second.w)


def test_the_next_deletion_starts_from_the_release_and_nothing_noiseless_is_kept(monkeypatch):
    starts, original = [], module.deletion_steps

    def noted(objective, start, *rest, **options):
        starts.append(start)
        return original(objective, start, *rest, **options)

    monkeypatch.setattr(module, "deletion_steps", noted)
    model = linear()
    minimiser = exact(model, range(40))
    first = model.forget([1], 1.0, 1e-6)
    model.forget([2], 1.0, 1e-6)
    assert (starts[0] - minimiser).norm() <= BUDGET
    assert torch.equal(starts[1], first.w)
    kept = [one for one in vars(model).values() if isinstance(one, torch.Tensor)]
    assert all(torch.equal(one, model.released.w) for one in kept)


def test_the_noise_is_fresh_and_has_the_certificates_sigma(monkeypatch):
    rows, labels = digits(200)
    noisy = [Linear(rows, labels, l2=L2, budget=BUDGET).forget([3], 1.0, 1e-6) for _ in range(2)]
    silent(monkeypatch)
    plain = Linear(rows, labels, l2=L2, budget=BUDGET).forget([3], 1.0, 1e-6)
    drawn = [((after.w - plain.w) / after.certificate.sigma).numpy() for after in noisy]
    for noise in drawn:
        assert chi2.ppf(1e-6, 650) < noise @ noise < chi2.ppf(1 - 1e-6, 650)
    assert abs(np.corrcoef(*drawn)[0, 1]) < 0.2


@pytest.mark.parametrize("seed", range(2))
def test_an_audit_does_not_contradict_the_certificate_and_does_where_the_noise_is_a_quarter(seed, monkeypatch):
    """A start that is kept as it is, whose distance to the minimiser is nearly the budget: l2 is all curvature."""
    silent(monkeypatch)
    rows, labels = data(seed)
    distance = Linear(rows, labels, l2=20.0, budget=1e-6).plan([0, 1], 1.0, 1e-5).distance
    model = Linear(rows, labels, l2=20.0, budget=distance * 1.12)
    after = model.forget([0, 1], 1.0, 1e-5, steps=0)
    assert not after.fallback
    reference = exact(model, range(2, 40))
    between = after.w - reference
    assert 0.75 <= between.norm() / model.budget <= 1
    draws = torch.Generator().manual_seed(seed)
    for share, contradicted in ((1.0, False), (0.25, True)):
        trials = [
            (w + share * after.certificate.sigma * torch.randn(4000, len(w), dtype=torch.float64, generator=draws))
            @ (between / between.norm())
            / after.certificate.sigma
            for w in (after.w, reference)
        ]
        found = audit(trials[0][:, None], trials[1][:, None], 1e-5)
        assert found.contradicts(after.certificate.epsilon) == contradicted


def test_an_audit_by_the_model_deletes_nothing_and_finds_what_the_distance_shows():
    model = linear()
    found = model.audit([0, 1], 1.0, 1e-6)
    assert not found.contradicts(1.0)
    assert model.released is None
    assert model.audit([0, 1], 1.0, 1e-6, steps=0).mu_low < 0.1
    # With a budget that is far too small for the step, the trials tell the two apart.
    model.budget, model._bound = 10.0, budget_bound(1e-5)
    assert model.audit([0, 1], 1.0, 1e-6, steps=0).contradicts(1.0)


def test_single_precision_features_give_the_model_of_the_same_numbers_in_double(monkeypatch):
    silent(monkeypatch)
    rows, labels = data()
    single = rows.astype(np.float32)
    kinds = [single, torch.from_numpy(single), single.astype(np.float64), pd.DataFrame(single)]
    found = [Linear(one, labels, l2=L2, budget=1e-9).forget([0], 1.0, 1e-6).w for one in kinds]
    for w in found[1:]:
        assert (w - found[0]).norm() <= 2e-9


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_in_single_precision_are_cast_before_anything_is_computed_from_them(loss):
    rows, labels = data(features=30)
    kept = rows.astype(np.float32)
    single, double = (Samples(as_rows(one), torch.tensor(labels), dtype=torch.float64) for one in (kept, kept * 1.0))
    double = replace(double, inputs=single.inputs.double())
    objective = Objective(LinearModule(30, 3).double(), LOSSES[loss], l2=L2, chunk=7)
    w, v = torch.randn(2, 93, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert gradient_rounding(objective, w, single) == gradient_rounding(objective, w, double)
    foreseen = (distance_foreseen(objective, part, 1e-3, 1, 1e-2) for part in (single, double))
    assert next(foreseen) == next(foreseen)
    inverse, theirs = (
        kronecker_preconditioner(objective, w, part, block) for part, block in ((single, 7), (double, None))
    )
    # Directions alone are in single precision.
    assert torch.allclose(inverse(v), theirs(v), rtol=1e-3, atol=1e-3)
    if loss == "squared":
        assert torch.allclose(theirs(objective.hvp(w, double, v)), v, rtol=1e-9, atol=1e-11)
        assert torch.allclose(inverse(objective.hvp(w, single, v)), v, rtol=1e-3, atol=1e-4)


def test_features_are_read_where_they_lie_unless_they_are_no_floats(tmp_path):
    rows = np.random.default_rng(0).standard_normal((5, 2))
    labels = [0, 1, 0, 1, 1]
    for kind in (np.float32, np.float64):
        own = rows.astype(kind)
        own.flags.writeable = False
        np.save(tmp_path / "rows.npy", own)
        for one in (own, np.load(tmp_path / "rows.npy", mmap_mode="r")):
            held = Linear(one, labels, l2=L2, budget=BUDGET)._data.samples()
            assert (held.inputs.data_ptr(), held.dtype) == (one.ctypes.data, torch.float64)
    for whole in (rows.round().astype(int), pd.DataFrame(rows.round().astype(int))):
        assert Linear(whole, labels, l2=L2, budget=BUDGET)._data.samples().inputs.dtype == torch.float64


# --- ids -----------------------------------------------------------------------------------------------------------


def test_all_rows_of_an_id_go_and_a_class_may_vanish(monkeypatch):
    silent(monkeypatch)
    rows, labels = data()
    users = [f"user {row % 7}" for row in range(40)]
    model = Linear(rows, labels, l2=L2, budget=BUDGET, ids=users)
    after = model.forget(["user 3", "user 5"], 1.0, 1e-6)
    left = [row for row in range(40) if row % 7 not in (3, 5)]
    assert (after.w - exact(model, left)).norm() <= BUDGET
    whole_class = np.flatnonzero(labels == 1).tolist()
    model = Linear(rows, labels, l2=L2, budget=BUDGET)
    after = model.forget(whole_class, 1.0, 1e-6)
    assert (after.w - exact(model, np.flatnonzero(labels != 1))).norm() <= BUDGET
    assert not (after.predict(rows) == 1).any()


def test_a_frame_names_its_ids_by_a_column_or_by_its_index(monkeypatch):
    silent(monkeypatch)
    rows, labels = data()
    frame = pd.DataFrame(rows, index=[f"row {row}" for row in range(40)], columns=list("abcd"))
    by_index = Linear(frame, pd.Series(labels, index=frame.index), l2=L2, budget=BUDGET).forget(["row 4"], 1.0, 1e-6)
    frame["user"] = np.arange(40)
    by_column = Linear(frame, labels, l2=L2, budget=BUDGET, ids="user").forget([4], 1.0, 1e-6)
    frame["label"] = labels
    by_columns = Linear(frame, "label", l2=L2, budget=BUDGET, ids="user").forget([4], 1.0, 1e-6)
    assert by_index.weights.shape == by_column.weights.shape == by_columns.weights.shape == (3, 4)
    assert (by_index.w - by_column.w).norm() <= 1e-12
    assert (by_index.w - by_columns.w).norm() <= 1e-12


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"ids": []}, r"ids is \[\]; give a list with"),
        ({"ids": "7"}, "ids is '7'; give a list"),
        ({"ids": ["40", 1, "ghost"]}, "2 of 3 ids are in no row: '40', 'ghost'; give ids of the data"),
        ({"ids": [1, "1"]}, "the 2 ids name 1 different ones"),
        ({"ids": [1.5]}, "the id of row 0 is 1.5"),
        ({"ids": range(40)}, "the request names all 40 rows; delete the model"),
        ({"delta": 0.025}, "delta = 0.025 is not below one over the number of rows, 40"),
        ({"delta": 0.0}, "delta = 0.0 is not between"),
        ({"epsilon": 0.0}, "epsilon = 0.0 is not a positive"),
        ({"steps": -1}, "steps = -1 is not a whole number"),
    ],
)
def test_a_request_that_cannot_be_answered_changes_nothing(request_, words):
    model = linear()
    wanted = {"ids": [0], "epsilon": 1.0, "delta": 1e-6, **request_}
    with pytest.raises(CduError, match=words):
        model.forget(**wanted)
    assert model.released is model.pending is None
    assert not model.forget(range(39), 1.0, 1e-6).certificate.epsilon > 1 + 1e-9


def test_a_request_that_fails_while_it_is_computed_is_withdrawn(monkeypatch):
    model = linear()

    def refuse(*given):
        raise CduError("the noise does not show")

    with monkeypatch.context() as patch:
        patch.setattr(module, "expect_noise_shows", refuse)
        with pytest.raises(CduError, match="does not show"):
            model.forget([0], 1.0, 1e-6)
    assert model.pending is None
    assert model.forget([1], 1.0, 1e-6).entry.number == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"l2": 0.0}, "l2 = 0.0 is not a positive"),
        ({"budget": -1.0}, "budget = -1.0 is not a positive"),
        ({"loss": "hinge"}, "the loss is 'hinge'"),
        ({"classes": 2}, "the largest label is 2, and classes = 2"),
        ({"ids": range(39)}, "40 rows and 39 ids"),
        ({"ids": [""] * 40}, r"the id of row 0 is missing \(''\)"),
        ({"labels": np.arange(40) - 1}, "a label is -1"),
        ({"labels": np.linspace(0, 1, 40)}, "one whole number for every row"),
        ({"labels": np.zeros(39, dtype=int)}, "40 inputs and 39 targets"),
        ({"features": np.full((40, 2), np.nan)}, "40 rows of the training set hold NaN"),
        ({"features": np.zeros(40)}, r"the features have the shape \(40,\)"),
        ({"features": np.zeros((1, 2)), "labels": np.zeros(1, dtype=int)}, "there is 1 row; a model needs two"),
        ({"features": pd.DataFrame({"a": np.zeros(40)}), "ids": "user"}, "no column 'user'"),
    ],
)
def test_what_no_model_can_be_trained_on_is_refused(change, words):
    rows, labels = data()
    given = {"features": rows, "labels": labels, "l2": L2, "budget": BUDGET, **change}
    with pytest.raises(CduError, match=words):
        Linear(given.pop("features"), given.pop("labels"), **given)


def test_predictions_are_refused_for_other_features():
    after = linear().forget([0], 1.0, 1e-6)
    with pytest.raises(CduError, match="the rows have 3 features, and the model was trained on 4"):
        after.predict(np.zeros((2, 3)))
    with pytest.raises(CduError, match="2 rows of features and 1 labels"):
        after.accuracy(np.zeros((2, 4)), np.zeros(1, dtype=int))


# --- plans and the first release -----------------------------------------------------------------------------------


def test_a_plan_deletes_nothing_and_says_what_the_noise_will_be():
    model = linear()
    plan = model.plan([0, 1], 1.0, 1e-6)
    assert model.released is None
    after = model.forget([0, 1], 1.0, 1e-6)
    assert (plan.gone, plan.left, plan.sigma) == (2, 38, after.certificate.sigma)
    assert plan.noise_norm == pytest.approx(plan.sigma * math.sqrt(15))
    assert "2 go, 38 are left" in str(plan)


@pytest.mark.parametrize("loss", ["softmax", "squared"])
def test_a_plan_that_says_the_budget_is_kept_is_right(loss):
    said = []
    for seed in range(2):
        for l2 in (1e-2, 1.0, 20.0):
            for steps in (0, 1, 2):
                model = linear(seed, l2, 1e-4, loss=loss)
                kept = model.plan([0], 1.0, 1e-6, steps).kept
                said.append(kept)
                assert not (kept and model.forget([0], 1.0, 1e-6, steps).fallback)
    assert {True, False} == set(said)


def test_the_first_release_has_the_noise_and_no_certificate_and_comes_before_requests():
    model = linear()
    first = model.release(1.0, 1e-6)
    assert first.certificate is None
    sigma = required_sigma(budget_bound(BUDGET), 1.0, 1e-6)
    off = (first.w - exact(model, range(40))).norm().item()
    assert 0.2 * sigma * math.sqrt(15) < off < 3 * sigma * math.sqrt(15)
    model.forget([0], 1.0, 1e-6)
    with pytest.raises(CduError, match=r"1 ids were deleted already, .* publish the attribute released"):
        model.release(1.0, 1e-6)


# --- state ---------------------------------------------------------------------------------------------------------


def test_every_release_is_in_the_ledger_and_on_the_disk_and_a_later_program_goes_on(tmp_path):
    model = linear(state=tmp_path / "model", cap=(5.0, 1e-5))
    first = model.forget([3, 4], 1.0, 1e-6)
    assert model.ledger.entries() == (first.entry,)
    zeros = {"weight": torch.zeros(3, 4, dtype=torch.float64), "bias": torch.zeros(3, dtype=torch.float64)}
    assert first.entry.before == weights_hash(zeros)
    later = linear(state=tmp_path / "model")
    assert torch.equal(later.released.w, first.w)
    assert later.released.certificate == first.certificate
    second = later.forget([5], 0.5, 1e-6)
    assert (second.entry.number, second.entry.before) == (2, first.entry.after)
    assert second.entry.after == weights_hash(second.tensors)
    assert not second.entry.retrained
    parts, _ = read_tensors(second.folder / "weights.safetensors", "")
    torch.nn.Linear(4, 3).double().load_state_dict(parts)
    assert torch.equal(parts["weight"], second.weights)
    assert torch.equal(parts["bias"], second.bias)
    mu = math.hypot(*(BUDGET / one.certificate.sigma for one in (first, second)))
    assert later.ledger.spent(1e-5).mu == pytest.approx(mu)
    with pytest.raises(CduError, match="1 of the 2 ids are gone already, such as '4' by release 1; leave them out"):
        later.forget([6, 4], 1.0, 1e-6)


def test_a_later_program_may_be_given_the_rows_that_are_gone_or_not(tmp_path, monkeypatch):
    silent(monkeypatch)
    rows, labels = data()
    names = [f"row {row}" for row in range(40)]
    given = {"l2": L2, "budget": BUDGET, "state": tmp_path / "model"}
    Linear(rows, labels, ids=names, **given).forget(["row 0", "row 1"], 1.0, 1e-6)
    shutil.copytree(tmp_path / "model", tmp_path / "copy")
    still = Linear(rows, labels, ids=names, **given)
    without = Linear(rows[2:], labels[2:], ids=names[2:], **given | {"state": tmp_path / "copy"})
    found = [model.forget(["row 2"], 1.0, 1e-6) for model in (still, without)]
    for after in found:
        assert (after.w - exact(still, range(3, 40))).norm() <= BUDGET
    with pytest.raises(CduError, match="such as 'row 1' by release 1"):
        without.forget(["row 1"], 1.0, 1e-6)
    with pytest.raises(CduError, match="all rows belong to ids that were deleted"):
        Linear(rows[:3], labels[:3], ids=names[:3], **given)
    with pytest.raises(CduError, match="rows' numbers would name other rows once"):
        Linear(rows, labels, **given)


def test_the_number_of_classes_stays_when_a_class_vanishes(tmp_path):
    rows, labels = data()
    order = np.argsort(labels, kind="stable")
    rows, labels = rows[order], labels[order]
    given = {"l2": L2, "budget": BUDGET, "state": tmp_path / "model"}
    names = np.arange(40)
    Linear(rows, labels, ids=names, **given).forget(names[labels == 2].tolist(), 1.0, 1e-6)
    left = labels < 2
    assert Linear(rows[left], labels[left], ids=names[left], **given).classes == 3


def test_a_release_beyond_the_cap_is_refused_and_can_be_asked_for_with_more_noise(tmp_path):
    model = linear(state=tmp_path / "model", cap=(1.0, 1e-5))
    first = model.forget([0], 0.9, 1e-5)
    with pytest.raises(CduError, match="nothing was recorded: release nothing, take more noise"):
        model.forget([1], 0.9, 1e-5)
    assert model.released is first
    second = model.forget([1], 0.1, 1e-5)
    assert second.entry.number == 2
    assert sorted(one.name for one in (tmp_path / "model/releases").iterdir()) == ["0001", "0002"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"l2": 0.1}, "was begun with l2 = 0.05, not 0.1"),
        ({"budget": 2e-3}, "was begun with budget = 0.001, not 0.002"),
        ({"loss": "squared"}, "was begun with loss = softmax, not squared"),
        ({"cap": (1.0, 1e-5)}, "was begun with no budget, not with"),
        ({"classes": 4}, r"'bias' is float64 of shape \(4,\), and the state was begun with float64 of shape \(3,\)"),
        ({"features": 5}, r"'weight' is float64 of shape \(3, 5\), and the state was begun with .* \(3, 4\)"),
    ],
)
def test_another_model_is_not_continued_from_a_state(tmp_path, change, words):
    linear(state=tmp_path / "model")
    rows, labels = data(features=change.get("features", 4))
    given = {"l2": L2, "budget": BUDGET, "ids": range(40)} | {k: v for k, v in change.items() if k != "features"}
    with pytest.raises(CduError, match=words):
        Linear(rows, labels, state=tmp_path / "model", **given)


def test_a_network_and_a_linear_model_do_not_share_a_state(tmp_path):
    linear(state=tmp_path / "linear")
    rows, labels = data()
    network, task = torch.nn.Linear(4, 3).double(), cdu.Task(torch.nn.functional.cross_entropy)
    rest = task, cdu.as_data(rows, labels, ids=range(40))
    with pytest.raises(CduError, match=r"was begun with budget = 0\.001, not None"):
        cdu.Unlearner(network, *rest, l2=L2, state=tmp_path / "linear")
    cdu.Unlearner(network, *rest, l2=L2, state=tmp_path / "network")
    for classes in (None, 3):
        with pytest.raises(CduError, match=r"is no linear model's|was begun with budget = None"):
            Linear(rows, labels, l2=L2, budget=BUDGET, ids=range(40), classes=classes, state=tmp_path / "network")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("words")
    for folder in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(CduError, match="there is no state in"):
            linear(state=folder)
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_objects_do_not_answer_from_one_state(tmp_path):
    first, second = (linear(state=tmp_path / "model") for _ in range(2))
    first.forget([0], 1.0, 1e-6)
    with pytest.raises(CduError, match=r"has 1 releases, and this object knows 0: .*; make the object anew"):
        second.forget([1], 1.0, 1e-6)
    assert len(first.ledger.entries()) == 1


def killed(owner, name, after, act):
    """Run ``act`` in a process that is killed when a function is called, or has been."""
    child = os.fork()
    if child == 0:
        original = getattr(owner, name)

        def deadly(*given, **named):
            if after:
                original(*given, **named)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, deadly)
        try:
            act()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize(
    ("owner", "name", "after", "pending", "counted"),
    [
        (Linear, "_without", True, True, False),
        (state_module, "write_weights", True, True, False),
        (Ledger, "record_hashed", True, False, True),
        (State, "commit", True, False, True),
    ],
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_kill_leaves_a_whole_release_or_a_request_that_can_be_resumed(tmp_path, owner, name, after, pending, counted):
    """State's own tests kill after every operation; these look at what a linear model makes of it."""
    folder = tmp_path / "model"
    model = linear(state=folder)
    model.forget([7], 1.0, 1e-6)
    killed(owner, name, after, lambda: linear(state=folder).forget([0, 1], 0.5, 1e-6, steps=3))
    later = linear(state=folder)
    assert (len(later.ledger.entries()), later.pending is not None) == (1 + counted, pending)
    assert weights_hash(later.released.tensors) == later.ledger.entries()[-1].after
    if pending:
        with pytest.raises(CduError, match=r"another request is pending in .*; resume it, or withdraw it"):
            later.forget([2], 1.0, 1e-6)
        again = later.resume()
        assert (again.entry.number, again.entry.ids) == (2, tuple(sorted(later.ledger.hashed([0, 1]))))
        assert again.certificate.epsilon == pytest.approx(0.5)
        assert read_sealed(ReleaseCertificate, again.folder / "certificate.json").options == {"steps": 3}
    else:
        again = later.forget([0, 1], 1.0, 1e-6)
        assert torch.equal(again.w, later.released.w)
        assert again.seconds is None
    assert later.pending is None
    assert later.forget([2], 1.0, 1e-6).entry.number == 3


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_first_request_can_be_resumed_or_withdrawn_and_needs_its_rows(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    model = linear(state=folder)
    with pytest.raises(CduError, match="no request is pending"):
        model.resume()
    with pytest.raises(CduError, match="no request is pending"):
        model.withdraw()
    killed(State, "commit", False, lambda: linear(state=folder).forget([0, 1], 1.0, 1e-6))
    shutil.copytree(folder, tmp_path / "copy")
    rows, labels = data()
    given = {"l2": L2, "budget": BUDGET, "classes": 3}
    with pytest.raises(CduError, match="2 of the 2 ids of the pending request are in no row"):
        Linear(rows[2:], labels[2:], ids=range(2, 40), state=folder, **given).resume()
    silent(monkeypatch)
    again = linear(state=folder).resume()
    assert (again.w - exact(model, range(2, 40))).norm() <= BUDGET
    other = linear(state=tmp_path / "copy")
    other.withdraw()
    assert other.pending is None
    assert other.forget([5], 1.0, 1e-6).entry.number == 1


def test_a_wrong_or_emptied_folder_begins_no_new_budget(tmp_path):
    folder = tmp_path / "model"
    linear(state=folder, cap=(1.0, 1e-5), loss="squared").forget([0], 0.9, 1e-5)
    rows, labels = data()
    later = Linear.load(folder, rows, labels, ids=range(40))
    assert (later.l2, later.budget, later.classes, later.ledger.cap.epsilon) == (L2, BUDGET, 3, 1.0)
    assert later.forget([1], 0.1, 1e-5).entry.number == 2
    with pytest.raises(CduError, match="there is no state in"):
        Linear.load(tmp_path / "modle", rows, labels, ids=range(40))
    assert not (tmp_path / "modle").exists()
    for emptied in (True, False):
        shutil.rmtree(folder / "ledger")
        if emptied:
            (folder / "ledger").mkdir()
        with pytest.raises(CduError, match=r"there is no (ledger|state) in"):
            linear(state=folder, cap=(1.0, 1e-5), loss="squared")
        assert not (folder / "ledger/settings.json").exists()


def test_weights_that_are_not_the_ledgers_are_not_continued_from(tmp_path):
    folder = tmp_path / "model"
    model = linear(state=folder)
    model.forget([0], 1.0, 1e-6)
    model.forget([1], 1.0, 1e-6)
    last = folder / "releases/0002/weights.safetensors"
    last.write_bytes((folder / "releases/0001/weights.safetensors").read_bytes())
    with pytest.raises(CduError, match="does not hold the weights that were recorded"):
        linear(state=folder)
    found = CliRunner().invoke(app, ["check", str(folder)])
    assert found.exit_code == 1


def test_the_command_line_checks_a_linear_models_state_and_lists_its_releases(tmp_path):
    folder = str(tmp_path / "model")
    model = linear(state=folder, cap=(3.0, 1e-5))
    assert CliRunner().invoke(app, ["check", folder]).exit_code == 0
    model.forget([0], 1.0, 1e-6)
    found = CliRunner().invoke(app, ["check", folder])
    assert (found.exit_code, "is whole" in found.output) == (0, True)
    assert f"{module.METHOD}, ids: 1" in CliRunner().invoke(app, ["ledger", folder]).output


def test_what_is_handed_out_does_not_tell_whether_steps_were_enough(tmp_path):
    """Certificates and pages of two releases, one by steps and one by training, differ in nothing but these."""
    kept = {}
    for l2 in (L2, 1e-4):
        model = linear(l2=l2, state=tmp_path / f"{l2}")
        after = model.forget([0, 1], 1.0, 1e-6, steps=2)
        kept[after.fallback] = read_sealed(ReleaseCertificate, after.folder / "certificate.json")
        page = (after.folder / "release.html").read_text(encoding="utf-8")
        assert "Took" not in page
        assert "the exact minimiser of the loss on the retained set" in page
        assert "2 rows of 40 rows; 38 rows are left" in page
        assert module.NOTE in page
    changing = {"hash", "page", "date", "weights", "entry", "ids"}
    by_steps, by_training = (kept[fallback].model_dump(exclude=changing) for fallback in (False, True))
    assert by_steps == by_training


def test_nothing_noiseless_is_on_the_disk(tmp_path):
    folder = tmp_path / "model"
    model = linear(state=folder)
    (first,) = folder.rglob("*.safetensors")
    assert not any(part.any() for part in read_tensors(first, "")[0].values())
    minimiser = module.LinearModel(model._start, 3)
    hashes = [weights_hash(minimiser.tensors).encode(), weights_hash(minimiser.w).encode()]
    for turn in range(2):
        bytes_ = [one.read_bytes() for one in Path(folder).rglob("*") if one.is_file()]
        assert not any(minimiser.w.numpy()[:2].tobytes() in one for one in bytes_)
        assert not any(digest in one for digest in hashes for one in bytes_)
        model.forget([turn], 1.0, 1e-6)
