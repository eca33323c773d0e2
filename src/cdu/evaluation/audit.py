"""Audits: lower bounds on ε from trials of a release and of its reference, and the power of such audits."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri
from torch import Tensor

from cdu.certification import gaussian_delta, gaussian_epsilon
from cdu.checks import expect
from cdu.errors import CduError

Vector = NDArray[np.float64]

#: With this probability all bounds of an audit hold together: both on ε, at every threshold, in both directions.
CONFIDENCE = 0.95

#: Share of the trials that estimates the direction, where it is not known.
DIRECTION = 0.4

#: Share of the error 1 − :data:`CONFIDENCE` that is spent at the middle threshold.
MIDDLE = 0.8

#: Quantiles of the pilot trials of both hypotheses together that are thresholds too.
LEVELS = (0.005, 0.02, 0.1, 0.25, 0.75, 0.9, 0.98, 0.995)

#: The number of quantiles that :func:`learned` chooses from.
CANDIDATES = 100

#: Fewest trials of either hypothesis: a tenth places the thresholds, and half of them judge.
FEWEST = 20


@dataclass(frozen=True)
class Audit:
    """What trials say about the ε of a pair of distributions.

    Both lower bounds hold together with probability :data:`CONFIDENCE`; of twenty audits of certificates without any
    slack one may be wrong.

    Attributes:
        epsilon: Lower bound on ε at the given δ, from Clopper-Pearson bounds; 0 where nothing was found.
        mu: μ of Gaussian differential privacy at the threshold with the largest ``mu_low``.
        mu_low: Lower bound on μ; a pair that is μ'-GDP has μ' above it. Nothing is shown where it is not above 0.
        mu_high: Upper bound on the μ that this threshold shows, by itself as sure as ``mu_low`` is by itself; infinite
            where no trial of one hypothesis passed it or all did; no bound on what a better adversary would find.
        gaussian_epsilon: ε of ``mu_low`` at δ.
        detectable: The largest ``epsilon`` that so many trials could have given, when not one guess is wrong.
        gaussian_detectable: The same of ``gaussian_epsilon``.
        trials: Trials of either hypothesis that count, without those that chose the direction or the thresholds.
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


@dataclass(frozen=True)
class Strategy:
    """How the thresholds of an audit are placed.

    Attributes:
        pilot: Share of the trials that places them; those do not judge.
        place: From pilot trials of release and reference, shapes (S, m), and δ: thresholds and the shares of the error
            1 − :data:`CONFIDENCE` that are spent at each of them, shapes (S, k) and (k,). The shares add up to 1, so
            that by Bonferroni the bounds at all thresholds hold together.
    """

    pilot: float
    place: Callable[[Vector, Vector, float], tuple[Vector, Vector]]


def middle(release: Vector, reference: Vector, delta: float) -> tuple[Vector, Vector]:
    """One threshold half-way between the means: the best one for the μ of Gaussian noise."""
    return _middle(release, reference), np.ones(1)


def quantiles(release: Vector, reference: Vector, delta: float) -> tuple[Vector, Vector]:
    """Nine thresholds with equal shares: the middle, and eight quantiles of the pilot trials."""
    return _grid(release, reference, 1 / (1 + len(LEVELS)))


def middle_and_quantiles(release: Vector, reference: Vector, delta: float) -> tuple[Vector, Vector]:
    """The middle with 80 % of the error, and eight quantiles that share the rest.

    An error of a fortieth widens a bound far out in a tail little, and there is where counts show most; the middle is
    where a smaller error would cost most.
    """
    return _grid(release, reference, MIDDLE)


def learned(release: Vector, reference: Vector, delta: float) -> tuple[Vector, Vector]:
    """Two thresholds with equal shares: those at which the pilot trials show the largest μ, and the largest ε."""
    candidates, epsilon, mu = _tried(release, reference, delta)
    best = [np.take_along_axis(candidates, np.argmax(bound, axis=1)[:, None], axis=1) for bound in (mu, epsilon)]
    return np.concatenate(best, axis=1), np.full(2, 0.5)


def learned_for_both(release: Vector, reference: Vector, delta: float) -> tuple[Vector, Vector]:
    """One threshold for both bounds: that at which the pilot trials show the largest μ."""
    candidates, _, mu = _tried(release, reference, delta)
    return np.take_along_axis(candidates, np.argmax(mu, axis=1)[:, None], axis=1), np.ones(1)


#: The strategies that are compared; audits use the first. The chapter on audits shows the power of each.
STRATEGIES = {
    "a tenth places the middle (80 % of the error) and eight quantiles": Strategy(0.1, middle_and_quantiles),
    "a tenth places nine thresholds of equal shares": Strategy(0.1, quantiles),
    "a tenth places the middle alone": Strategy(0.1, middle),
    "a half chooses a threshold for each bound": Strategy(0.5, learned),
    "a half chooses one threshold for both bounds": Strategy(0.5, learned_for_both),
}
STRATEGY = next(iter(STRATEGIES.values()))


def audit(release: Tensor, reference: Tensor, delta: float) -> Audit:
    """Lower bounds on ε from trials of both hypotheses.

    The direction that best separates them (:func:`separating_direction`) is estimated on the first two fifths of the
    trials, thresholds along it are placed by the next tenth (:data:`STRATEGY`), and the other half judges: with more
    coordinates than trials, a direction separates the trials that it was estimated on even where nothing else does, so
    that no threshold can be learned from them. Trials of one coordinate need no direction, and nine tenths judge. For a
    test with true-positive rate t and false-positive rate f every (ε, δ) guarantee has t ≤ e^ε f + δ, so that

        ε ≥ ln((t − δ)/f)  and  ε ≥ ln((1 − f − δ)/(1 − t)),

    with the lower Clopper-Pearson bound of t and the upper one of f in both. Gaussian differential privacy has
    μ ≥ Φ⁻¹(t) − Φ⁻¹(f) (Nasr et al. 2023, "Tight Auditing of Differentially Private Machine Learning"), which needs far
    fewer trials but speaks of certificates by Gaussian noise alone. Both directions and both bounds, at all thresholds,
    rest on the same bounds of t and f, which hold together with :data:`CONFIDENCE` by Bonferroni.

    Args:
        release: What the adversary sees of the releases under audit, one trial a row, shape (T, f).
        reference: The same of what the release should equal, shape (T, f).
        delta: δ of the guarantee.

    Raises:
        CduError: Unequal shapes, fewer than :data:`FEWEST` trials, something that is not finite, or trials that differ
            without any noise, or beyond the range of their type: no bound would be found where ε is infinite.

    Example:
        Two thousand trials of Gaussian noise at a distance of three standard deviations:

        >>> generator = torch.Generator().manual_seed(0)
        >>> reference = torch.randn(2000, 1, generator=generator, dtype=torch.float64)
        >>> release = 3 + torch.randn(2000, 1, generator=generator, dtype=torch.float64)
        >>> audit(release, reference, delta=1e-5).contradicts(1.0)
        True
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
    known = release.shape[1] == 1
    # With one coordinate only the sign is unknown; the trials that place the thresholds determine it.
    first = round((STRATEGY.pilot if known else DIRECTION) * len(release))
    direction = separating_direction(release[:first], reference[:first])
    expect(
        bool(direction.isfinite().all() and direction.any())
        or torch.equal(release[:first].mean(dim=0), reference[:first].mean(dim=0)),
        f"the trials' means differ, and their spread is none, or beyond the range of {release.dtype}: either no noise "
        "was added and the two are told apart with certainty, or the trials want to be scaled to numbers of order one",
    )
    used = 0 if known else first
    positive, negative = ((trials[used:] @ direction).double().cpu().numpy()[None] for trials in (release, reference))
    pilot = round(STRATEGY.pilot * len(release))
    return _judged(positive, negative, pilot, delta)


def _judged(release: Vector, reference: Vector, pilot: int, delta: float) -> Audit:
    """The audit of one row of trials, of which the first ``pilot`` place the thresholds."""
    shown = _shown(release, reference, pilot, delta, STRATEGY.place)
    mu_low, trials = float(shown.mu_low[0]), release.shape[1] - pilot
    detectable, gaussian_detectable = detectable_epsilons(trials, delta)
    return Audit(
        epsilon=max(0.0, float(shown.epsilon[0])),
        mu=float(shown.mu[0]),
        mu_low=mu_low,
        mu_high=float(shown.mu_high[0]),
        gaussian_epsilon=gaussian_epsilon(1.0, delta, mu_low) if mu_low > 0 else 0.0,
        detectable=detectable,
        gaussian_detectable=gaussian_detectable,
        trials=trials,
    )


def separating_direction(release: Tensor, reference: Tensor) -> Tensor:
    """Fisher's linear discriminant with a diagonal covariance: difference of means over pooled variance, shape (f,).

    A coordinate that hardly varies gets a large weight, so that noise which leaves out a coordinate is found.
    """
    difference = release.mean(dim=0) - reference.mean(dim=0)
    variance = (release.var(dim=0) + reference.var(dim=0)) / 2
    floor = torch.finfo(variance.dtype).tiny + 1e-12 * variance.max()
    direction = difference / (variance + floor)
    size: Tensor = direction.norm()
    return direction / size if size > 0 else direction


def clopper_pearson(successes: NDArray[Any], trials: int, confidence: float | Vector) -> tuple[Vector, Vector]:
    """Lower and upper bound on a probability, each of which holds with ``confidence``.

    Args:
        successes: Numbers of successes.
        trials: Number of trials.
        confidence: Of one bound, or of each.
    """
    counts, error = np.asarray(successes, dtype=float), 1 - confidence
    # The quantiles have no value at the ends, where the bounds are 0 and 1.
    low = np.where(counts > 0, betaincinv(np.maximum(counts, 1), trials - counts + 1, error), 0.0)
    high = np.where(counts < trials, betaincinv(counts + 1, np.maximum(trials - counts, 1), confidence), 1.0)
    return low, high


def detectable_epsilons(trials: int, delta: float) -> tuple[float, float]:
    """The bounds that ``trials`` of either hypothesis give when every guess is right: by counts, and by Gaussian DP."""
    hit = (MIDDLE * (1 - CONFIDENCE) / 2) ** (1 / trials)
    plain = math.log(max(hit - delta, 1e-300) / (1 - hit))
    mu = 2 * float(ndtri(hit))
    return max(0.0, plain), gaussian_epsilon(1.0, delta, mu) if mu > 0 else 0.0


@dataclass(frozen=True)
class Power:
    """In how many of ``seeds`` simulated audits of two Gaussians a bound lay above the certified ε.

    Attributes:
        detected: Either bound.
        counted: The bound from counts (Clopper-Pearson) alone, which does not assume Gaussian noise.
        seeds: Simulated audits.
    """

    detected: int
    counted: int
    seeds: int


def power(
    strategy: Strategy, mu: float, trials: int, certified: float, delta: float, seeds: int, draws: np.random.Generator
) -> Power:
    """Simulate audits of N(μ, 1) against N(0, 1).

    Where noise comes last and the direction is known, every audit is one of these two, whatever the model.

    Args:
        strategy: How the thresholds are placed.
        mu: Distance of the pair over σ: of a certificate for Δ with noise k times too small, k·μ* at the distance Δ.
        trials: Trials of either hypothesis, those included that place thresholds.
        certified: ε of the certificate under audit.
        delta: Its δ.
        seeds: How many audits.
        draws: Draws the trials.
    """
    release, reference = draws.standard_normal((2, seeds, trials))
    shown = _shown(release + mu, reference, round(strategy.pilot * trials), delta, strategy.place)
    counted = shown.epsilon > certified
    gaussian = np.array([low > 0 and gaussian_delta(certified, 1.0, low) > delta for low in shown.mu_low.tolist()])
    return Power(int((counted | gaussian).sum()), int(counted.sum()), seeds)


@dataclass(frozen=True)
class _Shown:
    """The largest lower bounds on ε and on μ, and μ with its upper bound at the threshold of the latter, shape (S,)."""

    epsilon: Vector
    mu: Vector
    mu_low: Vector
    mu_high: Vector


def _shown(
    release: Vector,
    reference: Vector,
    pilot: int,
    delta: float,
    place: Callable[[Vector, Vector, float], tuple[Vector, Vector]],
) -> _Shown:
    """Place thresholds by the first trials of every row, shape (S, T), and judge at them by the later ones."""
    thresholds, shares = place(release[:, :pilot], reference[:, :pilot], delta)
    true, false = (_passed(values[:, pilot:], thresholds) for values in (release, reference))
    trials = release.shape[1] - pilot
    true_low, false_high = proportions(true, false, trials, shares)
    false_low, true_high = proportions(false, true, trials, shares)
    mu_low = _mu(true_low, false_high)
    best = np.argmax(mu_low, axis=1)[:, None]

    def there(values: Vector) -> Vector:
        return np.asarray(np.take_along_axis(values, best, axis=1)[:, 0])

    return _Shown(
        epsilon=_epsilon(true_low, false_high, delta).max(axis=1),
        mu=there(_mu(*(np.clip(count, 0.5, trials - 0.5) / trials for count in (true, false)))),
        mu_low=there(mu_low),
        mu_high=there(_mu(true_high, false_low)),
    )


def proportions(true: Vector, false: Vector, trials: int, shares: Vector) -> tuple[Vector, Vector]:
    """Lower bounds of true-positive and upper bounds of false-positive rates that all hold together.

    Args:
        true: How many releases passed each threshold, shape (S, k).
        false: How many references did.
        trials: Trials of either.
        shares: Share of the error that is spent at each threshold, shape (k,).
    """
    confidence = 1 - shares * (1 - CONFIDENCE) / 2  # of one proportion, of two at a threshold
    return clopper_pearson(true, trials, confidence)[0], clopper_pearson(false, trials, confidence)[1]


def _epsilon(true_low: Vector, false_high: Vector, delta: float) -> Vector:
    """The larger of the bounds by the test "a release, if at least the threshold" and by its reverse."""
    with np.errstate(divide="ignore"):
        forward = np.log(np.maximum(true_low - delta, 0) / false_high)
        reverse = np.log(np.maximum(1 - false_high - delta, 0) / (1 - true_low))
    return np.asarray(np.maximum(forward, reverse))


def _mu(true: Vector, false: Vector) -> Vector:
    return np.asarray(ndtri(true) - ndtri(false))


def _passed(trials: Vector, thresholds: Vector) -> Vector:
    """How many trials of every row are at least each of its thresholds, shape (S, k)."""
    rows = zip(np.sort(trials, axis=1), thresholds, strict=True)
    below = np.stack([np.searchsorted(row, own) for row, own in rows])
    return np.asarray(trials.shape[1] - below, dtype=float)


def _middle(release: Vector, reference: Vector) -> Vector:
    return np.asarray((release.mean(axis=1, keepdims=True) + reference.mean(axis=1, keepdims=True)) / 2)


def _grid(release: Vector, reference: Vector, share: float) -> tuple[Vector, Vector]:
    """The middle with a share of the error, and the quantiles that share the rest."""
    levels = np.quantile(np.concatenate([release, reference], axis=1), LEVELS, axis=1).T
    shares = np.full(1 + len(LEVELS), (1 - share) / len(LEVELS))
    shares[0] = share
    return np.concatenate([_middle(release, reference), levels], axis=1), shares


def _tried(release: Vector, reference: Vector, delta: float) -> tuple[Vector, Vector, Vector]:
    """Candidates for thresholds, and the bounds that the trials show at each, shapes (S, k)."""
    levels = np.linspace(0, 1, CANDIDATES)
    candidates = np.quantile(np.concatenate([release, reference], axis=1), levels, axis=1, method="nearest").T
    true, false = (_passed(values, candidates) for values in (release, reference))
    true_low, false_high = proportions(true, false, release.shape[1], np.ones(1))
    return candidates, _epsilon(true_low, false_high, delta), _mu(true_low, false_high)
