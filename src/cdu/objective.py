"""The objective L(w, S) = mean loss over S + (l2/2)‖w‖², its gradient and Hessian-vector products.

Parameters are one flat vector w in Rᵖ; views into it stand in for the module's tensors. The module is used as it
is, whatever it is, and so is the loss. BatchNorm runs in evaluation mode with the buffers that the module holds:
running statistics are not part of w.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from cdu.data import Samples

Loss = Callable[[Tensor, Tensor], Tensor]


def parameter_vector(model: nn.Module) -> Tensor:
    """A copy of a module's parameters as one flat vector, in the order of ``named_parameters``."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


class Objective:
    """L(w, S) of a module, a loss and an l2 weight.

    Args:
        model: Any module; its own parameters are never changed.
        loss: ``loss(outputs, targets)``, the *mean* over the batch.
        l2: Weight of (l2/2)‖w‖²; the coupled weight decay that training used.
        chunk: Samples processed at once, so that memory does not grow with the size of S.
    """

    def __init__(self, model: nn.Module, loss: Loss = cross_entropy, l2: float = 0.0, chunk: int = 2048) -> None:
        self.model = model
        self.loss_of = loss
        self.l2 = l2
        self.chunk = chunk
        self._names = [name for name, _ in model.named_parameters()]
        self._shapes = [parameter.shape for parameter in model.parameters()]
        self._sizes = [parameter.numel() for parameter in model.parameters()]

    @property
    def size(self) -> int:
        """The number of parameters p."""
        return sum(self._sizes)

    def tensors(self, w: Tensor) -> dict[str, Tensor]:
        """Views into ``w`` by parameter name, in the module's shapes."""
        views = w.split(self._sizes)
        return {name: view.view(shape) for name, view, shape in zip(self._names, views, self._shapes, strict=True)}

    def forward(self, w: Tensor, inputs: Tensor) -> Tensor:
        """The module's outputs at ``w``, in whatever mode the module is in."""
        outputs: Tensor = functional_call(self.model, self.tensors(w), (inputs,))
        return outputs

    def batch_loss(self, w: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of one batch, without the l2 term."""
        return self.loss_of(self.forward(w, inputs), targets)

    def outputs(self, w: Tensor, samples: Samples) -> Tensor:
        """The module's outputs for all samples, shape (n, ...), in evaluation mode."""
        with self.evaluating(), torch.no_grad():
            return torch.cat([self.forward(w, inputs) for inputs, _ in samples.batches(self.chunk)])

    def loss(self, w: Tensor, samples: Samples) -> float:
        """L(w, S)."""
        return self.mean_loss(w, samples) + 0.5 * self.l2 * w.square().sum().item()

    def mean_loss(self, w: Tensor, samples: Samples) -> float:
        """The mean loss over S alone, without the l2 term."""
        with torch.no_grad():
            return sum(share * self.batch_loss(w, x, y).item() for x, y, share in self._chunks(samples))

    def gradient(self, w: Tensor, samples: Samples) -> Tensor:
        """∇L(w, S), shape (p,)."""
        total = self.l2 * w.detach()
        for inputs, targets, share in self._chunks(samples):
            point = w.detach().requires_grad_()
            (part,) = torch.autograd.grad(self.batch_loss(point, inputs, targets), point)
            total = total.add(part, alpha=share)
        return total

    def hvp(self, w: Tensor, samples: Samples, vector: Tensor) -> Tensor:
        """Hessian-vector product ∇²L(w, S) v, by reverse over reverse differentiation.

        Args:
            w: The point, shape (p,).
            samples: S.
            vector: v of shape (p,), or several of them as rows of shape (k, p).

        Returns:
            A tensor of the shape of ``vector``.
        """
        total = self.l2 * vector
        for inputs, targets, share in self._chunks(samples):
            point = w.detach().requires_grad_()
            loss = self.batch_loss(point, inputs, targets)
            (gradient,) = torch.autograd.grad(loss, point, create_graph=True)
            (part,) = torch.autograd.grad(gradient, point, vector, is_grads_batched=vector.ndim == 2)
            total = total.add(part, alpha=share)
        return total

    def _chunks(self, samples: Samples) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Batches with their share of all samples, the module in evaluation mode meanwhile."""
        with self.evaluating():
            for inputs, targets in samples.batches(self.chunk):
                yield inputs, targets, len(targets) / len(samples)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The module in evaluation mode; afterwards in the mode it was in."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)
