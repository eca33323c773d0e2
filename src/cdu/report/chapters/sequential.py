"""The chapter on requests and early stopping."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cdu.report.chapters.page import Page
from cdu.report.drawing import COLOURS, draw_line, draw_methods, style, ticks_at_points
from cdu.report.query import select
from cdu.report.tables import DERIVED, PROMISED, SPLITS, Column, along, table, with_reduction


def _sequential_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    noise = [str(name) for name in dict.fromkeys(frame["method"]) if str(name).startswith("newton + noise for ε")]
    models = {
        "newton": "no noise",
        "newton + noise": "noise used",
        "original + noise": "doing nothing, noise used",
        "newton, from the release + noise": "noise used, from the release",
        "newton, forget gradient, from the release + noise": "the same, form with D_u",
        **{name: name.removeprefix("newton + ") + " in total" for name in noise},
        "retrain": "retrained",
    }
    splits = {"test": SPLITS["test"], "retain": SPLITS["retain"], "forget": "all that is gone so far"}
    result = {}
    for axis, words in (("request", "short sequence"), ("long request", "long sequence")):
        rows = along(frame, axis)
        for split, title in splits.items():
            if axis == "request" or split == "test":
                columns = [
                    Column("accuracy", text, method=name, split=split)
                    for name, text in models.items()
                    if name in set(rows["method"])
                ]
                result[f"Accuracy after each request, {title}, {words}"] = table(rows, "point", "request", columns)
        distances = [
            Column("distance_to_retrained", text, method=name)
            for name, text in SEQUENTIAL.items()
            if name in set(rows["method"])
        ]
        closer = [
            Column("reduction", f"{SEQUENTIAL[name]}: {DERIVED['reduction'].label}", method=name)
            for name in ("newton", "newton, from the release + noise")
        ]
        known = with_reduction(select(rows, metric="distance_to_retrained"))
        result[f"Distance to the model retrained after that request, {words}"] = table(
            known, "point", "request", [*distances, *closer]
        )
    result["What k releases certify at the σ used in practice"] = table(
        along(frame, "releases"), "point", "k", PROMISED
    )
    costs = select(frame, metric="seconds")
    columns = [Column("seconds", str(name), split=str(name)) for name in dict.fromkeys(costs["split"])]
    result["Time of all requests together (retraining: of those carried out, scaled to all)"] = table(
        costs, "method", "method", columns
    )
    early = [
        *map(Column, ("gradient_retrained", "lambda_min", "bound")),
        Column("distance_to_retrained", "error", method="newton"),
        Column("distance_to_retrained", "error, form with D_u", method="newton, forget gradient"),
        Column("distance_to_retrained", "doing nothing", method="original"),
        Column("accuracy", "test set, after the step", method="newton", split="test"),
        Column("accuracy", "doing nothing", method="original", split="test"),
        Column("accuracy", "retrained", method="retrain", split="test"),
    ]
    result["Training stopped early"] = table(along(frame, "epochs"), "point", "epochs", early)
    return result


#: Models that are compared after every request, and what figures call them.
SEQUENTIAL = {
    "newton": "after the step",
    "original": "doing nothing",
    "newton, forget gradient": "the form with D_u",
    "newton, from the release + noise": "the step, from the release",
}


def sequential(frame: pd.DataFrame) -> Figure:
    """Several requests, and training stopped early.

    Top: test accuracy after every request, without noise, with that used in practice and with that of the wanted ε in
    total; ε of k releases, each alone and together. Middle: distance to the model retrained after that request, before
    noise; accuracy on all that is gone so far. Bottom: bound and error of training that was stopped early, over 2C, and
    the test accuracy then.
    """
    figure = Figure(figsize=(8.8, 9.6), layout="constrained")
    with style():
        grid = [figure.add_subplot(3, 2, number + 1) for number in range(6)]
    tested, releases, distances, forgotten, bounds, early = grid
    requests = select(frame, axis="request")
    _after_requests(tested, select(requests, metric="accuracy", split="test"), "test accuracy (%)")
    _after_requests(forgotten, select(requests, metric="accuracy", split="forget"), "accuracy on what is gone (%)")
    draw_methods(releases, select(frame, metric="epsilon", axis="releases"))
    releases.axhline(10, color=COLOURS[6], linestyle="--", linewidth=1, label="ε = 10: says next to nothing")
    releases.set(xscale="log", yscale="log", xlabel="releases k", ylabel="ε certified")
    for number, (name, label) in enumerate(SEQUENTIAL.items()):
        draw_line(distances, select(requests, metric="distance_to_retrained", method=name), label, number)
    distances.set(xlabel="request", ylabel="distance to the retrained model")
    draw_stopped_early(bounds, frame)
    stopped = select(frame, axis="epochs")
    for number, (name, label) in enumerate({"newton": "after the step", "retrain": "retrained"}.items()):
        draw_line(early, select(stopped, metric="accuracy", split="test", method=name), label, number, 100)
    early.set(xscale="log", xlabel="epochs of training", ylabel="test accuracy (%)")
    for panel in (bounds, early):
        ticks_at_points(panel)
    for panel in (tested, forgotten, distances):
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in grid:
        panel.legend(fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure


def draw_stopped_early(axes: Axes, frame: pd.DataFrame) -> None:
    """Bound, error of the step and distance without a step, over 2C, against the epochs of training."""
    trivial = float(select(frame, metric="trivial_bound")["value"].mean())
    stopped = select(frame, axis="epochs")
    curves = {"bound": ("bound", "newton"), "error": ("distance_to_retrained", "newton"),
              "doing nothing": ("distance_to_retrained", "original")}  # fmt: skip
    for number, (label, (metric, method)) in enumerate(curves.items()):
        draw_line(axes, select(stopped, metric=metric, method=method), label, number, 1 / trivial)
    axes.axhline(1.0, color=COLOURS[6], linestyle="--", linewidth=1, label="2C")
    axes.set(xscale="log", yscale="log", xlabel="epochs of training", ylabel="distance / 2C")


def _after_requests(axes: Axes, rows: pd.DataFrame, label: str) -> None:
    """Accuracy after every request: with noise and without, and of the retrained models."""
    names = [name for name in dict.fromkeys(rows["method"]) if name.startswith("newton + noise for ε")]
    curves = {
        "newton": "no noise",
        "newton + noise": "noise used in practice",
        "retrain": "retrained",
        **{name: name.partition(" + ")[2] for name in names},
        "newton, from the release + noise": "noise used, from the release",
    }
    for number, (name, title) in enumerate(curves.items()):
        draw_line(axes, select(rows, method=name), title, number, 100)
    axes.set(xlabel="request", ylabel=label, ylim=(0, 105))


PAGES = (
    Page("07_sequential", "sequential", "Requests and early stopping", figure=sequential, tables=_sequential_tables),
)
