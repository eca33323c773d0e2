"""A linear classifier that trains, deletes rows on request, and certifies every deletion.

It is for features that never saw the data: values scaled by fixed constants, or outputs of a network of other data.

Example:
    >>> features = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    >>> labels = (features[:, 0] > 0.5).long()
    >>> model = Linear(features, labels, l2=0.01, budget=1e-3)  # state="folder" and ids=users to come back later
    >>> after = model.forget([17], epsilon=1.0, delta=1e-6)
    >>> print(after.promise)
    ε = 1, δ = 1e-06
"""

import math
import os
import secrets
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cdu.certification import budget_bound, certify, required_sigma
from cdu.certification.rounding import computed
from cdu.checks import expect, expect_delta, expect_positive
from cdu.data.source import Data, as_features
from cdu.errors import CduError
from cdu.evaluation.audit import Audit, audit
from cdu.evaluation.audit_trials import shifted
from cdu.models.architectures import LogisticRegression
from cdu.models.losses import squared_error
from cdu.models.objective import Loss, Objective
from cdu.own_model.release_certificate import Facts
from cdu.own_model.state import State
from cdu.own_model.state_files import Request, StateSettings, settings_in
from cdu.own_model.state_rows import ids_of, rows_left, rows_to_go
from cdu.seeding import generator, secret_generator
from cdu.unlearning.convex_deletions import deletion_steps, distance_at_most, distance_foreseen
from cdu.unlearning.convex_training import Training
from cdu.unlearning.linear_release import GRADIENTS, Deleted, LinearModel, LinearPlan
from cdu.unlearning.noise import draw_noise, expect_noise_shows

LOSSES: dict[str, Loss] = {"softmax": cross_entropy, "squared": squared_error}

#: The method in words. They are the same whether a request was answered by steps or by training.
METHOD = "Newton steps on a linear model, or training anew, within a budget"

#: What a reader of a release should know of every linear model, whatever was deleted.
NOTE = "The certificate is about the linear model; nothing that makes its features may have been fitted on the data."

#: Whose rows a request names.
Ids = Sequence[str | int]


class Linear:
    """A linear classifier with a bias that answers requests to delete rows, each with a certificate.

    It minimises L(w) = mean loss + (l2/2)‖w‖², the bias included, in float64. Whatever the data, L is l2-strongly
    convex, so that ‖w − w*‖ ≤ ‖∇L(w)‖/l2: a computed gradient bounds the distance to the exact minimiser. A release is
    a model whose distance keeps the budget Δ, plus Gaussian noise for Δ (:func:`~cdu.certification.budget_bound`).

    **What is kept.** Before the first deletion the object keeps the minimiser on all rows, in memory alone: the state's
    folder has zeros in its place, and a later program computes it anew. After a deletion the object keeps the release,
    with its noise, and the next deletion starts from there; the noiseless model is dropped. A noiseless model would be
    within Δ of the exact one, but its last digits would still depend on the deleted rows. Later models come from the
    release and the rows left. The rows themselves are the caller's: delete them where they are stored.

    **Several requests.** Each has the whole budget Δ and noise of its own. What all promise together is the ledger's
    business: μ = √(Σ (Δ/σ_i)²).

    Memory: features are read where they are and cast to float64 a block at a time. A deletion copies the rows left, in
    the features' own type. Between products in float64 up to 1 GiB of blocks is kept on a CPU. Neither features nor
    labels may be changed while the object is in use.

    Args:
        features: Numbers of shape (n, features), n ≥ 2: a tensor, an array, a memory map, or a pandas frame. Nothing
            may have been fitted on the rows before, no scaler either: a deletion would leave that as it was.
        labels: Class numbers from 0, shape (n,); for a frame also the name of their column. A class may lose all its
            rows.
        l2: The weight of (l2/2)‖w‖², above 0, fixed before the data were seen.
        budget: Δ, fixed before the data were seen. Noise is proportional to it; a smaller one means more work, and
            below what float64 can show nothing is possible.
        ids: Whose row it is: text or whole numbers, several rows may have the same; for a frame also the name of a
            column. When None, a frame's index, and else "0", "1", and so on; a state's folder needs ids or a frame.
        loss: "softmax" for cross-entropy, "squared" for half the squared distance to the one-hot target.
        classes: K. When None one more than the largest label, at least 2; then the number of weights itself depends
            on the rows, so name it where it is known.
        state: The state's folder (:class:`~cdu.own_model.state.State`), with which a later program goes on; a temporary
            one, gone with this object, when None. Rows of ids that were deleted are left out, whether the data still
            hold them or not.
        cap: The budget (ε, δ) that all releases together keep to; none when None.

    Attributes:
        released: The last release; None before the first.
        folder: The state's folder.
        ledger: What was released and promised.

    Raises:
        CduError: An argument is unusable, float64 cannot show that training kept the budget, or the state is of another
            model.
    """

    def __init__(
        self,
        features: Any,
        labels: Any,
        *,
        l2: float,
        budget: float,
        ids: Any = None,
        loss: Literal["softmax", "squared"] = "softmax",
        classes: int | None = None,
        state: str | os.PathLike[str] | None = None,
        cap: tuple[float, float] | None = None,
    ) -> None:
        expect_positive(l2=l2, budget=budget)
        expect(loss in LOSSES, f"the loss is {loss!r}; it is 'softmax' or 'squared'")
        expect(
            state is None or ids is not None or hasattr(features, "columns"),
            "a state knows deleted rows by their ids, and none were given; give ids, since rows' numbers would name "
            "other rows once some are gone",
        )
        data = as_features(features, labels, ids)
        expect(len(data) >= 2, f"there is {len(data)} row; a model needs two, to be left with one")
        self._temporary = None if state is not None else tempfile.TemporaryDirectory(prefix="cdu-linear-")
        self.folder = (
            Path(state) if state is not None else Path(str(self._temporary and self._temporary.name)) / "state"
        )
        samples = data.samples()
        columns, largest = samples.inputs.shape[1], int(samples.targets.max())
        held = settings_in(self.folder)
        if classes is None:
            classes = max(2, largest + 1) if held is None else _classes(held)
        expect(
            classes >= 2 and largest < classes,
            f"the largest label is {largest}, and classes = {classes}; classes are numbered from 0, and two at least",
        )
        self.classes, self.l2, self.budget = classes, l2, budget
        # What rounding may hide is counted where a distance is held against the budget.
        self._bound = computed(budget_bound(budget), "float64", rounding=0.0)
        linear = LogisticRegression(columns, classes).to(data.device, torch.float64)
        self._objective = Objective(linear, LOSSES[loss], l2=l2)
        self._training = Training(self._objective, budget)
        # No state is begun for a model that cannot keep the budget.
        start = self._training.minimiser(samples).w if held is None else None
        settings = StateSettings(l2=l2, radius=None, delta=1e-5 if cap is None else cap[1], budget=budget, loss=loss)
        zeros = LinearModel(torch.zeros(self._objective.size, dtype=torch.float64), classes)
        self._state = State.begin_or_open(self.folder, settings, zeros.tensors, cap)
        self.ledger = self._state.ledger
        self.released: LinearModel | None = None
        self._data = rows_left(self._state, data)
        expect(len(self._data) > 0, "all rows belong to ids that were deleted; give the data that are left")
        if self._state.number > 0:
            self.released = self._read_back()
            start = self.released.w
        self._start = self._training.minimiser(self._data.samples()).w if start is None else start

    @classmethod
    def load(cls, folder: str | os.PathLike[str], features: Any, labels: Any, *, ids: Any = None) -> "Linear":
        """Go on with a state that is there: l2, Δ, loss, classes and cap are read from it, and none is begun.

        Args:
            folder: The state's folder.
            features: As for :class:`Linear`, and so are labels and ids.
            labels: The same.
            ids: The same.

        Raises:
            CduError: There is no state of a linear model in the folder, or as for :class:`Linear`.
        """
        kept = settings_in(Path(folder))
        if kept is None:
            raise CduError(f"there is no state in {folder}; give its folder, or begin one with Linear(..., state=...)")
        given: dict[str, Any] = {"classes": _classes(kept), "l2": kept.l2, "budget": kept.budget, "loss": kept.loss}
        return cls(features, labels, ids=ids, state=folder, **given)

    def release(self, epsilon: float, delta: float = 1e-5) -> LinearModel:
        """The model on all rows with the noise that a deletion for (ε, δ) gets, to be published before any request.

        It has no certificate, and no ledger notes it. It was computed with all rows, and the certificate of a later
        deletion does not speak of it: whoever kept this release still has what it says of the deleted rows.

        Args:
            epsilon: ε.
            delta: δ.

        Raises:
            CduError: Rows were deleted already: the model to publish is ``released``. Or ε or δ is unusable.
        """
        gone = self._state.gone()
        expect(
            not gone,
            f"{len(gone)} ids were deleted already, and this would be another model than the certified one; "
            "publish the attribute released",
        )
        self.released = LinearModel(self._noisy(self._start, self._sigma(epsilon, delta)), self.classes)
        return self.released

    def forget(self, ids: Ids, epsilon: float, delta: float = 1e-5, steps: int = 2) -> Deleted:
        """Delete all rows of these ids, and give the model without them, with noise for (ε, δ).

        Newton steps start from the last release (from the minimiser, before the first deletion) and end as soon as the
        gradient on the rows left shows a distance of at most Δ. Where ``steps`` of them do not, or where more rows go
        than are left, the model is trained anew from zero, to Δ/10. Noise, certificate and entry are the same.

        The request is written down before anything is computed, and the release and its entry are on the disk when this
        returns. A request that was cut off is finished by :meth:`resume`. The last request is not answered twice: its
        release is read back. The first entry's hash "before" is that of zeros: that of the noiseless minimiser would
        tell of its rows.

        Args:
            ids: Whose rows go, each once.
            epsilon: ε of this release alone.
            delta: δ of this release alone, below 1/n.
            steps: Newton steps at most; 0 for none.

        Raises:
            CduError: An id has no row, or is gone already; no row would be left; ε, δ or ``steps`` is unusable; another
                request is pending; the release would exceed the cap; or the budget Δ cannot be kept. Nothing is
                released then, and the request is withdrawn.
        """
        began = time.perf_counter()
        with self._state.locked():
            self._expect_current()
            if self._state.answered(ids) is not None:
                return self._read_back()
            gone, left, sigma = self._asked(ids, epsilon, delta, steps)
            self.ledger.expect_room(self._bound.sensitivity / sigma)
            request = self._state.begin_request(ids, METHOD, epsilon, delta, {"steps": steps})
            try:
                w, distance, taken, fallback = self._without(gone, left, steps)
                after = LinearModel(self._noisy(w, sigma), self.classes)
                # The time would tell whether the steps had been enough.
                facts = Facts(rows_deleted=len(gone), rows_retained=len(left), seconds=None, note=NOTE)
                certificate = certify(self._bound, sigma, delta)
                entry = self._state.commit(request, after.tensors, certificate, "", 0.0, False, facts)
            except CduError:
                self._state.withdraw_request()
                raise
            folder = self._state.release_folder(entry.number)
            self._data, self._start = left, after.w
            seconds = time.perf_counter() - began
            released = Deleted(after.w, self.classes, entry, folder, fallback, taken, distance, seconds)
            self.released = released
        return released

    @property
    def pending(self) -> Request | None:
        """The request that was cut off before it was answered; None where there is none."""
        return self._state.pending()

    def resume(self) -> Deleted:
        """Finish the request that was cut off, with the promise that it asked for.

        Raises:
            CduError: There is none, the data do not hold its rows, or as for :meth:`forget`.
        """
        request = self._pending()
        steps = request.options["steps"]
        assert request.epsilon is not None
        assert isinstance(steps, int)
        return self.forget(ids_of(self._state, request, self._data), request.epsilon, request.delta, steps)

    def withdraw(self) -> None:
        """Give up the request that was cut off; nothing of it is kept.

        Raises:
            CduError: There is none.
        """
        self._pending()
        self._state.withdraw_request()

    def plan(self, ids: Ids, epsilon: float, delta: float = 1e-5, steps: int = 2) -> LinearPlan:
        """What :meth:`forget` would do to these rows, from a gradient; nothing is deleted.

        Where :func:`~cdu.unlearning.convex_deletions.distance_foreseen` is within Δ the budget is proven to be kept.

        Args:
            ids: Whose rows would go.
            epsilon: ε.
            delta: δ.
            steps: Newton steps at most.

        Raises:
            CduError: As for :meth:`forget`.
        """
        gone, left, sigma = self._asked(ids, epsilon, delta, steps)
        samples = left.samples()
        residual = self._objective.gradient(self._start, samples).norm().item()
        # The first gradient also takes what is done once.
        began = time.perf_counter()
        self._objective.gradient(self._start, samples)
        seconds = time.perf_counter() - began
        distance = distance_at_most(self._objective, self._start, samples, residual)
        hidden = distance_at_most(self._objective, self._start, samples, 0.0)
        proven = distance_foreseen(self._objective, samples, residual, steps, self.budget)
        return LinearPlan(
            gone=len(gone),
            left=len(left),
            sigma=sigma,
            noise_norm=sigma * math.sqrt(self._objective.size),
            weights_norm=self._start.norm().item(),
            distance=distance,
            kept=len(gone) <= len(left) and proven + hidden <= self.budget,
            seconds=GRADIENTS * steps * seconds,
        )

    def audit(
        self, ids: Ids, epsilon: float, delta: float = 1e-5, steps: int = 2, trials: int = 4000, seed: int = 0
    ) -> Audit:
        """Try to tell the release of a deletion from a retrained model with the same noise; nothing is deleted.

        The adversary knows both models and looks along the line between them, where the noise is N(0, σ²). It is drawn
        anew for every trial, from ``seed``, and nothing of it is released.

        Args:
            ids: Whose rows would go.
            epsilon: ε.
            delta: δ.
            steps: Newton steps at most.
            trials: Releases, and as many retrained models.
            seed: Seed of the trials.

        Raises:
            CduError: As for :meth:`forget`, or there are too few trials.
        """
        gone, left, sigma = self._asked(ids, epsilon, delta, steps)
        released, _, _, _ = self._without(gone, left, steps)
        retrained = self._training.minimiser(left.samples()).w
        shift = (released - retrained).norm().item() / sigma
        return audit(*shifted(shift, trials, generator(seed, "audit")), delta)

    def _read_back(self) -> Deleted:
        """The state's last release."""
        tensors, number = self._state.weights(), self._state.number
        w = torch.cat([tensors["weight"].reshape(-1), tensors["bias"]]).to(self._data.device)
        return Deleted(w, self.classes, self.ledger.entries()[-1], self._state.release_folder(number))

    def _pending(self) -> Request:
        request = self.pending
        if request is None:
            raise CduError(f"no request is pending in {self.folder}; ask by forget(ids, epsilon, delta)")
        return request

    def _expect_current(self) -> None:
        """Refuse to go on from a model that is not the state's last."""
        known = self.released.entry.number if isinstance(self.released, Deleted) else 0
        expect(
            known == self._state.number,
            f"{self.folder} has {self._state.number} releases, and this object knows {known}: another program "
            "answered a request, or one was interrupted; make the object anew",
        )

    def _asked(self, ids: Ids, epsilon: float, delta: float, steps: int) -> tuple[Data, Data, float]:
        """The rows that go, those that are left, and σ, where the request can be answered."""
        expect(isinstance(steps, int) and steps >= 0, f"steps = {steps} is not a whole number of at least 0")
        rows = rows_to_go(self._state, self._data, ids)
        left = np.setdiff1d(np.arange(len(self._data)), rows)
        expect(len(left) > 0, f"the request names all {len(rows):,} rows; delete the model instead")
        return self._data.subset(rows), self._data.subset(left), self._sigma(epsilon, delta)

    def _sigma(self, epsilon: float, delta: float) -> float:
        count = len(self._data)
        expect_positive(epsilon=epsilon)
        expect_delta(delta)
        expect(
            delta < 1 / count,
            f"delta = {delta:g} is not below one over the number of rows, {count:,}: so much would let a row be "
            "published outright; choose far less",
        )
        return required_sigma(self._bound, epsilon, delta)

    def _without(self, gone: Data, left: Data, steps: int) -> tuple[Tensor, float, int, bool]:
        """Weights within the budget on the rows left, their distance at most, the steps, and whether by retraining."""
        objective, retain = self._objective, left.samples()
        if len(gone) <= len(left):
            inverse = self._training.preconditioner(self._start, retain) if steps else None
            common = (objective, self._start, retain, gone.samples(), steps, self.budget, inverse)
            for found in deletion_steps(*common, accuracy=None):
                if not found.fallback:
                    return found.iterate, found.distance, found.steps, False
        trained = self._training.minimiser(retain)
        return trained.w, trained.distance, trained.steps, True

    def _noisy(self, w: Tensor, sigma: float) -> Tensor:
        """Weights plus noise that is drawn in float64 from the operating system's entropy, and kept nowhere."""
        expect_noise_shows(w, sigma)
        return w + sigma * draw_noise(w, secret_generator(secrets.token_bytes(32), "release"))


def _classes(settings: StateSettings) -> int:
    """K of the linear model that a state was begun with."""
    biases = [kind.shape[0] for kind in settings.tensors if kind.name == "bias" and len(kind.shape) == 1]
    expect(settings.budget is not None and len(biases) == 1, "the state is no linear model's; give another folder")
    return biases[0]
