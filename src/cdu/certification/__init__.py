"""What noise certifies: ``Bound → certify → Certificate``, with the Gaussian mechanism between the two.

Notation of the paper: Δ (``sensitivity``) bounds ‖w̃ − w̃*‖₂; adding N(0, σ²I) gives (ε, δ).
"""

from cdu.certification.bounds import (
    Bound,
    budget_bound,
    newton_bound,
    residual_bound,
    sequential_bound,
    trivial_bound,
    unprojected_bound,
)
from cdu.certification.certificate import Certificate, certify, certify_by_projection, required_sigma
from cdu.certification.gaussian import (
    classical_epsilon,
    classical_sigma,
    composed_sensitivity,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_sigma,
    naive_epsilon,
)
from cdu.certification.lissa import LissaForm, lissa_bound, lissa_depth

__all__ = [
    "Bound", "Certificate", "LissaForm", "budget_bound", "certify", "certify_by_projection", "classical_epsilon",
    "classical_sigma", "composed_sensitivity", "gaussian_delta", "gaussian_epsilon", "gaussian_sigma", "lissa_bound",
    "lissa_depth", "naive_epsilon", "newton_bound", "required_sigma", "residual_bound", "sequential_bound",
    "trivial_bound", "unprojected_bound",
]  # fmt: skip
