"""What the figures of all chapters share: style, lines, dots and axes.

Points are means over seeds, bars and bands one standard deviation. The colours are those of Okabe and Ito (2008), which
colour-blind readers can tell apart; lines also differ in their markers.
"""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from cdu.report.query import select
from cdu.unlearning.names import title

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: Distances below this are the rounding of float32: the two models are the same.
ROUNDING = 1e-5
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "cdu",
    "svg.fonttype": "path",
}


def style() -> AbstractContextManager[None]:
    """The style of all figures, for making and for saving them."""
    return matplotlib.rc_context(STYLE)


def image(figure: Figure, **options: Any) -> bytes:
    """A figure as the content of a file. The layout is computed once, not in every pass of drawing.

    Args:
        figure: The figure; its layout is fixed afterwards.
        options: As for ``Figure.savefig``, such as ``format``.
    """
    engine, buffer = figure.get_layout_engine(), io.BytesIO()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    figure.savefig(buffer, **options)
    return buffer.getvalue()


def show(figure: Figure) -> None:
    """Display a figure below a notebook's cell, as PNG, so that executed notebooks stay readable anywhere."""
    from IPython.display import Image, display

    display(Image(image(figure, format="png", dpi=110), format="png"))  # type: ignore[no-untyped-call]  # IPython has no types


def figure_of(panels: int, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side."""
    with style():
        figure = Figure(figsize=(max(6.4, 4.3 * panels), height), layout="constrained")
        axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
    return figure, axes


def draw_line(axes: Axes, rows: pd.DataFrame, label: str, number: int, factor: float = 1.0) -> None:
    """Mean over seeds against the point, with a band of one standard deviation.

    A point that some seeds lack is left out: its mean could not be compared with its neighbours'.
    """
    grouped = rows.groupby("point")["value"].agg(["mean", "std", "count"])
    grouped = grouped[grouped["count"] == grouped["count"].max()].drop(columns="count").fillna(0.0) * factor
    if grouped.empty:
        return
    x, mean, deviation = (np.asarray(v, dtype=float) for v in (grouped.index, grouped["mean"], grouped["std"]))
    many = len(x) > 15
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    # Later lines are thinner and dashed: where two coincide, both can be seen.
    axes.plot(
        x, mean, color=colour, linestyle=LINES[number % len(LINES)], linewidth=max(1.2, 2.6 - 0.7 * number),
        marker=None if many else marker, markersize=max(4, 7 - 1.5 * number), label=label,
    )  # fmt: skip
    axes.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)


def draw_dots(
    axes: Axes, rows: pd.DataFrame, methods: Sequence[str], label: str, number: int, factor: float = 1.0
) -> None:
    """Mean over seeds per method with error bars, one method a row, the first on top."""
    grouped = rows.groupby("method")["value"].agg(["mean", "std"]).reindex(list(methods)) * factor
    height = np.arange(len(methods))[::-1] + 0.16 * (1 - number)
    axes.errorbar(
        grouped["mean"], height, xerr=grouped["std"].fillna(0.0), fmt=MARKERS[number], color=COLOURS[number],
        markersize=5, capsize=2, linewidth=1, label=label,
    )  # fmt: skip
    axes.set_yticks(np.arange(len(methods))[::-1], [title(name) for name in methods])
    axes.set_ylim(-0.6, len(methods) - 0.4)


def draw_methods(axes: Axes, rows: pd.DataFrame, labels: dict[str, str] | None = None) -> None:
    """One line per method in order of appearance, or for those named in ``labels``."""
    names = labels or {name: title(name) for name in dict.fromkeys(rows["method"])}
    for number, (name, label) in enumerate(names.items()):
        draw_line(axes, select(rows, method=name), label, number)


def ticks_at_points(axes: Axes) -> None:
    """A labelled tick at every point of the first line, and no others."""
    ticks = np.asarray(axes.lines[0].get_xdata(), dtype=float)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def draw_guide(axes: Axes, power: int, line: int = 0, end: int = -1) -> None:
    """A dashed line of slope ``power`` through one end of a line that is drawn already."""
    x, y = (np.asarray(values, dtype=float) for values in axes.lines[line].get_data())
    pattern = ("--", ":")[power - 1]
    axes.plot(
        x, y[end] * (x / x[end]) ** power, color=COLOURS[6], linestyle=pattern, linewidth=1, label=f"slope {power}"
    )


def panel_grid(height: float = 6.4) -> tuple[Figure, list[Axes]]:
    """A figure of panels in rows."""
    figure = Figure(figsize=(8.8, height), layout="constrained")
    with style():
        return figure, [figure.add_subplot(2, 2, number + 1) for number in range(4)]


def draw_bound_or_error(axes: Axes, rows: pd.DataFrame, label: str, number: int, bound: bool) -> None:
    """Mean over seeds: a bound as a solid line, an error as a dotted one, in the colour of its set-up."""
    means = rows.groupby("point")["value"].agg(["mean", "std"]).fillna(0.0)
    if means.empty:
        return
    axes.errorbar(
        means.index, means["mean"], yerr=means["std"], color=COLOURS[number], linestyle="-" if bound else ":",
        marker=MARKERS[number], markersize=5, markerfacecolor=COLOURS[number] if bound else "white", capsize=2,
        linewidth=1.2, label=label,
    )  # fmt: skip
