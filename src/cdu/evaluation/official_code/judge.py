"""What is measured of every variant of the step: the step, its release, and attacks on the release."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdu.certification import certify, gaussian_epsilon, trivial_bound, unprojected_bound
from cdu.curvature.hessian import Hessian
from cdu.curvature.solution import Solution
from cdu.data.samples import Samples
from cdu.evaluation.accuracy import accuracy
from cdu.evaluation.posterior_attacks import (
    OriginalAndRelease,
    draw_candidates,
    membership_attack,
    sorted_concatenation,
)
from cdu.evaluation.readings import Reading, Refusal, outcome
from cdu.extras import needs_report
from cdu.models.objective import Objective
from cdu.models.training import project
from cdu.seeding import generator, seed_for
from cdu.unlearning.problem import Problem

with needs_report("the comparison with the authors' code"):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

#: The largest number of steps of the published attack's logistic regression.
ATTACK_STEPS = 400

#: Outputs at some weights for some samples, shape (n, classes).
Outputs = Callable[[Tensor, Samples], Tensor]


@dataclass(frozen=True)
class FittedAttack:
    """Success of an attack model on the rows that it was fitted on.

    Attributes:
        accuracy: Share of right guesses.
        auc: Area under the ROC curve.
        majority: The accuracy of always naming the larger group.
    """

    accuracy: float
    auc: float
    majority: float


def attack_on_fitted_rows(view: OriginalAndRelease) -> FittedAttack:
    """The published attack (departure 11): logistic regression, fitted and scored on the same rows.

    Its features are both posteriors, sorted by the original's and standardised.

    Args:
        view: Posteriors and membership; the published one has all of D_u as members and all of D_r as others.
    """
    rows, labels = sorted_concatenation(view.original, view.released), view.members.astype(int)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=ATTACK_STEPS)).fit(rows, labels)
    scores: NDArray[np.float64] = model.predict_proba(rows)[:, 1]
    members = float(labels.mean())
    accuracy = float(((scores > 0.5) == labels).mean())
    return FittedAttack(accuracy, float(roc_auc_score(labels, scores)), max(members, 1 - members))


class Attacks:
    """Attacks on a release by an adversary who has the original model as well.

    Args:
        problem: Whose D_u is deleted.
        test: Samples that are no members.
        folds: Folds of the attack on held-out rows.
        seed: Seed of the draw of candidates and of the folds.
    """

    def __init__(self, problem: Problem, test: Samples, folds: int, seed: int) -> None:
        self._candidates = draw_candidates(problem.forget, test, seed_for(seed, "attack samples"))
        self._published = (problem.forget, problem.retain)
        self._folds = folds
        self._seed = seed

    def success(self, outputs: Outputs, original: Tensor, released: Tensor) -> dict[str, float]:
        """Success by metric: the attack by the paper's features on held-out rows, and the published attack.

        The published one is fitted and scored on the same rows, all of D_u and of D_r (departure 11); ``majority`` is
        the accuracy of always naming the larger of the two.

        Args:
            outputs: Computes the outputs of a model.
            original: w*, shape (p,).
            released: The released weights, shape (p,).
        """
        fair, published = (
            OriginalAndRelease(
                _posteriors(outputs, original, groups),
                _posteriors(outputs, released, groups),
                np.repeat([True, False], [len(group) for group in groups]),
            )
            for groups in (self._candidates.samples, self._published)
        )
        held_out = membership_attack(fair, self._folds, self._seed, strata=self._candidates.classes)
        fitted = attack_on_fitted_rows(published)
        return {
            "attack_accuracy": held_out.accuracy,
            "auc": held_out.auc,
            "published_accuracy": fitted.accuracy,
            "published_auc": fitted.auc,
            "majority": fitted.majority,
        }


def _posteriors(outputs: Outputs, w: Tensor, groups: tuple[Samples, Samples]) -> NDArray[np.float64]:
    found = torch.cat([outputs(w, group) for group in groups])
    probabilities: NDArray[np.float64] = found.double().softmax(dim=1).cpu().numpy()
    return probabilities


@dataclass(frozen=True)
class Variant:
    """One way to unlearn: the system of the step, and how its result is released.

    Attributes:
        solve: Solves the variant's own system; gives the reason, or raises, where there is no solution.
        problem: What is deleted from.
        damping: λ. The step is held against the paper's system (H + λI)x = ∇L(w*, D_r) at this λ.
        sigma: Standard deviation of the noise.
        projected: Whether the result is projected before noise is added.
        objective: What training minimised, in the variant's view; the problem's when None.
    """

    solve: Callable[[], Solution | Refusal]
    problem: Problem
    damping: float
    sigma: float
    projected: bool = True
    objective: Objective | None = None


class Judge:
    """Measures variants against the paper's step.

    Args:
        problem: The problem of the paper's step; D_u, D_r and the attacks' samples are this one's for all variants.
        paper: The paper's step x, shape (p,).
        test: The test samples.
        folds: Folds of the attack.
        delta: δ.
        seed: Seed of the noise and of the attack.
    """

    def __init__(self, problem: Problem, paper: Tensor, test: Samples, folds: int, delta: float, seed: int) -> None:
        self._problem = problem
        self._paper = paper
        self._sets: Mapping[str, Samples] = {"forget": problem.forget, "retain": problem.retain, "test": test}
        self._attacks = Attacks(problem, test, folds, seed)
        self._delta = delta
        self._seed = seed

    def solved(self, variant: Variant) -> Iterator[Reading]:
        """Solve a variant's system and measure the step.

        Yields:
            ``own_residual``, that of the variant's own system, and what :meth:`measured` gives; or why there is no
            step.
        """
        found = outcome(variant.solve)
        if isinstance(found, Refusal):
            yield found.reading("step_norm")
            return
        yield Reading({"own_residual": found.residual}, {})
        yield from self.measured(variant, found.x)

    def measured(self, variant: Variant, x: Tensor) -> Iterator[Reading]:
        """Measure a step and its release.

        Args:
            variant: Whose step it is.
            x: The step, subtracted from w*, shape (p,).

        Yields:
            The residual of the paper's system, gradient and step, the accuracies of the noisy release, attacks, and ε.
        """
        objective, w = variant.problem.objective, variant.problem.w_star
        released = released_weights(variant, x, self._seed)
        yield Reading(self._step(variant, x), {})
        for split, samples in self._sets.items():
            yield Reading({"accuracy": accuracy(objective, released, samples)}, {"split": split})
        yield Reading(self._attacks.success(objective.outputs, w, released), {})
        yield Reading(promised(variant, x, self._delta), {})

    def _step(self, variant: Variant, x: Tensor) -> dict[str, float]:
        """The step beside the paper's, which can be compared only from the same weights."""
        own = variant.problem
        gradient = own.objective.gradient(own.w_star, own.retain)
        missed = (Hessian(own.objective, own.w_star, own.retain) + variant.damping) @ x - gradient
        minimised = variant.objective or own.objective
        found = {
            "residual": float(missed.norm() / gradient.norm()),
            "gradient_norm": float(minimised.gradient(own.w_star, own.everything).norm()),
            "step_norm": float(x.norm()),
        }
        if own.w_star is self._problem.w_star:
            found["step_difference"] = float((x - self._paper).norm() / self._paper.norm())
            found["step_cosine"] = float(torch.cosine_similarity(x, self._paper, dim=0))
        return found


def released_weights(variant: Variant, x: Tensor, seed: int) -> Tensor:
    """w* − x, projected if the variant projects, plus N(0, σ²I), shape (p,).

    Args:
        variant: Whose step it is.
        x: The step, shape (p,).
        seed: Seed of the noise; the same draw for every variant.
    """
    w = variant.problem.w_star
    moved = project(w - x, variant.problem.radius) if variant.projected else w - x
    return moved + variant.sigma * torch.randn(len(w), generator=generator(seed, "noise")).to(w)


def promised(variant: Variant, x: Tensor, delta: float) -> dict[str, float]:
    """ε by metric: from Δ = 2C where the result is projected, and from 2C + ‖x‖ where it is not.

    The second is an indication: x was measured on the data.

    Args:
        variant: Whose step it is.
        x: The step, shape (p,).
        delta: δ.
    """
    radius, sigma = variant.problem.radius, variant.sigma
    loose = unprojected_bound(radius, x.norm().item()).value
    return {
        "epsilon": certify(trivial_bound(radius), sigma, delta).epsilon,
        "released_projected": float(variant.projected),
        "epsilon_unprojected": gaussian_epsilon(sigma, delta, loose),
    }
