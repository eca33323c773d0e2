"""The chapter on paper and code."""

import pandas as pd
from matplotlib.figure import Figure

from cdu.report.chapters.page import Page
from cdu.report.drawing import ROUNDING, draw_dots, draw_line, panel_grid
from cdu.report.query import select
from cdu.report.tables import Column, accuracy_columns, along, cell_of, table


def _official_code_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    row = "departure"
    step = [
        Column("‖x‖", "step_norm"),
        Column("difference to the paper's / its norm", "step_difference"),
        Column("cosine to the paper's", "step_cosine"),
        Column("residual of (H + λI)x = g", "residual"),
        Column("residual of its own system", "own_residual"),
        Column("‖∇‖ of its objective at w\\*, over D", "gradient_norm"),
    ]
    model = [
        *accuracy_columns("forget", "retain", "test"),
        Column("D_u never trained on (%)", "never_trained", factor=100),
    ]
    attack = [
        Column("accuracy, held-out rows (%)", "attack_accuracy", factor=100),
        Column("AUC, held-out rows", "auc"),
        Column("accuracy, as published (%)", "published_accuracy", factor=100),
        Column("majority (%)", "majority", factor=100),
        Column("AUC, as published", "published_auc"),
    ]
    promise = [
        Column("ε certified, Δ = 2C by projection", "epsilon"),
        Column("ε of 2C + ‖x‖, an indication", "epsilon_unprojected"),
        Column("projected", "released_projected"),
    ]
    promised = table(select(frame, metric="epsilon"), "method", row, promise[:1])
    for column in promise[1:2]:
        promised[column.header] = [cell_of(frame, column.metric, method=name) for name in promised[row]]
    # What is not projected has no bound that was fixed in advance.
    bare = set(frame[(frame["metric"] == "released_projected") & (frame["value"] == 0)]["method"])
    promised[promise[0].header] = [
        "none: not projected" if name in bare else cell
        for name, cell in zip(promised[row], promised[promise[0].header], strict=True)
    ]
    depths = [
        Column(f"relative residual, {words}", "depth_residual", {"method": name})
        for name, words in {"paper": "λ above λ_max", "code": "the code's λ and h"}.items()
    ]
    gains = [Column(name, "gain", {"method": name}) for name in ("wanted", "given")]
    network = [
        Column("test set, before the step (%)", "network_accuracy", {"split": "test, original"}, 100),
        *(
            Column(column.header, "network_accuracy", column.keys, column.factor)
            for column in accuracy_columns("forget", "retain", "test")
        ),
        *attack,
        Column("change of the running statistics (%)", "statistics_shift", factor=100),
    ]
    requests = [
        Column("‖w̃ − w\\*‖", "sequential_norm"),
        *(
            Column(column.header, "sequential_accuracy", column.keys, column.factor)
            for column in accuracy_columns("forget", "retain", "test")
        ),
        Column("ε of all together, projected", "sequential_epsilon"),
        Column("ε without projection, an indication", "sequential_epsilon_unprojected"),
    ]
    spread = [
        Column("accuracy on D_u, standard deviation (points)", "spread_accuracy", factor=100),
        Column("mean distance between two releases", "spread_weights"),
    ]
    check = [
        Column("gradients: difference / norm", "check_gradient"),
        Column("steps: difference / norm", "check_step"),
        Column("‖step‖", "check_norm"),
    ]
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
    names = {"forget": "forget set", "retain": "retained set", "test": "test set"}
    for number, (split, label) in enumerate(names.items()):
        draw_dots(grid[1], select(frame, metric="accuracy", split=split), methods, label, number, 100)
    grid[1].set(xlabel="accuracy (%)")
    draw_dots(grid[2], select(frame, metric="auc"), methods, "held-out rows", 0)
    draw_dots(grid[2], select(frame, metric="published_auc"), methods, "fitted rows, as published", 1)
    grid[2].set(xlabel="AUC of the attack")
    grid[2].axvline(0.5, color="black", linewidth=1, linestyle=":")
    grid[1].set_yticklabels([])
    for number, (name, label) in enumerate({"paper": "λ above λ_max", "code": "the code's λ, h"}.items()):
        draw_line(grid[3], select(frame, metric="depth_residual", axis="depth", method=name), label, number)
    grid[3].set(xscale="log", yscale="log", xlabel="LiSSA depth s₂ (steps)", ylabel="relative residual")
    for panel, columns in zip(grid, (1, 3, 1, 1), strict=True):
        panel.legend(
            fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False, columnspacing=0.8,
            handletextpad=0.2,
        )  # fmt: skip
    return figure


PAGES = (
    Page("09_official_code", "official-code", "Paper and code", figure=official_code, tables=_official_code_tables),
)
