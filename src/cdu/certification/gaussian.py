"""The Gaussian mechanism: which (ε, δ) noise N(0, σ²I) gives at a distance Δ (``sensitivity``), and the reverse.

Everything depends on μ = Δ/σ alone. The exact condition is Theorem 8 of Balle & Wang (2018), "Improving the Gaussian
Mechanism for Differential Privacy"; several releases compose as in Dong, Roth & Su (2022), "Gaussian Differential
Privacy". What is returned as ε or σ is rounded to the safe side: in exact arithmetic it still certifies δ.
"""

import math

import numpy as np
from scipy.special import erfcx, ndtr

from cdu.checks import expect, expect_count, expect_delta, expect_not_negative, expect_positive

#: Gauss-Legendre rule on [−1, 1]; 20 nodes integrate 1 − x·R(x) over an interval of length ≤ 1 to the last digit.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)

#: Factor on μ before δ is computed from it; it exceeds the roundings of Δ/σ, √k·Δ and μ/2 − ε/μ together.
_DISTANCE_MARGIN = 1 + 2.0**-50

#: Bound on the relative error of a computed δ, per unit of 1 + a²: that of exp, erfcx and 1 − x·R(x) together.
_DELTA_MARGIN = 2.0**-46

#: Beyond it φ(a) is below the smallest number of double precision.
_LARGEST_ARGUMENT = 38.5


def classical_sigma(epsilon: float, delta: float, sensitivity: float) -> float:
    """σ = (Δ/ε)·√(2 ln(1.25/δ)), the paper's Theorem 2.3. Proved for ε ≤ 1 only; too small for large ε.

    Args:
        epsilon: ε > 0.
        delta: δ, between 0 and 1.
        sensitivity: Δ, the largest ℓ₂ distance.

    Raises:
        CduError: An argument outside its range.

    Example:
        >>> print(f"{classical_sigma(1, 1e-5, sensitivity=1):.4f}")
        4.8448
    """
    expect_positive(epsilon=epsilon, sensitivity=sensitivity)
    expect_delta(delta)
    return sensitivity / epsilon * math.sqrt(2 * math.log(1.25 / delta))


def classical_epsilon(sigma: float, delta: float, sensitivity: float) -> float:
    """The ε at which :func:`classical_sigma` gives ``sigma``; no guarantee above ε = 1.

    Args:
        sigma: Standard deviation of the noise per coordinate.
        delta: δ, between 0 and 1.
        sensitivity: Δ, the largest ℓ₂ distance.

    Raises:
        CduError: An argument outside its range.

    Example:
        >>> print(f"{classical_epsilon(sigma=10, delta=1e-5, sensitivity=1):.4f}")
        0.4845
    """
    expect_positive(sigma=sigma, sensitivity=sensitivity)
    expect_delta(delta)
    return sensitivity / sigma * math.sqrt(2 * math.log(1.25 / delta))


def gaussian_delta(epsilon: float, sigma: float, sensitivity: float) -> float:
    """The exact δ of the Gaussian mechanism (Balle & Wang 2018, Theorem 8), to the nearest, not to the safe side.

    δ = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ) with μ = Δ/σ. The relative error stays below 1e-12 up to
    ε = 1e5 and below 1e-9 up to ε = 1e9, where a rounding of μ shows; values below 1e-300 may come out as 0.

    Args:
        epsilon: ε ≥ 0.
        sigma: Standard deviation of the noise per coordinate.
        sensitivity: Δ, the largest ℓ₂ distance.

    Raises:
        CduError: An argument outside its range.

    Example:
        >>> print(f"{gaussian_delta(1, sigma=2, sensitivity=1):.6f}")
        0.006830
    """
    expect_not_negative(epsilon=epsilon)
    return _delta(epsilon, _distance_in_sigmas(sigma, sensitivity))


def gaussian_epsilon(sigma: float, delta: float, sensitivity: float) -> float:
    """The smallest ε that noise σ certifies at δ, by the exact condition of :func:`gaussian_delta`.

    Args:
        sigma: Standard deviation of the noise per coordinate.
        delta: δ, between 0 and 1.
        sensitivity: Δ, the largest ℓ₂ distance.

    Returns:
        ε, rounded up; 0 when already (0, δ) holds.

    Raises:
        CduError: An argument outside its range.

    Example:
        >>> print(f"{gaussian_epsilon(sigma=2, delta=1e-5, sensitivity=1):.4f}")
        1.9931
    """
    expect_delta(delta)
    mu = _distance_in_sigmas(sigma, sensitivity)
    if _certainly_at_most(delta, 0.0, mu):
        return 0.0
    # Φ(−t) ≤ exp(−t²/2) gives a first ε that is enough, up to rounding.
    enough = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    while not _certainly_at_most(delta, enough, mu):
        enough *= 2
    too_small = 0.0
    while too_small < (middle := (too_small + enough) / 2) < enough:
        if _certainly_at_most(delta, middle, mu):
            enough = middle
        else:
            too_small = middle
    return enough


def gaussian_sigma(epsilon: float, delta: float, sensitivity: float) -> float:
    """The smallest σ that certifies (ε, δ) at distance Δ: the analytic Gaussian mechanism of Balle & Wang (2018).

    Args:
        epsilon: ε ≥ 0; 0 asks for total variation at most δ.
        delta: δ, between 0 and 1.
        sensitivity: Δ, the largest ℓ₂ distance.

    Returns:
        σ, the standard deviation per coordinate, rounded up.

    Raises:
        CduError: An argument outside its range, or so small a δ that σ is no finite number.

    Example:
        >>> print(f"{gaussian_sigma(1, 1e-5, sensitivity=1):.4f}")
        3.7306
    """
    expect_not_negative(epsilon=epsilon)
    expect_positive(sensitivity=sensitivity)
    expect_delta(delta)
    allowed = 1.0
    while not _certainly_at_most(delta, epsilon, allowed):
        allowed /= 2
    while _certainly_at_most(delta, epsilon, 2 * allowed):
        allowed *= 2
    too_large = 2 * allowed
    while allowed < (middle := (allowed + too_large) / 2) < too_large:
        if _certainly_at_most(delta, epsilon, middle):
            allowed = middle
        else:
            too_large = middle
    sigma = sensitivity / allowed
    expect(
        0 < sigma < math.inf,
        f"no noise within double precision gives epsilon = {epsilon}, delta = {delta} at sensitivity = {sensitivity}; "
        "choose a larger delta or measure distances in another unit",
    )
    # Quotient and search are rounded: what this σ certifies may be a last digit above ε.
    while gaussian_epsilon(sigma, delta, sensitivity) > epsilon:
        sigma = math.nextafter(sigma, math.inf)
    return sigma


def composed_sensitivity(sensitivity: float, releases: int) -> float:
    """√k·Δ: k releases, each at distance Δ with fresh noise σ, tell no more than one release at distance √k·Δ.

    Dong, Roth & Su (2022), Corollary 3.3: mechanisms that are μ_i-GDP are √(Σ μ_i²)-GDP together, and this is exact.
    Pass the result as ``sensitivity`` to :func:`gaussian_epsilon`, :func:`gaussian_sigma` or :func:`gaussian_delta`.

    Args:
        sensitivity: Δ of each release.
        releases: k ≥ 1.

    Raises:
        CduError: Δ is not positive, or k is not a whole number of at least 1.

    Example:
        >>> composed_sensitivity(2.0, releases=9)
        6.0
    """
    expect_positive(sensitivity=sensitivity)
    expect_count(releases=releases)
    return math.sqrt(releases) * sensitivity


def naive_epsilon(sigma: float, delta: float, sensitivity: float, releases: int) -> float:
    """k·ε(σ, δ/k, Δ): what adding up k guarantees (ε_i, δ/k) gives, for comparison with :func:`composed_sensitivity`.

    Args:
        sigma: Standard deviation of the noise per coordinate, the same in every release.
        delta: δ of all releases together.
        sensitivity: Δ of each release.
        releases: k ≥ 1.

    Raises:
        CduError: An argument outside its range.

    Example:
        >>> print(f"{naive_epsilon(2, 1e-5, sensitivity=1, releases=9):.4f}")
        20.1846
        >>> print(f"{gaussian_epsilon(2, 1e-5, composed_sensitivity(1, releases=9)):.4f}")
        7.0514
    """
    expect_delta(delta)
    expect_count(releases=releases)
    return releases * gaussian_epsilon(sigma, delta / releases, sensitivity)


def _distance_in_sigmas(sigma: float, sensitivity: float) -> float:
    """μ = Δ/σ."""
    expect_positive(sigma=sigma, sensitivity=sensitivity)
    mu = sensitivity / sigma
    expect(
        1e-307 < mu < 1e150,
        f"sensitivity/sigma = {sensitivity}/{sigma} is beyond double precision; choose values that lie nearer together",
    )
    return mu


def _certainly_at_most(delta: float, epsilon: float, mu: float) -> bool:
    """Whether (ε, δ) holds at μ, allowing for every rounding: a yes is right, a no can be wrong in the last digits."""
    # Where the computed δ is near the one asked for, Φ(a) ≥ δ bounds a² by 2 ln(1/δ).
    margin = 1 + _DELTA_MARGIN * (1 + 2 * math.log(1 / delta))
    return _delta(epsilon, mu * _DISTANCE_MARGIN) * margin <= delta


def _delta(epsilon: float, mu: float) -> float:
    """Φ(a) − e^ε Φ(−b) with a = μ/2 − ε/μ and b = μ/2 + ε/μ, without overflow or cancellation.

    Since b² − a² = 2ε, e^ε Φ(−b) = φ(a)·R(b) with Mills' ratio R(x) = Φ(−x)/φ(x) = √(π/2)·erfcx(x/√2). For μ ≤ 1 the
    two terms nearly cancel; there δ = φ(a)·(R(−a) − R(b)) is integrated from R′(x) = x·R(x) − 1.
    """
    shift = epsilon / mu
    a, b = mu / 2 - shift, mu / 2 + shift
    if abs(a) > _LARGEST_ARGUMENT:
        return 0.0 if a < 0 else 1.0
    density = math.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    if mu <= 1:
        x = shift + mu / 2 * _NODES
        ratio = math.sqrt(math.pi / 2) * erfcx(x / math.sqrt(2))
        return density * mu / 2 * float(_WEIGHTS @ (1 - x * ratio))
    head = float(ndtr(a)) if a > 0 else density * _mills_ratio(-a)
    return head - density * _mills_ratio(b)


def _mills_ratio(x: float) -> float:
    """R(x) = Φ(−x)/φ(x)."""
    return math.sqrt(math.pi / 2) * float(erfcx(x / math.sqrt(2)))
