"""Everything that the runs of one dataset depend on."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from cdu.data.settings import ForgetSettings
from cdu.evaluation.settings import (
    AttackSettings,
    AuditSettings,
    EfficiencySettings,
    OfficialSettings,
    RelearnSettings,
    ShadowSettings,
    TheorySettings,
)
from cdu.models.settings import FeatureSettings, ModelSettings, TrainingSettings
from cdu.settings import Count, Positive, Settings, Value
from cdu.unlearning.settings import SequentialSettings, UnlearningSettings


class MethodsSettings(Settings):
    """All methods side by side: how their hyper-parameters are chosen, and the noise of the certified ones.

    Attributes:
        validation: Samples of D_r on which hyper-parameters are judged.
        trials: Hyper-parameters tried per method at most, drawn from its space without replacement.
        spaces: For every method by name its hyper-parameters: a list of candidates, or one value that is not searched.
        epsilons: ε at which certified methods are compared.
        epochs: k, epochs on D_r after the noise, ascending; 0 for none.
    """

    validation: Count = 5000
    trials: Count = 8
    spaces: dict[str, dict[str, Value | Annotated[tuple[Value, ...], Field(min_length=1)]]] = Field(
        default_factory=dict
    )
    epsilons: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 100.0, 10_000.0, 1e6)
    epochs: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2, 4, 8)


class AblationSettings(Settings):
    """Sweeps: one quantity is varied at a time, all others are the experiment's.

    Attributes:
        dampings: λ.
        sigmas: σ, ascending.
        radii: C; original and retrained models are trained anew, as for the next four.
        shares: n_u, as shares of the training set.
        forget: Forget sets of the usual size: samples of one class, or those that the original model gets most wrong.
        weight_decays: The l2 weight, in training and in unlearning.
        widths: Neurons of every hidden layer of an MLP, or the factor of a convolutional network's filters.
        depths: LiSSA's s₂.
        repeats: LiSSA's s₁.
        scales: LiSSA's h, in multiples of the usual one.
        batches: LiSSA's batch size.
        noise_draws: Draws of the noise behind an accuracy.
    """

    dampings: tuple[Positive, ...]
    sigmas: tuple[Positive, ...]
    radii: tuple[Positive, ...]
    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    forget: tuple[Literal["one class", "hardest"], ...] = ()
    weight_decays: tuple[Annotated[float, Field(ge=0)], ...] = ()
    widths: tuple[Positive, ...] = ()
    depths: tuple[Count, ...]
    repeats: tuple[Count, ...] = ()
    scales: tuple[Positive, ...] = ()
    batches: tuple[Count, ...] = (10, 128)
    noise_draws: Count = 10


class ScaleSettings(Settings):
    """Networks of the paper's size in one section, and what is cut where the machine is small.

    Attributes:
        hessian_samples: Samples of D_r that the step's Hessian is taken over; all when None.
        spectrum_samples: The same for the Lanczos process that bounds λ_min and λ_max.
        lanczos_steps: Its steps, each a product over those samples.
        judged: Samples of D_r, and of the test set, on which accuracy is measured; all when None.
        recalibrated: Samples of D_r over which BatchNorm's statistics are taken anew; all when None.
        methods: Further methods by name with their hyper-parameters, which are not searched.
    """

    hessian_samples: Count | None = None
    spectrum_samples: Count = 5000
    lanczos_steps: Annotated[int, Field(ge=2)] = 20
    judged: Count | None = None
    recalibrated: Count | None = None
    methods: dict[str, dict[str, Value]] = Field(default_factory=dict)


class SweepsSettings(Settings):
    """What decides the claims about radius, requests, early stopping and small noise where a network is large.

    Attributes:
        hessian_samples: Samples of D_r that every step's Hessian is taken over; all when None.
        spectrum_samples: The same for λ_min and M, the constants of the bound for training that was stopped early.
        lanczos_steps: Steps of the Lanczos process for each of the two: one product a step for λ_min, two for M.
        radii: C, ascending; the original is trained anew for each.
        sigmas: σ, ascending. A claim is decided at the authors' 0.001.
        noise_draws: Draws of the noise behind an accuracy.
        requests: k, into how many requests the forget set is cut.
        epochs: Numbers of epochs after which training is stopped, ascending.
        judged: Samples of D_r, and of the test set, on which accuracy is measured; all when None. BatchNorm's
            statistics are taken anew over the same samples of D_r.
    """

    hessian_samples: Count | None = None
    spectrum_samples: Count = 5000
    lanczos_steps: Annotated[int, Field(ge=2)] = 20
    radii: Annotated[tuple[Positive, ...], Field(min_length=2)]
    sigmas: Annotated[tuple[Positive, ...], Field(min_length=1)]
    noise_draws: Count = 10
    requests: Count = 10
    epochs: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 5, 10, 20, 50)
    judged: Count | None = None

    @model_validator(mode="after")
    def _ascending(self) -> "SweepsSettings":
        for name, values in (("radii", self.radii), ("sigmas", self.sigmas), ("epochs", self.epochs)):
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} must ascend, found {list(values)}")
        return self


class BoundSettings(Settings):
    """Theorem 3.4 on a large network: the constants from below, bound and error against λ.

    Attributes:
        dampings: The λ at which bound and error are taken.
        spectrum_samples: Samples of D_r behind λ_min and λ_max; all when None.
        hessian_samples: Samples of D_r, the part S, that L, M and the steps' H are taken over; all when None.
        lanczos_steps: Steps of Lanczos behind λ_min and λ_max, and at most of those behind L and M and of conjugate
            gradient; each one product.
        nodes: Points on the segment w*–w̃* at which L and M are looked for.
    """

    dampings: Annotated[tuple[Positive, ...], Field(min_length=1)]
    spectrum_samples: Count | None = None
    hessian_samples: Count | None = None
    lanczos_steps: Annotated[int, Field(ge=2)] = 40
    nodes: Annotated[int, Field(ge=2)] = 3


class LinearSettings(Settings):
    """Certified linear models on fixed features: what is deleted, and what is varied.

    Attributes:
        features: The features.
        l2: Weights of (l2/2)‖w‖²; the first is the one that is used, and all are fixed before the data are seen.
        budgets: Δ; the first is the one that is used.
        epsilons: ε at which accuracy is taken.
        steps: Newton steps at most, before a request is answered by training anew.
        sizes: Random forget sets of so many samples; the last is the one that l2, budget and ε are varied with.
        share: A random forget set of this share of the training set; none when None.
        requests: Numbers of requests that are released under one composed ε.
        chain: Requests that are answered one after another.
        chain_size: Samples in each of these.
        long_chains: Seeds in which ten times as many requests are answered too, of ten times fewer samples each.
        retrained: Seeds in which the model is also trained anew from zero, to be timed and compared.
        noise_draws: Draws of the noise behind an accuracy.
        trials: Of an audit.
    """

    features: FeatureSettings
    l2: Annotated[tuple[Positive, ...], Field(min_length=1)]
    budgets: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-2, 1e-3, 1e-1)
    epsilons: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    steps: Count = 4
    sizes: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 10, 1000)
    share: Annotated[float, Field(gt=0, lt=0.5)] | None = 0.1
    requests: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 10, 100, 1000)
    chain: Count = 10
    chain_size: Count = 100
    long_chains: tuple[int, ...] = ()
    retrained: tuple[int, ...] = (0,)
    noise_draws: Count = 5
    trials: Count = 4000


Competitor = Literal[
    "retraining", "SISA", "head on public features", "DP-SGD, linear on fixed features", "DP-SGD, network",
    "noisy fine-tuning", "Hessian-free", "newton", "certified linear",
]  # fmt: skip

#: What the section on alternatives compares, in the order of its table.
COMPETITORS: tuple[Competitor, ...] = get_args(Competitor)


class PublicSettings(Settings):
    """A network trained on public rows, whose last layer's inputs are features.

    Attributes:
        share: Share of the training rows that is public.
        epochs: Of the network's training.
    """

    share: Annotated[float, Field(gt=0, lt=1)]
    epochs: Count


class PrivateSettings(Settings):
    """DP-SGD; see :func:`cdu.models.private_training.train_privately`.

    Attributes:
        steps: T.
        sampling_rate: q.
        learning_rate: η.
        clip: Norm to which every sample's gradient is clipped.
        momentum: Of the steps.
    """

    steps: Count
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    learning_rate: Positive
    clip: Positive = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9


class NoisySettings(Settings):
    """Noisy fine-tuning with clipped gradients; see :mod:`cdu.unlearning.methods.noisy_fine_tuning`."""

    steps: Count
    learning_rate: Positive
    gradient_clip: Positive
    start_clip: Positive
    decay: Annotated[float, Field(ge=0)] = 0.0
    batch_size: Count = 512


class ClippedSettings(Settings):
    """Noisy fine-tuning with a clipped model; see :mod:`cdu.unlearning.methods.model_clipping`."""

    steps: Count
    learning_rate: Positive
    model_clip: Positive
    decay: Annotated[float, Field(ge=0)] = 0.0
    batch_size: Count = 512


class HessianFreeSettings(Settings):
    """Training by plain stochastic gradient descent with vectors; see :mod:`cdu.unlearning.methods.hessian_free`.

    Attributes:
        epochs: Of training.
        batch_size: Samples of a batch.
        learning_rate: η in the first epoch.
        rate_factor: What η is multiplied by after every epoch.
        size: Samples of the forget set that vectors are found for and that are deleted; all when None.
    """

    epochs: Count
    batch_size: Count = 128
    learning_rate: Positive
    rate_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    size: Count | None = None


class AlternativesSettings(Settings):
    """What else deletes: competitors of the certified linear model.

    Attributes:
        run: The competitors, of :data:`COMPETITORS`.
        shards: (k, r) of every SISA: shards, and slices of each.
        shard_epochs: e, epochs of ordinary training that the slices share out; the experiment's when None.
        network: The network that public rows train.
        public: Shares of public rows, with the epochs of the network's training.
        radius: C of the network's training, large enough not to matter: no certificate rests on it.
        l2: Of the linear model on the network's features.
        budget: Δ of the same.
        private_linear: DP-SGD of a linear model on the fixed features of the block ``linear``.
        private_network: DP-SGD of the experiment's network.
        noisy: Noisy fine-tuning with clipped gradients.
        clipped: Noisy fine-tuning with a clipped model.
        after: Epochs on D_r after the noise, and of the training from scratch that stands beside them.
        hessian_free: Training by plain stochastic gradient descent with vectors.
        noise_draws: Draws of the noise behind an accuracy.
        trials: Of an audit.
    """

    run: Annotated[tuple[Competitor, ...], Field(min_length=1)] = COMPETITORS
    shards: tuple[tuple[Count, Count], ...] = ((5, 1), (20, 1), (5, 4))
    shard_epochs: Count | None = None
    network: ModelSettings = ModelSettings(name="mlp", hidden=(256, 128))
    public: tuple[PublicSettings, ...] = (PublicSettings(share=0.1, epochs=20), PublicSettings(share=0.5, epochs=5))
    radius: Positive = 100.0
    l2: Positive = 1e-4
    budget: Positive = 1e-2
    private_linear: PrivateSettings
    private_network: PrivateSettings
    noisy: NoisySettings
    clipped: ClippedSettings
    after: Count = 4
    hessian_free: HessianFreeSettings
    noise_draws: Count = 5
    trials: Count = 4000


class DatasetSettings(Settings):
    """Everything that one dataset's runs depend on.

    ``samples`` is for rehearsals: only so many of the first images of the training set, and of the test set, are used.
    All when None.
    """

    samples: Count | None = None
    model: ModelSettings
    forget: ForgetSettings
    training: TrainingSettings = TrainingSettings()
    unlearning: UnlearningSettings
    methods: MethodsSettings = MethodsSettings()
    theory: TheorySettings
    attack: AttackSettings = AttackSettings()
    shadows: ShadowSettings = ShadowSettings()
    audit: AuditSettings = AuditSettings()
    relearn: RelearnSettings = RelearnSettings()
    ablations: AblationSettings
    sequential: SequentialSettings = SequentialSettings()
    efficiency: EfficiencySettings = EfficiencySettings()
    official: OfficialSettings = OfficialSettings()
    scale: ScaleSettings | None = None
    bound: BoundSettings | None = None
    sweeps: SweepsSettings | None = None
    linear: LinearSettings | None = None
    alternatives: AlternativesSettings | None = None
