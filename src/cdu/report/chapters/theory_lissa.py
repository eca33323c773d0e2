"""The chapter on LiSSA."""

import pandas as pd
from matplotlib.figure import Figure

from cdu.experiments.metrics import quantity
from cdu.report.chapters.page import Page
from cdu.report.drawing import draw_line, panel_grid, ticks_at_points
from cdu.report.query import select
from cdu.report.tables import SETUPS, Column, along, cell_of, plus_minus, table


def _theory_lissa_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    mean = [*map(Column, ("lissa_bias", "lissa_bias_noise", "lissa_bias_p", "lissa_truncation"))]
    spectra = select(frame, metric="batch_condition")
    spectrum = [*map(Column, ("batch_lambda_min", "batch_lambda_max", "batch_condition"))]
    batches = [
        {
            "set-up": f"{SETUPS[str(name)]}, {size}",
            **{one.header: one.cell(select(frame, method=str(name), split=str(size))) for one in spectrum},
        }
        for (name, size), _ in spectra.groupby(["method", "split"], sort=False)
    ]
    forms = [
        {
            "quantity": f"LiSSA's term, {name}",
            "ℓ₂ distance": plus_minus(rows["value"]),
            "whole bound": cell_of(frame, "lissa_bound", method=str(name)),
        }
        for name, rows in select(frame, metric="lissa_term").groupby("method", sort=False)
    ]
    forms.append(
        {"quantity": "what LiSSA adds, measured", "ℓ₂ distance": cell_of(frame, "lissa_added"), "whole bound": "—"}
    )
    sweeps = {
        f"relative error against {name}": f"LiSSA {axis}"
        for axis, name in {"depth": "depth s₂", "repeats": "repeats s₁", "scale": "scale h"}.items()
    }
    tables = {
        "The mean": table(along(frame, "depth"), "point", "depth s₂", mean),
        "Mini-batch Hessians": pd.DataFrame(batches),
        "The bound with LiSSA, at probability 1 − ρ": pd.DataFrame(forms),
    }
    for title, axis in sweeps.items():
        tables[title[0].upper() + title[1:]] = table(
            along(frame, axis), "point", title.split(" against ")[1], [Column("lissa_error")]
        )
    return tables


def theory_lissa(frame: pd.DataFrame) -> Figure:
    """LiSSA on the network.

    Top left: distance of the truncated series to the inverse, and of the draws' mean to the
    series. Others: relative error to the exact solution against depth, repeats s₁ and scale h.
    """
    figure, grid = panel_grid()
    rows = select(frame, axis="depth")
    names = {
        "lissa_truncation": "series to inverse",
        "lissa_bias": "mean of draws to series",
        "lissa_bias_noise": "expected from sampling",
    }
    for number, (metric, label) in enumerate(names.items()):
        draw_line(grid[0], select(rows, metric=metric), label, number)
    grid[0].set(xlabel="depth s₂ (steps)", ylabel="relative distance", yscale="log")
    grid[0].legend(fontsize=8)
    for panel, (axis, label) in zip(
        grid[1:], {"depth": "depth s₂ (steps)", "repeats": "repeats s₁", "scale": "scale h"}.items(), strict=True
    ):
        draw_line(panel, select(frame, metric="lissa_error", axis=f"LiSSA {axis}"), axis, 0)
        panel.set(xscale="log", yscale="log", xlabel=label, ylabel=quantity("lissa_error").title)
        if panel.lines:
            ticks_at_points(panel)
    return figure


PAGES = (
    Page(
        "01_theory-lissa",
        "theory-lissa",
        "LiSSA",
        figure=theory_lissa,
        tables=_theory_lissa_tables,
        marker="lissa_truncation",
    ),
)
