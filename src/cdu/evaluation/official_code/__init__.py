"""The authors' published code: its departures from the paper, one at a time and together."""

from cdu.evaluation.official_code.batchnorm import TrainingMode, training_mode
from cdu.evaluation.official_code.clone import Official
from cdu.evaluation.official_code.judge import FittedAttack, attack_on_fitted_rows
from cdu.evaluation.official_code.solvers import SOLVED, lissa_gain, minimal_residual, replayed_lissa
from cdu.evaluation.official_code.tensor_norms import TensorNorms
from cdu.evaluation.official_code.training import hold_out, lowest_validation

__all__ = [
    "SOLVED", "FittedAttack", "Official", "TensorNorms", "TrainingMode", "attack_on_fitted_rows", "hold_out",
    "lissa_gain", "lowest_validation", "minimal_residual", "replayed_lissa", "training_mode",
]  # fmt: skip
