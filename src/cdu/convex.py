"""A linear classifier that trains, deletes rows on request, and certifies every deletion.

It is for features that never saw the data: measured values with a scaling fixed in advance, or the outputs of a network
that was trained on other data.

Example:
    >>> features = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    >>> labels = (features[:, 0] > features[:, 1]).long()
    >>> linear = Linear(features, labels, l2=0.01, budget=0.01, ids=[f"user {row // 2}" for row in range(200)])
    >>> deleted = linear.forget(["user 17", "user 23"], epsilon=1.0)
    >>> f"{deleted.certificate.epsilon:.4g}"
    '1'
    >>> deleted.accuracy(features, labels) > 0.9
    True
"""

import math
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from cdu.certification import Certificate, budget_bound, certify, required_sigma
from cdu.certification.convex import ridge_constants, softmax_constants
from cdu.certification.rounding import computed
from cdu.checks import expect, expect_delta, expect_positive
from cdu.data.samples import Samples
from cdu.data.table import as_ids, as_table
from cdu.evaluation.audit import Audit, audit
from cdu.models.architectures import LogisticRegression
from cdu.models.losses import squared_error
from cdu.models.objective import Loss, Objective
from cdu.seeding import generator, secret_generator
from cdu.unlearning.convex_deletions import deletion_steps, distance_at_most
from cdu.unlearning.convex_training import preconditioner, train
from cdu.unlearning.linear_release import GRADIENTS, Deleted, Plan, Released
from cdu.unlearning.linear_state import LinearSettings, LinearState, settings_in
from cdu.unlearning.noise import draw_noise, expect_noise_shows

LOSSES: dict[str, Loss] = {"softmax": cross_entropy, "squared": squared_error}

#: The method's name in ledgers. It is the same whether a request was answered by steps or by retraining.
METHOD = "cdu.convex.Linear"

#: A Newton step is taken with this relative accuracy; see :func:`~cdu.unlearning.convex_deletions.deletions`.
_ACCURACY = 1e-5


class Linear:
    """A linear classifier with a bias that answers requests to delete rows, each with a certificate.

    It minimises L(w) = mean loss + (l2/2)‖w‖², the bias included, in float64. Whatever the data, L is l2-strongly
    convex, so that ‖w − w*‖ ≤ ‖∇L(w)‖/l2: a computed gradient bounds the distance to the exact minimiser. A release is
    a model whose distance keeps the budget Δ, plus Gaussian noise for Δ (:func:`~cdu.certification.budget_bound`).

    Example::

        model = Linear(features, labels, l2=1e-3, budget=1e-3, ids=users, state="model", cap=(5.0, 1e-6))
        after = model.forget(["user 17"], epsilon=1.0, delta=1e-6)
        print(after.certificate)

    **What is kept.** Before the first deletion the object keeps the minimiser on all rows, in memory alone. After a
    deletion it keeps the release, with its noise, and the next deletion starts from there; the noiseless model is
    dropped. A noiseless model would be within Δ of the exact one, but its last digits would still depend on the deleted
    rows. All later models are computed from the release and the rows left, so that whatever was hidden by the noise
    stays hidden. The rows themselves are the caller's: delete them where they are stored.

    **Several requests.** Each has the whole budget Δ and noise of its own. What all promise together is the ledger's
    business: μ = √(Σ (Δ/σ_i)²).

    Memory: features in float32 or float64 are read where they are and cast to float64 a block at a time. A deletion
    makes one copy of the rows left, in the features' own type, for as long as it runs. Between the products of a Newton
    step blocks are kept, up to 1 GiB on a CPU (:data:`cdu.models.objective.KEPT_BYTES`). Neither features nor labels
    may be changed while the object is in use.

    Args:
        features: Numbers of shape (n, features), n ≥ 2: a tensor, an array, or a pandas frame. Nothing may have been
            fitted on the rows before, no scaler either: a deletion would leave that as it was.
        labels: Class numbers from 0, shape (n,). A class may lose all its rows.
        l2: The weight of (l2/2)‖w‖², above 0, fixed before the data were seen.
        budget: Δ, fixed before the data were seen. Noise is proportional to it; a smaller one means more work, and
            below what float64 can show nothing is possible.
        ids: Whose row it is: text or whole numbers, several rows may have the same; for a frame also the name of a
            column. When None, a frame's index, and else "0", "1", and so on; a state needs ids or a frame.
        loss: "softmax" for cross-entropy, "squared" for half the squared distance to the one-hot target.
        classes: K. When None one more than the largest label, at least 2; then the number of weights itself depends
            on the rows, so name it where it is known.
        state: A folder that keeps settings, releases and a ledger, so that a later program goes on. Rows of ids that
            were deleted are left out, whether the data still hold them or not.
        cap: The budget (ε, δ) of all releases together. It needs a state.

    Attributes:
        released: The last release; None before the first.
        ledger: The state's ledger; None without a state.

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
        expect(state is not None or cap is None, f"cap = {cap} needs a ledger to be kept to; give a state folder")
        expect(
            state is None or ids is not None or hasattr(features, "columns"),
            "a state knows deleted rows by their ids, and none were given; give ids, since rows' numbers would name "
            "other rows once some are gone",
        )
        self._table = as_table(features, labels, ids)
        expect(len(self._table) >= 2, f"there is {len(self._table)} row; a model needs two, to be left with one")
        held = None if state is None else settings_in(state)
        columns, largest = self._table.features.shape[1], int(self._table.labels.max())
        if classes is None:
            classes = max(2, largest + 1) if held is None else held.classes
        expect(
            classes >= 2 and largest < classes,
            f"the largest label is {largest}, and classes = {classes}; classes are numbered from 0, and two at least",
        )
        self.classes, self.l2, self.budget = classes, l2, budget
        # What rounding may hide is counted where a distance is held against the budget.
        self._bound = computed(budget_bound(budget), "float64", rounding=0.0)
        linear = LogisticRegression(columns, classes).to(self._table.features.device, torch.float64)
        self._objective = Objective(linear, LOSSES[loss], l2=l2)
        settings = LinearSettings(features=columns, classes=classes, loss=loss, l2=l2, budget=budget)
        self._state = None if state is None else LinearState(state, settings, cap)
        self.ledger = None if self._state is None else self._state.ledger
        self.released: Released | None = None
        self._gone: dict[str, int] = {}
        self._rows: NDArray[np.int64] = np.arange(len(self._table))
        self._start = self._resumed()

    def release(self, epsilon: float, delta: float = 1e-5) -> Released:
        """The model on all rows with the noise that a deletion for (ε, δ) gets, to be published before any request.

        It has no certificate, and no ledger notes it. It was computed with all rows, and the certificate of a later
        deletion does not speak of it: whoever kept this release still has what it says of the deleted rows.

        Args:
            epsilon: ε.
            delta: δ.

        Raises:
            CduError: Rows were deleted already: the model to publish is ``released``. Or ε or δ is unusable.
        """
        expect(
            not self._gone,
            f"{len(self._gone)} ids were deleted already, and this would be another model than the certified one; "
            "publish the attribute released",
        )
        self.released = Released(self._noisy(self._start, self._sigma(epsilon, delta)), self.classes, None)
        return self.released

    def forget(self, ids: Sequence[str | int], epsilon: float, delta: float = 1e-5, steps: int = 2) -> Deleted:
        """Delete all rows of these ids, and give the model without them, with noise for (ε, δ).

        Newton steps start from the last release (from the minimiser, before the first deletion) and end as soon as the
        gradient on the rows left shows a distance of at most Δ. Where ``steps`` of them do not, or where more rows go
        than are left, the model is trained anew from zero, to Δ/10. Noise, certificate and entry are the same.

        With a state the release and its entry are on the disk when this returns. The entry's hash "before" is that of
        the last release, of zeros before the first: that of the noiseless minimiser would tell of its rows.

        Args:
            ids: Whose rows go, each once.
            epsilon: ε of this release alone.
            delta: δ of this release alone, below 1/n.
            steps: Newton steps at most; 0 for none.

        Raises:
            CduError: An id has no row, or is gone already; no row would be left; ε, δ or ``steps`` is unusable; the
                release would exceed the ledger's budget; or the budget Δ cannot be kept. Nothing has changed then.
        """
        began = time.perf_counter()
        with self._alone():
            gone, left = self._parted(ids)
            sigma = self._sigma(epsilon, delta)
            w, distance, taken, fallback = self._without(gone, left, steps)
            after = self._noisy(w, sigma)
            certificate = certify(self._bound, sigma, delta)
            number, before = 1 + max(self._gone.values(), default=0), self._published()
            entry = None
            if self._state is not None:
                names = as_ids(ids)
                entry = self._state.commit(number, names, METHOD, before, after, certificate, self.classes)
            self._gone = self._gone | dict.fromkeys(self._hashed(as_ids(ids)), number)
            self._rows, self._start = left, after
        seconds = time.perf_counter() - began
        released = Deleted(after, self.classes, certificate, entry, fallback, taken, distance, seconds)
        self.released = released
        return released

    def plan(self, ids: Sequence[str | int], epsilon: float, delta: float = 1e-5, steps: int = 2) -> Plan:
        """What :meth:`forget` would do to these rows, from a gradient; nothing is deleted.

        A Newton step from a gradient of norm r leaves (M/2)(r/l2)² + 10⁻⁵·r at most, where M is the Lipschitz constant
        of the Hessian (:mod:`cdu.certification.convex`). Where that reaches l2·Δ the budget is proven to be kept.

        Args:
            ids: Whose rows would go.
            epsilon: ε.
            delta: δ.
            steps: Newton steps at most.

        Raises:
            CduError: As for :meth:`forget`.
        """
        gone, left = self._parted(ids)
        sigma, samples = self._sigma(epsilon, delta), self._table.samples(left)
        residual = self._objective.gradient(self._start, samples).norm().item()
        # The first gradient also takes what is done once.
        began = time.perf_counter()
        self._objective.gradient(self._start, samples)
        seconds = time.perf_counter() - began
        distance = distance_at_most(self._objective, self._start, samples, residual)
        hidden = distance_at_most(self._objective, self._start, samples, 0.0)
        return Plan(
            gone=len(gone),
            left=len(left),
            sigma=sigma,
            noise_norm=sigma * math.sqrt(self._objective.size),
            weights_norm=self._start.norm().item(),
            distance=distance,
            kept=len(gone) <= len(left) and self._proven(residual, samples, steps) + hidden <= self.budget,
            seconds=GRADIENTS * steps * seconds,
        )

    def audit(
        self,
        ids: Sequence[str | int],
        epsilon: float,
        delta: float = 1e-5,
        steps: int = 2,
        trials: int = 4000,
        seed: int = 0,
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
        gone, left = self._parted(ids)
        sigma = self._sigma(epsilon, delta)
        released, _, _, _ = self._without(gone, left, steps)
        retrained = train(self._objective, self._table.samples(left), self.budget).w
        noise = torch.randn(2, trials, 1, dtype=torch.float64, generator=generator(seed, "audit"))
        return audit(noise[0] + (released - retrained).norm().item() / sigma, noise[1], delta)

    def _resumed(self) -> Tensor:
        """Where the next deletion starts: the last release of the state, without its deleted rows, or the minimiser."""
        entries = () if self.ledger is None else self.ledger.entries()
        last = None if self._state is None else self._state.weights()
        if last is None:
            return train(self._objective, self._table.samples(self._rows), self.budget).w
        for entry in entries:
            self._gone |= dict.fromkeys(entry.ids, entry.number)
        present = np.unique(self._table.ids).tolist()
        hashes = self._hashed(present)
        deleted = [name for name, one in zip(present, hashes, strict=True) if one in self._gone]
        self._rows = np.flatnonzero(~self._table.named(deleted))
        expect(len(self._rows) > 0, "all rows belong to ids that were deleted; give the data that are left")
        w = last.to(self._table.features.device)
        self.released = Released(w, self.classes, Certificate.model_validate(entries[-1].certificate))
        return w

    def _hashed(self, names: Sequence[str]) -> tuple[str, ...]:
        """Ids as a ledger has them, or as they are where there is none."""
        return tuple(names) if self.ledger is None else self.ledger.hashed(names)

    def _published(self) -> Tensor:
        return torch.zeros_like(self._start) if self.released is None else self.released.w

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other program answers a request from this state meanwhile, and none has since it was opened."""
        if self._state is None:
            yield
            return
        with self._state.locked():
            known, there = max(self._gone.values(), default=0), len(self._state.ledger.entries())
            expect(
                known == there,
                f"{self._state.folder} has {there} releases, and this object knows {known}: another program answered a "
                "request, or one was interrupted; make the object anew",
            )
            yield

    def _parted(self, ids: Sequence[str | int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows that go, and those that are left."""
        names = as_ids(ids)
        expect(len(names) > 0, "the list of ids is empty; name whose rows are to go")
        expect(
            len(set(names)) == len(names), f"the {len(names)} ids name {len(set(names))} different ones; list each once"
        )
        for name, hashed in zip(names, self._hashed(names), strict=True):
            expect(
                hashed not in self._gone,
                f"id '{name}' is gone already, by entry {self._gone.get(hashed)}; leave it out",
            )
        there = set(self._table.ids[self._rows].tolist())
        unknown = [name for name in names if name not in there]
        expect(
            not unknown,
            f"{len(unknown)} ids are in no row, the first is '{unknown[0] if unknown else ''}'; give ids that the data "
            "have",
        )
        goes = self._table.named(names)[self._rows]
        gone, left = self._rows[goes], self._rows[~goes]
        expect(len(left) > 0, f"the request names all {len(gone):,} rows; delete the model instead")
        return gone, left

    def _sigma(self, epsilon: float, delta: float) -> float:
        count = len(self._rows)
        expect_positive(epsilon=epsilon)
        expect_delta(delta)
        expect(
            delta < 1 / count,
            f"delta = {delta:g} is not below one over the number of rows, {count:,}: so much would let a row be "
            "published outright; choose far less",
        )
        return required_sigma(self._bound, epsilon, delta)

    def _without(self, gone: NDArray[np.int64], left: NDArray[np.int64], steps: int) -> tuple[Tensor, float, int, bool]:
        """Weights within the budget on the rows left, their distance at most, the steps, and whether by retraining."""
        expect(isinstance(steps, int) and steps >= 0, f"steps = {steps} is not a whole number of at least 0")
        objective, retain = self._objective, self._table.samples(left)
        if len(gone) <= len(left):
            inverse = preconditioner(objective, self._start, retain) if steps else None
            forgotten = self._table.samples(gone)
            for found in deletion_steps(objective, self._start, retain, forgotten, steps, self.budget, inverse):
                if not found.fallback:
                    return found.iterate, found.distance, found.steps, False
        trained = train(objective, retain, self.budget)
        return trained.w, trained.distance, trained.steps, True

    def _noisy(self, w: Tensor, sigma: float) -> Tensor:
        """Weights plus noise that is drawn in float64 from the operating system's entropy, and kept nowhere."""
        expect_noise_shows(w, sigma)
        return w + sigma * draw_noise(w, secret_generator(secrets.token_bytes(32), "release"))

    def _proven(self, residual: float, samples: Samples, steps: int) -> float:
        """A distance that Newton steps are proven to end within, if all goes on in exact arithmetic."""
        longest = max(block.double().norm(dim=1).max().item() for block in samples.inputs.split(2048))
        softmax = self._objective.loss_function is cross_entropy
        known = softmax_constants(longest, self.l2, self.classes) if softmax else ridge_constants(longest, self.l2)
        for _ in range(steps):
            step = residual / self.l2
            residual = min(residual, known.hessian_lipschitz / 2 * step**2 + _ACCURACY * residual)
        return residual / self.l2
