"""What noise certifies: bounds on the distance to the retrained model, the Gaussian mechanism, certificates.

Notation of the paper: Δ (``sensitivity``) bounds ‖w̃ − w̃*‖₂; adding N(0, σ²I) gives (ε, δ).
"""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict
from scipy.optimize import brentq
from scipy.special import erfcx, ndtr

from cdu.errors import CduError


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise CduError(sentence)


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        _require(0 < value < math.inf, f"{name} = {value} is not a positive finite number")


# --- bounds on ‖w̃ − w̃*‖ ------------------------------------------------------------------------------------------


def trivial_bound(radius: float) -> float:
    """2C: two points of the ball ‖w‖₂ ≤ C are never farther apart. Holds for every method that projects."""
    _require_positive(radius=radius)
    return 2 * radius


def newton_bound(
    radius: float,
    hessian_lipschitz: float,
    damping: float,
    smallest_eigenvalue: float,
    gradient_norm: float = 0.0,
) -> float:
    """Theorem 3.4 with the term for training that has not converged: [2C(MC + λ) + G] / (λ + λ_min).

    Args:
        radius: C.
        hessian_lipschitz: M, Lipschitz constant of the Hessian over the ball.
        damping: λ.
        smallest_eigenvalue: λ_min of H = ∇²L(w*, D_r).
        gradient_norm: G, the retrained model's ‖∇L(w̃*, D_r)‖; 0 for a stationary point.

    Raises:
        CduError: λ + λ_min ≤ 0, where the theorem does not apply.
    """
    _require_positive(radius=radius, damping=damping)
    _require(hessian_lipschitz >= 0, f"hessian_lipschitz = {hessian_lipschitz} is negative; M is at least 0")
    _require(gradient_norm >= 0, f"gradient_norm = {gradient_norm} is negative; G is at least 0")
    denominator = damping + smallest_eigenvalue
    _require(
        denominator > 0,
        f"Theorem 3.4 needs H + λI positive definite, but λ + λ_min = {denominator:.4g}; "
        f"choose λ > {-smallest_eigenvalue:.4g}",
    )
    return (2 * radius * (hessian_lipschitz * radius + damping) + gradient_norm) / denominator


# --- Gaussian mechanism ------------------------------------------------------------------------------------------


def classical_sigma(epsilon: float, delta: float, sensitivity: float) -> float:
    """σ = (Δ/ε)·√(2 ln(1.25/δ)), the paper's Theorem 2.3. Proved for ε ≤ 1 only; too small for large ε."""
    _require_positive(epsilon=epsilon, sensitivity=sensitivity)
    _require_delta(delta)
    return sensitivity / epsilon * math.sqrt(2 * math.log(1.25 / delta))


def classical_epsilon(sigma: float, delta: float, sensitivity: float) -> float:
    """The ε at which :func:`classical_sigma` gives ``sigma``; no guarantee above ε = 1."""
    _require_positive(sigma=sigma, sensitivity=sensitivity)
    _require_delta(delta)
    return sensitivity / sigma * math.sqrt(2 * math.log(1.25 / delta))


def gaussian_delta(epsilon: float, sigma: float, sensitivity: float) -> float:
    """The exact δ of the Gaussian mechanism (Balle & Wang 2018, Theorem 8).

    δ = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ) with μ = Δ/σ. Both terms are written with the scaled complementary error
    function, e^ε Φ(−b) = φ(a)·√(π/2)·erfcx(b/√2) for a = μ/2 − ε/μ and b = μ/2 + ε/μ, so that nothing overflows.

    Args:
        epsilon: ε ≥ 0.
        sigma: Standard deviation of the noise per coordinate.
        sensitivity: Δ, the largest ℓ₂ distance.
    """
    _require(0 <= epsilon < math.inf, f"epsilon = {epsilon} is not a finite number of at least 0")
    _require_positive(sigma=sigma, sensitivity=sensitivity)
    mu = sensitivity / sigma
    a, b = mu / 2 - epsilon / mu, mu / 2 + epsilon / mu
    density = 0.5 * math.exp(-a * a / 2) if abs(a) < 38.5 else 0.0
    tail = density * float(erfcx(b / math.sqrt(2)))
    head = float(ndtr(a)) if a > 0 else density * float(erfcx(-a / math.sqrt(2)))
    return max(0.0, head - tail)


def gaussian_epsilon(sigma: float, delta: float, sensitivity: float) -> float:
    """The smallest ε that noise σ certifies at δ, by the exact condition of :func:`gaussian_delta`.

    Returns 0 when already (0, δ) holds.
    """
    _require_positive(sigma=sigma, sensitivity=sensitivity)
    _require_delta(delta)
    if gaussian_delta(0.0, sigma, sensitivity) <= delta:
        return 0.0
    mu = sensitivity / sigma
    upper = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    return float(brentq(lambda e: gaussian_delta(e, sigma, sensitivity) - delta, 0.0, upper, xtol=1e-300, rtol=1e-14))


def gaussian_sigma(epsilon: float, delta: float, sensitivity: float) -> float:
    """The smallest σ that certifies (ε, δ) at distance Δ: the analytic Gaussian mechanism of Balle & Wang (2018)."""
    _require(0 <= epsilon < math.inf, f"epsilon = {epsilon} is not a finite number of at least 0")
    _require_positive(sensitivity=sensitivity)
    _require_delta(delta)

    def excess(log_mu: float) -> float:
        return gaussian_delta(epsilon, 1.0, math.exp(log_mu)) - delta

    low, high = 0.0, 0.0
    while excess(low) > 0:
        low -= 1.0
    while excess(high) <= 0:
        high += 1.0
    log_mu = float(brentq(excess, low, high, xtol=1e-15, rtol=1e-14))
    return sensitivity / math.exp(log_mu)


def _require_delta(delta: float) -> None:
    _require(
        0 < delta < 1,
        f"delta = {delta} is not between 0 and 1; choose far less than one over the number of samples",
    )


# --- certificates ------------------------------------------------------------------------------------------------


class Certificate(BaseModel):
    """An (ε, δ) guarantee with what it rests on and what it leaves out.

    Attributes:
        epsilon: ε, by the exact condition of the Gaussian mechanism.
        delta: δ.
        sigma: Standard deviation of the noise per coordinate.
        sensitivity: Δ, a bound fixed before the data were seen.
        bound: Where Δ comes from.
        reference: The distribution that the release cannot be told apart from.
        assumptions: What must be true for the guarantee to hold.
        not_covered: What an adversary may not have seen or known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epsilon: float
    delta: float
    sigma: float
    sensitivity: float
    bound: str
    reference: str
    assumptions: tuple[str, ...]
    not_covered: tuple[str, ...]

    @property
    def worth(self) -> Literal["meaningful", "weak", "vacuous"]:
        """ε ≤ 1 is meaningful, ε ≤ 10 weak; above, e^ε > 22,000 and the promise says next to nothing."""
        if self.epsilon <= 1:
            return "meaningful"
        return "weak" if self.epsilon <= 10 else "vacuous"

    def __str__(self) -> str:
        """The guarantee and its terms, one per line."""
        lines = [
            f"(ε = {self.epsilon:.4g}, δ = {self.delta:g}): {self.worth}",
            f"noise σ = {self.sigma:g} at sensitivity Δ = {self.sensitivity:g} ({self.bound})",
            f"reference: {self.reference}",
            *(f"assumes: {text}" for text in self.assumptions),
            *(f"does not cover: {text}" for text in self.not_covered),
        ]
        return "\n".join(lines)


def certify_by_projection(sigma: float, delta: float, radius: float) -> Certificate:
    """The certificate of any method whose result is projected onto the ball ‖w‖₂ ≤ C before the noise.

    Its sensitivity is the trivial 2C, the only bound for a network whose constants are fixed before the data are
    seen; it is therefore no better than the original model released with the same noise.

    Args:
        sigma: Standard deviation of the noise per coordinate.
        delta: δ at which ε is quoted.
        radius: C.
    """
    sensitivity = trivial_bound(radius)
    return Certificate(
        epsilon=gaussian_epsilon(sigma, delta, sensitivity),
        delta=delta,
        sigma=sigma,
        sensitivity=sensitivity,
        bound="2C by projection",
        reference="retraining on the retained set by the same recipe, projected, plus N(0, σ²I)",
        assumptions=(
            "training, retraining and unlearning all end with a projection onto the ball of radius C",
            "C, σ and δ were fixed before the data were seen",
            "the noise is drawn with a secret seed",
        ),
        not_covered=(
            "models, checkpoints or outputs published before the request",
            "requests chosen after seeing a release",
            "BatchNorm's running statistics",
            "anything that was tuned on the forget set",
        ),
    )
