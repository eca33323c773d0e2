"""The code's objective: the sum of the tensors' norms in place of the squared norm of all weights."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cdu.models.objective import Loss, Objective


class TensorNorms(Objective):
    """The code's objective: mean loss + weight · Σ_l ‖W_l‖₂ over the network's tensors W_l (departures 1 and 2).

    The regulariser's Hessian is weight·(I − u_l u_lᵀ)/‖W_l‖ for every tensor, with u_l = W_l/‖W_l‖: zero along W_l, so
    that no weight makes the whole positive definite, and undefined where a tensor is zero. It is part of every batch's
    loss, hence of gradients, Hessian-vector products and LiSSA; :meth:`mean_loss` contains it too.

    Args:
        model: The module.
        weight: The code's λ + weight decay in the Hessian, its weight decay alone in the gradient.
        loss: Mean loss of a batch.
        chunk: See :class:`~cdu.models.objective.Objective`.
    """

    def __init__(self, model: nn.Module, weight: float, loss: Loss = cross_entropy, chunk: int = 2048) -> None:
        super().__init__(model, loss, chunk=chunk)
        self.weight = weight

    def batch_loss(self, w: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of one batch, and the regulariser."""
        norms = [part.norm() for part in self.tensors(w).values()]
        return super().batch_loss(w, inputs, targets) + self.weight * torch.stack(norms).sum()
