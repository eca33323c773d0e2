"""The time at which a batch ends between two points, so that nothing of what is done is lost."""

import math
import os
import time

from cdu.errors import CduError

#: The environment variable that carries the end to all processes of a batch: seconds since 1970.
VARIABLE = "CDU_ENDS_AT"


class OutOfTime(Exception):
    """The batch's time is up.

    It is no :class:`~cdu.errors.CduError`: a method's refusal is one, and is logged as the method's own result.
    """


def remaining() -> float:
    """Seconds until the batch ends; infinite without an end.

    Raises:
        CduError: The variable holds no number.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return math.inf
    try:
        return float(text) - time.time()
    except ValueError:
        raise CduError(f"{VARIABLE} = '{text}' is not a number of seconds since 1970; unset it") from None


def require(what: str) -> None:
    """Go on if there is time.

    Args:
        what: What would be computed next, in words.

    Raises:
        OutOfTime: There is none.
    """
    if remaining() <= 0:
        raise OutOfTime(f"the time is up before {what}; what is done is kept, and the same command goes on from there")
