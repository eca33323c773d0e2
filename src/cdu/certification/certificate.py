"""Certificates: what a release with noise σ guarantees, and how that follows from a bound."""

import textwrap
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cdu.certification.bounds import Bound, trivial_bound
from cdu.certification.gaussian import composed_sensitivity, gaussian_epsilon, gaussian_sigma
from cdu.checks import expect, expect_count, expect_delta, expect_positive

_THREAT_MODEL = (
    "an adversary who sees the released weights and nothing else, and who knows the method, C or Δ, σ, δ and every "
    "sample, but not whether the forget set was ever trained on"
)
_FIXED_NOISE = "σ and δ were fixed before the data were seen"
_FRESH_NOISE = "the noise of every release is drawn afresh, with a secret seed"
_NOT_COVERED = (
    "models, checkpoints or outputs published before the request",
    "adaptive requests: requests chosen after seeing a release",
    "a noise seed that the adversary knows",
    "BatchNorm's running statistics",
    "anything that was tuned on the forget set",
)

#: Factor on ρ before it is subtracted from δ; it exceeds the rounding of sums and products.
FAILURE_MARGIN = 1 + 1e-12

#: Widest line of a printed certificate.
_WIDTH = 100


class Certificate(BaseModel):
    """An (ε, δ) guarantee with what it rests on and what it leaves out.

    Attributes:
        epsilon: ε, by the exact condition of the Gaussian mechanism, for all releases together.
        delta: δ for all releases together; includes ``failure``.
        sigma: Standard deviation of the noise per coordinate, of each release.
        sensitivity: Δ, a bound fixed before the data were seen, on the distance in each release; includes ``rounding``.
        bound: Where Δ comes from.
        rounding: What the program's arithmetic may add to the distance.
        arithmetic: The type that the weights were computed in; "exact" where no program was named, as for a formula.
        releases: k, the number of releases that ε and δ hold for together.
        failure: ρ, the probability that Δ fails in any of them.
        reference: The distribution that the release cannot be told apart from.
        threat_model: What the adversary sees and knows.
        covers: What the guarantee is worth, in words.
        assumptions: What must be true for the guarantee to hold.
        not_covered: What an adversary may not have seen or known.

    Example:
        >>> certificate = certify(trivial_bound(10), sigma=100, delta=1e-5)
        >>> print(f"{certificate.epsilon:.4f}: {certificate.worth}")
        0.7255: meaningful
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epsilon: float
    delta: float
    sigma: float
    sensitivity: float
    bound: str
    rounding: float = 0.0
    arithmetic: Literal["exact", "float32", "float64"] = "exact"
    releases: int = 1
    failure: float = 0.0
    reference: str
    threat_model: str
    covers: str
    assumptions: tuple[str, ...]
    not_covered: tuple[str, ...]

    @property
    def worth(self) -> Literal["meaningful", "weak", "vacuous"]:
        """ε ≤ 1 is meaningful, ε ≤ 10 weak; above, e^ε > 22,000 and the promise says next to nothing."""
        if self.epsilon <= 1:
            return "meaningful"
        return "weak" if self.epsilon <= 10 else "vacuous"

    def _arithmetic(self) -> str:
        if self.arithmetic == "exact":
            return "exact: a formula, not a program; Δ has no allowance for rounding"
        return f"{self.arithmetic}; Δ includes {self.rounding:.2g} for rounding"

    def __str__(self) -> str:
        """The guarantee and its terms as a table of two columns, plain text, at most 100 characters wide."""
        rows = [
            ("guarantee", f"(ε = {self.epsilon:.4g}, δ = {self.delta:g}): {self.worth}"),
            ("noise", f"σ = {self.sigma:g} per coordinate"),
            ("distance", f"Δ = {self.sensitivity:g} ({self.bound})"),
            ("arithmetic", self._arithmetic()),
            ("releases", f"{self.releases}" + (" together, each with fresh noise" if self.releases > 1 else "")),
            ("covers", self.covers),
            ("reference", self.reference),
            ("threat model", self.threat_model),
            *(("assumes", text) for text in self.assumptions),
            *(("does not cover", text) for text in self.not_covered),
        ]
        if self.failure > 0:
            rows.insert(3, ("failure", f"Δ fails with probability at most ρ = {self.failure:g}, which δ includes"))
        return "\n".join(_table(rows))


def certify(bound: Bound, sigma: float, delta: float, releases: int = 1) -> Certificate:
    """What k releases, each w̃_i + N(0, σ²I) with fresh noise, guarantee together.

    With ‖w̃_i − w̃_i*‖ ≤ Δ in all of them, μ = √k·Δ/σ in Gaussian differential privacy and (ε, δ − ρ) by the exact
    condition of :func:`~cdu.certification.gaussian.gaussian_delta`; that Δ fails somewhere, with probability at most ρ
    over the method's own randomness, adds ρ to δ in both directions. A bound for m requests
    (:func:`~cdu.certification.bounds.sequential_bound`) brings a ρ that covers all of them, even if k < m; for k > m it
    is counted once for every m begun, which the union bound allows.

    Args:
        bound: Δ with its assumptions, fixed in advance.
        sigma: Standard deviation of the noise per coordinate, the same in every release.
        delta: δ at which ε is quoted, for all releases together.
        releases: k.

    Raises:
        CduError: The bound is an indication, ρ reaches δ, δ is above 0.01, or an argument is outside its range.

    Example:
        >>> print(f"{certify(trivial_bound(10), sigma=100, delta=1e-5).epsilon:.4f}")
        0.7255
        >>> print(f"{certify(trivial_bound(10), sigma=100, delta=1e-5, releases=5).epsilon:.4f}")
        1.7601
    """
    failure, left = _shares(bound, delta, releases)
    expect(
        delta <= 0.01,
        f"delta = {delta} certifies too little to be called a guarantee: with that probability it may fail altogether; "
        "choose far less than one over the number of samples",
    )
    expect_positive(sigma=sigma)
    # A distance of 0 leaves nothing to tell apart.
    epsilon = gaussian_epsilon(sigma, left, _together(bound, releases)) if bound.sensitivity > 0 else 0.0
    return Certificate(
        epsilon=epsilon,
        delta=delta,
        sigma=sigma,
        sensitivity=bound.sensitivity,
        bound=bound.name,
        rounding=bound.rounding,
        arithmetic=bound.arithmetic,
        releases=releases,
        failure=failure,
        reference=bound.reference,
        threat_model=_THREAT_MODEL,
        covers=bound.covers,
        assumptions=(*bound.assumptions, _FIXED_NOISE, _FRESH_NOISE),
        not_covered=_NOT_COVERED,
    )


def required_sigma(bound: Bound, epsilon: float, delta: float, releases: int = 1) -> float:
    """The smallest σ for which :func:`certify` gives at most ``epsilon``.

    Args:
        bound: Δ with its assumptions, fixed in advance and positive.
        epsilon: ε ≥ 0, for all releases together.
        delta: δ, for all releases together.
        releases: k.

    Raises:
        CduError: As for :func:`certify`; or Δ = 0, which needs no noise.

    Example:
        >>> sigma = required_sigma(trivial_bound(10), epsilon=1, delta=1e-5)
        >>> print(f"{sigma:.4f}")
        74.6126
        >>> certify(trivial_bound(10), sigma, delta=1e-5).epsilon <= 1
        True
    """
    _, left = _shares(bound, delta, releases)
    return gaussian_sigma(epsilon, left, _together(bound, releases))


def certify_by_projection(sigma: float, delta: float, radius: float) -> Certificate:
    """The certificate of any method whose result is projected onto the ball ‖w‖₂ ≤ C before the noise.

    Its sensitivity is the trivial 2C, the one bound for the Newton step on a network here whose constants are fixed
    before the data are seen; it is therefore no better than the original model released with the same noise.

    Args:
        sigma: Standard deviation of the noise per coordinate.
        delta: δ at which ε is quoted.
        radius: C.

    Raises:
        CduError: An argument outside its range.

    Example:
        >>> print(f"{certify_by_projection(sigma=100, delta=1e-5, radius=10).epsilon:.4f}")
        0.7255
    """
    return certify(trivial_bound(radius), sigma, delta)


def _together(bound: Bound, releases: int) -> float:
    """√k·Δ."""
    return composed_sensitivity(bound.sensitivity, releases)


def _shares(bound: Bound, delta: float, releases: int) -> tuple[float, float]:
    """The probability ρ that Δ fails in any of k releases, and δ − ρ; refuses what cannot be certified at δ."""
    expect_delta(delta)
    expect_count(releases=releases)
    expect(
        bound.fixed_in_advance,
        f"'{bound.name}' is an indication: its constants were measured on the data that are to be protected; only a "
        "bound that was fixed before the data were seen gives a certificate, e.g. 2C by projection or a budget with a "
        "fallback",
    )
    batches = -(-releases // bound.requests)
    failure = batches * bound.failure
    # Where ρ is close to δ, rounding alone must not leave a positive difference.
    left = delta - failure * FAILURE_MARGIN
    expect(
        left > 0,
        f"'{bound.name}' fails with probability {failure:g} in {releases} releases, which is not below "
        f"delta = {delta:g}; choose a larger delta or a bound with a smaller failure",
    )
    return failure, left


def _table(rows: list[tuple[str, str]]) -> list[str]:
    """Aligned lines; a label is printed once for the rows in a run that share it, long cells are wrapped."""
    indent = max(len(label) for label, _ in rows) + 2
    lines: list[str] = []
    previous = ""
    for label, text in rows:
        first, *rest = textwrap.wrap(text, _WIDTH - indent)
        lines.append((label if label != previous else "").ljust(indent) + first)
        lines.extend(" " * indent + line for line in rest)
        previous = label
    return lines
