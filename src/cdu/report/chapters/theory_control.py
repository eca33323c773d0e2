"""The chapter on the control experiment."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cdu.experiments.metrics import quantity
from cdu.report.chapters.page import Page
from cdu.report.drawing import COLOURS, MARKERS, draw_dots, figure_of
from cdu.report.query import select
from cdu.report.tables import SETUPS, Column, along, rounded, table


def _theory_control_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    steps = along(frame, "steps")
    words = {0.0: "no step", 1.0: "one step", 2.0: "two steps"}
    steps = steps.assign(split=steps["split"].where(steps["metric"] == "accuracy", steps["point"].map(words)))
    ratio = steps[steps["metric"] == "ratio"]
    worst = ratio.groupby(["method", "seed"], sort=False)["value"].max().reset_index()
    steps = pd.concat([steps, worst.assign(metric="largest_ratio")], ignore_index=True)
    row = "features, l2, forget set"
    sigmas = select(frame, metric="control_sigma").groupby("point")["value"].mean()

    def with_noise(split: str) -> str:
        epsilon = float(split.split(" = ")[1])
        return f"ε = {epsilon:g}, σ = {rounded(float(sigmas[epsilon]))}"

    def each(metric: str) -> list[Column]:
        return [Column(metric, f"{quantity(metric).label}, {word}", split=word) for word in words.values()]

    distances = [*each("certified_distance"), *each("measured_distance"), Column("largest_ratio")]
    cost = [*each("fallback"), *each("seconds")]
    after = steps[(steps["metric"] != "accuracy") | (steps["point"] == 2.0)]
    noisy = sorted({str(split) for split in after["split"] if str(split).startswith("test, ")}, reverse=True)
    price = after.assign(split=after["split"].where(after["metric"] != "l2_price", "price"))
    price = price[(price["metric"] != "l2_price") | (price["point"] == 2.0)]
    accuracies = [
        Column("l2_price", split="price"),
        Column("accuracy", "without noise", split="test"),
        *(Column("accuracy", with_noise(split), split=split) for split in noisy),
    ]
    named = frame["method"].str.endswith("training")
    plain = frame[(frame["metric"] == "accuracy") & (frame["axis"] == "") & ~frame["method"].isin(SETUPS)]
    return {
        "Distance to true retraining; the certified one is residual/l2": table(steps, "method", row, distances),
        "Test accuracy after two steps, or after retraining where the budget was exceeded": table(
            price, "method", row, accuracies
        ),
        "Requests answered by retraining, and time of the steps": table(steps, "method", row, cost),
        "Next to no l2, and no noise": table(plain, "method", "model", [Column("accuracy", "test set")]),
        "Time to train on D": table(frame[named], "method", "model", [Column("seconds")]),
    }


def theory_control(frame: pd.DataFrame) -> Figure:
    """The control experiment.

    Left: measured distance to true retraining against the certified one, all deletions of all seeds; below the line
    the certificate holds; hollow points exceed the budget and are retrained. Right: accuracy after two steps, or after
    retraining, without noise and with that of ε.
    """
    figure, (distance, price) = figure_of(2, 4.0)
    rows = select(frame, axis="steps")
    keys = ["seed", "method", "point"]
    wide = rows[rows["split"] == ""].pivot_table(index=keys, columns="metric", values="value").reset_index()
    for number, (steps, group) in enumerate(wide.groupby("point")):
        kept, colour = group["fallback"] == 0, COLOURS[number]
        for part, face in ((group[kept], colour), (group[~kept], "none")):
            distance.scatter(
                part["certified_distance"], part["measured_distance"], s=18, edgecolors=colour, facecolors=face,
                marker=MARKERS[number], linewidths=0.8,
            )  # fmt: skip
        distance.scatter(
            [], [], s=18, color=COLOURS[number], marker=MARKERS[number],
            label=f"{steps:g} step{'' if steps == 1 else 's'}",
        )  # fmt: skip
    ends = np.array([wide["certified_distance"].min(), wide["certified_distance"].max()])
    distance.plot(ends, ends, color=COLOURS[6], linewidth=1, label="measured = certified")
    distance.set(xscale="log", yscale="log", xlabel="certified distance, residual/l2", ylabel="measured ‖w̃ − w̃*‖")
    distance.legend(fontsize=8)
    final = select(rows, metric="accuracy", point=2.0)
    methods = list(dict.fromkeys(final["method"]))
    for number, split in enumerate(dict.fromkeys(final["split"])):
        label = "without noise" if split == "test" else split.removeprefix("test, ")
        draw_dots(price, select(final, split=split), methods, label, number, 100)
    price.set(xlabel="test accuracy (%)")
    price.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


PAGES = (
    Page(
        "01_theory-control",
        "theory-control",
        "The control experiment",
        figure=theory_control,
        tables=_theory_control_tables,
        marker="measured_distance",
    ),
)
