"""Models trained as the authors' code trains them (departures 7 and 9), and its network with BatchNorm."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from cdu.evaluation.official_code.training import hold_out, lowest_validation
from cdu.evaluation.settings import OfficialSettings
from cdu.experiments.setup import Setup
from cdu.models import architectures
from cdu.models.settings import TrainingSettings
from cdu.seeding import generator
from cdu.settings import digest
from cdu.unlearning.problem import Problem


@dataclass(frozen=True)
class OfficialModels:
    """The same deletion from models that are trained in other ways.

    Attributes:
        problems: The deletion from each, by the departure's name.
        chosen: That from the checkpoint of the lowest validation loss, which has both departures.
        chosen_epoch: The epoch of that checkpoint.
        never_trained: Share of D_u that models with departure 7 were never trained on.
    """

    problems: Mapping[str, Problem]
    chosen: Problem
    chosen_epoch: int
    never_trained: float

    def share_never_trained(self, name: str) -> float:
        """Share of D_u that a model was never trained on."""
        return self.never_trained if name.startswith("7") else 0.0


def official_models(setup: Setup, code: OfficialSettings, revision: int) -> OfficialModels:
    """Train with a fifth of D held out, by the code's recipe, and with both; the last keeps its best checkpoint.

    Args:
        setup: Data, network and the paper's recipe.
        code: The code's recipe, and the share that it holds out.
        revision: Of the section, part of the key of kept checkpoints.
    """
    seed = setup.seed
    trained_rows, held_out_rows = hold_out(len(setup.train), code.held_out, seed)
    part, validation = setup.train.subset(trained_rows), setup.train.subset(held_out_rows)
    recipe = setup.settings.training.model_copy(
        update={"learning_rate": code.learning_rate, "epochs": code.epochs, "radius": code.radius}
    )
    kept_by = digest([setup.origin(), code.model_dump(mode="json"), revision])
    folder = setup.checkpoints / "departures" / f"{setup.name}-{seed}-{kept_by}"

    def fresh() -> nn.Module:
        shape, count = setup.data.input_shape, setup.data.classes
        return architectures.build(setup.settings.model, shape, count, seed).to(setup.device)

    best, epoch = lowest_validation(fresh, part, validation, recipe, seed, folder)
    chosen = setup.problem(best, recipe)
    problems = {
        "7: a fifth held out": setup.problem(setup.trained(part, seed, "a fifth held out")),
        "9: recipe": setup.problem(setup.trained(setup.train, seed, "the code's recipe", recipe), recipe),
        "7, 9: lowest validation loss": chosen,
    }
    never = np.isin(setup.split.forget, setup.split.train[held_out_rows.numpy()]).mean()
    return OfficialModels(problems, chosen, epoch, float(never))


def batchnorm_problem(setup: Setup, code: OfficialSettings) -> Problem:
    """A deletion from a narrow network with BatchNorm, trained on a part of D: a tenth of it is of D_u.

    Args:
        setup: Data and split.
        code: The network, the size of the part, its epochs and radius.
    """
    narrow, forget, retain = setup.with_model(code.network), setup.forget, setup.retain
    size = min(code.network_samples, len(setup.train))
    gone = forget.subset(torch.arange(min(len(forget), size // 10)))
    order = torch.randperm(len(retain), generator=generator(setup.seed, "network"))
    kept = retain.subset(order[: size - len(gone)].sort().values)
    recipe = TrainingSettings(epochs=code.network_epochs, learning_rate=1e-3, radius=code.radius)
    original = narrow.trained(kept.joined(gone), setup.seed, "BatchNorm network", recipe)
    return replace(narrow.problem(original, recipe), retain=kept, forget=gone)
