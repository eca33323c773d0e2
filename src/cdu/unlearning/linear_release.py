"""What a linear model gives: a release, the release after a deletion, and the plan of one."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cdu.certification.certificate import Certificate
from cdu.checks import expect
from cdu.data.table import as_labels, as_rows
from cdu.unlearning.ledger_entries import Entry

#: A Newton step takes as long as so many gradients, roughly: 60 to 100 in trials with 650 weights.
GRADIENTS = 80


@dataclass(frozen=True)
class Released:
    """A model that is handed out.

    Attributes:
        w: The released weights, noise included: ``weights`` row by row, then ``bias``; shape (p,), float64.
        classes: K.
        certificate: What the release guarantees; None for one before the first request.
    """

    w: Tensor
    classes: int
    certificate: Certificate | None

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
class Deleted(Released):
    """A model after a deletion.

    The last four attributes are for whoever operates the model, and the certificate assumes that nobody else learns
    them: they depend on the deleted rows, and no noise is added to them.

    Attributes:
        entry: The ledger's entry; None without a ledger.
        fallback: Whether the model was trained anew because the Newton steps did not keep the budget.
        steps: Newton steps, those of training where ``fallback`` is true.
        distance: A bound on the distance to the exact minimiser, before noise.
        seconds: Wall time of the whole request.
    """

    entry: Entry | None = field(repr=False)
    fallback: bool = field(repr=False)
    steps: int = field(repr=False)
    distance: float = field(repr=False)
    seconds: float = field(repr=False)


@dataclass(frozen=True)
class Plan:
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
