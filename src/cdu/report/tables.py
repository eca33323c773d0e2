"""What the tables of all chapters share: numbers in words, columns, and rows by method or point."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from cdu.report.query import of_seeds, select


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


@dataclass(frozen=True)
class Column:
    """A column of a table: which metric, and the factor to the unit in the header."""

    header: str
    metric: str
    keys: dict[str, str] = field(default_factory=dict)
    factor: float = 1.0


def table(frame: pd.DataFrame, row: str, header: str, columns: Sequence[Column]) -> pd.DataFrame:
    """One row per value of the column ``row``, in order of appearance; cells are :func:`plus_minus`."""
    wanted = frame[frame["metric"].isin([column.metric for column in columns])]
    names = list(dict.fromkeys(wanted[row].dropna()))
    seeds = frame["seed"].nunique()
    rows = []
    for name in names:
        cells: dict[str, str] = {header: name if isinstance(name, str) else f"{name:g}"}
        for column in columns:
            chosen = select(frame, metric=column.metric, **{row: name}, **column.keys)
            cells[column.header] = plus_minus(chosen["value"], column.factor) + of_seeds(chosen["value"], seeds)
        rows.append(cells)
    return pd.DataFrame(rows)


def with_reduction(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the metric ``reduction``: the share of the do-nothing distance to the retrained model that is removed.

    It is formed seed by seed, since distances vary far more between seeds than a step changes them.
    """
    keys = ["seed", "axis", "point"]
    distance = select(frame, metric="distance_to_retrained")
    nothing = select(distance, method="original").set_index(keys)["value"]
    base = nothing.reindex(pd.MultiIndex.from_frame(distance[keys])).to_numpy()
    return pd.concat(
        [frame, distance.assign(metric="reduction", value=1 - distance["value"] / base)], ignore_index=True
    )


def accuracy_columns(*splits: str) -> list[Column]:
    """Columns of the accuracy on the given splits, in per cent."""
    titles = {"forget": "forget set (%)", "retain": "retained set (%)", "test": "test set (%)"}
    return [Column(titles[split], "accuracy", {"split": split}, 100) for split in splits]


def along(frame: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Rows of one axis, ascending."""
    return frame[frame["axis"] == axis].sort_values("point", kind="stable")


#: The set-ups of the theory section, as they are called in tables.
SETUPS = {"ridge": "ridge", "softmax": "softmax", "smooth network": "smooth network", "network": "ReLU network"}


def cell_of(frame: pd.DataFrame, metric: str, **keys: str | float) -> str:
    """One cell: mean and standard deviation of a metric."""
    return plus_minus(select(frame, metric=metric, **keys)["value"])


def bound_against_error(frame: pd.DataFrame, axis: str, header: str, methods: Sequence[str]) -> pd.DataFrame:
    """Bound and error of several set-ups against the points of an axis."""
    columns = [
        Column(f"{SETUPS[name]}: {word}", metric, {"method": name})
        for name in methods
        for word, metric in (("bound", "bound"), ("error", "distance"))
    ]
    return table(along(frame[frame["method"].isin(methods)], axis), "point", header, columns)


#: Models that training makes from scratch: what that computes is in none of the columns of a cost table.
RETRAINED = ("retrain", "second retraining")


def cost_columns(frame: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """The table of what methods cost, in which retraining is not free."""
    found = table(frame, "method", "method", columns)
    if len(found):
        found.loc[found["method"].isin(RETRAINED), "per-sample gradients"] = "a whole training"
    return found


#: What a method costs, and how well it solved its system.
COST = (
    Column("time (s)", "seconds"),
    Column("per-sample Hessian products", "hvp_samples"),
    Column("per-sample gradients", "gradient_samples"),
    Column("relative residual", "residual"),
)


def with_censored(models: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Adds in how many seeds a model had not relearned when the limit was reached."""
    counts = [(select(frame, metric="epochs", method=name)["note"] != "").sum() for name in models["model"]]
    return models.assign(**{"seeds censored": [str(count) for count in counts]})


#: The models that noise is added to, and what they are called in tables.
WITH_NOISE = {"newton + noise": "step", "original + noise": "nothing", "retrain + noise": "retrained"}


#: What several releases certify.
PROMISED = (
    Column("ε of each alone", "epsilon", {"method": "each alone"}),
    Column("ε together", "epsilon", {"method": "together"}),
    Column("σ that the wanted ε needs in total", "sigma_needed"),
)
