"""Rows of a frame of metrics: which of them, by seed, and beside a baseline's of the same seed."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def select(frame: pd.DataFrame, **keys: str | float) -> pd.DataFrame:
    """Rows whose columns equal the given values."""
    for column, wanted in keys.items():
        frame = frame[frame[column] == wanted]
    return frame


def by_seed(frame: pd.DataFrame, **keys: str | float) -> "pd.Series[float]":
    """The values that ``keys`` select, with the seed as index."""
    return select(frame, **keys).set_index("seed")["value"].astype(float)


def points(frame: pd.DataFrame, **keys: str | float) -> list[float]:
    """The points of an axis at which the rows that ``keys`` select were measured, ascending."""
    return sorted(float(point) for point in select(frame, **keys)["point"].dropna().unique())


def minus(rows: pd.DataFrame, baseline: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Rows with the value less the baseline's.

    Args:
        rows: Rows of metrics.
        baseline: One row for every combination of ``keys``, such as the retrained model's.
        keys: The columns that a row and its baseline share; the seed where none are given. A row without a baseline
            has no value, NaN.
    """
    return rows.assign(value=rows["value"] - beside(rows, baseline, *keys))


def over(rows: pd.DataFrame, baseline: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Rows with the value divided by the baseline's; arguments as for :func:`minus`."""
    return rows.assign(value=rows["value"] / beside(rows, baseline, *keys))


def beside(rows: pd.DataFrame, baseline: pd.DataFrame, *keys: str) -> NDArray[np.float64]:
    """The baseline's value for every row; arguments as for :func:`minus`."""
    shared = list(keys or ("seed",))
    known = baseline.set_index(shared)["value"]
    wanted = pd.MultiIndex.from_frame(rows[shared]) if len(shared) > 1 else pd.Index(rows[shared[0]])
    return known.reindex(wanted).to_numpy(dtype=float)


def without_useless_noise(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows without the models noised for a meaningful ε, whose distances would dwarf all others."""
    return frame[~frame["method"].str.contains(" for ε = ", regex=False)]


def without_other_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows without the Newton steps at another λ, or with other statistics, than the release's: they have a table."""
    return frame[~frame["method"].str.startswith("newton, ")]
