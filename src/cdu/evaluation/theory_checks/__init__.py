"""Every statement of the paper's theory, checked or bounded by a number."""

from cdu.evaluation.theory_checks.constants import (
    Segment,
    batch_spectra,
    hessian_lipschitz,
    segment_constants,
    spectrum_ends,
    spectrum_range,
)
from cdu.evaluation.theory_checks.lissa import Bias, bias, neumann_series
from cdu.evaluation.theory_checks.newton import descend, slope
from cdu.evaluation.theory_checks.noise import monte_carlo_delta

__all__ = [
    "Bias", "Segment", "batch_spectra", "bias", "descend", "hessian_lipschitz", "monte_carlo_delta", "neumann_series",
    "segment_constants", "slope", "spectrum_ends", "spectrum_range",
]  # fmt: skip
