"""Certified deep unlearning: the step, its bounds, its noise, and what tests them.

The names below are those that deleting samples from a model of one's own needs. Each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdu import convex
    from cdu.certification import Bound, Certificate, certify, required_sigma
    from cdu.data.samples import Samples
    from cdu.data.source import Data, as_data
    from cdu.errors import CduError
    from cdu.models.objective import Objective, parameter_vector
    from cdu.own_model.ball import ball
    from cdu.own_model.plan import Plan
    from cdu.own_model.released import Released
    from cdu.own_model.task import Task
    from cdu.own_model.unlearner import Unlearner
    from cdu.own_model.validation import validate
    from cdu.unlearning.ledger import Ledger
    from cdu.unlearning.methods.newton import NewtonStep
    from cdu.unlearning.methods.retrain import Retrain
    from cdu.unlearning.problem import Problem, UnlearningResult
    from cdu.unlearning.release import Release, release

    __version__: str

__all__ = [
    "Bound", "CduError", "Certificate", "Data", "Ledger", "NewtonStep", "Objective", "Plan", "Problem", "Release",
    "Released", "Retrain", "Samples", "Task", "Unlearner", "UnlearningResult", "as_data", "ball", "certify",
    "convex", "parameter_vector", "release", "required_sigma", "validate",
]  # fmt: skip

_HOMES = {
    "Bound": "cdu.certification",
    "CduError": "cdu.errors",
    "Certificate": "cdu.certification",
    "Data": "cdu.data.source",
    "Ledger": "cdu.unlearning.ledger",
    "NewtonStep": "cdu.unlearning.methods.newton",
    "Objective": "cdu.models.objective",
    "Plan": "cdu.own_model.plan",
    "Problem": "cdu.unlearning.problem",
    "Release": "cdu.unlearning.release",
    "Released": "cdu.own_model.released",
    "Retrain": "cdu.unlearning.methods.retrain",
    "Samples": "cdu.data.samples",
    "Task": "cdu.own_model.task",
    "Unlearner": "cdu.own_model.unlearner",
    "UnlearningResult": "cdu.unlearning.problem",
    "as_data": "cdu.data.source",
    "ball": "cdu.own_model.ball",
    "certify": "cdu.certification",
    "parameter_vector": "cdu.models.objective",
    "release": "cdu.unlearning.release",
    "required_sigma": "cdu.certification",
    "validate": "cdu.own_model.validation",
}


# A type checker reads the imports above instead: for it, a name that is not among them is an error.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used: the command line and the report do without PyTorch."""
        if name == "__version__":
            return import_module("importlib.metadata").version("cdu")
        if name == "convex":
            return import_module("cdu.convex")
        if name not in _HOMES:
            raise AttributeError(f"module 'cdu' has no attribute '{name}'")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
