"""The chapter on certified linear models on fixed features."""

import re
from collections.abc import Callable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cdu.report.chapters.page import Page
from cdu.report.drawing import COLOURS, draw_line, figure_of
from cdu.report.query import points, select
from cdu.report.tables import Column, quantities, table

#: What a deletion is called in the records: l2, budget, forget set.
_DELETION = re.compile(r"(l2 = [^,]+), (Δ = [^,]+), (.+)")

#: ε of the headline numbers.
ONE = 1.0


def deletions(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of deletions, with the columns ``l2``, ``budget`` and ``kind``, the forget set."""
    parts = frame["method"].str.extract(_DELETION).set_axis(["l2", "budget", "kind"], axis=1)
    return pd.concat([frame, parts], axis=1).dropna(subset=["kind"])


def usual(frame: pd.DataFrame) -> pd.DataFrame:
    """The deletions of the forget set that l2, budget and ε are varied with; others have no composed releases."""
    found = deletions(frame)
    return found[found["kind"].isin(select(found, axis="requests")["kind"])]


def first(found: pd.DataFrame) -> tuple[str, str]:
    """l2 and budget that are used; the others are for comparison."""
    return str(found["l2"].iloc[0]), str(found["budget"].iloc[0])


def _settings(found: pd.DataFrame) -> pd.DataFrame:
    return found.assign(setting=found["l2"] + ", " + found["budget"])


def _accuracies(found: pd.DataFrame, axis: str, label: Callable[[float], str]) -> list[Column]:
    """Columns of the accuracy without noise, and at every point of an axis."""
    own = [Column("accuracy", label(point), split="test", axis=axis, point=point) for point in points(found, axis=axis)]
    return [Column("accuracy", "without noise", split="test", axis=""), *own]


#: Columns of certified against measured distance.
_DISTANCES = (
    Column("remaining_bound", "certified distance", axis=""),
    Column("remaining_distance", "measured distance", axis=""),
    Column("remaining_ratio", axis=""),
)

_FORGET_SETS = (
    Column("newton_steps", axis=""),
    Column("fallback", "answered by training", axis=""),
    Column("seconds", axis=""),
    *_DISTANCES,
    Column("accuracy", "without noise", split="test", axis=""),
    Column("accuracy", "retrained", split="test, retrained", axis=""),
    Column("accuracy", "ε = 1", split="test", axis="epsilon", point=ONE),
    Column("accuracy", "forget set", split="forget", axis=""),
)

_CHAINS = (
    Column("seconds", "time of a request"),
    Column("newton_steps"),
    Column("fallback", "answered by training"),
    *_DISTANCES,
    Column("sigma"),
    Column("accuracy", "released, ε = 1 together", split="test"),
    Column("accuracy", "retrained", split="test, retrained"),
)

_TRAINING = (
    Column("seconds"),
    Column("norm"),
    Column("accuracy", "test set", split="test"),
)

_AUDITS = (
    Column("certified_epsilon"),
    Column("audit_epsilon"),
    Column("audit_gaussian"),
    Column("trials"),
    Column("contradicted"),
)

_SIZES = (Column("train_samples"), Column("features"), Column("parameters"), Column("delta"))


def _tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    found, varied = deletions(frame), _settings(usual(frame))
    l2, budget = first(found)
    methods = frame["method"]
    trained = frame[methods.str.startswith(("training, ", "training anew, ", "features of"))]
    audits = frame[methods.str.startswith("audit: ")]
    audits = audits.assign(audit=audits["method"].str.removeprefix("audit: "))
    return {
        f"Forget sets, {l2}, {budget}": table(select(found, l2=l2, budget=budget), "kind", "forget set", _FORGET_SETS),
        f"Test accuracy against ε, {varied['kind'].iloc[0]}": table(
            varied, "setting", "l2, budget", _accuracies(varied, "epsilon", "ε = {:g}".format)
        ),
        "Test accuracy where k requests are (1, δ)-certified together": table(
            varied, "setting", "l2, budget", _accuracies(varied, "requests", "k = {:,.0f}".format)
        ),
        "Requests that were answered one after another; distances after the last": table(
            frame[methods.str.contains(" requests of ")], "method", "requests", _CHAINS
        ),
        "What is computed before any request, and training anew": table(trained, "method", "what", _TRAINING),
        "Audits, and audits of planted errors": table(audits, "audit", "what is released", _AUDITS),
        "Sizes": quantities(select(frame, method=""), _SIZES, {"": {}}),
    }


def _lines(axes: Axes, found: pd.DataFrame, axis: str) -> None:
    """A line for every budget at the first l2, and for every other l2 at the first budget; the limit without noise."""
    rows = select(found, metric="accuracy", axis=axis)
    for number, setting in enumerate(dict.fromkeys(rows["setting"])):
        draw_line(axes, select(rows, setting=setting), setting, number, 100)
    plain = select(found, metric="accuracy", axis="", split="test", setting=found["setting"].iloc[0])["value"]
    axes.axhline(
        100 * plain.mean(), color=COLOURS[6], linestyle=":", linewidth=1, label="first of these, without noise"
    )
    axes.set(xscale="log", ylabel="test accuracy (%)")


def certified_linear(frame: pd.DataFrame) -> Figure:
    """Test accuracy of the certified release after a random forget set was deleted.

    Left: against ε of one request. Right: against the number of requests that have ε = 1 together, all of them with the
    noise that so many need.
    """
    found = _settings(usual(frame))
    figure, (single, many) = figure_of(2, 3.8)
    _lines(single, found, "epsilon")
    _lines(many, found, "requests")
    single.set_xlabel("ε of one request")
    many.set_xlabel("requests under one ε = 1")
    single.legend(fontsize=8)
    return figure


PAGES = (
    Page(
        "12_certified_linear",
        "certified-linear",
        "A certificate worth having",
        figure=certified_linear,
        tables=_tables,
    ),
)
