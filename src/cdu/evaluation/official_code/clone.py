"""The authors' own functions, called on our problem."""

import contextlib
import copy
import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters
from torch.utils.data import Dataset

from cdu.curvature.hessian import Hessian
from cdu.curvature.settings import LissaSettings
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.evaluation.official_code.solvers import replayed_lissa
from cdu.evaluation.official_code.tensor_norms import TensorNorms
from cdu.evaluation.readings import Reading
from cdu.models.objective import Objective
from cdu.seeding import seed_for
from cdu.unlearning.problem import Problem

#: What a record says where the comparison was not made.
NOT_RUN = "not run: it needs a clone of the authors' repository, given to `cdu section` as `--official`"


def comparison(path: str, problem: Problem, damping: float, constants: LissaSettings, seed: int) -> Iterator[Reading]:
    """Whether the authors' functions and ours agree, in single and in double precision.

    The step is the one with all departures of the step, on the mini-batches that the authors' function draws.

    Args:
        path: A clone of their repository; empty where there is none.
        problem: The model and D_r; both go to the CPU.
        damping: Their λ.
        constants: Constants of LiSSA.
        seed: Seed of their mini-batches.

    Yields:
        ``check_gradient`` and ``check_step``, differences relative to theirs, and ``check_norm``, the length of their
        step; without a clone a missing ``check_step`` that says so.

    Raises:
        CduError: There is no such code at ``path``.
    """
    for dtype in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        if path:
            yield Reading(_differences(Official(path), problem, dtype, damping, constants, seed), {"method": name})
        else:
            yield Reading({"check_step": None}, {"method": name, "note": NOT_RUN})


def _differences(
    official: "Official", problem: Problem, dtype: torch.dtype, damping: float, constants: LissaSettings, seed: int
) -> dict[str, float]:
    l2, samples = problem.objective.l2, problem.retain.to("cpu", dtype)
    model, w = copy.deepcopy(problem.objective.model).cpu().to(dtype), problem.w_star.cpu().to(dtype)
    plain = Objective(model, l2=l2)
    gradient = official.gradient(plain, w, samples, l2)
    step, rows = official.step(plain, w, samples, gradient, l2, damping, constants, seed)
    own_gradient = TensorNorms(model, l2).gradient(w, samples)
    operator = Hessian(TensorNorms(model, l2 + damping), w, samples)
    own_step = replayed_lissa(operator, own_gradient, float(constants.scale), rows)
    return {
        "check_gradient": float((own_gradient - gradient).norm() / gradient.norm()),
        "check_step": float((own_step - step).norm() / step.norm()),
        "check_norm": float(step.norm()),
    }


class Recorded(Dataset[tuple[Tensor, Tensor]]):
    """Samples as ready tensors, which remember in what order they were asked for."""

    def __init__(self, samples: Samples) -> None:
        self.inputs, self.targets = samples.batch(slice(None))
        self.asked: list[int] = []

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        """One sample."""
        self.asked.append(row)
        return self.inputs[row], self.targets[row]


class Official:
    """The authors' functions, called on our problem. They are loaded from a clone of their repository.

    Args:
        path: The clone.

    Raises:
        CduError: There is no such code.
    """

    def __init__(self, path: str) -> None:
        self._code = module_of_clone(path, "unlearn")

    def gradient(self, objective: Objective, w: Tensor, samples: Samples, weight_decay: float) -> Tensor:
        """Their gradient on ``samples``, shape (p,)."""
        model = module_at(objective.model, w)
        batches = samples.batches(objective.chunk)
        return _flat(self._code.grad_batch(batches, weight_decay, model, w.device))

    def step(
        self, objective: Objective, w: Tensor, samples: Samples, gradient: Tensor, weight_decay: float, damping: float,
        constants: LissaSettings, seed: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Their step, shape (p,), and the mini-batches that they drew for it, shape (repeats, depth, batch size)."""
        model, data = module_at(objective.model, w), Recorded(samples)
        pieces = gradient.split([part.numel() for part in model.parameters()])
        shaped = [piece.view_as(part) for piece, part in zip(pieces, model.parameters(), strict=True)]
        shape = (constants.repeats, constants.depth, constants.batch_size)
        quiet = io.StringIO()
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            torch.manual_seed(seed_for(seed, "official"))
            found = self._code.newton_update(
                shaped, constants.batch_size, data, weight_decay, damping, model, constants.repeats, constants.depth,
                constants.scale, w.device,
            )  # fmt: skip
        return _flat(found), torch.tensor(data.asked).view(shape)


def module_of_clone(path: str, name: str) -> ModuleType:
    """A module of the clone; its modules find each other by name while it is imported."""
    if not (Path(path) / f"{name}.py").is_file():
        raise CduError(f"{path} holds no {name}.py; give the folder of a clone of the authors' repository")
    sys.path.insert(0, path)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(path)


def module_at(model: nn.Module, w: Tensor) -> nn.Module:
    """A copy of the module with the parameters ``w`` and of their type, in evaluation mode."""
    moved = copy.deepcopy(model).to(w.dtype).eval()
    vector_to_parameters(w.detach().clone(), moved.parameters())
    return moved


def _flat(parts: Any) -> Tensor:
    return torch.cat([part.detach().reshape(-1) for part in parts])
