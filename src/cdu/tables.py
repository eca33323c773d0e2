"""Tables, computed from long-form metrics and nothing else."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

import pandas as pd

from cdu import figures
from cdu.claims import CLOSE_AUC
from cdu.figures import of_seeds, select
from cdu.intervals import interval
from cdu.kinds import PLANTED
from cdu.records import UNREACHED
from cdu.verdicts import ANEW, AUTHORS, FORGET_FORM, NETWORK


def plus_minus(values: "pd.Series[float]", factor: float = 1.0) -> str:
    """``mean ± standard deviation`` over seeds, with the digits that the deviation warrants."""
    known = values.dropna().astype(float) * factor
    if known.empty:
        return "—"
    mean = float(known.mean())
    deviation = float(known.std()) if len(known) > 1 else 0.0
    if deviation <= 1e-5 * abs(mean):
        return number(mean)
    largest = max(abs(mean), deviation)
    if largest >= 1e6 or largest < 1e-2:
        exponent = math.floor(math.log10(largest))
        scaled = (mean / 10**exponent, deviation / 10**exponent)
        places = max(1, min(3, 1 - math.floor(math.log10(scaled[1]))))
        return f"({scaled[0]:.{places}f} ± {scaled[1]:.{places}f})·10{_superscript(exponent)}"
    places = max(0, min(6, 1 - math.floor(math.log10(deviation))))
    return f"{mean:,.{places}f} ± {deviation:,.{places}f}"


def number(value: float) -> str:
    """A number with the digits that a table needs, powers of ten where it is very large or small."""
    if value != 0 and not 1e-2 <= abs(value) < 1e6:
        exponent = math.floor(math.log10(abs(value)))
        return f"{value / 10**exponent:.2f}·10{_superscript(exponent)}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


@dataclass(frozen=True)
class Column:
    """A column of a table: which metric, and the factor to the unit in the header."""

    header: str
    metric: str
    keys: dict[str, str] = field(default_factory=dict)
    factor: float = 1.0


def table(frame: pd.DataFrame, row: str, header: str, columns: Sequence[Column]) -> pd.DataFrame:
    """One row per value of the column ``row``, in order of appearance; cells are :func:`plus_minus`."""
    wanted = frame[frame["metric"].isin([column.metric for column in columns])]
    names = list(dict.fromkeys(wanted[row].dropna()))
    seeds = frame["seed"].nunique()
    rows = []
    for name in names:
        cells: dict[str, str] = {header: name if isinstance(name, str) else f"{name:g}"}
        for column in columns:
            chosen = select(frame, metric=column.metric, **{row: name}, **column.keys)
            cells[column.header] = plus_minus(chosen["value"], column.factor) + of_seeds(chosen["value"], seeds)
        rows.append(cells)
    return pd.DataFrame(rows)


def _with_reduction(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the metric ``reduction``: the share of the do-nothing distance to the retrained model that is removed.

    It is formed seed by seed, since distances vary far more between seeds than a step changes them.
    """
    keys = ["seed", "axis", "point"]
    distance = select(frame, metric="distance_to_retrained")
    nothing = select(distance, method="original").set_index(keys)["value"]
    base = nothing.reindex(pd.MultiIndex.from_frame(distance[keys])).to_numpy()
    return pd.concat(
        [frame, distance.assign(metric="reduction", value=1 - distance["value"] / base)], ignore_index=True
    )


def _accuracies(*splits: str) -> list[Column]:
    titles = {"forget": "forget set (%)", "retain": "retained set (%)", "test": "test set (%)"}
    return [Column(titles[split], "accuracy", {"split": split}, 100) for split in splits]


def _axis(frame: pd.DataFrame, axis: str) -> pd.DataFrame:
    return frame[frame["axis"] == axis].sort_values("point", kind="stable")


def _theory_noise_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    ratio = select(frame, metric="sigma_ratio")
    ends = {"ratio at ε = 1": 1.0, "ratio at ε = 10⁴": 1e4}
    fails = [
        {
            "δ": str(name).removeprefix("δ = "),
            "too little noise from ε =": plus_minus(select(frame, metric="crossover", method=str(name))["value"]),
            **{title: plus_minus(select(rows, point=point)["value"]) for title, point in ends.items()},
        }
        for name, rows in ratio.groupby("method", sort=False)
    ]
    certified = [
        {"noise": name, "ε certified at Δ = 2C": plus_minus(rows["value"])}
        for name, rows in select(frame, metric="epsilon", axis="").groupby("method", sort=False)
    ]
    return {
        "Classical over exact σ": pd.DataFrame(fails),
        "What the noise used in practice certifies": pd.DataFrame(certified),
    }


def _theory_newton_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    slopes = table(
        select(frame, metric="slope"), "method", "forget set", [Column("fitted slope of the error", "slope")]
    )
    exact = {"before the step": "ridge_distance", "after the step": "ridge_error"}
    ridge = [{"ridge regression": text, "relative distance": _cell(frame, name)} for text, name in exact.items()]
    forms = [
        Column("difference of the forms / step", "forms_difference"),
        Column("not explained by ∇L(w\\*, D)", "forms_unexplained"),
    ]
    return {
        "Exact on a quadratic": pd.DataFrame(ridge),
        "Order of the error": slopes,
        "The two forms": table(_axis(frame, "gradient norm"), "point", "‖∇L(w\\*, D)‖ at most", forms),
    }


#: The set-ups of the theory section, as they are called in tables.
SETUPS = {"ridge": "ridge", "softmax": "softmax", "smooth network": "smooth network", "network": "ReLU network"}


def _by_setup(frame: pd.DataFrame, names: dict[str, str], **keys: str) -> pd.DataFrame:
    """One row per metric of ``names``, one column per set-up."""
    rows = []
    for metric, text in names.items():
        cells = {title: _cell(frame, metric, method=name, **keys) for name, title in SETUPS.items()}
        rows.append({"quantity": text, **cells})
    return pd.DataFrame(rows)


def _cell(frame: pd.DataFrame, metric: str, **keys: str | float) -> str:
    return plus_minus(select(frame, metric=metric, **keys)["value"])


def _theory_bound_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    constants = _by_setup(
        frame,
        {
            "lambda_min": "λ_min of H",
            "lambda_max": "λ_max of H",
            "known_lipschitz": "L, known",
            "gradient_lipschitz": "L, from below along w\\*–w̃\\*",
            "known_hessian_lipschitz": "M, known",
            "hessian_lipschitz": "M, from below along w\\*–w̃\\*",
            "gradient_retrained": "G = ‖∇L(w̃\\*, D_r)‖",
            "gradient_original": "‖∇L(w\\*, D)‖",
            "norm": "larger of ‖w\\*‖ and ‖w̃\\*‖",
            "default_exceeds_norm": "share of seeds with default λ > ‖H‖",
        },
        axis="",
    )
    damping = float(select(frame, metric="default_damping")["value"].mean())
    at = frame[(frame["axis"] == "damping") & (frame["point"] == damping)]
    distances = _by_setup(
        pd.concat([frame[frame["axis"] == ""], at]),
        {
            "trivial_bound": "2C, projected",
            "unprojected_bound": "2C + ‖step‖, not projected",
            "bound": f"Theorem 3.4 with G, λ = {damping:g}",
            "distance": f"measured ‖w̃ − w̃\\*‖, λ = {damping:g}",
            "distance_original": "measured ‖w\\* − w̃\\*‖ (do nothing)",
        },
    )
    return {
        "Constants (those measured on the data are indications, not certificates)": constants,
        "Δ by each bound, and the distance itself": distances,
        "Bound and error, networks": _against(frame, "damping", "λ", ("smooth network", "network")),
        "Bound and error, known constants": _against(frame, "damping", "λ", ("ridge", "softmax")),
    }


def _against(frame: pd.DataFrame, axis: str, header: str, methods: Sequence[str]) -> pd.DataFrame:
    """Bound and error of several set-ups against the points of an axis."""
    columns = [
        Column(f"{SETUPS[name]}: {word}", metric, {"method": name})
        for name in methods
        for word, metric in (("bound", "bound"), ("error", "distance"))
    ]
    return table(_axis(frame[frame["method"].isin(methods)], axis), "point", header, columns)


def _theory_lissa_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    mean = [
        Column("mean of the draws to the series", "lissa_bias"),
        Column("expected from sampling", "lissa_bias_noise"),
        Column("p", "lissa_bias_p"),
        Column("series to the inverse", "lissa_truncation"),
    ]
    spectra = select(frame, metric="batch_condition")
    batches = [
        {
            "set-up": f"{SETUPS[str(name)]}, {size}",
            "smallest eigenvalue": _cell(frame, "batch_lambda_min", method=str(name), split=str(size)),
            "largest eigenvalue": _cell(frame, "batch_lambda_max", method=str(name), split=str(size)),
            "batches that obey the condition (%)": plus_minus(rows["value"], 100),
        }
        for (name, size), rows in spectra.groupby(["method", "split"], sort=False)
    ]
    forms = [
        {
            "quantity": f"LiSSA's term, {name}",
            "ℓ₂ distance": plus_minus(rows["value"]),
            "whole bound": _cell(frame, "lissa_bound", method=str(name)),
        }
        for name, rows in select(frame, metric="lissa_term").groupby("method", sort=False)
    ]
    forms.append(
        {"quantity": "what LiSSA adds, measured", "ℓ₂ distance": _cell(frame, "lissa_added"), "whole bound": "—"}
    )
    sweeps = {
        f"relative error against {name}": f"LiSSA {axis}"
        for axis, name in {"depth": "depth s₂", "repeats": "repeats s₁", "scale": "scale h"}.items()
    }
    tables = {
        "The mean": table(_axis(frame, "depth"), "point", "depth s₂", mean),
        "Mini-batch Hessians": pd.DataFrame(batches),
        "The bound with LiSSA, at probability 1 − ρ": pd.DataFrame(forms),
    }
    for title, axis in sweeps.items():
        tables[title[0].upper() + title[1:]] = table(
            _axis(frame, axis), "point", title.split(" against ")[1], [Column("relative error", "lissa_error")]
        )
    return tables


def _theory_requests_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    result = {}
    for name in ("smooth network", "network"):
        early = [
            Column("G", "gradient_retrained"),
            Column("‖∇L(w\\*, D)‖", "gradient_original"),
            Column("bound", "bound"),
            Column("error", "distance"),
            Column("difference of the forms / step", "forms_difference"),
        ]
        rows = _axis(select(frame, method=name), "epochs")
        if not rows.empty:
            result[f"Training stopped early, {SETUPS[name]}"] = table(rows, "point", "epochs", early)
    exact = [
        Column("bound", "bound"),
        Column("residual/l2", "certified_distance"),
        Column("error", "distance"),
    ]
    result["Requests, softmax regression"] = table(
        _axis(select(frame, method="softmax"), "request"), "point", "request", exact
    )
    result["Requests, networks"] = _against(frame, "request", "request", ("smooth network", "network"))
    together = [Column(f"ε, {name}", "epsilon", {"method": name}) for name in ("composed", "added up")]
    result["ε of k releases together, at the σ used in practice"] = table(
        _axis(frame, "releases"), "point", "k", together
    )
    return result


def _theory_control_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    steps = _axis(frame, "steps")
    words = {0.0: "no step", 1.0: "one step", 2.0: "two steps"}
    steps = steps.assign(split=steps["split"].where(steps["metric"] == "accuracy", steps["point"].map(words)))
    ratio = steps[steps["metric"] == "ratio"]
    worst = ratio.groupby(["method", "seed"], sort=False)["value"].max().reset_index()
    steps = pd.concat([steps, worst.assign(metric="largest ratio")], ignore_index=True)
    row = "features, l2, forget set"
    sigmas = select(frame, metric="control_sigma").groupby("point")["value"].mean()

    def with_noise(split: str) -> str:
        epsilon = float(split.split(" = ")[1])
        return f"ε = {epsilon:g}, σ = {number(float(sigmas[epsilon]))}"

    def each(title: str, metric: str, factor: float = 1.0) -> list[Column]:
        return [Column(f"{title}, {word}", metric, {"split": word}, factor) for word in words.values()]

    distances = [
        *each("certified", "certified_distance"),
        *each("measured", "measured_distance"),
        Column("largest measured / certified", "largest ratio"),
    ]
    cost = [*each("seeds retrained (%)", "fallback", 100), *each("time (s)", "seconds")]
    after = steps[(steps["metric"] != "accuracy") | (steps["point"] == 2.0)]
    noisy = sorted({str(split) for split in after["split"] if str(split).startswith("test, ")}, reverse=True)
    price = after.assign(split=after["split"].where(after["metric"] != "l2_price", "price"))
    price = price[(price["metric"] != "l2_price") | (price["point"] == 2.0)]
    accuracies = [
        Column("price of l2 (points)", "l2_price", {"split": "price"}, 100),
        Column("without noise (%)", "accuracy", {"split": "test"}, 100),
        *(Column(f"{with_noise(split)} (%)", "accuracy", {"split": split}, 100) for split in noisy),
    ]
    named = frame["method"].str.endswith("training")
    plain = frame[(frame["metric"] == "accuracy") & (frame["axis"] == "") & ~frame["method"].isin(SETUPS)]
    return {
        "Distance to true retraining; the certified one is residual/l2": table(steps, "method", row, distances),
        "Test accuracy after two steps, or after retraining where the budget was exceeded": table(
            price, "method", row, accuracies
        ),
        "Requests answered by retraining, and time of the steps": table(steps, "method", row, cost),
        "Next to no l2, and no noise": table(
            plain, "method", "model", [Column("test set (%)", "accuracy", factor=100)]
        ),
        "Time to train on D": table(frame[named], "method", "model", [Column("time (s)", "seconds")]),
    }


def _training_tables(frame: pd.DataFrame, on_gpu: Collection[int]) -> dict[str, pd.DataFrame]:
    marked = frame.assign(split=frame["split"].where(frame["metric"] != "images_per_second", "cpu"))
    gpu = (marked["metric"] == "images_per_second") & marked["seed"].isin(list(on_gpu))
    marked.loc[gpu, "split"] = "gpu"
    columns = [
        *_accuracies("forget", "retain", "test"),
        Column("last epoch's steps projected (%)", "final_projected", factor=100),
        Column("time (s)", "seconds"),
        Column("images/s, CPU", "images_per_second", {"split": "cpu"}),
        Column("images/s, GPU", "images_per_second", {"split": "gpu"}),
    ]
    result = table(marked, "method", "model", columns)
    if not on_gpu:
        result["images/s, GPU"] = "not recorded"
    rate, operations = (select(frame, metric=metric)["value"] for metric in ("matrix_rate", "operations_per_image"))
    speed = {
        "operations an image, millions": plus_minus(operations, 1e-6),
        "matrix products, 10⁹ operations/s": plus_minus(rate, 1e-9),
        "training's share of that rate (%)": _cell_percent(frame, "matrix_share"),
    }
    measured = [] if rate.dropna().empty else [{"arithmetic": name, "": value} for name, value in speed.items()]
    return {
        "Models, accuracy (= micro-F1) and speed": result,
        "How much of the machine training uses": pd.DataFrame(measured),
    }


def _cell_percent(frame: pd.DataFrame, metric: str) -> str:
    """A share of the original model, in percent."""
    return plus_minus(select(frame, metric=metric, method="original")["value"], 100)


#: Models that training makes from scratch: what that computes is in none of the columns of a cost table.
_RETRAINED = ("retrain", "second retraining")


def _costs(frame: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """The table of what methods cost, in which retraining is not free."""
    found = table(frame, "method", "method", columns)
    if len(found):
        found.loc[found["method"].isin(_RETRAINED), "per-sample gradients"] = "a whole training"
    return found


#: What a method costs, and how well it solved its system.
_COST = (
    Column("time (s)", "seconds"),
    Column("per-sample Hessian products", "hvp_samples"),
    Column("per-sample gradients", "gradient_samples"),
    Column("relative residual", "residual"),
)


def _unlearning_tables(shown: pd.DataFrame) -> dict[str, pd.DataFrame]:
    frame = _with_reduction(figures.without_useless_noise(shown))
    quality = [
        *_accuracies("forget", "retain", "test"),
        Column("distance to retrained", "distance_to_retrained"),
        Column("closer than doing nothing by (%)", "reduction", factor=100),
        Column("distance to original", "distance_to_original"),
    ]
    cost = [*_COST, Column("seeds converged (%)", "converged", factor=100)]
    noise = [
        Column("σ", "sigma"),
        Column("ε certified", "epsilon"),
        Column("ε, classical formula", "epsilon_classical"),
        *_accuracies("retain", "test"),
    ]
    noised = shown[shown["method"].isin(select(shown, metric="epsilon")["method"])]
    return {
        "Accuracy (= micro-F1) and distances": table(frame, "method", "model", quality),
        "Cost": _costs(frame, cost),
        "Noise and certificate (Δ = 2C)": table(noised, "method", "release", noise),
    }


def _methods_table_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    keys = ["seed", "split"]
    accuracy = select(frame, metric="accuracy")
    base = select(accuracy, method="retrain").set_index(keys)["value"]
    difference = (accuracy["value"] - base.reindex(pd.MultiIndex.from_frame(accuracy[keys])).to_numpy()).abs()
    gaps = accuracy.assign(value=difference).groupby(["method", "seed"], sort=False)["value"].mean().reset_index()
    seconds = select(frame, metric="seconds")
    retraining = select(seconds, method="retrain").set_index("seed")["value"].reindex(seconds["seed"]).to_numpy()
    share = seconds.assign(metric="share", value=seconds["value"] / retraining)
    whole = pd.concat([frame, gaps.assign(metric="gap"), share], ignore_index=True)
    columns = [
        *_accuracies("forget", "retain", "test"),
        Column("gap to retrain (points)", "gap", factor=100),
        Column("time (s)", "seconds"),
        Column("of retraining (%)", "share", factor=100),
        Column("training of its own (s)", "training_seconds"),
    ]
    found = table(whole, "method", "method", columns)
    notes = select(frame, metric="certified").groupby("method")["note"].first()
    notes = notes.where(~notes.index.isin(_RETRAINED), "needs none: never saw D_u, so that ε = 0")
    found["certificate"] = [notes.get(name, "could not run") + _searched(name) for name in found["method"]]
    if "rounding" not in set(frame["metric"]):
        # Until revision 2 of the section these two computed in single precision, whose rounding exceeds their Δ.
        void = found["method"].str.contains("rewind, linear, ε|Langevin, linear, ε")
        found.loc[void, "certificate"] = "void: computed in single precision, whose rounding may exceed Δ"
    cost = [Column("per-sample gradients", "gradient_samples"), Column("per-sample Hessian products", "hvp_samples")]
    return {
        "Table 1: accuracy (= micro-F1), gap, time and certificate": found,
        "What a method computes": _costs(frame, cost),
        "Distance to the reference, measured and certified": _distances(frame),
    }


def _searched(method: str) -> str:
    """What Table 1 says beside the linear methods, whose l2 is one of a few that were tried for the request."""
    return "; l2 searched for this request" if ", linear, ε" in method else ""


def _distances(frame: pd.DataFrame) -> pd.DataFrame:
    """By method: what noise hides, how far the release without it is from its reference, and the worst of the seeds."""
    shown = frame[frame["metric"] == "distance_ratio"]
    columns = [
        Column("measured", "measured_distance"),
        Column("certified", "certified_distance"),
        Column("of it for rounding", "rounding"),
    ]
    found = table(frame[frame["method"].isin(shown["method"])], "method", "method", columns)
    if found.empty:
        return found
    worst = shown.groupby("method")["value"].max()
    found["largest ratio of a seed"] = [f"{worst.get(name, float('nan')):.2g}" for name in found["method"]]
    types = select(frame, metric="certified_distance").groupby("method")["note"].first()
    found["computed in"] = [types.get(name, "—") for name in found["method"]]
    return found


def _methods_compute_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    found = {}
    for epsilon in figures.epsilons(frame):
        named = frame["split"].isin([f"test, ε = {epsilon:g}", "test, no noise"])
        rows = frame[(frame["metric"] == "later_accuracy") & named]
        rows = rows.assign(split=rows["point"].map("k = {:g}".format))
        columns = [
            Column(f"{split} (%)", "later_accuracy", {"split": split}, 100) for split in dict.fromkeys(rows["split"])
        ]
        certified = ~rows["method"].isin(figures.UNNOISED)
        found[f"Test accuracy after k epochs on D_r, ε = {epsilon:g}"] = pd.concat(
            [table(rows[certified], "method", "start", columns), table(rows[~certified], "method", "start", columns)]
        ).fillna("—")
    return found


def _methods_tuning_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    lines = []
    named = frame["method"].where(frame["split"] == "", frame["method"].str.cat(frame["split"], sep=", "))
    frame = frame.assign(method=named)
    for method, rows in select(frame, metric="trial_gap").groupby("method", sort=False):
        winners = select(frame, metric="chosen_gap", method=str(method))
        counts = winners.dropna(subset=["value"])["note"].value_counts()
        lines.append(
            {
                "method": str(method),
                "trials": f"{rows['point'].nunique()}",
                "of them without result (%)": f"{100 * rows['value'].isna().mean():.0f}",
                "gap, all trials (points)": plus_minus(rows["value"], 100),
                "gap, chosen (points)": plus_minus(winners["value"], 100),
                "chosen (seeds)": "; ".join(
                    f"{values or 'nothing to choose'} ({count})" for values, count in counts.items()
                ),
            }
        )
    return {"Trials and choice": pd.DataFrame(lines)}


def _gaps(frame: pd.DataFrame, metric: str, name: str) -> pd.DataFrame:
    """Differences of a metric to the retrained model's of the same seed, as a metric of their own."""
    rows = select(frame, metric=metric)
    base = select(rows, method="retrain").set_index("seed")["value"].reindex(rows["seed"]).to_numpy()
    return rows.assign(metric=name, value=rows["value"] - base)


def closeness(gaps: "pd.Series[float]", margin: float) -> str:
    """Whether a mean gap to the retrained model is within a margin, by its 95 % interval over seeds.

    An attack that does much worse than on the retrained model found the forget set too well hidden: over-unlearning.
    """
    gap = interval(gaps)
    if gap.seeds < 2:
        return "one seed"
    if gap.within(margin):
        return "as retrained"
    if gap.high < -margin:
        return "over-unlearned"
    return "gives more away" if gap.low > margin else "undecided"


def _attack_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    whole = pd.concat([frame, _gaps(frame, "auc", "gap")], ignore_index=True)
    levels = sorted(select(frame, metric="tpr")["point"].dropna().unique(), reverse=True)
    rates = select(frame, metric="tpr")
    for level in levels:
        whole = pd.concat([whole, select(rates, point=level).assign(metric=f"tpr {level:g}")], ignore_index=True)
    columns = [
        Column("AUC − retrained", "gap"),
        Column("AUC", "auc"),
        Column("half of its 95 % interval in a run", "auc_half"),
        Column("accuracy", "attack_accuracy"),
        *(Column(f"TPR at {100 * level:g} % FPR (%)", f"tpr {level:g}", factor=100) for level in levels),
    ]
    paper = table(whole, "method", "model", columns)
    for level in levels:
        at = select(frame, point=level)
        ends = [select(at, metric=end).groupby("method")["value"].mean() * 100 for end in ("tpr_low", "tpr_high")]
        paper[f"its 95 % interval in a run, {100 * level:g} %"] = [
            f"{ends[0][name]:.1f} to {ends[1][name]:.1f}" if name in ends[0] else "—" for name in paper["model"]
        ]
    gaps = select(whole, metric="gap")
    words = [closeness(select(gaps, method=name)["value"], CLOSE_AUC) for name in paper["model"]]
    paper.insert(1, "beside retraining", words)
    grid = select(frame, metric="attack_auc")
    parts = grid["split"].str.extract(r"(?P<set>\w+): (?P<features>.+), (?P<model>[^,]+)$")
    grid = grid.assign(set=parts["set"], features=parts["features"], model=parts["model"])
    return {
        "The paper's attack (logistic regression, sorted concatenation) on held-out rows": paper,
        "All attacks, AUC": _grid_table(select(grid, set="test")),
        "The strongest of them, chosen on the other seeds": _strongest(select(grid, set="test")),
        "The paper's comparison, D_u against D_r: AUC by construction (logistic regression)": table(
            select(grid, set="retain"),
            "method",
            "model",
            [Column(str(name), "attack_auc", {"features": str(name)}) for name in dict.fromkeys(grid["features"])],
        ),
    }


def _grid_table(grid: pd.DataFrame) -> pd.DataFrame:
    """Constructions and attack models by a few released models."""
    wanted = ("original", "newton", "newton + noise", "retrain", "second retraining")
    shown = [name for name in wanted if name in set(grid["method"])]
    return pd.DataFrame(
        [
            {"features": str(features), "attack model": str(model)}
            | {name: plus_minus(select(rows, method=name)["value"]) for name in shown}
            for (features, model), rows in grid.groupby(["features", "model"], sort=False)
        ]
    )


def _strongest(grid: pd.DataFrame) -> pd.DataFrame:
    """By model, for every seed the attack with the largest mean gap on the others: no seed chooses and counts."""
    keys = ["seed", "split"]
    base = select(grid, method="retrain").set_index(keys)["value"]
    gaps = grid.assign(gap=grid["value"] - base.reindex(pd.MultiIndex.from_frame(grid[keys])).to_numpy())
    lines = []
    for method in dict.fromkeys(gaps["method"]):
        wide = select(gaps, method=str(method)).pivot_table(index="seed", columns="split", values="gap").dropna()
        if method == "retrain" or len(wide) < 2:
            continue
        chosen = {seed: str(wide.drop(index=seed).mean().idxmax()) for seed in wide.index}
        own = pd.Series([wide.loc[seed, attack] for seed, attack in chosen.items()])
        often = pd.Series(list(chosen.values())).value_counts()
        lines.append(
            {
                "model": str(method),
                "attack chosen most often": str(often.index[0]).removeprefix("test: ")
                + f" ({often.iloc[0]} of {len(wide)})",
                "AUC − retrained": plus_minus(own),
                "beside retraining": closeness(own, CLOSE_AUC),
            }
        )
    return pd.DataFrame(lines)


def _shadow_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    found = {}
    titles = {
        "never trained": "Forgotten, or never trained on? (unlearned shadows)",
        "retrained": "Unlearned, or retrained? (on the forgotten samples)",
    }
    for world, title in titles.items():
        rows = select(frame, split=world)
        levels = sorted(select(rows, metric="lira_tpr")["point"].dropna().unique())
        lines = []
        for method in dict.fromkeys(select(rows, metric="lira_auc")["method"]):
            own = select(rows, method=str(method))
            line = {"model": str(method), "AUC": _interval(own, "lira_auc")}
            for level in levels:
                at = select(own, point=level)
                line[f"TPR at {100 * level:g} % FPR (%)"] = _interval(at, "lira_tpr", 100)
            for quantile, name in ((0.5, "median"), (0.95, "95 %")):
                line[f"pairs told right by target, {name}"] = _value(select(own, point=quantile), "vulnerability")
            lines.append(line)
        found[title] = pd.DataFrame(lines)
    known = set(frame["metric"])
    extrapolated = ", from two of them" if "shadow_seconds" in known else ""
    cost = {
        "shadow models": "shadows",
        "targets in the pool": "pool",
        "training all together (s)": "shadow_seconds",
        f"training one after another (s){extrapolated}": "single_seconds",
        "largest relative difference of the weights": "single_difference",
    }
    found["Shadow models and their cost"] = pd.DataFrame(
        [{"quantity": text, "value": _value(frame, metric)} for text, metric in cost.items() if metric in known]
    )
    found["Unlearning all shadows"] = table(frame, "method", "method", [Column("time (s)", "seconds")])
    return found


def _interval(frame: pd.DataFrame, metric: str, factor: float = 1.0) -> str:
    """A value with the ends of its interval; the mean over seeds of each where there are several."""
    names = (metric, f"{metric}_low", f"{metric}_high")
    value, low, high = (factor * float(select(frame, metric=name)["value"].mean()) for name in names)
    places = 2 if factor != 1 else 3
    return f"{value:.{places}f} [{low:.{places}f}, {high:.{places}f}]"


def _end(frame: pd.DataFrame, metric: str) -> str:
    """A value or an end of its interval, which is infinite where a seed has none."""
    values = select(frame, metric=metric)["value"]
    seeds = select(frame, metric="contradicted")["seed"].nunique()
    infinite = {"mu_low": "−∞", "mu_high": "∞"}.get(metric, "—")
    return number(float(values.mean())) if len(values) == seeds > 0 else infinite


def equal_pairs(frame: pd.DataFrame) -> set[tuple[str, str]]:
    """Methods and forget sets of an audit whose release is its reference in every seed, since both were retrained."""
    furthest = select(frame, metric="pair_distance").groupby(["method", "split"])["value"].max().reset_index()
    equal = furthest[furthest["value"] == 0]
    return set(zip(equal["method"].map(str), equal["split"].map(str), strict=True))


def _audit_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    audited, equal = select(frame, metric="audit_epsilon"), equal_pairs(frame)
    lines = []
    for method, split in dict.fromkeys(zip(audited["method"], audited["split"], strict=True)):
        own = select(frame, method=str(method), split=str(split))
        kind, _, view = str(split).partition(", ")
        contradicted = select(own, metric="contradicted")["value"]
        certified = select(own, metric="certified_epsilon")["value"]
        word = f"contradicted ({contradicted.sum():.0f} of {len(contradicted)} seeds)"
        fine = "consistent" + (", the pair is equal" if (method, kind) in equal else "")
        lines.append(
            {
                "method": str(method),
                "forget set": kind,
                "adversary sees": view or "—",
                "ε certified": number(float(certified.mean())) if len(certified) else "—",
                "ε shown, Clopper-Pearson": _cell(own, "audit_epsilon"),
                "detectable": _cell(own, "detectable"),
                "ε shown, Gaussian": _cell(own, "audit_gaussian"),
                "detectable, Gaussian": _cell(own, "gaussian_detectable"),
                "μ [its interval]": f"{_end(own, 'mu')} [{_end(own, 'mu_low')}, {_end(own, 'mu_high')}]",
                "trials": _cell(own, "trials"),
                "verdict": "could not run" if contradicted.empty else word if contradicted.any() else fine,
            }
        )
    whole = pd.DataFrame(lines)
    planted = whole["method"].str.startswith(PLANTED)
    distances = [
        {
            "method": str(method),
            "forget set": str(kind),
            "distance of the pair": plus_minus(rows["value"]),
            "Δ": _cell(frame, "sensitivity", method=str(method), split=str(kind)),
            "ε of this pair, exactly": _cell(frame, "pair_epsilon", method=str(method), split=str(kind)),
        }
        for (method, kind), rows in select(frame, metric="pair_distance").groupby(["method", "split"], sort=False)
    ]
    noted = select(frame, metric="audit_epsilon")
    notes = noted[noted["note"].str.startswith("ε of")].drop_duplicates("method").set_index("method")["note"]
    wrong = whole[planted].assign(noise=[notes.get(name, "") for name in whole[planted]["method"]])
    return {
        "Certificates and what trials show": whole[~planted],
        "Planted errors": wrong,
        "How far a release is from its reference, before noise": pd.DataFrame(distances),
    }


def _share(frame: pd.DataFrame, metric: str, **keys: str | float) -> str:
    """A share of simulations in percent with its 95 % interval, means over seeds."""
    found = [select(frame, metric=f"{metric}{end}", **keys)["value"] for end in ("", "_low", "_high")]
    if found[0].empty:
        return "—"
    share, low, high = (100 * float(values.mean()) for values in found)
    return f"{share:.1f} [{low:.1f}, {high:.1f}]"


def _audit_power_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    own = select(frame, method=figures.SIMULATED)
    cells = dict.fromkeys(
        (str(split), float(point)) for split, point in own.loc[own["metric"] == "detected", ["split", "point"]].values
    )
    curve = [
        {
            "pair at a distance of": distance,
            "noise so many times too small": f"{factor:g}",
            "ε of the pair, exactly": _cell(own, "simulated_epsilon", split=distance, point=factor),
            "audits that contradict (%) [95 %]": _share(own, "detected", split=distance, point=factor),
            "trials": _cell(own, "simulated_trials", split=distance, point=factor),
        }
        for distance, factor in cells
    ]
    others = frame[frame["method"].str.startswith(figures.OTHER_STRATEGIES)]
    strategies = [
        {
            "thresholds": str(method).removeprefix(figures.OTHER_STRATEGIES),
            "noise 1.5 times too small, found by either bound (%)": _share(rows, "detected", point=1.5),
            "noise 3 times too small, found by counts alone (%)": _share(rows, "counted", point=3.0),
        }
        for method, rows in others.groupby("method", sort=False)
    ]
    return {
        "What the audit would find, direction known": pd.DataFrame(curve),
        "Ways to choose thresholds, pairs at the distance Δ": pd.DataFrame(strategies),
    }


def _relearn_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    result = table(frame, "method", "model", [Column("epochs, mean ± sd", "epochs"), Column("time (s)", "seconds")])
    means = [select(frame, metric="epochs", method=name)["value"].mean() for name in result["model"]]
    result["epochs, rounded mean"] = [f"{mean:.0f}" for mean in means]
    return {"Relearn time": _with_censored(result, frame)}


def _with_censored(models: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Adds in how many seeds a model had not relearned when the limit was reached."""
    counts = [(select(frame, metric="epochs", method=name)["note"] != "").sum() for name in models["model"]]
    return models.assign(**{"seeds censored": [str(count) for count in counts]})


def _judged(*more: Column) -> list[Column]:
    """What the ablations measure at every point."""
    return [
        Column("distance to retrained, after the step", "distance_to_retrained", {"method": "newton"}),
        Column("closer than doing nothing by (%)", "reduction", {"method": "newton"}, 100),
        *more,
        *(
            Column(f"{label}: {split} set (%)", "accuracy", {"method": name, "split": split}, 100)
            for split in ("forget", "test")
            for name, label in (("original", "nothing"), ("newton", "step"), ("retrain", "retrained"))
        ),
        *(
            Column(f"attack's AUC, {label}", "auc", {"method": name})
            for name, label in (("newton", "step"), ("retrain", "retrained"))
        ),
    ]


#: The models that noise is added to, and what they are called in tables.
_NOISED = {"newton + noise": "step", "original + noise": "nothing", "retrain + noise": "retrained"}


def _ablation_tables(shown: pd.DataFrame) -> dict[str, pd.DataFrame]:
    frame = _with_reduction(shown)
    bounds = (Column("Theorem 3.4", "bound"), Column("2C", "trivial_bound"))
    trained = (
        Column("2C", "trivial_bound"),
        Column("‖w\\*‖", "norm"),
        Column("steps projected (%)", "projected", factor=100),
    )
    return {
        "Damping": table(_axis(frame, "damping"), "point", "λ", _judged(*bounds)),
        "Radius": table(_axis(frame, "radius"), "point", "C", _judged(*trained)),
    }


def _ablation_noise_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    columns = [
        Column(f"{label}: {split} set (%)", "accuracy", {"method": name, "split": split}, 100)
        for split in ("test", "forget")
        for name, label in _NOISED.items()
    ]
    lost = [
        {
            "model": label,
            "test set without noise (%)": plus_minus(
                select(frame, metric="accuracy", method=name, split="test, no noise")["value"], 100
            ),
            "σ at which one point is lost": _cell(frame, "sigma_one_point", method=name),
            "ε that it certifies": _cell(frame, "epsilon_one_point", method=name),
        }
        for name, label in _NOISED.items()
    ]
    noise = table(_axis(frame, "sigma"), "point", "σ", [Column("ε certified", "epsilon"), *columns])
    return {"What one point of accuracy buys": pd.DataFrame(lost), "Noise": noise}


def _ablation_setup_tables(shown: pd.DataFrame) -> dict[str, pd.DataFrame]:
    frame = _with_reduction(shown)
    kinds = frame[frame["axis"].str.startswith("forget set: ")]
    kinds = kinds.assign(kind=kinds["axis"].str.removeprefix("forget set: "))
    return {
        "Which samples": table(kinds, "kind", "forget set", _judged()),
        "How many": table(_axis(frame, "forgotten share"), "point", "share of the training set", _judged()),
        "Weight decay": table(_axis(frame, "weight decay"), "point", "weight decay", _judged()),
        "Width": table(_axis(frame, "width"), "point", "width", _judged()),
    }


def _ablation_lissa_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    titles = {
        "repeats": ("Repeats", "s₁"),
        "scale": ("Scale", "h, in multiples of the usual one"),
        "batch": ("Batch size", "batch"),
    }
    columns = [Column("relative residual", "residual"), Column("step off that of conjugate gradients by", "step_error")]
    depth = [
        Column(f"{column.header}, {name}", column.metric, {"method": name})
        for name in ("batch 10", "batch 128")
        for column in columns
    ]
    return {"Depth": table(_axis(frame, "depth"), "point", "s₂", depth)} | {
        title: table(_axis(frame, axis), "point", header, columns) for axis, (title, header) in titles.items()
    }


#: What several releases certify.
_PROMISED = (
    Column("ε of each alone", "epsilon", {"method": "each alone"}),
    Column("ε together", "epsilon", {"method": "together"}),
    Column("σ that the wanted ε needs in total", "sigma_needed"),
)


def _sequential_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    noise = [str(name) for name in dict.fromkeys(frame["method"]) if str(name).startswith("newton + noise for ε")]
    models = {
        "newton": "no noise",
        "newton + noise": "noise used",
        "original + noise": "doing nothing, noise used",
        "newton, from the release + noise": "noise used, from the release",
        "newton, forget gradient, from the release + noise": "the same, form with D_u",
        **{name: name.removeprefix("newton + ") + " in total" for name in noise},
        "retrain": "retrained",
    }
    splits = {"test": "test set", "retain": "retained set", "forget": "all that is gone so far"}
    result = {}
    for axis, words in (("request", "short sequence"), ("long request", "long sequence")):
        rows = _axis(frame, axis)
        for split, title in splits.items():
            if axis == "request" or split == "test":
                columns = [
                    Column(f"{text} (%)", "accuracy", {"method": name, "split": split}, 100)
                    for name, text in models.items()
                    if name in set(rows["method"])
                ]
                result[f"Accuracy after each request, {title}, {words}"] = table(rows, "point", "request", columns)
        distances = [
            Column(text, "distance_to_retrained", {"method": name})
            for name, text in figures.SEQUENTIAL.items()
            if name in set(rows["method"])
        ]
        closer = [
            Column(f"{figures.SEQUENTIAL[name]}: closer than doing nothing by (%)", "reduction", {"method": name}, 100)
            for name in ("newton", "newton, from the release + noise")
        ]
        known = _with_reduction(select(rows, metric="distance_to_retrained"))
        result[f"Distance to the model retrained after that request, {words}"] = table(
            known, "point", "request", [*distances, *closer]
        )
    result["What k releases certify at the σ used in practice"] = table(
        _axis(frame, "releases"), "point", "k", _PROMISED
    )
    costs = select(frame, metric="seconds")
    columns = [Column(f"{name} (s)", "seconds", {"split": str(name)}) for name in dict.fromkeys(costs["split"])]
    result["Time of all requests together (retraining: of those carried out, scaled to all)"] = table(
        costs, "method", "method", columns
    )
    early = [
        Column("G", "gradient_retrained"),
        Column("λ_min", "lambda_min"),
        Column("bound", "bound"),
        Column("error", "distance_to_retrained", {"method": "newton"}),
        Column("error, form with D_u", "distance_to_retrained", {"method": "newton, forget gradient"}),
        Column("doing nothing", "distance_to_retrained", {"method": "original"}),
        Column("test set, after the step (%)", "accuracy", {"method": "newton", "split": "test"}, 100),
        Column("doing nothing (%)", "accuracy", {"method": "original", "split": "test"}, 100),
        Column("retrained (%)", "accuracy", {"method": "retrain", "split": "test"}, 100),
    ]
    result["Training stopped early"] = table(_axis(frame, "epochs"), "point", "epochs", early)
    return result


def _official_code_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    row = "departure"
    step = [
        Column("‖x‖", "step_norm"),
        Column("difference to the paper's / its norm", "step_difference"),
        Column("cosine to the paper's", "step_cosine"),
        Column("residual of (H + λI)x = g", "residual"),
        Column("residual of its own system", "own_residual"),
        Column("‖∇‖ of its objective at w\\*, over D", "gradient_norm"),
    ]
    model = [*_accuracies("forget", "retain", "test"), Column("D_u never trained on (%)", "never_trained", factor=100)]
    attack = [
        Column("accuracy, held-out rows (%)", "attack_accuracy", factor=100),
        Column("AUC, held-out rows", "auc"),
        Column("accuracy, as published (%)", "published_accuracy", factor=100),
        Column("majority (%)", "majority", factor=100),
        Column("AUC, as published", "published_auc"),
    ]
    promise = [
        Column("ε certified, Δ = 2C by projection", "epsilon"),
        Column("ε of 2C + ‖x‖, an indication", "epsilon_unprojected"),
        Column("projected", "released_projected"),
    ]
    promised = table(select(frame, metric="epsilon"), "method", row, promise[:1])
    for column in promise[1:2]:
        promised[column.header] = [_cell(frame, column.metric, method=name) for name in promised[row]]
    # What is not projected has no bound that was fixed in advance.
    bare = set(frame[(frame["metric"] == "released_projected") & (frame["value"] == 0)]["method"])
    promised[promise[0].header] = [
        "none: not projected" if name in bare else cell
        for name, cell in zip(promised[row], promised[promise[0].header], strict=True)
    ]
    depths = [
        Column(f"relative residual, {words}", "depth_residual", {"method": name})
        for name, words in {"paper": "λ above λ_max", "code": "the code's λ and h"}.items()
    ]
    gains = [Column(name, "gain", {"method": name}) for name in ("wanted", "given")]
    network = [
        Column("test set, before the step (%)", "network_accuracy", {"split": "test, original"}, 100),
        *(
            Column(column.header, "network_accuracy", column.keys, column.factor)
            for column in _accuracies("forget", "retain", "test")
        ),
        *attack,
        Column("change of the running statistics (%)", "statistics_shift", factor=100),
    ]
    requests = [
        Column("‖w̃ − w\\*‖", "sequential_norm"),
        *(
            Column(column.header, "sequential_accuracy", column.keys, column.factor)
            for column in _accuracies("forget", "retain", "test")
        ),
        Column("ε of all together, projected", "sequential_epsilon"),
        Column("ε without projection, an indication", "sequential_epsilon_unprojected"),
    ]
    spread = [
        Column("accuracy on D_u, standard deviation (points)", "spread_accuracy", factor=100),
        Column("mean distance between two releases", "spread_weights"),
    ]
    check = [
        Column("gradients: difference / norm", "check_gradient"),
        Column("steps: difference / norm", "check_step"),
        Column("‖step‖", "check_norm"),
    ]
    narrow = frame["method"].str.contains("BatchNorm")
    variants = frame[~narrow]
    checked = frame[frame["metric"].str.startswith("check_")].dropna(subset=["value"])
    return {
        "What a departure does to the step": table(variants, "method", row, step),
        "What it does to the model": table(variants, "method", row, model),
        "The attack, as it should be and as published (11)": table(variants, "method", row, attack),
        "What the release certifies": promised,
        "LiSSA with the code's constants (4)": table(_axis(frame, "depth"), "point", "depth s₂", depths),
        "What LiSSA does to a direction of curvature a (4)": table(_axis(frame, "curvature"), "point", "a", gains),
        "Unlearning drawn anew (8)": table(frame, "method", row, spread),
        "No `eval()` (10)": table(frame[narrow], "method", "network", network),
        "Sequential requests (13)": table(frame, "method", row, requests),
        "Our variant against the authors' own functions": table(checked, "method", "arithmetic", check),
    }


def _newton_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per λ and kind of statistics: in how many seeds there is a step, how long it is, and what it took."""
    columns = [
        Column("‖step‖", "distance_to_original"),
        *_accuracies("forget", "test"),
        Column("relearn (epochs)", "epochs"),
        *(column for column in _COST if column.metric != "gradient_samples"),
    ]
    rows = []
    for name in dict.fromkeys(select(frame, metric="accuracy")["method"]):
        if not name.startswith("newton") or " + noise" in name:
            continue
        tried = select(frame, metric="accuracy", method=name)
        tried = tried[~tried["note"].str.startswith(UNREACHED)]
        taken = tried[tried["value"].notna()]["seed"].unique()
        own = select(frame, method=name)
        cells = table(own[own["seed"].isin(taken)], "method", "", columns)
        damping = name.removesuffix(ANEW).partition("λ = ")[2]
        rows.append(
            {
                "λ": number(float(damping)) if damping else _cell(frame, "damping", method=""),
                "BatchNorm's statistics": "of D_r" if name.endswith(ANEW) else "as trained",
                "seeds with a step": f"{len(taken)} of {tried['seed'].nunique()}",
                **{column.header: "—" if cells.empty else cells.iloc[0][column.header] for column in columns},
            }
        )
    return pd.DataFrame(rows)


def _scale_tables(shown: pd.DataFrame) -> dict[str, pd.DataFrame]:
    everything = _with_reduction(shown)
    frame = figures.without_other_steps(everything)
    facts = {
        "parameters p": "parameters",
        "training samples n": "train_samples",
        "epochs trained": "epochs_trained",
        "samples of the Hessian": "hessian_samples",
        "λ": "damping",
        "λ_max, at least": "lambda_max",
        "λ_min, at most": "lambda_min",
        "λ_max, at least, with statistics of D_r": "lambda_max",
        "λ_min, at most, with statistics of D_r": "lambda_min",
        "samples behind these": "spectrum_samples",
        "samples of the recalibration": "recalibration_samples",
    }
    anew = f"newton{ANEW}"
    known = set(select(everything, method=anew)["metric"])
    setup = [
        {"quantity": text, "": _cell(everything, metric, method=anew if "of D_r" in text else "")}
        for text, metric in facts.items()
        if "of D_r" not in text or metric in known
    ]
    judged = select(frame, metric="judged_samples")
    setup += [
        {"quantity": f"samples behind accuracy, {split}", "": plus_minus(rows["value"])}
        for split, rows in judged.groupby("split", sort=False)
    ]
    quality = [
        *_accuracies("forget", "retain", "test"),
        Column("forget set, statistics of D_r (%)", "recalibrated_accuracy", {"split": "forget"}, 100),
        Column("test set, statistics of D_r (%)", "recalibrated_accuracy", {"split": "test"}, 100),
        Column("distance to retrained", "distance_to_retrained"),
        Column("AUC", "auc"),
        Column("relearn (epochs)", "epochs"),
    ]
    cost = [*_COST, Column("closer than doing nothing by (%)", "reduction", factor=100)]
    noise = [Column("σ", "sigma"), Column("ε certified at Δ = 2C", "epsilon")]
    costed = frame[frame["method"].isin(select(frame, metric="seconds")["method"])]
    return {
        "Models": _with_censored(table(frame, "method", "model", quality), frame),
        "Cost": _costs(costed, cost),
        "Noise": table(frame, "method", "model", noise),
        "The Newton step at every λ": _newton_steps(everything),
        "What is computed on what": pd.DataFrame(setup),
    }


#: What the kinds of BatchNorm's statistics are called in tables, by how the names of networks end.
_STATISTICS = {"": "statistics as trained", ANEW: "statistics of D_r"}


def _statistics_of(frame: pd.DataFrame) -> dict[str, str]:
    """The kinds of statistics that a set-up has; one without a name where its network has none."""
    known = set(frame["method"])
    found = {label: title for label, title in _STATISTICS.items() if f"{NETWORK}{label}" in known}
    return found if len(found) > 1 else {"": ""}


def _with_removed(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the metric ``removed``: the share of ‖w* − w̃*‖ that a step removes, formed seed by seed."""
    errors = frame[frame["metric"].isin(["distance", "distance_to_retrained"])]
    nothing = select(frame, metric="distance_original", method=NETWORK).set_index("seed")["value"]
    removed = 1 - errors["value"] / nothing.reindex(errors["seed"]).to_numpy()
    return pd.concat([frame, errors.assign(metric="removed", value=removed)], ignore_index=True)


def _scale_bound_tables(shown: pd.DataFrame) -> dict[str, pd.DataFrame]:
    frame, statistics = _with_removed(shown), _statistics_of(shown)
    against_damping = {
        "bound": ("bound", 1.0),
        "error": ("distance", 1.0),
        "removed (%)": ("removed", 100.0),
        "‖step‖": ("step_norm", 1.0),
        "residual": ("residual", 1.0),
    }
    found = {}
    for label, title in statistics.items():
        columns = [
            Column(f"{form}: {text}", metric, {"method": f"{NETWORK}{name}{label}"}, factor)
            for form, name in (("D_r form", ""), ("D_u form", FORGET_FORM))
            for text, (metric, factor) in against_damping.items()
        ]
        against = table(_axis(frame, "damping"), "point", "λ", columns)
        name = "Table 3: bound and error" + (f", {title}" if title else "")
        found[name] = against.assign(**{"λ": [number(float(str(damping))) for damping in against["λ"]]})
    constants = {
        "λ_max, at least": "lambda_max",
        "λ_min, at most": "lambda_min",
        "L, from below along w\\*–w̃\\*": "gradient_lipschitz",
        "M, from below along w\\*–w̃\\*": "hessian_lipschitz",
        "G = ‖∇L(w̃\\*, D_r)‖, in the function of H": "gradient_retrained",
        "‖∇L(w̃\\*, D_r)‖ with the retrained model's own statistics": "gradient_retrained_own",
        "‖∇L(w\\*, D)‖": "gradient_original",
        "right-hand side, D_r form: ‖∇L(w\\*, D_r)‖": "right_hand_side",
        "right-hand side, D_u form: n_u/n_r·‖∇L(w\\*, D_u)‖": "right_hand_side, forget",
        "cosine of the two": "forms_cosine",
        "samples behind λ_min and λ_max": "spectrum_samples",
        "samples behind L, M and the steps": "hessian_samples",
        "2C": "trivial_bound",
        "‖w\\* − w̃\\*‖": "distance_original",
        "λ by default": "damping",
    }
    rows = []
    for text, name in constants.items():
        metric, _, forget = name.partition(", ")
        methods = {title: f"{NETWORK}{FORGET_FORM if forget else ''}{label}" for label, title in statistics.items()}
        rows.append({"quantity": text, **{t: _cell(frame, metric, method=name) for t, name in methods.items()}})
    found["Constants (indications, not certificates)"] = pd.DataFrame(rows)
    solvers = [
        Column("system (s)", "claim_seconds"),
        Column("with the gradient (s)", "seconds"),
        Column("relative residual", "claim_residual"),
        Column("relative residual, of H_S or at its own λ", "residual"),
        Column("per-sample products", "hvp_samples"),
        Column("error", "distance_to_retrained"),
        Column("removed (%)", "removed", factor=100),
    ]
    compared = frame[(frame["axis"] == "") & frame["method"].isin(select(frame, metric="timed_alone")["method"])]
    tried = frame[(frame["axis"] == "") & frame["metric"].isin(["claim_seconds", "seconds"])]
    failed = tried[tried["value"].isna() & ~tried["method"].isin(compared["method"])]
    named = pd.concat([compared, failed]).replace({"method": {AUTHORS: "lissa, λ and constants of the authors' code"}})
    cells = table(named, "method", "solver", solvers)
    title = "Solvers at the default λ, statistics as trained, not timed on an idle machine"
    # Only some set-ups have the step with H over a part, or the authors' constants.
    return {**found, title: cells.loc[:, (cells != "—").any()]}


def _with_and_without(names: dict[str, str], *splits: str) -> list[Column]:
    """Accuracy of several models, with BatchNorm's statistics as trained and taken anew."""
    titles = {"retain": "retained set", "test": "test set"}
    kinds = {"accuracy": "", "recalibrated_accuracy": ", statistics of D_r"}
    return [
        Column(f"{', '.join(filter(None, (label, titles[split])))}{kind} (%)", metric,
               ({"method": name} if name else {}) | {"split": split}, 100)
        for split in splits
        for metric, kind in kinds.items()
        for name, label in names.items()
    ]  # fmt: skip


def _sweeps_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    without = {
        str(split): str(split).partition(", ")[0]
        for split in frame["split"].unique()
        if str(split).endswith("no noise")
    }
    # Its rows are those of a σ of 0.
    quiet = frame[frame["split"].isin(without)]
    quiet = quiet.assign(axis="sigma", point=0.0, split=quiet["split"].map(without))
    noise = _axis(pd.concat([quiet, frame], ignore_index=True), "sigma")
    noised = {
        title: table(noise, "point", "σ", [Column("ε certified", "epsilon"), *_with_and_without(_NOISED, split)])
        for title, split in {"Noise, test set": "test", "Noise, retained set": "retain"}.items()
    }
    radius = [
        Column("‖w\\*‖", "norm"),
        Column("steps projected (%)", "projected", factor=100),
        Column("ε certified by σ in use", "epsilon"),
        *_with_and_without({"original": ""}, "test", "retain"),
    ]
    early = [
        Column("G", "gradient_retrained"),
        Column("λ_min, at most", "lambda_min"),
        Column("M, at least", "hessian_lipschitz"),
        Column("bound", "bound"),
        Column("error of the step", "distance_to_retrained", {"method": "newton"}),
        Column("doing nothing", "distance_to_retrained", {"method": "original"}),
        *_with_and_without({"newton": "step", "original": "nothing", "retrain": "retrained"}, "test"),
    ]
    after = [*_with_and_without({"": ""}, "test", "retain"), Column("distance to retrained", "distance_to_retrained")]
    requests = _axis(frame, "request")
    steps = [
        *(Column(f"{label}, {text}", metric, {"method": name})
          for name, label in {"newton": "noiseless", "newton, from the release + noise": "from the release"}.items()
          for metric, text in {"step": "‖step‖", "residual": "residual"}.items()),
    ]  # fmt: skip
    facts = {
        "parameters p": "parameters",
        "training samples n": "train_samples",
        "epochs trained": "epochs_trained",
        "λ": "damping",
        "2C": "trivial_bound",
        "σ in use": "sigma",
        "samples of a step's Hessian": "hessian_samples",
        "samples behind λ_min and M": "spectrum_samples",
    }
    setup = [{"quantity": text, "": _cell(frame, metric, axis="", method="")} for text, metric in facts.items()]
    setup += [
        {"quantity": f"samples behind accuracy, {split}", "": plus_minus(rows["value"])}
        for split, rows in select(frame, metric="judged_samples").groupby("split", sort=False)
    ]
    return {
        **noised,
        "Radius": table(_axis(frame, "radius"), "point", "C", radius),
        "After the last request": table(requests[requests["metric"] != "step"], "method", "model", after),
        "Every request": table(requests, "point", "request", steps),
        "What k releases certify at the σ in use": table(_axis(frame, "releases"), "point", "k", _PROMISED),
        "Training stopped early": table(_axis(frame, "epochs"), "point", "epochs", early),
        "What is computed on what": pd.DataFrame(setup),
    }


def _times(rows: pd.DataFrame, factor: float = 1.0) -> str:
    """Median and range of one timing; of a mean over seeds where there are several."""
    middle, low, high = (
        select(rows, metric=metric)["value"].mean() * factor for metric in ("seconds", "seconds_low", "seconds_high")
    )
    if math.isnan(middle):
        return "—"
    return f"{middle:.3g}" if math.isnan(low) else f"{middle:.3g} ({low:.3g}–{high:.3g})"


def _value(rows: pd.DataFrame, metric: str, factor: float = 1.0) -> str:
    known = select(rows, metric=metric)["value"].dropna()
    return number(float(known.mean()) * factor) if len(known) else "—"


def _peers_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    steps = []
    for split, rows in frame[frame["split"].str.startswith("LiSSA, ")].groupby("split", sort=False):
        for batch, at in rows.groupby("point"):
            for method, own in at.groupby("method", sort=False):
                steps.append(
                    {
                        "repeats together": str(split).removeprefix("LiSSA, ").removesuffix(" repeats"),
                        "batch": f"{batch:g}",
                        "program": str(method),
                        "all steps (s)": _times(own),
                        "time / ours": _value(own, "ratio"),
                    }
                )
    epochs = [
        {"program": str(method), "one epoch (s)": _times(own), "time / ours": _value(own, "ratio")}
        for method, own in select(frame, split="epoch").groupby("method", sort=False)
    ]
    products = [
        {
            "program": str(method),
            "time (s)": _times(own),
            "in gradients": _value(own, "gradients"),
            "share of the matrix rate (%)": _value(own, "rate_share", 100),
            "relative difference to ours": _value(own, "difference"),
            "peak memory (MiB)": _value(own, "memory", 2**-20),
        }
        for method, own in select(frame, split="products").groupby("method", sort=False)
    ]
    machine = [
        {"quantity": text, "value": _value(select(frame, axis=""), metric, factor)}
        for text, metric, factor in (
            ("float32 matrix product, GFLOP/s", "matrix_rate", 1e-9),
            ("parameters p", "parameters", 1.0),
            ("retained samples", "samples", 1.0),
            ("samples of the comparison with the exact inverse", "claim_samples", 1.0),
        )
    ]
    return {
        "Machine and problem": pd.DataFrame(machine),
        "Gradient and products on all retained samples": pd.DataFrame(products),
        "LiSSA's steps": pd.DataFrame(steps),
        "An epoch of training": pd.DataFrame(epochs),
    }


def _solvers_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    found = {}
    for split in dict.fromkeys(frame["split"][frame["split"].str.startswith("λ = ")]):
        rows = select(frame, split=str(split)).dropna(subset=["value"])
        wide = rows.pivot_table(index=["method", "axis", "point"], columns="metric", values="value", sort=False)
        if wide.empty:
            continue
        wanted = sorted(frame[frame["axis"] == "tolerance"]["point"].unique(), reverse=True)
        lines = []
        for method, own in wide.groupby(level="method", sort=False):
            cells = {"solver": str(method)}
            for tolerance in wanted:
                reached = own[own["residual"] <= tolerance]
                cells[f"time to {tolerance:g} (s)"] = (
                    number(reached["seconds"].min()) if len(reached) else "not reached"
                )
            cells["smallest residual"] = number(own["residual"].min())
            lines.append(cells)
        found[f"Time to a relative residual, {split}"] = pd.DataFrame(lines)
    names = dict.fromkeys(select(frame, metric="claim_seconds")["method"])
    claim = [
        {
            "solver": str(name),
            "time (s)": _value(own, "claim_seconds"),
            "relative residual": _value(own, "claim_residual"),
            "relative error to the exact solution": _value(own, "claim_error"),
            "exact inverse's time / this": number(
                _exact_seconds(frame) / select(own, metric="claim_seconds")["value"].mean()
            )
            if _exact_seconds(frame) and select(own, metric="claim_seconds")["value"].notna().any()
            else "—",
        }
        for name in names
        for own in [select(frame, method=str(name))]
    ]
    ends = [
        {"eigenvalue of H": text, "value": _value(frame, metric), "error at most": _value(frame, f"{metric}_error")}
        for text, metric in {"smallest": "lambda_min", "largest": "lambda_max"}.items()
    ]
    ends.append({"eigenvalue of H": "mean", "value": _value(frame, "mean_eigenvalue"), "error at most": "—"})
    return {**found, "Against the exact inverse": pd.DataFrame(claim), "Ends of the spectrum": pd.DataFrame(ends)}


def _exact_seconds(frame: pd.DataFrame) -> float:
    known = select(frame, metric="claim_seconds", method="exact inverse")["value"].dropna()
    return float(known.mean()) if len(known) else 0.0


def _scaling_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    titles = {
        "samples": "n", "parameters": "p", "LiSSA depth": "depth s₂", "LiSSA repeats": "repeats s₁",
    }  # fmt: skip
    slopes = [
        {"program": str(row["method"]), "against": titles[str(row["split"])], "time ∝ x^…": f"{row['value']:.2f}"}
        for _, row in select(frame, metric="slope").iterrows()
    ]
    points = [
        {
            "program": str(method),
            "against": titles[str(axis)],
            "at": f"{float(str(point)):,.10g}",
            "time (s)": _times(own),
            "in gradients": _value(own, "gradients"),
            "peak memory (MiB)": _value(own, "memory", 2**-20),
        }
        for (method, axis, point), own in select(frame, split="scaling").groupby(
            ["method", "axis", "point"], sort=False
        )
    ]
    return {"Fitted slopes": pd.DataFrame(slopes), "Time and peak memory": pd.DataFrame(points)}


def _retraining_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    rows = select(frame, split="unlearning", metric="seconds")
    retrained = select(rows, method="retraining").merge(
        select(frame, metric="accuracy", split="test", method="retraining")[["point", "value"]], on="point",
        suffixes=("", "_accuracy"),
    )  # fmt: skip
    lines = []
    for method, at in dict.fromkeys(zip(rows["method"], rows["point"].map(str), strict=True)):
        point = float(at)
        if method == "retraining in full":
            continue
        own = select(frame, method=str(method))
        own = own if math.isnan(point) else select(own, point=point)
        test = select(own, metric="accuracy", split="test")["value"].mean()
        reached = retrained[retrained["value_accuracy"] >= test]
        lines.append(
            {
                "method": str(method) + ("" if math.isnan(point) else f", {point:g} epochs"),
                "time (s)": _times(select(own, split="unlearning")),
                "retraining in full / this": _value(select(own, split="unlearning"), "speedup"),
                "test set (%)": number(100 * test),
                "forget set (%)": _value(select(own, split="forget"), "accuracy", 100),
                "retraining reaches that after (s)": number(reached["value"].min()) if len(reached) else "not reached",
            }
        )
    return {"Time, accuracy, and what retraining needs for the same accuracy": pd.DataFrame(lines)}


def tables(name: str, frame: pd.DataFrame, on_gpu: Collection[int] = ()) -> dict[str, pd.DataFrame]:
    """The tables of a section or of one of its parts, by title; one that would be empty is left out.

    Args:
        name: The section, or ``section-part``.
        frame: The section's metrics in long form.
        on_gpu: Seeds whose runs were made on a GPU.
    """
    makers: dict[str, Callable[[pd.DataFrame], dict[str, pd.DataFrame]]] = {
        "01_theory-noise": _theory_noise_tables,
        "01_theory-newton": _theory_newton_tables,
        "01_theory-bound": _theory_bound_tables,
        "01_theory-lissa": _theory_lissa_tables,
        "01_theory-requests": _theory_requests_tables,
        "01_theory-control": _theory_control_tables,
        "02_training": partial(_training_tables, on_gpu=on_gpu),
        "03_unlearning": _unlearning_tables,
        "03_methods-table": _methods_table_tables,
        "03_methods-compute": _methods_compute_tables,
        "03_methods-tuning": _methods_tuning_tables,
        "04_attacks": _attack_tables,
        "04_shadows": _shadow_tables,
        "05_relearn": _relearn_tables,
        "06_ablations": _ablation_tables,
        "06_ablations-noise": _ablation_noise_tables,
        "06_ablations-setup": _ablation_setup_tables,
        "06_ablations-lissa": _ablation_lissa_tables,
        "07_sequential": _sequential_tables,
        "08_efficiency-peers": _peers_tables,
        "08_efficiency-solvers": _solvers_tables,
        "08_efficiency-scaling": _scaling_tables,
        "08_efficiency-retraining": _retraining_tables,
        "09_official_code": _official_code_tables,
        "10_audit": _audit_tables,
        "10_audit-power": _audit_power_tables,
        "11_scale": _scale_tables,
        "11_bound": _scale_bound_tables,
        "11_sweeps": _sweeps_tables,
    }
    return {title: content for title, content in makers[name](frame).items() if len(content)}
