"""The names of methods that are fixed, and what readers see in place of a name. Imports no PyTorch: reports use it."""

#: What every method is measured against: doing nothing, and retraining with two seeds.
YARDSTICKS = ("original", "retrain", "second retraining")

#: The paper's step with the λ that an experiment gives, by conjugate gradient and by LiSSA.
STEPS = ("newton", "newton, lissa")

#: Methods that stand beside those of an experiment's search spaces, in the order of tables.
FIXED = (*YARDSTICKS, *STEPS)

#: Those that also stand with the noise used in practice.
NOISED = ("original", "newton", "retrain")

#: The methods of the paper's own tables: its step, and the baselines that it is compared with.
PAPERS = (*STEPS, "fine-tuning", "negative gradient", "Fisher forgetting", "L-CODEC", "Newton step")

#: The step by LiSSA with the λ and the constants of the authors' code.
AUTHORS = "newton, λ code, lissa"

#: The network of an experiment, and its twin with a smooth activation, in the sections on the theory and on the bound.
NETWORK, SMOOTH = "network", "smooth network"

#: How the names of a step or network end where the step has the gradient over D_u, and where BatchNorm's statistics
#: were taken anew over D_r first.
FORGET_FORM, ANEW = ", forget gradient", ", statistics of D_r first"

#: What readers see in place of a name that does not say enough; every other method is called by its name.
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
