"""Unlearning: ``Problem → method → Release``. One method per module; :func:`methods` is the registry."""

from cdu.config import UnlearningSettings
from cdu.unlearning.newton import NewtonStep
from cdu.unlearning.original import Original
from cdu.unlearning.problem import Method, Problem, Update
from cdu.unlearning.releases import Release, publish, release
from cdu.unlearning.retrain import Retrain

#: Added to a run's seed for the yardstick "a second retraining with another seed".
SECOND_SEED = 1000

__all__ = [
    "SECOND_SEED", "Method", "NewtonStep", "Original", "Problem", "Release", "Retrain", "Update",
    "methods", "publish", "release",
]  # fmt: skip


def methods(settings: UnlearningSettings, seed: int) -> dict[str, Method]:
    """Every method by name, with the constants of an experiment.

    The yardsticks come first. The certified Newton step stands in both forms and with all three solvers at the
    default λ, and with conjugate gradient and LiSSA at every other named λ.

    Args:
        settings: Constants of the step.
        seed: The run's seed.
    """
    table: dict[str, Method] = {
        "original": Original(),
        "retrain": Retrain(),
        "second retraining": Retrain(seed + SECOND_SEED),
    }
    default = settings.dampings[settings.default]
    table["newton"] = NewtonStep(default.value)
    table["newton, forget gradient"] = NewtonStep(default.value, gradient="forget")
    table["newton, exact"] = NewtonStep(default.value, "exact", exact_limit=settings.exact_limit)
    table["newton, lissa"] = NewtonStep(default.value, "lissa", lissa_settings=default.lissa)
    for name, damping in settings.dampings.items():
        if name != settings.default:
            table[f"newton, λ {name}"] = NewtonStep(damping.value)
            table[f"newton, λ {name}, lissa"] = NewtonStep(damping.value, "lissa", lissa_settings=damping.lissa)
    return table
