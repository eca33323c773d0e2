"""What an unlearning method is given, and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from cdu.certification import Bound, Certificate
from cdu.checks import expect
from cdu.data.samples import Samples, expect_alike, expect_disjoint, expect_finite
from cdu.models.objective import Objective
from cdu.models.objective_checks import expect_fitting, expect_mean, expect_plain_backward
from cdu.models.settings import TrainingSettings
from cdu.models.training import Trained
from cdu.unlearning.noise import expect_noise_shows


@dataclass(frozen=True)
class Problem:
    """Delete the forget set from a trained model.

    Attributes:
        objective: L, with the l2 weight that training used.
        w_star: w*, the weights trained on retain and forget together, shape (p,).
        retain: D_r.
        forget: D_u.
        radius: C, the ball that training projected onto.
        retrain: The training recipe: ``retrain(samples, seed)`` trains on ``samples``.
        seed: The seed that the original model was trained with.
        training: The recipe's constants; methods that descend take their batch size from it.
        stopped: ``stopped(epochs)`` is the original model as it was after so many epochs.
        shared: Whatever methods compute from D_r and D_u alone and can use again, by a name that they agree on; a
            changed problem begins with none.

    Example:
        One weight, the mean of the targets 1, 2, 3 and 6, of which the 6 is deleted:

        >>> from torch import nn
        >>> from torch.nn.functional import mse_loss
        >>> objective = Objective(nn.Linear(1, 1, bias=False), mse_loss)
        >>> retain = Samples(torch.ones(3, 1), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> forget = Samples(torch.ones(1, 1), torch.tensor([[6.0]]))
        >>> problem = Problem(objective, torch.tensor([3.0]), retain, forget, radius=5, retrain=None, seed=0)
        >>> print(len(problem.everything), problem.objective.gradient(problem.w_star, problem.everything))
        4 tensor([0.])
    """

    objective: Objective
    w_star: Tensor
    retain: Samples
    forget: Samples
    radius: float
    retrain: Callable[[Samples, int], Trained]
    seed: int
    training: TrainingSettings = field(default_factory=TrainingSettings)
    stopped: Callable[[int], Trained] | None = None
    shared: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def everything(self) -> Samples:
        """D, the retained samples first."""
        return self.retain.joined(self.forget)

    @property
    def classes(self) -> int:
        """The number of classes k: outputs have the shape (n, k) with k ≥ 2, targets are integers of shape (n,).

        All else is no classification here, whatever the loss makes of it: one logit, regression, several labels a
        sample, shares of classes. One logit z of a binary model says the same as the two outputs (0, z) with
        cross-entropy.

        Raises:
            CduError: Outputs or targets are of another kind.
        """
        outputs = self.objective.outputs(self.w_star, self.retain.subset(torch.tensor([0])))
        targets = self.retain.targets
        integers = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
        expect(
            outputs.ndim == 2 and outputs.shape[1] >= 2 and integers and targets.ndim == 1,
            f"the method needs classes: outputs of shape (n, classes), two at least, and integer labels of shape (n,); "
            f"for one sample they are {tuple(outputs.shape)} and {targets.dtype} of {(1, *targets.shape[1:])}; use a "
            "method for any loss, such as the Newton step or fine-tuning, or give a model of one logit z the outputs "
            "(0, z) and cross-entropy",
        )
        return outputs.shape[1]


@dataclass(frozen=True)
class UnlearningResult:
    """An unlearned model before projection and noise, and what it cost.

    Attributes:
        w: The weights, shape (p,).
        seconds: Wall time.
        hvp_samples: Per-sample Hessian-vector products.
        gradient_samples: Per-sample gradients.
        residual: Relative residual of the linear system that was solved; None where there was none.
        converged: Whether the solver reached its own target; None where there was none.
        model: The module whose buffers belong to ``w``, where the method changed them or brought a network of its
            own; None for the problem's.
        radius: The ball that the result is projected onto; None for the problem's C.
        bound: Δ, from the method's own proof, in exact arithmetic; None for the trivial 2·radius of the projection.
            With a ``certificate`` it is what that rests on, its rounding included.
        rounding: How far rounding may have taken ``w`` from what that proof is about, proven; None where no proof is
            known, so that no certificate rests on ``bound``.
        certificate: What the method's own noise guarantees; None where it adds none. No further noise is then added.
        no_certificate_reason: Reason for no certificate whatever the noise, e.g. "training assumption violated"; empty
            otherwise.
        training_seconds: Wall time of training on D as the method's proof needs it; not part of ``seconds``.
        note: What else a reader should know, in words.

    Example:
        >>> result = UnlearningResult(torch.tensor([2.0]), seconds=0.5)
        >>> print(result.w.item(), result.bound, result.certificate)
        2.0 None None
    """

    w: Tensor
    seconds: float
    hvp_samples: int = 0
    gradient_samples: int = 0
    residual: float | None = None
    converged: bool | None = None
    model: nn.Module | None = None
    radius: float | None = None
    bound: Bound | None = None
    rounding: float | None = None
    certificate: Certificate | None = None
    no_certificate_reason: str = ""
    training_seconds: float = 0.0
    note: str = ""


class Method(Protocol):
    """An unlearning method: from a problem and a generator to a result.

    A class may have the attribute ``by_projection = True``: its results never have a bound, a radius, noise or a
    certificate of their own, so that the Δ of every release is known before the method runs: that of the projection.
    """

    def __call__(self, problem: Problem, generator: torch.Generator) -> UnlearningResult:
        """Unlearn."""
        ...


@runtime_checkable
class CertifiedMethod(Method, Protocol):
    """A method that noise certifies, and so one that says what its release is compared with."""

    def reference(self, problem: Problem, result: UnlearningResult, generator: torch.Generator) -> UnlearningResult:
        """The run that never saw the forget set, before the noise that is added last.

        Args:
            problem: What the method was run on.
            result: What it returned.
            generator: Draws the noise of methods that add it on the way.
        """
        ...


@runtime_checkable
class NoisyMethod(CertifiedMethod, Protocol):
    """A certified method that adds noise of its own on the way."""

    def noiseless_difference(self, problem: Problem) -> Tensor:
        """The direction in which release and reference lie apart without that noise, roughly, shape (p,)."""
        ...


def expect_answerable(problem: Problem, sigma: float, delta: float, certified: bool = False) -> None:
    """Refuse a problem, or a promise, that no method could answer, before hours are spent on it.

    Args:
        problem: What is to be unlearned.
        sigma: Standard deviation of the noise.
        delta: δ of the certificate.
        certified: Whether there will be a certificate, whatever σ is.
    """
    expect(
        isinstance(sigma, Real) and isinstance(delta, Real),
        f"sigma and delta are of the types {type(sigma).__name__} and {type(delta).__name__}; give two numbers",
    )
    parts = (("retain", problem.retain), ("forget", problem.forget))
    for name, part in parts:
        expect(
            isinstance(part, Samples),
            f"the {name} set is a {type(part).__name__}; give Samples(inputs, targets), or make them of a Dataset with "
            "cdu.data.samples.from_dataset(dataset)",
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
        (sigma == 0 and not certified) or 0 < delta < 1 / total,
        f"delta = {delta} is not between 0 and one over the number of samples, {total:,}: so much would let one be "
        "published outright; choose far less",
    )
    expect_noise_shows(w, sigma)
    expect_disjoint(problem.retain, problem.forget)
    for name, part in parts:
        expect_finite(part, name)
    expect_alike(problem.retain, problem.forget)
    for name, part in parts:
        expect_fitting(problem.objective, w, part, name)
    expect_mean(problem.objective, w, problem.retain)
    expect_plain_backward(problem.objective, w, problem.forget)
