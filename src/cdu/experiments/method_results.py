"""The methods' results on one set-up: hyper-parameters chosen once, every method run once, both kept on disk."""

import copy
from dataclasses import asdict, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cdu import storage
from cdu.certification import Bound, Certificate
from cdu.errors import CduError
from cdu.experiments.sections import REVISIONS
from cdu.experiments.setup import Rehearsal, Setup
from cdu.experiments.tuning import Trial, best, tune
from cdu.seeding import generator
from cdu.settings import Value, digest
from cdu.unlearning.methods.fixed_features import FixedFeatures, linear_model
from cdu.unlearning.names import FIXED
from cdu.unlearning.problem import Method, Problem, UnlearningResult
from cdu.unlearning.registry import build, methods
from cdu.unlearning.release import Release, publish, publish_at

#: Fields of a result that are kept as they are; the others are tensors, modules and models of their own.
_PLAIN = tuple(
    field.name for field in fields(UnlearningResult) if field.name not in {"w", "model", "bound", "certificate"}
)


class MethodResults:
    """The methods on one setup, by the names they have in tables.

    All sections that judge unlearned models take them from here, so that they judge the same ones. A result is kept
    under a hash of everything that determines it, including the revision of the numbers; the seconds in it are those of
    the run that made it.

    Args:
        setup: Data, models and settings.

    Attributes:
        setup: The same.
        problem: The deletion that methods are judged by.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.problem: Problem = setup.problem()
        self._folder = setup.checkpoints / "unlearned"

    @property
    def names(self) -> tuple[str, ...]:
        """All methods: those of :data:`~cdu.unlearning.names.FIXED`, then those of the experiment's search spaces."""
        return (*FIXED, *self.setup.settings.methods.spaces)

    @cached_property
    def rehearsal(self) -> Rehearsal:
        """The deletion that hyper-parameters are chosen on."""
        return self.setup.rehearsal(self.setup.settings.methods.validation)

    def trials(self, name: str, epsilon: float | None = None) -> list[Trial]:
        """What was tried for a method, judged at ε, its own if None; see :func:`~cdu.experiments.tuning.tune`."""
        settings = self.setup.settings.methods
        wanted, delta = self._promise(epsilon)
        space, budget, seed = settings.spaces[name], settings.trials, self.setup.seed
        path = self._path(".json", "trials", name, space, budget, settings.validation, wanted, delta)
        make = partial(build, name, epsilon=wanted, delta=delta)

        def tried() -> list[Trial]:
            return tune(self.rehearsal, name, make, space, budget, seed, wanted, delta)

        return storage.kept(path, tried, _write_trials, _read_trials)

    def chosen(self, name: str, epsilon: float | None = None) -> dict[str, Value]:
        """The hyper-parameters that came nearest to retraining.

        Raises:
            CduError: No trial could run, for the reason that the first one gave.
        """
        trials = self.trials(name, epsilon)
        winner = best(trials)
        if winner is None:
            raise CduError(trials[0].note)
        return winner.values

    def update(self, name: str, epsilon: float | None = None) -> UnlearningResult:
        """A method's result, before projection and noise.

        Args:
            name: One of :attr:`names`.
            epsilon: ε, for methods that add noise of their own; the experiment's if None.

        Raises:
            CduError: The method cannot run on this setup, or what was kept cannot be read.
        """
        settings, seed = self.setup.settings.unlearning, self.setup.seed
        wanted, delta = self._promise(epsilon)
        method: Method
        if name in FIXED:
            method, constants = methods(settings, seed)[name], settings.model_dump(mode="json")
        else:
            constants = self.chosen(name, epsilon)
            method = build(name, constants, wanted, delta)
        path = self._path(".safetensors", "result", name, constants, wanted, delta)
        return storage.kept(path, lambda: method(self.problem, generator(seed, name)), _write, self._read)

    def release(self, name: str, noisy: bool = False) -> Release:
        """A method's result, projected; with the noise that certifies the experiment's ε if ``noisy``."""
        epsilon, delta = self._promise(None)
        result, noise = self.update(name), generator(self.setup.seed, "noise")
        if noisy:
            return publish_at(self.problem, result, noise, epsilon, delta)
        return publish(self.problem, result, noise)

    def _promise(self, epsilon: float | None) -> tuple[float, float]:
        settings = self.setup.settings.unlearning
        return (settings.epsilon if epsilon is None else epsilon), settings.delta

    def _path(self, suffix: str, *key: object) -> Path:
        name = digest([self._origin, *key])
        return self._folder / f"{self.setup.name}-{self.setup.seed}-{name}{suffix}"

    @cached_property
    def _origin(self) -> dict[str, object]:
        return {**self.setup.origin(), "revision": REVISIONS["03_methods"]}

    def _read(self, path: Path) -> UnlearningResult:
        content: dict[str, Any]
        tensors, content = storage.read_tensors(path, "to unlearn again", self.setup.device)
        try:
            w = tensors.pop("w")
            bound, certificate = content.pop("bound"), content.pop("certificate")
            return UnlearningResult(
                w=w,
                model=self._module(content.pop("module"), tensors, w),
                bound=None if bound is None else Bound.model_validate(bound),
                certificate=None if certificate is None else Certificate.model_validate(certificate),
                **content,
            )
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise storage.unreadable(path, error, "to unlearn again") from error

    def _module(self, kind: str, buffers: dict[str, Tensor], w: Tensor) -> nn.Module | None:
        """The module that a result brought, made anew with its buffers."""
        if kind == "none":
            return None
        model: nn.Module
        if kind == "linear":
            filters = len(buffers["0.kernels"])
            model = linear_model(self.problem.retain, filters, self.setup.data.classes, w.dtype)
        else:
            model = copy.deepcopy(self.problem.objective.model)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        return model.eval()


def _write(path: Path, result: UnlearningResult) -> None:
    model = result.model
    kind = "none" if model is None else "network"
    if isinstance(model, nn.Sequential) and isinstance(model[0], FixedFeatures):
        kind = "linear"
    content = {
        **{name: getattr(result, name) for name in _PLAIN},
        "module": kind,
        "bound": None if result.bound is None else result.bound.model_dump(mode="json"),
        "certificate": None if result.certificate is None else result.certificate.model_dump(mode="json"),
    }
    tensors = {"w": result.w, **({} if model is None else dict(model.named_buffers()))}
    storage.write_tensors(path, tensors, content)


def _write_trials(path: Path, trials: list[Trial]) -> None:
    storage.write_json(path, [asdict(trial) for trial in trials])


def _read_trials(path: Path) -> list[Trial]:
    again = "to choose again"
    try:
        return [Trial(**row) for row in storage.read_json(path, again)]
    except TypeError as error:
        raise storage.unreadable(path, error, again) from error
