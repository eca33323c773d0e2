"""One dataset and seed of an experiment: its data, split, trained models and unlearning problem."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from cdu import data, models
from cdu.config import DatasetSettings, Experiment, ModelSettings, TrainingSettings, digest
from cdu.data import Dataset, Samples, Split, make_split
from cdu.errors import CduError
from cdu.objective import Objective
from cdu.training import RECIPE_VERSION, Trained, train
from cdu.unlearning import SECOND_SEED, Problem


def pick_device(wanted: str = "auto") -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU; any other name is taken as PyTorch's.

    Raises:
        CduError: CUDA was asked for by name and is not there, or the name is unknown.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise CduError(f"unknown device '{wanted}': use 'auto', 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CduError("device 'cuda' was asked for, but PyTorch finds no CUDA device here; use 'auto' or 'cpu'")
    return device


@dataclass
class Scenario:
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

    def with_model(self, model: ModelSettings) -> "Scenario":
        """The same data, split and recipe with another network."""
        settings = self.settings.model_copy(update={"model": model})
        experiment = self.experiment.model_copy(update={"datasets": {**self.experiment.datasets, self.name: settings}})
        return Scenario(experiment, self.name, self.seed, self.checkpoints, self.device)

    @cached_property
    def data(self) -> Dataset:
        """Training and test images on the device."""
        return data.load(self.name, self.device)

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

    def trained(
        self, samples: Samples, seed: int, label: str = "retraining", settings: TrainingSettings | None = None
    ) -> Trained:
        """Train on ``samples``, or load what such a training left; ``settings`` default to the experiment's."""
        recipe = self.settings.training if settings is None else settings
        model = models.build(self.settings.model, self.data.input_shape, self.data.classes, seed).to(self.device)
        key = {
            "dataset": self.name,
            "model": self.settings.model.model_dump(mode="json"),
            "training": recipe.model_dump(mode="json"),
            "samples": _fingerprint(samples),
            "seed": seed,
            "device": self.device.type,
            "recipe": RECIPE_VERSION,
            "torch": torch.__version__,
        }
        path = self.checkpoints / f"{self.name}-{digest(key)}.safetensors"
        return train(model, samples, recipe, seed, path, f"{label} ({self.name}, seed {self.seed})")

    def problem(self, original: Trained | None = None, settings: TrainingSettings | None = None) -> Problem:
        """Delete D_u from the original model, or from another trained on D with other ``settings``."""
        start = self.original if original is None else original
        recipe = self.settings.training if settings is None else settings
        return Problem(
            objective=self.objective(start),
            w_star=start.w,
            retain=self.retain,
            forget=self.forget,
            radius=recipe.radius,
            retrain=lambda samples, seed: self.trained(samples, seed, settings=recipe),
            seed=self.seed,
        )


def _fingerprint(samples: Samples) -> str:
    """Hash of the images and labels that a model is trained on, and of how they are normalised."""
    parts = [samples.inputs, samples.targets]
    contents = [hashlib.sha256(part.contiguous().cpu().numpy().tobytes()).hexdigest() for part in parts]
    return digest([*contents, samples.shift, samples.spread, samples.maximum, str(samples.dtype)])
