"""The chapter on shadow models."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cdu.experiments.metrics import quantity
from cdu.report.chapters.efficiency import one_value
from cdu.report.chapters.page import Page
from cdu.report.drawing import COLOURS, LINES, MARKERS, style
from cdu.report.query import select
from cdu.report.tables import Column, table
from cdu.unlearning.names import title


def _shadow_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    found = {}
    titles = {
        "never trained": "Forgotten, or never trained on? (unlearned shadows)",
        "retrained": "Unlearned, or retrained? (on the forgotten samples)",
    }
    for world, heading in titles.items():
        rows = select(frame, split=world)
        levels = sorted(select(rows, metric="lira_tpr")["point"].dropna().unique())
        lines = []
        for method in dict.fromkeys(select(rows, metric="lira_auc")["method"]):
            own = select(rows, method=str(method))
            line = {"model": str(method), "AUC": _interval(own, "lira_auc")}
            for level in levels:
                at = select(own, point=level)
                line[f"TPR at {100 * level:g} % FPR (%)"] = _interval(at, "lira_tpr")
            for quantile, name in ((0.5, "median"), (0.95, "95 %")):
                line[f"pairs told right by target, {name}"] = one_value(select(own, point=quantile), "vulnerability")
            lines.append(line)
        found[heading] = pd.DataFrame(lines)
    known = set(frame["metric"])
    extrapolated = ", from two of them" if "shadow_seconds" in known else ""
    cost = [*map(Column, ("shadows", "pool", "shadow_seconds")), Column("single_seconds"), Column("single_difference")]
    found["Shadow models and their cost"] = pd.DataFrame(
        [
            {
                "quantity": one.header + (extrapolated if one.metric == "single_seconds" else ""),
                "value": one_value(frame, one.metric),
            }
            for one in cost
            if one.metric in known
        ]
    )
    found["Unlearning all shadows"] = table(frame, "method", "method", [Column("seconds")])
    return found


def _interval(frame: pd.DataFrame, metric: str) -> str:
    """A value with the ends of its interval, in its unit: of each the mean over seeds."""
    factor = quantity(metric).factor
    names = (metric, f"{metric}_low", f"{metric}_high")
    value, low, high = (factor * float(select(frame, metric=name)["value"].mean()) for name in names)
    places = 2 if factor != 1 else 3
    return f"{value:.{places}f} [{low:.{places}f}, {high:.{places}f}]"


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
    dots.set_yticks(np.arange(len(methods))[::-1], [title(name) for name in methods])
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
            means.index, means, color=COLOURS[number], linestyle=LINES[number % len(LINES)], linewidth=1.6,
            label=title(name),
        )  # fmt: skip
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
    single.set_xticks(places, [title(name) for name in names], rotation=90, fontsize=6)
    single.set(ylabel="pairs told right, by target")
    return figure


PAGES = (Page("04_shadows", "attacks-shadows", "Shadow models", figure=shadows, tables=_shadow_tables),)
