"""What DP-SGD promises to a group of samples: (ε, δ) of all its steps together.

A step of DP-SGD takes every sample with probability q (Poisson sampling), clips each sample's gradient to the norm c,
sums, and adds Gaussian noise of the standard deviation σ·c. Of a group of k samples, j ~ Binomial(k, q) are in the sum,
and together they move it by j·c at most. For the whole training, told at every step to the adversary, the pair

    P = Σ_j Binomial(k, q)(j) · N(j, σ²)   against   Q = N(0, σ²),   composed T times,

dominates a training on D against one on D without the group: Ganesh, "Tight Group-Level DP Guarantees for DP-SGD with
Sampling via Mixture of Gaussians Mechanisms" (2024), the theorem on Poisson sampling. For k = 1 it is the usual
subsampled Gaussian mechanism. Both directions, P against Q and Q against P, are accounted for, and the worse counts.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicHermiteSpline
from scipy.special import logsumexp, ndtr
from scipy.stats import binom

from cdu.checks import expect, expect_count, expect_delta, expect_positive
from cdu.extras import needs_report

#: Points of the outputs' grid for each σ.
_FINENESS = 20

#: How far the outputs' grid reaches beyond the largest sum that counts, in σ.
_TAIL = 14.0

#: An order of Rényi divergence is used if what lies at the end of the grid is this far below the peak, in e-folds.
_NEGLIGIBLE = 40.0

#: ε above which no privacy loss is composed: Rényi's bound is returned, for nothing is promised anyway.
_VACUOUS = 50.0

#: Outputs whose privacy loss is computed at once.
_BLOCK = 2_000_000

Array = NDArray[np.float64]


def group_epsilon(noise_multiplier: float, sampling_rate: float, steps: int, size: int, delta: float) -> float:
    """ε for which DP-SGD is (ε, δ)-indistinguishable with and without a group of samples.

    The privacy loss is composed numerically (Gopi, Lee and Wutschitz 2021) by the functions behind opacus' accountant
    PRV, and the bound includes its error, 0.01. Where the bound by Rényi divergences is lower, or where that is above
    50, it is returned instead.

    Args:
        noise_multiplier: σ, the noise's standard deviation over the clipping norm.
        sampling_rate: q.
        steps: T.
        size: k, the number of samples in the group.
        delta: δ.

    Raises:
        CduError: An argument is unusable.
    """
    expect_positive(noise_multiplier=noise_multiplier, sampling_rate=sampling_rate)
    expect(sampling_rate <= 1, f"sampling_rate = {sampling_rate} is a probability; give at most 1")
    expect_count(steps=steps, size=size)
    expect_delta(delta)
    directions = [GroupLoss(noise_multiplier, sampling_rate, size, removed) for removed in (True, False)]
    return max(_epsilon(direction, steps, delta) for direction in directions)


@dataclass(frozen=True)
class GroupLoss:
    """The privacy loss of one step for a group: a random variable, in the form that opacus' functions take.

    With L(x) = log P(x)/Q(x), which grows with x, it is L(x) for x ~ P where the group is ``removed``, and −L(x) for
    x ~ Q where it is added.

    Attributes:
        noise_multiplier: σ.
        sampling_rate: q.
        size: k.
        removed: Which of the two directions.
    """

    noise_multiplier: float
    sampling_rate: float
    size: int
    removed: bool = True

    @cached_property
    def _taken(self) -> tuple[Array, Array]:
        """How many of the group a step may take, and the logarithms of their probabilities; without the impossible."""
        counts = np.arange(self.size + 1.0)
        logs = binom.logpmf(counts, self.size, self.sampling_rate)
        return counts[logs > -np.inf], logs[logs > -np.inf]

    @cached_property
    def _outputs(self) -> Array:
        """A grid over the sums that a step may give, in units of the clipping norm."""
        sigma = self.noise_multiplier
        first, last = -_TAIL * sigma - self.size, max(2.0 * self.size, 64.0) + _TAIL * sigma
        return np.linspace(first, last, 1 + math.ceil((last - first) / sigma * _FINENESS))

    @cached_property
    def _losses(self) -> tuple[Array, Array]:
        """L and dL/dx on the grid."""
        counts, logs = self._taken
        variance = self.noise_multiplier**2
        values, slopes = [], []
        for x in np.array_split(self._outputs, 1 + len(self._outputs) * len(counts) // _BLOCK):
            terms = logs + (2 * np.outer(x, counts) - counts**2) / (2 * variance)
            total = logsumexp(terms, axis=1)
            values.append(total)
            slopes.append(np.exp(terms - total[:, None]) @ counts / variance)
        return np.concatenate(values), np.concatenate(slopes)

    @cached_property
    def _inverse(self) -> tuple[CubicHermiteSpline, float, float]:
        """The output at which the loss is t, as a spline, and the losses between which it is defined."""
        losses, slopes = self._losses
        # Far to the left L is flat: it tends to log (1 − q)^k.
        rising = np.concatenate([np.diff(losses) > 1e-12 * (1 + np.abs(losses[1:])), [True]])
        first = len(rising) - int(np.argmin(rising[::-1])) if not rising.all() else 0
        kept = slice(first, None)
        spline = CubicHermiteSpline(losses[kept], self._outputs[kept], 1 / slopes[kept])
        return spline, float(losses[first]), float(losses[-1])

    def cdf(self, t: ArrayLike) -> Array:
        """The probability that the loss is at most t."""
        values = np.asarray(t, dtype=np.float64)
        spline, first, last = self._inverse
        at = values if self.removed else -values
        x = spline(np.clip(at, first, last))
        if self.removed:
            counts, logs = self._taken
            below = np.zeros_like(x)
            for count, log in zip(counts, logs, strict=True):
                below += np.exp(log) * ndtr((x - count) / self.noise_multiplier)
        else:
            below = ndtr(-x / self.noise_multiplier)
        below = np.where(at < first, 0.0 if self.removed else 1.0, below)
        clamped: Array = np.where(at > last, 1.0 if self.removed else 0.0, below)
        return clamped

    def divergence(self, order: float) -> float:
        """Rényi's divergence of this order for one step; infinite where the grid does not hold what counts of it."""
        losses, _ = self._losses
        sigma, x = self.noise_multiplier, self._outputs
        logs = (order if self.removed else 1 - order) * losses - x**2 / (2 * sigma**2)
        peak = float(logs.max())
        if max(logs[0], logs[-1]) > peak - _NEGLIGIBLE:
            return math.inf
        total = float(logsumexp(logs)) + math.log(float(x[1] - x[0]) / (sigma * math.sqrt(2 * math.pi)))
        return max(0.0, total / (order - 1))

    def rdp_epsilon(self, steps: int, delta: float) -> float:
        """ε at δ after T steps by Rényi divergences (Canonne, Kamath and Steinke 2020, proposition 12)."""
        found = math.inf
        for order in 1 + np.geomspace(1e-4, 63, 200):
            spent = steps * self.divergence(order)
            found = min(found, spent + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))
        return max(0.0, found)


def _epsilon(loss: GroupLoss, steps: int, delta: float, error: float = 0.01) -> float:
    """ε of one direction: by the composed privacy loss, or by Rényi divergences."""
    rough = loss.rdp_epsilon(steps, delta)
    if rough > _VACUOUS:
        return rough
    with needs_report("accounting for DP-SGD"):
        from opacus.accountants.analysis import prv
    slack = delta / 1000
    half = 3 + max(error, loss.rdp_epsilon(steps, slack / 4), loss.rdp_epsilon(1, slack / (8 * steps)))
    domain: Any = prv.Domain.create_aligned(-half, half, error / math.sqrt(steps * math.log(12 / slack) / 2))
    truncated: Any = prv.TruncatedPrivacyRandomVariable(loss, domain.t_min, domain.t_max)
    composed = prv.compose_heterogeneous([prv.discretize(truncated, domain)], [steps])
    return min(rough, max(0.0, float(composed.compute_epsilon(delta, slack, error)[2])))
