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
from cdu.expectations import expect

Vector = NDArray[np.float64]

#: Confidence of every bound.
CONFIDENCE = 0.95

#: Fewest trials of either hypothesis: a quarter chooses the direction, a quarter the threshold, the other half judges.
FEWEST = 20


@dataclass(frozen=True)
class Audit:
    """What trials say about the ε of a pair of distributions.

    Each bound holds with probability :data:`CONFIDENCE`; of twenty on certificates without any slack one may be wrong.

    Attributes:
        epsilon: Lower bound on ε at the given δ, from two Clopper-Pearson bounds that hold together; 0 where nothing
            was found.
        mu: μ of Gaussian differential privacy at the threshold that was chosen for it.
        mu_low: Lower bound on μ; a pair that is μ'-GDP has μ' above it. Nothing is shown where it is not above 0.
        mu_high: Upper bound on the μ that this threshold shows, infinite where no trial of one hypothesis passed it or
            all did; no bound on what a better adversary would find.
        gaussian_epsilon: ε of ``mu_low`` at δ.
        detectable: The largest ``epsilon`` that so many trials could have given, when not one guess is wrong.
        gaussian_detectable: The same of ``gaussian_epsilon``.
        trials: Trials of either hypothesis that judged.
    """

    epsilon: float
    mu: float
    mu_low: float
    mu_high: float
    gaussian_epsilon: float
    detectable: float
    gaussian_detectable: float
    trials: int

    def contradicts(self, certified: float) -> bool:
        """Whether either lower bound lies above a certified ε, of a certificate at the audit's δ."""
        expect(certified >= 0, f"a certified ε of {certified} is not a number of at least 0")
        return max(self.epsilon, self.gaussian_epsilon) > certified


def audit(release: Tensor, reference: Tensor, delta: float) -> Audit:
    """Lower bounds on ε from trials of both hypotheses.

    The direction that best separates them (:func:`separating_direction`) is estimated on the first quarter of the
    trials, a threshold along it is chosen on the second, and the other half judges: with more coordinates than trials a
    direction separates those that it was estimated on whatever they are, so that no threshold can be learned from them.
    Trials of one coordinate need no direction, and the first half chooses the threshold. For a test with true-positive
    rate t and false-positive rate f every (ε, δ) guarantee has t ≤ e^ε f + δ, so that

        ε ≥ ln((t − δ)/f)  and  ε ≥ ln((1 − f − δ)/(1 − t)),

    with the lower Clopper-Pearson bound of t and the upper one of f in both. Gaussian differential privacy has
    μ ≥ Φ⁻¹(t) − Φ⁻¹(f) (Nasr et al. 2023, "Tight Auditing of Differentially Private Machine Learning"), which needs far
    fewer trials but speaks of certificates by Gaussian noise alone.

    Args:
        release: What the adversary sees of the releases under audit, one trial a row, shape (T, f).
        reference: The same of what the release should equal, shape (T, f).
        delta: δ of the guarantee.

    Raises:
        CduError: Unequal shapes, fewer than :data:`FEWEST` trials, something that is not finite, or trials that differ
            without any noise, or beyond the range of their type: no bound would be found where ε is infinite.
    """
    expect(
        release.dtype == reference.dtype and release.dtype in (torch.float32, torch.float64),
        f"the trials are of types {release.dtype} and {reference.dtype}; give both in float32 or both in float64",
    )
    if release.shape != reference.shape or release.dim() != 2 or len(release) < FEWEST:
        raise CduError(
            f"an audit needs as many trials of either hypothesis, at least {FEWEST}, in rows of equal length; it was "
            f"given {tuple(release.shape)} and {tuple(reference.shape)}"
        )
    if not (release.isfinite().all() and reference.isfinite().all()):
        raise CduError("the trials hold values that are not finite; no direction separates those")
    half = len(release) // 2
    known = release.shape[1] == 1
    first, used = (half, 0) if known else (half // 2, half // 2)
    direction = separating_direction(release[:first], reference[:first])
    expect(
        bool(direction.isfinite().all() and direction.any())
        or torch.equal(release[:first].mean(dim=0), reference[:first].mean(dim=0)),
        f"the trials' means differ, and their spread is none, or beyond the range of {release.dtype}: either no noise "
        "was added and the two are told apart with certainty, or the trials want to be scaled to numbers of order one",
    )
    positive, negative = ((trials @ direction).double().cpu().numpy() for trials in (release, reference))
    return _judge(positive[used:half], negative[used:half], positive[half:], negative[half:], delta)


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


def detectable_epsilons(trials: int, delta: float) -> tuple[float, float]:
    """The bounds that ``trials`` of either hypothesis give when every one is told right, the second by Gaussian DP."""
    hit = (1 - _single()) ** (1 / trials)
    plain = math.log(max(hit - delta, 1e-300) / (1 - hit))
    mu = 2 * float(norm.ppf(hit))
    return max(0.0, plain), gaussian_epsilon(1.0, delta, mu) if mu > 0 else 0.0


def _single() -> float:
    """Confidence of one proportion's bound, of two that must hold together."""
    return 1 - (1 - CONFIDENCE) / 2


def _judge(release: Vector, reference: Vector, later: Vector, later_reference: Vector, delta: float) -> Audit:
    """Choose thresholds on the first trials, judge them on the later ones."""
    thresholds = np.unique(np.concatenate([release, reference]))
    found = _bounds(release, reference, thresholds, delta)
    final = _bounds(later, later_reference, thresholds[[int(np.argmax(found.epsilon))]], delta)
    threshold = thresholds[[int(np.argmax(found.mu_low))]]
    gaussian = _bounds(later, later_reference, threshold, delta)
    mu_low = float(gaussian.mu_low[0])
    detectable, gaussian_detectable = detectable_epsilons(len(later), delta)
    return Audit(
        epsilon=max(0.0, float(final.epsilon[0])),
        mu=float(gaussian.mu[0]),
        mu_low=mu_low,
        mu_high=float(gaussian.mu_high[0]),
        gaussian_epsilon=gaussian_epsilon(1.0, delta, mu_low) if mu_low > 0 else 0.0,
        detectable=detectable,
        gaussian_detectable=gaussian_detectable,
        trials=len(later),
    )


@dataclass(frozen=True)
class _Bounds:
    """By threshold, shape (k,): lower bound on ε; μ with the ends of its interval."""

    epsilon: Vector
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
        epsilon=np.maximum(forward, reverse),
        mu=_quantile(true, len(release)) - _quantile(false, len(reference)),
        mu_low=norm.ppf(true_low) - norm.ppf(false_high),
        mu_high=norm.ppf(true_high) - norm.ppf(false_low),
    )


def _quantile(successes: NDArray[Any], trials: int) -> Vector:
    """Φ⁻¹ of a share, no nearer to 0 and 1 than half a trial."""
    return np.asarray(norm.ppf(np.clip(successes, 0.5, trials - 0.5) / trials))
