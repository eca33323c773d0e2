"""How every number is compared on another platform: exactly, within a tolerance, or by its mean over seeds.

Rounding differs between processors. After 50 epochs of training the model can be as far from the reference's as that of
another seed, so that a single number of a trained network tells nothing. Numbers that do not depend on such training
are compared one by one: those that follow from the settings (*exact*), and those of convex problems, of simulations
with fixed draws and of untrained models (*continuous*). All others are *chaotic*: see
:mod:`cdu.verification.chaotic`. What a metric is, :mod:`cdu.experiments.metrics` says.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from scipy import stats

from cdu.evaluation.settings import FOUND, PLANTED
from cdu.experiments import metrics
from cdu.experiments.metrics import MetricKind


class Key(NamedTuple):
    """What identifies a number within its record."""

    metric: str
    method: str
    split: str
    axis: str
    point: float | None

    @property
    def words(self) -> str:
        """The key, as it is printed."""
        where = "" if self.point is None else f"{self.axis} {self.point:g}"
        return ", ".join(filter(None, (self.metric, self.method, self.split, where)))


Numbers = Mapping[Key, float | None]


class Kind(StrEnum):
    """How a number is compared on another platform."""

    TIME = "time"
    EXACT = "exact"
    CONTINUOUS = "continuous"
    CHAOTIC = "chaotic"


class Allowed(NamedTuple):
    """The largest difference that is allowed, and why."""

    tolerance: float
    rule: str


#: Metrics that count: the next value of one is another answer.
COUNTS = frozenset({MetricKind.COUNT, MetricKind.WORK})

#: Closed forms, relatively: a thousand times the rounding of the searches behind them, 1e-12.
CLOSED_TOLERANCE = 1e-9

#: Sections in which hyper-parameters are chosen by trained networks, with the metrics that such a choice decides.
TUNED = {("03_methods", "gradient_samples"), ("03_methods", "sigma"), ("10_audit", "sensitivity")}

#: Certified methods whose noise is for the distance 2C, whatever hyper-parameters were chosen.
FOR_THE_BALL = ("Newton step", "output perturbation")

#: The section whose convex problems are solved in float64, and the names of its networks and of their metrics.
THEORY, NETWORKS, OF_NETWORKS = "01_theory", ("network", "smooth network"), "lissa"

#: The section on linear models, each the one minimiser on its rows: accuracies differ by samples on a border alone.
LINEAR = "12_certified_linear"

#: Convex problems in float64, relatively. They end where the gradient is 1e-10, not at the last bit; forty times the
#: largest move seen between an AMD and an Intel processor, 2.4e-8.
CONVEX_TOLERANCE = 1e-6

#: The same on features that fixed random filters compute in float32; ten times the largest move seen, 1.9e-4.
FEATURES, FEATURES_TOLERANCE = "random features", 2e-3

#: How far the released noise moves the original model: the norm of a fixed draw, whatever was trained, up to a
#: thousandth for the rounding of the weights. It shows a wrong amount of noise, which accuracies hide.
NOISE, NOISE_METRIC, NOISE_TOLERANCE = "original + noise", "distance_to_original", 1e-3

#: Accuracies of convex problems: a sample on the border of two classes may fall to either side; three of 300 may.
BORDER = 0.01

#: A smaller difference is the rounding of numbers of order one. Residuals of exact solutions are nothing but rounding.
ROUNDING = 1e-9

#: Eigenvalues from ARPACK and what is computed from them, relatively (to the largest eigenvalue for the smallest), on
#: the same platform too. ARPACK's rounding changes from call to call within one process, and products in float32
#: amplify that; the largest difference seen was 7e-7 of the number on digits and 2e-7 of the largest eigenvalue on
#: MNIST.
ITERATED_TOLERANCE = 1e-5

#: The residual at which Lanczos stopped, and its eigenvalue.
RESIDUAL, EIGENVALUE = "lambda_min_error", "lambda_min"

#: The residual, relatively to its eigenvalue: ten times the accuracy that is asked of ARPACK.
RESIDUAL_TOLERANCE = 1e-2

#: The ends of the interval of an audit's estimate.
INTERVAL = ("mu_low", "mu_high")

#: The confidence of the bounds that an interval's ends are made of: at the middle threshold of cdu.evaluation.audit.
INTERVAL_CONFIDENCE = 0.96

#: Lower bounds on ε from trials: half of the ε that the audited releases are certified for. Whether one contradicts its
#: certificate is compared exactly.
LOWER_BOUND_FLOOR = 0.5

#: Tolerances for a section with one seed: of shares, and of all other numbers relatively.
ALONE_SHARE, ALONE = 0.15, 0.25

BITWISE = "bit for bit"


def kind_of(section: str, key: Key, reference: Numbers) -> Kind:
    """How a number is compared on another platform.

    Args:
        section: The section.
        key: Which of its numbers.
        reference: The committed numbers of the same seed.
    """
    what = metrics.kind(key.metric)
    if what is MetricKind.TIME:
        return Kind.TIME
    if key.metric == RESIDUAL:
        return Kind.CONTINUOUS
    if what in COUNTS or what is MetricKind.CLOSED_FORM:
        return Kind.EXACT if _given(section, key, reference) else Kind.CHAOTIC
    if _noise(key):
        return Kind.CONTINUOUS
    if section == THEORY and key.method not in NETWORKS and not key.metric.startswith(OF_NETWORKS):
        return Kind.CONTINUOUS
    if section == LINEAR and what is MetricKind.SHARE:
        return Kind.CONTINUOUS
    return Kind.CHAOTIC


def _given(section: str, key: Key, reference: Numbers) -> bool:
    """Whether a count or formula follows from the settings, not from a trained network."""
    if not reference.get(key) and key.metric.endswith("_samples"):
        return True  # no gradient or no product at all: another method, not another model
    if (section, key.metric) in TUNED:
        return key.method.startswith(FOR_THE_BALL) and key.metric != "gradient_samples"
    if key.metric == FOUND:
        # Whether an audit finds a planted error that is small is chance.
        return not key.method.startswith(PLANTED)
    return metrics.kind(key.metric) is not MetricKind.WORK or OF_NETWORKS in key.method.lower()


def _noise(key: Key) -> bool:
    return key.metric == NOISE_METRIC and key.method.startswith(NOISE)


def repeated(key: Key, reference: Numbers) -> Allowed:
    """The difference allowed on the same platform: none, except for what ARPACK computes."""
    if key.metric == RESIDUAL:
        return _residual(key, reference)
    if metrics.kind(key.metric) is MetricKind.ITERATED:
        # The smallest eigenvalue is known as well as the largest is, and can be much smaller.
        largest = key._replace(metric=key.metric.replace("lambda_min", "lambda_max"))
        size = max(abs(reference.get(one) or 0.0) for one in (key, largest))
        return Allowed(ITERATED_TOLERANCE * size, f"by Lanczos, {ITERATED_TOLERANCE:g} of it or of the largest")
    return Allowed(0.0, BITWISE)


def exact(key: Key, reference: Numbers) -> Allowed:
    """The difference allowed for an exact number on another platform."""
    if metrics.kind(key.metric) in COUNTS:
        return Allowed(0.0, "a count, exactly")
    return Allowed(CLOSED_TOLERANCE * abs(reference.get(key) or 0.0), f"closed form, relative {CLOSED_TOLERANCE:g}")


def continuous(key: Key, reference: Numbers) -> Allowed:
    """The difference allowed for a continuous number on another platform."""
    if key.metric == RESIDUAL:
        return _residual(key, reference)
    what = metrics.kind(key.metric)
    if what is MetricKind.ITERATED:
        return repeated(key, reference)
    if _noise(key):
        size = abs(reference.get(key) or 0.0)
        return Allowed(NOISE_TOLERANCE * size, f"the norm of a fixed draw, relative {NOISE_TOLERANCE:g}")
    if what is MetricKind.SHARE or key.metric == "l2_price":
        return Allowed(BORDER, f"convex, {BORDER:g} for a share")
    relative = FEATURES_TOLERANCE if key.method.startswith(FEATURES) else CONVEX_TOLERANCE
    return Allowed(max(relative * abs(reference.get(key) or 0.0), ROUNDING), f"convex, relative {relative:g}")


def _residual(key: Key, reference: Numbers) -> Allowed:
    eigenvalue = reference.get(key._replace(metric=EIGENVALUE)) or 0.0
    return Allowed(RESIDUAL_TOLERANCE * abs(eigenvalue), f"a residual, {RESIDUAL_TOLERANCE:g} of its eigenvalue")


def alone(key: Key, run: Numbers, reference: Numbers, level: float) -> Allowed:
    """The difference allowed for a chaotic number of a section with one seed.

    An audit's estimates are judged by their own intervals: with the standard error e of either, their difference is
    beyond z(level)·√(e₁² + e₂²) with probability ``level``. The other tolerances are no tests; they are wide, since one
    seed shows no spread.
    """
    what = metrics.kind(key.metric)
    if what is MetricKind.ESTIMATE:
        errors = [_standard_error(key, numbers) for numbers in (run, reference)]
        known = [one for one in errors if one is not None]
        if known:
            error = math.hypot(known[0], known[-1])
            return Allowed(float(stats.norm.isf(level / 2)) * error, f"by both intervals, at level {level:.1g}")
    if what is MetricKind.LOWER_BOUND:
        return Allowed(LOWER_BOUND_FLOOR, f"{LOWER_BOUND_FLOOR:g} for a lower bound from trials")
    if what is MetricKind.SHARE:
        return Allowed(ALONE_SHARE, f"a single seed, {ALONE_SHARE:g} for a share")
    if key.metric in {metric for _, metric in TUNED}:
        return Allowed(math.inf, "chosen by trained networks, of a single seed")
    return Allowed(max(ALONE * abs(reference.get(key) or 0.0), ROUNDING), f"a single seed, relative {ALONE:g}")


def _standard_error(key: Key, numbers: Numbers) -> float | None:
    """The standard error of μ, from its interval: each end adds the errors of two shares, √2 times that of μ."""
    low, high = (numbers.get(key._replace(metric=end)) for end in INTERVAL)
    if low is None or high is None:
        return None
    return (high - low) / (2 * math.sqrt(2) * float(stats.norm.isf((1 - INTERVAL_CONFIDENCE) / 2)))


def gridded(references: Sequence[Numbers], samples: int | None) -> set[tuple[str, str, str]]:
    """Metric, split and axis of the accuracies on the forget set that are multiples of one sample.

    They are so on every platform. An accuracy on samples other than stated is not. Means over draws of the noise are no
    such multiples, and are left out.
    """
    found: dict[tuple[str, str, str], bool] = {}
    for numbers in references:
        for key, value in numbers.items():
            if samples and value is not None and key.metric.endswith("accuracy") and key.split.startswith("forget"):
                place = (key.metric, key.split, key.axis)
                found[place] = found.get(place, True) and whole(value, samples)
    return {place for place, always in found.items() if always}


def whole(share: float, samples: int) -> bool:
    """Whether a share is a whole number of samples, rounding in single precision aside."""
    return math.isfinite(share) and abs(share * samples - round(share * samples)) < 1e-6 * samples
