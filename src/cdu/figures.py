"""Figures, drawn from long-form metrics and nothing else; the same function serves one run and all seeds.

Every function takes a frame with the columns of :class:`cdu.records.Metric` plus ``seed``. Points are means over
seeds, bars and bands one standard deviation. The colours are those of Okabe and Ito (2008), which colour-blind readers
can tell apart; lines also differ in their markers.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

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


def theory(frame: pd.DataFrame) -> Figure:
    """Noise of the classical formula over the exact noise; bound and error against λ."""
    figure, (noise, bound) = _figure(2)
    _line(noise, select(frame, metric="sigma_ratio"), "classical σ / exact σ", 0)
    noise.axhline(1.0, color=COLOURS[1], linestyle="--", label="below this line: too little noise")
    noise.set(xscale="log", xlabel="ε (no unit)", ylabel="classical σ / exact σ (no unit)")
    noise.legend(fontsize=8)
    damped = frame[frame["axis"] == "damping"]
    _line(bound, select(damped, metric="bound"), "Theorem 3.4 (measured constants)", 0)
    _line(bound, select(damped, metric="distance"), "measured error ‖w̃ − w̃*‖", 1)
    trivial = select(frame, metric="trivial_bound")["value"].mean()
    bound.axhline(trivial, color=COLOURS[2], linestyle="--", label="trivial bound 2C")
    bound.set(xscale="log", yscale="log", xlabel="damping λ", ylabel="ℓ₂ distance of weights")
    bound.legend(fontsize=8)
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


def attacks(frame: pd.DataFrame) -> Figure:
    """AUC and accuracy of the membership attack per model."""
    methods = list(dict.fromkeys(select(frame, metric="auc")["method"]))
    figure, (panel,) = _figure(1, 1.0 + 0.4 * len(methods))
    _dots(panel, select(frame, metric="auc"), methods, "AUC", 0)
    _dots(panel, select(frame, metric="attack_accuracy"), methods, "accuracy", 1)
    panel.axvline(0.5, color=COLOURS[6], linestyle="--", linewidth=1, label="chance")
    panel.set(xlabel="attack on held-out rows (share)")
    panel.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


def relearn(frame: pd.DataFrame) -> Figure:
    """Loss on the forget set while a model relearns it, over the target; a curve ends with its quickest seed."""
    figure, (panel,) = _figure(1, 3.6)
    methods = list(dict.fromkeys(select(frame, metric="relearn_loss")["method"]))
    for number, method in enumerate(methods):
        _line(panel, select(frame, metric="relearn_loss", method=method), method, number)
    panel.axhline(1.0, color="grey", linestyle="--", linewidth=1, label="target: the original model's loss")
    panel.set(xlabel="epochs on the forget set alone", ylabel="loss on the forget set / target", yscale="log")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def ablations(frame: pd.DataFrame) -> Figure:
    """Distance to the retrained model against λ and C, test accuracy against σ, LiSSA's residual against its depth."""
    figure = Figure(figsize=(8.8, 6.4), layout="constrained")
    with style():
        grid = [figure.add_subplot(2, 2, number + 1) for number in range(4)]
    for axes, axis, label in ((grid[0], "damping", "damping λ"), (grid[2], "radius", "radius C")):
        rows = select(frame, metric="distance_to_retrained", axis=axis)
        _line(axes, select(rows, method="newton"), "after the step", 0)
        _line(axes, select(rows, method="original"), "doing nothing", 1)
        axes.set(xscale="log", xlabel=label, ylabel="distance to the retrained model")
        axes.legend(fontsize=8)
    rows = select(frame, metric="accuracy", axis="sigma", split="test")
    _line(grid[1], select(rows, method="newton + noise"), "after the step", 0, 100)
    _line(grid[1], select(rows, method="original + noise"), "doing nothing", 1, 100)
    grid[1].set(xscale="log", xlabel="noise σ per coordinate", ylabel="test accuracy (%)")
    grid[1].legend(fontsize=8)
    for number, name in enumerate(dict.fromkeys(select(frame, metric="residual", axis="depth")["method"])):
        _line(grid[3], select(frame, metric="residual", axis="depth", method=name), name, number)
    grid[3].set(xscale="log", yscale="log", xlabel="LiSSA depth s₂ (steps)", ylabel="relative residual")
    grid[3].legend(fontsize=8)
    return figure


#: The figure of each section.
FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "01_theory": theory,
    "02_training": training,
    "03_unlearning": unlearning,
    "04_attacks": attacks,
    "05_relearn": relearn,
    "06_ablations": ablations,
}
