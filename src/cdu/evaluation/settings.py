"""Settings of relearning, attacks, audits, timings, and of the checks of the theory and the official code."""

from typing import Annotated, Literal

from pydantic import Field

from cdu.curvature.settings import LissaSettings
from cdu.models.settings import ModelSettings
from cdu.settings import Count, Positive, Settings


class RelearnSettings(Settings):
    """Relearn time: Adam on the forget set alone."""

    max_epochs: Count = 50
    batch_size: Count = 128
    learning_rate: Positive = 1e-3


class AttackSettings(Settings):
    """Membership inference on posteriors.

    Attributes:
        folds: Folds of the cross-fitting.
        classifiers: Attack models tried on every construction of features.
        levels: False-positive rates at which the true-positive rate is given, where there are enough non-members.
    """

    folds: Annotated[int, Field(ge=2)] = 5
    classifiers: tuple[Literal["logistic regression", "decision tree", "random forest", "MLP"], ...] = (
        "logistic regression", "decision tree", "random forest", "MLP",
    )  # fmt: skip
    levels: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.01, 0.001)


class ShadowSettings(Settings):
    """The likelihood-ratio attack with shadow models.

    Attributes:
        shadows: How many, an even number; half of them are trained on any one target.
        pool: Targets. Every shadow forgets half of them, so this is twice the size of its forget set.
        methods: Which methods; all when empty.
        levels: False-positive rates at which the true-positive rate is given.
    """

    shadows: Annotated[int, Field(ge=8, multiple_of=2)] = 128
    pool: Annotated[int, Field(ge=2)] = 200
    methods: tuple[str, ...] = ()
    levels: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.001, 0.01, 0.1)


class AuditSettings(Settings):
    """Empirical lower bounds on ε.

    Attributes:
        trials: Releases drawn of either hypothesis, where only the last noise is drawn anew and the direction is known.
        estimated: The same where the direction has to be estimated.
        runs: The same where a method adds noise on the way, so that each trial is a run of its own.
        planted_runs: The same of a method whose noise is made too small on purpose.
        forget: Forget sets beside the experiment's own, chosen as worst cases.
    """

    trials: Annotated[int, Field(ge=40)] = 10_000
    estimated: Annotated[int, Field(ge=40)] = 1000
    runs: Annotated[int, Field(ge=40)] = 200
    planted_runs: Annotated[int, Field(ge=40)] = 400
    forget: tuple[Literal["outliers", "mislabelled", "one class"], ...] = ("outliers", "mislabelled", "one class")


#: Whether an audit contradicts a certificate, and what the planted errors' names begin with.
FOUND, PLANTED = "contradicted", "planted: "


class TheorySettings(Settings):
    """Numeric checks of the theory.

    Attributes:
        dampings: The λ at which bounds on networks are evaluated.
        draws: Releases simulated for the privacy profile.
        deltas: The δ at which the two noise formulas are compared.
        rows: Training samples of the small convex problems.
        forget_sizes: n_u of the small convex problems, whose error is plotted against n_u; small parts of a class.
        forget_sets: Random forget sets behind each point of that.
        epochs: Numbers of epochs after which training is stopped early.
        requests: k, into how many requests the forget set is cut.
        lissa_draws: Independent LiSSA estimates behind the test of its mean.
        batches: Mini-batches whose Hessians are looked at, per batch size.
        failure: ρ of the bound with LiSSA.
        filters: Random filters of the fixed features; every filter gives 16 of them.
        l2: Weights of the regulariser in the control experiment.
        budget: Δ of the control experiment, fixed before the data are looked at.
        epsilons: The ε for which its noise is chosen.
    """

    dampings: tuple[Positive, ...]
    draws: Count = 200_000
    deltas: tuple[Positive, ...] = (1e-3, 1e-5, 1e-10)
    rows: Count = 1500
    forget_sizes: tuple[Count, ...] = (4, 8, 16, 32)
    forget_sets: Count = 8
    epochs: tuple[Count, ...] = (1, 5, 20)
    requests: Count = 3
    lissa_draws: Annotated[int, Field(ge=3)] = 20
    batches: Count = 20
    failure: Positive = 1e-6
    filters: Count = 16
    l2: tuple[Positive, ...] = (1e-2, 1e-3)
    budget: Positive = 1e-3
    epsilons: tuple[Positive, ...] = (0.1, 1.0)


class OfficialSettings(Settings):
    """The authors' code: its own defaults, and the sizes of what is measured beside.

    Attributes:
        learning_rate: Of its training, as are ``epochs`` and ``radius``.
        held_out: Share of the training set that it validates on.
        damping: λ, its ``gamma``.
        lissa: Its constants of LiSSA.
        sigma: Its noise.
        requests: Number of its sequential requests; here the forget set is cut into as many.
        draws: Repetitions of unlearning behind the spread over its seeds.
        depths: Depths at which LiSSA's residual is taken, beside its own.
        krylov: Steps of the solver that stands in for LiSSA where only the system is looked at.
        network: The network with BatchNorm.
        network_samples: Training samples of that.
        network_epochs: Its epochs.
        check_repeats: Repeats of LiSSA in the comparison with the authors' functions.
    """

    learning_rate: Positive = 0.01
    epochs: Count = 30
    radius: Positive = 20.0
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    damping: Positive = 0.01
    lissa: LissaSettings = LissaSettings(scale=1000, depth=1000, repeats=10, batch_size=10)
    sigma: Positive = 0.001
    requests: Count = 10
    draws: Annotated[int, Field(ge=2)] = 3
    depths: tuple[Count, ...] = (10, 30, 100, 300)
    krylov: Count = 100
    network: ModelSettings = ModelSettings(name="allcnn", width=0.1)
    network_samples: Count = 2000
    network_epochs: Count = 10
    check_repeats: Count = 2


class EfficiencySettings(Settings):
    """Timings of the solvers against each other and against peers.

    Attributes:
        repetitions: Repetitions of every timing, in turns; the median counts.
        dampings: The λ at which systems are solved.
        peer_dampings: The λ among them at which curvlinops takes part.
        tolerances: Relative residuals to reach.
        lissa_depths: Depths at which LiSSA's error is taken, up to the one at which it is given up.
        neumann_terms: Terms of curvlinops' Neumann series, ascending, as far as the smallest tolerance needs.
        lissa_steps: Steps of LiSSA that are timed against the authors'.
        authors_batches: Batch sizes of that.
        authors_repeats: Numbers of repeats of that.
        sizes: Training samples, for the scaling in n.
        widths: Widths of the MLP's hidden layers, for the scaling in p.
        filters: Widths of the AllCNN, for the scaling in p; none where a dataset's images are too small.
        filter_samples: Samples of that.
        epochs: Numbers of epochs after which retraining is looked at.
        probes: Random vectors behind the spectrum's density.
        lanczos_steps: Lanczos steps for each.
        exact: Whether the exact inverse is computed.
        exact_samples: Samples of the system that it is compared on; all when None, which takes three quarters of an
            hour on MNIST with two cores.
    """

    repetitions: Annotated[int, Field(ge=3)] = 5
    dampings: tuple[Positive, ...] = (10.0, 1.0, 0.15)
    peer_dampings: tuple[Positive, ...] = (10.0, 1.0)
    tolerances: tuple[Positive, ...] = (1e-1, 1e-2, 1e-3)
    lissa_depths: tuple[Count, ...] = (10, 30, 100, 300)
    neumann_terms: tuple[Count, ...] = (10, 30, 100)
    lissa_steps: Annotated[int, Field(ge=10)] = 100
    authors_batches: tuple[Count, ...] = (10, 128)
    authors_repeats: tuple[Count, ...] = (1, 10)
    sizes: tuple[Count, ...] = (1000, 4000, 15000, 60000)
    widths: tuple[Count, ...] = (8, 32, 128)
    filters: tuple[Positive, ...] = ()
    filter_samples: Count = 5000
    epochs: tuple[Count, ...] = (1, 2, 5, 10, 20)
    probes: Count = 5
    lanczos_steps: Count = 60
    exact: bool = True
    exact_samples: Count | None = None
