"""The fixed names of methods, and the titles that readers see in their place. Reports use it without PyTorch."""

#: What every method is measured against: doing nothing, and retraining with two seeds.
YARDSTICKS = ("original", "retrain", "second retraining")

#: The paper's step with the λ that an experiment gives, by conjugate gradient and by LiSSA.
STEPS = ("newton", "newton, lissa")

#: Methods that every experiment has beside those of its search spaces, in the order of tables.
FIXED = (*YARDSTICKS, *STEPS)

#: Methods also evaluated with the noise used in practice.
NOISED = ("original", "newton", "retrain")

#: The methods of the paper's own tables: its step, and the baselines that it is compared with.
PAPERS = (*STEPS, "fine-tuning", "negative gradient", "Fisher forgetting", "L-CODEC", "Newton step")

#: The step by LiSSA with the λ and the constants of the authors' code.
AUTHORS = "newton, λ code, lissa"

#: The network of an experiment, and its twin with a smooth activation, in the sections on the theory and on the bound.
NETWORK, SMOOTH = "network", "smooth network"

#: Suffixes of the name of a step or network: the step has the gradient over D_u; BatchNorm's statistics were taken anew
#: over D_r first.
FORGET_FORM, ANEW = ", forget gradient", ", statistics of D_r first"

#: Titles of methods whose name does not say enough; every other method is called by its name.
TITLES = {"newton": "Newton step, given λ", "Newton step": "Newton step, tuned λ"}


def title(label: str) -> str:
    """What tables and figures call a method, a variant or a release of it.

    Args:
        label: As in a record: a method's name, or ``name, variant``, ``name + noise`` and ``name, ε = …``.
    """
    if label.startswith("newton, λ"):
        # The λ that the name gives is the one that was used.
        return label.replace("newton", "Newton step", 1)
    for name, words in TITLES.items():
        if label == name or label.startswith((f"{name}, ", f"{name} + ")):
            return words + label.removeprefix(name)
    return label
