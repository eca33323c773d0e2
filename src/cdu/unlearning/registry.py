"""The methods by name."""

from collections.abc import Callable, Mapping

from cdu.errors import CduError
from cdu.settings import Value
from cdu.unlearning.methods.certified_removal import CertifiedRemoval
from cdu.unlearning.methods.dampening import SelectiveSynapticDampening
from cdu.unlearning.methods.fine_tune import FineTune
from cdu.unlearning.methods.fisher import FisherForgetting
from cdu.unlearning.methods.influence import InfluenceUnlearning
from cdu.unlearning.methods.l_codec import LCodec
from cdu.unlearning.methods.langevin import Langevin, LangevinAdam
from cdu.unlearning.methods.neg_grad_plus import NegGradPlus
from cdu.unlearning.methods.negative_gradient import NegativeGradient
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.methods.noisy_fine_tuning import NoisyFineTuning
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.random_labels import RandomLabels
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.methods.rewind import Rewind, RewindAdam, RewindLinear
from cdu.unlearning.methods.salun import SalUn
from cdu.unlearning.methods.scrub import Scrub
from cdu.unlearning.problem import Method
from cdu.unlearning.settings import UnlearningSettings

#: Added to a run's seed for the yardstick "a second retraining with another seed".
SECOND_SEED = 1000

#: Methods whose hyper-parameters an experiment gives or searches, by the name they have in tables.
TUNED: dict[str, Callable[..., Method]] = {
    "fine-tuning": FineTune,
    "negative gradient": NegativeGradient,
    "Fisher forgetting": FisherForgetting,
    "L-CODEC": LCodec,
    "Newton step": NewtonStep,
    "output perturbation": Original,
    "noisy fine-tuning": NoisyFineTuning,
    "rewind": Rewind,
    "rewind, Adam": RewindAdam,
    "rewind, linear": RewindLinear,
    "Langevin, linear": Langevin,
    "Langevin, Adam": LangevinAdam,
    "certified removal, linear": CertifiedRemoval,
    "NegGrad+": NegGradPlus,
    "SCRUB": Scrub,
    "SalUn": SalUn,
    "random labels": RandomLabels,
    "selective synaptic dampening": SelectiveSynapticDampening,
    "influence": InfluenceUnlearning,
}

#: Those among them that can be certified, with the noise that :func:`publish_at` adds or with their own.
CERTIFIED = (
    "output perturbation", "Newton step", "noisy fine-tuning", "rewind", "rewind, linear", "Langevin, linear",
    "certified removal, linear",
)  # fmt: skip

#: The l2 of linear methods where none is searched for a request: the middle of the usual grids, the same everywhere.
L2_IN_ADVANCE = {"rewind, linear": 0.01, "Langevin, linear": 0.01, "certified removal, linear": 1e-3}

#: Those that add noise of their own, and so must be told what to certify.
OWN_NOISE = ("noisy fine-tuning", "Langevin, linear")


def build(name: str, values: Mapping[str, Value], epsilon: float, delta: float) -> Method:
    """A method of :data:`TUNED` with its hyper-parameters.

    Args:
        name: Its name.
        values: Its hyper-parameters, by the names that its class takes.
        epsilon: ε, for methods that add noise of their own.
        delta: δ, for the same.

    Raises:
        CduError: No such method, or hyper-parameters that it does not take.
    """
    maker = TUNED.get(name)
    if maker is None:
        raise CduError(f"there is no method '{name}'; known are {', '.join(TUNED)}")
    promise = {"epsilon": epsilon, "delta": delta} if name in OWN_NOISE else {}
    try:
        return maker(**values, **promise)
    except (TypeError, ValueError) as error:
        raise CduError(f"the method '{name}' cannot be made from {dict(values)}: {error}") from error


def methods(settings: UnlearningSettings, seed: int) -> dict[str, Method]:
    """The yardsticks, and the certified Newton step with the constants of an experiment, by name.

    The yardsticks come first. The Newton step stands in both forms and with all three solvers at the default λ, and
    with conjugate gradient and LiSSA at every other named λ.

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
