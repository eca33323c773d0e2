"""What an objective asks of a user's module and loss: refused before anything is computed from them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss

from cdu.checks import expect
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models.losses import squared_error
from cdu.models.objective import Loss, Objective

#: By how much the mean of single samples' losses may differ from their batch's loss, relatively; rounding is far less.
MEAN_TOLERANCE = 1e-3

#: The same between two ways to cut the whole set into batches, by whether batches are in double precision.
CUT_TOLERANCE = {False: 1e-5, True: 1e-12}


#: What PyTorch raises where shapes, types or devices do not fit.
MISFITS = (RuntimeError, IndexError, ValueError, TypeError)


def expect_fitting(objective: Objective, w: Tensor, samples: Samples, name: str) -> None:
    """Refuse samples that the module or the loss cannot take: other features, unknown tokens, labels out of range.

    A module with embeddings is given all samples, since any may hold an unknown token, and others two. The loss and its
    gradient are tried on the first sample and on those with the smallest and the largest target.

    Args:
        objective: L.
        w: Weights, shape (p,).
        samples: S.
        name: What they are called in the sentence.
    """
    outputs = _fitting_outputs(objective, w, samples, name)
    _expect_labels(objective.loss_function, outputs, samples.targets, name)
    rows = _extremes(samples.targets)
    try:
        with objective.evaluating():
            point = w.detach().clone().requires_grad_()
            # Whether the loss is one number is another check's.
            torch.autograd.grad(objective.batch_loss(point, *samples.batch(rows.to(samples.device))).sum(), point)
    except torch.OutOfMemoryError:
        raise
    except MISFITS as error:
        lowest, highest = samples.targets.min().item(), samples.targets.max().item()
        raise CduError(
            f"the loss of outputs {_kind(outputs)} and the {name} set's targets {_kind(samples.targets)} from {lowest} "
            f"to {highest} has no gradient ({_first_line(error)}); class labels are integers (int64) of shape (n,), "
            "regression targets floats of the outputs' shape and type"
        ) from error


def _fitting_outputs(objective: Objective, w: Tensor, samples: Samples, name: str) -> Tensor:
    """The outputs for the first two samples, after layers have looked at what they are given."""
    embeds = any(isinstance(module, nn.Embedding) for module in objective.model.modules())
    rows = slice(None, None if embeds else 2)
    tried = samples.subset(torch.arange(len(samples))[rows])
    try:
        with _looking_layers(objective.model, name):
            return objective.outputs(w, tried)[:2]
    except torch.OutOfMemoryError:
        raise
    except MISFITS as error:
        raise CduError(
            f"the module takes no inputs {_inputs_in_words(objective.model, samples)} of the {name} set "
            f"({_first_line(error)}); give inputs of the shape, type and device that it was trained on"
        ) from error


@contextmanager
def _looking_layers(model: nn.Module, name: str) -> Iterator[None]:
    """Linear layers and embeddings refuse what they cannot take, meanwhile."""
    hooks = []
    for layer, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            look = _expect_features if isinstance(module, nn.Linear) else _expect_tokens
            hooks.append(module.register_forward_pre_hook(partial(look, layer, name), with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _expect_features(layer: str, name: str, module: Any, inputs: tuple[Any, ...], by_name: dict[str, Any]) -> None:
    """A linear layer's hook: as many features as it has columns, and floats."""
    given = _given(inputs, by_name)
    if given is None:
        return
    expect(
        given.is_floating_point(),
        f"the linear layer '{layer}' takes floats, and the {name} set gives it {given.dtype}; give inputs that are no "
        "tokens as floats",
    )
    expect(
        given.shape[-1] == module.in_features,
        f"the linear layer '{layer}' takes {module.in_features} features, and the {name} set gives it "
        f"{given.shape[-1]}, in a batch of shape {tuple(given.shape)}; give the features that the model was trained on",
    )


def _given(inputs: tuple[Any, ...], by_name: dict[str, Any]) -> Tensor | None:
    """What a layer is given, by place or by name; None where a subclass of the layer takes something else."""
    given = inputs[0] if inputs else by_name.get("input")
    return given if isinstance(given, Tensor) else None


def _expect_tokens(layer: str, name: str, module: Any, inputs: tuple[Any, ...], by_name: dict[str, Any]) -> None:
    """An embedding's hook: integers, every one the number of a row."""
    given = _given(inputs, by_name)
    if given is None:
        return
    expect(
        not given.is_floating_point(),
        f"the embedding '{layer}' takes integers, and the {name} set gives it {given.dtype}; give tokens as "
        "torch.int64",
    )
    bad = given[(given < 0) | (given >= module.num_embeddings)]
    expect(
        len(bad) == 0,
        f"the embedding '{layer}' knows the tokens 0 to {module.num_embeddings - 1}, and the {name} set holds "
        f"{bad[0].item() if len(bad) else 0}; use the vocabulary that the model was trained with",
    )


def _expect_labels(loss: Loss, outputs: Tensor, targets: Tensor, name: str) -> None:
    """Refuse class labels beyond the outputs, where the loss is known to take labels; a GPU would be lost by them."""
    labelled = loss in (cross_entropy, nll_loss, squared_error) or isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss)
    if not labelled or targets.is_floating_point():
        return
    expect(
        outputs.ndim >= 2,
        f"the outputs of {len(outputs)} samples have the shape {tuple(outputs.shape)}, and the loss compares classes; "
        "give a module with an output for every class, or a loss for one output",
    )
    expect(
        targets.shape[1:] == outputs.shape[2:],
        f"the {name} set's labels have the shape {tuple(targets.shape)}, and are to be one number each for outputs of "
        f"the shape (n, {', '.join(str(size) for size in outputs.shape[1:])}); one-hot labels become numbers with "
        "targets.argmax(dim=1), a column with targets.squeeze(1)",
    )
    classes, lowest, highest = outputs.shape[1], int(targets.min()), int(targets.max())
    expect(
        lowest >= 0 and highest < classes,
        f"the {name} set's labels go from {lowest} to {highest}, and the module has {classes} outputs; number the "
        f"classes from 0 to {classes - 1}, or give a module with more outputs",
    )


def _extremes(targets: Tensor) -> Tensor:
    """The rows of the first sample and of the smallest and the largest target."""
    rows = targets.reshape(len(targets), -1)
    return torch.tensor(sorted({0, int(rows.amin(dim=1).argmin()), int(rows.amax(dim=1).argmax())}))


def _kind(tensor: Tensor) -> str:
    """A tensor's shape and type, in words."""
    return f"of shape {tuple(tensor.shape)} and type {tensor.dtype}"


def _inputs_in_words(model: nn.Module, samples: Samples) -> str:
    """What two samples' inputs are, in words; a module that looks them up by their numbers says it itself."""
    inputs, _ = samples.batch(slice(0, 2))
    say = getattr(model, "inputs_in_words", _kind)
    words: str = say(inputs)
    return words


def _first_line(error: Exception) -> str:
    """What PyTorch says, without its advice."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def expect_mean(objective: Objective, w: Tensor, samples: Samples, count: int = 8) -> None:
    """Refuse a loss that is no mean over its batch: a sum, one with class weights, or one that broadcasts its targets.

    Some samples, spread over the set, are tried together and one by one. Then the whole set is cut into batches of two
    sizes: a rare class's weight is seen there alone. Two losses are known to be means, and not tried so.

    Args:
        objective: L.
        w: Weights, shape (p,).
        samples: S.
        count: How many are tried one by one.
    """
    rows = torch.linspace(0, len(samples) - 1, min(count, len(samples))).long().unique()
    with objective.evaluating(), torch.no_grad():
        losses = [objective.batch_loss(w, *samples.batch(part.to(samples.device))) for part in (rows, *rows.split(1))]
    expect(
        all(loss.ndim == 0 for loss in losses),
        f"the loss of {len(rows)} samples has the shape {tuple(losses[0].shape)}; give one number, their mean",
    )
    expect(
        all(bool(loss.isfinite()) for loss in losses),
        f"the loss of {len(rows)} samples is not finite: {[loss.item() for loss in losses[1:]]}; look for NaN in the "
        "weights and the inputs",
    )
    whole, *parts = (loss.item() for loss in losses)
    mean = sum(parts) / len(parts)
    expect(
        abs(whole - mean) <= MEAN_TOLERANCE * max(abs(whole), abs(mean)) + 1e-6,
        f"the loss of {len(parts)} samples together is {whole:.6g}, the mean of their losses {mean:.6g}; give a loss "
        "that is the mean over its batch, without class weights, and targets of the outputs' shape",
    )
    if objective.loss_function in (cross_entropy, squared_error):
        return
    sizes = (min(objective.chunk, len(samples)), max(1, min(objective.chunk, len(samples)) // 7))
    large, small = (objective.mean_loss(w, samples, size) for size in sizes)
    tolerance = CUT_TOLERANCE[samples.dtype == torch.float64]
    expect(
        abs(large - small) <= tolerance * max(abs(large), abs(small)) + 1e-9,
        f"the mean loss of all {len(samples):,} samples is {large:.9g} in batches of {sizes[0]} and {small:.9g} in "
        f"batches of {sizes[1]}; give a loss that is the mean over its batch, without class weights",
    )


def expect_plain_backward(objective: Objective, w: Tensor, samples: Samples) -> None:
    """Refuse a module that runs its forward pass again while gradients are computed, as activation checkpointing does.

    By then the module holds its own weights again, and not those that the gradient is taken at. It is seen with a copy
    whose own weights are NaN.

    Args:
        objective: L.
        w: Weights, shape (p,).
        samples: The first two of them are tried.
    """
    model = copy.deepcopy(objective.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    hollow = objective.with_model(model)
    first = samples.subset(torch.arange(min(2, len(samples))))
    expect(
        bool(hollow.gradient(w, first).isfinite().all()),
        "the module runs its forward pass again while gradients are computed, with weights of its own; switch its "
        "activation checkpointing off",
    )
