"""The chapter on what else deletes: what it promises, who guarantees it, and what it costs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cdu.report.chapters.page import Page
from cdu.report.drawing import COLOURS, MARKERS, figure_of
from cdu.report.query import select
from cdu.report.tables import Column, table
from cdu.unlearning.names import title

#: The split of what a request of a single row costs.
ONE_ROW = "one row"

_THEOREM, _EXACT, _NOBODY = "a theorem, for any data set", "exact by construction", "nobody"


@dataclass(frozen=True)
class Terms:
    """What no number says of a way to delete.

    Attributes:
        guarantee: Who guarantees it.
        before: What has to be decided before training.
    """

    guarantee: str
    before: str


#: By the beginning of a method's name; the first that fits.
TERMS = {
    "original": Terms(_NOBODY, "nothing"),
    "retraining": Terms(_EXACT, "nothing"),
    "training from scratch": Terms(_EXACT, "nothing"),
    "SISA": Terms(_EXACT, "shards and slices"),
    "head, public": Terms(_THEOREM, "the public part; l2 and budget"),
    "certified linear": Terms(_THEOREM, "features, l2 and budget"),
    "DP-SGD": Terms(_THEOREM, "ε for the model's whole life"),
    "noisy fine-tuning": Terms(_THEOREM, "clipping norms and steps of a request"),
    "newton": Terms(_THEOREM + ": the ball's diameter", "the ball's radius"),
    "Hessian-free, original": Terms(_NOBODY, "nothing"),
    "Hessian-free": Terms(_NOBODY, "a vector for every row, during training"),
}


def terms(method: str) -> Terms:
    """What no number says of a method.

    Args:
        method: Its name in the records.
    """
    return next((known for name, known in TERMS.items() if method.startswith(name)), Terms("—", "—"))


#: What is told of every way to delete.
COLUMNS = (
    Column("accuracy", "test accuracy", split="test"),
    Column("certified_epsilon", "ε, forget set"),
    Column("epsilon_single", "ε, one row"),
    Column("audit_epsilon", "ε shown by an audit"),
    Column("training_seconds", "before the first request"),
    Column("seconds", "request, forget set", split=""),
    Column("seconds", "request, one row", split=ONE_ROW),
)

_MORE = (
    Column("accuracy", "accuracy on the forget set", split="forget"),
    Column("retrained_share", "passes repeated, forget set", split=""),
    Column("retrained_share", "passes repeated, one row", split=ONE_ROW),
    Column("distance_to_retrained"),
)


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in which the paper's step with the noise for ε = 1 is called by that."""
    return rows.replace({"method": {"newton": "newton + noise for ε = 1"}})


def _with_terms(found: pd.DataFrame) -> pd.DataFrame:
    """The table of costs, with who guarantees and what has to be decided before."""
    if found.empty:
        return found
    own = [terms(method) for method in found["method"]]
    found.insert(4, "who guarantees it", [one.guarantee for one in own])
    found["to be decided before training"] = [one.before for one in own]
    return found


def _tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    rows = _named(frame[frame["method"] != ""])
    more = table(rows, "method", "method", _MORE)
    return {
        "What deletes, and what it costs": _with_terms(table(rows, "method", "method", COLUMNS)),
        "More of the same": more[(more.drop(columns="method") != "—").any(axis=1)],
    }


def _places(means: "pd.Series[float]") -> tuple["pd.Series[float]", tuple[float, float]]:
    """Where methods are drawn on the logarithmic axis of ε: exact ones at the left edge, those without ε at the right.

    Returns:
        The places, and the two edges.
    """
    finite = means[(means > 0) & np.isfinite(means)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (1.0, 1.0)
    left, right = low / 30, high * 30
    return means.where(means > 0, left).where(means.notna() & np.isfinite(means), right), (left, right)


def _name_edges(axes: Axes, edges: tuple[float, float]) -> None:
    left, right = edges
    powers = range(math.ceil(math.log10(left * 9)), math.floor(math.log10(right / 9)) + 1)
    powers = powers[:: math.ceil(len(powers) / 4)]
    inside = {10.0**power: f"$10^{{{power}}}$" if power else "1" for power in powers}
    axes.set_xscale("log")
    axes.set_xticks([left, *inside, right], ["exact", *inside.values(), "none"])
    axes.set_xlim(left / 3, right * 3)
    axes.minorticks_off()


def alternatives(frame: pd.DataFrame) -> Figure:
    """Test accuracy of what is handed out against the ε that is certified for deleting the whole forget set.

    Exact methods stand at the left edge. Those without a certificate stand at the right edge. Methods with the same ε
    stand beside each other.
    """
    figure, (panel,) = figure_of(1, 4.6)
    figure.set_figwidth(8.6)
    rows = _named(frame)
    accuracy = select(rows, metric="accuracy", split="test").dropna(subset=["value"])
    methods = [str(one) for one in dict.fromkeys(accuracy["method"])]
    epsilon = select(rows, metric="certified_epsilon").groupby("method")["value"].mean().reindex(methods)
    places, edges = _places(epsilon.astype(float))
    _draw(panel, accuracy, methods, places)
    _name_edges(panel, edges)
    panel.set(xlabel="ε certified", ylabel="test accuracy (%)")
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _draw(axes: Axes, accuracy: pd.DataFrame, methods: Sequence[str], places: "pd.Series[float]") -> None:
    taken: dict[float, int] = {}
    for number, method in enumerate(methods):
        values = 100 * select(accuracy, method=method)["value"].astype(float)
        place = float(places[method])
        # Methods at one place, such as the edges, stand beside each other.
        beside = taken.setdefault(place, 0)
        taken[place] += 1
        axes.errorbar(
            place * 1.25**beside, values.mean(), yerr=values.std() if len(values) > 1 else 0.0,
            fmt=MARKERS[number % len(MARKERS)], color=COLOURS[(number + number // len(MARKERS)) % len(COLOURS)],
            markersize=6, capsize=2, linewidth=1, label=title(method),
        )  # fmt: skip


PAGES = (
    Page(
        "13_alternatives",
        "alternatives",
        "What else deletes, and what it costs",
        figure=alternatives,
        tables=_tables,
        marker="epsilon_single",
    ),
)
