"""The chapter on Theorem 3.4."""

import pandas as pd
from matplotlib.figure import Figure

from cdu.report.chapters.page import Page
from cdu.report.drawing import COLOURS, draw_methods, figure_of
from cdu.report.query import over, select
from cdu.report.tables import SETUPS, Column, bound_against_error, quantities

#: The columns of the tables: one for every set-up.
_BY_SETUP = {title: {"method": name} for name, title in SETUPS.items()}

#: What the bound is computed from.
_CONSTANTS = (
    Column("lambda_min", "λ_min of H"),
    Column("lambda_max", "λ_max of H"),
    Column("known_lipschitz"),
    Column("gradient_lipschitz"),
    Column("known_hessian_lipschitz"),
    Column("hessian_lipschitz"),
    Column("gradient_retrained", "G = ‖∇L(w̃\\*, D_r)‖"),
    Column("gradient_original"),
    Column("norm", "larger of ‖w\\*‖ and ‖w̃\\*‖"),
    Column("default_exceeds_norm"),
)


def _theory_bound_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    damping = float(select(frame, metric="default_damping")["value"].mean())
    distances = [
        Column("trivial_bound", "2C, projected"),
        Column("unprojected_bound"),
        Column("bound", f"Theorem 3.4 with G, λ = {damping:g}"),
        Column("distance", f"measured ‖w̃ − w̃\\*‖, λ = {damping:g}"),
        Column("distance_original", "measured ‖w\\* − w̃\\*‖ (do nothing)"),
    ]
    alone = select(frame, axis="")
    at_default = pd.concat([alone, select(frame, axis="damping", point=damping)])
    return {
        "Constants (those measured on the data are indications, not certificates)": quantities(
            alone, _CONSTANTS, _BY_SETUP
        ),
        "Δ by each bound, and the distance itself": quantities(at_default, distances, _BY_SETUP),
        "Bound and error, networks": bound_against_error(frame, "damping", "λ", ("smooth network", "network")),
        "Bound and error, known constants": bound_against_error(frame, "damping", "λ", ("ridge", "softmax")),
    }


def theory_bound(frame: pd.DataFrame) -> Figure:
    """Bound of Theorem 3.4 and measured error against λ, both over 2C: a bound above the dashed line says nothing."""
    damped = frame[(frame["axis"] == "damping") & frame["metric"].isin(["bound", "distance"])]
    relative = over(damped, select(frame, metric="trivial_bound"), "method", "seed")
    figure, panels = figure_of(2)
    titles = {"bound": "bound / 2C", "distance": "measured ‖w̃ − w̃*‖ / 2C"}
    for panel, (metric, title) in zip(panels, titles.items(), strict=True):
        draw_methods(panel, select(relative, metric=metric), SETUPS)
        panel.axhline(1.0, color=COLOURS[6], linestyle="--", linewidth=1, label="2C, without any method")
        panel.set(xscale="log", yscale="log", xlabel="damping λ", ylabel=title)
    panels[0].legend(fontsize=8)
    return figure


PAGES = (
    Page(
        "01_theory-bound",
        "theory-bound",
        "Theorem 3.4",
        figure=theory_bound,
        tables=_theory_bound_tables,
        marker="known_lipschitz",
        verdicts=True,
    ),
)
