"""The chapter on Theorem 3.4."""

import pandas as pd
from matplotlib.figure import Figure

from cdu.report.chapters.page import Page
from cdu.report.drawing import COLOURS, draw_methods, figure_of
from cdu.report.query import select
from cdu.report.tables import SETUPS, bound_against_error, cell_of


def _by_setup(frame: pd.DataFrame, names: dict[str, str], **keys: str) -> pd.DataFrame:
    """One row per metric of ``names``, one column per set-up."""
    rows = []
    for metric, text in names.items():
        cells = {title: cell_of(frame, metric, method=name, **keys) for name, title in SETUPS.items()}
        rows.append({"quantity": text, **cells})
    return pd.DataFrame(rows)


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
        "Bound and error, networks": bound_against_error(frame, "damping", "λ", ("smooth network", "network")),
        "Bound and error, known constants": bound_against_error(frame, "damping", "λ", ("ridge", "softmax")),
    }


def theory_bound(frame: pd.DataFrame) -> Figure:
    """Bound of Theorem 3.4 and measured error against λ, both over 2C: a bound above the dashed line says nothing."""
    known = {"ridge": "ridge", "softmax": "softmax", "smooth network": "smooth network", "network": "ReLU network"}
    damped = frame[(frame["axis"] == "damping") & frame["metric"].isin(["bound", "distance"])]
    trivial = select(frame, metric="trivial_bound").set_index(["method", "seed"])["value"]
    base = trivial.reindex(pd.MultiIndex.from_frame(damped[["method", "seed"]])).to_numpy()
    relative = damped.assign(value=damped["value"] / base)
    figure, panels = figure_of(2)
    titles = {"bound": "bound / 2C", "distance": "measured ‖w̃ − w̃*‖ / 2C"}
    for panel, (metric, title) in zip(panels, titles.items(), strict=True):
        draw_methods(panel, select(relative, metric=metric), known)
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
