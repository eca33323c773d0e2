"""One dataset and seed of an experiment: its data, split, trained models and unlearning problem."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from cdu.data import datasets
from cdu.data.samples import Dataset, Samples, fingerprint
from cdu.data.splits import Split, make_split
from cdu.errors import CduError
from cdu.experiments.experiment import Experiment
from cdu.experiments.sections import REVISIONS
from cdu.experiments.settings import DatasetSettings
from cdu.models import architectures
from cdu.models.objective import Objective, parameter_vector
from cdu.models.precision import arithmetic_of, training_key
from cdu.models.settings import ModelSettings, TrainingSettings
from cdu.models.training import Trained, train
from cdu.seeding import generator
from cdu.settings import digest
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.registry import SECOND_SEED
from cdu.unlearning.release import Release


@dataclass
class Setup:
    """One dataset × seed.

    Trained models are kept in ``checkpoints`` under a hash of all that determines them, so that notebooks and
    experiments share them.

    Attributes:
        experiment: Where the settings come from.
        name: The dataset's name.
        seed: Seed of the split, the initial weights and the batches.
        checkpoints: Folder of the trained models.
        device: Where tensors live.
    """

    experiment: Experiment
    name: str
    seed: int
    checkpoints: Path
    device: torch.device

    @cached_property
    def settings(self) -> DatasetSettings:
        """This dataset's settings."""
        return self.experiment.settings(self.name)

    def with_model(self, model: ModelSettings) -> "Setup":
        """The same data, split and recipe with another network."""
        settings = self.settings.model_copy(update={"model": model})
        experiment = self.experiment.model_copy(update={"datasets": {**self.experiment.datasets, self.name: settings}})
        return Setup(experiment, self.name, self.seed, self.checkpoints, self.device)

    @cached_property
    def data(self) -> Dataset:
        """Training and test images on the device."""
        loaded = datasets.load(self.name, self.device)
        return loaded if self.settings.samples is None else loaded.first(self.settings.samples)

    @cached_property
    def split(self) -> Split:
        """Forget, retain and test rows; depends on the seed."""
        labels = self.data.train.targets.cpu().numpy()
        return make_split(labels, len(self.data.test), self.settings.forget, self.seed)

    @cached_property
    def train(self) -> Samples:
        """D, the forget and the retain rows together."""
        return self.data.train.subset(self.split.train)

    @cached_property
    def retain(self) -> Samples:
        """D_r."""
        return self.data.train.subset(self.split.retain)

    @cached_property
    def forget(self) -> Samples:
        """D_u."""
        return self.data.train.subset(self.split.forget)

    @property
    def test(self) -> Samples:
        """The test samples."""
        return self.data.test

    @property
    def initial(self) -> Trained:
        """The weights that training starts from."""
        model = architectures.build(self.settings.model, self.data.input_shape, self.data.classes, self.seed).to(
            self.device
        )
        return Trained(model, parameter_vector(model), [])

    @cached_property
    def original(self) -> Trained:
        """w*, trained on D."""
        return self.trained(self.train, self.seed, "original")

    @cached_property
    def retrained(self) -> Trained:
        """w̃*, trained on D_r from the same initial weights."""
        return self.trained(self.retain, self.seed, "retrained")

    @cached_property
    def second(self) -> Trained:
        """A second retraining, from other initial weights and with other batches."""
        return self.trained(self.retain, self.seed + SECOND_SEED, "second retraining")

    @property
    def l2(self) -> float:
        """The weight decay that training uses, as the l2 weight of the objective."""
        return self.settings.training.weight_decay

    def objective(self, trained: Trained) -> Objective:
        """L with the buffers of a trained model."""
        return Objective(trained.model, l2=self.l2)

    def as_trained(self, trained: Trained) -> Release:
        """A trained model as it is, as a release without noise: what yardsticks are judged by."""
        return Release(trained.w, self.objective(trained), None, UnlearningResult(trained.w, trained.seconds))

    @property
    def sets(self) -> dict[str, Samples]:
        """D_u, D_r and the test samples, by the name of the split."""
        return {"forget": self.forget, "retain": self.retain, "test": self.test}

    def trained(
        self, samples: Samples, seed: int, label: str = "retraining", settings: TrainingSettings | None = None
    ) -> Trained:
        """Train on ``samples``, or load what such a training left; ``settings`` default to the experiment's."""
        recipe = self.settings.training if settings is None else settings
        return self._train(samples, seed, label, recipe, None)

    def _train(
        self, samples: Samples, seed: int, label: str, recipe: TrainingSettings, earlier: Path | None
    ) -> Trained:
        model = architectures.build(self.settings.model, self.data.input_shape, self.data.classes, seed).to(self.device)
        path = self._checkpoint(fingerprint(samples), seed, recipe)
        return train(model, samples, recipe, seed, path, f"{label} ({self.name}, seed {self.seed})", earlier)

    def _checkpoint(self, samples: str, seed: int, recipe: TrainingSettings) -> Path:
        """Where the result of a training is kept; ``samples`` is the fingerprint of its samples."""
        key = {
            "dataset": self.name,
            "model": self.settings.model.model_dump(mode="json"),
            "training": recipe.model_dump(mode="json"),
            "samples": samples,
            "seed": seed,
            "device": self.device.type,
            "revision": REVISIONS["02_training"],
            "torch": torch.__version__,
            **self._precision,
        }
        return self.checkpoints / f"{self.name}-{digest(key)}.safetensors"

    def origin(self) -> dict[str, object]:
        """All that determines the original model, D_r and D_u: part of the key of whatever is kept of them."""
        return {
            "dataset": self.name,
            "model": self.settings.model.model_dump(mode="json"),
            "training": self.settings.training.model_dump(mode="json"),
            "retain": fingerprint(self.retain),
            "forget": fingerprint(self.forget),
            "seed": self.seed,
            "device": self.device.type,
            "revision": REVISIONS["02_training"],
            "torch": torch.__version__,
            **self._precision,
            **self._unrepeatable,
        }

    @property
    def _unrepeatable(self) -> dict[str, object]:
        """Further parts of the keys of kept results where repeating a training gives other weights, as on a GPU."""
        if self.device.type == "cpu":
            return {}
        models = (self.original, self.retrained)
        hashes = [hashlib.sha256(model.w.cpu().numpy().tobytes()).hexdigest() for model in models]
        return {"machine": torch.cuda.get_device_name(self.device), "weights": hashes}

    @property
    def _precision(self) -> dict[str, str]:
        """The precision of training, as part of the keys of kept results."""
        return training_key(self.device.type, arithmetic_of(self.device.type).training)

    def problem(self, original: Trained | None = None, settings: TrainingSettings | None = None) -> Problem:
        """Delete D_u from the original model, or from another trained on D with other ``settings``."""
        start = self.original if original is None else original
        recipe = self.settings.training if settings is None else settings
        return self._problem(start, self.retain, self.forget, self.train, recipe)

    def _problem(
        self, original: Trained, retain: Samples, forget: Samples, everything: Samples, recipe: TrainingSettings
    ) -> Problem:
        """Delete ``forget`` from a model that was trained on ``everything``."""
        return Problem(
            objective=self.objective(original),
            w_star=original.w,
            retain=retain,
            forget=forget,
            radius=recipe.radius,
            retrain=lambda samples, seed: self.trained(samples, seed, settings=recipe),
            seed=self.seed,
            training=recipe,
            stopped=lambda epochs: self.stopped(everything, epochs, "original", recipe),
        )

    def rehearsal(self, validation: int) -> "Rehearsal":
        """Another deletion, for choosing hyper-parameters: no sample of D_u or of the test set has a part in it.

        Of D_r, in an order drawn from the seed, the first ``validation`` samples judge, as many as D_u has
        are to be forgotten next, and the rest is retained. What is chosen here depends on D_r alone, as a certificate
        requires.

        Raises:
            CduError: D_r is too small.
        """
        size = len(self.forget)
        if validation + size >= len(self.retain):
            raise CduError(
                f"{validation} validation and {size} forget samples do not fit into the {len(self.retain)} retained "
                "ones; lower methods.validation"
            )
        order = torch.randperm(len(self.retain), generator=generator(self.seed, "rehearsal"))
        judging, rest = self.retain.subset(order[:validation]), order[validation:].sort().values
        gone = torch.zeros(len(self.retain), dtype=torch.bool)
        gone[order[validation : validation + size]] = True
        forget, retain = self.retain.subset(rest[gone[rest]]), self.retain.subset(rest[~gone[rest]])
        everything = self.retain.subset(rest)
        original = self.trained(everything, self.seed, "rehearsal: original")
        retrained = self.trained(retain, self.seed, "rehearsal: retrained")
        problem = self._problem(original, retain, forget, everything, self.settings.training)
        return Rehearsal(problem, judging, retrained, self.objective(retrained))

    def stopped(
        self, samples: Samples, epochs: int, label: str = "retraining", settings: TrainingSettings | None = None
    ) -> Trained:
        """A training on ``samples`` as it was after ``epochs``; where it ends does not change its course.

        It goes on from the latest earlier state that is kept, such as that of a smaller number of epochs.

        Args:
            samples: What the model is trained on.
            epochs: After how many epochs to stop.
            label: Text of the progress bar.
            settings: The recipe; the experiment's when None.
        """
        recipe = self.settings.training if settings is None else settings
        stops = [recipe.model_copy(update={"epochs": number}) for number in range(epochs, 0, -1)]
        key = fingerprint(samples)
        known = (self._checkpoint(key, self.seed, stop) for stop in stops[1:])
        earlier = next((path for path in known if path.exists()), None)
        return self._train(samples, self.seed, f"{label}, after {epochs} epochs", stops[0], earlier)


@dataclass(frozen=True)
class Rehearsal:
    """A deletion on which hyper-parameters are chosen.

    Attributes:
        problem: The deletion.
        validation: Samples that neither model was trained on.
        retrained: What the methods should come near to.
        objective: L with the retrained model's buffers.
    """

    problem: Problem
    validation: Samples
    retrained: Trained
    objective: Objective
