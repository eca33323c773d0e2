"""A linear classifier that answers requests: against scikit-learn, against retraining, against audits and kills."""

import math
import os
import shutil
import signal
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

import cdu
import cdu.convex as module
from cdu.certification import budget_bound, certify, required_sigma
from cdu.certification.convex import gradient_rounding
from cdu.convex import LOSSES, Linear
from cdu.curvature.minimise import kronecker_preconditioner, minimise
from cdu.data.table import as_table
from cdu.errors import CduError
from cdu.evaluation.audit import audit
from cdu.models.architectures import LogisticRegression as LinearModule
from cdu.models.objective import Objective
from cdu.unlearning import linear_state
from cdu.unlearning.convex_training import train
from cdu.unlearning.ledger import Ledger
from cdu.unlearning.ledger_entries import weights_hash

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
    return minimise(model._objective, model._table.samples(np.asarray(left)), start, 1e-12).w


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
        found = train(model._objective, model._table.samples(model._rows), budget)
        assert found.distance <= 0.11 * budget
        assert (found.w - exact(model, model._rows)).norm() <= found.distance


def test_a_budget_that_float64_cannot_show_is_refused_with_what_it_shows():
    with pytest.raises(CduError, match=r"over 40 rows with l2 = 0.05 only that the minimiser is within \d.*e-1\d, and"):
        linear(budget=1e-14)


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

    def noted(objective, start, *rest):
        starts.append(start)
        return original(objective, start, *rest)

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
    single = as_table(rows.astype(np.float32), labels).samples(np.arange(40))
    double = as_table(rows.astype(np.float32).astype(np.float64), labels).samples(np.arange(40))
    objective = Objective(LinearModule(30, 3).double(), LOSSES[loss], l2=L2, chunk=7)
    w, v = torch.randn(2, 93, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert gradient_rounding(objective, w, single) == gradient_rounding(objective, w, double)
    inverse, theirs = (
        kronecker_preconditioner(objective, w, part, block) for part, block in ((single, 7), (double, None))
    )
    assert torch.allclose(inverse(v), theirs(v), rtol=1e-11, atol=0)
    if loss == "squared":
        assert torch.allclose(inverse(objective.hvp(w, double, v)), v, rtol=1e-9, atol=1e-11)


def test_features_are_read_where_they_lie_unless_they_are_no_floats():
    rows = np.random.default_rng(0).standard_normal((5, 2))
    labels = [0, 1, 0, 1, 1]
    for kind in (np.float32, np.float64):
        own = rows.astype(kind)
        own.flags.writeable = False
        held = as_table(own, np.array(labels)).features
        assert held.data_ptr() == own.ctypes.data
    assert as_table(rows.round().astype(int), np.array(labels)).features.dtype == torch.float64


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
    assert by_index.weights.shape == by_column.weights.shape == (3, 4)
    assert (by_index.w - by_column.w).norm() <= 1e-12


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"ids": []}, "the list of ids is empty"),
        ({"ids": "7"}, "ids is '7'; give a list"),
        ({"ids": ["40", 1, "ghost"]}, "2 ids are in no row, the first is '40'"),
        ({"ids": [1, "1"]}, "the 2 ids name 1 different ones"),
        ({"ids": [1.5]}, "an id is 1.5"),
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
    assert model.released is None
    assert not model.forget(range(39), 1.0, 1e-6).certificate.epsilon > 1 + 1e-9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"l2": 0.0}, "l2 = 0.0 is not a positive"),
        ({"budget": -1.0}, "budget = -1.0 is not a positive"),
        ({"loss": "hinge"}, "the loss is 'hinge'"),
        ({"cap": (1.0, 1e-5)}, "needs a ledger to be kept to; give a state folder"),
        ({"classes": 2}, "the largest label is 2, and classes = 2"),
        ({"ids": range(39)}, "40 rows of features and 39 ids"),
        ({"ids": [""] * 40}, "an id is ''"),
        ({"labels": np.arange(40) - 1}, "a label is -1"),
        ({"labels": np.linspace(0, 1, 40)}, "one whole number for every row"),
        ({"labels": np.zeros(39, dtype=int)}, "40 rows of features and 39 labels"),
        ({"features": np.full((40, 2), np.nan)}, "40 rows of the training set hold NaN"),
        ({"features": np.zeros(40)}, r"the features have the shape \(40,\)"),
        ({"features": np.zeros((1, 2)), "labels": np.zeros(1, dtype=int)}, "there is 1 row; a model needs two"),
        ({"features": pd.DataFrame({"a": np.zeros(40)}), "ids": "user"}, "no column 'user' of ids"),
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
    assert first.entry.before == weights_hash(torch.zeros(15, dtype=torch.float64))
    later = linear(state=tmp_path / "model")
    assert torch.equal(later.released.w, first.w)
    assert later.released.certificate == first.certificate
    second = later.forget([5], 0.5, 1e-6)
    assert (second.entry.number, second.entry.before) == (2, first.entry.after)
    assert second.entry.after == weights_hash(second.w)
    assert not second.entry.retrained
    parts, _ = cdu.storage.read_tensors(tmp_path / "model/releases/0002/weights.safetensors", "")
    assert torch.equal(parts["weights"], second.weights)
    assert torch.equal(parts["bias"], second.bias)
    mu = math.hypot(*(BUDGET / one.certificate.sigma for one in (first, second)))
    assert later.ledger.spent(1e-5).mu == pytest.approx(mu)
    with pytest.raises(CduError, match="id '4' is gone already, by entry 1; leave it out"):
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
    with pytest.raises(CduError, match="id 'row 1' is gone already, by entry 1"):
        without.forget(["row 1"], 1.0, 1e-6)
    with pytest.raises(CduError, match="all rows belong to ids that were deleted"):
        Linear(rows[:3], labels[:3] % 2, ids=names[:3], **given)
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
    "change", [{"l2": 0.1}, {"budget": 2e-3}, {"loss": "squared"}, {"classes": 4}, {"features": 5}]
)
def test_another_model_is_not_continued_from_a_state(tmp_path, change):
    linear(state=tmp_path / "model")
    (name,) = change
    rows, labels = data(features=change.pop("features", 4))
    given = {"l2": L2, "budget": BUDGET, "ids": range(40), **change}
    with pytest.raises(CduError, match=f"was begun with {name} = .*, not "):
        Linear(rows, labels, state=tmp_path / "model", **given)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(CduError, match=r"holds no model's state, but thesis\.tex"):
        linear(state=tmp_path)
    with pytest.raises(CduError, match="holds no model's state, but is a file"):
        linear(state=tmp_path / "thesis.tex")
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
        act()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize(
    ("owner", "name", "after", "counted"),
    [
        (linear_state, "write_tensors", False, False),
        (linear_state, "write_tensors", True, False),
        (Ledger, "record", False, False),
        (Ledger, "_write_head", False, True),
        (Ledger, "record", True, True),
        (linear_state.LinearState, "_finish", False, True),
        (linear_state.LinearState, "_finish", True, True),
    ],
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_kill_at_any_point_leaves_a_whole_release_or_none(tmp_path, owner, name, after, counted):
    folder = tmp_path / "model"
    model = linear(state=folder)
    model.forget([7], 1.0, 1e-6)
    killed(owner, name, after, lambda: model.forget([0, 1], 1.0, 1e-6))
    later = linear(state=folder)
    assert len(later.ledger.entries()) == 1 + counted
    assert sorted(one.name for one in (folder / "releases").iterdir()) == ["0001", "0002"][: 1 + counted]
    assert weights_hash(later.released.w) == later.ledger.entries()[-1].after
    if counted:
        with pytest.raises(CduError, match="gone already, by entry 2"):
            later.forget([0], 1.0, 1e-6)
        assert later.forget([2], 1.0, 1e-6).entry.number == 3
    else:
        assert later.forget([0, 1], 1.0, 1e-6).entry.number == 2


def test_weights_that_are_not_the_ledgers_are_not_continued_from(tmp_path):
    folder = tmp_path / "model"
    model = linear(state=folder)
    model.forget([0], 1.0, 1e-6)
    model.forget([1], 1.0, 1e-6)
    last = folder / "releases/0002/weights.safetensors"
    kept = last.read_bytes()
    last.write_bytes((folder / "releases/0001/weights.safetensors").read_bytes())
    with pytest.raises(CduError, match="does not hold the weights of entry 2"):
        linear(state=folder)
    last.unlink()
    with pytest.raises(CduError, match=r"weights\.safetensors is missing"):
        linear(state=folder)
    last.write_bytes(kept)
    shutil.rmtree(folder / "ledger")
    with pytest.raises(CduError, match="there is no ledger in"):
        linear(state=folder)


def test_nothing_noiseless_is_on_the_disk(tmp_path):
    folder = tmp_path / "model"
    model = linear(state=folder)
    assert not list(folder.rglob("*.safetensors"))
    minimiser = model._start.numpy()
    model.forget([0], 1.0, 1e-6)
    bytes_ = [one.read_bytes() for one in Path(folder).rglob("*") if one.is_file()]
    assert not any(minimiser[:2].tobytes() in one for one in bytes_)
    assert not any(weights_hash(minimiser).encode() in one for one in bytes_)
