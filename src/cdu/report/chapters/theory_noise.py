"""The chapter on noise: the Gaussian mechanism."""

import pandas as pd
from matplotlib.figure import Figure

from cdu.experiments.metrics import quantity
from cdu.report.chapters.page import Page
from cdu.report.drawing import COLOURS, draw_methods, figure_of
from cdu.report.query import select
from cdu.report.tables import Column, cell_of, plus_minus, table


def _theory_noise_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    ratio = select(frame, metric="sigma_ratio")
    ends = {"ratio at ε = 1": 1.0, "ratio at ε = 10⁴": 1e4}
    fails = [
        {
            "δ": str(name).removeprefix("δ = "),
            "too little noise from ε =": cell_of(frame, "crossover", method=str(name)),
            **{title: plus_minus(select(rows, point=point)["value"]) for title, point in ends.items()},
        }
        for name, rows in ratio.groupby("method", sort=False)
    ]
    certified = table(
        select(frame, metric="epsilon", axis=""), "method", "noise", [Column("epsilon", "ε certified at Δ = 2C")]
    )
    return {
        "Classical over exact σ": pd.DataFrame(fails),
        "What the noise used in practice certifies": certified,
    }


def theory_noise(frame: pd.DataFrame) -> Figure:
    """Left: σ of the classical formula over the exact σ. Right: simulated δ against the closed form."""
    figure, (noise, profile) = figure_of(2)
    draw_methods(noise, select(frame, metric="sigma_ratio"))
    noise.axhline(1.0, color=COLOURS[6], linestyle="--", linewidth=1, label="below: too little noise")
    noise.set(xscale="log", xlabel="ε", ylabel=quantity("sigma_ratio").title)
    noise.legend(fontsize=8)
    rows = select(frame, metric="monte_carlo_z")
    profile.scatter(rows["point"], rows["value"], s=14, color=COLOURS[0], label="one seed and noise")
    for edge in (-2, 2):
        profile.axhline(edge, color=COLOURS[6], linestyle="--", linewidth=1, label="±2" if edge > 0 else None)
    profile.set(xscale="log", xlabel="ε", ylabel=quantity("monte_carlo_z").title, ylim=(-5, 5))
    profile.legend(fontsize=8)
    return figure


PAGES = (
    Page(
        "01_theory-noise", "theory-noise", "Noise", figure=theory_noise, tables=_theory_noise_tables, marker="crossover"
    ),
)
