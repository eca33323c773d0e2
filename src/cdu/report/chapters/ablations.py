"""The chapters on ablations."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cdu.report.chapters.page import Page
from cdu.report.drawing import COLOURS, MARKERS, draw_line, figure_of, panel_grid, ticks_at_points
from cdu.report.query import select
from cdu.report.tables import SPLITS, WITH_NOISE, Column, along, table, with_reduction


def _judged(*more: Column) -> list[Column]:
    """The columns of an ablation: what is measured at every point."""
    return [
        Column("distance_to_retrained", "distance to retrained, after the step", method="newton"),
        Column("reduction", method="newton"),
        *more,
        *(
            Column("accuracy", f"{label}: {SPLITS[split]}", method=name, split=split)
            for split in ("forget", "test")
            for name, label in (("original", "nothing"), ("newton", "step"), ("retrain", "retrained"))
        ),
        *(
            Column("auc", f"attack's AUC, {label}", method=name)
            for name, label in (("newton", "step"), ("retrain", "retrained"))
        ),
    ]


def _ablation_tables(shown: pd.DataFrame) -> dict[str, pd.DataFrame]:
    frame = with_reduction(shown)
    bounds = (Column("bound", "Theorem 3.4"), Column("trivial_bound"))
    trained = (Column("trivial_bound"), Column("norm"), Column("projected"))
    return {
        "Damping": table(along(frame, "damping"), "point", "λ", _judged(*bounds)),
        "Radius": table(along(frame, "radius"), "point", "C", _judged(*trained)),
    }


def _ablation_noise_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    columns = [
        Column("accuracy", f"{label}: {SPLITS[split]}", method=name, split=split)
        for split in ("test", "forget")
        for name, label in WITH_NOISE.items()
    ]
    lost = [
        Column("accuracy", "test set without noise", split="test, no noise"),
        Column("sigma_one_point"),
        Column("epsilon_one_point"),
    ]
    return {
        "What one point of accuracy buys": table(frame, "method", "model", lost, WITH_NOISE),
        "Noise": table(along(frame, "sigma"), "point", "σ", [Column("epsilon"), *columns]),
    }


def _ablation_setup_tables(shown: pd.DataFrame) -> dict[str, pd.DataFrame]:
    frame = with_reduction(shown)
    kinds = frame[frame["axis"].str.startswith("forget set: ")]
    kinds = kinds.assign(kind=kinds["axis"].str.removeprefix("forget set: "))
    return {
        "Which samples": table(kinds, "kind", "forget set", _judged()),
        "How many": table(along(frame, "forgotten share"), "point", "share of the training set", _judged()),
        "Weight decay": table(along(frame, "weight decay"), "point", "weight decay", _judged()),
        "Width": table(along(frame, "width"), "point", "width", _judged()),
    }


def _ablation_lissa_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    titles = {
        "repeats": ("Repeats", "s₁"),
        "scale": ("Scale", "h, in multiples of the usual one"),
        "batch": ("Batch size", "batch"),
    }
    columns = [Column("residual"), Column("step_error")]
    depth = [
        Column(column.metric, f"{column.header}, {name}", method=name)
        for name in ("batch 10", "batch 128")
        for column in columns
    ]
    return {"Depth": table(along(frame, "depth"), "point", "s₂", depth)} | {
        title: table(along(frame, axis), "point", header, columns) for axis, (title, header) in titles.items()
    }


#: Models that the ablations compare, and what figures call them.
JUDGED = {"original": "doing nothing", "newton": "after the step", "retrain": "retrained"}


def ablations(frame: pd.DataFrame) -> Figure:
    """Damping λ and radius C: distance to the retrained model, Theorem 3.4's bound beside 2C, and test accuracy.

    The distances after the step and of doing nothing coincide where the step moves nothing.
    """
    figure, grid = panel_grid()
    for axes, axis, label in ((grid[0], "damping", "damping λ"), (grid[2], "radius", "radius C")):
        for number, name in enumerate(("newton", "original")):
            draw_line(axes, select(frame, metric="distance_to_retrained", axis=axis, method=name), JUDGED[name], number)
        axes.set(xscale="log", xlabel=label, ylabel="distance to the retrained model")
        axes.legend(fontsize=8)
    for number, (metric, label) in enumerate(
        {"bound": "Theorem 3.4, constants measured", "trivial_bound": "2C"}.items()
    ):
        draw_line(grid[1], select(frame, metric=metric, axis="damping"), label, number)
    grid[1].set(xscale="log", yscale="log", xlabel="damping λ", ylabel="bound on the distance")
    if grid[1].lines:
        grid[1].legend(fontsize=8)
    for number, (name, label) in enumerate(JUDGED.items()):
        draw_line(
            grid[3], select(frame, metric="accuracy", axis="radius", split="test", method=name), label, number, 100
        )
    grid[3].set(xscale="log", xlabel="radius C", ylabel="test accuracy (%)")
    grid[3].legend(fontsize=8)
    ticks_at_points(grid[2])
    ticks_at_points(grid[3])
    return figure


def ablations_noise(frame: pd.DataFrame) -> Figure:
    """Test accuracy against the noise σ, and against the ε that it certifies at Δ = 2C."""
    figure, (noise, privacy) = figure_of(2, 3.8)
    rows = select(frame, metric="accuracy", axis="sigma", split="test")
    epsilon = select(frame, metric="epsilon", axis="sigma").groupby("point")["value"].mean()
    for number, (name, label) in enumerate(JUDGED.items()):
        own = select(rows, method=f"{name} + noise")
        draw_line(noise, own, label, number, 100)
        draw_line(privacy, own.assign(point=own["point"].map(epsilon)), label, number, 100)
    noise.set(xscale="log", xlabel="noise σ per coordinate", ylabel="test accuracy (%)")
    privacy.set(xscale="log", xlabel="ε certified", ylabel="test accuracy (%)")
    noise.legend(fontsize=8)
    return figure


def ablations_setup(frame: pd.DataFrame) -> Figure:
    """Accuracy on the forget set by its size and kind, by weight decay and by width.

    Where "doing nothing" and "retrained" are apart there is something to forget; the step should come to "retrained".
    """
    figure, grid = panel_grid()
    rows = select(frame, metric="accuracy", split="forget")
    kinds = rows[rows["axis"].str.startswith("forget set: ")]
    order = list(dict.fromkeys(kinds["axis"]))
    for number, (name, label) in enumerate(JUDGED.items()):
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
        for number, (name, label) in enumerate(JUDGED.items()):
            draw_line(axes, select(rows, axis=axis, method=name), label, number, 100)
        axes.set(xlabel=title, ylabel="accuracy on the forget set (%)")
        if axis == "width" and axes.lines:
            axes.set_xscale("log")
            ticks_at_points(axes)
    return figure


def ablations_lissa(frame: pd.DataFrame) -> Figure:
    """LiSSA's relative residual against its depth, repeats, scale and batch size; missing where it diverged."""
    figure, grid = panel_grid()
    rows = select(frame, metric="residual")
    labels = {"depth": "depth s₂ (steps)", "repeats": "repeats s₁", "scale": "scale h, in multiples of the usual one",
              "batch": "batch size"}  # fmt: skip
    for axes, (axis, label) in zip(grid, labels.items(), strict=True):
        own = select(rows, axis=axis)
        names = list(dict.fromkeys(own["method"]))
        for number, name in enumerate(names):
            draw_line(axes, select(own, method=name), name, number)
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="relative residual")
        if len(names) > 1:
            axes.legend(fontsize=8)
        if names:
            ticks_at_points(axes)
    return figure


PAGES = (
    Page("06_ablations", "ablations", "Ablations", figure=ablations, tables=_ablation_tables),
    Page(
        "06_ablations-noise",
        "ablations-noise",
        "Utility against ε",
        figure=ablations_noise,
        tables=_ablation_noise_tables,
    ),
    Page(
        "06_ablations-setup",
        "ablations-setup",
        "Other deletions, other training",
        figure=ablations_setup,
        tables=_ablation_setup_tables,
        marker="trivial_bound",
    ),
    Page(
        "06_ablations-lissa",
        "ablations-lissa",
        "LiSSA's constants",
        figure=ablations_lissa,
        tables=_ablation_lissa_tables,
    ),
)
