"""Sweeps: their points, and where a curve crosses a level."""

import math
from collections.abc import Sequence

import numpy as np

from cdu.errors import CduError


def log_spaced(low: float, high: float, count: int) -> list[float]:
    """Points evenly spaced on a log axis, rounded to six digits so that every processor agrees on them.

    Args:
        low: The first point, above 0.
        high: The last.
        count: How many.
    """
    return [float(f"{point:.6g}") for point in np.geomspace(low, high, count)]


def crossing(points: Sequence[float], values: Sequence[float], level: float) -> float:
    """Where values first fall to a level, between neighbours on a logarithmic axis; infinite where they never do.

    Args:
        points: Ascending and positive.
        values: One for each point.
        level: What they fall to.

    Raises:
        CduError: Points that are not ascending and positive, another number of values, or a first value that is at the
            level or below.
    """
    if len(points) != len(values) or not points or points[0] <= 0 or list(points) != sorted(set(points)):
        raise CduError(f"{len(values)} values at the points {list(points)}: points must be positive and ascending")
    if values[0] <= level:
        raise CduError(f"the first value {values[0]:g} is not above {level:g}: begin the sweep at a smaller point")
    for number in range(1, len(points)):
        if values[number] <= level:
            share = (values[number - 1] - level) / (values[number - 1] - values[number])
            return float(points[number - 1] * (points[number] / points[number - 1]) ** share)
    return math.inf
