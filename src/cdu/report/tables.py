"""What the tables of all chapters share: numbers in words, columns, and tables by method, by point or by quantity."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from cdu.experiments.metrics import Quantity, quantity
from cdu.report.query import over, select


def plus_minus(values: "pd.Series[float]", factor: float = 1.0) -> str:
    """``mean ± standard deviation`` over seeds, with the digits that the deviation warrants."""
    known = values.dropna().astype(float) * factor
    if known.empty:
        return "—"
    mean = float(known.mean())
    deviation = float(known.std()) if len(known) > 1 else 0.0
    if deviation <= 1e-5 * abs(mean):
        return rounded(mean)
    largest = max(abs(mean), deviation)
    if largest >= 1e6 or largest < 1e-2:
        exponent = math.floor(math.log10(largest))
        scaled = (mean / 10**exponent, deviation / 10**exponent)
        places = max(1, min(3, 1 - math.floor(math.log10(scaled[1]))))
        return f"({scaled[0]:.{places}f} ± {scaled[1]:.{places}f})·10{_superscript(exponent)}"
    places = max(0, min(6, 1 - math.floor(math.log10(deviation))))
    return f"{mean:,.{places}f} ± {deviation:,.{places}f}"


def rounded(value: float) -> str:
    """A number with the digits that a table needs, powers of ten where it is very large or small."""
    if value != 0 and not 1e-2 <= abs(value) < 1e6:
        exponent = math.floor(math.log10(abs(value)))
        return f"{value / 10**exponent:.2f}·10{_superscript(exponent)}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def of_seeds(values: "pd.Series[float]", seeds: int) -> str:
    """The number of seeds behind a mean where it is smaller than ``seeds``: such means must not be compared."""
    known = int(values.notna().sum())
    return f" ({known} of {seeds} seeds)" if 0 < known < seeds else ""


#: What the report forms from metrics, seed by seed.
DERIVED = {
    one.name: one
    for one in (
        Quantity("reduction", "closer than doing nothing by", "%"),
        Quantity("removed", "removed", "%"),
        Quantity("accuracy_gap", "gap to retrain", "points"),
        Quantity("time_share", "of retraining", "%"),
        Quantity("auc_difference", "AUC − retrained"),
        Quantity("largest_ratio", "largest measured / certified"),
    )
}


class Column:
    """A column of a table: a metric, and which of its rows.

    Args:
        metric: A metric of :mod:`cdu.experiments.metrics` or of :data:`DERIVED`.
        label: The head of the column without its unit; the metric's own label if None.
        unit: The unit, by which values are scaled; the metric's own if None.
        keys: What else the rows must have, such as ``split="test"``.

    Raises:
        CduError: No metric has this name.
    """

    def __init__(self, metric: str, label: str | None = None, *, unit: str | None = None, **keys: str | float) -> None:
        known = DERIVED[metric] if metric in DERIVED else quantity(metric)
        shown = Quantity(metric, known.label if label is None else label, known.unit if unit is None else unit)
        self.metric, self.header, self.factor, self.keys = metric, shown.title, shown.factor, keys

    def values(self, rows: pd.DataFrame) -> "pd.Series[float]":
        """The values among some rows, as they are recorded."""
        return select(rows, metric=self.metric, **self.keys)["value"]

    def cell(self, rows: pd.DataFrame) -> str:
        """Mean and standard deviation of the values among some rows, in the unit of the head."""
        return plus_minus(self.values(rows), self.factor)


def table(
    frame: pd.DataFrame, row: str, header: str, columns: Sequence[Column], names: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """A table whose rows are the values of one column of the frame, such as the methods.

    A cell says so where it is a mean over fewer seeds than the frame has.

    Args:
        frame: Rows of metrics.
        row: The frame's column.
        header: The head of the first column.
        columns: The other columns.
        names: The rows and what they are called; if None, all values that the columns' metrics have, in order of
            appearance.
    """
    if names is None:
        measured = frame[frame["metric"].isin([column.metric for column in columns])]
        named = {one: one if isinstance(one, str) else f"{one:g}" for one in dict.fromkeys(measured[row].dropna())}
    else:
        named = dict(names)
    seeds = frame["seed"].nunique()
    rows = []
    for value, name in named.items():
        cells, own = {header: name}, select(frame, **{row: value})
        for column in columns:
            cells[column.header] = column.cell(own) + of_seeds(column.values(own), seeds)
        rows.append(cells)
    return pd.DataFrame(rows)


def quantities(
    frame: pd.DataFrame, columns: Sequence[Column], sides: Mapping[str, Mapping[str, str]], header: str = "quantity"
) -> pd.DataFrame:
    """A table on its side: one row per quantity.

    Args:
        frame: Rows of metrics.
        columns: The quantities.
        sides: The columns: for each head what its rows have, such as ``{"ridge": {"method": "ridge"}}``.
        header: The head of the first column.
    """
    chosen = {title: select(frame, **keys) for title, keys in sides.items()}
    return pd.DataFrame(
        [{header: one.header, **{title: one.cell(rows) for title, rows in chosen.items()}} for one in columns]
    )


def judged_on(frame: pd.DataFrame) -> pd.DataFrame:
    """On how many samples accuracies were measured, by split, as rows of :func:`quantities`."""
    return pd.DataFrame(
        [
            {"quantity": f"{quantity('judged_samples').label}, {split}", "": plus_minus(rows["value"])}
            for split, rows in select(frame, metric="judged_samples").groupby("split", sort=False)
        ]
    )


def with_reduction(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the metric ``reduction``: the share of the do-nothing distance to the retrained model that is removed.

    It is formed seed by seed, since distances vary far more between seeds than a step changes them.
    """
    distance = select(frame, metric="distance_to_retrained")
    left = over(distance, select(distance, method="original"), "seed", "axis", "point")
    return pd.concat([frame, left.assign(metric="reduction", value=1 - left["value"])], ignore_index=True)


#: What the sets of samples are called.
SPLITS = {"forget": "forget set", "retain": "retained set", "test": "test set"}


def accuracy_columns(*splits: str, metric: str = "accuracy") -> list[Column]:
    """Columns of the accuracy on the given splits, in per cent."""
    return [Column(metric, SPLITS[split], split=split) for split in splits]


def along(frame: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Rows of one axis, ascending."""
    return frame[frame["axis"] == axis].sort_values("point", kind="stable")


#: What the set-ups of the theory are called.
SETUPS = {"ridge": "ridge", "softmax": "softmax", "smooth network": "smooth network", "network": "ReLU network"}


def cell_of(frame: pd.DataFrame, metric: str, **keys: str | float) -> str:
    """One cell: mean and standard deviation of a metric, in its unit."""
    return Column(metric).cell(select(frame, **keys))


def bound_against_error(frame: pd.DataFrame, axis: str, header: str, methods: Sequence[str]) -> pd.DataFrame:
    """Bound and error of several set-ups against the points of an axis."""
    columns = [
        Column(metric, f"{SETUPS[name]}: {quantity(metric).label}", method=name)
        for name in methods
        for metric in ("bound", "distance")
    ]
    return table(along(frame[frame["method"].isin(methods)], axis), "point", header, columns)


#: Models that are trained from scratch. A cost table counts nothing of their training but its time.
RETRAINED = ("retrain", "second retraining")


def cost_table(frame: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """What methods cost; retraining computes the gradients of a whole training, which nothing counts."""
    found = table(frame, "method", "method", columns)
    if len(found):
        found.loc[found["method"].isin(RETRAINED), "per-sample gradients"] = "a whole training"
    return found


#: What a method costs, and how well it solved its system.
COST = (Column("seconds"), Column("hvp_samples"), Column("gradient_samples"), Column("residual"))


def with_censored(models: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the number of seeds in which a model had not relearned when the limit of epochs was reached."""
    counts = [(select(frame, metric="epochs", method=name)["note"] != "").sum() for name in models["model"]]
    return models.assign(**{"seeds censored": [str(count) for count in counts]})


#: The models that noise is added to, and what tables call them.
WITH_NOISE = {"newton + noise": "step", "original + noise": "nothing", "retrain + noise": "retrained"}


#: What several releases certify.
PROMISED = (
    Column("epsilon", "ε of each alone", method="each alone"),
    Column("epsilon", "ε together", method="together"),
    Column("sigma_needed"),
)
