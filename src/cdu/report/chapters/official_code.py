"""The chapter on paper and code."""

import pandas as pd
from matplotlib.figure import Figure

from cdu.experiments.metrics import quantity
from cdu.report.chapters.page import Page
from cdu.report.drawing import ROUNDING, draw_dots, draw_line, panel_grid
from cdu.report.query import select
from cdu.report.tables import SPLITS, Column, accuracy_columns, along, table


def _official_code_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    row = "departure"
    step = [
        Column("step_norm", "‖x‖"),
        Column("step_difference"),
        Column("step_cosine"),
        Column("residual", "residual of (H + λI)x = g"),
        Column("own_residual"),
        Column("gradient_norm"),
    ]
    model = [*accuracy_columns("forget", "retain", "test"), Column("never_trained")]
    attack = [
        Column("attack_accuracy", "accuracy, held-out rows"),
        Column("auc", "AUC, held-out rows"),
        Column("published_accuracy"),
        Column("majority"),
        Column("published_auc"),
    ]
    epsilon, indication = Column("epsilon", "ε certified, Δ = 2C by projection"), Column("epsilon_unprojected")
    promised = table(select(frame, metric="epsilon"), "method", row, [epsilon])
    promised[indication.header] = [indication.cell(select(frame, method=name)) for name in promised[row]]
    # What is not projected has no bound that was fixed in advance.
    bare = set(frame[(frame["metric"] == "released_projected") & (frame["value"] == 0)]["method"])
    promised.loc[promised[row].isin(bare), epsilon.header] = "none: not projected"
    depths = [
        Column("depth_residual", f"relative residual, {words}", method=name)
        for name, words in {"paper": "λ above λ_max", "code": "the code's λ and h"}.items()
    ]
    gains = [Column("gain", name, method=name) for name in ("wanted", "given")]
    network = [
        Column("network_accuracy", "test set, before the step", split="test, original"),
        *accuracy_columns("forget", "retain", "test", metric="network_accuracy"),
        *attack,
        Column("statistics_shift"),
    ]
    requests = [
        Column("sequential_norm"),
        *accuracy_columns("forget", "retain", "test", metric="sequential_accuracy"),
        Column("sequential_epsilon"),
        Column("sequential_epsilon_unprojected"),
    ]
    spread = [Column("spread_accuracy"), Column("spread_weights")]
    check = [Column("check_gradient"), Column("check_step"), Column("check_norm")]
    narrow = frame["method"].str.contains("BatchNorm")
    variants = frame[~narrow]
    checked = frame[frame["metric"].str.startswith("check_")].dropna(subset=["value"])
    return {
        "What a departure does to the step": table(variants, "method", row, step),
        "What it does to the model": table(variants, "method", row, model),
        "The attack, as it should be and as published (11)": table(variants, "method", row, attack),
        "What the release certifies": promised,
        "LiSSA with the code's constants (4)": table(along(frame, "depth"), "point", "depth s₂", depths),
        "What LiSSA does to a direction of curvature a (4)": table(along(frame, "curvature"), "point", "a", gains),
        "Unlearning drawn anew (8)": table(frame, "method", row, spread),
        "No `eval()` (10)": table(frame[narrow], "method", "network", network),
        "Sequential requests (13)": table(frame, "method", row, requests),
        "Our variant against the authors' own functions": table(checked, "method", "arithmetic", check),
    }


def official_code(frame: pd.DataFrame) -> Figure:
    """Per departure by its number: step and residual against the paper's, accuracy, attack; LiSSA's residual.

    A difference of zero is not drawn.
    """
    methods = list(dict.fromkeys(select(frame, metric="accuracy")["method"]))
    figure, grid = panel_grid(2.6 + 0.46 * len(methods))
    seen = frame[~frame["metric"].isin(["step_difference", "residual"]) | (frame["value"] > ROUNDING)]
    draw_dots(grid[0], select(seen, metric="step_difference"), methods, "difference of the step / its norm", 0)
    draw_dots(grid[0], select(seen, metric="residual"), methods, "residual of (H + λI)x = g", 1)
    grid[0].set(xscale="log", xlabel="relative to the paper's step, to g")
    for number, (split, label) in enumerate(SPLITS.items()):
        draw_dots(grid[1], select(frame, metric="accuracy", split=split), methods, label, number, 100)
    grid[1].set(xlabel=quantity("accuracy").title)
    draw_dots(grid[2], select(frame, metric="auc"), methods, "held-out rows", 0)
    draw_dots(grid[2], select(frame, metric="published_auc"), methods, "fitted rows, as published", 1)
    grid[2].set(xlabel="AUC of the attack")
    grid[2].axvline(0.5, color="black", linewidth=1, linestyle=":")
    grid[1].set_yticklabels([])
    for number, (name, label) in enumerate({"paper": "λ above λ_max", "code": "the code's λ, h"}.items()):
        draw_line(grid[3], select(frame, metric="depth_residual", axis="depth", method=name), label, number)
    grid[3].set(xscale="log", yscale="log", xlabel="LiSSA depth s₂ (steps)", ylabel=quantity("residual").title)
    for panel, columns in zip(grid, (1, 3, 1, 1), strict=True):
        panel.legend(
            fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False, columnspacing=0.8,
            handletextpad=0.2,
        )  # fmt: skip
    return figure


PAGES = (
    Page("09_official_code", "official-code", "Paper and code", figure=official_code, tables=_official_code_tables),
)
