"""Do a user's model, its loss and its data fit together, and what will no certificate cover? Nothing is changed."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal
from unicodedata import normalize

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cdu.checks import expect
from cdu.data.lookup import leaves
from cdu.data.samples import Samples, row_hashes
from cdu.data.source import Data
from cdu.errors import CduError
from cdu.models.objective import Objective, parameter_vector
from cdu.models.objective_checks import expect_fitting, expect_mean, expect_plain_backward
from cdu.own_model.parts import Part, Patterns
from cdu.own_model.recipe import Recipe, beside_parameters, expect_data, expect_module, expect_radius, patterns_of
from cdu.own_model.task import Kind, Task

#: A gradient above this share of a single row's is not the end of a training.
GRADIENT_SHARE = 0.05
#: How many rows' own gradients the whole one is compared with.
GRADIENT_ROWS = 8
#: An id with more than this share of all rows is worth a warning.
ID_SHARE = 0.1
#: The types that noise of a certificate shows in.
WIDE = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Finding:
    """Something that stands in the way of unlearning, or that a certificate will not cover.

    Attributes:
        severity: ``error`` where no request could be answered, else ``warning``.
        subject: What it is about: "data", "ids", "model", "loss", "weights" or "radius".
        sentence: What was found, and what to do.
    """

    severity: Literal["error", "warning"]
    subject: str
    sentence: str

    def __str__(self) -> str:
        """The finding in a line."""
        return f"{self.severity}, {self.subject}: {self.sentence}"


class Findings(list[Finding]):
    """What has been found so far."""

    def warn(self, condition: bool, subject: str, sentence: str) -> None:
        """Add a warning where a condition holds."""
        if condition:
            self.append(Finding("warning", subject, sentence))

    @contextmanager
    def refusals(self, subject: str) -> Iterator[None]:
        """What is refused meanwhile becomes an error; a user's code may raise anything."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except CduError as error:
            self.append(Finding("error", subject, str(error)))
        except Exception as error:
            said = (str(error) or "no message").splitlines()[0].rstrip(".")
            self.append(Finding("error", subject, f"your code raises {type(error).__name__} ({said}); mend it"))


def validate(
    model: nn.Module,
    task: Task,
    data: Data,
    *,
    l2: float = 0.0,
    radius: float = math.inf,
    parameters: Patterns = "*",
) -> list[Finding]:
    """All that is wrong with a model, a task and data, or worth knowing before rows are deleted.

    Every check stands for itself: an error hides no other that does not follow from it. The data are read a few times.

    Example:
        >>> from torch.nn.functional import cross_entropy
        >>> from cdu.data.source import as_data
        >>> data = as_data(torch.eye(4), [0, 1, 2, 3])
        >>> first = validate(nn.Linear(4, 3), Task(cross_entropy), data, radius=10)[0]
        >>> print(first.severity, first.subject, first.sentence.split(";")[0], sep=": ")
        error: data: the data set's labels go from 0 to 3, and the module has 3 outputs

    Args:
        model: The user's trained module; a copy is looked at.
        task: Its loss.
        data: What it was trained on.
        l2: Weight of (l2/2)‖w‖², which training used.
        radius: C of the ball that training projected onto; infinite for none.
        parameters: Glob patterns of the parameters that are w.

    Returns:
        Errors first, in the order of the checks; nothing where all is well.
    """
    found = Findings()
    with found.refusals("model"):
        expect_module(model)
    with found.refusals("data"):
        expect_data(data)
    with found.refusals("radius"):
        expect_radius(radius)
        with found.refusals("model"):
            Recipe(task, l2, radius, patterns_of(parameters))
    if found:
        return list(found)
    _look_at_data(found, data)
    _look_at_ids(found, data)
    found.warn(
        radius == math.inf,
        "radius",
        "there is no ball, so that the projection bounds no distance and most methods have no certificate; train with "
        "cdu.ball(model, radius) after every step, and give that radius here",
    )
    with found.refusals("model"):
        objective = task.objective(model, data, l2, parameters=parameters)
        beside = beside_parameters(model)
        found.warn(
            len(beside) > 0,
            "model",
            f"the tensors {_listed(beside)} are released as they are, beside the parameters, and no certificate covers "
            "them; they must hold no statistics or rows of these data",
        )
        _look_at_model(found, objective)
        _look_at_weights(found, objective, radius)
        _look_at_fit(found, objective, task, data)
    return sorted(dict.fromkeys(found), key=lambda finding: finding.severity)


def _look_at_data(found: Findings, data: Data) -> None:
    """Numbers that are not finite, rows that cannot be read or change from reading to reading."""
    with found.refusals("data"):
        data.expect_finite()
    with found.refusals("data"):
        rows = torch.from_numpy(data.rows[:2])
        first, second = (row_hashes(leaves(data.numbered_batch(rows))) for _ in range(2))
        expect(
            bool((first == second).all()),
            "the first rows are not the same when they are read twice; take random transforms out of the dataset: a "
            "gradient is deleted only where it can be computed again",
        )


def _look_at_ids(found: Findings, data: Data) -> None:
    """Ids of very many rows, and rows that are alike under different ids."""
    names, places, counts = np.unique(data.ids, return_inverse=True, return_counts=True)
    most = int(counts.argmax())
    found.warn(
        counts[most] > max(1, ID_SHARE * len(data)),
        "ids",
        f"the id '{names[most]}' has {counts[most]:,} of {len(data):,} rows; to delete it changes the model much, and "
        "above half of the rows a new model is to be trained",
    )
    spellings = Counter(normalize("NFKC", name).strip().casefold() for name in names.tolist())
    alike = [name for name in names.tolist() if spellings[normalize("NFKC", name).strip().casefold()] > 1]
    found.warn(
        len(alike) > 0,
        "ids",
        f"{len(alike):,} ids differ from another in spaces, in case or in composed characters alone, such "
        f"as {', '.join(map(repr, alike[:2]))}: they count as different, and to delete one leaves the other's rows; "
        "give them one spelling",
    )
    with found.refusals("data"):
        twins = _twins(data.identities(), places)
        found.warn(
            len(twins) > 0,
            "data",
            f"{len(twins):,} rows are alike to the bit with a row of another id, the first is row {twins[0]} (id "
            f"'{data.ids[twins[0]]}'): to delete one id leaves the twin; name both ids in the request, or remove "
            "copies before training"
            if len(twins)
            else "",
        )


def _twins(contents: NDArray[np.int64], owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows whose contents another owner's row has too, ascending."""
    _, groups = np.unique(contents, return_inverse=True)
    pairs = np.unique(np.stack([groups, owners]), axis=1)
    several = np.bincount(pairs[0], minlength=int(groups.max()) + 1) > 1
    return np.flatnonzero(several[groups])


def _look_at_model(found: Findings, objective: Objective) -> None:
    """What of a module no certificate covers: running statistics and fixed parameters."""
    part = objective.model
    assert isinstance(part, Part)
    running = [
        name
        for name, layer in part.model.named_modules()
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.running_mean is not None
    ]
    found.warn(
        len(running) > 0,
        "model",
        f"the running statistics of {_listed(running)} are averages over all rows, those to be deleted included, and "
        "no certificate covers them; renew them on what is retained after a release "
        "(cdu.unlearning.release.recalibrated), or train without",
    )
    fixed = part.choice.fixed
    found.warn(
        len(fixed) > 0,
        "model",
        f"the parameters {_listed(fixed)} are fixed and no certificate covers them; they must never have been trained "
        "on these data",
    )
    narrow = [name for name in fixed if part.model.get_buffer(name).dtype not in WIDE]
    found.warn(
        any(part.model.get_buffer(name).is_floating_point() for name in narrow),
        "model",
        f"the fixed parameters {_listed(narrow)} are of less than float32, so that gradients and Hessians are coarse; "
        "convert the model with model.float()",
    )


def _look_at_weights(found: Findings, objective: Objective, radius: float) -> None:
    """Weights of a type, with numbers or with a norm that no release takes."""
    w = parameter_vector(objective.model)
    with found.refusals("weights"):
        expect(
            w.dtype in WIDE,
            f"the weights are of type {w.dtype}, whose rounding would swallow the noise; convert the model with "
            "model.float(), and train it further in float32",
        )
    with found.refusals("weights"):
        expect(bool(w.isfinite().all()), "the weights hold NaN or infinite numbers; look at the training that made it")
    norm = w.double().norm().item()
    with found.refusals("radius"):
        expect(
            not norm > radius * (1 + 1e-5),
            f"the weights have the norm {norm:.6g}, above radius = {radius:g}: training did not project onto that "
            "ball, so that no certificate can rest on it; train with cdu.ball(model, radius) after every step",
        )


def _look_at_fit(found: Findings, objective: Objective, task: Task, data: Data) -> None:
    """Whether module, loss and data fit; the loss and its gradient where they do."""
    w = parameter_vector(objective.model)
    with found.refusals("data"):
        expect(
            data.dtype == w.dtype or w.dtype not in WIDE,
            f"the data give batches of {data.dtype}, and the weights are of {w.dtype}; give as_data(..., "
            f"dtype={w.dtype})",
        )
    with found.refusals("data"):
        expect(
            data.device == w.device,
            f"the data give batches on {data.device}, and the model is on {w.device}; take data.to('{w.device}')",
        )
        samples = task.samples(data.to(dtype=w.dtype))
        errors = len(found)
        with found.refusals("data"):
            expect_fitting(objective, w, samples, "data")
        fits = len(found) == errors
        try:
            outputs = objective.outputs(w, samples.subset(torch.arange(min(2, len(samples)))))
        except Exception:
            # The sentence about it has been found above.
            return
        with found.refusals("loss"):
            expect_kind(task.kind, outputs, samples.targets)
        if fits and bool(w.isfinite().all()):
            _look_at_loss(found, objective, w, samples)


def _look_at_loss(found: Findings, objective: Objective, w: Tensor, samples: Samples) -> None:
    """Whether the loss is a mean of the same numbers each time, and whether training has ended."""
    errors = len(found)
    with found.refusals("model"):
        first, second = (objective.outputs(w, samples.subset(torch.arange(min(2, len(samples))))) for _ in range(2))
        expect(
            bool(torch.allclose(first, second, rtol=1e-3, equal_nan=True)),
            "the model's outputs for the same rows differ from call to call in evaluation mode; give its dropout "
            "training=self.training, and draw nothing at random",
        )
    with found.refusals("loss"):
        expect_mean(objective, w, samples)
    with found.refusals("model"):
        expect_plain_backward(objective, w, samples)
    if len(found) > errors:
        return
    gradient = objective.gradient(w, samples).double().norm().item()
    rows = torch.linspace(0, len(samples) - 1, min(GRADIENT_ROWS, len(samples))).long().unique()
    plain = objective.with_model(objective.model, l2=0.0)
    squares = [plain.gradient(w, samples.subset(row)).double().square().sum().item() for row in rows.split(1)]
    single = math.sqrt(sum(squares) / len(squares))
    found.warn(
        gradient > GRADIENT_SHARE * single,
        "weights",
        f"the gradient at the weights has the norm ‖∇L‖ = {gradient:.3g}, where that of a single row has "
        f"{single:.3g}: training has not ended at a stationary point of this loss with l2 = {objective.l2:g}, so that "
        "a Newton step goes on training besides deleting, and proofs for stationary points do not hold; train longer, "
        "or give the l2 that training used",
    )


def expect_kind(kind: Kind, outputs: Tensor, targets: Tensor) -> None:
    """Refuse outputs and targets that are not of a task's kind.

    Args:
        kind: The task's.
        outputs: Of some samples, shape (m, ...).
        targets: Of all samples, shape (n, ...).
    """
    shapes = f"outputs are of shape (n{_rest(outputs)}), targets {targets.dtype} of (n{_rest(targets)})"
    if kind == "classes":
        whole = targets.dtype != torch.bool and not targets.is_floating_point() and not targets.is_complex()
        expect(
            outputs.ndim == 2 and outputs.shape[1] >= 2 and whole and targets.ndim == 1,
            f"a task of the kind 'classes' has outputs of shape (n, k) with k ≥ 2, and whole numbers of shape (n,) as "
            f"targets; {shapes}; choose the kind 'logit', 'regression' or 'batch', or give such labels",
        )
        low, high = int(targets.min()), int(targets.max())
        expect(
            low >= 0 and high < outputs.shape[1],
            f"the labels go from {low} to {high}, and the model has {outputs.shape[1]} outputs; number the classes "
            f"from 0 to {outputs.shape[1] - 1}",
        )
    elif kind == "logit":
        expect(
            all(part.ndim == 1 or part.shape[1:] == (1,) for part in (outputs, targets)),
            f"a task of the kind 'logit' has outputs and targets of shape (n,) or (n, 1); {shapes}; choose the kind "
            "'classes' for several outputs",
        )
        odd = targets[(targets != 0) & (targets != 1)]
        expect(
            len(odd) == 0,
            f"a task of the kind 'logit' has targets 0 and 1, and {len(odd):,} are others, the first is "
            f"{odd[0].item() if len(odd) else 0}; encode them so, or choose the kind 'regression'",
        )
    elif kind == "regression":
        expect(
            outputs.shape[1:] == targets.shape[1:] and targets.is_floating_point(),
            f"a task of the kind 'regression' has outputs and targets of one shape, and floats; {shapes}; reshape the "
            "targets, e.g. targets[:, None], or squeeze the outputs in the model",
        )


def _rest(tensor: Tensor) -> str:
    """All sizes but the first, in words."""
    return "".join(f", {size}" for size in tensor.shape[1:]) or ","


def _listed(names: list[str] | tuple[str, ...]) -> str:
    """Some of many names."""
    return ", ".join(f"'{name}'" for name in names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
