"""The chapters on efficiency."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from cdu.experiments.metrics import quantity
from cdu.report.chapters.page import Page
from cdu.report.drawing import (
    COLOURS,
    LINES,
    MARKERS,
    draw_dots,
    draw_methods,
    figure_of,
    panel_grid,
    style,
    ticks_at_points,
)
from cdu.report.query import select
from cdu.report.tables import rounded
from cdu.unlearning.names import title


def _times(rows: pd.DataFrame) -> str:
    """The median of a timing with its range, in seconds; means over seeds where there are several."""
    middle, low, high = (
        select(rows, metric=metric)["value"].mean() for metric in ("seconds", "seconds_low", "seconds_high")
    )
    if math.isnan(middle):
        return "—"
    return f"{middle:.3g}" if math.isnan(low) else f"{middle:.3g} ({low:.3g}–{high:.3g})"


def one_value(rows: pd.DataFrame, metric: str) -> str:
    """The mean of one metric in its unit, in words; a dash where it was not measured."""
    known = select(rows, metric=metric)["value"].dropna()
    return rounded(float(known.mean()) * quantity(metric).factor) if len(known) else "—"


def _means(rows: pd.DataFrame, *names: str) -> dict[str, str]:
    """Cells of several metrics under their own heads, by :func:`one_value`."""
    return {quantity(name).title: one_value(rows, name) for name in names}


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
                        "time / ours": one_value(own, "ratio"),
                    }
                )
    epochs = [
        {"program": str(method), "one epoch (s)": _times(own), "time / ours": one_value(own, "ratio")}
        for method, own in select(frame, split="epoch").groupby("method", sort=False)
    ]
    products = [
        {
            "program": str(method),
            "time (s)": _times(own),
            **_means(own, "gradients", "rate_share", "difference", "memory"),
        }
        for method, own in select(frame, split="products").groupby("method", sort=False)
    ]
    machine = [
        {"quantity": quantity(name).title, "value": one_value(select(frame, axis=""), name)}
        for name in ("matrix_rate", "parameters", "samples", "claim_samples")
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
                    rounded(reached["seconds"].min()) if len(reached) else "not reached"
                )
            cells["smallest residual"] = rounded(own["residual"].min())
            lines.append(cells)
        found[f"Time to a relative residual, {split}"] = pd.DataFrame(lines)
    names = dict.fromkeys(select(frame, metric="claim_seconds")["method"])
    claim = [
        {
            "solver": str(name),
            **_means(own, "claim_seconds", "claim_residual", "claim_error"),
            "exact inverse's time / this": rounded(
                _exact_seconds(frame) / select(own, metric="claim_seconds")["value"].mean()
            )
            if _exact_seconds(frame) and select(own, metric="claim_seconds")["value"].notna().any()
            else "—",
        }
        for name in names
        for own in [select(frame, method=str(name))]
    ]
    ends = [
        {
            "eigenvalue of H": text,
            "value": one_value(frame, metric),
            "error at most": one_value(frame, f"{metric}_error"),
        }
        for text, metric in {"smallest": "lambda_min", "largest": "lambda_max"}.items()
    ]
    ends.append({"eigenvalue of H": "mean", "value": one_value(frame, "mean_eigenvalue"), "error at most": "—"})
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
            **_means(own, "gradients", "memory"),
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
                **_means(select(own, split="unlearning"), "speedup"),
                "test set (%)": rounded(100 * test),
                "forget set (%)": one_value(select(own, split="forget"), "accuracy"),
                "retraining reaches that after (s)": rounded(reached["value"].min()) if len(reached) else "not reached",
            }
        )
    return {"Time, accuracy, and what retraining needs for the same accuracy": pd.DataFrame(lines)}


def efficiency_peers(frame: pd.DataFrame) -> Figure:
    """Ours against other programs.

    Left: their time over ours, for LiSSA's steps and for an epoch of training. Right: time of products with the Hessian
    on all retained samples, in gradients.
    """
    figure, (ratios, products) = figure_of(2, 4.2)
    rows = select(frame, metric="ratio").copy()
    rows = rows[rows["method"] != "cdu"]
    batch = rows["point"].map("{:g}".format)
    rows["program"] = rows["split"].str.cat("batch " + batch, sep=", ").where(rows["point"].notna(), rows["split"])
    names = list(dict.fromkeys(rows["program"]))
    for number, method in enumerate(("authors", "authors, data in memory")):
        draw_dots(
            ratios, rows[rows["method"] == method].assign(method=lambda own: own["program"]), names, method, number
        )
    ratios.axvline(1.0, color=COLOURS[6], linestyle="--", linewidth=1, label="as fast as ours")
    ratios.set(xlabel="time / ours")
    if names:
        ratios.set_xscale("log")
    ratios.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    rows = select(frame, metric="gradients", split="products")
    per_product = rows["value"].where(rows["method"] != "16 products at once", rows["value"] / 16)
    rows = rows.assign(value=per_product, method=rows["method"].replace("16 products at once", "one of 16 at once"))
    draw_dots(products, rows, list(dict.fromkeys(rows["method"])), "", 0)
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
        panel.set(
            xscale="log", yscale="log", xlabel=quantity("seconds").title, ylabel=quantity("residual").title, title=split
        )
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
    """The density of the spectrum in bins of equal width in the cube root, so that both ends can be seen."""
    rows = select(frame, metric="density")
    if rows.empty:
        return
    low, high = float(rows["point"].min()), float(rows["point"].max())
    edges = np.linspace(np.cbrt(low), np.cbrt(high), 41)
    weights, _ = np.histogram(np.cbrt(rows["point"]), edges, weights=rows["value"] / rows["value"].sum())
    axes.stairs(np.maximum(weights, 1e-6), edges, color=COLOURS[0], fill=True, baseline=1e-6)
    marks = np.array([mark for mark in (-10, -1, -0.1, 0, 0.1, 1, 10, 100) if low <= mark <= high])
    axes.set_xticks(np.cbrt(marks), [f"{mark:g}" for mark in marks])
    axes.set(yscale="log", ylim=(1e-5, 1), xlabel="eigenvalue of H", ylabel=quantity("density").title, title="spectrum")


def efficiency_scaling(frame: pd.DataFrame) -> Figure:
    """Time against the number of samples, of parameters, LiSSA's depth and its repeats."""
    figure, grid = panel_grid()
    rows = frame[(frame["metric"] == "seconds") & (frame["split"] == "scaling")].dropna(subset=["value"])
    axes = {
        "samples": "samples n", "parameters": "parameters p", "LiSSA depth": "depth s₂ (steps)",
        "LiSSA repeats": "repeats s₁",
    }  # fmt: skip
    for panel, (axis, label) in zip(grid, axes.items(), strict=True):
        draw_methods(panel, select(rows, axis=axis))
        panel.set(xscale="log", yscale="log", xlabel=label, ylabel=quantity("seconds").title)
        if panel.lines:
            panel.legend(fontsize=8)
        if panel.lines and axis != "parameters":
            ticks_at_points(panel)
    return figure


def efficiency_retraining(frame: pd.DataFrame) -> Figure:
    """Test accuracy against time: retraining stopped after fewer epochs, and the Newton step by every solver."""
    figure, (panel,) = figure_of(1, 4.0)
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
            linestyle="-" if method == "retraining" else "", markersize=6, linewidth=1.2, label=title(method),
        )  # fmt: skip
    nothing = 100 * select(scored, method="original")["value"].mean()
    panel.axhline(nothing, color=COLOURS[6], linestyle="--", linewidth=1, label="the original, at no cost")
    panel.set(xscale="log", xlabel=quantity("seconds").title, ylabel="test accuracy (%)")
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


PAGES = (
    Page("08_efficiency", "efficiency", "Efficiency"),
    Page(
        "08_efficiency-peers",
        "efficiency-peers",
        "Against other programs",
        figure=efficiency_peers,
        tables=_peers_tables,
    ),
    Page(
        "08_efficiency-solvers",
        "efficiency-solvers",
        "Time to an error",
        figure=efficiency_solvers,
        tables=_solvers_tables,
        verdicts=True,
    ),
    Page("08_efficiency-scaling", "efficiency-scaling", "Scaling", figure=efficiency_scaling, tables=_scaling_tables),
    Page(
        "08_efficiency-retraining",
        "efficiency-retraining",
        "Unlearning against retraining",
        figure=efficiency_retraining,
        tables=_retraining_tables,
    ),
)
