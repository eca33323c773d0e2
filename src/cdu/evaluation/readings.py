"""Numbers as checks yield them, with the keys that tell them apart; and the reason for a number that is missing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from cdu.errors import CduError, DamagedFileError

Result = TypeVar("Result")


class Reading(NamedTuple):
    """Numbers that share their keys.

    Attributes:
        numbers: By metric; None where there is no number.
        keys: Any of ``method``, ``split``, ``axis``, ``point`` and ``note``.
    """

    numbers: Mapping[str, float | None]
    keys: Mapping[str, Any]


@dataclass(frozen=True)
class Refusal:
    """Why something was not computed.

    Attributes:
        reason: The error's sentence.
    """

    reason: str

    def reading(self, metric: str, **keys: Any) -> Reading:
        """The missing number of a metric, with the reason."""
        return Reading({metric: None}, {**keys, "note": self.reason})


def outcome(compute: Callable[[], Result]) -> Result | Refusal:
    """What ``compute`` gives, or why it refuses.

    Raises:
        DamagedFileError: A file was read that is damaged: that is no property of what was to be computed.
    """
    try:
        return compute()
    except DamagedFileError:
        raise
    except CduError as error:
        return Refusal(str(error))


def reading(metric: str, compute: Callable[[], float], **keys: Any) -> Reading:
    """One number, or the reason why there is none.

    Args:
        metric: Its name.
        compute: Gives it.
        keys: What tells it apart.
    """
    found = outcome(compute)
    return found.reading(metric, **keys) if isinstance(found, Refusal) else Reading({metric: found}, keys)
