"""Membership inference on posteriors."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, rankdata
from torch import Tensor

from cdu.checks import expect
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.extras import needs_report
from cdu.models.objective import Objective

with needs_report("attacking posteriors"):
    from sklearn import config_context
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import auc, roc_curve
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

Matrix = NDArray[np.float64]

#: Confidence of every interval.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class OriginalAndRelease:
    """View of an adversary who saw the original model *and* the release: no certificate here covers it.

    Attributes:
        original: The original model's class probabilities, shape (n, classes).
        released: The released model's, shape (n, classes).
        members: Whether each sample was in the forget set, shape (n,).
    """

    original: Matrix
    released: Matrix
    members: NDArray[np.bool_]


@dataclass(frozen=True)
class Candidates:
    """Samples whose membership an adversary guesses.

    Attributes:
        samples: Members, then as many non-members.
        members: Whether each is a member, shape (n,).
        classes: Class of each, shape (n,).
    """

    samples: tuple[Samples, Samples]
    members: NDArray[np.bool_]
    classes: NDArray[np.int64]

    def posteriors(self, objective: Objective, w: Tensor) -> Matrix:
        """Class probabilities that a model gives them, shape (n, classes)."""
        outputs = torch.cat([objective.outputs(w, part) for part in self.samples])
        probabilities: Matrix = outputs.double().softmax(dim=1).cpu().numpy()
        return probabilities


def draw_candidates(forget: Samples, others: Samples, seed: int) -> Candidates:
    """Members from the forget set and non-members from others, as :func:`balanced_rows` draws them."""
    labels = [part.targets.cpu().numpy() for part in (forget, others)]
    rows = balanced_rows(labels[0], labels[1], seed)
    first, second = (part.subset(torch.from_numpy(own)) for part, own in zip((forget, others), rows, strict=True))
    classes = torch.cat([first.targets, second.targets]).cpu().numpy()
    return Candidates((first, second), np.repeat([True, False], [len(first), len(second)]), classes)


@dataclass(frozen=True)
class Rate:
    """A true-positive rate with its Clopper-Pearson interval, the threshold taken as given."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class AttackResult:
    """Success of an attack on held-out rows, members and non-members in equal number.

    Attributes:
        accuracy: Share of right guesses; 0.5 is chance.
        auc: Mean over folds of the area under the ROC curve; 0.5 is chance.
        auc_half: Half the width of its interval, from DeLong's variance in every fold, the fits taken as given.
        rates: True-positive rate by the false-positive rate that is allowed; chance is that rate itself. The
            probabilities that the fits of all folds give are compared as they are.
    """

    accuracy: float
    auc: float
    auc_half: float
    rates: dict[float, Rate]


def _sorted(original: Matrix, released: Matrix) -> tuple[Matrix, Matrix]:
    """Both posteriors in the order of the original's, largest first."""
    order = np.argsort(-original, axis=1)
    return np.take_along_axis(original, order, axis=1), np.take_along_axis(released, order, axis=1)


def direct_difference(original: Matrix, released: Matrix) -> Matrix:
    """P − q, shape (n, classes), for the original's posteriors p and the released model's q."""
    return original - released


def sorted_difference(original: Matrix, released: Matrix) -> Matrix:
    """P − q, both in the order of p, largest first, shape (n, classes)."""
    before, after = _sorted(original, released)
    return before - after


def distance(original: Matrix, released: Matrix) -> Matrix:
    """‖p − q‖₂, shape (n, 1)."""
    return np.asarray(np.linalg.norm(original - released, axis=1, keepdims=True))


def direct_concatenation(original: Matrix, released: Matrix) -> Matrix:
    """(p, q), shape (n, 2·classes)."""
    return np.hstack([original, released])


def sorted_concatenation(original: Matrix, released: Matrix) -> Matrix:
    """(p, q), both in the order of p, largest first, shape (n, 2·classes)."""
    return np.hstack(_sorted(original, released))


#: The features of an attack model: the five constructions of Chen et al. (2021), "When Machine Unlearning Jeopardizes
#: Privacy".
FEATURES: dict[str, Callable[[Matrix, Matrix], Matrix]] = {
    "direct difference": direct_difference,
    "sorted difference": sorted_difference,
    "L2 distance": distance,
    "direct concatenation": direct_concatenation,
    "sorted concatenation": sorted_concatenation,
}


class Standardised:
    """A classifier whose features are scaled to mean 0 and variance 1 over the rows that it is fitted on.

    Scikit-learn's pipeline of the two does the same; for a few hundred rows it takes as long again as the fit.

    Args:
        classifier: One of scikit-learn's.
    """

    def __init__(self, classifier: Any) -> None:
        self._scaler = StandardScaler()
        self._classifier = classifier

    def fit(self, rows: Matrix, labels: NDArray[Any]) -> None:
        """Fit both on rows of features and their labels."""
        self._classifier.fit(self._scaler.fit_transform(rows), labels)

    def predict_proba(self, rows: Matrix) -> Matrix:
        """Probabilities of the labels, one column each."""
        found: Matrix = self._classifier.predict_proba(self._scaler.transform(rows))
        return found


#: The functions that make an attack model from a seed; the same four kinds as in that paper, but small.
CLASSIFIERS: dict[str, Callable[[int], Any]] = {
    "logistic regression": lambda seed: Standardised(LogisticRegression(max_iter=2000)),
    "decision tree": lambda seed: DecisionTreeClassifier(min_samples_leaf=5, random_state=seed),
    "random forest": lambda seed: RandomForestClassifier(20, min_samples_leaf=2, random_state=seed),
    "MLP": lambda seed: Standardised(MLPClassifier((16,), learning_rate_init=1e-2, max_iter=20, random_state=seed)),
}

#: The paper's choice, as later work describes it.
PAPER = ("sorted concatenation", "logistic regression")


def membership_attack(
    view: OriginalAndRelease,
    folds: int,
    seed: int,
    features: str = PAPER[0],
    classifier: str = PAPER[1],
    levels: tuple[float, ...] = (0.01,),
    strata: NDArray[Any] | None = None,
) -> AttackResult:
    """Fit an attack model on some of the rows and score the others, so that every row is scored by a fit without it.

    Args:
        view: Posteriors and membership; members and non-members in equal number.
        folds: Number of folds.
        seed: Seed of the folds and of the attack model.
        features: One of :data:`FEATURES`.
        classifier: One of :data:`CLASSIFIERS`.
        levels: False-positive rates at which to give the true-positive rate.
        strata: Class of every row. Where classes are balanced, folds must be too: a fold with more members of a class
            leaves fewer of them for the fit, which would learn the contrary of what holds there.

    Raises:
        CduError: Unequal numbers, fewer than two members a fold, an unknown construction or attack model, or posteriors
            that are not finite or not of these samples.
    """
    expect(
        view.original.shape == view.released.shape and len(view.original) == len(view.members),
        f"posteriors of shapes {view.original.shape} and {view.released.shape} and {len(view.members)} memberships are "
        "not of the same samples",
    )
    expect(
        bool(np.isfinite(view.original).all() and np.isfinite(view.released).all()),
        "a model's posteriors hold NaN or infinite numbers; look at its weights first",
    )
    members = int(view.members.sum())
    if members * 2 != len(view.members):
        raise CduError(
            f"the attack needs as many non-members as members, found {len(view.members) - members} and {members}"
        )
    if members < 2 * folds:
        raise CduError(f"{folds} folds need at least {2 * folds} members, found {members}; use fewer folds")
    rows, labels = _of(FEATURES, features)(view.original, view.released), view.members.astype(int)
    make = partial(_of(CLASSIFIERS, classifier), seed % 2**32)
    scores, fold = np.empty(len(labels)), np.empty(len(labels), dtype=int)
    groups = labels if strata is None else labels + 2 * np.asarray(strata, dtype=int)
    # Everything was checked above; scikit-learn's checks take longer than fitting a few hundred rows.
    with config_context(assume_finite=True, skip_parameter_validation=True):
        for number, (fit, held_out) in enumerate(_folds(tuple(groups.tolist()), folds, seed)):
            model = make()
            with warnings.catch_warnings():
                # An MLP of a fixed number of epochs is what is wanted, not one that has converged.
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(rows[fit], labels[fit])
            scores[held_out] = model.predict_proba(rows[held_out])[:, 1]
            fold[held_out] = number
        right = int(((scores > 0.5) == labels).sum())
        parts = [(labels[fold == number], scores[fold == number]) for number in range(folds)]
        aucs = [float(auc(*roc_curve(*part)[:2])) for part in parts]
    variance = sum(delong_variance(*part) for part in parts) / folds**2
    half = float(norm.ppf((1 + CONFIDENCE) / 2)) * variance**0.5
    return AttackResult(right / len(labels), float(np.mean(aucs)), half, true_positive_rates(labels, scores, levels))


@cache
def _folds(groups: tuple[int, ...], folds: int, seed: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Rows to fit on and rows to score by fold, every group spread over the folds as evenly as possible."""
    with warnings.catch_warnings():
        # A group smaller than the number of folds is absent from some, which is all that can be done.
        warnings.filterwarnings("ignore", message="The least populated class")
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32)
        return list(splitter.split(np.zeros((len(groups), 1)), groups))


def true_positive_rates(labels: NDArray[Any], scores: Matrix, levels: tuple[float, ...]) -> dict[float, Rate]:
    """The true-positive rate of a test at each false-positive rate of ``levels``.

    Where many rows share a score the test decides between them at random, as the ROC curve's straight parts do: a
    threshold that keeps to the level may not exist.
    """
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    # Of several points at one false-positive rate the highest counts.
    false, last = np.unique(false[::-1], return_index=True)
    true = true[::-1][last]
    members = int(labels.sum())
    found = {}
    for level in levels:
        value = float(np.interp(level, false, true))
        found[level] = Rate(value, *_clopper_pearson(round(value * members), members))
    return found


@cache
def _clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    bounds = binomtest(successes, trials).proportion_ci(CONFIDENCE, "exact")
    return float(bounds.low), float(bounds.high)


def delong_variance(labels: NDArray[Any], scores: Matrix) -> float:
    """Variance of the area under the ROC curve by DeLong, DeLong & Clarke-Pearson (1988).

    With V₁(i) the share of non-members that member i scores above (ties half), and V₀(j) the share of members above
    non-member j: var V₁/m + var V₀/n.
    """
    members, others = scores[labels == 1], scores[labels == 0]
    every = rankdata(np.concatenate([members, others]))
    above = (every[: len(members)] - rankdata(members)) / len(others)
    below = 1 - (every[len(members) :] - rankdata(others)) / len(members)
    return float(np.var(above, ddof=1) / len(members) + np.var(below, ddof=1) / len(others))


def balanced_rows(members: NDArray[Any], others: NDArray[Any], seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Random rows of members and of non-members, equally many of both in every class, and as many as possible.

    Otherwise an attack could tell classes apart, which is not membership.

    Args:
        members: Labels of the members.
        others: Labels of the non-members.
        seed: Seed of the draw.
    """
    draw = np.random.default_rng(seed)
    first, second = [], []
    for label in np.unique(members):
        a, b = np.flatnonzero(members == label), np.flatnonzero(others == label)
        size = min(len(a), len(b))
        first.append(draw.permutation(a)[:size])
        second.append(draw.permutation(b)[:size])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


def _of(table: dict[str, Any], name: str) -> Any:
    if name not in table:
        raise CduError(f"unknown choice '{name}': known are {', '.join(table)}")
    return table[name]
