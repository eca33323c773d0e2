"""The paper's claims, and for each the test that decides it here, in words, with its thresholds.

A claim with two halves, or about several solvers or noises, has a test for each. :mod:`cdu.report.verdicts` carries out
the tests. Thresholds for differences in accuracy, AUC and relearn time are those of the first version, before any run.
All tests were rewritten when their results were known: ``CHANGELOG.md`` says what changed, and which verdicts.
"""

from dataclasses import dataclass

#: The smallest effect that matters, wherever an effect is a share of something: of a distance, or of an error.
SMALLEST_EFFECT = 0.05
#: The smallest difference in accuracy that matters.
CLOSE_ACCURACY = 0.01
#: The smallest difference in an attack's AUC that matters.
CLOSE_AUC = 0.02
#: The smallest difference in relearn time, in epochs, that matters.
CLOSE_EPOCHS = 1.0
#: Largest share of retraining's time that counts as "more than ten times faster".
FAST = 0.1
#: Smallest ratio of the exact inverse's time to LiSSA's that passes: a tenth of the claim's.
SMALLEST_SPEEDUP = 47.0
#: Largest relative residual at which LiSSA counts as having solved the system.
SOLVED_RESIDUAL = 0.1
#: Largest ε that still means something: e^10 is about 22,000.
LARGEST_EPSILON = 10.0
#: Default of the noise's σ in the authors' code.
AUTHORS_SIGMA = 0.001


@dataclass(frozen=True)
class Place:
    """What a network was trained on, and which.

    Attributes:
        dataset: The dataset's name in records.
        network: The network in words.
    """

    dataset: str
    network: str


#: The set-ups that two of the paper's claims are about.
MNIST_MLP = Place("mnist", "MLP, hidden layers of 32 and 32, relu")
CIFAR_ALLCNN = Place("cifar10", "AllCNN")


@dataclass(frozen=True)
class Claim:
    """One test of a claim of the paper.

    Attributes:
        quoted: The claim, as secondary sources quote it.
        part: Which half or variant of it this test is about; empty where there is one test.
        setting: The set-up that the claim is about, in words.
        test: How it is decided here.
        smallest_effect: The smallest effect that matters.
        yardstick: What the number is compared with.
        why: Why this threshold.
        chapter: The chapter that shows it.
        about: The one set-up that the claim is about; None for a claim about all.
        needs_step: Whether it is about the Newton step or its release, which exist only where a step can be taken.
        timed: Whether it compares times, which depend on the machine.
    """

    quoted: str
    part: str
    setting: str
    test: str
    smallest_effect: str
    yardstick: str
    why: str
    chapter: str
    about: Place | None = None
    needs_step: bool = False
    timed: bool = False


_ANYWHERE = "any; the paper reports MNIST/MLP, CIFAR-10/AllCNN and SVHN/ResNet-18"
_CLOSE = "The Newton estimate is close to the retrained model, and the measured error stays under Theorem 3.4's bound."
_FASTER = "Unlearning is more than 10× faster than retraining."
_USEFUL = "Utility (micro-F1 on the retained and the test set) stays close to the retrained model's."
_RESISTS = "The unlearned model resists membership inference, and its relearn time is close to the retrained model's."
_CERTIFIED = "With noise σ the release is (ε,δ)-certified."

_SHARE = f"{100 * SMALLEST_EFFECT:g} %"
_POINT = f"{100 * CLOSE_ACCURACY:g} point of accuracy"

_WHY_SHARE = (
    f"{_SHARE} is a convention, the same wherever an effect is a share. On the committed records no word would be "
    "another at 1 % or 10 %."
)
_WHY_POINT = "The paper does not say what is close. One point is the first version's choice, before any run."
_WHY_FAST = "The claim's own factor of ten."
_SPEED_TEST = (
    f"The time of the step over that of retraining, below {FAST:g}. It says nothing when the lower end of what the "
    f"step removes is under {_SHARE} of the distance that doing nothing, at no cost, leaves."
)
_UTILITY_YARDSTICK = "the retrained model without noise; the original with the same noise, for a pass that says nothing"
_BOTH = "on both sets 95 % intervals of the difference within the smallest effect"

CLAIMS: dict[str, Claim] = {
    "C1a": Claim(
        _CLOSE, "close to the retrained model", _ANYWHERE,
        "The share of the distance between original and retrained model that the step removes is at least the smallest "
        "effect (95 % interval).",
        f"{_SHARE} of the distance that doing nothing leaves",
        "the original model; the distance of a second retraining stands beside it",
        f"{_WHY_SHARE} The first version had no lower limit, so that this half could not fail.",
        "03_unlearning", needs_step=True,
    ),
    "C1b": Claim(
        _CLOSE, "under the bound", _ANYWHERE,
        "At the smallest λ of the grid above λ_max the error must be under the bound for every seed. It says nothing "
        "unless the bound is below the trivial 2C.",
        "none: a bound is broken or not",
        "2C, which every two models in the ball obey",
        "A bound is broken by one seed. One above 2C cannot be.",
        "01_theory", needs_step=True,
    ),
    "C2": Claim(
        "A larger damping λ lowers the bound and slightly lowers the real error.", "",
        "CIFAR-10 with AllCNN (the paper's Table 3)",
        "From the smallest λ above λ_max to the largest of the grid the bound must fall for every seed, and the error "
        "must not rise by the smallest effect (95 % interval). It says nothing while the bound stays above 2C, or the "
        "error does not fall by the smallest effect.",
        f"{_SHARE} of the error",
        "2C for the bound, the error at the smallest λ for the error",
        f"{_WHY_SHARE} The first version had none here, and a change by a hundred-thousandth was a failure.",
        "01_theory", about=CIFAR_ALLCNN,
    ),
    "C3": Claim(
        "LiSSA replaces the exact inverse at a fraction of the cost: 470× faster on MNIST/MLP.", "",
        "MNIST with the MLP of 26,506 parameters",
        f"The time of the exact inverse over LiSSA's is at least {SMALLEST_SPEEDUP:g} in every seed, at a relative "
        f"residual of at most {SOLVED_RESIDUAL:g}.",
        f"a factor of {SMALLEST_SPEEDUP:g}",
        "the exact inverse on the same machine; conjugate gradient to the same residual",
        "A tenth of the claim, since machines and programs differ.",
        "08_efficiency", about=MNIST_MLP, timed=True,
    ),
    "C4a": Claim(
        _FASTER, "the paper's solver with the authors' constants", _ANYWHERE,
        f"{_SPEED_TEST} LiSSA with the defaults of the authors' code: λ = 0.01, ten repeats of depth 1,000, batches of "
        "ten.",
        f"a tenth of retraining's time; {_SHARE} of the distance",
        "retraining in the same run; the original model, which costs nothing",
        _WHY_FAST,
        "03_unlearning", needs_step=True, timed=True,
    ),
    "C4b": Claim(
        _FASTER, "LiSSA, to its residual", _ANYWHERE,
        f"{_SPEED_TEST} The system is solved by LiSSA with constants chosen for the set-up, on an idle machine, and "
        "every seed must pass; where a batch timed it, the 95 % interval must.",
        f"a tenth of retraining's time; {_SHARE} of the distance",
        "retraining in full, timed on the same machine",
        _WHY_FAST,
        "08_efficiency", needs_step=True, timed=True,
    ),
    "C4c": Claim(
        _FASTER, "conjugate gradient, to LiSSA's residual", _ANYWHERE,
        f"{_SPEED_TEST} The same system as LiSSA's, solved by conjugate gradient to at most the residual that LiSSA "
        "reached; every seed must pass, or the interval where a batch timed it.",
        f"a tenth of retraining's time; {_SHARE} of the distance",
        "retraining in full, timed on the same machine",
        _WHY_FAST,
        "08_efficiency", needs_step=True, timed=True,
    ),
    "C4d": Claim(
        _FASTER, "conjugate gradient, H over all of D_r", _ANYWHERE,
        f"{_SPEED_TEST} Where H was taken over a part of D_r, the time is multiplied by what is missing of D_r.",
        f"a tenth of retraining's time; {_SHARE} of the distance",
        "retraining in the same run; the original model, which costs nothing",
        f"{_WHY_FAST} A step with H on a tenth of the data is not the paper's.",
        "03_unlearning", needs_step=True, timed=True,
    ),
    "C5a": Claim(
        _USEFUL, "with the noise of later work, σ = 0.01", _ANYWHERE,
        f"On the retained and the test set: {_BOTH}. It says nothing unless the original with the same noise fails it.",
        _POINT, _UTILITY_YARDSTICK,
        f"{_WHY_POINT} σ = 0.01 is what Mu and Klabjan ran this method with.",
        "03_unlearning", needs_step=True,
    ),
    "C5b": Claim(
        _USEFUL, "with the noise of the authors' code, σ = 0.001", _ANYWHERE,
        "On the test set (accuracy on the retained set was not recorded at this σ): the 95 % interval of the "
        "difference within the smallest effect. It says nothing unless the original with the same noise fails it.",
        _POINT, _UTILITY_YARDSTICK,
        f"{_WHY_POINT} σ = 0.001 is the default of the authors' code.",
        "06_ablations", needs_step=True,
    ),
    "C5c": Claim(
        _USEFUL, "without noise", _ANYWHERE,
        f"On the retained and the test set: {_BOTH}. It says nothing unless the original fails it.",
        _POINT, "the retrained model; the original, for a pass that says nothing",
        _WHY_POINT,
        "03_unlearning", needs_step=True,
    ),
    "C6a": Claim(
        _RESISTS, "membership inference", _ANYWHERE,
        "The paper's population attack over seeds, and the attack by shadow models where there are some: 95 % "
        "intervals of both differences in AUC within the smallest effect. One of the two that is beyond it, at half "
        "the level, is enough to fail. Where one seed has shadow models, its own interval counts, by a bootstrap over "
        "shadow models; it does not tell how much another split would change. It says nothing unless the original with "
        "the same noise fails it.",
        f"{CLOSE_AUC:g} in AUC",
        "population attack: the retrained model; shadow models: the retrained model with the same noise",
        "The first version's choice, before any run. Shadow models are part of the rule since the population attack "
        "finds next to nothing in any model, the original included.",
        "04_attacks", needs_step=True,
    ),
    "C6b": Claim(
        _RESISTS, "relearn time", _ANYWHERE,
        "The 95 % interval of the difference in relearn time within the smallest effect. It says nothing unless "
        "the original with the same noise fails it.",
        f"{CLOSE_EPOCHS:g} epoch", "the retrained model",
        "The first version's choice, before any run: time is counted in whole epochs.",
        "05_relearn", needs_step=True,
    ),
    "C7": Claim(
        "Sequential requests keep the guarantee and the utility.", "", _ANYWHERE,
        f"ε of the composition over all requests at most {LARGEST_EPSILON:g}, and after the last request {_BOTH}. It "
        "says nothing unless the original with the same noise fails it. That ε is about the weights: a network with "
        "BatchNorm's running statistics has no certificate to keep.",
        _POINT, "retraining after the last request; the original with the same noise",
        f"{_WHY_POINT} ε = {LARGEST_EPSILON:g} allows probabilities to change by a factor of 22,000.",
        "07_sequential",
    ),
    "C8": Claim(
        "The method also covers training that has not converged.", "", _ANYWHERE,
        "The error must be under the bound with the measured G for every seed and number of epochs; it says nothing "
        "while that bound is above 2C.",
        "none: a bound is broken or not", "2C, which every two models in the ball obey",
        "A bound is broken by one seed. One above 2C cannot be.",
        "07_sequential",
    ),
    "C9a": Claim(
        _CERTIFIED, "as released", _ANYWHERE,
        "The ε that the σ used in practice certifies at Δ = 2C. It says nothing above the largest ε. A network with "
        "BatchNorm's running statistics has no certificate: they are functions of D_u and receive no noise.",
        f"ε = {LARGEST_EPSILON:g}", "the same certificate for the original with the same noise",
        f"ε = {LARGEST_EPSILON:g} allows probabilities to change by a factor of 22,000.",
        "03_unlearning", needs_step=True,
    ),
    "C9b": Claim(
        _CERTIFIED, "with running statistics taken anew over D_r", "any network with BatchNorm",
        "As before, after the running statistics were taken anew over D_r at the released weights, which is "
        "post-processing.",
        f"ε = {LARGEST_EPSILON:g}", "the same certificate for the original with the same noise",
        f"ε = {LARGEST_EPSILON:g} allows probabilities to change by a factor of 22,000.",
        "03_unlearning", needs_step=True,
    ),
    "C10": Claim(
        "The norm bound C trades utility for a smaller error bound.", "", _ANYWHERE,
        "Test accuracy is lower at the smallest C than at the largest, by at least the smallest effect (95 % "
        f"interval). It says nothing when the ε certified at the smallest C still exceeds {LARGEST_EPSILON:g}.",
        _POINT, "the largest C of the grid",
        f"The same as in C5 and C7. ε = {LARGEST_EPSILON:g} allows probabilities to change by a factor of 22,000.",
        "06_ablations",
    ),
}  # fmt: skip
