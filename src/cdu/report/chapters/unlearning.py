"""The chapter on unlearning."""

import pandas as pd
from matplotlib.figure import Figure

from cdu.experiments.metrics import quantity
from cdu.report.chapters.page import Page
from cdu.report.drawing import ROUNDING, draw_dots, figure_of
from cdu.report.query import select, without_useless_noise
from cdu.report.tables import COST, SPLITS, Column, accuracy_columns, cost_table, table, with_reduction


def _unlearning_tables(shown: pd.DataFrame) -> dict[str, pd.DataFrame]:
    frame = with_reduction(without_useless_noise(shown))
    quality = [
        *accuracy_columns("forget", "retain", "test"),
        *map(Column, ("distance_to_retrained", "reduction", "distance_to_original")),
    ]
    cost = [*COST, Column("converged")]
    noise = [
        *map(Column, ("sigma", "epsilon", "epsilon_classical")),
        *accuracy_columns("retain", "test"),
    ]
    noised = shown[shown["method"].isin(select(shown, metric="epsilon")["method"])]
    return {
        "Accuracy (= micro-F1) and distances": table(frame, "method", "model", quality),
        "Cost": cost_table(frame, cost),
        "Noise and certificate (Δ = 2C)": table(noised, "method", "release", noise),
    }


def unlearning(frame: pd.DataFrame) -> Figure:
    """Accuracy on the three sets, and ℓ₂ distances of the weights, per method (zeros are not drawn)."""
    frame = without_useless_noise(frame)
    methods = list(dict.fromkeys(select(frame, metric="accuracy").dropna(subset=["value"])["method"]))
    frame = frame[~frame["metric"].str.startswith("distance") | (frame["value"] > ROUNDING)]
    figure, (accuracy, distance) = figure_of(2, 0.9 + 0.36 * len(methods))
    for number, (split, label) in enumerate(SPLITS.items()):
        draw_dots(accuracy, select(frame, metric="accuracy", split=split), methods, label, number, 100)
    accuracy.set(xlabel=quantity("accuracy").title)
    accuracy.legend(fontsize=8)
    draw_dots(distance, select(frame, metric="distance_to_retrained"), methods, "to the retrained model", 0)
    draw_dots(distance, select(frame, metric="distance_to_original"), methods, "to the original model", 1)
    distance.set(xlabel="ℓ₂ distance of weights")
    distance.set_xscale("log")
    distance.set_yticklabels([])
    for panel in (accuracy, distance):
        panel.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


PAGES = (Page("03_unlearning", "unlearning", "Unlearning", figure=unlearning, tables=_unlearning_tables),)
