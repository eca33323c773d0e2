"""The chapter on relearn time."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cdu.report.chapters.page import Page
from cdu.report.drawing import draw_dots, draw_line, style
from cdu.report.query import select
from cdu.report.tables import Column, table, with_censored


def _relearn_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    result = table(frame, "method", "model", [Column("epochs", "epochs, mean ± sd", unit=""), Column("seconds")])
    means = [select(frame, metric="epochs", method=name)["value"].mean() for name in result["model"]]
    result["epochs, rounded mean"] = [f"{mean:.0f}" for mean in means]
    return {"Relearn time": with_censored(result, frame)}


#: Families of methods. A release "name, ε = …" is certified, whatever its method; the last family has the rest.
FAMILIES: dict[str, tuple[str, ...]] = {
    "yardsticks": ("original", "retrain", "second retraining"),
    "the paper's methods, without a certificate": (
        "newton", "newton, lissa", "fine-tuning", "negative gradient", "Fisher forgetting", "L-CODEC", "Newton step",
    ),
    "certified, and the same without noise": (
        "output perturbation", "noisy fine-tuning", "rewind", "rewind, linear", "Langevin, linear",
        "certified removal, linear",
    ),
    "heuristics": (),
}  # fmt: skip


def family(label: str) -> str:
    """The family of a method or of one of its releases."""
    yardsticks, paper, certified, rest = FAMILIES
    name = label.split(", ε = ")[0].removesuffix(" + noise")
    if label != name and ", ε = " in label:
        return certified
    return next((title for title in (yardsticks, paper, certified) if name in FAMILIES[title]), rest)


#: Losses above so many times the target are not drawn: those of networks that are mostly noise would hide all others.
LARGEST_LOSS = 1e4


def relearn(frame: pd.DataFrame) -> Figure:
    """Left: epochs until the loss on the forget set is the original's. Right: that loss over the target, by family.

    A curve ends with its quickest seed; the target is dashed; losses of more than 10⁴ times the target are not drawn.
    """
    epochs = select(frame, metric="epochs").dropna(subset=["value"])
    methods = list(dict.fromkeys(epochs["method"]))
    families = [title for title in FAMILIES if any(family(name) == title for name in methods)]
    with style():
        figure = Figure(figsize=(9.6, max(8.0, 1.0 + 0.3 * len(methods))), layout="constrained")
        grid = figure.add_gridspec(len(families), 2)
        dots = figure.add_subplot(grid[:, 0])
        panels = [figure.add_subplot(grid[row, 1]) for row in range(len(families))]
    draw_dots(dots, epochs, methods, "", 0)
    dots.set(xlabel="epochs on the forget set alone")
    losses = select(frame, metric="relearn_loss")
    losses = losses[losses["value"] < LARGEST_LOSS]
    for panel, title in zip(panels, families, strict=True):
        for number, name in enumerate(name for name in methods if family(name) == title):
            draw_line(panel, select(losses, method=name), name, number)
        panel.axhline(1.0, color="grey", linestyle="--", linewidth=1)
        panel.set(ylabel="loss / target", yscale="log", title=title)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    panels[-1].set(xlabel="epochs on the forget set alone")
    return figure


PAGES = (Page("05_relearn", "relearn", "Relearn time", figure=relearn, tables=_relearn_tables),)
