"""Rows of a frame of metrics."""

import pandas as pd


def select(frame: pd.DataFrame, **keys: str | float) -> pd.DataFrame:
    """Rows whose columns equal the given values."""
    for column, wanted in keys.items():
        frame = frame[frame[column] == wanted]
    return frame


def without_useless_noise(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows without the models noised for a meaningful ε, whose distances would dwarf all others."""
    return frame[~frame["method"].str.contains(" for ε = ", regex=False)]


def without_other_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows without the Newton steps at another λ, or other statistics, than the release's: they have a table."""
    return frame[~frame["method"].str.startswith("newton, ")]


def of_seeds(values: "pd.Series[float]", seeds: int) -> str:
    """Says so when a mean is over fewer seeds than the others, and must not be compared with them."""
    known = int(values.notna().sum())
    return f" ({known} of {seeds} seeds)" if 0 < known < seeds else ""
