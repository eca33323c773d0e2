"""Checks of arguments: they only ever raise; nothing is bound, drawn or changed in their arguments.

Where a failure is a result, as a solver's refusal is, the error is raised where it is found instead.
"""

from numbers import Real
from typing import TYPE_CHECKING

from cdu.errors import CduError

if TYPE_CHECKING:
    from torch import Tensor

    import cdu.data
    import cdu.objective
    import cdu.unlearning.problem

#: By how much the mean of single samples' losses may differ from their batch's loss, relatively; rounding is far less.
MEAN_TOLERANCE = 1e-3

#: The same between two ways to cut the whole set into batches, by whether batches are in double precision.
CUT_TOLERANCE = {False: 1e-5, True: 1e-12}


def expect(condition: bool, sentence: str) -> None:
    """Raise :class:`~cdu.errors.CduError` with ``sentence`` unless an argument is what it has to be."""
    if not condition:
        raise CduError(sentence)


def expect_epochs(epochs: int, learning_rate: float) -> None:
    """Refuse a descent that would leave the original as it is without having been asked to: no epochs are 0, not −1."""
    expect(isinstance(epochs, int) and epochs >= 0, f"epochs = {epochs} is not a whole number of at least 0")
    expect(0 < learning_rate < float("inf"), f"learning_rate = {learning_rate} is not a positive finite number")


def expect_mean(objective: "cdu.objective.Objective", w: "Tensor", samples: "cdu.data.Samples", count: int = 8) -> None:
    """Refuse a loss that is no mean over its batch: a sum, one with class weights, or one that broadcasts its targets.

    Some samples, spread over the set, are tried together and one by one. Then the whole set is cut into batches of two
    sizes: a rare class's weight is seen there alone.

    Args:
        objective: L.
        w: Weights, shape (p,).
        samples: S.
        count: How many are tried one by one.
    """
    # Certificates, and with them the report, check their arguments without PyTorch.
    import torch

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
    sizes = (min(objective.chunk, len(samples)), max(1, min(objective.chunk, len(samples)) // 7))
    large, small = (objective.mean_loss(w, samples, size) for size in sizes)
    tolerance = CUT_TOLERANCE[samples.dtype == torch.float64]
    expect(
        abs(large - small) <= tolerance * max(abs(large), abs(small)) + 1e-9,
        f"the mean loss of all {len(samples):,} samples is {large:.9g} in batches of {sizes[0]} and {small:.9g} in "
        f"batches of {sizes[1]}; give a loss that is the mean over its batch, without class weights",
    )


def expect_disjoint(retain: "cdu.data.Samples", forget: "cdu.data.Samples") -> None:
    """Refuse sets of which a sample is in both, or several times in the forget set: nothing would be deleted, or twice.

    Args:
        retain: D_r.
        forget: D_u.
    """
    # As above: PyTorch's tensors are looked at through NumPy.
    import numpy as np

    remedy = "if they are different samples that are alike, give both sets Samples(..., ids=...)"
    expect(
        (retain.ids is None) == (forget.ids is None),
        f"only the {'forget' if retain.ids is None else 'retain'} set has ids, so that they cannot be compared; give "
        "both sets ids, or neither",
    )
    gone, left = forget.identities(), retain.identities()
    both = np.flatnonzero(np.isin(gone, left))
    expect(
        len(both) == 0,
        f"{len(both):,} of the {len(gone):,} samples to forget are still in the retain set, the first is forget row "
        f"{both[0] if len(both) else 0}: nothing would be deleted; take them out, or {remedy}",
    )
    expect(
        len(np.unique(gone)) == len(gone),
        f"the forget set's {len(gone):,} rows hold {len(np.unique(gone)):,} different samples; list every one once, or "
        f"{remedy}",
    )
    expect(
        len(gone) <= len(left),
        f"the forget set has {len(gone):,} samples and the retain set {len(left):,}; are they exchanged? Where more is "
        "to be forgotten than kept, train a new model",
    )


def expect_finite(samples: "cdu.data.Samples", name: str) -> None:
    """Refuse samples with numbers that are not finite, which would make every weight NaN."""
    for part in (samples.inputs, samples.targets):
        if not part.is_floating_point():
            continue
        bad = (~part.isfinite()).reshape(len(part), -1).any(dim=1).nonzero()
        expect(
            len(bad) == 0,
            f"{len(bad):,} rows of the {name} set hold NaN or infinite numbers, the first is row "
            f"{int(bad[0]) if len(bad) else 0}; mend or remove them before the model is trained",
        )


def expect_plain_backward(objective: "cdu.objective.Objective", w: "Tensor", samples: "cdu.data.Samples") -> None:
    """Refuse a module that runs its forward pass again while gradients are computed, as activation checkpointing does.

    By then the module holds its own weights again, and not those that the gradient is taken at. It is seen with a copy
    whose own weights are NaN.

    Args:
        objective: L.
        w: Weights, shape (p,).
        samples: The first two of them are tried.
    """
    import copy

    import torch

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


def expect_noise_shows(w: "Tensor", sigma: float) -> None:
    """Refuse noise of σ that is lost in the rounding of the weights it is added to."""
    import torch

    largest = w.abs().max().item() if sigma else 0.0
    expect(
        sigma >= 4 * torch.finfo(w.dtype).eps * largest,
        f"sigma = {sigma:g} is lost in the rounding of {w.dtype} weights of up to {largest:.3g}; use float64",
    )


def expect_answerable(problem: "cdu.unlearning.problem.Problem", sigma: float, delta: float) -> None:
    """Refuse a problem, or a promise, that no method could answer, before hours are spent on it.

    Args:
        problem: What is to be unlearned.
        sigma: Standard deviation of the noise.
        delta: δ of the certificate.
    """
    import torch

    expect(
        isinstance(sigma, Real) and isinstance(delta, Real),
        f"sigma and delta are of the types {type(sigma).__name__} and {type(delta).__name__}; give two numbers",
    )
    w, size = problem.w_star, problem.objective.size
    total = len(problem.retain) + len(problem.forget)
    expect(len(problem.retain) > 0, "the retain set is empty: nothing is left to unlearn on; train a new model")
    expect(len(problem.forget) > 0, "the forget set is empty: there is nothing to unlearn")
    expect(
        w.shape == (size,),
        f"w_star has the shape {tuple(w.shape)}, the objective's model has {size:,} parameters; flatten them in the "
        "model's order, as parameter_vector does",
    )
    expect(
        w.dtype == problem.retain.dtype == problem.forget.dtype and w.dtype in (torch.float32, torch.float64),
        f"w_star is of type {w.dtype}, batches of {problem.retain.dtype} and {problem.forget.dtype}; give all three "
        "float32 or all three float64, e.g. Samples(..., dtype=torch.float64): less would swallow the noise",
    )
    expect(bool(w.isfinite().all()), "w_star holds NaN or infinite numbers; look at the training that made it")
    expect(problem.radius > 0, f"radius = {problem.radius} is not above 0; give C of the training's ball, or math.inf")
    norm = w.double().norm().item()
    expect(
        norm <= problem.radius * (1 + 1e-5),
        f"w_star has the norm {norm:.6g}, above radius = {problem.radius:g}: training did not project onto that ball, "
        "so that no bound of it holds for the retrained model; give the C that training projected onto, or math.inf",
    )
    expect(0 <= sigma < float("inf"), f"sigma = {sigma} is not a finite number of at least 0")
    expect(
        sigma == 0 or 0 < delta < 1 / total,
        f"delta = {delta} is not between 0 and one over the number of samples, {total:,}: so much would let one be "
        "published outright; choose far less",
    )
    expect_noise_shows(w, sigma)
    expect_disjoint(problem.retain, problem.forget)
    for name, samples in (("retain", problem.retain), ("forget", problem.forget)):
        expect_finite(samples, name)
    expect_mean(problem.objective, w, problem.retain)
    expect_plain_backward(problem.objective, w, problem.forget)
