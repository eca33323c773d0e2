"""The methods by name: those that register themselves, the yardsticks, and the paper's step with a given λ."""

from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points

from cdu.errors import CduError
from cdu.settings import Value
from cdu.unlearning import methods as home
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.problem import Method
from cdu.unlearning.registration import REGISTERED, Traits
from cdu.unlearning.settings import UnlearningSettings

#: Added to a run's seed for the yardstick "a second retraining with another seed".
SECOND_SEED = 1000

#: The group of entry points under which an installed package names the modules of its own methods.
ENTRY_POINTS = "cdu.methods"


def import_all() -> None:
    """Import the methods of this package and those of installed packages, so that they register themselves."""
    home.import_all()
    for module in entry_points(group=ENTRY_POINTS):
        module.load()


import_all()


def build(name: str, values: Mapping[str, Value], epsilon: float, delta: float) -> Method:
    """A registered method with its hyper-parameters.

    Args:
        name: Its name.
        values: Its hyper-parameters, by the names that its class takes.
        epsilon: ε, for methods that add noise of their own.
        delta: δ, for the same.

    Raises:
        CduError: No such method, or hyper-parameters that it does not take.
    """
    known = REGISTERED.get(name)
    if known is None:
        raise CduError(
            f"there is no method '{name}'; known are {', '.join(sorted(REGISTERED))}; one of your own must be "
            "registered before it is used (cdu.unlearning.registration)"
        )
    promise = {"epsilon": epsilon, "delta": delta} if known.traits.own_noise else {}
    try:
        return known.make(**values, **promise)
    except (TypeError, ValueError) as error:
        raise CduError(f"the method '{name}' cannot be made from {dict(values)}: {error}") from error


def traits(name: str) -> Traits:
    """The traits of a registered method; the defaults for any other, such as a yardstick."""
    known = REGISTERED.get(name)
    return Traits() if known is None else known.traits


def certified_among(names: Iterable[str]) -> list[str]:
    """The certified methods among ``names``, in their order; those that without noise are a yardstick come first."""
    chosen = [name for name in names if traits(name).certified]
    return sorted(chosen, key=lambda name: not traits(name).without_noise)


def yardsticks(seed: int) -> dict[str, Method]:
    """What every method is measured against, by name; see :data:`cdu.unlearning.names.YARDSTICKS`.

    Args:
        seed: The run's seed.
    """
    return {"original": Original(), "retrain": Retrain(), "second retraining": Retrain(seed + SECOND_SEED)}


def methods(settings: UnlearningSettings, seed: int) -> dict[str, Method]:
    """The yardsticks, and the certified Newton step with the constants of an experiment, by name.

    The yardsticks come first. The Newton step stands in both forms and with all three solvers at the default λ, and
    with conjugate gradient and LiSSA at every other named λ.

    Args:
        settings: Constants of the step.
        seed: The run's seed.
    """
    default = settings.dampings[settings.default]
    table: dict[str, Method] = {
        **yardsticks(seed),
        "newton": NewtonStep(default.value),
        "newton, forget gradient": NewtonStep(default.value, gradient="forget"),
        "newton, exact": NewtonStep(default.value, "exact", exact_limit=settings.exact_limit),
        "newton, lissa": NewtonStep(default.value, "lissa", lissa_settings=default.lissa),
    }
    for name, damping in settings.dampings.items():
        if name != settings.default:
            table[f"newton, λ {name}"] = NewtonStep(damping.value)
            table[f"newton, λ {name}, lissa"] = NewtonStep(damping.value, "lissa", lissa_settings=damping.lissa)
    return table
