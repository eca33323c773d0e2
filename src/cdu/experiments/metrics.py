"""Every metric that a record may hold: its name, its label, its unit and its kind, each said once.

Notebooks log by these names (:meth:`cdu.experiments.run.Run.log` refuses others), tables and figures take labels and
units from here, and :mod:`cdu.verification` takes the kinds. A new metric is one line of this file.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from cdu.errors import CduError


class MetricKind(StrEnum):
    """What a number is, which decides how it is compared with the same number of another run."""

    #: A time or a rate of the machine: never compared.
    TIME = "time"
    #: What a benchmark measures of the machine. No batch runs a benchmark.
    BENCHMARK = "benchmark"
    #: A count, or yes (1) or no (0): the next value is another answer.
    COUNT = "count"
    #: The count of per-sample products that an iterative solver needs.
    WORK = "solver's work"
    #: A count of epochs that ends when a model has learned something.
    EPOCHS = "epochs"
    #: A formula of the settings and of the data alone, or a setting.
    CLOSED_FORM = "closed form"
    #: A share of samples or runs, or a sum of gaps between such shares.
    SHARE = "share"
    #: A share of pairs of scores.
    PAIRS = "share of pairs"
    #: An eigenvalue from ARPACK, or what is computed from one.
    ITERATED = "iterated"
    #: What a solver leaves over, or what differs by rounding alone.
    REMAINDER = "remainder"
    #: An estimate from an audit's trials, or an end of its interval.
    ESTIMATE = "estimate"
    #: A lower bound on ε from an audit's trials.
    LOWER_BOUND = "lower bound"
    #: Any other number.
    REAL = "real"


#: By what a value is multiplied to have the unit; by 1 for all other units.
FACTORS = {"%": 100.0, "points": 100.0, "MiB": 2.0**-20, "millions": 1e-6, "10⁹ operations/s": 1e-9}


@dataclass(frozen=True)
class Quantity:
    """One metric.

    Attributes:
        name: The name in records.
        label: What tables and axes call it.
        unit: The unit in tables and on axes; empty for a number without one.
        kind: What it is.
    """

    name: str
    label: str
    unit: str = ""
    kind: MetricKind = MetricKind.REAL

    @property
    def factor(self) -> float:
        """By what a value in a record is multiplied to have the unit."""
        return FACTORS.get(self.unit, 1.0)

    @property
    def title(self) -> str:
        """The label with the unit in brackets, as in the head of a column or on an axis."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


_TIME, _BENCHMARK, _COUNT, _WORK, _EPOCHS = (
    MetricKind.TIME, MetricKind.BENCHMARK, MetricKind.COUNT, MetricKind.WORK, MetricKind.EPOCHS,
)  # fmt: skip
_FORM, _SHARE, _PAIRS, _ITERATED, _REMAINDER = (
    MetricKind.CLOSED_FORM, MetricKind.SHARE, MetricKind.PAIRS, MetricKind.ITERATED, MetricKind.REMAINDER,
)  # fmt: skip
_ESTIMATE, _LOWER = MetricKind.ESTIMATE, MetricKind.LOWER_BOUND

_MODELS = (
    Quantity("accuracy", "accuracy", "%", _SHARE),
    Quantity("recalibrated_accuracy", "accuracy, statistics of D_r", "%", _SHARE),
    Quantity("loss", "mean training loss", "nats"),
    Quantity("norm", "‖w\\*‖"),
    Quantity("projected", "steps projected", "%", _SHARE),
    Quantity("final_projected", "last epoch's steps projected", "%", _SHARE),
    Quantity("distance_to_retrained", "distance to retrained"),
    Quantity("distance_to_original", "distance to original"),
    Quantity("epochs", "relearn", "epochs", _EPOCHS),
    Quantity("relearn_loss", "loss / target"),
)

_SIZES = (
    Quantity("parameters", "parameters p", "", _COUNT),
    Quantity("train_samples", "training samples n", "", _COUNT),
    Quantity("samples", "retained samples"),
    Quantity("epochs_trained", "epochs trained", "", _COUNT),
    Quantity("judged_samples", "samples behind accuracy", "", _COUNT),
    Quantity("hessian_samples", "samples of the Hessian", "", _COUNT),
    Quantity("spectrum_samples", "samples behind λ_min and λ_max", "", _COUNT),
    Quantity("recalibration_samples", "samples of the recalibration", "", _COUNT),
    Quantity("claim_samples", "samples of the comparison with the exact inverse"),
    Quantity("relu", "has ReLU activations", "", _COUNT),
    Quantity("repetitions", "repetitions"),
)

_COST = (
    Quantity("seconds", "time", "s", _TIME),
    Quantity("training_seconds", "training of its own", "s", _TIME),
    Quantity("retrained_share", "expected share of the passes trained again", "%", _FORM),
    Quantity("claim_seconds", "time", "s", _TIME),
    Quantity("timed_alone", "timed on an idle machine", "", _COUNT),
    Quantity("images_per_second", "images/s", "", _TIME),
    Quantity("matrix_rate", "matrix products", "10⁹ operations/s", _TIME),
    Quantity("matrix_share", "training's share of that rate", "%", _TIME),
    Quantity("operations_per_image", "operations an image", "millions", _COUNT),
    Quantity("hvp_samples", "per-sample Hessian products", "", _WORK),
    Quantity("gradient_samples", "per-sample gradients", "", _COUNT),
    Quantity("residual", "relative residual", "", _REMAINDER),
    Quantity("claim_residual", "relative residual", "", _REMAINDER),
    Quantity("claim_error", "relative error to the exact solution", "", _REMAINDER),
    Quantity("converged", "seeds converged", "%", _COUNT),
)

#: ``ratio`` and ``slope`` are also metrics of the theory, which are compared.
_BENCHMARKS = (
    Quantity("seconds_low", "shortest time", "s", _BENCHMARK),
    Quantity("seconds_high", "longest time", "s", _BENCHMARK),
    Quantity("shadow_seconds", "training all together", "s", _BENCHMARK),
    Quantity("single_seconds", "training one after another", "s", _BENCHMARK),
    Quantity("gradients", "in gradients", "", _BENCHMARK),
    Quantity("memory", "peak memory", "MiB", _BENCHMARK),
    Quantity("rate_share", "share of the matrix rate", "%", _BENCHMARK),
    Quantity("speedup", "retraining in full / this", "", _BENCHMARK),
    # Its points are computed eigenvalues, which rounding moves.
    Quantity("density", "share of eigenvalues", "", _BENCHMARK),
    Quantity("difference", "relative difference to ours", "", _REMAINDER),
    Quantity("single_difference", "largest relative difference of the weights", "", _REMAINDER),
    Quantity("ratio", "measured / certified"),
    Quantity("slope", "fitted slope"),
)

_CERTIFICATES = (
    Quantity("epsilon", "ε certified", "", _FORM),
    Quantity("epsilon_classical", "ε, classical formula", "", _FORM),
    Quantity("epsilon_wanted", "ε wanted", "", _FORM),
    Quantity("epsilon_one_point", "ε that it certifies"),
    Quantity("epsilon_unprojected", "ε of 2C + ‖x‖, an indication"),
    Quantity("delta", "δ", "", _FORM),
    Quantity("sigma", "σ", "", _FORM),
    Quantity("sigma_needed", "σ that the wanted ε needs in total", "", _FORM),
    Quantity("sigma_one_point", "σ at which one point is lost"),
    Quantity("sensitivity", "Δ", "", _FORM),
    Quantity("certified", "certified", "", _COUNT),
    Quantity("measured_distance", "measured"),
    Quantity("certified_distance", "certified"),
    Quantity("distance_ratio", "measured / certified"),
    Quantity("rounding", "of it for rounding"),
    Quantity("later_accuracy", "test accuracy", "%", _SHARE),
    Quantity("trial_gap", "gap, all trials", "points", _SHARE),
    Quantity("chosen_gap", "gap, chosen", "points", _SHARE),
)

_BOUNDS = (
    Quantity("bound", "bound", "", _ITERATED),
    Quantity("trivial_bound", "2C", "", _FORM),
    Quantity("unprojected_bound", "2C + ‖step‖, not projected"),
    Quantity("distance", "error"),
    Quantity("distance_original", "‖w\\* − w̃\\*‖"),
    Quantity("damping", "λ", "", _FORM),
    Quantity("default_damping", "λ by default", "", _FORM),
    Quantity("default_exceeds_norm", "share of seeds with default λ > ‖H‖", "", _SHARE),
    Quantity("lambda_min", "λ_min", "", _ITERATED),
    Quantity("lambda_max", "λ_max", "", _ITERATED),
    Quantity("lambda_min_error", "error of λ_min, at most", "", _REMAINDER),
    Quantity("lambda_max_error", "error of λ_max, at most", "", _REMAINDER),
    Quantity("mean_eigenvalue", "mean eigenvalue"),
    Quantity("known_lipschitz", "L, known", "", _FORM),
    Quantity("known_hessian_lipschitz", "M, known", "", _FORM),
    Quantity("gradient_lipschitz", "L, from below along w\\*–w̃\\*", "", _ITERATED),
    Quantity("hessian_lipschitz", "M, from below along w\\*–w̃\\*", "", _ITERATED),
    Quantity("gradient_retrained", "G"),
    Quantity("gradient_retrained_own", "‖∇L(w̃\\*, D_r)‖ with the retrained model's own statistics"),
    Quantity("gradient_original", "‖∇L(w\\*, D)‖"),
    Quantity("right_hand_side", "right-hand side, D_r form: ‖∇L(w\\*, D_r)‖"),
    Quantity("forms_cosine", "cosine of the two"),
    Quantity("forms_difference", "difference of the forms / step"),
    Quantity("forms_unexplained", "not explained by ∇L(w\\*, D)", "", _REMAINDER),
    Quantity("step", "‖step‖"),
    Quantity("step_norm", "‖step‖"),
    Quantity("step_error", "step off that of conjugate gradients by"),
    Quantity("ridge_distance", "before the step"),
    Quantity("ridge_error", "after the step", "", _REMAINDER),
)

_THEORY = (
    Quantity("sigma_ratio", "classical σ / exact σ", "", _FORM),
    Quantity("crossover", "too little noise from ε =", "", _FORM),
    Quantity("monte_carlo_z", "simulated δ − formula", "standard errors"),
    Quantity("failure", "ρ", "", _FORM),
    Quantity("lissa_bias", "mean of the draws to the series"),
    Quantity("lissa_bias_noise", "expected from sampling"),
    Quantity("lissa_bias_p", "p"),
    Quantity("lissa_truncation", "series to the inverse"),
    Quantity("lissa_error", "relative error"),
    Quantity("lissa_added", "what LiSSA adds, measured"),
    Quantity("lissa_term", "LiSSA's term", "", _ITERATED),
    Quantity("lissa_bound", "whole bound", "", _ITERATED),
    Quantity("batch_condition", "batches that obey the condition", "%", _SHARE),
    Quantity("batch_lambda_min", "smallest eigenvalue", "", _ITERATED),
    Quantity("batch_lambda_max", "largest eigenvalue", "", _ITERATED),
    Quantity("control_sigma", "σ", "", _FORM),
    Quantity("fallback", "seeds retrained", "%", _COUNT),
    Quantity("remaining_distance", "measured", "", _REMAINDER),
    Quantity("remaining_bound", "certified", "", _REMAINDER),
    Quantity("remaining_ratio", "measured / certified", "", _REMAINDER),
    Quantity("newton_steps", "Newton steps"),
    Quantity("features", "features", "", _COUNT),
    Quantity("l2_price", "price of l2", "points"),
)

_ATTACKS = (
    Quantity("auc", "AUC", "", _SHARE),
    Quantity("auc_half", "half of its 95 % interval in a run", "", _SHARE),
    Quantity("tpr", "TPR", "%", _SHARE),
    Quantity("tpr_low", "TPR, lower end", "%", _SHARE),
    Quantity("tpr_high", "TPR, upper end", "%", _SHARE),
    Quantity("attack_accuracy", "accuracy", "%", _SHARE),
    Quantity("attack_auc", "AUC", "", _SHARE),
    Quantity("lira_auc", "AUC", "", _PAIRS),
    Quantity("lira_auc_low", "AUC, lower end", "", _PAIRS),
    Quantity("lira_auc_high", "AUC, upper end", "", _PAIRS),
    Quantity("lira_tpr", "TPR", "%", _PAIRS),
    Quantity("lira_tpr_low", "TPR, lower end", "%", _PAIRS),
    Quantity("lira_tpr_high", "TPR, upper end", "%", _PAIRS),
    Quantity("lira_roc", "true-positive rate", "", _PAIRS),
    Quantity("vulnerability", "pairs told right, by target"),
    Quantity("shadows", "shadow models"),
    Quantity("pool", "targets in the pool"),
)

_OFFICIAL_CODE = (
    Quantity("step_difference", "difference to the paper's / its norm"),
    Quantity("step_cosine", "cosine to the paper's"),
    Quantity("own_residual", "residual of its own system", "", _REMAINDER),
    Quantity("gradient_norm", "‖∇‖ of its objective at w\\*, over D"),
    Quantity("never_trained", "D_u never trained on", "%", _SHARE),
    Quantity("published_accuracy", "accuracy, as published", "%", _SHARE),
    Quantity("published_auc", "AUC, as published", "", _SHARE),
    Quantity("majority", "majority", "%", _FORM),
    Quantity("released_projected", "projected", "", _SHARE),
    Quantity("depth_residual", "relative residual"),
    Quantity("gain", "gain", "", _FORM),
    Quantity("network_accuracy", "accuracy", "%", _SHARE),
    Quantity("statistics_shift", "change of the running statistics", "%"),
    Quantity("sequential_accuracy", "accuracy", "%", _SHARE),
    Quantity("sequential_norm", "‖w̃ − w\\*‖"),
    Quantity("sequential_epsilon", "ε of all together, projected", "", _FORM),
    Quantity("sequential_epsilon_unprojected", "ε without projection, an indication"),
    Quantity("spread_accuracy", "accuracy on D_u, standard deviation", "points", _SHARE),
    Quantity("spread_weights", "mean distance between two releases"),
    Quantity("check_gradient", "gradients: difference / norm"),
    Quantity("check_step", "steps: difference / norm"),
    Quantity("check_norm", "‖step‖"),
)

_AUDIT = (
    Quantity("certified_epsilon", "ε certified", "", _FORM),
    Quantity("epsilon_single", "ε certified for one row", "", _FORM),
    Quantity("audit_epsilon", "ε shown, Clopper-Pearson", "", _LOWER),
    Quantity("audit_gaussian", "ε shown, Gaussian", "", _LOWER),
    Quantity("detectable", "detectable", "", _FORM),
    Quantity("gaussian_detectable", "detectable, Gaussian", "", _FORM),
    Quantity("mu", "μ", "", _ESTIMATE),
    Quantity("mu_low", "μ, lower end", "", _ESTIMATE),
    Quantity("mu_high", "μ, upper end", "", _ESTIMATE),
    Quantity("trials", "trials", "", _COUNT),
    Quantity("contradicted", "contradicted", "", _COUNT),
    Quantity("pair_distance", "distance of the pair"),
    Quantity("pair_epsilon", "ε of this pair, exactly"),
    Quantity("simulated_epsilon", "ε of the pair, exactly", "", _FORM),
    Quantity("simulated_trials", "trials"),
    Quantity("detected", "audits that contradict", "%", _SHARE),
    Quantity("detected_low", "audits that contradict, lower end", "%", _SHARE),
    Quantity("detected_high", "audits that contradict, upper end", "%", _SHARE),
    Quantity("counted", "found by counts alone", "%", _SHARE),
    Quantity("counted_low", "found by counts alone, lower end", "%", _SHARE),
    Quantity("counted_high", "found by counts alone, upper end", "%", _SHARE),
)

#: What only readers of the records use: no table, figure or claim is made from these.
_UNREAD = (
    Quantity("attack_tpr", "TPR", "%", _SHARE),
    Quantity("batches", "batches", "", _COUNT),
    Quantity("chosen_epoch", "epoch that was chosen", "", _EPOCHS),
    Quantity("depth", "LiSSA depth", "", _COUNT),
    Quantity("forms_gap", "distance between the two forms' right-hand sides"),
    Quantity("gradient_sum", "‖Σ∇ℓ‖ over D_u, mean over draws"),
    Quantity("members", "members", "", _COUNT),
    Quantity("network_samples", "samples of the network with BatchNorm", "", _COUNT),
    Quantity("planted_distance", "distance of the planted pair / certified distance"),
    Quantity("released_distance", "distance of the release to true retraining"),
    Quantity("requests", "requests", "", _COUNT),
    Quantity("step_bound", "bound of one step"),
    Quantity("target_loss", "target loss", "nats"),
    Quantity("weights_norm", "‖w‖"),
)

#: Names of the metrics that are recorded and never read.
UNREAD = frozenset(one.name for one in _UNREAD)

_ALL = (
    *_MODELS, *_SIZES, *_COST, *_BENCHMARKS, *_CERTIFICATES, *_BOUNDS, *_THEORY, *_ATTACKS, *_OFFICIAL_CODE, *_AUDIT,
    *_UNREAD,
)  # fmt: skip

#: All metrics by name.
QUANTITIES: dict[str, Quantity] = {one.name: one for one in _ALL}


def quantity(name: str) -> Quantity:
    """The metric of a name.

    Raises:
        CduError: No metric has this name.
    """
    if name not in QUANTITIES:
        close = get_close_matches(name, QUANTITIES, 1)
        meant = f" (is '{close[0]}' meant?)" if close else ""
        raise CduError(f"unknown metric '{name}'{meant}; a new one needs a line in cdu.experiments.metrics")
    return QUANTITIES[name]


def kind(name: str) -> MetricKind:
    """What the metric of a name is.

    Raises:
        CduError: No metric has this name.
    """
    return quantity(name).kind
