"""Audits: from trials of a release and of what it should equal, an ε that the pair provably exceeds."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta, norm
from torch import Tensor

from cdu.certification import gaussian_epsilon
from cdu.errors import CduError

Vector = NDArray[np.float64]

#: Confidence of every bound.
CONFIDENCE = 0.95

#: Fewest trials of either hypothesis: half of them choose direction and threshold, the other half judge.
FEWEST = 20


@dataclass(frozen=True)
class Audit:
    """What trials say about the ε of a pair of distributions.

    Attributes:
        epsilon: Lower bound on ε at the given δ, from two Clopper-Pearson bounds that hold together with probability
            :data:`CONFIDENCE`; 0 where nothing was found.
        mu: μ of Gaussian differential privacy that the chosen threshold shows.
        mu_low: Lower bound on μ, same confidence; a pair that is μ'-GDP has μ' above it. Nothing is shown where it is
            not above 0.
        mu_high: Upper bound on the μ that this threshold shows, same confidence, infinite where no trial of one
            hypothesis passed it or all did; no bound on what a better adversary would find.
        gaussian_epsilon: ε of ``mu_low`` at δ.
        detectable: The largest ε that so many trials could have shown, when not one guess is wrong.
        trials: Trials of either hypothesis that judged.
    """

    epsilon: float
    mu: float
    mu_low: float
    mu_high: float
    gaussian_epsilon: float
    detectable: float
    trials: int

    def contradicts(self, certified: float) -> bool:
        """Whether either lower bound lies above a certified ε."""
        return max(self.epsilon, self.gaussian_epsilon) > certified


def audit(release: Tensor, reference: Tensor, delta: float) -> Audit:
    """Lower bounds on ε from trials of both hypotheses.

    The direction that best separates them (:func:`separating_direction`) and a threshold along it are chosen on the
    first half of the trials and judged on the second. For a test with true-positive rate t and false-positive rate f
    every (ε, δ) guarantee has t ≤ e^ε f + δ, so that

        ε ≥ ln((t − δ)/f),

    with the lower Clopper-Pearson bound of t and the upper one of f, and the same for the test the other way round,
    1 − f and 1 − t; which of the two is judged is chosen on the first half too. Gaussian differential privacy has
    μ ≥ Φ⁻¹(t) − Φ⁻¹(f) (Nasr et al. 2023, "Tight Auditing of Differentially Private Machine Learning"), which needs far
    fewer trials but holds for certificates of Gaussian noise alone.

    Args:
        release: What the adversary sees of the releases under audit, one trial a row, shape (T, f).
        reference: The same of what the release should equal, shape (T, f).
        delta: δ of the guarantee.

    Raises:
        CduError: Unequal shapes, fewer than :data:`FEWEST` trials, or something that is not finite.
    """
    if release.shape != reference.shape or release.dim() != 2 or len(release) < FEWEST:
        raise CduError(
            f"an audit needs as many trials of either hypothesis, at least {FEWEST}, in rows of equal length; it was "
            f"given {tuple(release.shape)} and {tuple(reference.shape)}"
        )
    if not (release.isfinite().all() and reference.isfinite().all()):
        raise CduError("the trials hold values that are not finite; no direction separates those")
    half = len(release) // 2
    direction = separating_direction(release[:half], reference[:half])
    positive, negative = ((trials @ direction).double().cpu().numpy() for trials in (release, reference))
    return _judge(positive[:half], negative[:half], positive[half:], negative[half:], delta)


def separating_direction(release: Tensor, reference: Tensor) -> Tensor:
    """Fisher's linear discriminant with a diagonal covariance: difference of means over pooled variance, shape (f,).

    A coordinate that hardly varies gets the weight it deserves, so that noise which leaves one out is found.
    """
    difference = release.mean(dim=0) - reference.mean(dim=0)
    variance = (release.var(dim=0) + reference.var(dim=0)) / 2
    floor = torch.finfo(variance.dtype).tiny + 1e-12 * variance.max()
    direction = difference / (variance + floor)
    size: Tensor = direction.norm()
    return direction / size if size > 0 else direction


def clopper_pearson(successes: NDArray[Any], trials: int, confidence: float) -> tuple[Vector, Vector]:
    """Lower and upper bound on a probability, each of which holds with ``confidence``.

    Args:
        successes: Numbers of successes.
        trials: Number of trials.
        confidence: Of one bound.
    """
    counts, error = np.asarray(successes, dtype=float), 1 - confidence
    # The quantiles have no value at the ends, where the bounds are 0 and 1.
    low = np.where(counts > 0, beta.ppf(error, np.maximum(counts, 1), trials - counts + 1), 0.0)
    high = np.where(counts < trials, beta.ppf(confidence, counts + 1, np.maximum(trials - counts, 1)), 1.0)
    return low, high


def detectable_epsilon(trials: int, delta: float) -> float:
    """The bound that ``trials`` of either hypothesis give when every one is told right."""
    miss = (1 - _single()) ** (1 / trials)
    return max(0.0, math.log(max(miss - delta, 1e-300) / (1 - miss)))


def _single() -> float:
    """Confidence of one proportion's bound, of two that must hold together."""
    return 1 - (1 - CONFIDENCE) / 2


def _judge(release: Vector, reference: Vector, later: Vector, later_reference: Vector, delta: float) -> Audit:
    """Choose thresholds on the first trials, judge them on the later ones."""
    thresholds = np.unique(np.concatenate([release, reference]))
    found = _bounds(release, reference, thresholds, delta)
    chosen, turned = np.unravel_index(int(np.argmax(found.epsilons)), found.epsilons.shape)
    final = _bounds(later, later_reference, thresholds[[chosen]], delta)
    threshold = thresholds[[int(np.argmax(found.mu_low))]]
    gaussian = _bounds(later, later_reference, threshold, delta)
    mu_low = float(gaussian.mu_low[0])
    return Audit(
        epsilon=max(0.0, float(final.epsilons[0, turned])),
        mu=float(gaussian.mu[0]),
        mu_low=mu_low,
        mu_high=float(gaussian.mu_high[0]),
        gaussian_epsilon=gaussian_epsilon(1.0, delta, mu_low) if mu_low > 0 else 0.0,
        detectable=detectable_epsilon(len(later), delta),
        trials=len(later),
    )


@dataclass(frozen=True)
class _Bounds:
    """By threshold: ε of the test and of its reverse, shape (k, 2); μ with its ends, shape (k,)."""

    epsilons: Vector
    mu: Vector
    mu_low: Vector
    mu_high: Vector


def _bounds(release: Vector, reference: Vector, thresholds: Vector, delta: float) -> _Bounds:
    """The test "a release, if the statistic is at least the threshold"."""
    true, false = (len(values) - np.searchsorted(np.sort(values), thresholds) for values in (release, reference))
    true_low, true_high = clopper_pearson(true, len(release), _single())
    false_low, false_high = clopper_pearson(false, len(reference), _single())
    with np.errstate(divide="ignore"):
        forward = np.log(np.maximum(true_low - delta, 0) / false_high)
        reverse = np.log(np.maximum(1 - false_high - delta, 0) / (1 - true_low))
    return _Bounds(
        epsilons=np.stack([forward, reverse], axis=1),
        mu=_quantile(true, len(release)) - _quantile(false, len(reference)),
        mu_low=norm.ppf(true_low) - norm.ppf(false_high),
        mu_high=norm.ppf(true_high) - norm.ppf(false_low),
    )


def _quantile(successes: NDArray[Any], trials: int) -> Vector:
    """Φ⁻¹ of a share, no nearer to 0 and 1 than half a trial."""
    return np.asarray(norm.ppf(np.clip(successes, 0.5, trials - 0.5) / trials))
