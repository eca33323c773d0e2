"""Checks of arguments: one sentence each, with the value that was met. They only ever raise."""

import math
from numbers import Integral, Real

from cdu.errors import CduError

#: The shortest distance that is computed with; one over it is the longest.
SHORTEST = 1e-150


def expect(condition: bool, sentence: str) -> None:
    """Raise :class:`~cdu.errors.CduError` with ``sentence`` unless ``condition`` holds."""
    if not condition:
        raise CduError(sentence)


def expect_positive(**values: float) -> None:
    """Refuse every named value that is not a positive finite number."""
    for name, value in values.items():
        expect(_is_number(value) and 0 < value < math.inf, f"{name} = {value!r} is not a positive finite number")


def expect_length(**values: float) -> None:
    """Refuse every named distance, or standard deviation, whose square double precision cannot hold."""
    expect_positive(**values)
    for name, value in values.items():
        expect(
            SHORTEST <= value <= 1 / SHORTEST,
            f"{name} = {value} is outside {SHORTEST:g} to {1 / SHORTEST:g}, beyond which its square is no double "
            "precision number; measure weights in another unit",
        )


def expect_not_negative(**values: float) -> None:
    """Refuse every named value that is not a finite number of at least 0."""
    for name, value in values.items():
        expect(_is_number(value) and 0 <= value < math.inf, f"{name} = {value!r} is not a finite number of at least 0")


def expect_count(**values: int) -> None:
    """Refuse every named value that is not a whole number of at least 1."""
    for name, value in values.items():
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        expect(whole and value >= 1, f"{name} = {value!r} is not a whole number of at least 1")


def expect_delta(delta: float) -> None:
    """Refuse a δ that is no probability between 0 and 1."""
    expect(
        _is_number(delta) and 0 < delta < 1,
        f"delta = {delta!r} is not between 0 and 1; choose far less than one over the number of samples",
    )
    expect(delta >= 1e-300, f"delta = {delta} is below what double precision resolves; choose at least 1e-300")


def _is_number(value: object) -> bool:
    """Whether a value is a real number; True and False are answers, and text is text."""
    return isinstance(value, Real) and not isinstance(value, bool)
