"""Shadow models of a set-up, and the methods' results on them: the input of the likelihood-ratio attack."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cdu import clock
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.evaluation.lira import draw_pool, scaled_logit
from cdu.experiments.method_results import MethodResults
from cdu.experiments.release_variants import released
from cdu.experiments.scale import scale_methods
from cdu.experiments.sections import REVISIONS
from cdu.experiments.setup import Setup
from cdu.models import architectures
from cdu.models.batched_training import TrainedNetworks, train_networks
from cdu.models.objective import Objective
from cdu.models.training import Trained, train
from cdu.progress import Progress
from cdu.seeding import generator
from cdu.settings import digest
from cdu.storage import kept_tensors
from cdu.unlearning.names import FIXED
from cdu.unlearning.problem import Method, Problem
from cdu.unlearning.registry import SECOND_SEED, build, methods, traits

#: Kinds of shadows: those that forget, and their retrainings from the same and from other initial weights.
TRAINED, RETRAINED, RETRAINED_AGAIN = "shadows", "retrained shadows", "shadows retrained again"

_SECONDS = "seconds"


class ShadowModels:
    """Networks trained as the original model was, each on the rest of D and on a random half of a pool of targets.

    A shadow forgets its half; the other half it has never seen. Retrained shadows see the rest alone. Each kind is
    trained when it is first asked for, and kept beside the trained models.

    Args:
        setup: Data, recipe, and the numbers of shadows and of targets.

    Attributes:
        setup: The same.
        pool: The targets, and which shadow is trained on which.
        rest: What every shadow is trained on.
        targets: The pool's samples.
        seeds: Of every shadow, for its initial weights, its batches and what methods draw.
    """

    def __init__(self, setup: Setup) -> None:
        wanted = setup.settings.shadows
        self.setup = setup
        self.pool = draw_pool(len(setup.train), wanted.pool, wanted.shadows, setup.seed)
        self.rest: Samples = setup.train.subset(self.pool.rest)
        self.targets: Samples = setup.train.subset(self.pool.targets)
        self.seeds = [10_000 * (setup.seed + 1) + number for number in range(wanted.shadows)]
        self._origin = digest([setup.origin(), wanted.shadows, wanted.pool])
        self._trained: dict[tuple[str, int], TrainedNetworks] = {}

    def path(self, *key: object) -> Path:
        """Where something that is made of these shadows is kept."""
        name = f"{self.setup.name}-{self._origin}-{digest(key)}.safetensors"
        return self.setup.checkpoints / "shadows" / name

    def trained(self, kind: str = TRAINED, epochs: int | None = None) -> TrainedNetworks:
        """All shadows of a kind, after some number of epochs; the recipe's when None."""
        recipe = self.setup.settings.training
        key = (kind, recipe.epochs if epochs is None else epochs)
        if key not in self._trained:
            alone = self.pool.rest.expand(len(self.seeds), -1)
            rows = self.pool.trained if kind == TRAINED else alone
            seeds = [seed + (SECOND_SEED if kind == RETRAINED_AGAIN else 0) for seed in self.seeds]
            starts = [self._initial(seed) for seed in seeds]
            shorter = recipe.model_copy(update={"epochs": key[1]})
            samples, path = self.setup.train, self.path(*key)
            self._trained[key] = train_networks(starts, samples, rows, shorter, seeds, path, kind)
        return self._trained[key]

    def alone(self, number: int) -> Trained:
        """One of the shadows trained by itself, as the original model is."""
        samples = self.setup.train.subset(self.pool.trained[number])
        return train(self._initial(self.seeds[number]), samples, self.setup.settings.training, self.seeds[number])

    def problem(self, number: int) -> Problem:
        """Delete a shadow's half of the pool."""
        shadow, own, recipe = self.trained().each[number], self.seeds[number], self.setup.settings.training

        def retrain(_: Samples, seed: int) -> Trained:
            return self.trained(RETRAINED if seed == own else RETRAINED_AGAIN).each[number]

        return Problem(
            objective=Objective(shadow.model, l2=self.setup.l2),
            w_star=shadow.w,
            retain=self.rest,
            forget=self.setup.train.subset(self.pool.forgotten(number)),
            radius=recipe.radius,
            retrain=retrain,
            seed=own,
            training=recipe,
            stopped=lambda epochs: self.trained(TRAINED, epochs).each[number],
        )

    def _initial(self, seed: int) -> nn.Module:
        setup = self.setup
        model = architectures.build(setup.settings.model, setup.data.input_shape, setup.data.classes, seed)
        return model.to(setup.device)


@dataclass(frozen=True)
class Confidences:
    """How sure the shadows are of every target once a method has unlearned from each.

    Attributes:
        phi: φ by the label of the release (:func:`~cdu.experiments.release_variants.released`), each of shape
            (shadows, targets); see :func:`~cdu.evaluation.lira.scaled_logit`.
        seconds: What unlearning took on all shadows.
    """

    phi: dict[str, Tensor]
    seconds: float


class ShadowResults:
    """The methods on every shadow, with the hyper-parameters that were chosen for the original model.

    Where the settings have a block ``scale``, the hyper-parameters are those given there, and nothing is chosen.

    Args:
        shadows: The shadow models.

    Raises:
        CduError: The settings name a method that there is not.
    """

    def __init__(self, shadows: ShadowModels) -> None:
        self._shadows, self._settings = shadows, shadows.setup.settings
        wanted = self._settings.shadows.methods
        unknown = set(wanted) - set(self.known)
        if unknown:
            raise CduError(f"shadows.methods names '{min(unknown)}', which is none of {', '.join(self.known)}")

    @property
    def known(self) -> tuple[str, ...]:
        """All methods that can be asked for."""
        if self._settings.scale is None:
            return self._searched.names
        return tuple(self._fixed(self._shadows.setup.seed))

    @property
    def names(self) -> tuple[str, ...]:
        """The yardsticks, and the methods that the settings ask for; all when they name none.

        Where shadows are trained one after another, the second retraining is left out unless the settings ask for it.
        """
        again = ("second retraining",) if self._shadows.trained().batched else ()
        wanted = self._settings.shadows.methods or self.known
        return tuple(dict.fromkeys(("original", "retrain", *again, *wanted)))

    def confidences(self, name: str) -> Confidences:
        """Unlearn from every shadow by a method, or read what that left.

        Raises:
            CduError: The method cannot run, or the kept file cannot be read.
            OutOfTime: The batch's time is up.
        """
        noise = self._settings.unlearning.model_dump(mode="json")
        path = self._shadows.path("phi", name, self._constants(name), noise, REVISIONS["04_shadows"])
        found = kept_tensors(path, partial(self._computed, name))
        seconds = float(found.pop(_SECONDS))
        return Confidences(found, seconds)

    @cached_property
    def _searched(self) -> MethodResults:
        return MethodResults(self._shadows.setup)

    def _computed(self, name: str) -> dict[str, Tensor]:
        rows, seconds, targets = [], 0.0, self._shadows.targets
        for number, seed in enumerate(Progress(self._shadows.seeds, desc=name, unit="shadow")):
            clock.require(f"{name} on shadow {number}")
            problem = self._shadows.problem(number)
            update = self._method(name, seed)(problem, generator(seed, name))
            seconds += update.seconds
            found = released(name, problem, update, self._settings.unlearning, partial(generator, seed, "noise"))
            rows.append(
                {label: scaled_logit(one.objective.outputs(one.w, targets), targets.targets) for label, one in found}
            )
        phi = {label: torch.stack([row[label] for row in rows]) for label in rows[0]}
        return {**phi, _SECONDS: torch.tensor(seconds)}

    def _fixed(self, seed: int) -> dict[str, Method]:
        """The methods whose constants the experiment gives, for a shadow of some seed."""
        unlearning, scale = self._settings.unlearning, self._settings.scale
        return methods(unlearning, seed) if scale is None else scale_methods(unlearning, scale, seed)

    def _method(self, name: str, seed: int) -> Method:
        fixed, promise = self._fixed(seed), self._settings.unlearning
        return fixed[name] if name in fixed else build(name, self._constants(name), promise.epsilon, promise.delta)

    def _constants(self, name: str) -> dict[str, Any]:
        """What a method is made from: given by the experiment, chosen for the original model, or fixed."""
        scale = self._settings.scale
        if scale is not None:
            return {"hessian_samples": scale.hessian_samples, **scale.methods.get(name, {})}
        return {} if name in FIXED else self._searched.chosen(name)


def retrained_counterpart(label: str, labels: Collection[str]) -> str | None:
    """The retrained models that a method's should equal, by label; None where the comparison would say nothing.

    It is asked only where retraining gives a model of the same kind, with the same noise: methods that train their own
    model are told from it by that alone.

    Args:
        label: The method's.
        labels: All that there are.
    """
    counterpart = "retrain + noise" if label.endswith("+ noise") else "retrain"
    alike = label != counterpart and "ε = " not in label and not traits(label).own_model
    return counterpart if alike and counterpart in labels else None
