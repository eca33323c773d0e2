"""Ids of rows as text: the number 7 is the text "7", as in the ledger."""

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdu.checks import expect

#: The types by which pandas marks a missing value; the room does without pandas.
_MISSING = ("NAType", "NaTType")


def as_text(ids: Any) -> NDArray[np.str_]:
    """Ids as text, one for every row.

    Args:
        ids: A list, an array, a tensor or a pandas object of texts and whole numbers.

    Raises:
        CduError: They are in no order, one is missing (None, NaN or empty), or one is neither text nor a whole number.
    """
    expect(
        hasattr(ids, "__iter__") and not isinstance(ids, str | bytes | Mapping | Set),
        f"ids are a {type(ids).__name__}; give a list or an array with one id a row",
    )
    if isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind in "iu":
        # No wider than it must be: NumPy's own choice holds 21 characters a row.
        longest = max(len(str(ids.min())), len(str(ids.max()))) if len(ids) else 1
        return ids.astype(f"<U{longest}")
    values = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    for row, value in enumerate(values):
        expect(
            not _is_missing(value),
            f"the id of row {row} is missing ({value!r}); give every row the id of whoever it belongs to",
        )
        expect(
            isinstance(value, str | int | np.integer) and not isinstance(value, bool),
            f"the id of row {row} is {value!r}, a {type(value).__name__}; ids are texts or whole numbers: convert "
            "them, e.g. ids.astype(int) or ids.astype(str)",
        )
    texts = [str(value) for value in values]
    for row, text in enumerate(texts):
        expect(
            is_storable(text),
            f"the id of row {row} is {text!r}, with a character that no file holds (NUL or half of a pair); write it "
            "without",
        )
    return np.array(texts, dtype=np.str_)


def is_storable(text: str) -> bool:
    """Whether a text stays itself in an array of NumPy, which drops NUL at its end, and in UTF-8."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in _MISSING:
        return True
    if isinstance(value, str):
        return not value.strip()
    return isinstance(value, float | np.floating) and bool(np.isnan(value))
