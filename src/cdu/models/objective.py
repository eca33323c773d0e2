"""The objective L(w, S) = mean loss over S + (l2/2)‖w‖², its gradient and Hessian-vector products.

Parameters are one flat vector w in Rᵖ; views into it stand in for the module's tensors. The module is used as it
is, whatever it is, and so is the loss. BatchNorm runs in evaluation mode with the buffers that the module holds:
running statistics are not part of w.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.backends import mha
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from cdu.checks import expect
from cdu.data.samples import Samples
from cdu.models.batchnorm import single_values_by_running_statistics

Loss = Callable[[Tensor, Tensor], Tensor]

#: Bytes that one chunk's intermediate values may take, by type of device: in a small chunk a GPU waits for kernels to
#: be started. 4 GiB are 700 images of CIFAR-10 in the AllCNN and 450 in ResNet-18.
CHUNK_BYTES = {"cpu": 2**28, "cuda": 2**32}
#: Bytes of graphs that are kept between Hessian-vector products at one point, at most. 8 GiB hold 1,400 images in the
#: AllCNN and 900 in ResNet-18; a section keeps several points at a time, and three runs share a GPU of 78 GiB.
KEPT_BYTES = {"cpu": 2**30, "cuda": 2**33}


def parameter_vector(model: nn.Module) -> Tensor:
    """A copy of a module's parameters as one flat vector, in the order of ``named_parameters``.

    Example:
        >>> parameter_vector(nn.Linear(3, 2)).shape
        torch.Size([8])
    """
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def kept_bytes(device: torch.device) -> int:
    """Room for kept graphs: :data:`KEPT_BYTES`, and on a GPU, which others may use as well, half of what is free.

    No number depends on it: kept or computed anew, the arithmetic is the same.
    """
    most = KEPT_BYTES.get(device.type, KEPT_BYTES["cuda"])
    if device.type != "cuda":
        return most
    free, _ = torch.cuda.mem_get_info(device)
    # PyTorch holds on to memory that it does not use.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(most, free // 2)


class Objective:
    """L(w, S) of a module, a loss and an l2 weight.

    Args:
        model: Any module; its own parameters are never changed.
        loss: ``loss(outputs, targets)``, the *mean* over the batch.
        l2: Weight of (l2/2)‖w‖²; the coupled weight decay that training used.
        chunk: Samples processed at once at most, so that memory does not grow with the size of S. Gradients and
            products take fewer where their graph would exceed :attr:`chunk_bytes`.
        chunk_bytes: Bytes that the intermediate values of one chunk may take, whoever cuts the work into chunks: the
            gradient's graph, per-sample gradients, LiSSA's repeats. What suits the model's device when None
            (:data:`CHUNK_BYTES`).

    Raises:
        CduError: A parameter is frozen, parameters differ in type, an embedding changes its weights, or ``l2`` or
            ``chunk`` is outside its range.

    Example:
        >>> objective = Objective(nn.Linear(1, 1, bias=False), nn.functional.mse_loss)
        >>> samples = Samples(torch.ones(2, 1), torch.tensor([[1.0], [3.0]]))
        >>> objective.gradient(torch.tensor([5.0]), samples)
        tensor([6.])
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss = cross_entropy,
        l2: float = 0.0,
        chunk: int = 2048,
        chunk_bytes: int | None = None,
    ) -> None:
        expect(
            all(parameter.requires_grad for parameter in model.parameters()),
            "the model has frozen parameters, which would be moved and noised like the others; make them buffers, or "
            "give the trained part as the model and the frozen part's outputs as its inputs",
        )
        expect(
            len({(parameter.dtype, parameter.device) for parameter in model.parameters()}) == 1,
            "the model's parameters, of which there must be some, are of the types and on the devices "
            f"{sorted({f'{parameter.dtype} {parameter.device}' for parameter in model.parameters()})}; one vector "
            "holds them all, so give them one",
        )
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                expect(
                    module.max_norm is None and not module.sparse,
                    f"the embedding '{name}' has max_norm = {module.max_norm} and sparse = {module.sparse}: it would "
                    "rescale its weights whenever it is used, or has no second derivative; train it without either",
                )
        expect(0 <= l2 < float("inf"), f"l2 = {l2} is not a finite number of at least 0")
        expect(chunk >= 1, f"chunk = {chunk} is below 1; a chunk has a sample")
        self.model = model
        self.loss_function = loss
        self.l2 = l2
        self.chunk = chunk
        device = next(iter(model.parameters())).device.type
        self.chunk_bytes = CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) if chunk_bytes is None else chunk_bytes
        self._names = [name for name, _ in model.named_parameters()]
        self._shapes = [parameter.shape for parameter in model.parameters()]
        self._sizes = [parameter.numel() for parameter in model.parameters()]
        self._places = _places(model)
        self._modules = list(model.modules())
        self._bytes: dict[tuple[object, ...], int] = {}
        # By whether the module is in training mode.
        self._changes_inputs: dict[bool, bool] = {}
        self._batchable = True

    def with_model(self, model: nn.Module, l2: float | None = None) -> "Objective":
        """The same loss of another module, in chunks of the same size; ``l2`` as here when None."""
        return Objective(model, self.loss_function, self.l2 if l2 is None else l2, self.chunk, self.chunk_bytes)

    @property
    def size(self) -> int:
        """The number of parameters p."""
        return sum(self._sizes)

    def tensors(self, w: Tensor) -> dict[str, Tensor]:
        """Views into ``w`` by parameter name, in the module's shapes."""
        views = w.split(self._sizes)
        return {name: view.view(shape) for name, view, shape in zip(self._names, views, self._shapes, strict=True)}

    def forward(self, w: Tensor, inputs: Tensor) -> Tensor:
        """The module's outputs at ``w``, in whatever mode the module is in.

        Views into ``w`` take the place of the module's parameters meanwhile: what ``torch.func.functional_call`` does,
        without its look-ups by name, which take longer than a small network. A module that changes its inputs in place
        is given a copy: batches may be views of the user's data. In training mode BatchNorm takes a batch of one sample
        too (:func:`~cdu.models.batchnorm.single_values_by_running_statistics`).
        """
        views = [view.view(shape) for view, shape in zip(w.split(self._sizes), self._shapes, strict=True)]
        own = [module._parameters[name] for module, name, _ in self._places]
        for module, name, number in self._places:
            # A module registers nothing but parameters under this name, yet takes any tensor from there.
            module._parameters[name] = views[number]
        alone = self.model.training and len(inputs) == 1
        try:
            with single_values_by_running_statistics(self.model) if alone else nullcontext():
                outputs = self._outputs(inputs)
        finally:
            for (module, name, _), parameter in zip(self._places, own, strict=True):
                module._parameters[name] = parameter
        return outputs

    def _outputs(self, inputs: Tensor) -> Tensor:
        """The module's outputs; the first call in each mode finds out whether it changes its inputs."""
        # Inside vmap a tensor has no count of its changes; what is drawn there is a copy already.
        training = self.model.training
        if self._changes_inputs.get(training) is False or is_functorch_wrapped_tensor(inputs):
            found: Tensor = self.model(inputs)
            return found
        copied = inputs.clone()
        if copied.is_inference():
            # Such tensors do not count their changes: every call works on a copy.
            outputs: Tensor = self.model(copied)
            return outputs
        before = copied._version
        found = self.model(copied)
        self._changes_inputs[training] = copied._version != before
        return found

    def batch_loss(self, w: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of one batch, without the l2 term."""
        return self.loss_function(self.forward(w, inputs), targets)

    def mapped(
        self, function: Callable[..., Tensor], *rows: Tensor, alone: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """A function of the module at the first row of every argument, at the second, and so on, stacked.

        All rows are computed at once by ``torch.func.vmap`` where PyTorch can batch the module. It cannot batch
        recurrent layers, and modules that branch on values. Such a module is given one row after the other, which is
        slower; its first refusal is remembered.

        Args:
            function: Gives a tensor for one row of each argument.
            rows: Tensors with the same number of rows.
            alone: The same function in ordinary autograd, for one row after the other; ``function`` when None.

        Raises:
            RuntimeError: The module fails on one row too.
        """
        if self._batchable:
            try:
                batched: Tensor = vmap(function)(*rows)
                return batched
            except RuntimeError:
                # PyTorch has no type of its own for it. What is wrong with the rows shows again below.
                pass
        single = function if alone is None else alone
        found = torch.stack([single(*row) for row in zip(*rows, strict=True)])
        self._batchable = False
        return found

    def outputs(self, w: Tensor, samples: Samples) -> Tensor:
        """The module's outputs for all samples, shape (n, ...), in evaluation mode."""
        with self.evaluating(), torch.no_grad():
            return torch.cat([self.forward(w, inputs) for inputs, _ in samples.batches(self.chunk)])

    def loss(self, w: Tensor, samples: Samples) -> float:
        """L(w, S)."""
        return self.mean_loss(w, samples) + 0.5 * self.l2 * w.square().sum().item()

    def mean_loss(self, w: Tensor, samples: Samples, chunk: int | None = None) -> float:
        """The mean loss over S alone, without the l2 term; ``chunk`` samples at once, as usual when None."""
        size = self.chunk if chunk is None else chunk
        with torch.no_grad():
            return sum(share * self.batch_loss(w, x, y).item() for x, y, share in self._chunks(samples, size))

    def gradient(self, w: Tensor, samples: Samples) -> Tensor:
        """∇L(w, S), shape (p,)."""
        total = self.l2 * w.detach()
        for inputs, targets, share in self._chunks(samples, self.rows(w, samples)):
            point = w.detach().requires_grad_()
            (part,) = torch.autograd.grad(self.batch_loss(point, inputs, targets), point)
            total = total.add(part, alpha=share)
        return total

    def hvp(self, w: Tensor, samples: Samples, vector: Tensor) -> Tensor:
        """Hessian-vector product ∇²L(w, S) v, by reverse over reverse differentiation.

        For several products at the same point :class:`Linearised` is about twice as fast.

        Args:
            w: The point, shape (p,).
            samples: S.
            vector: v of shape (p,), or several of them as rows of shape (k, p).

        Returns:
            A tensor of the shape of ``vector``.
        """
        return Linearised(self, w, samples, kept_bytes=0).product(vector)

    def graphs(self, w: Tensor, samples: Samples, first: int = 0) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Chunk by chunk: a copy of ``w``, the gradient of the mean loss with its graph, the chunk's share of S.

        Args:
            w: The point.
            samples: S.
            first: The chunk to begin with.
        """
        rows = self.rows(w, samples)
        for inputs, targets, share in self._chunks(samples, rows, first):
            point = w.detach().clone().requires_grad_()
            with twice_differentiable():
                (gradient,) = torch.autograd.grad(self.batch_loss(point, inputs, targets), point, create_graph=True)
            yield point, gradient, share

    def rows(self, w: Tensor, samples: Samples) -> int:
        """Samples in a chunk: ``chunk``, or as many as the graph of their gradient has room for."""
        return max(1, min(self.chunk, self.chunk_bytes // max(1, self.bytes_per_sample(w, samples))))

    def bytes_per_sample(self, w: Tensor, samples: Samples) -> int:
        """Memory that the graph of the gradient holds for each sample, measured on one and on two of them."""
        key = (samples.inputs.shape[1:], samples.dtype, w.dtype)
        if key not in self._bytes:
            with self.evaluating():
                one, two = (self._graph_bytes(w, samples, count) for count in (1, 2))
            self._bytes[key] = two - one
        return self._bytes[key]

    def _graph_bytes(self, w: Tensor, samples: Samples, count: int) -> int:
        """Bytes of all distinct memory that autograd saves for ``count`` copies of the first sample."""
        inputs, targets = samples.batch(torch.zeros(count, dtype=torch.long, device=samples.device))
        held: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
            return tensor

        point = w.detach().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), twice_differentiable():
            (gradient,) = torch.autograd.grad(self.batch_loss(point, inputs, targets), point, create_graph=True)
        del gradient
        return sum(held.values())

    def _chunks(self, samples: Samples, rows: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Batches of ``rows`` with their share of all samples, the module in evaluation mode meanwhile."""
        with self.evaluating():
            for inputs, targets in samples.batches(rows, first * rows):
                yield inputs, targets, len(targets) / len(samples)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The module in evaluation mode; afterwards every part of it in the mode that it was in."""
        training = [module for module in self._modules if module.training]
        if not training:
            yield
            return
        self.model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention by its formula: the fused kernels that PyTorch prefers have no second derivative.

    Nor has the fused encoder layer of ``nn.Transformer``, which PyTorch takes where a batch of weights hides that a
    gradient is asked for.
    """
    fused = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(fused)


def _places(model: nn.Module) -> list[tuple[nn.Module, str, int]]:
    """Where a module holds its parameters: the submodule, the name there, and the number of the parameter.

    A parameter that several submodules share has several places.
    """
    numbers = {id(parameter): number for number, parameter in enumerate(model.parameters())}
    return [
        (module, name, numbers[id(parameter)])
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]


class Linearised:
    """∇L(w + v, S) to first order in v: products with ∇²L(w, S) at one point, many of them.

    More than half of a product is spent on the gradient that it differentiates. That gradient's graph is kept between
    products, chunk by chunk, as far as ``kept_bytes`` reaches; chunks beyond are computed anew in every product. Kept
    or not, the arithmetic is the same. The point, the samples and the module's buffers must not be changed in place
    meanwhile.

    Args:
        objective: L.
        w: The point, shape (p,).
        samples: S.
        kept_bytes: Memory for kept graphs; what the device has room for when None (:func:`kept_bytes`).
    """

    def __init__(self, objective: Objective, w: Tensor, samples: Samples, kept_bytes: int | None = None) -> None:
        self.objective = objective
        self.w = w
        self.samples = samples
        self.kept_bytes = kept_bytes
        self._kept: list[tuple[Tensor, Tensor, float]] | None = None

    def product(self, vector: Tensor) -> Tensor:
        """∇²L(w, S) v for a vector of shape (p,), or for several as rows of shape (k, p)."""
        if vector.ndim == 1:
            return self._product(vector)
        # A chunk's intermediate values exist once for every vector.
        objective, w, samples = self.objective, self.w, self.samples
        size = min(objective.rows(w, samples), len(samples)) * objective.bytes_per_sample(w, samples)
        together = max(1, objective.chunk_bytes // max(1, size))
        return torch.cat([self._product(rows) for rows in vector.split(together)])

    def _product(self, vector: Tensor) -> Tensor:
        several = vector.ndim == 2
        total = self.objective.l2 * vector
        for point, gradient, share in self._graphs():
            (part,) = torch.autograd.grad(gradient, point, vector, retain_graph=True, is_grads_batched=several)
            total = total.add(part, alpha=share)
        return total

    def _graphs(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """All chunks: those kept, then the others; the first pass decides which are kept."""
        objective, w, samples = self.objective, self.w, self.samples
        if self._kept is not None:
            yield from self._kept
            yield from objective.graphs(w, samples, len(self._kept))
            return
        chunk_bytes = objective.rows(w, samples) * objective.bytes_per_sample(w, samples)
        room = (kept_bytes(w.device) if self.kept_bytes is None else self.kept_bytes) // max(1, chunk_bytes)
        kept: list[tuple[Tensor, Tensor, float]] = []
        for chunk in objective.graphs(w, samples):
            if len(kept) < room:
                kept.append(chunk)
            yield chunk
        self._kept = kept
