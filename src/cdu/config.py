"""Experiments: what is run, on what, with which constants. Read from YAML, validated, hashed."""

import hashlib
import json
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cdu.errors import CduError

DatasetName = Literal["digits", "mnist", "cifar10", "svhn"]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
#: A run: dataset, seed, section.
Job = tuple[DatasetName, int, str]

#: The section of the report each notebook reproduces, and the blocks of settings its numbers depend on.
SECTIONS: dict[str, tuple[str, ...]] = {
    "01_theory": ("model", "forget", "training", "unlearning", "theory"),
    "02_training": ("model", "forget", "training"),
    "03_unlearning": ("model", "forget", "training", "unlearning"),
    "03_methods": ("model", "forget", "training", "unlearning", "methods"),
    "04_attacks": ("model", "forget", "training", "unlearning", "methods", "attack"),
    "04_shadows": ("model", "forget", "training", "unlearning", "methods", "shadows", "scale"),
    "05_relearn": ("model", "forget", "training", "unlearning", "methods", "relearn"),
    "06_ablations": ("model", "forget", "training", "unlearning", "attack", "ablations"),
    "07_sequential": ("model", "forget", "training", "unlearning", "sequential"),
    "08_efficiency": ("model", "forget", "training", "unlearning", "efficiency"),
    "09_official_code": ("model", "forget", "training", "unlearning", "attack", "official"),
    "10_audit": ("model", "forget", "training", "unlearning", "methods", "audit"),
    "11_scale": ("model", "forget", "training", "unlearning", "attack", "relearn", "scale"),
    "11_bound": ("model", "forget", "training", "unlearning", "bound"),
    "11_sweeps": ("model", "forget", "training", "unlearning", "sweeps"),
}

#: Sections that time programs against each other. No batch runs them: they want the machine to themselves.
BENCHMARKS = ("08_efficiency",)

#: Sections that no batch runs, for the time that they take: each by ``cdu section``.
BY_HAND = ("04_shadows",)

#: The experiment that a notebook run without one belongs to.
DEFAULT_EXPERIMENT: dict[str, str] = {
    "digits": "quick",
    "mnist": "mnist",
    "cifar10": "paper",
    "svhn": "paper-resnet18",
}

#: Sections that run only where an experiment has a block of settings for them.
OPTIONAL = {"11_scale": "scale", "11_bound": "bound", "11_sweeps": "sweeps"}

#: The revision of every section's numbers: raised by hand when they are meant to change, with a line in CHANGELOG.md
#: that says what moved and by how much. Records of an earlier revision are not current. The canaries tell whether
#: numbers move (:mod:`cdu.canaries`).
REVISIONS: dict[str, int] = {
    **dict.fromkeys(SECTIONS, 1),
    **dict.fromkeys(("03_methods", "04_attacks", "04_shadows", "05_relearn", "10_audit"), 2),
}


class Loader(yaml.SafeLoader):
    """YAML with the numbers of its version 1.2, in which 1e-4 is one, and without a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A block; a key that was given before is an error."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def _kinds_of(value: Any) -> set[bool]:
    """Whether a value, or one in a list, is yes or no; and whether one is not."""
    return {isinstance(one, bool) for one in (value if isinstance(value, list | tuple) else [value])}


class Settings(BaseModel):
    """Base of every block: unknown keys are errors, values cannot be changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _yes_is_no_number(cls, content: Any) -> Any:
        for name, value in content.items() if isinstance(content, dict) else ():
            field = cls.model_fields.get(name)
            if field is not None and field.annotation is not bool and True in _kinds_of(value):
                raise ValueError(f"'{name}' is {value!r}; yes and no are no numbers here")
        return content


class ModelSettings(Settings):
    """Which network; see :mod:`cdu.models`."""

    name: Literal["logistic", "mlp", "allcnn", "resnet18"]
    hidden: tuple[Count, ...] = (32, 32)
    activation: Literal["relu", "tanh", "softplus"] = "relu"
    width: Positive = 1.0


class ForgetSettings(Settings):
    """Which training samples are to be unlearned.

    ``random`` draws ``size`` of them uniformly (the paper's choice); ``class`` takes ``size`` samples of
    class ``label`` (all of them when no size is given); ``indices`` takes exactly those listed.
    """

    kind: Literal["random", "class", "indices"] = "random"
    size: Count | None = None
    label: int | None = None
    indices: Annotated[tuple[int, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> "ForgetSettings":
        needed = {"random": self.size, "class": self.label, "indices": self.indices}[self.kind]
        if needed is None:
            field = {"random": "size", "class": "label", "indices": "indices"}[self.kind]
            raise ValueError(f"a forget set of kind '{self.kind}' needs '{field}'")
        return self


class TrainingSettings(Settings):
    """Adam with coupled weight decay and projection onto the ball of radius C after every step."""

    epochs: Count = 50
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    radius: Positive = 10.0


class LissaSettings(Settings):
    """LiSSA: the paper's H is ``scale`` (``auto``: estimated), s₂ is ``depth``, s₁ is ``repeats``."""

    scale: Positive | Literal["auto"]
    depth: Count
    repeats: Count = 10
    batch_size: Count = 128


class DampingSettings(Settings):
    """One named choice of the damping λ, with LiSSA constants that go with it."""

    value: Positive
    lissa: LissaSettings


class UnlearningSettings(Settings):
    """The Newton step and the noise.

    Attributes:
        dampings: Named values of λ.
        default: The name among them that the released model uses.
        sigma: Standard deviation of the released noise, per coordinate.
        delta: The δ at which ε is quoted.
        epsilon: The ε for which the necessary σ is quoted.
        exact_limit: Largest number of parameters for which the dense Hessian is built.
    """

    dampings: dict[str, DampingSettings]
    default: str = "assumption"
    sigma: Positive = 0.01
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    epsilon: Positive = 1.0
    exact_limit: int = 5000

    @model_validator(mode="after")
    def _default_is_named(self) -> "UnlearningSettings":
        if self.default not in self.dampings:
            raise ValueError(f"default damping '{self.default}' is not among {sorted(self.dampings)}")
        return self


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


Value = int | float | str


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
    spaces: dict[str, dict[str, Value | Annotated[tuple[Value, ...], Field(min_length=1)]]] = {}
    epsilons: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 100.0, 10_000.0, 1e6)
    epochs: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2, 4, 8)


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


class RelearnSettings(Settings):
    """Relearn time: Adam on the forget set alone."""

    max_epochs: Count = 50
    batch_size: Count = 128
    learning_rate: Positive = 1e-3


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


class SequentialSettings(Settings):
    """Requests one after another, and training that has not converged.

    Attributes:
        requests: k, into how many requests the forget set is cut.
        long_requests: The same for a longer sequence, of the same forget set.
        retrained_at: Requests after which a model is retrained to compare with; the last one always is among them.
        epochs: Numbers of epochs after which training is stopped, ascending.
    """

    requests: Count = 10
    long_requests: Count = 50
    retrained_at: tuple[Count, ...] = (1, 5)
    epochs: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 5, 10, 20, 50)

    @model_validator(mode="after")
    def _requests_exist(self) -> "SequentialSettings":
        if any(number > self.requests for number in self.retrained_at):
            raise ValueError(f"retrained_at names a request after the last of {self.requests}")
        if list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError(f"epochs must ascend, found {list(self.epochs)}")
        return self


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
    methods: dict[str, dict[str, Value]] = {}


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


class DatasetSettings(Settings):
    """Everything that one dataset's runs depend on.

    ``samples`` is for rehearsals: that many images of the training set, and of the test set, the first ones. All when
    None.
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


class Experiment(Settings):
    """A named set of runs: datasets × seeds × sections.

    Attributes:
        name: The file's name.
        description: One sentence.
        seeds: Seeds of every section.
        section_seeds: Sections that are run with other seeds.
        sections: Sections that a batch runs, the most valuable first; all when empty.
        seeds_together: Whether a batch runs all seeds of a section in one process, one after another: worth it where
            starting a process takes as long as a section.
        expected_seconds: By section, about how many seconds one seed takes on the machine that the experiment is made
            for. ``cdu paper`` says with them beforehand how far a given time will reach.
        datasets: Settings by dataset.
    """

    name: str
    description: str
    seeds: Seeds
    section_seeds: dict[str, Seeds] = {}
    sections: tuple[str, ...] = ()
    seeds_together: bool = False
    expected_seconds: dict[str, Positive] = {}
    datasets: dict[DatasetName, DatasetSettings]

    @field_validator("name", mode="before")
    @classmethod
    def _name_of_digits(cls, name: object) -> object:
        """A name such as 2024, which YAML reads as a number."""
        return str(name) if isinstance(name, int | float) else name

    @model_validator(mode="after")
    def _seeds_are_different(self) -> "Experiment":
        for seeds in (self.seeds, *self.section_seeds.values()):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"a seed is listed twice in {list(seeds)}; the same run would count twice")
        return self

    @model_validator(mode="after")
    def _sections_are_known(self) -> "Experiment":
        named = {
            "section_seeds": self.section_seeds,
            "sections": self.sections,
            "expected_seconds": self.expected_seconds,
        }
        for field, names in ((field, set(names)) for field, names in named.items()):
            unknown = sorted(names - set(SECTIONS))
            if unknown:
                raise ValueError(f"{field} names no section of ours: {unknown}; known are {', '.join(SECTIONS)}")
        return self

    def seeds_of(self, section: str) -> tuple[int, ...]:
        """The seeds that a section is run with; one where no batch runs it, its repetitions are within the run."""
        alone = section in BENCHMARKS or section in BY_HAND
        return self.section_seeds.get(section, self.seeds[:1] if alone else self.seeds)

    def jobs(self, datasets: Sequence[str] = (), sections: Sequence[str] = ()) -> list[Job]:
        """Every run of a batch: dataset, seed, section.

        Args:
            datasets: These alone; all when empty.
            sections: These alone, those that no batch runs by itself among them; all that a batch runs when empty.
        """
        return [
            job
            for job in self._all_jobs()
            if job[0] in (datasets or self.datasets)
            and (job[2] in sections if sections else job[2] not in (*BENCHMARKS, *BY_HAND))
        ]

    def batches(self, jobs: Sequence[Job]) -> list[tuple[DatasetName, tuple[int, ...], str]]:
        """Runs as processes take them: dataset, seeds, section."""
        if not self.seeds_together:
            return [(dataset, (seed,), section) for dataset, seed, section in jobs]
        return [
            (dataset, tuple(seed for other, seed, name in jobs if (other, name) == (dataset, section)), section)
            for dataset, section in dict.fromkeys((dataset, section) for dataset, _, section in jobs)
        ]

    def benchmarks(self) -> list[Job]:
        """Every run that is made by itself, since it times things: dataset, seed, section."""
        return [job for job in self._all_jobs() if job[2] in BENCHMARKS]

    def by_hand(self) -> list[Job]:
        """Every run that takes too long for a batch: dataset, seed, section."""
        return [job for job in self._all_jobs() if job[2] in BY_HAND]

    def _all_jobs(self) -> list[Job]:
        return [
            (dataset, seed, section)
            for dataset, settings in self.datasets.items()
            for section in self.sections or SECTIONS
            if section not in OPTIONAL or getattr(settings, OPTIONAL[section]) is not None
            for seed in self.seeds_of(section)
        ]

    def settings(self, dataset: str) -> DatasetSettings:
        """The settings of one dataset; raises :class:`CduError` when the experiment has none for it."""
        for name, settings in self.datasets.items():
            if name == dataset:
                return settings
        raise CduError(
            f"experiment '{self.name}' has no dataset '{dataset}': it has {', '.join(self.datasets)}; "
            f"the experiment made for '{dataset}' is '{DEFAULT_EXPERIMENT.get(dataset, 'none')}'"
        )


def digest(value: Any) -> str:
    """The first 12 hexadecimal digits of SHA-256 over ``value`` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def section_settings(settings: DatasetSettings, section: str) -> dict[str, Any]:
    """The blocks that the numbers of one section depend on, as plain values; those that a dataset lacks are absent."""
    blocks = settings.model_dump(mode="json", include={*SECTIONS[section], "samples"})
    return {name: block for name, block in blocks.items() if block is not None}


def section_hash(settings: DatasetSettings, dataset: str, section: str) -> str:
    """Hash of the settings that the numbers of one section depend on, and of nothing else."""
    return digest({"dataset": dataset, "section": section, **section_settings(settings, section)})


def repository() -> Path:
    """The root of the project: the nearest folder above the working directory that holds ``experiments``.

    Falls back to the checkout that the package was installed from.
    """
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "experiments").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return Path(__file__).resolve().parents[2]


def available_experiments() -> list[str]:
    """Names of the experiments that ``experiments/`` holds, sorted."""
    return sorted(path.stem for path in (repository() / "experiments").glob("*.yaml"))


def load_experiment(name_or_path: str) -> Experiment:
    """Read and validate an experiment.

    Args:
        name_or_path: A name in ``experiments/``, or the path of a YAML file elsewhere. A top-level block
            ``defaults`` is merged under every dataset's own settings.

    Raises:
        CduError: No such experiment, not valid YAML, or settings that do not fit, naming the field.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = repository() / "experiments" / f"{name_or_path}.yaml"
    if not path.is_file():
        raise CduError(
            f"there is no experiment '{name_or_path}': {path.name} was not found; "
            f"known are {', '.join(available_experiments())}, or give the path of a .yaml file"
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
        content = _block(content, path.name, "the file")
        defaults = _block(content.pop("defaults", {}), path.name, "defaults")
        datasets = _block(content.get("datasets"), path.name, "datasets")
        content["datasets"] = {
            name: merged(defaults, _block(own or {}, path.name, f"datasets.{name}")) for name, own in datasets.items()
        }
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CduError(f"{path.name}: {where}: {first['msg']} (found {first['input']!r})") from error
    except yaml.YAMLError as error:
        raise CduError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from error
    if experiment.name != path.stem:
        raise CduError(f"{path.name}: its name is '{experiment.name}'; it must equal the file's, '{path.stem}'")
    return experiment


def _block(content: Any, file: str, where: str) -> dict[str, Any]:
    """``content``, which must be a block of named settings."""
    if not isinstance(content, dict):
        raise CduError(
            f"{file}: {where}: a block of named settings is needed, as in experiments/quick.yaml (found {content!r})"
        )
    return content


def merged(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """Settings over others, block by block."""
    found = dict(base)
    for key, value in override.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        found[key] = merged(base[key], value) if nested else value
    return found
