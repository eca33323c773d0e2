"""The likelihood-ratio attack with shadow models (U-LiRA)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdu.errors import CduError
from cdu.extras import needs_report
from cdu.seeding import generator

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: From this number of shadows on every sample has its own variance; below it, all share one (Carlini et al. 2022).
OWN_VARIANCE = 64


# --- who is trained on what ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """The targets of a likelihood-ratio attack, and which shadow was trained on which of them.

    Attributes:
        rest: Rows that every shadow is trained on, shape (r,).
        targets: Rows of the pool, shape (t,).
        members: Whether shadow s was trained on a target, and forgets it; half of each row, shape (S, t).
    """

    rest: Tensor
    targets: Tensor
    members: Tensor

    def forgotten(self, shadow: int) -> Tensor:
        """Rows that a shadow is trained on and forgets."""
        return self.targets[self.members[shadow]]

    @property
    def trained(self) -> Tensor:
        """Rows that the shadows are trained on, shape (S, r + t/2)."""
        return torch.stack([torch.cat([self.rest, self.forgotten(s)]) for s in range(len(self.members))])


def draw_pool(samples: int, size: int, shadows: int, seed: int) -> Pool:
    """Draw ``size`` targets of ``samples`` rows, and for every shadow a random half of them.

    Every second shadow gets the half that the one before it did not: of an even number of shadows exactly half are
    trained on any target.

    Raises:
        CduError: An odd size, or one that leaves nothing else to train on.
    """
    if size % 2 or not 2 <= size < samples:
        raise CduError(f"a pool of {size} targets out of {samples} samples: it must be even, at least 2 and leave some")
    order = torch.randperm(samples, generator=generator(seed, "pool"))
    members = torch.zeros(shadows, size, dtype=torch.bool)
    for shadow in range(shadows):
        half = torch.randperm(size, generator=generator(seed, "pool half", shadow // 2)).split(size // 2)
        members[shadow, half[shadow % 2]] = True
    return Pool(order[size:].sort().values, order[:size].sort().values, members)


# --- the likelihood-ratio attack -----------------------------------------------------------------------------------


def scaled_logit(outputs: Tensor, targets: Tensor) -> Tensor:
    """φ = ln(p_y/(1 − p_y)) from a network's outputs (logits), shape (n,): Gaussian over shadows, roughly."""
    outputs = outputs.double()
    own = outputs.gather(1, targets[:, None])
    others = outputs.scatter(1, targets[:, None], -torch.inf)
    return own[:, 0] - others.logsumexp(dim=1)


@dataclass(frozen=True)
class Inference:
    """Success of the attack over all pairs of shadow and target.

    Attributes:
        scores: Log-likelihood ratios, pairs with the sample in first, then those without.
        labels: 1 for "in", 0 for "out".
        shadows: The shadow of each pair.
        vulnerability: By target, in how many pairs of shadows the one with the sample in has the higher score, ties
            half, shape (t,): 0.5 is chance. Both are scored by the same Gaussians, made from all other pairs.
    """

    scores: Matrix
    labels: NDArray[np.int64]
    shadows: NDArray[np.int64]
    vulnerability: Matrix


def likelihood_ratio_attack(
    inside: Matrix, members: Mask, outside: Matrix, others: Mask, own_variance: bool | None = None
) -> Inference:
    """Per target a Gaussian for φ with the sample in and one with it out, both without the shadow that is scored.

    The shadow with the other half of the pool (:func:`draw_pool`) is left out too, so that both Gaussians lose one. If
    only the scored shadow were left out, every score would move to the wrong side, and an attack on models that tell
    nothing would do worse than chance.

    ln N(φ; μ_in, σ_in²) − ln N(φ; μ_out, σ_out²). Carlini et al. (2022), "Membership Inference Attacks From First
    Principles"; on unlearned models Hayes et al. (2024), "Inexact Unlearning Needs More Careful Evaluations to Avoid a
    False Sense of Privacy". With ``inside`` and ``outside`` the same unlearned models it asks whether a forgotten
    sample can be told from one never trained on; with ``outside`` the retrained models, whether unlearning can be
    told from retraining.

    Args:
        inside: φ of every shadow (rows) and target (columns) in the world where members are in, shape (S, t).
        members: Which pairs of it are "in".
        outside: φ in the world where they are out, shape (S, t).
        others: Which pairs of that are "out".
        own_variance: Whether every target has its own variance; when None, from :data:`OWN_VARIANCE` shadows on.

    Raises:
        CduError: Shadows that do not come in such pairs, or a target with fewer than four on one side.
    """
    own = len(inside) >= OWN_VARIANCE if own_variance is None else own_variance
    halves = members.reshape(-1, 2, members.shape[1]) if len(members) % 2 == 0 else None
    if halves is None or not (halves.sum(axis=1) == 1).all():
        raise CduError("shadows must come in pairs with complementary halves of the pool, as draw_pool makes them")
    fewest = int(min(members.sum(axis=0).min(), others.sum(axis=0).min()))
    if fewest < 4:
        raise CduError(
            f"a target has only {fewest} shadows on one side and needs four; train more shadows than {len(inside)}"
        )
    scores = []
    for values in (inside, outside):
        likelihoods = []
        for reference, mask in ((inside, members), (outside, others)):
            mean, variance = _without_pair(reference, mask, own)
            likelihoods.append(-((values - mean) ** 2) / (2 * variance) - np.log(variance) / 2)
        scores.append(likelihoods[0] - likelihoods[1])
    pairs = [(scores[0], members, 1), (scores[1], others, 0)]
    with_it, without = (
        np.where(mask, values, 0.0).reshape(-1, 2, values.shape[1]).sum(axis=1) for values, mask, _ in pairs
    )
    return Inference(
        scores=np.concatenate([values[mask] for values, mask, _ in pairs]),
        labels=np.concatenate([np.full(int(mask.sum()), label) for _, mask, label in pairs]),
        shadows=np.concatenate([np.nonzero(mask)[0] for _, mask, _ in pairs]),
        vulnerability=((with_it > without) + 0.5 * (with_it == without)).mean(axis=0),
    )


def _without_pair(values: Matrix, mask: Mask, own: bool) -> tuple[Matrix, Matrix]:
    """For every shadow and target mean and variance over the shadows of ``mask``, but without that shadow's pair."""
    pair = np.arange(len(values)) // 2
    together = (pair[:, None] == pair).astype(float)
    # Squares are taken about a centre, so that little is lost when they are subtracted.
    centre = np.where(mask, values, 0.0).sum(axis=0) / mask.sum(axis=0)
    away = np.where(mask, values - centre, 0.0)
    count, total, squares = (one.sum(axis=0) - together @ one for one in (mask.astype(float), away, away**2))
    spread, free = squares - total**2 / count, count - 1
    variance = spread / free if own else spread.sum(axis=1, keepdims=True) / free.sum(axis=1, keepdims=True)
    return centre + total / count, np.maximum(variance, 1e-12)


@dataclass(frozen=True)
class Curve:
    """An ROC curve at given false-positive rates, with intervals from a bootstrap over shadows.

    Attributes:
        auc: Area, low and high end of its interval.
        rates: True-positive rate, low and high end, by false-positive rate.
    """

    auc: tuple[float, float, float]
    rates: dict[float, tuple[float, float, float]]


def roc(attack: Inference, levels: Sequence[float], seed: int, resamples: int = 200, confidence: float = 0.95) -> Curve:
    """Area and true-positive rates, with percentile intervals.

    Pairs of shadows with complementary halves of the pool are drawn again as a whole, since neither the targets of one
    shadow nor the two shadows are independent. The Gaussians and the pool of targets are taken as given.

    Args:
        attack: Scores.
        levels: False-positive rates.
        seed: Seed of the bootstrap.
        resamples: Resamples of it.
        confidence: Of the intervals.
    """

    def measure(weights: Matrix) -> Matrix:
        return np.array(_weighted_roc(attack.scores, attack.labels, weights, levels))

    pairs = attack.shadows // 2
    count = int(pairs.max()) + 1
    found = measure(np.ones(len(attack.scores)))
    draw = np.random.default_rng(seed)
    drawn = [np.bincount(draw.integers(count, size=count), minlength=count)[pairs] for _ in range(resamples)]
    tail = (1 - confidence) / 2
    low, high = np.quantile([measure(weights.astype(float)) for weights in drawn], [tail, 1 - tail], axis=0)
    area, *rates = (
        (float(value), float(below), float(above))
        for value, below, above in zip(found, np.minimum(low, found), np.maximum(high, found), strict=True)
    )
    return Curve(area, dict(zip(levels, rates, strict=True)))


def _weighted_roc(scores: Matrix, labels: NDArray[np.int64], weights: Matrix, levels: Sequence[float]) -> list[float]:
    """Area under the curve, then the true-positive rate at each level, every pair counted ``weights`` times."""
    with needs_report("an attack's ROC curve"):
        from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(labels, scores, sample_weight=weights, drop_intermediate=False)
    # The largest true-positive rate among thresholds that keep to the level.
    rates = [float(true[np.searchsorted(false, level, side="right") - 1]) for level in levels]
    return [float(np.trapezoid(true, false)), *rates]
