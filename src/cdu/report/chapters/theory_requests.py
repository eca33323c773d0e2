"""The chapter on early stopping and requests."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cdu.experiments.metrics import quantity
from cdu.report.chapters.page import Page
from cdu.report.drawing import COLOURS, MARKERS, draw_bound_or_error, draw_methods, panel_grid, ticks_at_points
from cdu.report.query import over, select
from cdu.report.tables import SETUPS, Column, along, bound_against_error, table


def _theory_requests_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    result = {}
    for name in ("smooth network", "network"):
        early = ("gradient_retrained", "gradient_original", "bound", "distance", "forms_difference")
        rows = along(select(frame, method=name), "epochs")
        if not rows.empty:
            result[f"Training stopped early, {SETUPS[name]}"] = table(rows, "point", "epochs", [*map(Column, early)])
    exact = [Column("bound"), Column("certified_distance", "residual/l2"), Column("distance")]
    result["Requests, softmax regression"] = table(
        along(select(frame, method="softmax"), "request"), "point", "request", exact
    )
    result["Requests, networks"] = bound_against_error(frame, "request", "request", ("smooth network", "network"))
    together = [Column("epsilon", f"ε, {name}", method=name) for name in ("composed", "added up")]
    result["ε of k releases together, at the σ used in practice"] = table(
        along(frame, "releases"), "point", "k", together
    )
    return result


def theory_requests(frame: pd.DataFrame) -> Figure:
    """Training stopped early, and several requests.

    Top: bound and error over 2C against epochs of training, and against requests. Bottom: difference of the step's
    two forms against the gradient that training left, a point for each number of epochs; ε of k releases.
    """
    names = {name: title for name, title in SETUPS.items() if name != "ridge"}
    relative = over(frame, select(frame, metric="trivial_bound"), "method", "seed")
    figure, grid = panel_grid(height=7.4)
    for panel, (axis, label) in zip(grid, {"epochs": "epochs of training", "request": "request"}.items(), strict=False):
        for number, (name, title) in enumerate(names.items()):
            rows = relative[(relative["axis"] == axis) & (relative["method"] == name)]
            for metric, word in {"bound": "bound", "distance": "error"}.items():
                draw_bound_or_error(panel, select(rows, metric=metric), f"{title}: {word}", number, metric == "bound")
        panel.axhline(1.0, color=COLOURS[6], linestyle="--", linewidth=1, label="2C")
        panel.set(yscale="log", xlabel=label, ylabel="distance / 2C")
        panel.legend(fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    grid[0].set_xscale("log")
    ticks_at_points(grid[0])
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
    grid[2].set(xlabel="‖∇L(w*, D)‖ after training", ylabel=quantity("forms_difference").title)
    grid[2].set_ylim(0, 1.2 * grid[2].get_ylim()[1])
    grid[2].legend(fontsize=8, loc="lower right")
    draw_methods(grid[3], select(frame, metric="epsilon", axis="releases"))
    grid[3].set(xscale="log", yscale="log", xlabel="releases k", ylabel="ε together")
    grid[3].legend(fontsize=8)
    return figure


PAGES = (
    Page(
        "01_theory-requests",
        "theory-requests",
        "Early stopping and requests",
        figure=theory_requests,
        tables=_theory_requests_tables,
        marker="certified_distance",
    ),
)
