"""What a linear model gives: a model, the release that answers a deletion, and the plan of one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdu.certification.certificate import Certificate
from cdu.checks import expect
from cdu.data.conversion import as_labels, as_rows
from cdu.unlearning.ledger_entries import Entry

#: A Newton step takes as long as so many gradients, roughly: 60 to 100 in trials with 650 weights.
GRADIENTS = 80


@dataclass(frozen=True)
class LinearModel:
    """A linear model that is handed out.

    Attributes:
        w: The weights, noise included: ``weights`` row by row, then ``bias``; shape (p,), float64.
        classes: K.
    """

    w: Tensor
    classes: int

    @property
    def certificate(self) -> Certificate | None:
        """What the release guarantees: nothing, where no request was answered."""
        return None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Weights and bias by their names in a release's file, which are those of :class:`torch.nn.Linear`."""
        return {"weight": self.weights, "bias": self.bias}

    @property
    def weights(self) -> Tensor:
        """Shape (K, features)."""
        return self.w[: -self.classes].view(self.classes, -1)

    @property
    def bias(self) -> Tensor:
        """Shape (K,)."""
        return self.w[-self.classes :]

    def predict(self, features: Any) -> Tensor:
        """The most likely class of every row, int64, shape (n,); features as for :class:`Linear`."""
        rows = as_rows(features)
        expect(
            rows.shape[1] == self.weights.shape[1],
            f"the rows have {rows.shape[1]} features, and the model was trained on {self.weights.shape[1]}; give those",
        )
        blocks = rows.split(2048)
        return torch.cat([(block.double() @ self.weights.T + self.bias).argmax(dim=1) for block in blocks])

    def accuracy(self, features: Any, labels: Any) -> float:
        """The share of rows whose class is predicted."""
        found, wanted = self.predict(features), as_labels(labels)
        expect(
            len(found) == len(wanted) > 0,
            f"there are {len(found)} rows of features and {len(wanted)} labels; every row has one, and there must be "
            "some",
        )
        return (found == wanted.to(found.device)).double().mean().item()


@dataclass(frozen=True)
class Deleted(LinearModel):
    """The answer to a request: a linear model that may leave. Names are those of :class:`cdu.Released`.

    The last four attributes are for whoever operates the model, and the certificate assumes that nobody else learns
    them: they depend on the deleted rows, and no noise is added to them. So no file keeps them, and they are None where
    an earlier answer was read back.

    Attributes:
        entry: The ledger's entry.
        folder: Where its weights, its certificate and a page about it lie.
        fallback: Whether the model was trained anew because the Newton steps did not keep the budget.
        steps: Newton steps, those of training where ``fallback`` is true.
        distance: A bound on the distance to the exact minimiser, before noise.
        seconds: Wall time of the whole request.
    """

    entry: Entry = field(repr=False)
    folder: Path
    fallback: bool | None = field(repr=False, default=None)
    steps: int | None = field(repr=False, default=None)
    distance: float | None = field(repr=False, default=None)
    seconds: float | None = field(repr=False, default=None)

    @property
    def certificate(self) -> Certificate:
        """What the release guarantees."""
        return Certificate.model_validate(self.entry.certificate)

    @property
    def promise(self) -> str:
        """What the release promises on its own, in a few words."""
        return self.entry.promise


@dataclass(frozen=True)
class LinearPlan:
    """What a deletion would cost. It is for whoever operates the model: it depends on the rows to be deleted.

    Attributes:
        gone: Rows that would be deleted.
        left: Rows that would be left.
        sigma: Standard deviation of the noise per coordinate.
        noise_norm: σ√p, the noise's usual length.
        weights_norm: ‖w‖ of the model that the steps would start from.
        distance: A bound on the start's distance to the minimiser on the rows left.
        kept: Whether it is proven already that the steps keep the budget. Where it is not they often do nevertheless,
            and where they do not the model is trained anew, with the same noise and certificate.
        seconds: Roughly what the steps take if all are needed: :data:`GRADIENTS` times a measured gradient each.
    """

    gone: int
    left: int
    sigma: float
    noise_norm: float
    weights_norm: float
    distance: float
    kept: bool
    seconds: float

    def __str__(self) -> str:
        """In four lines."""
        kept = (
            "proven to be kept" if self.kept else "not proven beforehand; if it is not kept, the model is trained anew"
        )
        return "\n".join(
            [
                f"rows: {self.gone:,} go, {self.left:,} are left",
                f"noise: σ = {self.sigma:.4g} per coordinate; norm {self.noise_norm:.4g}, the weights' "
                f"{self.weights_norm:.4g}",
                f"budget: {kept}; the start is within {self.distance:.3g} of the exact minimiser",
                f"time: about {self.seconds:.1g} s for all steps",
            ]
        )
