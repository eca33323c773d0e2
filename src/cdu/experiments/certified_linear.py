"""The section on certified linear models on fixed features: what is trained, deleted, released and audited."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdu.certification import budget_bound, required_sigma
from cdu.certification.rounding import computed
from cdu.curvature.minimise import FeatureMoments, Minimum, kronecker_preconditioner, minimise
from cdu.curvature.solution import Preconditioner
from cdu.data.samples import Samples, fingerprint
from cdu.evaluation.audit import audit
from cdu.evaluation.audit_trials import scaled, shifted
from cdu.evaluation.theory_checks.control import rows_of_class
from cdu.experiments.run import Run
from cdu.experiments.sections import REVISIONS
from cdu.models.architectures import LogisticRegression
from cdu.models.image_features import ImageFeatures, features
from cdu.models.objective import Objective
from cdu.seeding import generator
from cdu.settings import digest
from cdu.storage import kept_tensors
from cdu.unlearning.convex_deletions import Deletion, deletion_steps
from cdu.unlearning.convex_training import SHARE, moments_of, train
from cdu.unlearning.requests import requests

#: The true minimiser is computed to this share of the budget.
_EXACT = 0.01

#: ε that the headline numbers are for.
ONE = 1.0

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Model:
    """A model trained on D.

    Attributes:
        objective: L.
        w: The minimiser, shape (p,).
        inverse: An approximate inverse Hessian.
        seconds: Wall time of its training, moments of the features included.
    """

    objective: Objective
    w: Tensor
    inverse: Preconditioner | None
    seconds: float


@dataclass(frozen=True)
class Answer:
    """A request answered within a budget, beside the true minimiser on the rows left.

    Attributes:
        steps: The deletion after 0, 1, … Newton steps; the last keeps the budget, or no more were allowed.
        exact: The true minimiser.
    """

    steps: Sequence[Deletion]
    exact: Minimum

    @property
    def last(self) -> Deletion:
        """The deletion after the last step."""
        return self.steps[-1]

    @property
    def released(self) -> Tensor:
        """What is released before noise: the iterate, or the minimiser where the budget is not kept."""
        return self.exact.w if self.last.fallback else self.last.iterate

    def distance(self, step: int) -> float:
        """The distance of an iterate to the true minimiser."""
        return float((self.steps[step].iterate - self.exact.w).norm())


class LinearCertificates:
    """Trains linear models on fixed features, deletes from them, and logs what that costs.

    Args:
        run: The run; its block ``linear`` says what is done.

    Attributes:
        run: The same.
        settings: The block ``linear``.
        data: All training samples as features.
        test: All test samples as features.
        delta: δ.
    """

    def __init__(self, run: Run) -> None:
        setup, settings = run.setup, run.setup.settings.linear
        assert settings is not None
        self.run, self.settings, self.delta = run, settings, setup.settings.unlearning.delta
        self._folder = setup.checkpoints / "features"
        self.data, self.test = (
            replace(part, ids=np.arange(len(part)))
            for part in (features(one, settings.features, self._folder) for one in (setup.train, setup.test))
        )
        self._known: dict[float, Model] = {}

    def log_sizes(self) -> None:
        """Samples, features and weights, and the time that features take."""
        images, shape = self.run.setup.train.inputs[:1000], self.run.setup.data.input_shape
        compute = ImageFeatures(shape, self.settings.features, self.run.setup.train.maximum)
        began = time.perf_counter()
        with torch.inference_mode():
            for part in images.split(50):
                compute(part)
        seconds = (time.perf_counter() - began) * len(self.data) / len(images)
        self.run.log_values({"seconds": seconds}, method="features of the training set", told=True)
        size = self.data.inputs.shape[1]
        weights = (size + 1) * self.run.setup.data.classes
        counts = {"train_samples": len(self.data), "features": size, "parameters": weights, "delta": self.delta}
        self.run.log_values(counts, told=True)

    # --- models and forget sets ------------------------------------------------------------------------------------

    def model(self, l2: float) -> Model:
        """The model trained on D with a weight of the regulariser; all seeds share it."""
        if l2 not in self._known:
            objective = self._objective(l2)
            found = kept_tensors(self._path("model", l2, min(self.settings.budgets)), partial(self._train, objective))
            inverse = self._inverse(objective, found["w"])
            self._known[l2] = Model(objective, found["w"], inverse, found["seconds"].item())
        return self._known[l2]

    def log_model(self, l2: float) -> None:
        """Time and accuracy of the model trained on D."""
        model = self.model(l2)
        keys: dict[str, Any] = {"method": f"training, l2 = {l2:g}"}
        self.run.log_values({"seconds": model.seconds}, told=True, **keys)
        self.run.log("accuracy", self._accuracy(model.w, [0.0])[0], split="test", **keys)

    def _objective(self, l2: float) -> Objective:
        columns, classes = self.data.inputs.shape[1], self.run.setup.data.classes
        return Objective(LogisticRegression(columns, classes).double(), l2=l2)

    def _train(self, objective: Objective) -> dict[str, Tensor]:
        moments, known = self._moments
        began = time.perf_counter()
        w = train(objective, self.data, min(self.settings.budgets), moments).w
        return {"w": w, "seconds": torch.tensor(known + time.perf_counter() - began, dtype=torch.float64)}

    @cached_property
    def _moments(self) -> tuple[FeatureMoments | None, float]:
        """The moments of the features of D, for preconditioners, and the time that they took."""

        def timed() -> dict[str, Tensor]:
            began = time.perf_counter()
            found = moments_of(self.data)
            tensors = {} if found is None else {"values": found.values, "vectors": found.vectors}
            return {**tensors, "seconds": torch.tensor(time.perf_counter() - began, dtype=torch.float64)}

        found = kept_tensors(self._path("moments"), timed)
        seconds = found["seconds"].item()
        return (FeatureMoments(found["values"], found["vectors"]) if "values" in found else None), seconds

    def _inverse(self, objective: Objective, w: Tensor) -> Preconditioner | None:
        moments, _ = self._moments
        return None if moments is None else kronecker_preconditioner(objective, w, self.data, moments=moments)

    @cached_property
    def _origin(self) -> list[object]:
        setup = self.run.setup
        own = [setup.name, fingerprint(setup.train), self.settings.features.model_dump(mode="json")]
        return [*own, REVISIONS["12_certified_linear"], torch.__version__]

    def _path(self, name: str, *parts: float) -> Path:
        setup = self.run.setup
        return setup.checkpoints / "linear" / f"{setup.name}-{name}-{digest([*self._origin, *parts])}.safetensors"

    @cached_property
    def forget_sets(self) -> dict[str, Rows]:
        """Rows of every forget set, by what it is called."""
        seed, count, size = self.run.setup.seed, len(self.data), self.settings.sizes[-1]
        order = torch.randperm(count, generator=generator(seed, "linear forget sets")).numpy()
        found = {f"{number:,} at random": np.sort(order[:number]) for number in self.settings.sizes}
        if self.settings.share is not None:
            part = round(self.settings.share * count)
            found[f"{part:,} at random"] = np.sort(order[:part])
        labels = self.data.targets.numpy()
        found[f"{size:,} of one class"] = rows_of_class(
            np.arange(count), labels, seed % self.run.setup.data.classes, size, seed
        )
        found[f"{size:,} hardest"] = np.sort(self._losses().argsort(descending=True)[:size].numpy())
        return found

    @property
    def usual(self) -> str:
        """The forget set that l2, budget and ε are varied with."""
        return f"{self.settings.sizes[-1]:,} at random"

    def _losses(self) -> Tensor:
        model = self.model(self.settings.l2[0])
        outputs = model.objective.outputs(model.w, self.data)
        return torch.nn.functional.cross_entropy(outputs, self.data.targets, reduction="none")

    # --- deletions -------------------------------------------------------------------------------------------------

    def log_deletion(self, kind: str, l2: float, budget: float) -> None:
        """Delete a forget set; steps, times, distances, and accuracy without noise and with the noise of every ε."""
        model, rows = self.model(l2), self.forget_sets[kind]
        answer = self._answer(model, rows, budget)
        keys: dict[str, Any] = {"method": f"l2 = {l2:g}, Δ = {budget:g}, {kind}"}
        for one in answer.steps:
            numbers = {"remaining_bound": one.distance, "seconds": one.seconds}
            self.run.log_values(numbers, axis="steps", point=one.steps, **keys)
        own, fallback = answer.exact.gradient_norm / l2, answer.last.fallback
        certified = own + (own if fallback else answer.last.distance)
        measured = (answer.released - answer.exact.w).norm().item()
        numbers = {
            "fallback": float(fallback),
            "newton_steps": answer.last.steps,
            "seconds": answer.last.seconds,
            "remaining_distance": measured,
            "remaining_bound": certified,
            "remaining_ratio": measured / certified,
        }
        self.run.log_values(numbers, told=True, **keys)
        released, exact = (self._accuracy(w, [0.0])[0] for w in (answer.released, answer.exact.w))
        self.run.log("accuracy", released, split="test", **keys)
        self.run.log("accuracy", exact, split="test, retrained", **keys)
        self.run.log("accuracy", self._accuracy_on(answer.released, rows), split="forget", **keys)
        epsilons = self.settings.epsilons if kind == self.usual else (ONE,)
        sigmas = [self._sigma(budget, epsilon) for epsilon in epsilons]
        for epsilon, sigma, value in zip(epsilons, sigmas, self._accuracy(answer.released, sigmas), strict=True):
            where: dict[str, Any] = {"axis": "epsilon", "point": epsilon, **keys}
            self.run.log("sigma", sigma, **where)
            self.run.log("accuracy", value, split="test", **where)
        if kind == self.usual:
            self._log_composed(answer.released, budget, keys["method"])

    def _log_composed(self, w: Tensor, budget: float, method: str) -> None:
        """Accuracy with the noise of k releases that are (ε, δ)-certified together."""
        counts = self.settings.requests
        sigmas = [self._sigma(budget, ONE, count) for count in counts]
        for count, sigma, value in zip(counts, sigmas, self._accuracy(w, sigmas), strict=True):
            keys: dict[str, Any] = {"method": method, "axis": "requests", "point": count}
            self.run.log("sigma", sigma, **keys)
            self.run.log("accuracy", value, split="test", **keys)

    def _answer(self, model: Model, rows: Rows, budget: float) -> Answer:
        gone, retain = self._parted(rows)
        steps = list(self._steps(model, model.w, retain, gone, budget))
        return Answer(steps, self._exact(model, retain, steps[-1].iterate, budget))

    def _parted(self, rows: Rows) -> tuple[Samples, Samples]:
        return self.data.subset(rows), self.data.subset(np.setdiff1d(np.arange(len(self.data)), rows))

    def _steps(self, model: Model, start: Tensor, retain: Samples, gone: Samples, budget: float) -> Iterator[Deletion]:
        """Newton steps until the budget is kept."""
        common = (model.objective, start, retain, gone, self.settings.steps, budget, model.inverse)
        for one in deletion_steps(*common, accuracy=None):
            yield one
            if not one.fallback:
                return

    def _exact(self, model: Model, retain: Samples, start: Tensor, budget: float) -> Minimum:
        """The minimiser on the rows left. It is unique: starting near it saves time and changes nothing."""
        return minimise(model.objective, retain, start, _EXACT * model.objective.l2 * budget, model.inverse)

    def log_retraining(self, l2: float, budget: float) -> None:
        """Training anew from zero on the rows left: its time, and its distance to the minimiser found otherwise."""
        model, rows = self.model(l2), self.forget_sets[self.usual]
        _, retain = self._parted(rows)
        began = time.perf_counter()
        trained = train(model.objective, retain, budget)
        seconds = time.perf_counter() - began
        exact = self._exact(model, retain, trained.w, budget)
        measured, certified = (trained.w - exact.w).norm().item(), trained.distance + exact.gradient_norm / l2
        numbers = {"seconds": seconds, "remaining_distance": measured, "remaining_bound": certified}
        keys: dict[str, Any] = {"method": f"training anew, l2 = {l2:g}"}
        self.run.log_values({**numbers, "remaining_ratio": measured / certified}, told=True, **keys)
        self.run.log("accuracy", self._accuracy(trained.w, [0.0])[0], split="test", **keys)

    # --- requests one after another --------------------------------------------------------------------------------

    def log_chain(self, count: int, size: int) -> None:
        """Answer requests one after another, each from the noiseless iterate of the one before."""
        self._log_chain(f"{count:,} requests of {size:,}", count, size, 0.0)

    def log_chain_from_releases(self, count: int, size: int, shown: int) -> None:
        """The first requests of such a chain, each from the release of the one before, with its noise."""
        sigma = self._sigma(self.settings.budgets[0], ONE, count)
        self._log_chain(f"{count:,} requests of {size:,}, from releases, first {shown}", count, size, sigma, shown)

    def _log_chain(self, method: str, count: int, size: int, carried: float, shown: int | None = None) -> None:
        """Answer requests; ``carried`` is the σ of the noise that the next step starts with."""
        l2, budget, seed = self.settings.l2[0], self.settings.budgets[0], self.run.setup.seed
        model, everything = self.model(l2), np.arange(len(self.data))
        drawn = torch.randperm(len(everything), generator=generator(seed, "linear chain", count)).numpy()
        asked = requests(self.data, everything, np.sort(drawn[: count * size]), count, seed)
        start, answered = model.w, list[Deletion]()
        for request in islice(asked, shown):
            answered.append(list(self._steps(model, start, request.retain, request.forget, budget))[-1])
            w = answered[-1].iterate
            if answered[-1].fallback:
                w = self._exact(model, request.retain, w, budget).w
            draws = generator(seed, "linear chain noise", request.number)
            start = w + carried * torch.randn(len(w), dtype=w.dtype, generator=draws) if carried else w
        exact = self._exact(model, request.retain, w, budget)
        certified, measured = (
            answered[-1].distance + exact.gradient_norm / l2,
            (w - exact.w).norm().item(),
        )
        sigma = self._sigma(budget, ONE, count)
        numbers = {
            "seconds": float(np.mean([one.seconds for one in answered])),
            "newton_steps": float(np.mean([one.steps for one in answered])),
            "fallback": float(any(one.fallback for one in answered)),
            "remaining_distance": measured,
            "remaining_bound": certified,
            "remaining_ratio": measured / certified,
            "sigma": sigma,
        }
        keys: dict[str, Any] = {"method": method}
        self.run.log_values(numbers, told=True, **keys)
        self.run.log("accuracy", self._accuracy(w, [sigma])[0], split="test", **keys)
        self.run.log("accuracy", self._accuracy(exact.w, [0.0])[0], split="test, retrained", **keys)

    # --- audits ----------------------------------------------------------------------------------------------------

    def log_audits(self) -> None:
        """Audit the release of the usual forget set, and the same with an error planted in it."""
        l2, budget = self.settings.l2[0], self.settings.budgets[0]
        model, sigma = self.model(l2), self._sigma(budget, ONE)
        usual = self._answer(model, self.forget_sets[self.usual], budget)
        one_class = self._answer(model, self.forget_sets[f"{self.settings.sizes[-1]:,} of one class"], budget)
        distances = {
            "release": (usual.released - usual.exact.w).norm().item(),
            "budget ignored": usual.distance(0),
            "fallback left out after one step": one_class.distance(min(1, one_class.last.steps)),
        }
        trials = self.settings.trials
        for name, distance in distances.items():
            self._log_audit(name, shifted(distance / sigma, trials, self._draws(name)))
        # What answers by training has a residual of its own, and noise of that size.
        factor = usual.last.distance / (SHARE * budget)
        name = "noise scaled to the measured residual"
        self._log_audit(name, scaled(factor, len(model.w), trials, self._draws(name)))

    def _draws(self, name: str) -> torch.Generator:
        return generator(self.run.setup.seed, "linear audit", name)

    def _log_audit(self, name: str, trials: tuple[Tensor, Tensor]) -> None:
        found = audit(*trials, self.delta)
        numbers = {
            "certified_epsilon": ONE,
            "audit_epsilon": found.epsilon,
            "audit_gaussian": found.gaussian_epsilon,
            "trials": found.trials,
            "contradicted": float(found.contradicts(ONE)),
        }
        self.run.log_values(numbers, told=True, method=f"audit: {name}")

    # --- what all share --------------------------------------------------------------------------------------------

    def _sigma(self, budget: float, epsilon: float, releases: int = 1) -> float:
        bound = computed(budget_bound(budget), "float64", rounding=0.0)
        return required_sigma(bound, epsilon, self.delta, releases)

    def _accuracy(self, w: Tensor, sigmas: Sequence[float]) -> list[float]:
        """Accuracy on the test set after the noise of every σ, as a mean over draws; logits are linear in the noise."""
        logits = self._logits(w.unsqueeze(0), self.test)[0]
        noises = self._noise_logits if any(sigmas) else torch.zeros(1, *logits.shape)
        right = [((logits + sigma * noises).argmax(dim=2) == self.test.targets).double().mean() for sigma in sigmas]
        return [float(one) for one in right]

    def _accuracy_on(self, w: Tensor, rows: Rows) -> float:
        part = self.data.subset(rows)
        return (self._logits(w.unsqueeze(0), part)[0].argmax(dim=1) == part.targets).double().mean().item()

    @cached_property
    def _noise_logits(self) -> Tensor:
        """Logits of the test set by noise of σ = 1, shape (draws, n, K)."""
        size = (self.data.inputs.shape[1] + 1) * self.run.setup.data.classes
        draws = generator(self.run.setup.seed, "linear noise")
        return self._logits(torch.randn(self.settings.noise_draws, size, generator=draws), self.test)

    def _logits(self, ws: Tensor, samples: Samples) -> Tensor:
        """Logits by several linear models at once, shape (models, n, K)."""
        classes, rows = self.run.setup.data.classes, samples.inputs
        weights = ws[:, :-classes].reshape(-1, rows.shape[1]).to(rows.dtype)
        logits: Tensor = (rows @ weights.T).unflatten(1, (len(ws), classes)).transpose(0, 1).double()
        return logits + ws[:, -classes:].unsqueeze(1)
