"""The numbers of the chapter "What should I do?": a table for every leaf of its tree, from records."""

from collections.abc import Callable, Sequence

import pandas as pd

from cdu.report.chapters import alternatives, certified_linear
from cdu.report.collection import Results
from cdu.report.markup import markdown_table
from cdu.report.query import points, select
from cdu.report.tables import Column, table
from cdu.unlearning.names import title

#: Said where no set-up has records for a leaf.
ABSENT = "*No records of this are here yet; `make report` makes those of digits.*"

_ALTERNATIVES, _LINEAR, _UNLEARNING = "13_alternatives", "12_certified_linear", "03_unlearning"

#: What is told of the paper's releases. Retraining has no noise, so that it has no σ.
_RELEASES = (
    Column("accuracy", "test accuracy", split="test"),
    Column("accuracy", "accuracy on the forget set", split="forget"),
    Column("epsilon"),
    Column("sigma"),
    Column("seconds"),
)


def advice(setups: Sequence[Results]) -> dict[str, str]:
    """The table of every leaf, by the leaf's name, with all set-ups that have records for it.

    Args:
        setups: All set-ups.
    """
    return {leaf: _together(setups, tell) for leaf, tell in LEAVES.items()}


def _together(setups: Sequence[Results], tell: Callable[[Results], pd.DataFrame]) -> str:
    found = []
    for setup in setups:
        rows = tell(setup)
        if len(rows):
            rows.insert(0, "data", setup.title)
            found.append(rows)
    return markdown_table(pd.concat(found).fillna("—")) if found else ABSENT


def _of_methods(*names: str) -> Callable[[Results], pd.DataFrame]:
    """What methods whose names begin so cost and promise, from the chapter on alternatives."""

    def tell(setup: Results) -> pd.DataFrame:
        if _ALTERNATIVES not in setup.sections:
            return pd.DataFrame()
        frame = setup.sections[_ALTERNATIVES].frame
        rows = frame[frame["method"].str.startswith(names)]
        # Else of_seeds would not know how many seeds there are.
        named = {str(method): title(str(method)) for method in dict.fromkeys(rows["method"])}
        return table(frame, "method", "what", alternatives.COLUMNS, named)

    return tell


def _linear(setup: Results) -> pd.DataFrame:
    """What the certified linear model keeps at ε = 1, for every budget at the l2 that is used."""
    if _LINEAR not in setup.sections:
        return pd.DataFrame()
    found = certified_linear.usual(setup.sections[_LINEAR].frame)
    l2, _ = certified_linear.first(found)
    most = points(found, axis="requests")[-1]
    columns = [
        Column("accuracy", "without noise", split="test", axis=""),
        Column("accuracy", "ε = 1, one request", split="test", axis="epsilon", point=certified_linear.ONE),
        Column("accuracy", f"ε = 1, {most:,.0f} requests together", split="test", axis="requests", point=most),
        Column("seconds", "time of a request", axis=""),
    ]
    kind = found["kind"].iloc[0]
    return table(select(found, l2=l2), "budget", "budget", columns).assign(request=f"{kind}, {l2}")


def _paper(setup: Results) -> pd.DataFrame:
    """The paper's step with and without noise, beside retraining."""
    frame = select(setup.metrics, section=_UNLEARNING, axis="")
    noised = [one for one in dict.fromkeys(frame["method"]) if str(one).startswith("newton + noise")]
    known = [one for one in ("retrain", "newton", *map(str, noised)) if one in set(frame["method"])]
    # Where the step is undefined there is nothing to compare.
    rows = select(frame, metric="accuracy", method="newton", split="test")["value"].dropna()
    return (
        table(frame, "method", "what", _RELEASES, {one: title(one) for one in known}) if len(rows) else rows.to_frame()
    )


#: The leaves of the tree, in the order of its questions.
LEAVES: dict[str, Callable[[Results], pd.DataFrame]] = {
    "exact": _of_methods("retraining", "SISA"),
    "public": _of_methods("head, public"),
    "linear": _linear,
    "private": _of_methods("DP-SGD"),
    "neither": _paper,
}
