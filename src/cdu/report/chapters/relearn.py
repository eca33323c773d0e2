"""The chapter on relearn time."""

from collections.abc import Iterable

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cdu.report.chapters.page import Page
from cdu.report.drawing import draw_dots, draw_line, style
from cdu.report.query import select
from cdu.report.tables import Column, table, with_censored
from cdu.unlearning.names import PAPERS, YARDSTICKS, title


def _relearn_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    result = table(frame, "method", "model", [Column("epochs", "epochs, mean ± sd", unit=""), Column("seconds")])
    means = [select(frame, metric="epochs", method=name)["value"].mean() for name in result["model"]]
    result["epochs, rounded mean"] = [f"{mean:.0f}" for mean in means]
    return {"Relearn time": with_censored(result, frame)}


#: Families of methods, each a panel, in this order.
FAMILIES = (
    "yardsticks", "the paper's methods, without a certificate", "certified, and the same without noise", "heuristics",
)  # fmt: skip


def family(label: str, labels: Iterable[str]) -> str:
    """The family of a method or of one of its releases.

    A certified method is known by the release ``name, ε = …`` that its records hold. The paper's own methods are a
    family of their own without that noise, its step among them.

    Args:
        label: The method or release.
        labels: All of the records.
    """
    yardsticks, papers, certified, heuristics = FAMILIES
    name, noise, _ = label.partition(NOISE_OF_EPSILON)
    name = name.removesuffix(" + noise")
    if noise:
        return certified
    if name in YARDSTICKS:
        return yardsticks
    if name in PAPERS:
        return papers
    return certified if any(one.startswith(name + NOISE_OF_EPSILON) for one in labels) else heuristics


#: What marks a release with the noise that certifies an ε.
NOISE_OF_EPSILON = ", ε = "

#: Losses above so many times the target are not drawn: those of networks that are mostly noise would hide all others.
LARGEST_LOSS = 1e4


def relearn(frame: pd.DataFrame) -> Figure:
    """Left: epochs until the loss on the forget set is the original's. Right: that loss over the target, by family.

    A curve ends with its quickest seed; the target is dashed; losses of more than 10⁴ times the target are not drawn.
    """
    epochs = select(frame, metric="epochs").dropna(subset=["value"])
    methods = list(dict.fromkeys(epochs["method"]))
    family_of = {name: family(name, set(frame["method"])) for name in methods}
    families = [one for one in FAMILIES if one in family_of.values()]
    with style():
        figure = Figure(figsize=(9.6, max(8.0, 1.0 + 0.3 * len(methods))), layout="constrained")
        grid = figure.add_gridspec(len(families), 2)
        dots = figure.add_subplot(grid[:, 0])
        panels = [figure.add_subplot(grid[row, 1]) for row in range(len(families))]
    draw_dots(dots, epochs, methods, "", 0)
    dots.set(xlabel="epochs on the forget set alone")
    losses = select(frame, metric="relearn_loss")
    losses = losses[losses["value"] < LARGEST_LOSS]
    for panel, shown in zip(panels, families, strict=True):
        for number, name in enumerate(name for name in methods if family_of[name] == shown):
            draw_line(panel, select(losses, method=name), title(name), number)
        panel.axhline(1.0, color="grey", linestyle="--", linewidth=1)
        panel.set(ylabel="loss / target", yscale="log", title=shown)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    panels[-1].set(xlabel="epochs on the forget set alone")
    return figure


PAGES = (Page("05_relearn", "relearn", "Relearn time", figure=relearn, tables=_relearn_tables),)
