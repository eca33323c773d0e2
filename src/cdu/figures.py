"""Figures, drawn from long-form metrics and nothing else; the same function serves one run and all seeds.

Every function takes a frame with the columns of :class:`cdu.records.Metric` plus ``seed``. Points are means over
seeds, bars and bands one standard deviation. The colours are those of Okabe and Ito (2008), which colour-blind readers
can tell apart; lines also differ in their markers.
"""

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: Distances below this are rounding in float32: the model is the one it is compared with.
ROUNDING = 1e-5
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "cdu",
    "svg.fonttype": "path",
}


def style() -> AbstractContextManager[None]:
    """The style that figures are both made and saved in."""
    return matplotlib.rc_context(STYLE)


def image(figure: Figure, **options: Any) -> bytes:
    """A figure as a file's content; the layout is found once, not in every pass of drawing.

    Args:
        figure: The figure, whose layout is fixed by this.
        options: As for ``Figure.savefig``, such as ``format``.
    """
    engine, buffer = figure.get_layout_engine(), io.BytesIO()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    figure.savefig(buffer, **options)
    return buffer.getvalue()


def _figure(panels: int, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    with style():
        figure = Figure(figsize=(max(6.4, 4.3 * panels), height), layout="constrained")
        axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
    return figure, axes


def select(frame: pd.DataFrame, **keys: str | float) -> pd.DataFrame:
    """Rows whose columns equal the given values."""
    for column, wanted in keys.items():
        frame = frame[frame[column] == wanted]
    return frame


def without_useless_noise(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows without the models noised for a meaningful ε, whose distances would dwarf all others."""
    return frame[~frame["method"].str.contains(" for ε = ", regex=False)]


def without_other_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows without the Newton steps at another λ, or other statistics, than the release's: they have a table."""
    return frame[~frame["method"].str.startswith("newton, ")]


def of_seeds(values: "pd.Series[float]", seeds: int) -> str:
    """Says so when a mean is over fewer seeds than the others, and must not be compared with them."""
    known = int(values.notna().sum())
    return f" ({known} of {seeds} seeds)" if 0 < known < seeds else ""


def _line(axes: Axes, rows: pd.DataFrame, label: str, number: int, factor: float = 1.0) -> None:
    """Mean over seeds against the point, with a band of one standard deviation.

    A point that some seeds lack is left out: its mean could not be compared with its neighbours'.
    """
    grouped = rows.groupby("point")["value"].agg(["mean", "std", "count"])
    grouped = grouped[grouped["count"] == grouped["count"].max()].drop(columns="count").fillna(0.0) * factor
    if grouped.empty:
        return
    x, mean, deviation = (np.asarray(v, dtype=float) for v in (grouped.index, grouped["mean"], grouped["std"]))
    many = len(x) > 15
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    # Later lines are thinner and dashed: where two coincide, both can be seen.
    axes.plot(
        x, mean, color=colour, linestyle=LINES[number % len(LINES)], linewidth=max(1.2, 2.6 - 0.7 * number),
        marker=None if many else marker, markersize=max(4, 7 - 1.5 * number), label=label,
    )  # fmt: skip
    axes.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)


def _dots(axes: Axes, rows: pd.DataFrame, methods: Sequence[str], label: str, number: int, factor: float = 1.0) -> None:
    """Mean over seeds per method with error bars, one method a row, the first on top."""
    grouped = rows.groupby("method")["value"].agg(["mean", "std"]).reindex(list(methods)) * factor
    height = np.arange(len(methods))[::-1] + 0.16 * (1 - number)
    axes.errorbar(
        grouped["mean"], height, xerr=grouped["std"].fillna(0.0), fmt=MARKERS[number], color=COLOURS[number],
        markersize=5, capsize=2, linewidth=1, label=label,
    )  # fmt: skip
    axes.set_yticks(np.arange(len(methods))[::-1], list(methods))
    axes.set_ylim(-0.6, len(methods) - 0.4)


def _per_method(axes: Axes, rows: pd.DataFrame, labels: dict[str, str] | None = None) -> None:
    """One line per method in order of appearance, or for those named in ``labels``."""
    names = labels or {name: name for name in dict.fromkeys(rows["method"])}
    for number, (name, label) in enumerate(names.items()):
        _line(axes, select(rows, method=name), label, number)


def theory_noise(frame: pd.DataFrame) -> Figure:
    """Left: σ of the classical formula over the exact σ. Right: simulated δ against the closed form."""
    figure, (noise, profile) = _figure(2)
    _per_method(noise, select(frame, metric="sigma_ratio"))
    noise.axhline(1.0, color=COLOURS[6], linestyle="--", linewidth=1, label="below: too little noise")
    noise.set(xscale="log", xlabel="ε", ylabel="classical σ / exact σ")
    noise.legend(fontsize=8)
    rows = select(frame, metric="monte_carlo_z")
    profile.scatter(rows["point"], rows["value"], s=14, color=COLOURS[0], label="one seed and noise")
    for edge in (-2, 2):
        profile.axhline(edge, color=COLOURS[6], linestyle="--", linewidth=1, label="±2" if edge > 0 else None)
    profile.set(xscale="log", xlabel="ε", ylabel="simulated δ − formula (standard errors)", ylim=(-5, 5))
    profile.legend(fontsize=8)
    return figure


def theory_newton(frame: pd.DataFrame) -> Figure:
    """The undamped Newton step on softmax regression.

    Its error against the share and against the number that is forgotten; the difference of its two forms against the
    gradient that training left.
    """
    figure, (share, size, forms) = _figure(3, 3.2)
    rows = select(frame, metric="step_error")
    _line(share, select(rows, axis="share"), "one fixed set", 0)
    share.set(xlabel="share t that is forgotten", ylabel="‖w̃ − w̃*‖ after the step")
    _per_method(size, select(rows, axis="forget size"))
    size.set(xlabel="samples forgotten n_u", ylabel="‖w̃ − w̃*‖ after the step")
    rows = frame[(frame["axis"] == "gradient norm") & (frame["point"] > ROUNDING / 10)]
    _line(forms, select(rows, metric="forms_difference"), "measured", 0)
    forms.set(xlabel="‖∇L(w*, D)‖ where training stopped", ylabel="difference of the forms / step")
    for panel in (share, size, forms):
        panel.set(xscale="log", yscale="log")
    for panel in (share, size):
        _ticks_at_points(panel)
    _guide(share, 2)
    _guide(size, 1)
    _guide(size, 2, line=1)
    _guide(forms, 1, end=0)
    for panel in (share, size, forms):
        panel.legend(fontsize=8)
    return figure


def _ticks_at_points(axes: Axes) -> None:
    """A labelled tick at every point of the first line, and no others."""
    ticks = np.asarray(axes.lines[0].get_xdata(), dtype=float)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _guide(axes: Axes, power: int, line: int = 0, end: int = -1) -> None:
    """A dashed line of slope ``power`` through one end of a line that is drawn already."""
    x, y = (np.asarray(values, dtype=float) for values in axes.lines[line].get_data())
    pattern = ("--", ":")[power - 1]
    axes.plot(
        x, y[end] * (x / x[end]) ** power, color=COLOURS[6], linestyle=pattern, linewidth=1, label=f"slope {power}"
    )


def theory_bound(frame: pd.DataFrame) -> Figure:
    """Bound of Theorem 3.4 and measured error against λ, both over 2C: a bound above the dashed line says nothing."""
    known = {"ridge": "ridge", "softmax": "softmax", "smooth network": "smooth network", "network": "ReLU network"}
    damped = frame[(frame["axis"] == "damping") & frame["metric"].isin(["bound", "distance"])]
    trivial = select(frame, metric="trivial_bound").set_index(["method", "seed"])["value"]
    base = trivial.reindex(pd.MultiIndex.from_frame(damped[["method", "seed"]])).to_numpy()
    relative = damped.assign(value=damped["value"] / base)
    figure, panels = _figure(2)
    titles = {"bound": "bound / 2C", "distance": "measured ‖w̃ − w̃*‖ / 2C"}
    for panel, (metric, title) in zip(panels, titles.items(), strict=True):
        _per_method(panel, select(relative, metric=metric), known)
        panel.axhline(1.0, color=COLOURS[6], linestyle="--", linewidth=1, label="2C, without any method")
        panel.set(xscale="log", yscale="log", xlabel="damping λ", ylabel=title)
    panels[0].legend(fontsize=8)
    return figure


def theory_lissa(frame: pd.DataFrame) -> Figure:
    """LiSSA on the network.

    Top left: distance of the truncated series to the inverse, and of the draws' mean to the
    series. Others: relative error to the exact solution against depth, repeats s₁ and scale h.
    """
    figure, grid = _grid()
    rows = select(frame, axis="depth")
    names = {
        "lissa_truncation": "series to inverse",
        "lissa_bias": "mean of draws to series",
        "lissa_bias_noise": "expected from sampling",
    }
    for number, (metric, label) in enumerate(names.items()):
        _line(grid[0], select(rows, metric=metric), label, number)
    grid[0].set(xlabel="depth s₂ (steps)", ylabel="relative distance", yscale="log")
    grid[0].legend(fontsize=8)
    for panel, (axis, label) in zip(
        grid[1:], {"depth": "depth s₂ (steps)", "repeats": "repeats s₁", "scale": "scale h"}.items(), strict=True
    ):
        _line(panel, select(frame, metric="lissa_error", axis=f"LiSSA {axis}"), axis, 0)
        panel.set(xscale="log", yscale="log", xlabel=label, ylabel="relative error")
        if panel.lines:
            _ticks_at_points(panel)
    return figure


def _grid(height: float = 6.4) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(8.8, height), layout="constrained")
    with style():
        return figure, [figure.add_subplot(2, 2, number + 1) for number in range(4)]


def theory_requests(frame: pd.DataFrame) -> Figure:
    """Training stopped early, and several requests.

    Top: bound and error over 2C against epochs of training, and against requests. Bottom: difference of the step's
    two forms against the gradient that training left, a point for each number of epochs; ε of k releases.
    """
    names = {"softmax": "softmax", "smooth network": "smooth network", "network": "ReLU network"}
    trivial = select(frame, metric="trivial_bound").set_index(["method", "seed"])["value"]
    base = trivial.reindex(pd.MultiIndex.from_frame(frame[["method", "seed"]])).to_numpy()
    relative = frame.assign(value=frame["value"] / base)
    figure, grid = _grid(height=7.4)
    for panel, (axis, label) in zip(grid, {"epochs": "epochs of training", "request": "request"}.items(), strict=False):
        for number, (name, title) in enumerate(names.items()):
            rows = relative[(relative["axis"] == axis) & (relative["method"] == name)]
            for metric, word in {"bound": "bound", "distance": "error"}.items():
                _bound_or_error(panel, select(rows, metric=metric), f"{title}: {word}", number, metric == "bound")
        panel.axhline(1.0, color=COLOURS[6], linestyle="--", linewidth=1, label="2C")
        panel.set(yscale="log", xlabel=label, ylabel="distance / 2C")
        panel.legend(fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    grid[0].set_xscale("log")
    _ticks_at_points(grid[0])
    grid[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for number, name in enumerate(("smooth network", "network")):
        rows = select(frame, axis="epochs", method=name)
        means = rows[rows["metric"].isin(["gradient_original", "forms_difference"])].pivot_table(
            index="point", columns="metric", values="value"
        )
        if not means.empty:
            grid[2].plot(
                means["gradient_original"], means["forms_difference"], color=COLOURS[number + 1],
                marker=MARKERS[number + 1], linestyle="", label=names[name],
            )  # fmt: skip
    grid[2].set(xlabel="‖∇L(w*, D)‖ after training", ylabel="difference of the forms / step")
    grid[2].set_ylim(0, 1.2 * grid[2].get_ylim()[1])
    grid[2].legend(fontsize=8, loc="lower right")
    _per_method(grid[3], select(frame, metric="epsilon", axis="releases"))
    grid[3].set(xscale="log", yscale="log", xlabel="releases k", ylabel="ε together")
    grid[3].legend(fontsize=8)
    return figure


def _bound_or_error(axes: Axes, rows: pd.DataFrame, label: str, number: int, bound: bool) -> None:
    """Mean over seeds: a bound as a solid line, an error as a dotted one, in the colour of its set-up."""
    means = rows.groupby("point")["value"].agg(["mean", "std"]).fillna(0.0)
    if means.empty:
        return
    axes.errorbar(
        means.index, means["mean"], yerr=means["std"], color=COLOURS[number], linestyle="-" if bound else ":",
        marker=MARKERS[number], markersize=5, markerfacecolor=COLOURS[number] if bound else "white", capsize=2,
        linewidth=1.2, label=label,
    )  # fmt: skip


def theory_control(frame: pd.DataFrame) -> Figure:
    """The control experiment.

    Left: measured distance to true retraining against the certified one, all deletions of all seeds; below the line
    the certificate holds; hollow points exceed the budget and are retrained. Right: accuracy after two steps, or after
    retraining, without noise and with that of ε.
    """
    figure, (distance, price) = _figure(2, 4.0)
    rows = select(frame, axis="steps")
    keys = ["seed", "method", "point"]
    wide = rows[rows["split"] == ""].pivot_table(index=keys, columns="metric", values="value").reset_index()
    for number, (steps, group) in enumerate(wide.groupby("point")):
        kept, colour = group["fallback"] == 0, COLOURS[number]
        for part, face in ((group[kept], colour), (group[~kept], "none")):
            distance.scatter(
                part["certified_distance"], part["measured_distance"], s=18, edgecolors=colour, facecolors=face,
                marker=MARKERS[number], linewidths=0.8,
            )  # fmt: skip
        distance.scatter(
            [], [], s=18, color=COLOURS[number], marker=MARKERS[number],
            label=f"{steps:g} step{'' if steps == 1 else 's'}",
        )  # fmt: skip
    ends = np.array([wide["certified_distance"].min(), wide["certified_distance"].max()])
    distance.plot(ends, ends, color=COLOURS[6], linewidth=1, label="measured = certified")
    distance.set(xscale="log", yscale="log", xlabel="certified distance, residual/l2", ylabel="measured ‖w̃ − w̃*‖")
    distance.legend(fontsize=8)
    final = select(rows, metric="accuracy", point=2.0)
    methods = list(dict.fromkeys(final["method"]))
    for number, split in enumerate(dict.fromkeys(final["split"])):
        label = "without noise" if split == "test" else split.removeprefix("test, ")
        _dots(price, select(final, split=split), methods, label, number, 100)
    price.set(xlabel="test accuracy (%)")
    price.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


def training(frame: pd.DataFrame) -> Figure:
    """Training loss, norm and share of projected steps against epochs, for the original and the retrained model."""
    figure, axes = _figure(3, 3.0)
    labels = {"loss": "mean training loss (nats)", "norm": "norm ‖w‖₂", "projected": "steps projected"}
    for panel, (metric, label) in zip(axes, labels.items(), strict=True):
        for number, method in enumerate(("original", "retrain")):
            rows = select(frame, metric=metric, method=method, axis="epoch")
            _line(panel, rows, method, number)
        panel.set(xlabel="epoch", ylabel=label)
    axes[0].set_yscale("log")
    axes[0].legend(fontsize=8)
    axes[2].yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def unlearning(frame: pd.DataFrame) -> Figure:
    """Accuracy on the three sets, and ℓ₂ distances of the weights, per method (zeros are not drawn)."""
    frame = without_useless_noise(frame)
    methods = list(dict.fromkeys(select(frame, metric="accuracy").dropna(subset=["value"])["method"]))
    frame = frame[~frame["metric"].str.startswith("distance") | (frame["value"] > ROUNDING)]
    figure, (accuracy, distance) = _figure(2, 0.9 + 0.36 * len(methods))
    names = {"forget": "forget set", "retain": "retained set", "test": "test set"}
    for number, (split, label) in enumerate(names.items()):
        _dots(accuracy, select(frame, metric="accuracy", split=split), methods, label, number, 100)
    accuracy.set(xlabel="accuracy (%)")
    accuracy.legend(fontsize=8)
    _dots(distance, select(frame, metric="distance_to_retrained"), methods, "to the retrained model", 0)
    _dots(distance, select(frame, metric="distance_to_original"), methods, "to the original model", 1)
    distance.set(xlabel="ℓ₂ distance of weights")
    distance.set_xscale("log")
    distance.set_yticklabels([])
    for panel in (accuracy, distance):
        panel.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


def methods_table(frame: pd.DataFrame) -> Figure:
    """Left: accuracy minus the retrained model's of the same seed. Right: time as a share of retraining's.

    Rows that end in ε carry the noise that certifies it; a share of zero is not drawn.
    """
    paired = _minus(select(frame, metric="accuracy"), "retrain")
    names = [name for name in dict.fromkeys(paired.dropna(subset=["value"])["method"]) if name != "retrain"]
    figure, (accuracy, share) = _figure(2, 1.0 + 0.3 * len(names))
    for number, (split, label) in enumerate({"forget": "forget set", "test": "test set"}.items()):
        _dots(accuracy, select(paired, split=split), names, label, number, 100)
    accuracy.axvline(0.0, color=COLOURS[6], linestyle="--", linewidth=1)
    accuracy.set_xscale("symlog", linthresh=1.0)
    accuracy.set_xlim(-150, 12)
    accuracy.set_xticks([-100, -10, -1, 0, 1, 10], ["−100", "−10", "−1", "0", "1", "10"])
    accuracy.set(xlabel="accuracy − retrained (points, linear within ±1)")
    accuracy.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    seconds = select(frame, metric="seconds")
    base = select(seconds, method="retrain").set_index("seed")["value"]
    rows = seconds.assign(value=seconds["value"] / base.reindex(seconds["seed"]).to_numpy())
    _dots(share, rows[rows["value"] > 0], names, "", 0, 100)
    share.axvline(100.0, color=COLOURS[6], linestyle="--", linewidth=1)
    share.set(xscale="log", xlabel="time (% of retraining)")
    share.set_yticklabels([])
    return figure


def _minus(rows: pd.DataFrame, method: str) -> pd.DataFrame:
    """Values less those of one method, seed by seed and split by split."""
    keys = ["seed", "split"]
    base = select(rows, method=method).set_index(keys)["value"]
    return rows.assign(value=rows["value"] - base.reindex(pd.MultiIndex.from_frame(rows[keys])).to_numpy())


#: Rows of the compute axis that no noise was added to: the same program from untrained weights, from the noise alone,
#: and from the original.
UNNOISED = ("from scratch", "from noise", "original")


def epsilons(frame: pd.DataFrame) -> list[float]:
    """The ε at which certified methods went on training, ascending."""
    splits = select(frame, metric="later_accuracy")["split"].astype(str)
    return sorted({float(split.split("ε = ")[1]) for split in splits if "ε = " in split})


def methods_compute(frame: pd.DataFrame) -> Figure:
    """Test accuracy of certified releases that go on training on the retained set, which is free in privacy.

    Top left: against the epochs k, at the smallest ε. Others: against ε, before any epoch, after the first look and
    after the last. Grey: the same program from untrained weights (solid), from noise of norm C that no model was added
    to (dotted), and from the original without noise and certificate (dashed).
    """
    figure, grid = _grid(7.6)
    rows = frame[(frame["metric"] == "later_accuracy") & frame["split"].str.startswith("test")]
    wanted, points = epsilons(rows), sorted(rows["point"].dropna().unique())
    looks = dict(zip((points[0], points[min(1, len(points) - 1)], points[-1]), grid[1:], strict=False))
    names = [name for name in dict.fromkeys(rows["method"]) if name not in UNNOISED]
    by_epsilon = rows.assign(point=pd.to_numeric(rows["split"].str.split("ε = ").str[1]), epochs=rows["point"])
    for number, name in enumerate(names):
        if wanted:
            _line(grid[0], select(rows, method=name, split=f"test, ε = {wanted[0]:g}"), str(name), number, 100)
        for epochs, panel in looks.items():
            _line(panel, select(by_epsilon, method=name, epochs=float(epochs)), str(name), number, 100)
    for name, line in zip(UNNOISED, ("-", ":", "--"), strict=True):
        means = select(rows, method=name).groupby("point")["value"].mean() * 100
        grid[0].plot(means.index, means, color="0.5", linestyle=line, linewidth=1.6, label=name)
        for epochs, panel in looks.items():
            if epochs in means.index:
                panel.axhline(means[epochs], color="0.5", linestyle=line, linewidth=1.6)
    title = f"ε = {wanted[0]:g}" if wanted else ""
    grid[0].set(xlabel="k, epochs on the retained set", ylabel="test accuracy (%)", title=title)
    grid[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for epochs, panel in looks.items():
        panel.set(xscale="log", xlabel="certified ε", ylabel="test accuracy (%)", title=f"k = {epochs:g}")
    figure.legend(*grid[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return figure


def methods_tuning(frame: pd.DataFrame) -> Figure:
    """Gap to the retrained model of every trial (hollow) and of the one that was chosen (filled), all seeds.

    The gap is the sum of the absolute differences in accuracy on the validation and on the forget samples.
    """
    trials, winners = (select(frame, metric=metric, split="") for metric in ("trial_gap", "chosen_gap"))
    names = list(dict.fromkeys(trials["method"]))
    heights = {name: float(len(names) - 1 - row) for row, name in enumerate(names)}
    figure, (panel,) = _figure(1, 1.2 + 0.27 * len(names))
    looks = ((trials, "none", 0.0, 14, "trial"), (winners, COLOURS[0], 0.0, 26, "chosen"))
    for rows, face, shift, size, label in looks:
        height = [heights[str(name)] + shift for name in rows["method"]]
        panel.scatter(100 * rows["value"], height, s=size, facecolors=face, edgecolors=COLOURS[0], label=label)
    panel.set_yticks(list(heights.values()), list(heights))
    panel.set_xscale("symlog", linthresh=1.0)
    panel.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    panel.set(xlabel="gap to the retrained model (points, linear below 1)", xlim=(-0.05, 250))
    panel.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


#: Families of methods, by names; a release "name, ε = …" is certified whatever the method, the last take the rest.
FAMILIES: dict[str, tuple[str, ...]] = {
    "yardsticks": ("original", "retrain", "second retraining"),
    "the paper's methods, without a certificate": (
        "newton", "newton, lissa", "fine-tuning", "negative gradient", "Fisher forgetting", "L-CODEC", "Newton step",
    ),
    "certified, and the same without noise": (
        "output perturbation", "noisy fine-tuning", "rewind", "rewind, linear", "Langevin, linear",
        "certified removal, linear",
    ),
    "heuristics": (),
}  # fmt: skip


def family(label: str) -> str:
    """The family of a method or of one of its releases."""
    yardsticks, paper, certified, rest = FAMILIES
    name = label.split(", ε = ")[0].removesuffix(" + noise")
    if label != name and ", ε = " in label:
        return certified
    return next((title for title in (yardsticks, paper, certified) if name in FAMILIES[title]), rest)


def attacks(frame: pd.DataFrame) -> Figure:
    """The paper's attack per model. Left: AUC and accuracy. Right: true-positive rate at false-positive rates.

    The dotted line is the retrained model's mean; chance is dashed at left and the false-positive rate itself at right.
    """
    auc = select(frame, metric="auc")
    methods = list(dict.fromkeys(auc.dropna(subset=["value"])["method"]))
    figure, (area, rate) = _figure(2, 1.2 + 0.27 * len(methods))
    _dots(area, auc, methods, "AUC", 0)
    _dots(area, select(frame, metric="attack_accuracy"), methods, "accuracy", 1)
    area.axvline(0.5, color=COLOURS[6], linestyle="--", linewidth=1, label="chance")
    area.axvline(float(select(auc, method="retrain")["value"].mean()), color=COLOURS[0], linestyle=":", linewidth=1.4)
    area.set(xlabel="attack on held-out rows (share)")
    rates = select(frame, metric="tpr")
    for number, level in enumerate(sorted(rates["point"].dropna().unique(), reverse=True)):
        _dots(rate, select(rates, point=level), methods, f"at {100 * level:g} % false positives", number, 100)
        rate.axvline(100 * level, color=COLOURS[number], linestyle="--", linewidth=1)
    rate.set(xlabel="true-positive rate (%)")
    rate.set_yticklabels([])
    for panel in (area, rate):
        panel.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


def shadows(frame: pd.DataFrame) -> Figure:
    """The likelihood-ratio attack. Left: area under the curve per model, with 95 % bootstrap intervals over shadows.

    Right: curves of "forgotten or never trained on?" for the yardsticks and the models that give most away; below, how
    many pairs of shadows are told right, by target: median with the range from 5 to 95 %.
    """
    areas = select(frame, metric="lira_auc").dropna(subset=["value"])
    methods = list(dict.fromkeys(areas["method"]))
    with style():
        figure = Figure(figsize=(9.6, max(6.0, 1.2 + 0.3 * len(methods))), layout="constrained")
        grid = figure.add_gridspec(2, 2)
        dots, curves, single = (figure.add_subplot(place) for place in (grid[:, 0], grid[0, 1], grid[1, 1]))
    labels = {"never trained": "forgotten or never trained on?", "retrained": "unlearned or retrained?"}
    for number, (world, label) in enumerate(labels.items()):
        middle, low, high = (
            select(frame, metric=metric, split=world).groupby("method")["value"].mean().reindex(methods)
            for metric in ("lira_auc", "lira_auc_low", "lira_auc_high")
        )
        height = np.arange(len(methods))[::-1] + 0.16 * (1 - number)
        dots.errorbar(
            middle, height, xerr=np.stack([middle - low, high - middle]), fmt=MARKERS[number], color=COLOURS[number],
            markersize=5, capsize=2, linewidth=1, label=label,
        )  # fmt: skip
    dots.set_yticks(np.arange(len(methods))[::-1], methods)
    dots.axvline(0.5, color=COLOURS[6], linestyle="--", linewidth=1)
    dots.set(xlabel="area under the ROC curve", ylim=(-0.6, len(methods) - 0.4))
    dots.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1, frameon=False)
    never = select(areas, split="never trained").groupby("method")["value"].mean().sort_values(ascending=False)
    most = [str(name) for name in never.index if name not in {"original", "retrain", "newton"}][:3]
    for number, name in enumerate(["original", "retrain", "newton", *most]):
        rows = select(frame, metric="lira_roc", split="never trained", method=name)
        means = rows.groupby("point")["value"].mean()
        means = means[means > 0]
        curves.plot(
            means.index, means, color=COLOURS[number], linestyle=LINES[number % len(LINES)], linewidth=1.6, label=name
        )
    curves.plot([1e-3, 1], [1e-3, 1], color="0.5", linestyle=":", linewidth=1, label="chance")
    curves.set(xscale="log", yscale="log", xlabel="false-positive rate", ylabel="true-positive rate")
    curves.legend(fontsize=7)
    spread = select(frame, metric="vulnerability", split="never trained")
    names = [str(name) for name in never.index]
    ends = [spread[spread["point"] == q].groupby("method")["value"].mean().reindex(names) for q in (0.05, 0.5, 0.95)]
    places = np.arange(len(names))
    single.vlines(places, ends[0], ends[2], color=COLOURS[0], linewidth=1.5)
    single.plot(places, ends[1], MARKERS[0], color=COLOURS[1], markersize=4)
    single.axhline(0.5, color=COLOURS[6], linestyle="--", linewidth=1)
    single.set_xticks(places, names, rotation=90, fontsize=6)
    single.set(ylabel="pairs told right, by target")
    return figure


#: Losses above this, over the target, are not drawn: those of networks of noise, beside which nothing could be seen.
LARGEST_LOSS = 1e4


def relearn(frame: pd.DataFrame) -> Figure:
    """Left: epochs until the loss on the forget set is the original's. Right: that loss over the target, by family.

    A curve ends with its quickest seed; the target is dashed; losses of more than 10⁴ times the target are not drawn.
    """
    epochs = select(frame, metric="epochs").dropna(subset=["value"])
    methods = list(dict.fromkeys(epochs["method"]))
    families = [title for title in FAMILIES if any(family(name) == title for name in methods)]
    with style():
        figure = Figure(figsize=(9.6, max(8.0, 1.0 + 0.3 * len(methods))), layout="constrained")
        grid = figure.add_gridspec(len(families), 2)
        dots = figure.add_subplot(grid[:, 0])
        panels = [figure.add_subplot(grid[row, 1]) for row in range(len(families))]
    _dots(dots, epochs, methods, "", 0)
    dots.set(xlabel="epochs on the forget set alone")
    losses = select(frame, metric="relearn_loss")
    losses = losses[losses["value"] < LARGEST_LOSS]
    for panel, title in zip(panels, families, strict=True):
        for number, name in enumerate(name for name in methods if family(name) == title):
            _line(panel, select(losses, method=name), name, number)
        panel.axhline(1.0, color="grey", linestyle="--", linewidth=1)
        panel.set(ylabel="loss / target", yscale="log", title=title)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    panels[-1].set(xlabel="epochs on the forget set alone")
    return figure


#: How the names of those planted errors end that are right.
PLANTED_RIGHT = " right"


def audit(frame: pd.DataFrame) -> Figure:
    """What trials show of ε, by certified method and forget set, beside the certified ε (black bars).

    The largest over views and seeds of bounds at 95 %: circles by Clopper-Pearson, squares by Gaussian differential
    privacy; crosses are what so many trials could have given the former at most. A circle or square right of the bar
    contradicts the certificate.
    """
    rows = frame.assign(method=frame["method"].str.cat(frame["split"].str.split(", ").str[0], sep=", "))
    methods = list(dict.fromkeys(select(rows, metric="certified_epsilon")["method"]))
    figure, (panel,) = _figure(1, 1.4 + 0.25 * len(methods))
    looks = {
        "audit_epsilon": ("Clopper-Pearson", "o", COLOURS[0]),
        "audit_gaussian": ("Gaussian", "s", COLOURS[1]),
        "detectable": ("detectable", "x", "0.5"),
        "certified_epsilon": ("certified", "|", COLOURS[6]),
    }
    height = np.arange(len(methods))[::-1]
    for metric, (label, marker, colour) in looks.items():
        largest = select(rows, metric=metric).groupby("method")["value"].max().reindex(methods)
        size = 12 if marker == "|" else 5
        panel.plot(largest, height, marker, color=colour, markersize=size, label=label, fillstyle="none")
    panel.set_yticks(height, methods)
    panel.set_xscale("symlog", linthresh=0.1)
    panel.set_xticks([0, 0.1, 1, 10], ["0", "0.1", "1", "10"])
    panel.set(xlabel="ε (linear below 0.1)", xlim=(-0.01, 20), ylim=(-0.8, len(methods) - 0.2))
    panel.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False)
    return figure


#: Simulated audits: the method under which their numbers stand, and the beginning of those of other strategies.
SIMULATED, OTHER_STRATEGIES = "simulated", "simulated: "


def audit_power(frame: pd.DataFrame) -> Figure:
    """In how many simulated audits the certificate is contradicted when the noise is so many times too small.

    Bars are 95 % intervals of that share (Clopper-Pearson; of several seeds their mean). The direction is known and the
    pair is Δ, or half of it, apart; a pair at half of Δ has the certified ε when the noise is two times too small, so
    that there is nothing to find left of it. The dashed line is the share of wrong contradictions that is allowed for.
    """
    figure, (panel,) = _figure(1)
    rows = select(frame, method=SIMULATED)
    for number, distance in enumerate(dict.fromkeys(select(rows, metric="detected")["split"])):
        own = select(rows, split=str(distance))
        share, low, high = (
            select(own, metric=metric).groupby("point")["value"].mean()
            for metric in ("detected", "detected_low", "detected_high")
        )
        panel.errorbar(
            np.asarray(share.index, dtype=float) * (1 + 0.02 * number), 100 * share,
            yerr=100 * np.stack([share - low, high - share]), color=COLOURS[number], marker=MARKERS[number],
            linestyle=LINES[number], markersize=5, capsize=2, linewidth=1.2, label=f"pair at a distance of {distance}",
        )  # fmt: skip
    panel.axhline(5, color=COLOURS[6], linestyle="--", linewidth=1)
    panel.set(xscale="log", xlabel="noise so many times too small", ylabel="audits that contradict (%)", ylim=(-3, 103))
    points = sorted(set(select(rows, metric="detected")["point"]))
    panel.set_xticks(points, [f"{point:g}" for point in points])
    panel.minorticks_off()
    panel.legend(fontsize=8)
    return figure


#: Models that the ablations compare, and what they are called there.
_JUDGED = {"original": "doing nothing", "newton": "after the step", "retrain": "retrained"}


def ablations(frame: pd.DataFrame) -> Figure:
    """Damping λ and radius C: distance to the retrained model, Theorem 3.4's bound beside 2C, and test accuracy.

    The distances after the step and of doing nothing coincide where the step moves nothing.
    """
    figure, grid = _grid()
    for axes, axis, label in ((grid[0], "damping", "damping λ"), (grid[2], "radius", "radius C")):
        for number, name in enumerate(("newton", "original")):
            _line(axes, select(frame, metric="distance_to_retrained", axis=axis, method=name), _JUDGED[name], number)
        axes.set(xscale="log", xlabel=label, ylabel="distance to the retrained model")
        axes.legend(fontsize=8)
    for number, (metric, label) in enumerate(
        {"bound": "Theorem 3.4, constants measured", "trivial_bound": "2C"}.items()
    ):
        _line(grid[1], select(frame, metric=metric, axis="damping"), label, number)
    grid[1].set(xscale="log", yscale="log", xlabel="damping λ", ylabel="bound on the distance")
    if grid[1].lines:
        grid[1].legend(fontsize=8)
    for number, (name, label) in enumerate(_JUDGED.items()):
        _line(grid[3], select(frame, metric="accuracy", axis="radius", split="test", method=name), label, number, 100)
    grid[3].set(xscale="log", xlabel="radius C", ylabel="test accuracy (%)")
    grid[3].legend(fontsize=8)
    _ticks_at_points(grid[2])
    _ticks_at_points(grid[3])
    return figure


def ablations_noise(frame: pd.DataFrame) -> Figure:
    """Test accuracy against the noise σ, and against the ε that it certifies at Δ = 2C."""
    figure, (noise, privacy) = _figure(2, 3.8)
    rows = select(frame, metric="accuracy", axis="sigma", split="test")
    epsilon = select(frame, metric="epsilon", axis="sigma").groupby("point")["value"].mean()
    for number, (name, label) in enumerate(_JUDGED.items()):
        own = select(rows, method=f"{name} + noise")
        _line(noise, own, label, number, 100)
        _line(privacy, own.assign(point=own["point"].map(epsilon)), label, number, 100)
    noise.set(xscale="log", xlabel="noise σ per coordinate", ylabel="test accuracy (%)")
    privacy.set(xscale="log", xlabel="ε certified", ylabel="test accuracy (%)")
    noise.legend(fontsize=8)
    return figure


def ablations_setup(frame: pd.DataFrame) -> Figure:
    """Accuracy on the forget set by its size and kind, by weight decay and by width.

    Where "doing nothing" and "retrained" are apart there is something to forget; the step should come to "retrained".
    """
    figure, grid = _grid()
    rows = select(frame, metric="accuracy", split="forget")
    kinds = rows[rows["axis"].str.startswith("forget set: ")]
    order = list(dict.fromkeys(kinds["axis"]))
    for number, (name, label) in enumerate(_JUDGED.items()):
        own = select(kinds, method=name)
        spread = own.groupby("axis", sort=False)["value"].agg(["mean", "std"]).reindex(order).fillna(0.0) * 100
        grid[0].errorbar(
            np.arange(len(order)) + 0.15 * (number - 1), spread["mean"], spread["std"], fmt=MARKERS[number],
            color=COLOURS[number], label=label, capsize=2,
        )  # fmt: skip
    grid[0].set_xticks(range(len(order)), [name.removeprefix("forget set: ") for name in order])
    grid[0].set(xlabel="which samples", ylabel="accuracy on the forget set (%)", ylim=(None, 101))
    grid[0].legend(fontsize=8)
    labels = {"forgotten share": "share of the training set", "weight decay": "weight decay", "width": "width"}
    for axes, (axis, title) in zip(grid[1:], labels.items(), strict=True):
        for number, (name, label) in enumerate(_JUDGED.items()):
            _line(axes, select(rows, axis=axis, method=name), label, number, 100)
        axes.set(xlabel=title, ylabel="accuracy on the forget set (%)")
        if axis == "width" and axes.lines:
            axes.set_xscale("log")
            _ticks_at_points(axes)
    return figure


def ablations_lissa(frame: pd.DataFrame) -> Figure:
    """LiSSA's relative residual against its depth, repeats, scale and batch size; missing where it diverged."""
    figure, grid = _grid()
    rows = select(frame, metric="residual")
    labels = {"depth": "depth s₂ (steps)", "repeats": "repeats s₁", "scale": "scale h, in multiples of the usual one",
              "batch": "batch size"}  # fmt: skip
    for axes, (axis, label) in zip(grid, labels.items(), strict=True):
        own = select(rows, axis=axis)
        names = list(dict.fromkeys(own["method"]))
        for number, name in enumerate(names):
            _line(axes, select(own, method=name), name, number)
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="relative residual")
        if len(names) > 1:
            axes.legend(fontsize=8)
        if names:
            _ticks_at_points(axes)
    return figure


#: The models after a sequence of requests, by how they are called in figures, in the order of their colours.
SEQUENTIAL = {
    "newton": "after the step",
    "original": "doing nothing",
    "newton, forget gradient": "the form with D_u",
    "newton, from the release + noise": "the step, from the release",
}


def sequential(frame: pd.DataFrame) -> Figure:
    """Several requests, and training stopped early.

    Top: test accuracy after every request, without noise, with that used in practice and with that of the wanted ε in
    total; ε of k releases, each alone and together. Middle: distance to the model retrained after that request, before
    noise; accuracy on all that is gone so far. Bottom: bound and error of training that was stopped early, over 2C, and
    the test accuracy then.
    """
    figure = Figure(figsize=(8.8, 9.6), layout="constrained")
    with style():
        grid = [figure.add_subplot(3, 2, number + 1) for number in range(6)]
    tested, releases, distances, forgotten, bounds, early = grid
    requests = select(frame, axis="request")
    _after_requests(tested, select(requests, metric="accuracy", split="test"), "test accuracy (%)")
    _after_requests(forgotten, select(requests, metric="accuracy", split="forget"), "accuracy on what is gone (%)")
    _per_method(releases, select(frame, metric="epsilon", axis="releases"))
    releases.axhline(10, color=COLOURS[6], linestyle="--", linewidth=1, label="ε = 10: says next to nothing")
    releases.set(xscale="log", yscale="log", xlabel="releases k", ylabel="ε certified")
    for number, (name, label) in enumerate(SEQUENTIAL.items()):
        _line(distances, select(requests, metric="distance_to_retrained", method=name), label, number)
    distances.set(xlabel="request", ylabel="distance to the retrained model")
    trivial = float(select(frame, metric="trivial_bound")["value"].mean())
    stopped = select(frame, axis="epochs")
    curves = {"bound": ("bound", "newton"), "error": ("distance_to_retrained", "newton"),
              "doing nothing": ("distance_to_retrained", "original")}  # fmt: skip
    for number, (label, (metric, method)) in enumerate(curves.items()):
        _line(bounds, select(stopped, metric=metric, method=method), label, number, 1 / trivial)
    bounds.axhline(1.0, color=COLOURS[6], linestyle="--", linewidth=1, label="2C")
    bounds.set(xscale="log", yscale="log", xlabel="epochs of training", ylabel="distance / 2C")
    for number, (name, label) in enumerate({"newton": "after the step", "retrain": "retrained"}.items()):
        _line(early, select(stopped, metric="accuracy", split="test", method=name), label, number, 100)
    early.set(xscale="log", xlabel="epochs of training", ylabel="test accuracy (%)")
    for panel in (bounds, early):
        _ticks_at_points(panel)
    for panel in (tested, forgotten, distances):
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in grid:
        panel.legend(fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure


def _after_requests(axes: Axes, rows: pd.DataFrame, label: str) -> None:
    """Accuracy after every request: with noise and without, and of the retrained models."""
    names = [name for name in dict.fromkeys(rows["method"]) if name.startswith("newton + noise for ε")]
    curves = {
        "newton": "no noise",
        "newton + noise": "noise used in practice",
        "retrain": "retrained",
        **{name: name.partition(" + ")[2] for name in names},
        "newton, from the release + noise": "noise used, from the release",
    }
    for number, (name, title) in enumerate(curves.items()):
        _line(axes, select(rows, method=name), title, number, 100)
    axes.set(xlabel="request", ylabel=label, ylim=(0, 105))


def official_code(frame: pd.DataFrame) -> Figure:
    """Per departure by its number: step and residual against the paper's, accuracy, attack; LiSSA's residual.

    A difference of zero is not drawn.
    """
    methods = list(dict.fromkeys(select(frame, metric="accuracy")["method"]))
    figure, grid = _grid(2.6 + 0.46 * len(methods))
    seen = frame[~frame["metric"].isin(["step_difference", "residual"]) | (frame["value"] > ROUNDING)]
    _dots(grid[0], select(seen, metric="step_difference"), methods, "difference of the step / its norm", 0)
    _dots(grid[0], select(seen, metric="residual"), methods, "residual of (H + λI)x = g", 1)
    grid[0].set(xscale="log", xlabel="relative to the paper's step, to g")
    names = {"forget": "forget set", "retain": "retained set", "test": "test set"}
    for number, (split, label) in enumerate(names.items()):
        _dots(grid[1], select(frame, metric="accuracy", split=split), methods, label, number, 100)
    grid[1].set(xlabel="accuracy (%)")
    _dots(grid[2], select(frame, metric="auc"), methods, "held-out rows", 0)
    _dots(grid[2], select(frame, metric="published_auc"), methods, "fitted rows, as published", 1)
    grid[2].set(xlabel="AUC of the attack")
    grid[2].axvline(0.5, color="black", linewidth=1, linestyle=":")
    grid[1].set_yticklabels([])
    for number, (name, label) in enumerate({"paper": "λ above λ_max", "code": "the code's λ, h"}.items()):
        _line(grid[3], select(frame, metric="depth_residual", axis="depth", method=name), label, number)
    grid[3].set(xscale="log", yscale="log", xlabel="LiSSA depth s₂ (steps)", ylabel="relative residual")
    for panel, columns in zip(grid, (1, 3, 1, 1), strict=True):
        panel.legend(
            fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False, columnspacing=0.8,
            handletextpad=0.2,
        )  # fmt: skip
    return figure


def efficiency_peers(frame: pd.DataFrame) -> Figure:
    """Ours against other programs.

    Left: their time over ours, for LiSSA's steps and for an epoch of training. Right: time of products with the Hessian
    on all retained samples, in gradients.
    """
    figure, (ratios, products) = _figure(2, 4.2)
    rows = select(frame, metric="ratio").copy()
    rows = rows[rows["method"] != "cdu"]
    batch = rows["point"].map("{:g}".format)
    rows["program"] = rows["split"].str.cat("batch " + batch, sep=", ").where(rows["point"].notna(), rows["split"])
    names = list(dict.fromkeys(rows["program"]))
    for number, method in enumerate(("authors", "authors, data in memory")):
        _dots(ratios, rows[rows["method"] == method].assign(method=lambda own: own["program"]), names, method, number)
    ratios.axvline(1.0, color=COLOURS[6], linestyle="--", linewidth=1, label="as fast as ours")
    ratios.set(xlabel="time / ours")
    if names:
        ratios.set_xscale("log")
    ratios.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    rows = select(frame, metric="gradients", split="products")
    per_product = rows["value"].where(rows["method"] != "16 products at once", rows["value"] / 16)
    rows = rows.assign(value=per_product, method=rows["method"].replace("16 products at once", "one of 16 at once"))
    _dots(products, rows, list(dict.fromkeys(rows["method"])), "", 0)
    products.set(xlabel="time (gradients)", xlim=(0, None))
    return figure


def efficiency_solvers(frame: pd.DataFrame) -> Figure:
    """True relative residual against time, for every solver and damping; the density of H's eigenvalues.

    Bars reach from the shortest to the longest time.
    """
    splits = list(dict.fromkeys(select(frame, metric="residual")["split"]))
    splits = [split for split in splits if str(split).startswith("λ = ")]
    figure = Figure(figsize=(8.8, 3.6 * ((len(splits) + 2) // 2)), layout="constrained")
    with style():
        panels = [figure.add_subplot((len(splits) + 2) // 2, 2, number + 1) for number in range(len(splits) + 1)]
    methods = ("conjugate gradient", "preconditioned", "lissa", "curvlinops, conjugate gradient", "curvlinops, Neumann")
    for panel, split in zip(panels, splits, strict=False):
        rows = select(frame, split=split).pivot_table(index=["method", "point"], columns="metric", values="value")
        for number, method in enumerate(methods):
            if method not in rows.index.get_level_values("method"):
                continue
            own = pd.DataFrame(rows.loc[method]).dropna(subset=["residual"]).sort_values("seconds")
            spread = [own["seconds"] - own["seconds_low"], own["seconds_high"] - own["seconds"]]
            panel.errorbar(
                own["seconds"], own["residual"], xerr=spread, color=COLOURS[number], marker=MARKERS[number],
                linestyle=LINES[number % len(LINES)], markersize=5, capsize=2, linewidth=1.2, label=method,
            )  # fmt: skip
        panel.set(xscale="log", yscale="log", xlabel="time (s)", ylabel="relative residual", title=split)
        _plain_ticks(panel)
    panels[0].legend(fontsize=7)
    _density(panels[-1], frame)
    return figure


def _plain_ticks(axes: Axes) -> None:
    """Ticks of a logarithmic x axis at 1, 2 and 5 times powers of ten, as plain numbers."""
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _density(axes: Axes, frame: pd.DataFrame) -> None:
    """Weight of the spectrum's density over bins that are even in the cube root, so that both ends can be seen."""
    rows = select(frame, metric="density")
    if rows.empty:
        return
    low, high = float(rows["point"].min()), float(rows["point"].max())
    edges = np.linspace(np.cbrt(low), np.cbrt(high), 41)
    weights, _ = np.histogram(np.cbrt(rows["point"]), edges, weights=rows["value"] / rows["value"].sum())
    axes.stairs(np.maximum(weights, 1e-6), edges, color=COLOURS[0], fill=True, baseline=1e-6)
    marks = np.array([mark for mark in (-10, -1, -0.1, 0, 0.1, 1, 10, 100) if low <= mark <= high])
    axes.set_xticks(np.cbrt(marks), [f"{mark:g}" for mark in marks])
    axes.set(yscale="log", ylim=(1e-5, 1), xlabel="eigenvalue of H", ylabel="share of eigenvalues", title="spectrum")


def efficiency_scaling(frame: pd.DataFrame) -> Figure:
    """Time against the number of samples, of parameters, LiSSA's depth and its repeats."""
    figure, grid = _grid()
    rows = frame[(frame["metric"] == "seconds") & (frame["split"] == "scaling")].dropna(subset=["value"])
    axes = {
        "samples": "samples n", "parameters": "parameters p", "LiSSA depth": "depth s₂ (steps)",
        "LiSSA repeats": "repeats s₁",
    }  # fmt: skip
    for panel, (axis, label) in zip(grid, axes.items(), strict=True):
        _per_method(panel, select(rows, axis=axis))
        panel.set(xscale="log", yscale="log", xlabel=label, ylabel="time (s)")
        if panel.lines:
            panel.legend(fontsize=8)
        if panel.lines and axis != "parameters":
            _ticks_at_points(panel)
    return figure


def efficiency_retraining(frame: pd.DataFrame) -> Figure:
    """Test accuracy against time: retraining stopped after fewer epochs, and the Newton step by every solver."""
    figure, (panel,) = _figure(1, 4.0)
    rows = frame[(frame["metric"] == "seconds") & (frame["split"] == "unlearning") & (frame["value"] > 0)]
    rows = rows[rows["method"] != "retraining in full"]
    scored = select(frame, metric="accuracy", split="test")
    keys = ["seed", "method", "point"]
    joined = rows.merge(scored[[*keys, "value"]], on=keys, suffixes=("", "_accuracy"))
    means = joined.groupby(["method", "point"], dropna=False, sort=False)[["value", "value_accuracy"]].mean()
    for number, method in enumerate(dict.fromkeys(joined["method"])):
        own = means.loc[[method]]
        panel.plot(
            own["value"], 100 * own["value_accuracy"], color=COLOURS[number], marker=MARKERS[number],
            linestyle="-" if method == "retraining" else "", markersize=6, linewidth=1.2, label=method,
        )  # fmt: skip
    nothing = 100 * select(scored, method="original")["value"].mean()
    panel.axhline(nothing, color=COLOURS[6], linestyle="--", linewidth=1, label="the original, at no cost")
    panel.set(xscale="log", xlabel="time (s)", ylabel="test accuracy (%)")
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def scale(frame: pd.DataFrame) -> Figure:
    """Left: accuracy on the three sets. Right: on the test set, also with BatchNorm's statistics taken anew on D_r."""
    frame = without_other_steps(without_useless_noise(frame))
    methods = list(dict.fromkeys(select(frame, metric="accuracy").dropna(subset=["value"])["method"]))
    anew = select(frame, metric="recalibrated_accuracy", split="test")
    figure, (sets, statistics) = _figure(2, 1.2 + 0.34 * len(methods))
    names = {"forget": "forget set", "retain": "retained set", "test": "test set"}
    for number, (split, label) in enumerate(names.items()):
        _dots(sets, select(frame, metric="accuracy", split=split), methods, label, number, 100)
    _dots(statistics, select(frame, metric="accuracy", split="test"), methods, "statistics of training", 0, 100)
    if not anew.empty:
        _dots(statistics, anew, methods, "taken anew", 1, 100)
    tested, seeds = select(frame, metric="accuracy", split="test"), frame["seed"].nunique()
    labels = [name + of_seeds(select(tested, method=name)["value"], seeds) for name in methods]
    sets.set(xlabel="accuracy (%)", yticklabels=labels)
    statistics.set(xlabel="test accuracy (%)")
    statistics.set_yticklabels([])
    for panel in (sets, statistics):
        panel.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


def scale_bound(frame: pd.DataFrame) -> Figure:
    """Bound of Theorem 3.4 and measured error against λ, for both forms of the step and each kind of statistics.

    Horizontal lines: 2C, and the distance without any step. Vertical line: the largest λ_max seen. Where the forms lie
    on top of each other the second hides the first.
    """
    kinds = {"network": "BatchNorm's statistics as trained", "network, statistics of D_r first": "statistics of D_r"}
    known = [name for name in kinds if name in set(frame["method"])]
    figure, panels = _figure(len(known), 4.0)
    for panel, name in zip(panels, known, strict=True):
        anew = name.removeprefix("network")
        for number, (method, form) in enumerate(
            {name: "D_r form", f"network, forget gradient{anew}": "D_u form"}.items()
        ):
            rows = select(frame, axis="damping", method=method)
            for metric, word in {"bound": "bound", "distance": "error"}.items():
                _bound_or_error(panel, select(rows, metric=metric), f"{form}: {word}", number, metric == "bound")
        lines = {"trivial_bound": ("--", "2C"), "distance_original": ("-.", "‖w* − w̃*‖")}
        for metric, (pattern, label) in lines.items():
            height = select(frame, metric=metric, method=name)["value"].mean()
            panel.axhline(height, color=COLOURS[6], linestyle=pattern, linewidth=1, label=label)
        largest = select(frame, metric="lambda_max", method=name)["value"].max()
        panel.axvline(largest, color=COLOURS[3], linestyle=":", linewidth=1.2, label="λ_max seen")
        title = kinds[name] if len(known) > 1 else ""
        panel.set(xscale="log", yscale="log", xlabel="damping λ", ylabel="distance", title=title)
    panels[0].legend(fontsize=8)
    return figure


#: What the section on sweeps compares after the last request, and what it is called there.
_AFTER_REQUESTS = {
    "newton + noise": "step + noise",
    "newton, from the release + noise": "from the release",
    "original + noise": "original + noise",
    "retrain": "retrained",
}


def sweeps(frame: pd.DataFrame) -> Figure:
    """Test accuracy against the noise σ, against the radius C and after the last request; bound and error over 2C.

    "Taken anew" is with BatchNorm's statistics taken anew over the retained set. Bottom right: training that was
    stopped after so many epochs.
    """
    figure = Figure(figsize=(7.4, 7.0), layout="constrained")
    with style():
        noise, radius, requests, early = grid = [figure.add_subplot(2, 2, number + 1) for number in range(4)]
    tested, anew = (select(frame, metric=metric, split="test") for metric in ("accuracy", "recalibrated_accuracy"))
    renewed = [(anew, ", taken anew")] if anew["value"].notna().any() else []
    for number, (name, label) in enumerate(_JUDGED.items()):
        _line(noise, select(tested, axis="sigma", method=f"{name} + noise"), label, number, 100)
    for rows, label in renewed:
        _line(noise, select(rows, axis="sigma", method="newton + noise"), f"after the step{label}", 3, 100)
    noise.set(xscale="log", xlabel="noise σ per coordinate", ylabel="test accuracy (%)")
    for number, (rows, label) in enumerate([(tested, "as trained"), *renewed]):
        _line(radius, select(rows, axis="radius", method="original"), label.removeprefix(", "), number, 100)
    radius.set(xscale="log", xlabel="radius C", ylabel="test accuracy (%)")
    for number, (rows, label) in enumerate([(tested, "as trained"), *renewed]):
        own = select(rows, axis="request")
        _dots(requests, own, list(_AFTER_REQUESTS), label.removeprefix(", "), number, 100)
    requests.set_yticklabels(list(_AFTER_REQUESTS.values()))
    requests.set(xlabel="test accuracy (%)")
    trivial = float(select(frame, metric="trivial_bound")["value"].mean())
    stopped = select(frame, axis="epochs")
    curves = {"bound": ("bound", "newton"), "error": ("distance_to_retrained", "newton"),
              "doing nothing": ("distance_to_retrained", "original")}  # fmt: skip
    for number, (label, (metric, method)) in enumerate(curves.items()):
        _line(early, select(stopped, metric=metric, method=method), label, number, 1 / trivial)
    early.axhline(1.0, color=COLOURS[6], linestyle="--", linewidth=1, label="2C")
    early.set(xscale="log", yscale="log", xlabel="epochs of training", ylabel="distance / 2C")
    for panel in (radius, early):
        _ticks_at_points(panel)
    for panel in grid:
        panel.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure


#: The figure of each section, or of each of its parts.
FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "01_theory-noise": theory_noise,
    "01_theory-newton": theory_newton,
    "01_theory-bound": theory_bound,
    "01_theory-lissa": theory_lissa,
    "01_theory-requests": theory_requests,
    "01_theory-control": theory_control,
    "02_training": training,
    "03_unlearning": unlearning,
    "03_methods-table": methods_table,
    "03_methods-compute": methods_compute,
    "03_methods-tuning": methods_tuning,
    "04_attacks": attacks,
    "04_shadows": shadows,
    "05_relearn": relearn,
    "06_ablations": ablations,
    "06_ablations-noise": ablations_noise,
    "06_ablations-setup": ablations_setup,
    "06_ablations-lissa": ablations_lissa,
    "07_sequential": sequential,
    "08_efficiency-peers": efficiency_peers,
    "08_efficiency-solvers": efficiency_solvers,
    "08_efficiency-scaling": efficiency_scaling,
    "08_efficiency-retraining": efficiency_retraining,
    "09_official_code": official_code,
    "10_audit": audit,
    "10_audit-power": audit_power,
    "11_scale": scale,
    "11_bound": scale_bound,
    "11_sweeps": sweeps,
}
