"""Certified deep unlearning: the step, its bounds, its noise, and what tests them.

The names below are those that deleting samples from a model of one's own needs. Each is imported when it is first used.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdu import convex
    from cdu.certification import Bound, Certificate, certify, required_sigma
    from cdu.data.samples import Samples
    from cdu.errors import CduError
    from cdu.models.objective import Objective, parameter_vector
    from cdu.unlearning.ledger import Ledger
    from cdu.unlearning.methods.newton import NewtonStep
    from cdu.unlearning.methods.retrain import Retrain
    from cdu.unlearning.problem import Problem, UnlearningResult
    from cdu.unlearning.release import Release, release

__all__ = [
    "Bound", "CduError", "Certificate", "Ledger", "NewtonStep", "Objective", "Problem", "Release", "Retrain", "Samples",
    "UnlearningResult", "certify", "convex", "parameter_vector", "release", "required_sigma",
]  # fmt: skip

__version__ = version("cdu")

_HOMES = {
    "Bound": "cdu.certification",
    "CduError": "cdu.errors",
    "Certificate": "cdu.certification",
    "Ledger": "cdu.unlearning.ledger",
    "NewtonStep": "cdu.unlearning.methods.newton",
    "Objective": "cdu.models.objective",
    "Problem": "cdu.unlearning.problem",
    "Release": "cdu.unlearning.release",
    "Retrain": "cdu.unlearning.methods.retrain",
    "Samples": "cdu.data.samples",
    "UnlearningResult": "cdu.unlearning.problem",
    "certify": "cdu.certification",
    "parameter_vector": "cdu.models.objective",
    "release": "cdu.unlearning.release",
    "required_sigma": "cdu.certification",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line and the report do without PyTorch."""
    if name == "convex":
        return import_module("cdu.convex")
    if name not in _HOMES:
        raise AttributeError(f"module 'cdu' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
