"""A model of one's own that answers requests to delete rows, and keeps account of what was promised."""

import copy
import math
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from cdu.checks import expect, expect_not_negative
from cdu.data.ids import as_text
from cdu.data.source import Data
from cdu.errors import CduError
from cdu.evaluation.audit import Audit
from cdu.models.objective import parameter_vector
from cdu.own_model.audits import audited
from cdu.own_model.deletion import (
    answer,
    expect_new,
    expect_promisable,
    expect_promised,
    problem_of,
    reason_of,
    retrains,
    whole,
)
from cdu.own_model.methods import NEWTON, NOTHING, RETRAIN, method_of
from cdu.own_model.parts import choose, copied_module
from cdu.own_model.plan import Plan, planned
from cdu.own_model.recipe import Recipe, Train, expect_cap, expect_data, expect_module, expect_recipe, patterns_of
from cdu.own_model.release_certificate import Facts
from cdu.own_model.released import Released
from cdu.own_model.state import State
from cdu.own_model.state_files import SETTINGS, Request, StateSettings
from cdu.own_model.state_rows import ids_of, rows_left, rows_to_go
from cdu.own_model.task import Task
from cdu.unlearning.ledger_entries import Spent
from cdu.unlearning.problem import Method
from cdu.unlearning.registration import REGISTERED


class Unlearner:
    """Deletes rows from a model when their ids are named, month after month, and writes down what it promised.

    The first call with a state folder begins it there; every later one goes on with it: with the model that was
    released last, the rows that are left, and the budget that is left. What was given first (l2, radius, parameters)
    stays fixed. The caller's model and data are never changed.

    What is carried from one request to the next is the release itself, noise included. So no file ever holds a model
    that knows deleted rows and was not released, but for the original until the first request is answered.

    Example with a state that is kept as long as the object; give ``state="FOLDER"`` to keep it:
        >>> import torch
        >>> from torch.nn.functional import cross_entropy
        >>> from cdu.data.source import as_data
        >>> model, inputs = nn.Linear(3, 2), torch.rand(30, 3)
        >>> data = as_data(inputs, (inputs[:, 0] > inputs[:, 1]).long(), ids=[f"user {row // 3}" for row in range(30)])
        >>> unlearner = Unlearner(model, Task(cross_entropy), data, l2=0.01, radius=10)
        >>> released = unlearner.forget(["user 4", "user 7"], method="newton", epsilon=1.0)
        >>> released.promise
        'ε = 1, δ = 1e-05'
        >>> len(unlearner.data), unlearner.spent().releases
        (24, 1)

    Args:
        model: The trained module. Only its weights at the first call count; later the state's do.
        task: The loss, and what the outputs are.
        data: All rows that the model was trained on. Rows of ids that are gone may be there.
        l2: Weight of (l2/2)‖w‖² in training.
        radius: C, the ball that training projected onto, such as by :func:`~cdu.own_model.ball.ball`; infinite where it
            projected onto none: then no noise certifies a network's step.
        parameters: Which parameters are unlearned and released: a pattern on their names, such as ``"head.*"``, or
            several. All others, and buffers, are the fixed part.
        fixed_saw_data: Whether the fixed part was ever trained on the data, or holds statistics or rows of it. Must be
            said where ``parameters`` leaves a part fixed, or the module has buffers or tensors as attributes. If it
            was, no release has a certificate. BatchNorm's statistics are taken anew where its weights are released.
        state: The state's folder; a temporary one, gone with this object, when None (:meth:`save` keeps it).
        cap: The budget (ε, δ) that all releases together keep to; none when None.
        train: Trains from scratch: ``train(data, seed)`` returns a module like ``model``. Retraining and audits need
            it.
        training_seconds: How long that takes, for :meth:`plan`, and for the sentence that refuses a release.
        batch_size: Rows of a mini-batch, for methods that descend.
        chunk: Rows that are processed at once at most.

    Raises:
        CduError: The model or the data do not fit the task or the state, or what is fixed was not said.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        data: Data,
        *,
        l2: float = 0.0,
        radius: float = math.inf,
        parameters: str | Sequence[str] = "*",
        fixed_saw_data: bool | None = None,
        state: str | os.PathLike[str] | None = None,
        cap: tuple[float, float] | None = None,
        train: Train | None = None,
        training_seconds: float | None = None,
        batch_size: int = 128,
        chunk: int = 2048,
    ) -> None:
        expect_module(model)
        expect_data(data)
        expect_cap(cap)
        if training_seconds is not None:
            expect_not_negative(training_seconds=training_seconds)
        self.recipe = Recipe(task, l2, radius, patterns_of(parameters), fixed_saw_data, train, batch_size, chunk)
        self.training_seconds = training_seconds
        first = next(model.parameters())
        self._given = data.to(first.device, first.dtype)
        self._template = copied_module(model).eval()
        expect_recipe(self.recipe, model)
        self._temporary = None if state is not None else tempfile.TemporaryDirectory(prefix="cdu-unlearner-")
        expect(state is None or isinstance(state, str | os.PathLike), f"state = {state!r}; give a folder's path")
        folder = Path(state) if state is not None else Path(str(self._temporary and self._temporary.name)) / "state"
        if not (folder / SETTINGS).exists():
            self._expect_inside()
        self._state = self._begun(folder, cap)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        model: nn.Module,
        task: Task,
        data: Data,
        *,
        train: Train | None = None,
        training_seconds: float | None = None,
        batch_size: int = 128,
        chunk: int = 2048,
    ) -> "Unlearner":
        """Go on with a state that is there: l2, radius, parameters and budget are read from it.

        Args:
            folder: The state's folder.
            model: A module of the same architecture; its weights do not count.
            task: As for :class:`Unlearner`, and so are the others.
            data: The same.
            train: The same.
            training_seconds: The same.
            batch_size: The same.
            chunk: The same.

        Raises:
            CduError: There is no state in the folder, it was changed, or the module is another one.
        """
        settings = State.open(Path(folder)).settings
        return cls(
            model,
            task,
            data,
            l2=settings.l2,
            radius=math.inf if settings.radius is None else settings.radius,
            parameters=settings.parameters,
            fixed_saw_data=settings.fixed_saw_data,
            state=folder,
            train=train,
            training_seconds=training_seconds,
            batch_size=batch_size,
            chunk=chunk,
        )

    @property
    def folder(self) -> Path:
        """The state's folder."""
        return self._state.folder

    @property
    def model(self) -> nn.Module:
        """A copy of the current model in evaluation mode: the last release, or the original before any."""
        current = copy.deepcopy(self._template)
        current.load_state_dict(self._state.weights())
        return current

    @property
    def data(self) -> Data:
        """The rows that are left."""
        return rows_left(self._state, self._given)

    def forget(
        self,
        ids: Sequence[str | int],
        method: str | Method = "newton",
        *,
        epsilon: float | None = None,
        delta: float = 1e-5,
        **options: Any,
    ) -> Released:
        """Delete all rows of these ids and release the model that results.

        The request is written down before anything is computed, and the ledger's entry before the model may leave. A
        request that was cut off is finished by :meth:`resume`. The last request is not answered twice: its release is
        read back.

        Args:
            ids: Whose rows go.
            method: "newton" (the paper's step), "retrain" (exact, needs ``train``), "nothing" (noise alone), a
                registered method such as "fine-tuning", or a method of your own.
            epsilon: ε to certify, by the least noise that does; no noise and no certificate when None. Retraining needs
                neither.
            delta: δ of the certificate.
            **options: Hyper-parameters of the method, by name; the Newton step without ``damping`` finds one itself.

        Raises:
            CduError: An id is in no row or gone already, another request is pending, the request would exceed the
                budget, no certificate can be given, or the method fails. Nothing is released then, and the request is
                withdrawn.
        """
        began, ids = time.perf_counter(), as_text(ids).tolist()
        chosen = method_of(method, options, epsilon, delta)
        with self._state.locked():
            answered = self._state.answered(ids)
            if answered is not None:
                expect_promised(answered, retrains(chosen), epsilon, delta)
                note = f"these ids were deleted by release {answered.number} already, which is read back"
                return Released(self.model, answered, self._state.release_folder(answered.number), note=note)
            left, before = self.data, self.model
            rows = rows_to_go(self._state, left, ids)
            ledger, seconds = self._state.ledger, self.training_seconds
            expect_promisable(self.recipe, before, chosen, epsilon, delta, ledger, seconds)
            request = self._state.begin_request(ids, words(method), epsilon, delta, options)
            try:
                problem = problem_of(self.recipe, before, left, rows)
                released = answer(self.recipe, problem, chosen, epsilon, delta)
                model = whole(released)
                if retrains(chosen):
                    expect_new(
                        model, {self._state.settings.original, *(one.after for one in self._state.ledger.entries())}
                    )
                facts = Facts(
                    rows_deleted=len(rows),
                    rows_retained=len(left) - len(rows),
                    seconds=released.update.seconds,
                    note=released.update.note,
                )
                entry = self._state.commit(
                    request,
                    model.state_dict(),
                    released.certificate,
                    reason_of(self.recipe, released),
                    sigma=0.0,
                    retrained=retrains(chosen),
                    facts=facts,
                )
            except CduError:
                self._state.withdraw_request()
                raise
        note, seconds = released.update.note, time.perf_counter() - began
        return Released(model, entry, self._state.release_folder(entry.number), seconds, note)

    @property
    def pending(self) -> Request | None:
        """The request that was cut off before it was answered; None where there is none."""
        return self._state.pending()

    def resume(self) -> Released:
        """Finish the request that was cut off, with the method and the promise that it asked for.

        Raises:
            CduError: There is none, or as for :meth:`forget`.
        """
        request = self.pending
        if request is None:
            raise CduError(f"no request is pending in {self.folder}; ask by forget(ids)")
        ids = ids_of(self._state, request, self._given)
        expect(
            request.method in (NEWTON, RETRAIN, NOTHING) or request.method in REGISTERED,
            f"the pending request was made with a method of your own, {request.method}; ask again by forget(ids, "
            "method) with that method, the same ids, epsilon and delta, or withdraw it",
        )
        return self.forget(ids, request.method, epsilon=request.epsilon, delta=request.delta, **request.options)

    def withdraw(self) -> None:
        """Give up the request that was cut off; nothing of it is kept.

        Raises:
            CduError: There is none.
        """
        expect(self.pending is not None, f"no request is pending in {self.folder}; there is nothing to withdraw")
        self._state.withdraw_request()

    def plan(self, ids: Sequence[str | int], epsilon: float = 1.0, delta: float = 1e-5) -> Plan:
        """What deleting these ids would take, and what could be promised, before anything is computed.

        Costs are estimated from products on a few hundred rows at most.

        Args:
            ids: Whose rows would go.
            epsilon: ε to certify.
            delta: δ.

        Raises:
            CduError: An id is in no row.
        """
        left, ids = self.data, as_text(ids).tolist()
        problem = problem_of(self.recipe, self.model, left, rows_to_go(self._state, left, ids))
        return planned(self.recipe, problem, epsilon, delta, self.training_seconds)

    def spent(self, delta: float = 1e-5) -> Spent:
        """What all releases together promise at δ about the rows of the first request; from its own on, of any."""
        return self._state.ledger.spent(delta)

    def audit(
        self,
        ids: Sequence[str | int],
        method: str | Method = "newton",
        *,
        epsilon: float = 1.0,
        delta: float = 1e-5,
        trials: int = 2000,
        **options: Any,
    ) -> Audit:
        """Try to refute the certificate of a deletion that is not made: a lower bound on ε by experiment.

        The method and the retraining are run once each, and their noise is drawn many times. The adversary knows both.

        Args:
            ids: Whose rows would go.
            method: As for :meth:`forget`.
            epsilon: ε that the noise is made for.
            delta: δ.
            trials: Draws of each.
            **options: As for :meth:`forget`.

        Raises:
            CduError: As for :meth:`forget`; or the method adds noise on the way, which takes a run for every trial.
        """
        left, ids = self.data, as_text(ids).tolist()
        problem = problem_of(self.recipe, self.model, left, rows_to_go(self._state, left, ids))
        return audited(problem, method_of(method, options, epsilon, delta), epsilon, delta, trials)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Copy the state to a folder that is not there; without a state folder of its own, go on there.

        Whoever goes on with both copies spends the budget twice: keep a copy as a copy.

        Raises:
            CduError: The folder is there already, or cannot be written.
        """
        copied = self._state.copied_to(Path(folder))
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary, self._state = None, copied

    def _begun(self, folder: Path, cap: tuple[float, float] | None) -> State:
        """The state: begun, or the one that is there."""
        recipe = self.recipe
        settings = StateSettings(
            l2=recipe.l2,
            radius=None if math.isinf(recipe.radius) else recipe.radius,
            parameters=recipe.parameters,
            fixed_saw_data=recipe.fixed_saw_data,
            chosen=tuple(sorted(choose(self._template, recipe.parameters).chosen)),
            delta=1e-5 if cap is None else cap[1],
        )
        return State.begin_or_open(folder, settings, self._template.state_dict(), cap)

    def _expect_inside(self) -> None:
        """Refuse an original outside the ball, before a state is begun that would keep to that ball.

        A release may lie outside, where its noise led it.
        """
        recipe = self.recipe
        objective = recipe.task.objective(self._template, self._given, parameters=recipe.parameters)
        norm = parameter_vector(objective.model).double().norm().item()
        expect(
            norm <= recipe.radius * (1 + 1e-5),
            f"the weights have the norm {norm:.6g}, above radius = {recipe.radius:g}: training did not project onto "
            "that ball, so that no bound of it holds for the retrained model; give the radius that training projected "
            "onto, or none",
        )


def words(method: str | Method) -> str:
    """What a request calls its method."""
    return method if isinstance(method, str) else type(method).__name__
