"""Programs that ours are timed against: the authors' own code, and curvlinops. None of their code is in the project."""

import contextlib
import copy
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.evaluation.official_code.clone import module_at, module_of_clone
from cdu.extras import needs_report
from cdu.models.objective import Objective

with needs_report("timing against peers"):
    from torchvision import transforms


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Images turned one by one into tensors through PIL, as the authors' code gets them from torchvision."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.transform = transforms.Compose(
            [transforms.ToPILImage(), transforms.ToTensor(), transforms.Normalize(samples.mean, samples.std)]
        )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        """One image and its label."""
        return self.transform(self.samples.inputs[row]), self.samples.targets[row]


def in_memory(samples: Samples) -> TensorDataset:
    """The samples as ready tensors: what the authors' code costs apart from its data loading."""
    return TensorDataset(*samples.batch(slice(None)))


def sources(samples: Samples) -> dict[str, Dataset[Any]]:
    """The samples in the forms that the authors' code is given, by the name that its timings then have."""
    return {"authors": Images(samples), "authors, data in memory": in_memory(samples)}


class Authors:
    """The authors' functions, loaded from a clone of their repository.

    Args:
        path: The clone.

    Raises:
        CduError: There is no such code.
    """

    def __init__(self, path: str) -> None:
        self._unlearn = module_of_clone(path, "unlearn")
        self._train = module_of_clone(path, "train")

    def lissa(
        self, objective: Objective, w: Tensor, data: Dataset[Any], gradient: Tensor, damping: float, scale: float,
        batch_size: int, depth: int, repeats: int,
    ) -> Tensor:  # fmt: skip
        """Their ``newton_update``: the stochastic inverse-Hessian-vector product."""
        model = module_at(objective.model, w)
        pieces = [piece.view_as(part) for piece, part in _pieces(gradient, model)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = self._unlearn.newton_update(
                pieces, batch_size, data, objective.l2, damping, model, repeats, depth, scale, w.device
            )
        return torch.cat([part.detach().reshape(-1) for part in found])

    def epoch(
        self, model: nn.Module, data: Dataset[Any], learning_rate: float, weight_decay: float, radius: float,
        batch_size: int, workers: int,
    ) -> None:  # fmt: skip
        """One epoch of their ``train``, with a validation set of a single batch."""
        training = DataLoader(data, batch_size=batch_size, shuffle=True, num_workers=workers)
        few = torch.utils.data.Subset(data, range(batch_size))
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            path = str(Path(folder) / "model.pth")
            validation = DataLoader(few, batch_size=batch_size)
            device = next(model.parameters()).device
            self._train.train(
                training, validation, copy.deepcopy(model), learning_rate, weight_decay, 1, radius, path, device
            )


def _pieces(vector: Tensor, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    parameters = list(model.parameters())
    yield from zip(vector.split([part.numel() for part in parameters]), parameters, strict=True)


class Curvlinops:
    """H + λI by curvlinops, over the same batches as ours.

    Raises:
        CduError: curvlinops is not installed.
    """

    def __init__(self, objective: Objective, w: Tensor, samples: Samples, damping: float = 0.0) -> None:
        try:
            import curvlinops
            from curvlinops.examples import IdentityLinearOperator
        except ImportError as error:
            raise CduError("curvlinops is not installed; 'make bench' installs it") from error
        self._library = curvlinops
        model = module_at(objective.model, w)
        parameters = list(model.parameters())
        data = list(samples.batches(objective.rows(w, samples)))
        hessian = curvlinops.HessianLinearOperator(
            model, nn.CrossEntropyLoss(), parameters, data, check_deterministic=False, num_data=len(samples)
        )
        identity = IdentityLinearOperator([part.shape for part in parameters], w.device, w.dtype)
        self.operator = hessian + (objective.l2 + damping) * identity

    def __matmul__(self, vector: Tensor) -> Tensor:
        """(H + λI)v."""
        image: Tensor = self.operator @ vector
        return image

    def conjugate_gradient(self, vector: Tensor, tolerance: float) -> Tensor:
        """Its inverse by conjugate gradient, which takes at least ten steps."""
        inverse = self._library.CGInverseLinearOperator(
            self.operator, tolerance=tolerance, eps=0, max_iter=500, max_tridiag_iter=0
        )
        solution: Tensor = inverse @ vector
        return solution

    def neumann(self, vector: Tensor, terms: int, scale: float) -> Tensor:
        """Its inverse by the Neumann series of full-data products."""
        inverse = self._library.NeumannInverseLinearOperator(self.operator, num_terms=terms, scale=scale)
        solution: Tensor = inverse @ vector
        return solution
