"""Membership inference. An attack declares what it sees, so that it is only compared with guarantees that cover it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cdu.errors import CduError


@dataclass(frozen=True)
class OriginalAndRelease:
    """View of an adversary who saw the original model *and* the release: no certificate here covers it.

    Attributes:
        original: The original model's class probabilities, shape (n, classes).
        released: The released model's, shape (n, classes).
        members: Whether each sample was in the forget set, shape (n,).
    """

    original: NDArray[np.float64]
    released: NDArray[np.float64]
    members: NDArray[np.bool_]


@dataclass(frozen=True)
class AttackResult:
    """Success of an attack on held-out rows, members and non-members in equal number.

    Attributes:
        accuracy: Share of right guesses; 0.5 is chance.
        auc: Mean over folds of the area under the ROC curve; 0.5 is chance.
    """

    accuracy: float
    auc: float


def sorted_concatenation(view: OriginalAndRelease) -> NDArray[np.float64]:
    """Features (n, 2·classes): both posteriors, ordered by the original's, largest first (Chen et al. 2021)."""
    order = np.argsort(-view.original, axis=1)
    return np.hstack([np.take_along_axis(p, order, axis=1) for p in (view.original, view.released)])


def membership_attack(view: OriginalAndRelease, folds: int, seed: int) -> AttackResult:
    """Logistic regression on sorted concatenations, cross-fitted: every row is scored by a fit that did not see it.

    Args:
        view: Posteriors and membership; members and non-members in equal number.
        folds: Number of folds.
        seed: Seed of the folds.

    Raises:
        CduError: Unequal numbers, or fewer members than folds.
    """
    members = int(view.members.sum())
    if members * 2 != len(view.members):
        raise CduError(
            f"the attack needs as many non-members as members, found {len(view.members) - members} and {members}"
        )
    if members < folds:
        raise CduError(f"{folds} folds need at least {folds} members, found {members}; use fewer folds")
    features, labels = sorted_concatenation(view), view.members.astype(int)
    aucs, right = [], 0
    for fit, held_out in StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32).split(features, labels):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        classifier.fit(features[fit], labels[fit])
        scores = classifier.decision_function(features[held_out])
        aucs.append(float(roc_auc_score(labels[held_out], scores)))
        right += int(((scores > 0) == labels[held_out]).sum())
    return AttackResult(right / len(labels), float(np.mean(aucs)))
